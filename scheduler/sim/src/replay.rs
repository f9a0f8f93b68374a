//! Recorded arrivals, run again under other terms.
use crate::host::{Fault, Host, Member};
use crate::percentiles::Percentiles;
use crate::program::{Program, Work};
use std::collections::{BTreeMap, VecDeque};
use vgpu_sched_core::{Config, GpuSet, Level, Policy, Pool, PoolTerms, Session, Terms, Vm};

/// How long messages take, in microseconds.
const LAG_US: u64 = 20;
/// Recorded work is taken to be of kernels of this length at most, in nanoseconds.
const KERNEL_NS: u64 = 1_000_000;
/// How long it is waited for the work that is left after the last arrival, in microseconds, and how often that is looked at.
const REST_US: u64 = 60_000_000;

/// A session wanted to run something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub vm: Vm,
    pub session: u32,
    pub pool: Pool,
    /// The pool's.
    pub policy: Policy,
    /// One at least.
    pub gpus: GpuSet,
    pub level: Level,
    pub weight: u32,
    /// Microseconds, from any start.
    pub at_us: u64,
    /// GPU time, summed over its GPUs, in microseconds.
    pub used_us: u64,
}

/// Under which terms arrivals are replayed. What is not said here is as it was recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setup {
    /// Of every pool.
    pub policy: Option<Policy>,
    pub exclusive: bool,
    pub config: Config,
    pub levels: BTreeMap<Vm, Level>,
    pub weights: BTreeMap<Vm, u32>,
}

/// How long arrivals took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Until they first ran.
    pub wait: Percentiles,
    /// Until they were done.
    pub completion: Percentiles,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub all: Times,
    pub by_vm: BTreeMap<Vm, Times>,
    /// Arrivals that were not done a minute after the time that the last one and all work take.
    pub unfinished: u64,
}

/// Runs arrivals under these terms: each comes at its time, whatever became of those before, and needs the GPU time that
/// was recorded. A session's arrivals run one after the other. A VM has the level and the weight of its first one, a pool
/// its policy.
pub fn replay(arrivals: &[Arrival], setup: &Setup) -> Outcome {
    let mut sorted: Vec<Arrival> = arrivals.to_vec();
    sorted.retain(|arrival| !arrival.gpus.is_empty());
    sorted.sort_by_key(|arrival| arrival.at_us);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return Outcome::default();
    };
    let (from, length_us) = (first.at_us, last.at_us - first.at_us);
    let all = sorted.iter().fold(GpuSet::EMPTY, |all, one| all.or(one.gpus));
    let gpus = all.iter().max().map_or(0, |gpu| gpu + 1);
    let mut host = Host::new(setup.config, gpus, 0, None);
    for arrival in &sorted {
        if !host.pools.contains_key(&arrival.pool) {
            let terms = PoolTerms {
                policy: setup.policy.unwrap_or(arrival.policy),
                exclusive: setup.exclusive,
                ..PoolTerms::default()
            };
            host.set_pool(arrival.pool, terms);
        }
        let vm = arrival.vm;
        if !host.vms.contains_key(&vm) {
            let level = setup.levels.get(&vm).copied().unwrap_or(arrival.level);
            let terms = Terms {
                pool: arrival.pool,
                weight: setup.weights.get(&vm).copied().unwrap_or(arrival.weight),
                ..Terms::at(level)
            };
            host.set_vm(vm, terms);
        }
    }
    let mut work_us = 0u64;
    for (session, (gpus, program)) in programs(&sorted, from) {
        work_us = program
            .iter()
            .fold(work_us, |sum, (_, work)| sum.saturating_add(work.ns / 1000));
        let member = Member {
            gpus,
            lag_us: LAG_US,
            slices: true,
            stop: true,
            fault: Fault::None,
            program: Program::Recorded(program),
        };
        host.start(session, member);
    }
    // Even one after the other on one GPU, each after a switch, all would be done by then.
    let end = length_us
        .saturating_add(work_us.saturating_mul(2))
        .saturating_add(REST_US);
    while host.finished.len() < sorted.len() && host.now < end {
        host.run_until(host.now + REST_US);
    }
    let mut by_vm: BTreeMap<Vm, Vec<(u64, u64)>> = BTreeMap::new();
    for done in &host.finished {
        let times = by_vm.entry(done.vm).or_default();
        times.push((done.wait_us, done.total_us));
    }
    let everything = by_vm.values().flatten().copied().collect();
    Outcome {
        all: times(everything),
        by_vm: by_vm.into_iter().map(|(vm, all)| (vm, times(all))).collect(),
        unfinished: (sorted.len() - host.finished.len()) as u64,
    }
}

type Recorded = VecDeque<(u64, Work)>;

