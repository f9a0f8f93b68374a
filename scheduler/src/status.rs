//! What there is to see.
use crate::daemon::Daemon;
use crate::inventory::Gpu;
use crate::paging;
use crate::sessions::of_vm;
use std::collections::{BTreeMap, BTreeSet};
use vgpu_pool_map::{Assignable, Pool};
use vgpu_sched_api::messages::{
    Answer, GpuState, GpuStatus, PoolStatus, SCHEMA_VERSION, SessionStatus, Status, VmStatus,
};
use vgpu_sched_core::{Event, Standing};

impl Daemon {
    /// Everything, of VMs from that number on as far as an answer holds them.
    pub(crate) fn status(&mut self, from_vm: u32) -> Answer {
        self.look_on_view();
        let mut status = Status {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.now_us() / 1_000_000,
            hostname: hostname(),
            config: self.config.display().to_string(),
            map_version: self.map_version.clone(),
            degraded: self.degraded(),
            map_differs: self.map_differs(),
            gpus: self.gpu_status(),
            pools: self.map.pools.iter().map(|pool| self.pool_status(pool)).collect(),
            in_no_pool: Vec::new(),
        };
        let in_a_pool = self.known_vms().chain(self.map.vms_with_settings());
        let in_a_pool = in_a_pool.filter(|vm| self.map.pool_of(*vm).is_some());
        let vms: BTreeSet<u32> = in_a_pool
            .chain(self.quarantines.keys().copied())
            .chain(self.sessions.keys().map(|session| session.vm))
            .filter(|vm| *vm >= from_vm)
            .collect();
        let fit = paging::that_fit_beside(&status, vms.iter().map(|vm| self.vm_status(*vm)));
        let next_vm = vms.into_iter().nth(fit.len());
        for vm in fit {
            let mut pools = self.map.pools.iter().zip(&mut status.pools);
            match pools.find(|(pool, _)| pool.has(vm.vm)) {
                Some((_, pool)) => pool.vms.push(vm),
                None => status.in_no_pool.push(vm),
            }
        }
        Answer::Status {
            status: Box::new(status),
            next_vm,
        }
    }

