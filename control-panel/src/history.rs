//! How busy GPUs were, and what VMs had of their time, over the last day: as long as this program runs.
use crate::vgpud::{Look, Vgpud};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two points.
const STEP: Duration = Duration::from_secs(300);
/// Points kept: a day's.
const POINTS_MAX: usize = 288;
/// VMs of which they are kept at most, those with the lowest numbers.
const VMS_MAX: usize = 1000;

/// The last day.
#[derive(Default)]
pub struct History {
    day: Mutex<Day>,
}

#[derive(Default)]
struct Day {
    /// When each point ends, in milliseconds since 1970.
    at_ms: VecDeque<u64>,
    gpus: BTreeMap<String, Line>,
    vms: BTreeMap<u32, Line>,
    /// When the counters were read last.
    read_ms: Option<u64>,
}

/// A point of each time in the day.
#[derive(Default)]
struct Line {
    /// Microseconds that were counted when it was last read.
    counted: Option<u64>,
    shares: VecDeque<Option<u32>>,
}

/// Shares over the last day, in steps of five minutes.
#[derive(Serialize, JsonSchema)]
pub struct Shares {
    /// When each step ended, in milliseconds since 1970, the oldest first.
    at_ms: Vec<u64>,
    gpus: Vec<GpuShares>,
    vms: Vec<VmShares>,
}

/// How busy a GPU was.
#[derive(Serialize, JsonSchema)]
pub struct GpuShares {
    uuid: String,
    /// Thousandths of each step; null where it is not known.
    shares: Vec<Option<u32>>,
}

/// What GPU time a VM had.
#[derive(Serialize, JsonSchema)]
pub struct VmShares {
    vm: u32,
    /// Thousandths of each step; more than 1000 with several GPUs; null where it is not known.
    shares: Vec<Option<u32>>,
}

impl History {
    /// Goes on looking for as long as the program runs.
    pub async fn follow(self: Arc<Self>, vgpud: Arc<Vgpud>) {
        let mut interval = interval(STEP);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let look = vgpud.look().await;
            self.add(&look);
        }
    }

    /// Adds a point, unless it is the first time.
    fn add(&self, look: &Look) {
        let read = look.known.as_deref().filter(|_| look.failure.is_none());
        let mut day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = read else {
            // What was not read is not known, and neither is what begins there.
            day.read_ms = None;
            return;
        };
        let gpus = known.stats.value.gpus.iter();
        let vms = known.stats.value.vms.iter().take(VMS_MAX);
        day.add(
            known.stats.at_ms,
            &gpus.map(|gpu| (gpu.uuid.clone(), gpu.busy_us)).collect(),
            &vms.map(|vm| (vm.vm, vm.gpu_microseconds)).collect(),
        );
    }

    /// What is known of the last day.
    pub fn shares(&self) -> Shares {
        let day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        let gpus = day.gpus.iter().map(|(uuid, line)| GpuShares {
            uuid: uuid.clone(),
            shares: line.shares.iter().copied().collect(),
        });
        let vms = day.vms.iter().map(|(vm, line)| VmShares {
            vm: *vm,
            shares: line.shares.iter().copied().collect(),
        });
        Shares {
            at_ms: day.at_ms.iter().copied().collect(),
            gpus: gpus.collect(),
            vms: vms.collect(),
        }
    }
}

impl Day {
    fn add(&mut self, at_ms: u64, gpus: &BTreeMap<String, u64>, vms: &BTreeMap<u32, u64>) {
        let before = self.read_ms.replace(at_ms);
        // The clock may have been set.
        let since_ms = before
            .and_then(|before| at_ms.checked_sub(before))
            .filter(|ms| *ms > 0);
        let points = self.at_ms.len();
        count(&mut self.gpus, gpus, points, since_ms);
        count(&mut self.vms, vms, points, since_ms);
        if since_ms.is_some() {
            self.at_ms.push_back(at_ms);
            if self.at_ms.len() > POINTS_MAX {
                self.at_ms.pop_front();
            }
        }
    }
}

