//! Waiting for a word that the host writes: spin for a while, then sleep until the host says "look".
use crate::session::Session;
use crate::thread::Thread;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vgpu_protocol::result::{self, Code};
use vgpu_transport::TransportError;

/// Spinning is tried for at most this long, and for at least this long. Waking a sleeper costs some 100 us and now and then
/// far more, so work that is done within a millisecond or two is waited for by looking, as NVIDIA's library does whatever
/// the time.
const SPIN_MAX_US: u32 = 2000;
const SPIN_MIN_US: u32 = 10;
/// How long a new thread tries it.
const SPIN_START_US: u32 = 200;
/// A sleeper looks again after this long even if nobody says so: a host that hangs must not keep this process from
/// seeing that its session has ended. Who naps asks this often whether the host is there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a thread spins before it sleeps, in microseconds. It follows what spinning was worth.
#[derive(Debug)]
pub struct Patience(std::cell::Cell<u32>);

impl Default for Patience {
    fn default() -> Self {
        Self(std::cell::Cell::new(SPIN_START_US))
    }
}

impl Patience {
    fn spin(&self) -> Duration {
        Duration::from_micros(self.0.get().into())
    }
    /// A wait took that long, asleep or not: the next one of its kind should end while spinning, if that is worth it.
    fn learn(&self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.0.set(if took <= SPIN_MAX_US {
            self.0.get().max(took.saturating_mul(2)).min(SPIN_MAX_US)
        } else {
            (self.0.get() / 2).max(SPIN_MIN_US)
        });
    }
}

/// What wakes a sleeper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The host raises an event when the word changes.
    Event,
    /// Nobody tells: look again in rising intervals.
    Nobody,
}

/// The count of events that this process saw last.
#[derive(Debug, Default)]
pub struct Seen(AtomicU64);

fn lone_cpu() -> bool {
    static LONE: OnceLock<bool> = OnceLock::new();
    *LONE.get_or_init(|| std::thread::available_parallelism().is_ok_and(|n| n.get() == 1))
}

impl Session {
    /// Waits until `poll` has an answer or the session has ended.
    pub fn wait<T>(
        &self,
        thread: &Thread,
        wake: Wake,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Result<T, Code> {
        if let Some(answer) = poll() {
            return Ok(answer);
        }
        let start = Instant::now();
        let answer = match self.spin(start, thread.patience.spin(), &mut poll)? {
            Some(answer) => answer,
            None if wake == Wake::Event => self.sleep(&mut poll)?,
            None => self.nap(&mut poll)?,
        };
        thread.patience.learn(start.elapsed());
        Ok(answer)
    }

    fn spin<T>(
        &self,
        start: Instant,
        limit: Duration,
        poll: &mut impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, Code> {
        loop {
            for _ in 0..32 {
                if let Some(answer) = poll() {
                    return Ok(Some(answer));
                }
                std::hint::spin_loop();
            }
            self.area.status()?;
            if start.elapsed() >= limit {
                return Ok(None);
            }
            if lone_cpu() {
                std::thread::yield_now();
            }
        }
    }

    fn sleep<T>(&self, poll: &mut impl FnMut() -> Option<T>) -> Result<T, Code> {
        loop {
            // The count is read before the last look, so that an event after the look ends the sleep.
            let seen = self.seen.0.load(Ordering::Acquire);
            let sleeper = self.area.sleeper();
            if let Some(answer) = poll() {
                return Ok(answer);
            }
            self.area.status()?;
            let now = self
                .transport
                .wait(seen, monotonic_ns() + LOOK_AGAIN.as_nanos() as u64);
            drop(sleeper);
            match now {
                Ok(now) => self.seen.0.store(now, Ordering::Release),
                Err(error) => return self.gone(&error, poll),
            }
        }
    }

    fn nap<T>(&self, poll: &mut impl FnMut() -> Option<T>) -> Result<T, Code> {
        let mut nap = Duration::from_micros(20);
        let mut asked = Instant::now();
        loop {
            if let Some(answer) = poll() {
                return Ok(answer);
            }
            self.area.status()?;
            // A host that died writes no status: the transport, which knows, is asked without sleeping there.
            if asked.elapsed() >= LOOK_AGAIN {
                let seen = self.seen.0.load(Ordering::Acquire);
                if let Err(error) = self.transport.wait(seen, monotonic_ns()) {
                    return self.gone(&error, poll);
                }
                asked = Instant::now();
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(1));
        }
    }

    /// The host is gone for good, though it perhaps gave the answer just before.
    fn gone<T>(&self, error: &TransportError, poll: &mut impl FnMut() -> Option<T>) -> Result<T, Code> {
        if let Some(answer) = poll() {
            return Ok(answer);
        }
        self.area.end(result::UNKNOWN);
        self.area.status()?;
        Err(self.code(error))
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_are_spun_for_and_long_ones_soon_not() {
        let patience = Patience::default();
        patience.learn(Duration::from_micros(700));
        assert_eq!(patience.spin(), Duration::from_micros(1400));
        patience.learn(Duration::from_micros(5));
        assert_eq!(patience.spin(), Duration::from_micros(1400));
        for _ in 0..10 {
            patience.learn(Duration::from_secs(1));
        }
        assert_eq!(patience.spin(), Duration::from_micros(u64::from(SPIN_MIN_US)));
    }
}