    /// Turns that are held are charged up to now, less idle time, and calls counted.
    pub(crate) fn look_at_all(&mut self) {
        self.feed(Event::Tick);
        self.see_idle(|_| true);
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.count(session);
        }
    }

    /// What is not as the pool map wants it, or keeps this program from its work.
    pub(crate) fn degraded(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.listing_failed.iter().cloned().collect();
        lines.extend(self.store.failing());
        for pool in &self.map.pools {
            let gpus = self.inventory.of_pool(&pool.gpus);
            if gpus.is_empty() {
                lines.push(format!("pool {}: there is no GPU", pool.name));
            }
            for uuid in &gpus {
                if !self.inventory.is_present(uuid) {
                    lines.push(format!("pool {}: its GPU {uuid} is missing", pool.name));
                } else if self.inventory.assignable(uuid) == Assignable::Divided {
                    lines.push(format!("pool {}: its GPU {uuid} is in MIG mode", pool.name));
                }
            }
        }
        lines
    }

    /// The GPUs that are there, then those that pools name and that are not.
    pub(crate) fn gpu_status(&self) -> Vec<GpuStatus> {
        let mut pools_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pool in &self.map.pools {
            for uuid in self.inventory.of_pool(&pool.gpus) {
                pools_of.entry(uuid).or_default().push(pool.name.clone());
            }
        }
        let in_use = self.sessions.values().map(|live| self.inventory.uuids(live.gpus));
        let in_use: Vec<Vec<String>> = in_use.collect();
        let status = |uuid: &str, gpu: Option<&Gpu>, state| GpuStatus {
            index: gpu
                .filter(|_| state != GpuState::Missing)
                .and_then(|gpu| gpu.index),
            uuid: uuid.to_owned(),
            model: gpu.map(|gpu| gpu.model.clone()).unwrap_or_default(),
            pci: gpu.map(|gpu| gpu.pci.clone()).unwrap_or_default(),
            driver: self.inventory.driver(uuid).to_owned(),
            memory: gpu.map_or(0, |gpu| gpu.memory),
            state,
            pools: pools_of.get(uuid).cloned().unwrap_or_default(),
            sessions: in_use
                .iter()
                .filter(|uuids| uuids.iter().any(|other| other == uuid))
                .count() as u32,
            measured: self.watcher.measured(uuid, self.now_us()).1,
            xids: self.gpu_errors.xids(uuid),
        };
        let present = self.inventory.present().into_iter().map(|gpu| {
            let state = match pools_of.contains_key(&gpu.uuid) {
                _ if gpu.divided => GpuState::Divided,
                true => GpuState::Ready,
                false => GpuState::Unassigned,
            };
            status(&gpu.uuid, Some(gpu), state)
        });
        let missing = pools_of.keys().filter(|uuid| !self.inventory.is_present(uuid));
        let missing = missing.map(|uuid| status(uuid, self.inventory.known(uuid), GpuState::Missing));
        present.chain(missing).collect()
    }

    /// A pool, without its VMs.
    fn pool_status(&self, pool: &Pool) -> PoolStatus {
        let gpus = self.inventory.of_pool(&pool.gpus);
        PoolStatus {
            name: pool.name.clone(),
            complete: !gpus.is_empty() && self.inventory.usable(&pool.gpus).len() == gpus.len(),
            gpus,
            ranges: pool.ranges.iter().map(ToString::to_string).collect(),
            policy: pool.policy,
            exclusive: pool.exclusive,
            sharing: pool.sharing,
            weight: pool.weight,
            gpus_per_vm: pool.gpus_per_vm.unwrap_or(0),
            ladder: pool.ladder.clone(),
            vms: Vec::new(),
        }
    }

    /// The VMs that have a backend, or have run something.
    pub(crate) fn known_vms(&self) -> impl Iterator<Item = u32> {
        let clients = self.clients.values().filter_map(|client| client.vm);
        clients
            .chain(self.placed.keys().map(|session| session.vm))
            .chain(self.earlier.keys().copied())
    }

    fn vm_status(&self, vm: u32) -> VmStatus {
        let usage = self.usage(vm);
        let settings = self.map.settings_of(vm);
        let page = self.vm_pages.get(&vm);
        let sessions = of_vm(&self.sessions, vm).map(|(session, live)| {
            let (calls, queued) = live.page.counts();
            SessionStatus {
                session: session.number,
                pid: live.pid,
                program: live.program.clone(),
                state: self.core.standing(session).map_or("", standing_name).to_owned(),
                gpus: self
                    .placed
                    .get(&session)
                    .map(|placed| placed.gpus.clone())
                    .unwrap_or_default(),
                memory: page.map_or(0, |page| page.used_by(live.slot)),
                queued,
                calls,
            }
        });
        let sessions: Vec<_> = sessions.collect();
        VmStatus {
            vm,
            connected: self.clients.values().any(|client| client.vm == Some(vm)),
            priority: settings.priority,
            weight: settings.weight,
            aging_ms: settings.aging_ms,
            queue_depth: settings.queue_depth,
            // What executors say of themselves need not make sense.
            queued: sessions
                .iter()
                .map(|session| session.queued)
                .fold(0, u64::saturating_add),
            calls: self.calls(vm),
            turns: usage.turns,
            gpu_microseconds: usage.ns / 1000,
            estimated: usage.estimated_ns > 0,
            limits: settings.limits,
            violations: usage.violations,
            quarantine: self.quarantines.get(&vm).cloned(),
            sessions,
        }
    }
}

/// What the kernel says that the host is called; empty if it does not.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim_end().to_owned()
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Out => "out",
        Standing::Waiting => "waiting",
        Standing::Running => "running",
        Standing::Idle => "idle",
        Standing::Asked => "asked",
        Standing::Stopped => "stopped",
        Standing::Suspended => "suspended",
    }
}
