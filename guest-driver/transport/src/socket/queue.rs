//! The driver's side of a split virtqueue in memory that is shared with the device.
//!
//! Descriptors are laid out once and used again and again: buffer `i` of a queue is always described by the chain that
//! starts at descriptor `i`. No feature bits are used beyond VIRTIO_F_VERSION_1.
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use vgpu_protocol::limits::PAGE_LEN;

/// Entries of the queue's rings.
pub const LEN: u16 = vgpu_protocol::limits::QUEUE_LEN;
/// Bytes that a queue's rings take.
pub const RINGS_LEN: u64 = 3 * PAGE_LEN;
/// Offset of the available ring.
pub const AVAILABLE: u64 = PAGE_LEN;
/// Offset of the used ring.
pub const USED: u64 = 2 * PAGE_LEN;

const DESCRIPTOR_LEN: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const NO_NOTIFY: u16 = 1;

const _: () = assert!(LEN as u64 * DESCRIPTOR_LEN <= AVAILABLE);
const _: () = assert!(6 + 2 * LEN as u64 <= USED - AVAILABLE);
const _: () = assert!(6 + 8 * LEN as u64 <= RINGS_LEN - USED);

/// A descriptor's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

/// A queue's rings.
#[derive(Debug)]
pub struct Queue {
    rings: NonNull<u8>,
    /// Chains made available so far.
    available: u16,
    /// Chains taken back so far.
    used: u16,
}

// SAFETY: it is the only one that uses the rings in this process, and what it points to stays mapped, see `new`.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue whose rings are the [`RINGS_LEN`] bytes at `rings`.
    ///
    /// # Safety
    /// They are zeroed, shared memory, aligned to pages, that stays mapped as long as the queue exists; in this
    /// process nobody else uses them.
    pub unsafe fn new(rings: NonNull<u8>) -> Self {
        Self {
            rings,
            available: 0,
            used: 0,
        }
    }

    /// Describes a chain of buffers by the descriptors from `first` on.
    pub fn describe(&mut self, first: u16, chain: &[Buffer]) {
        for (index, buffer) in (first..LEN).zip(chain) {
            let last = usize::from(index - first) + 1 == chain.len();
            let mut flags = if last { 0 } else { NEXT };
            if buffer.writable {
                flags |= WRITE;
            }
            let place = u64::from(index) * DESCRIPTOR_LEN;
            self.put_u32(place, buffer.gpa as u32);
            self.put_u32(place + 4, (buffer.gpa >> 32) as u32);
            self.put_u32(place + 8, buffer.len);
            self.put_u16(place + 12, flags);
            self.put_u16(place + 14, if last { 0 } else { index + 1 });
        }
    }

    /// Makes the chain that starts at descriptor `first` available. Whether the device wants to be told.
    pub fn publish(&mut self, first: u16) -> bool {
        let place = AVAILABLE + 4 + 2 * u64::from(self.available % LEN);
        self.put_u16(place, first);
        self.available = self.available.wrapping_add(1);
        // The chain and its content come before the index.
        self.word16(AVAILABLE + 2)
            .store(self.available.to_le(), Ordering::Release);
        // The index comes before the look at what the device wants.
        fence(Ordering::SeqCst);
        u16::from_le(self.word16(USED).load(Ordering::Relaxed)) & NO_NOTIFY == 0
    }

    /// Takes back a chain that the device has used: its first descriptor, and how many bytes the device says it wrote.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if u16::from_le(self.word16(USED + 2).load(Ordering::Acquire)) == self.used {
            return None;
        }
        let place = USED + 4 + 8 * u64::from(self.used % LEN);
        let first = u32::from_le(self.word32(place).load(Ordering::Relaxed));
        let written = u32::from_le(self.word32(place + 4).load(Ordering::Relaxed));
        self.used = self.used.wrapping_add(1);
        Some(((first % u32::from(LEN)) as u16, written))
    }

    fn put_u16(&self, offset: u64, value: u16) {
        self.word16(offset).store(value.to_le(), Ordering::Relaxed);
    }

    fn put_u32(&self, offset: u64, value: u32) {
        self.word32(offset).store(value.to_le(), Ordering::Relaxed);
    }

    fn word16(&self, offset: u64) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset + 2 <= RINGS_LEN);
        // SAFETY: inside the rings and aligned, as just checked; shared with the device, so only used atomically.
        unsafe { AtomicU16::from_ptr(self.rings.as_ptr().add(offset as usize).cast()) }
    }

    fn word32(&self, offset: u64) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= RINGS_LEN);
        // SAFETY: as in `word16`.
        unsafe { AtomicU32::from_ptr(self.rings.as_ptr().add(offset as usize).cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C, align(4096))]
    struct Pages([u8; RINGS_LEN as usize]);

    /// The device's side, for one queue in this process.
    struct Device(NonNull<u8>, u16);

    impl Device {
        fn read(&self, offset: u64) -> u16 {
            // SAFETY: inside the pages of the test.
            unsafe { self.0.as_ptr().add(offset as usize).cast::<u16>().read() }
        }

        fn use_next(&mut self, written: u32) -> u16 {
            let first = self.read(AVAILABLE + 4 + 2 * u64::from(self.1 % LEN));
            let place = USED + 4 + 8 * u64::from(self.1 % LEN);
            self.1 = self.1.wrapping_add(1);
            // SAFETY: inside the pages of the test, and aligned.
            unsafe {
                let at = |offset: u64| self.0.as_ptr().add(offset as usize);
                at(place).cast::<u32>().write(u32::from(first));
                at(place + 4).cast::<u32>().write(written);
                at(USED + 2).cast::<u16>().write(self.1);
            }
            first
        }
    }

    #[test]
    fn chains_go_round_and_round() {
        let mut pages = Box::new(Pages([0; RINGS_LEN as usize]));
        let place = NonNull::from(&mut pages.0).cast();
        // SAFETY: zeroed, aligned, and only used by the two below, one after the other.
        let mut queue = unsafe { Queue::new(place) };
        let mut device = Device(place, 0);
        let buffer = |gpa, writable| Buffer {
            gpa,
            len: 8,
            writable,
        };
        queue.describe(4, &[buffer(1 << 33, false), buffer(64, true)]);
        assert_eq!([device.read(4 * 16 + 12), device.read(4 * 16 + 14)], [NEXT, 5]);
        assert_eq!([device.read(5 * 16 + 12), device.read(5 * 16 + 14)], [WRITE, 0]);
        assert_eq!(device.read(4 * 16 + 4), 2);
        // More often than the indices count.
        for round in 0..70_000u32 {
            assert!(queue.take_used().is_none());
            assert!(queue.publish(4));
            assert_eq!(device.use_next(round), 4);
            assert_eq!(queue.take_used(), Some((4, round)));
        }
    }
}
