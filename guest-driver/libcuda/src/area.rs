//! The session area as this side sees it: atomic words at fixed offsets.
use crate::text;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use vgpu_protocol::area;
use vgpu_protocol::result::{self, Code};

/// An address of memory that both sides map, and that stays mapped as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub struct Shared(u64);

impl Shared {
    /// The memory at `addr`.
    ///
    /// # Safety
    /// It is page-aligned, mapped readable and writable, and stays so until the process ends or until nobody uses
    /// the value any more; every access from this process is by offsets inside it.
    pub unsafe fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// The 64-bit word at `offset`.
    pub fn u64(self, offset: u64) -> &'static AtomicU64 {
        debug_assert_eq!(offset % 8, 0);
        // SAFETY: inside mapped memory that stays (see `new`), aligned; the host accesses it atomically too.
        unsafe { AtomicU64::from_ptr((self.0 + offset) as *mut u64) }
    }

    /// The 32-bit word at `offset`.
    pub fn u32(self, offset: u64) -> &'static AtomicU32 {
        debug_assert_eq!(offset % 4, 0);
        // SAFETY: as in `u64`.
        unsafe { AtomicU32::from_ptr((self.0 + offset) as *mut u32) }
    }

    /// The signed 32-bit word at `offset`.
    pub fn i32(self, offset: u64) -> &'static AtomicI32 {
        debug_assert_eq!(offset % 4, 0);
        // SAFETY: as in `u64`.
        unsafe { AtomicI32::from_ptr((self.0 + offset) as *mut i32) }
    }

    /// The bytes at `offset`.
    pub fn ptr(self, offset: u64) -> *mut u8 {
        (self.0 + offset) as *mut u8
    }
}

/// The session area.
#[derive(Clone, Copy, Debug)]
pub struct Area(Shared);

/// A code that has a name: kernels of the program that write where they must not may have written here.
fn named(code: Code) -> Code {
    let known = result::ALL.iter().any(|(known, ..)| *known == code);
    if known { code } else { result::UNKNOWN }
}

impl Area {
    /// The area in `shared`, of [`vgpu_protocol::limits::AREA_LEN`] bytes.
    pub fn new(shared: Shared) -> Self {
        Self(shared)
    }

    /// The error that ended the session, if one did.
    pub fn status(&self) -> Result<(), Code> {
        match self.0.i32(area::STATUS).load(Ordering::Acquire) {
            0 => Ok(()),
            code => {
                text::print_last(|| self.last_text());
                Err(named(code))
            }
        }
    }

    /// Whether the host may have text that kernels printed.
    pub fn has_text(&self) -> bool {
        self.0.u32(area::TEXT).load(Ordering::Acquire) != 0
    }

    /// What the host left for standard output and standard error when the session ended.
    fn last_text(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let len = |at| self.0.u32(area::LAST_TEXT + at).load(Ordering::Acquire) as usize;
        let (out, error) = (len(0), len(4));
        if out.checked_add(error)? > area::LAST_TEXT_LEN {
            return None;
        }
        let mut both = vec![0; out + error];
        // SAFETY: inside the area, which stays; the host does not write there any more.
        unsafe {
            both.as_mut_ptr()
                .copy_from(self.0.ptr(area::LAST_TEXT + 8), both.len())
        };
        let error = both.split_off(out);
        Some((both, error))
    }

    /// Ends the session for this process, unless it has ended.
    pub fn end(&self, code: Code) {
        let _ = self
            .0
            .i32(area::STATUS)
            .compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Counts the calling thread among the sleepers until the result is dropped.
    pub fn sleeper(&self) -> Sleeper {
        let count = self.0.u32(area::WAITERS);
        count.fetch_add(1, Ordering::SeqCst);
        Sleeper(count)
    }

    /// Whether a context has an error that nobody took.
    pub fn has_error(&self, context: u32) -> bool {
        self.0.i32(area::context_error(context)).load(Ordering::Acquire) != 0
    }

    /// Takes a context's error.
    pub fn take_error(&self, context: u32) -> Result<(), Code> {
        if !self.has_error(context) {
            return Ok(());
        }
        match self.0.i32(area::context_error(context)).swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            code => Err(named(code)),
        }
    }

    /// The sequence number that a slot has reached.
    pub fn fence(&self, slot: u32) -> u64 {
        self.0.u64(area::fence(slot)).load(Ordering::Acquire)
    }

    /// Says that a slot has reached a number, when nothing on the host can say so any more. It may be another stream's by now, which
    /// has come further.
    pub fn set_fence(&self, slot: u32, sequence: u64) {
        self.0
            .u64(area::fence(slot))
            .fetch_max(sequence, Ordering::AcqRel);
    }

    /// The cookie of a host-function slot, if the host asks for it to be run.
    pub fn host_function(&self, slot: usize) -> Option<u64> {
        let at = area::host_function(slot);
        (self.0.u32(at + 8).load(Ordering::Acquire) == area::HOST_FN_POSTED)
            .then(|| self.0.u64(at).load(Ordering::Relaxed))
    }

    /// Says that the function of a slot has run.
    pub fn host_function_done(&self, slot: usize) {
        self.0
            .u32(area::host_function(slot) + 8)
            .store(area::HOST_FN_DONE, Ordering::Release);
    }
}

/// One of the sleepers that the host counts.
pub struct Sleeper(&'static AtomicU32);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_is_unknown() {
        assert_eq!(named(result::ILLEGAL_ADDRESS), result::ILLEGAL_ADDRESS);
        assert_eq!(named(0x0707_0707), result::UNKNOWN);
    }
}
