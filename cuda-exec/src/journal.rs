//! This process' log, on standard error. What a guest can have it write is limited in rate, so that it cannot fill the host's
//! disks; why a session ends, which is said once, is always written.
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// VM and session.
pub static LABEL: OnceLock<(u32, u32)> = OnceLock::new();

/// The target of lines that are always written.
pub const END: &str = "end";

/// Lines that may come at once.
const BURST: u32 = 100;
/// One more may come after this time.
const REFILL: Duration = Duration::from_millis(500);

/// Which lines are written.
#[derive(Debug)]
struct Limit {
    left: u32,
    refilled: Instant,
    left_out: u64,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled: now,
            left_out: 0,
        }
    }

    /// Whether a line may be written at `now`, and how many were left out since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let refills = now.saturating_duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        if refills > 0 {
            self.left = self
                .left
                .saturating_add(u32::try_from(refills).unwrap_or(BURST))
                .min(BURST);
            self.refilled = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.left_out += 1;
            return None;
        };
        self.left = left;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Starts the log, in what was this process' standard error. What `RUST_LOG` asks for below INFO is not limited.
pub fn start(to: Option<OwnedFd>) {
    let limit = Mutex::new(Limit::new(Instant::now()));
    let target = match to {
        Some(file) => env_logger::Target::Pipe(Box::new(File::from(file))),
        None => env_logger::Target::Stderr,
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .target(target)
        .format(move |line, record| {
            let limited = record.target() != END && record.level() <= log::Level::Info;
            let mut left_out = 0;
            if limited {
                let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
                match limit.admit(Instant::now()) {
                    Some(before) => left_out = before,
                    None => return Ok(()),
                }
            }
            let (vm, session) = LABEL.get().copied().unwrap_or_default();
            let (time, level) = (line.timestamp_millis(), record.level());
            write!(
                line,
                "{time} {level} vgpu-exec vm {vm} session {session}: {}",
                record.args()
            )?;
            if left_out > 0 {
                write!(line, " ({left_out} lines before it left out)")?;
            }
            writeln!(line)
        })
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_in_rate_and_what_is_left_out_is_counted() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        for _ in 0..BURST {
            assert_eq!(limit.admit(now), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(limit.admit(now), None);
        }
        now += REFILL;
        assert_eq!(limit.admit(now), Some(1000));
        assert_eq!(limit.admit(now), None);
        now += 1_000_000 * REFILL;
        assert_eq!(limit.admit(now), Some(1));
        assert_eq!(limit.left, BURST - 1);
    }
}
