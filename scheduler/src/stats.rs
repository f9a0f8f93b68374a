//! Exact statistics, by VM and by GPU, since this program started.
use crate::daemon::Daemon;
use crate::paging;
use crate::sessions::of_vm;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use vgpu_sched_api::messages::{Answer, GpuStats, Percentiles, SCHEMA_VERSION, Sample, Stats, VmStats};
use vgpu_sched_core::{Gpu, Session, Standing};

/// Longer times count as this long, in microseconds: an hour.
const TIME_MAX_US: u64 = 3_600_000_000;
/// Significant digits of a time: percentiles are exact to a thousandth.
const DIGITS: u8 = 3;
/// Different times in one message of an executor at most.
const SAMPLES_MAX: usize = 4096;
/// Of calls that took equally long, as many count in one message.
const COUNT_MAX: u64 = 100_000_000;

/// How long something took, over and over again; percentiles have so many significant digits.
#[derive(Debug, Default)]
pub struct Times<const D: u8 = DIGITS> {
    /// Made with the first time: many VMs never have one.
    histogram: Option<Histogram<u64>>,
    sum: u64,
    most: u64,
}

impl<const D: u8> Times<D> {
    /// So many times that long, in microseconds.
    pub fn record(&mut self, us: u64, count: u64) {
        let us = us.min(TIME_MAX_US);
        if self.histogram.is_none() {
            self.histogram = Histogram::new(D)
                .inspect_err(|error| log::error!("no histogram: {error}"))
                .ok();
        }
        if let Some(histogram) = &mut self.histogram
            && let Err(error) = histogram.record_n(us, count)
        {
            log::error!("a time is not counted: {error}");
            return;
        }
        self.sum = self.sum.saturating_add(us.saturating_mul(count));
        self.most = self.most.max(us);
    }

    /// All that others took.
    pub fn add(&mut self, others: Self) {
        match (&mut self.histogram, others.histogram) {
            (Some(histogram), Some(others)) => {
                if let Err(error) = histogram.add(&others) {
                    log::error!("times are not counted: {error}");
                    return;
                }
            }
            (histogram @ None, others) => *histogram = others,
            (Some(_), None) => {}
        }
        self.sum = self.sum.saturating_add(others.sum);
        self.most = self.most.max(others.most);
    }

    /// How many times there were.
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// The longest.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// What an executor says, of which each number may be anything.
    pub fn take(&mut self, samples: &[Sample]) {
        for (us, count) in samples.iter().take(SAMPLES_MAX).filter(|(_, count)| *count > 0) {
            self.record(*us, (*count).min(COUNT_MAX));
        }
    }

    /// Its percentiles; zeros without a time.
    pub fn percentiles(&self) -> Percentiles {
        let Some(histogram) = &self.histogram else {
            return Percentiles::default();
        };
        // A histogram's value is that or a bit more, but none was longer than the longest.
        let at = |quantile| histogram.value_at_quantile(quantile).min(self.most);
        Percentiles {
            count: histogram.len(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: self.most,
            sum: self.sum,
        }
    }
}

/// A VM's.
#[derive(Debug, Default)]
pub struct OfVm {
    wait: Times,
    service: Times,
    total: Times,
    pub turn_wait: Times,
    pub preemption: Times,
    /// Turns that were asked back while work was in flight.
    pub preemptions: u64,
    /// Turns that ended by a stop.
    pub stops: u64,
    throttled_us: u64,
    refused: u64,
}

/// What an executor says of its calls.
#[derive(Debug)]
pub struct Latencies {
    pub wait: Vec<Sample>,
    pub service: Vec<Sample>,
    pub total: Vec<Sample>,
    pub throttled_us: u64,
    pub refused: u64,
}

/// All that is counted.
#[derive(Debug, Default)]
pub struct Statistics {
    vms: BTreeMap<u32, OfVm>,
    /// Whose the last turn on a GPU was, and how often it went to another session.
    gpus: BTreeMap<Gpu, (Session, u64)>,
}

impl Statistics {
    /// A VM's, to count on.
    pub fn vm(&mut self, vm: u32) -> &mut OfVm {
        self.vms.entry(vm).or_default()
    }

    /// Takes over what an executor of a VM says, within bounds.
    pub fn take(&mut self, vm: u32, said: &Latencies) {
        let of = self.vm(vm);
        of.wait.take(&said.wait);
        of.service.take(&said.service);
        of.total.take(&said.total);
        of.throttled_us = of.throttled_us.saturating_add(said.throttled_us.min(TIME_MAX_US));
        of.refused = of.refused.saturating_add(said.refused.min(COUNT_MAX));
    }

    /// Allocations of a VM that were refused.
    pub fn refused(&self, vm: u32) -> u64 {
        self.vms.get(&vm).map_or(0, |of| of.refused)
    }

    /// A turn began on a GPU.
    pub fn turn(&mut self, gpu: Gpu, session: Session) {
        let (last, switches) = self.gpus.entry(gpu).or_insert((session, 0));
        if std::mem::replace(last, session) != session {
            *switches += 1;
        }
    }
}

impl Daemon {
    /// Everything that is counted, of VMs from that number on as far as an answer holds them.
    pub(crate) fn stats(&mut self, from_vm: u32) -> Answer {
        let present: Vec<String> = self
            .inventory
            .present()
            .iter()
            .map(|gpu| gpu.uuid.clone())
            .collect();
        let mut stats = Stats {
            schema_version: SCHEMA_VERSION,
            uptime_s: self.now_us() / 1_000_000,
            gpus: present.into_iter().map(|uuid| self.gpu_stats(uuid)).collect(),
            vms: Vec::new(),
        };
        let vms = self.statistics.vms.keys().copied().chain(self.known_vms());
        let vms: BTreeSet<u32> = vms.filter(|vm| *vm >= from_vm).collect();
        stats.vms = paging::that_fit_beside(&stats, vms.iter().map(|vm| self.vm_stats(*vm)));
        Answer::Stats {
            next_vm: vms.into_iter().nth(stats.vms.len()),
            stats: Box::new(stats),
        }
    }

