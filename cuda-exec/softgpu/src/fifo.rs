//! What kernels print, kept until the program waits for something, as CUDA has it.
use std::sync::{Mutex, PoisonError};

/// Bytes that are kept at most, as by a context's default limit; what comes when it is full is left out.
const LEN: usize = 1 << 20;

static FIFO: Mutex<Vec<u8>> = Mutex::new(Vec::new());

unsafe extern "C" {
    /// The C library's.
    static stdout: *mut libc::FILE;
}

/// A kernel prints.
pub fn add(text: &[u8]) {
    let mut fifo = FIFO.lock().unwrap_or_else(PoisonError::into_inner);
    if fifo.len() + text.len() <= LEN {
        fifo.extend_from_slice(text);
    }
}

/// Writes it to standard output.
pub fn flush() {
    let text = std::mem::take(&mut *FIFO.lock().unwrap_or_else(PoisonError::into_inner));
    if text.is_empty() {
        return;
    }
    // SAFETY: the C library sets its stream before anything runs; it is given bytes of that length.
    unsafe {
        libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout);
        libc::fflush(stdout);
    }
}