/// What each session runs, and on which GPUs. One that had others later is another one then.
fn programs(arrivals: &[Arrival], from: u64) -> BTreeMap<Session, (GpuSet, Recorded)> {
    let mut numbers: BTreeMap<Vm, Vec<(u32, GpuSet)>> = BTreeMap::new();
    let mut programs: BTreeMap<Session, (GpuSet, Recorded)> = BTreeMap::new();
    for arrival in arrivals {
        let known = numbers.entry(arrival.vm).or_default();
        let this = (arrival.session, arrival.gpus);
        let number = match known.iter().position(|one| *one == this) {
            Some(number) => number,
            None => {
                known.push(this);
                known.len() - 1
            }
        };
        let session = Session {
            vm: arrival.vm,
            number: number as u32 + 1,
        };
        let (_, program) = programs
            .entry(session)
            .or_insert_with(|| (arrival.gpus, Recorded::new()));
        // All GPUs of a gang work at once.
        let ns = (arrival.used_us.saturating_mul(1000) / u64::from(arrival.gpus.len())).max(1000);
        let work = Work {
            ns,
            kernel_ns: ns.min(KERNEL_NS),
        };
        program.push_back((arrival.at_us - from, work));
    }
    programs
}

fn times(all: Vec<(u64, u64)>) -> Times {
    let (wait, completion) = all.into_iter().unzip();
    Times {
        wait: Percentiles::of(wait).unwrap_or_default(),
        completion: Percentiles::of(completion).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under(policy: Policy) -> Setup {
        Setup {
            policy: Some(policy),
            ..Setup::default()
        }
    }

    fn arrival(vm: Vm, level: Level, at_us: u64, used_us: u64) -> Arrival {
        Arrival {
            vm,
            session: 1,
            pool: 0,
            policy: Policy::Priority,
            gpus: GpuSet::from_iter([0]),
            level,
            weight: 1,
            at_us,
            used_us,
        }
    }

    /// A low VM with much work at once, and a high one with a little every 10 ms.
    fn mixed() -> Vec<Arrival> {
        let mut all = vec![arrival(1, Level::Low, 1_000, 500_000)];
        all.extend((0..40).map(|n| arrival(2, Level::High, 5_000 + n * 10_000, 100)));
        all
    }

    #[test]
    fn alone_each_arrival_takes_its_own_time_from_when_it_came() {
        let one = replay(
            &[
                arrival(1, Level::Low, 7_000, 300),
                arrival(1, Level::Low, 7_100, 300),
            ],
            &under(Policy::Priority),
        );
        assert_eq!((one.all.wait.count, one.unfinished), (2, 0));
        // The second one waits for the first.
        assert_eq!((one.all.wait.p50, one.all.wait.max), (LAG_US, LAG_US + 200));
        assert_eq!(one.all.completion.max, LAG_US + 500);
        assert_eq!(replay(&[], &under(Policy::Fifo)), Outcome::default());
    }

    #[test]
    fn a_policy_changes_who_waits() {
        let priority = replay(&mixed(), &under(Policy::Priority));
        let fifo = replay(&mixed(), &under(Policy::Fifo));
        assert_eq!((priority.unfinished, fifo.unfinished), (0, 0));
        // First come, first served: the high VM waits until the low one's half second is over.
        assert!(fifo.by_vm[&2].wait.max > 400_000, "{fifo:?}");
        assert!(priority.by_vm[&2].wait.max < 1_000, "{priority:?}");
        assert_eq!(replay(&mixed(), &under(Policy::Fifo)), fifo);
        // What is not said is as it was recorded.
        assert_eq!(replay(&mixed(), &Setup::default()), priority);
        let mut recorded = mixed();
        recorded
            .iter_mut()
            .for_each(|arrival| arrival.policy = Policy::Fifo);
        assert_eq!(replay(&recorded, &Setup::default()), fifo);
        assert_eq!(replay(&recorded, &under(Policy::Priority)), priority);
    }

    #[test]
    fn levels_and_weights_can_be_others_than_recorded() {
        let mut setup = under(Policy::Priority);
        setup.levels.insert(2, Level::Low);
        let turns = replay(&mixed(), &setup);
        assert!(turns.by_vm[&2].wait.max > 5_000, "{turns:?}");

        let busy: Vec<_> = [1, 2].map(|vm| arrival(vm, Level::Low, 0, 1_000_000)).into();
        let mut setup = under(Policy::Weighted);
        setup.weights.insert(1, 9);
        let heavy = replay(&busy, &setup);
        let (first, second) = (heavy.by_vm[&1].completion.max, heavy.by_vm[&2].completion.max);
        assert!(first < 1_200_000 && second > 1_900_000, "{heavy:?}");
    }

    #[test]
    fn a_gang_works_on_all_its_gpus_at_once() {
        let gang = Arrival {
            gpus: GpuSet::from_iter([0, 3]),
            ..arrival(1, Level::Low, 0, 1_000)
        };
        let one = replay(&[gang], &under(Policy::Priority));
        assert_eq!(one.all.completion.max, LAG_US + 500);
    }
}
