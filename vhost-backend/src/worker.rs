//! The one place that starts threads: they are named, and a panic ends only the thread.
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Starts a thread that runs `work`.
pub fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        contain(&name, work);
    })?;
    Ok(())
}

/// Runs `work`; a panic in it is logged and goes no further. Whether it came to its end.
pub fn contain(name: &str, work: impl FnOnce()) -> bool {
    // What `work` shares with other threads is behind locks that all users take as they find them.
    let ended = catch_unwind(AssertUnwindSafe(work));
    if let Err(panic) = &ended {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        log::error!("{name}: internal error: {message}");
    }
    ended.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_contained() {
        assert!(!contain("test", || panic!("expected in this test")));
        assert!(contain("test", || ()));
    }
}
