//! Warnings about what a guest did, limited in rate: a guest must not be able to flood the host's log.
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Warnings that may come at once.
const BURST: u32 = 20;
/// One more may come after this time.
const REFILL: Duration = Duration::from_secs(1);

/// A limit on warnings.
#[derive(Debug)]
pub struct Quiet {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: u32,
    refilled: Instant,
    suppressed: u64,
}

impl State {
    /// Whether a warning may be written at `now`, and how many were left out since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let refills = now.saturating_duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        if refills > 0 {
            self.left = self
                .left
                .saturating_add(u32::try_from(refills).unwrap_or(BURST))
                .min(BURST);
            self.refilled = now;
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Default for Quiet {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                left: BURST,
                refilled: Instant::now(),
                suppressed: 0,
            }),
        }
    }
}

impl Quiet {
    /// Writes a warning, or counts it if there were too many.
    pub fn warn(&self, message: std::fmt::Arguments<'_>) {
        let admitted = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(Instant::now());
        match admitted {
            Some(0) => log::warn!(target: "vgpu_backend", "{message}"),
            Some(n) => log::warn!(target: "vgpu_backend", "{message} ({n} warnings before it left out)"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let start = Instant::now();
        let mut state = State {
            left: BURST,
            refilled: start,
            suppressed: 0,
        };
        for _ in 0..BURST {
            assert_eq!(state.admit(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(state.admit(start), None);
        }
        assert_eq!(state.admit(start + REFILL), Some(1000));
        assert_eq!(state.admit(start + REFILL), None);
        assert_eq!(state.admit(start + 1000 * REFILL), Some(1));
    }
}
