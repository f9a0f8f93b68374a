//! Copies of much memory to where nobody reads it soon.
//!
//! What the device has written comes into the program's own memory in pieces of a megabyte. An ordinary copy first reads the
//! lines that it overwrites; stores past the cache do not, and leave the program's own lines in it.

/// Copies of fewer bytes go through the cache: they may be read soon, and there is little to win.
const BULK_LEN: usize = 256 << 10;

/// Copies `len` bytes.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `len` bytes, and they do not overlap.
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= BULK_LEN {
        // SAFETY: the caller's promise.
        return unsafe { copy_past_cache(from, to, len) };
    }
    // SAFETY: the caller's promise.
    unsafe { from.copy_to_nonoverlapping(to, len) };
}

/// [`copy`] with stores that every x86-64 processor has.
///
/// # Safety
/// As [`copy`].
#[cfg(target_arch = "x86_64")]
unsafe fn copy_past_cache(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    const WORD: usize = size_of::<__m128i>();
    let head = to.align_offset(LINE).min(len);
    let end = head + (len - head) / LINE * LINE;
    // SAFETY: all offsets are at most `len`, for which the caller's promise holds; `to + head` is a multiple of 64, so the
    // stores are aligned. The fence orders them before whatever the caller does next.
    unsafe {
        from.copy_to_nonoverlapping(to, head);
        for at in (head..end).step_by(LINE) {
            let line: [__m128i; LINE / WORD] =
                std::array::from_fn(|i| _mm_loadu_si128(from.add(at + i * WORD).cast()));
            for (i, word) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(at + i * WORD).cast(), word);
            }
        }
        _mm_sfence();
        from.add(end).copy_to_nonoverlapping(to.add(end), len - end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_no_other_is_touched() {
        let from: Vec<u8> = (0..BULK_LEN + 300).map(|i| (i * 7 + i / 251) as u8).collect();
        for (start, at, len) in [
            (0, 0, BULK_LEN),
            (1, 3, BULK_LEN + 100),
            (5, 64, BULK_LEN + 63),
            (2, 17, 1000),
            (0, 9, 0),
        ] {
            let mut to = vec![0xa5; BULK_LEN + 400];
            // SAFETY: both vectors are long enough.
            unsafe { copy(from.as_ptr().add(start), to.as_mut_ptr().add(at), len) };
            assert_eq!(to[at..at + len], from[start..start + len]);
            assert!(to[..at].iter().chain(&to[at + len..]).all(|byte| *byte == 0xa5));
        }
    }
}
