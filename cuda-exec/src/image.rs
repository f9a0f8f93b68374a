//! Module images: copied once out of guest memory into a sealed file, and kept once however often they are loaded.
use crate::memory::HostRange;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vgpu_protocol::limits::IMAGES_LEN_MAX;

const PAGE: usize = vgpu_protocol::limits::PAGE_LEN as usize;

/// A module image: read-only, followed by at least one zero byte and then by an inaccessible page.
#[derive(Debug)]
pub struct Image {
    base: *mut u8,
    len: usize,
    reserved: usize,
}

// SAFETY: the memory is sealed against writing and belongs to this value.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// An image of our own.
    pub fn new(bytes: &[u8]) -> std::io::Result<Self> {
        Self::write(bytes.len(), |file, done| {
            Ok(rustix::io::write(file, &bytes[done..])?)
        })
    }

    /// Copies a range of guest memory. The kernel copies it, so it does not matter what the guest does meanwhile.
    fn copy(from: &HostRange<'_>) -> std::io::Result<Self> {
        Self::write(from.len() as usize, |file, done| from.write_to(file, done as u64))
    }

    /// Makes an image of `len` bytes, of which `write` writes some from an offset on.
    fn write(
        len: usize,
        write: impl Fn(BorrowedFd<'_>, usize) -> std::io::Result<usize>,
    ) -> std::io::Result<Self> {
        let file = rustix::fs::memfd_create("vgpu-image", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut done = 0;
        while done < len {
            match write(file.as_fd(), done)? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                n => done += n,
            }
        }
        rustix::fs::ftruncate(&file, len as u64 + 1)?;
        rustix::fs::fcntl_add_seals(
            &file,
            SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )?;
        Self::map(file.as_fd(), len)
    }

    fn map(file: BorrowedFd<'_>, len: usize) -> std::io::Result<Self> {
        let mapped = (len + 1).next_multiple_of(PAGE);
        let reserved = mapped + PAGE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let image = Self {
            base: base.cast(),
            len,
            reserved,
        };
        // SAFETY: replaces the front of the reservation just made.
        unsafe {
            rustix::mm::mmap(
                base,
                mapped,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                0,
            )
        }?;
        Ok(image)
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.base
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, sealed against change, and alive as long as this value.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and nobody holds a pointer into it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.reserved) };
    }
}

/// Images that are in use, by their hash.
#[derive(Default)]
pub struct Images {
    images: Mutex<HashMap<[u8; 32], Weak<Image>>>,
    /// Bytes of what libcuda made of images and keeps in memory of its own.
    made: AtomicU64,
}

/// Bytes that libcuda keeps; they count as images until this is dropped.
pub struct Made {
    images: &'static Images,
    len: u64,
}

impl Drop for Made {
    fn drop(&mut self) {
        self.images.made.fetch_sub(self.len, Relaxed);
    }
}

impl Images {
    /// Counts what libcuda has made, unless that is more than may be kept.
    pub fn made(&'static self, len: u64) -> std::io::Result<Made> {
        self.make_room(len)?;
        self.made.fetch_add(len, Relaxed);
        Ok(Made { images: self, len })
    }

    /// Whether an image of `len` bytes may be kept beside those that are in use. Rings that load at the same time may each find
    /// that there is room: so it is exceeded by an image per ring at most.
    fn make_room(&self, len: u64) -> std::io::Result<()> {
        let mut images = self.lock();
        images.retain(|_, image| image.strong_count() > 0);
        let kept = images
            .values()
            .filter_map(Weak::upgrade)
            .map(|image| image.len as u64);
        let kept = kept.sum::<u64>() + self.made.load(Relaxed);
        if kept.saturating_add(len) > IMAGES_LEN_MAX {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Weak<Image>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image in a range of guest memory. An error of kind `OutOfMemory` if there would be more of them than may be kept.
    pub fn take(&self, from: &HostRange<'_>) -> std::io::Result<Arc<Image>> {
        self.make_room(from.len())?;
        let image = Image::copy(from)?;
        let hash: [u8; 32] = Sha256::digest(image.bytes()).into();
        let mut images = self.lock();
        if let Some(known) = images.get(&hash).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let image = Arc::new(image);
        images.insert(hash, Arc::downgrade(&image));
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_in_use_count_and_others_do_not() {
        let images: &'static Images = Box::leak(Box::default());
        let image = Arc::new(Image::new(b"kept").unwrap());
        images
            .images
            .lock()
            .unwrap()
            .insert([1; 32], Arc::downgrade(&image));
        assert!(images.make_room(IMAGES_LEN_MAX - 4).is_ok());
        assert!(images.make_room(IMAGES_LEN_MAX - 3).is_err());
        drop(image);
        assert!(images.make_room(IMAGES_LEN_MAX).is_ok());
        let made = images.made(IMAGES_LEN_MAX).unwrap();
        assert!(images.make_room(1).is_err() && images.made(1).is_err());
        drop(made);
        assert!(images.made(1).is_ok());
        assert!(images.images.lock().unwrap().is_empty());
    }
}