    fn gpu_stats(&mut self, uuid: String) -> GpuStats {
        let Some(gpu) = self.inventory.number(&uuid) else {
            return GpuStats {
                uuid,
                ..GpuStats::default()
            };
        };
        let waits = |session: &Session| {
            matches!(
                self.core.standing(*session),
                Some(Standing::Waiting | Standing::Stopped)
            )
        };
        let on_it = self
            .sessions
            .iter()
            .filter(|(_, live)| live.gpus.iter().any(|other| other == gpu));
        GpuStats {
            busy_us: self.core.busy_ns(gpu) / 1000,
            switches: self
                .statistics
                .gpus
                .get(&gpu)
                .map_or(0, |(_, switches)| *switches),
            waiting: on_it.filter(|(session, _)| waits(session)).count() as u32,
            uuid,
        }
    }

    fn vm_stats(&self, vm: u32) -> VmStats {
        let nothing = OfVm::default();
        let of = self.statistics.vms.get(&vm).unwrap_or(&nothing);
        let usage = self.usage(vm);
        let queued = of_vm(&self.sessions, vm).map(|(_, live)| live.page.counts().1);
        VmStats {
            vm,
            pool: self
                .map
                .pool_of(vm)
                .map(|pool| pool.name.clone())
                .unwrap_or_default(),
            wait: of.wait.percentiles(),
            service: of.service.percentiles(),
            total: of.total.percentiles(),
            turn_wait: of.turn_wait.percentiles(),
            preemption: of.preemption.percentiles(),
            calls: self.calls(vm),
            // What executors say of themselves need not make sense.
            queued: queued.fold(0, u64::saturating_add),
            turns: usage.turns,
            preemptions: of.preemptions,
            stops: of.stops,
            gpu_microseconds: usage.ns / 1000,
            estimated: usage.estimated_ns > 0,
            throttled_us: of.throttled_us,
            violations: usage.violations,
            refused: of.refused,
            memory: self.vm_pages.get(&vm).map_or(0, |page| page.used()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(samples: Vec<Sample>) -> Latencies {
        Latencies {
            wait: samples.clone(),
            service: vec![],
            total: samples,
            throttled_us: 5,
            refused: 2,
        }
    }

    /// Against a sorted list: a histogram's value is off by less than a thousandth.
    #[test]
    fn percentiles_are_those_of_all_times() {
        let mut times = <Times>::default();
        assert_eq!(times.percentiles(), Percentiles::default());
        let mut all: Vec<u64> = (0..10_000u64).map(|n| n * n % 1_000_003).collect();
        for us in &all {
            times.record(*us, 1);
        }
        all.sort_unstable();
        let got = times.percentiles();
        for (got, of) in [(got.p50, 0.5), (got.p95, 0.95), (got.p99, 0.99), (got.max, 1.0)] {
            let exact = all[(all.len() as f64 * of) as usize - 1];
            assert!(
                got >= exact && got <= exact + exact / 1000 + 1,
                "{of}: {got}, exactly {exact}"
            );
        }
        assert_eq!((got.count, got.sum), (10_000, all.iter().sum()));
        // Two executors' times are merged as if one had said them.
        times.record(5_000_000, 1_000_000);
        assert_eq!(times.percentiles().count, 1_010_000);
        assert!(times.percentiles().p50.abs_diff(5_000_000) <= 5_000);
    }

    #[test]
    fn nonsense_from_an_executor_is_bounded() {
        let mut statistics = Statistics::default();
        let hostile = Latencies {
            throttled_us: u64::MAX,
            refused: u64::MAX,
            ..latencies(vec![(u64::MAX, u64::MAX); SAMPLES_MAX * 2])
        };
        statistics.take(1, &hostile);
        let one = &statistics.vms[&1];
        let wait = one.wait.percentiles();
        assert_eq!(wait.count, COUNT_MAX * SAMPLES_MAX as u64);
        assert!(wait.max.abs_diff(TIME_MAX_US) <= TIME_MAX_US / 1000);
        assert_eq!((one.throttled_us, one.refused), (TIME_MAX_US, COUNT_MAX));
        // However often.
        for _ in 0..100 {
            statistics.take(1, &hostile);
        }
        assert_eq!(statistics.vms[&1].wait.percentiles().sum, u64::MAX);
        statistics.take(2, &latencies(vec![(7, 0), (8, 3)]));
        let two = &statistics.vms[&2];
        assert_eq!(
            (two.total.percentiles().count, two.total.percentiles().p50),
            (3, 8)
        );
        assert_eq!((two.throttled_us, two.refused), (5, 2));
    }

    #[test]
    fn a_switch_is_a_turn_of_another_session() {
        let mut statistics = Statistics::default();
        let (a, b) = (Session { vm: 1, number: 1 }, Session { vm: 1, number: 2 });
        for session in [a, a, b, b, a] {
            statistics.turn(0, session);
        }
        statistics.turn(1, b);
        assert_eq!(statistics.gpus[&0].1, 2);
        assert_eq!(statistics.gpus[&1].1, 0);
    }
}
