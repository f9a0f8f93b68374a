//! The GPUs: how their time is split between the contexts that have work on them.
use std::collections::BTreeMap;
use vgpu_sched_core::{Gpu, GpuSet, Session};

/// What a switch from one context to the next costs, in nanoseconds of GPU time.
const SWITCH_NS: u64 = 140_000;

/// A context that has work on its GPUs and is not stopped.
#[derive(Clone, Copy, Debug)]
struct Running {
    gpus: GpuSet,
    slice_us: u64,
    /// Work that is left to the next point at which something happens, in nanoseconds.
    left_ns: u64,
    /// It gets this part of its GPUs' time: numerator and denominator.
    rate: (u64, u64),
    /// Up to when `left_ns` is right.
    at: u64,
    /// Changes with every new time at which it will be done.
    generation: u64,
}

/// When a context's work will be done, unless something changes before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) at: u64,
    pub(crate) session: Session,
    pub(crate) generation: u64,
}

/// All GPUs of the host.
#[derive(Debug, Default)]
pub(crate) struct Hardware {
    running: BTreeMap<Session, Running>,
    gpus: Vec<OneGpu>,
    generations: u64,
}

#[derive(Clone, Debug, Default)]
struct OneGpu {
    /// Who has work on it.
    on: Vec<Session>,
    /// Since when somebody has, or nobody.
    since: u64,
    /// Microseconds for which somebody had, before that.
    busy_us: u64,
}

impl Hardware {
    pub(crate) fn new(gpus: Gpu) -> Self {
        Self {
            gpus: vec![OneGpu::default(); gpus as usize],
            ..Self::default()
        }
    }

    /// Since when no work is on a GPU.
    pub(crate) fn idle_since(&self, gpu: Gpu) -> Option<u64> {
        let gpu = &self.gpus[gpu as usize];
        gpu.on.is_empty().then_some(gpu.since)
    }

    /// Forgets for how long GPUs have been idle.
    pub(crate) fn restart_idle(&mut self, now: u64) {
        for gpu in self.gpus.iter_mut().filter(|gpu| gpu.on.is_empty()) {
            gpu.since = now;
        }
    }

    /// Microseconds for which a GPU had work, up to now.
    pub(crate) fn busy_us(&self, gpu: Gpu, now: u64) -> u64 {
        let gpu = &self.gpus[gpu as usize];
        gpu.busy_us + if gpu.on.is_empty() { 0 } else { now - gpu.since }
    }

    /// Work that a context has left, in nanoseconds, if it runs.
    pub(crate) fn left_ns(&self, session: Session, now: u64) -> Option<u64> {
        self.running.get(&session).map(|running| running.left_at(now))
    }

    /// Whether that is still the time at which the context's work is done.
    pub(crate) fn is_current(&self, session: Session, generation: u64) -> bool {
        self.running
            .get(&session)
            .is_some_and(|running| running.generation == generation)
    }

    /// A context has that much work from now on, in place of what it had.
    pub(crate) fn run(
        &mut self,
        now: u64,
        session: Session,
        gpus: GpuSet,
        slice_us: u64,
        left_ns: u64,
        done: &mut Vec<Done>,
    ) {
        let running = Running {
            gpus,
            slice_us,
            left_ns,
            rate: (1, 1),
            at: now,
            generation: 0,
        };
        self.settle(now, gpus);
        if self.running.insert(session, running).is_none() {
            for gpu in gpus.iter() {
                let gpu = &mut self.gpus[gpu as usize];
                if gpu.on.is_empty() {
                    gpu.since = now;
                }
                gpu.on.push(session);
            }
        }
        self.share(now, gpus, done);
    }

    /// A context has no work any longer, or is stopped. Returns what was left, if it ran.
    pub(crate) fn halt(&mut self, now: u64, session: Session, done: &mut Vec<Done>) -> Option<u64> {
        let gpus = self.running.get(&session)?.gpus;
        self.settle(now, gpus);
        let was = self.running.remove(&session)?;
        for gpu in gpus.iter() {
            let gpu = &mut self.gpus[gpu as usize];
            gpu.on.retain(|other| *other != session);
            if gpu.on.is_empty() {
                gpu.busy_us += now - gpu.since;
                gpu.since = now;
            }
        }
        self.share(now, gpus, done);
        Some(was.left_ns)
    }