/// Takes counters over, and makes points of what they have risen by in so many milliseconds.
fn count<K: Ord + Clone>(
    lines: &mut BTreeMap<K, Line>,
    counters: &BTreeMap<K, u64>,
    points: usize,
    since_ms: Option<u64>,
) {
    for key in counters.keys() {
        lines.entry(key.clone()).or_insert_with(|| Line {
            counted: None,
            shares: std::iter::repeat_n(None, points).collect(),
        });
    }
    for (key, line) in lines.iter_mut() {
        line.next(counters.get(key).copied(), since_ms);
    }
    // Of what has been gone for a day nothing is left.
    lines.retain(|_, line| line.counted.is_some() || line.shares.iter().any(Option::is_some));
}

impl Line {
    fn next(&mut self, counted: Option<u64>, since_ms: Option<u64>) {
        let before = std::mem::replace(&mut self.counted, counted);
        let Some(since_ms) = since_ms else { return };
        // A counter that fell began anew.
        let risen_us = counted
            .zip(before)
            .and_then(|(now, before)| now.checked_sub(before));
        // Microseconds in milliseconds are thousandths.
        let share = risen_us.map(|us| u32::try_from(us / since_ms).unwrap_or(u32::MAX));
        self.shares.push_back(share);
        if self.shares.len() > POINTS_MAX {
            self.shares.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_MS: u64 = 300_000;

    /// Reads counters of a GPU and of a VM, `step` steps after the beginning.
    fn add(history: &History, step: u64, gpu_us: Option<u64>, vm_us: Option<u64>) {
        let gpus = gpu_us.map(|us| ("GPU-0".to_owned(), us));
        let mut day = history.day.lock().unwrap();
        day.add(
            1_700_000_000_000 + step * STEP_MS,
            &gpus.into_iter().collect(),
            &vm_us.map(|us| (7, us)).into_iter().collect(),
        );
    }

    #[test]
    fn a_share_is_what_a_counter_has_risen_by() {
        let history = History::default();
        add(&history, 0, Some(5), None);
        assert!(history.shares().at_ms.is_empty(), "nothing is known of before");
        let half = STEP_MS * 500;
        add(&history, 1, Some(5 + half), Some(0));
        add(&history, 2, Some(5 + half), Some(4 * half));
        // vgpud was started anew; then it was not there for a while.
        add(&history, 3, Some(0), Some(4 * half));
        history.add(&Look::default());
        add(&history, 9, Some(half), Some(5 * half));
        add(&history, 10, None, Some(6 * half));
        let shares = history.shares();
        let steps: Vec<u64> = shares
            .at_ms
            .iter()
            .map(|at| (at - 1_700_000_000_000) / STEP_MS)
            .collect();
        assert_eq!(steps, [1, 2, 3, 10]);
        assert_eq!(shares.gpus[0].shares, [Some(500), Some(0), None, None]);
        assert_eq!(shares.vms[0].shares, [None, Some(2000), Some(0), Some(500)]);
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let history = History::default();
        for step in 0..=POINTS_MAX as u64 + 5 {
            add(&history, step, Some(step * STEP_MS), (step < 3).then_some(step));
            let shares = history.shares();
            assert!(
                shares
                    .gpus
                    .iter()
                    .all(|gpu| gpu.shares.len() == shares.at_ms.len())
            );
            assert!(shares.vms.iter().all(|vm| vm.shares.len() == shares.at_ms.len()));
        }
        let shares = history.shares();
        assert_eq!(shares.at_ms.len(), POINTS_MAX);
        assert_eq!(shares.gpus[0].shares, vec![Some(1); POINTS_MAX]);
        // Of a VM that has been gone for so long nothing is known.
        assert!(shares.vms.is_empty());
    }
}
