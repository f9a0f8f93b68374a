//! What a thread that makes calls has of its own.
//!
//! It is reached through a plain thread-local pointer, which works also while a thread ends; the ring goes back when the
//! thread has ended. The main thread keeps its own until the process ends, so that calls in exit handlers work.
use crate::handles::Entry;
use crate::objects::Context;
use crate::ring::Ring;
use crate::session::{self, Session};
use crate::wait::Patience;
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, OnceLock};
use vgpu_protocol::result::Code;

thread_local! {
    static CURRENT: Cell<*const Thread> = const { Cell::new(ptr::null()) };
}

/// A calling thread.
#[derive(Default)]
pub struct Thread {
    /// Its contexts; the last is current.
    pub contexts: RefCell<Vec<Arc<Entry<Context>>>>,
    /// Its capture mode (CUstreamCaptureMode).
    pub mode: Cell<u32>,
    /// How long it spins.
    pub patience: Patience,
    /// It runs host functions, which may make no calls.
    pub runs_host_functions: Cell<bool>,
    ring: OnceCell<(Arc<Ring>, bool)>,
}

impl Thread {
    /// The calling thread.
    pub fn current() -> &'static Thread {
        let mut thread = CURRENT.get();
        if thread.is_null() {
            thread = Box::into_raw(Box::<Thread>::default());
            CURRENT.set(thread);
            if let Some(key) = end_key() {
                // SAFETY: a key of this process; the value is what `ended` expects.
                unsafe { libc::pthread_setspecific(key, thread.cast()) };
            }
        }
        // SAFETY: made above and freed only in `ended`, in this thread, which no call of this thread outlives.
        unsafe { &*thread }
    }

    /// The ring that it writes to.
    pub fn ring(&self, session: &Session) -> Result<&Arc<Ring>, Code> {
        if let Some((ring, _)) = self.ring.get() {
            return Ok(ring);
        }
        let acquired = session.rings.acquire(|index| session.make_ring(index))?;
        Ok(&self.ring.get_or_init(|| acquired).0)
    }
}

/// The key whose destructor runs when a thread other than the main one ends; `None` if the process has no key left,
/// and ended threads then keep their rings.
fn end_key() -> Option<libc::pthread_key_t> {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: a valid place for the key; the destructor stays loaded (the library is linked so).
        let failed = unsafe { libc::pthread_key_create(&mut key, Some(ended)) };
        (failed == 0).then_some(key)
    })
}

unsafe extern "C" fn ended(thread: *mut c_void) {
    CURRENT.set(ptr::null());
    // SAFETY: from `Thread::current` of this thread, once; nothing refers to it any more.
    let mut thread = unsafe { Box::from_raw(thread.cast::<Thread>()) };
    if let (Some((ring, true)), Ok(session)) = (thread.ring.take(), session::get()) {
        session.rings.give_back(ring);
    }
}
