//! Memory that the guest writes at any moment: touched through atomics only, copied out once and then judged.
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// A range of mapped guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    base: *mut u8,
    len: u64,
}

// SAFETY: every access below is atomic, and the memory stays mapped (see `new`).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `len` bytes from `base` are mapped readable and writable for as long as this value or a copy of it is used, and
    /// this process touches them through such values only. `base` is aligned to 8 bytes.
    pub unsafe fn new(base: *mut u8, len: u64) -> Self {
        assert!(base.cast::<u64>().is_aligned());
        Self { base, len }
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        let inside = offset
            .checked_add(size_of::<T>() as u64)
            .is_some_and(|end| end <= self.len);
        assert!(
            inside && offset.is_multiple_of(align_of::<T>() as u64),
            "word outside shared memory"
        );
        // SAFETY: just checked to lie within the range.
        unsafe { self.base.add(offset as usize) }.cast()
    }

    /// The word at an offset, which is inside and aligned.
    pub fn u64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: inside, aligned, mapped, and accessed atomically by this process.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// The word at an offset, which is inside and aligned.
    pub fn u32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: as in `u64`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// The word at an offset, which is inside and aligned.
    pub fn i32(&self, offset: u64) -> &AtomicI32 {
        // SAFETY: as in `u64`.
        unsafe { AtomicI32::from_ptr(self.at(offset)) }
    }

    /// Copies words out, each read once.
    pub fn copy_out(&self, offset: u64, to: &mut [u64]) {
        for (i, word) in to.iter_mut().enumerate() {
            *word = self.u64(offset + 8 * i as u64).load(Ordering::Relaxed);
        }
    }

    /// Copies words in.
    pub fn copy_in(&self, offset: u64, from: &[u64]) {
        for (i, word) in from.iter().enumerate() {
            self.u64(offset + 8 * i as u64).store(*word, Ordering::Relaxed);
        }
    }

    /// Copies bytes in, with zeros up to a whole word.
    pub fn copy_bytes_in(&self, offset: u64, from: &[u8]) {
        for (i, bytes) in from.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.u64(offset + 8 * i as u64)
                .store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_in_comes_out() {
        let mut memory = [0u64; 8];
        // SAFETY: the array outlives the value and is not touched otherwise.
        let shared = unsafe { Shared::new(memory.as_mut_ptr().cast(), 64) };
        shared.copy_bytes_in(8, b"0123456789");
        shared.copy_in(32, &[7, 8]);
        let mut out = [1; 6];
        shared.copy_out(8, &mut out);
        assert_eq!(out[0], u64::from_le_bytes(*b"01234567"));
        assert_eq!(out[1], u64::from(b'8') | u64::from(b'9') << 8);
        assert_eq!(&out[3..5], &[7, 8]);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn nothing_outside_is_touched() {
        let mut memory = [0u64; 2];
        // SAFETY: as above.
        let shared = unsafe { Shared::new(memory.as_mut_ptr().cast(), 16) };
        shared.u64(16).load(Ordering::Relaxed);
    }
}