    /// Writes off what was done up to now.
    fn settle(&mut self, now: u64, gpus: GpuSet) {
        for gpu in gpus.iter() {
            for session in &self.gpus[gpu as usize].on {
                if let Some(running) = self.running.get_mut(session) {
                    running.left_ns = running.left_at(now);
                    running.at = now;
                }
            }
        }
    }

    /// Splits the time of these GPUs anew. Each context runs for its slice, and then the next one is switched to.
    fn share(&mut self, now: u64, gpus: GpuSet, done: &mut Vec<Done>) {
        let mut changed = Vec::new();
        for gpu in gpus.iter() {
            for session in &self.gpus[gpu as usize].on {
                if !changed.contains(session) {
                    changed.push(*session);
                }
            }
        }
        for session in changed {
            let Some(mine) = self.running.get(&session).copied() else {
                continue;
            };
            // The kernels of a gang wait for one another, so the slowest GPU counts.
            let round_ns = mine
                .gpus
                .iter()
                .map(|gpu| self.round_ns(gpu))
                .max()
                .unwrap_or(mine.slice_us * 1000);
            self.generations += 1;
            let generation = self.generations;
            if let Some(running) = self.running.get_mut(&session) {
                running.rate = (running.slice_us * 1000, round_ns);
                running.generation = generation;
                done.push(Done {
                    at: now + running.takes_us(),
                    session,
                    generation,
                });
            }
        }
    }

    /// How long it takes a GPU to go round all who have work on it.
    fn round_ns(&self, gpu: Gpu) -> u64 {
        let on = &self.gpus[gpu as usize].on;
        let slices = on.iter().filter_map(|session| self.running.get(session));
        let all: u64 = slices.map(|running| running.slice_us * 1000).sum();
        match on.len() as u64 {
            0 | 1 => all,
            several => all + several * SWITCH_NS,
        }
    }
}

impl Running {
    fn left_at(&self, now: u64) -> u64 {
        let (part, whole) = self.rate;
        let passed_ns = u128::from(now - self.at) * 1000;
        let run_ns = passed_ns * u128::from(part) / u128::from(whole.max(1));
        self.left_ns.saturating_sub(run_ns as u64)
    }

    /// How long it takes to do what is left, in microseconds; rounded up, so that nothing is left then.
    fn takes_us(&self) -> u64 {
        let (part, whole) = self.rate;
        let ns = (u128::from(self.left_ns) * u128::from(whole)).div_ceil(u128::from(part.max(1)));
        (ns.div_ceil(1000) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(vm: u32) -> Session {
        Session { vm, number: 1 }
    }

    #[test]
    fn one_alone_has_all_and_two_share_by_slices_and_pay_for_switches() {
        let mut gpus = Hardware::new(1);
        let gpu = GpuSet::from_iter([0]);
        let mut done = Vec::new();
        gpus.run(0, session(1), gpu, 200, 10_000_000, &mut done);
        assert_eq!(done.pop().unwrap().at, 10_000);
        assert_eq!(gpus.left_ns(session(1), 4_000), Some(6_000_000));

        // A round takes 0.2 + 20 + 2 * 0.14 ms.
        gpus.run(4_000, session(2), gpu, 20_000, 20_000_000, &mut done);
        assert_eq!(done.len(), 2);
        assert_eq!(done[0].at, 4_000 + 6 * 20_480 * 1000 / 200);
        assert_eq!(done[1].at, 4_000 + 20_480);
        assert!(gpus.is_current(session(1), done[0].generation));

        assert_eq!(gpus.halt(24_480, session(2), &mut done), Some(0));
        assert_eq!(gpus.left_ns(session(1), 24_480), Some(5_800_000));
        assert_eq!(gpus.idle_since(0), None);
        gpus.halt(30_280, session(1), &mut done);
        assert_eq!(gpus.idle_since(0), Some(30_280));
        assert_eq!(gpus.busy_us(0, 40_000), 30_280);
    }

    #[test]
    fn a_gang_is_as_slow_as_on_its_slowest_gpu() {
        let mut gpus = Hardware::new(2);
        let mut done = Vec::new();
        gpus.run(0, session(1), GpuSet::from_iter([0, 1]), 2_000, 1_000_000, &mut done);
        gpus.run(0, session(2), GpuSet::from_iter([1]), 2_000, 1_000_000, &mut done);
        assert_eq!(gpus.left_ns(session(1), 2_140), Some(0));
        assert_eq!(gpus.left_ns(session(1), 1_070), Some(500_000));
    }
}
