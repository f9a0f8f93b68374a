//! What a VM is told of its GPUs: them, its own memory, work and processes on them, and nothing of anybody else's.
use crate::daemon::Daemon;
use crate::sessions::of_vm;
use std::collections::{BTreeMap, BTreeSet};
use vgpu_sched_api::messages::{Answer, Refusal, Sharing, VmGpu, VmGpus, VmProcess};
use vgpu_sched_core::Event;

/// How busy a VM is: what it had used when last looked at, and how much of the time before that look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    at_us: u64,
    /// GPU time so far, of all its GPUs.
    ns: u64,
    percent: u32,
}

impl Busy {
    /// A first look, before which it had no session.
    fn new(at_us: u64, ns: u64) -> Self {
        Self {
            at_us,
            ns,
            percent: 0,
        }
    }

    /// A later one, at a VM that has so many GPUs.
    fn look(&mut self, at_us: u64, ns: u64, gpus: usize) {
        let (passed_us, used_ns) = (at_us.saturating_sub(self.at_us), ns.saturating_sub(self.ns));
        if passed_us == 0 {
            return;
        }
        let all_ns = u128::from(passed_us) * 1000 * gpus.max(1) as u128;
        let percent = (u128::from(used_ns) * 100 / all_ns).min(100) as u32;
        *self = Self { at_us, ns, percent };
    }
}

/// The places of some among all.
fn places(some: &[String], all: &[String]) -> Vec<u32> {
    let places = (0u32..).zip(all).filter(|(_, uuid)| some.contains(uuid));
    places.map(|(place, _)| place).collect()
}

impl Daemon {
    /// The answer to a backend.
    pub(crate) fn vm_gpus(&mut self, client: u64) -> Result<Answer, (Refusal, String)> {
        let Some(vm) = self.clients.get(&client).and_then(|client| client.vm) else {
            return Err((Refusal::Invalid, "a backend says hello first".to_owned()));
        };
        let uuids = self.must_not_be_quarantined(vm).and_then(|()| self.next_gpus(vm));
        match uuids {
            Ok(uuids) => Ok(Answer::VmGpus {
                gpus: Box::new(self.describe_gpus(vm, &uuids)),
            }),
            // Not logged: a guest may ask all the time.
            Err((why, message)) => Ok(Answer::Refused { why, message }),
        }
    }

    fn describe_gpus(&self, vm: u32, uuids: &[String]) -> VmGpus {
        let quota = self.map.settings_of(vm).limits.gpu_memory_mib;
        let quota = quota
            .filter(|mib| *mib > 0)
            .map(|mib| mib.saturating_mul(1 << 20));
        let utilisation = self.utilisation(vm);
        let mut processes = Vec::new();
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        for (session, live) in of_vm(&self.sessions, vm) {
            let (Some(placed), Some(page)) = (self.placed.get(&session), self.vm_pages.get(&vm)) else {
                continue;
            };
            for (place, uuid) in placed.gpus.iter().enumerate() {
                // A session keeps the GPUs that it began with, which need not be among those of the next one.
                let Some(gpu) = uuids.iter().position(|other| other == uuid) else {
                    continue;
                };
                let memory = page.used_on(live.slot, place);
                // A session may use any of its GPUs, and has a context where it does.
                if memory == 0 {
                    continue;
                }
                let sum = used.entry(uuid).or_default();
                *sum = sum.saturating_add(memory);
                processes.push(VmProcess {
                    pid: live.pid,
                    gpu: gpu as u32,
                    memory,
                });
            }
        }
        // Nobody's work is on a GPU that no session has.
        let has = |uuid: &String| of_vm(&self.placed, vm).any(|(_, placed)| placed.gpus.contains(uuid));
        let gpu = |uuid: &String| {
            let known = self.inventory.known(uuid);
            let memory = known.map_or(0, |gpu| gpu.memory);
            VmGpu {
                uuid: uuid.clone(),
                model: known.map(|gpu| gpu.model.clone()).unwrap_or_default(),
                pci: known.map(|gpu| gpu.pci.clone()).unwrap_or_default(),
                memory: quota.map_or(memory, |quota| memory.min(quota)),
                used: used.get(uuid.as_str()).copied().unwrap_or_default(),
                utilisation: utilisation.map(|percent| if has(uuid) { percent } else { 0 }),
                facts: known.map(|gpu| gpu.facts).unwrap_or_default(),
                peers: known.map(|gpu| places(&gpu.peers, uuids)).unwrap_or_default(),
                readings: self.watcher.measured(uuid, self.now_us()).0,
            }
        };
        let driver = uuids.iter().map(|uuid| self.inventory.driver(uuid));
        VmGpus {
            driver: driver.max().unwrap_or_default().to_owned(),
            gpus: uuids.iter().map(gpu).collect(),
            processes,
        }
    }

    /// Percent of its GPUs' time that a VM used lately; `None` if that is not known.
    fn utilisation(&self, vm: u32) -> Option<u32> {
        // Through MPS all run at once, and nobody's time is taken.
        let pool = self.map.pool_of(vm)?;
        if pool.sharing == Sharing::Mps {
            return None;
        }
        // Each look at the GPUs is one at the VMs.
        let looks = self.watcher.looks();
        looks.then(|| self.busy.get(&vm).map_or(0, |busy| busy.percent))
    }

    /// Looks how busy the VMs are that have sessions.
    pub(crate) fn sample_use(&mut self) {
        // Turns that are held are charged up to now, less idle time.
        self.feed(Event::Tick);
        self.see_idle(|_| true);
        let now_us = self.now_us();
        let vms: BTreeSet<u32> = self.sessions.keys().map(|session| session.vm).collect();
        self.busy.retain(|vm, _| vms.contains(vm));
        for vm in vms {
            let ns = self.usage(vm).ns;
            let gpus: BTreeSet<_> = of_vm(&self.placed, vm)
                .flat_map(|(_, placed)| &placed.gpus)
                .collect();
            let gpus = gpus.len();
            let busy = self.busy.entry(vm).or_insert_with(|| Busy::new(now_us, ns));
            busy.look(now_us, ns, gpus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_the_part_of_the_time_between_two_looks() {
        let mut busy = Busy::new(1_000_000, 7);
        busy.look(1_000_000, 9, 1);
        assert_eq!(busy.percent, 0, "no time has passed");
        busy.look(2_000_000, 7 + 250_000_000, 1);
        assert_eq!(busy.percent, 25);
        busy.look(3_000_000, 7 + 750_000_000, 2);
        assert_eq!(busy.percent, 25, "half a second on two GPUs");
        busy.look(4_000_000, u64::MAX, 1);
        assert_eq!(busy.percent, 100);
        // Counted anew.
        busy.look(5_000_000, 0, 0);
        assert_eq!(busy.percent, 0);
    }

    #[test]
    fn who_reaches_whom_is_told_of_the_vms_gpus_alone() {
        let uuids = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        assert_eq!(places(&uuids("c x a"), &uuids("a b c")), [0, 2]);
        assert_eq!(places(&[], &uuids("a")), [0; 0]);
    }
}
