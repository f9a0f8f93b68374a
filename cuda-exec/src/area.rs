//! The session area as the executor uses it: results and wake-ups for the guest. Nothing read here decides anything
//! but whether to wake somebody.
use crate::shared::Shared;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use vgpu_protocol::area;
use vgpu_protocol::result::{self, Code};

/// The area, once the guest has mapped it, and the way to say "look".
pub struct Area {
    words: OnceLock<Shared>,
    event: OwnedFd,
}

impl Area {
    /// `event` is the eventfd that has the backend send the guest an event.
    pub fn new(event: OwnedFd) -> Self {
        Self {
            words: OnceLock::new(),
            event,
        }
    }

    /// The guest has mapped it. Called once.
    pub fn set(&self, words: Shared) {
        // A second area is refused where mappings are admitted.
        let _ = self.words.set(words);
    }

    /// The words; `None` before the guest has mapped them.
    pub fn words(&self) -> Option<&Shared> {
        self.words.get()
    }

    /// Whether guest threads sleep.
    pub fn waiters(&self) -> bool {
        self.words
            .get()
            .is_some_and(|words| words.u32(area::WAITERS).load(SeqCst) != 0)
    }

    /// Something changed that sleeping guest threads may wait for.
    pub fn wake(&self) {
        let Some(words) = self.words.get() else { return };
        if words.u32(area::WAITERS).load(SeqCst) != 0 {
            words.u32(area::EVENTS).fetch_add(1, SeqCst);
            self.signal();
        }
    }

    fn signal(&self) {
        // Fails only if the counter is full, and then the backend has yet to look anyway.
        let _ = rustix::io::write(self.event.as_fd(), &1u64.to_ne_bytes());
    }

    /// Keeps the first failure of a call nobody waited for.
    pub fn context_error(&self, context: u32, code: Code) {
        let Some(words) = self.words.get() else { return };
        let word = words.i32(area::context_error(context));
        let _ = word.compare_exchange(result::SUCCESS, code, SeqCst, Relaxed);
        self.wake();
    }

    /// The session is over: every later call returns `code`.
    pub fn end(&self, code: Code) {
        if let Some(words) = self.words.get() {
            let _ = words
                .i32(area::STATUS)
                .compare_exchange(result::SUCCESS, code, SeqCst, Relaxed);
            words.u32(area::EVENTS).fetch_add(1, SeqCst);
        }
        self.signal();
    }
}
