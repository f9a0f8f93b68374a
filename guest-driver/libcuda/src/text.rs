//! What kernels print: the host hands it out behind what is waited for, and it goes to this process' standard output; what the
//! host's library says of a failed assertion goes to standard error. Both by the C library's streams, so that it stands in order
//! with what the program prints.
use crate::objects::Stream;
use crate::ring::Caller;
use crate::session::Call;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_protocol::ring::op;

unsafe extern "C" {
    /// The C library's streams.
    static stdout: *mut libc::FILE;
    static stderr: *mut libc::FILE;
}

/// Prints text for standard output and for standard error.
pub fn print(out: &[u8], error: &[u8]) {
    // SAFETY: the C library sets them before any code of this library runs, and they stay.
    let streams = unsafe { [(stdout, out), (stderr, error)] };
    for (stream, text) in streams {
        if text.is_empty() || stream.is_null() {
            continue;
        }
        // SAFETY: a stream of the C library, which locks it, and bytes of that length.
        unsafe {
            libc::fwrite(text.as_ptr().cast::<c_void>(), 1, text.len(), stream);
            libc::fflush(stream);
        }
    }
}

/// Prints the last text of a session, once.
pub fn print_last(text: impl FnOnce() -> Option<(Vec<u8>, Vec<u8>)>) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::AcqRel)
        && let Some((out, error)) = text()
    {
        print(&out, &error);
    }
}

/// What was waited for.
#[derive(Clone, Copy)]
pub enum Waited<'a> {
    /// All work of a context.
    Context,
    /// A stream.
    Stream(&'a Stream),
    /// The event with that number.
    Event(u32),
}

impl Call {
    /// Prints what kernels have printed before what was waited for in this context. It costs nothing unless kernels print.
    pub fn print(&self, context: u32, waited: Waited<'_>) {
        if !self.session.area.has_text() {
            return;
        }
        let Ok(ring) = self.thread.ring(self.session) else {
            return;
        };
        let mut wait = match waited {
            Waited::Context => (op::TEXT_OF_CONTEXT, 0),
            Waited::Stream(stream) => (op::TEXT_OF_STREAM, stream.word),
            Waited::Event(event) => (op::TEXT_OF_EVENT, event.into()),
        };
        let caller = Caller {
            context,
            mode: Some(self.thread.mode.get()),
        };
        // Whatever goes wrong, the wait itself has succeeded.
        while let Ok((out, error, more)) = ring.text(self.session, self.thread, caller, wait) {
            print(&out, &error);
            if !more {
                break;
            }
            wait = (op::TEXT_OF_NOTHING, 0);
        }
    }
}
