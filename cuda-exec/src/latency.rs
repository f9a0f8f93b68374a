//! How long operations take, told to `vgpud` once a second and at the session's end.
//!
//! Kernels, graphs' launches, fills and copies are measured. Of those that lie between two marks of a stream
//! ([`crate::window`]) the last one is, so of a stream of short ones every fourth. That one is done is seen, not
//! signalled: within 30 us while a guest thread sleeps or the turn is contended, within 200 us if a fence lies behind it, else
//! within 1 ms.
use crate::clock::now_ns;
use crate::session::Session;
use crate::window::Times;
use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{FromExec, Sample};

/// The longest time that is told apart, in microseconds: an hour. Longer ones count as one.
const LONGEST_US: u64 = 3_600_000_000;
/// Between two messages.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often, and how long apart, it is tried to tell the last of it: other threads keep the locks for moments only, but may
/// be kept from running meanwhile.
const TRIES: u32 = 100;
const BETWEEN: Duration = Duration::from_micros(50);
/// Different times in one message at most, of each kind; more are put together with their neighbours.
const SAMPLES_MAX: usize = 2000;

/// One interval's measurements, in microseconds.
struct Measured {
    wait: Histogram<u32>,
    service: Histogram<u32>,
    total: Histogram<u32>,
}

impl Default for Measured {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds that make sense");
        Self {
            wait: empty(),
            service: empty(),
            total: empty(),
        }
    }
}

impl Measured {
    fn each(&mut self) -> [&mut Histogram<u32>; 3] {
        [&mut self.wait, &mut self.service, &mut self.total]
    }

    fn record(&mut self, times: Times, done_ns: u64) {
        let microseconds = |from: u64, to: u64| to.saturating_sub(from) / 1000;
        let values = [
            microseconds(times.taken, times.submitted),
            microseconds(times.submitted, done_ns),
            microseconds(times.taken, done_ns),
        ];
        for (histogram, value) in self.each().into_iter().zip(values) {
            histogram.saturating_record(value);
        }
    }

    fn add(&mut self, others: &mut Self) {
        for (histogram, other) in self.each().into_iter().zip(others.each()) {
            // Of the same bounds.
            histogram.add(&*other).expect("histograms that fit");
        }
    }

    fn clear(&mut self) {
        self.each().into_iter().for_each(Histogram::reset);
    }
}

/// A histogram's times and how often each was measured.
fn samples(histogram: &Histogram<u32>) -> Vec<Sample> {
    let recorded = histogram.iter_recorded();
    let mut samples: Vec<Sample> = recorded
        .map(|step| (step.value_iterated_to(), u64::from(step.count_at_value())))
        .collect();
    while samples.len() > SAMPLES_MAX {
        let together = |pair: &[Sample]| {
            let longest = pair.iter().map(|sample| sample.0).max().unwrap_or(0);
            (longest, pair.iter().map(|sample| sample.1).sum())
        };
        samples = samples.chunks(2).map(together).collect();
    }
    samples
}

/// A session's latencies since they were last told.
#[derive(Default)]
pub struct Latencies {
    measured: Mutex<Measured>,
    telling: Mutex<Telling>,
}

/// What only the thread that tells uses.
#[derive(Default)]
struct Telling {
    /// Empty, to be put in the place of what is told.
    spare: Measured,
    told: Option<Instant>,
}

impl Latencies {
    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation is seen to be done.
    pub fn record(&self, times: Times) {
        self.measured().record(times, now_ns());
    }

    /// Tells `vgpud` what there is, if the last time is long enough ago. What it does not hear is told the next time.
    pub fn tell(&self, session: &Session) {
        let mut telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if telling.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        telling.told = Some(Instant::now());
        std::mem::swap(&mut *self.measured(), &mut telling.spare);
        let (throttled_us, refused) = session.limits.take_counts();
        let measured = &mut telling.spare;
        if let Some(message) = message(measured, throttled_us, refused)
            && !session.turn.tell(&message)
        {
            self.measured().add(measured);
            session.limits.add_counts(throttled_us, refused);
        }
        measured.clear();
    }

    /// Tells `vgpud` that the process is about to end in order, and what there is since the last time. Waits for nobody.
    pub fn tell_last(&self, session: &Session) {
        soon(|| session.turn.try_tell(&FromExec::Leaving));
        // Not while another thread is telling: its message comes first.
        let Some(_telling) = soon(|| self.telling.try_lock().ok()) else {
            return;
        };
        let Some(mut measured) = soon(|| self.measured.try_lock().ok()) else {
            return;
        };
        let (throttled_us, refused) = session.limits.take_counts();
        if let Some(message) = message(&measured, throttled_us, refused) {
            soon(|| session.turn.try_tell(&message));
        }
        measured.clear();
    }
}

/// What `vgpud` is told, if there is anything.
fn message(measured: &Measured, throttled_us: u64, refused: u64) -> Option<FromExec> {
    if measured.total.is_empty() && throttled_us == 0 && refused == 0 {
        return None;
    }
    Some(FromExec::Latencies {
        wait: samples(&measured.wait),
        service: samples(&measured.service),
        total: samples(&measured.total),
        throttled_us,
        refused,
    })
}

/// What `attempt` brings within a few milliseconds.
fn soon<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    (0..TRIES).find_map(|_| {
        let got = attempt();
        if got.is_none() {
            std::thread::sleep(BETWEEN);
        }
        got
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times(taken_us: u64, submitted_us: u64) -> Times {
        Times {
            taken: taken_us * 1000,
            submitted: submitted_us * 1000,
        }
    }

    #[test]
    fn wait_and_service_add_up() {
        let mut measured = Measured::default();
        measured.record(times(100, 150), 1_150_000);
        assert_eq!(samples(&measured.wait), [(50, 1)]);
        assert_eq!(samples(&measured.service), [(1000, 1)]);
        assert_eq!(samples(&measured.total), [(1050, 1)]);
        let mut others = Measured::default();
        others.record(times(0, 50), 50_000);
        measured.add(&mut others);
        assert_eq!(samples(&measured.wait), [(50, 2)]);
        measured.clear();
        assert!(samples(&measured.wait).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// However many different times there are, a message stays short, and no measurement is lost.
        #[test]
        fn a_message_is_bounded_and_complete(us in proptest::collection::vec(0u64..100_000_000_000, 1..20_000)) {
            let mut measured = Measured::default();
            for &us in &us {
                measured.record(times(0, us), us * 1000);
            }
            let samples = samples(&measured.wait);
            prop_assert!(samples.len() <= SAMPLES_MAX);
            prop_assert_eq!(samples.iter().map(|sample| sample.1).sum::<u64>(), us.len() as u64);
            prop_assert!(samples.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
