//! The host's monotonic clock, by which executors and `vgpud` tell each other times.
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It starts at 0 and is normalised.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
