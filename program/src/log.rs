//! A program's log, on its standard error. What `RUST_LOG` does not say otherwise is written from INFO on.
use env_logger::{Builder, Env};
use log::Level;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// What is to be started with `init`, perhaps after other settings.
pub fn builder() -> Builder {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    if is_journals() {
        // The journal knows the time, and takes the level from the beginning of the line, as sd-daemon(3) says.
        builder.format(|line, record| {
            let (priority, level) = (priority(record.level()), record.level());
            writeln!(line, "<{priority}>{level} {}: {}", record.target(), record.args())
        });
    }
    builder
}

/// Whether the standard error leads to systemd's journal.
fn is_journals() -> bool {
    let stderr = std::fs::metadata("/proc/self/fd/2");
    let stream = stderr.map(|found| format!("{}:{}", found.dev(), found.ino()));
    std::env::var("JOURNAL_STREAM").is_ok_and(|journal| stream.is_ok_and(|stream| stream == journal))
}

/// The journal's number for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
