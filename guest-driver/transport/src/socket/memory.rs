//! The memory that the process shares with its backend: a sparse, sealed memfd, given out in runs of pages.
use crate::TransportError;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use vgpu_protocol::limits::PAGE_LEN;

/// Bytes that a process shares unless it says otherwise.
const LEN_DEFAULT: u64 = 8 << 30;
/// The least that is of use, in bytes.
pub(crate) const LEN_MIN: u64 = 16 << 20;

/// What the memory is called in the list of the process' mappings.
pub(crate) const NAME: &str = "vgpu-memory";

/// How many bytes to share: a number, optionally with K, M, G or T (powers of 1024) behind it; 8G if nothing is said.
pub fn len_from(text: Option<&str>) -> Result<u64, TransportError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(LEN_DEFAULT);
    };
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'T' | b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let len = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|len| (LEN_MIN..=1 << 46).contains(len));
    match len {
        Some(len) => Ok(len.next_multiple_of(PAGE_LEN)),
        None => Err(TransportError::NoDevice(format!(
            "VGPU_SOCKET_MEMORY={text}: expected a size such as 8G, from 16M to 64T"
        ))),
    }
}

/// Bytes of the memory that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// From the start of the memory; a multiple of the page size.
    pub offset: u64,
    /// A multiple of the page size.
    pub len: u64,
}

/// The shared memory.
pub struct Memory {
    file: OwnedFd,
    len: u64,
    free: Mutex<FreeList>,
}

impl Memory {
    /// Creates memory of `len` bytes, of which the first `kept` are never given out.
    pub fn new(len: u64, kept: u64) -> io::Result<Self> {
        let file = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, len)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self {
            file,
            len,
            free: Mutex::new(FreeList::new(kept, len)),
        })
    }

    /// All of it, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Its file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes `len` bytes of zeroed pages, in as few pieces as there are.
    pub fn allocate(&self, len: u64) -> Option<Vec<Extent>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).take(len)
    }

    /// Gives pages back; what was in them is gone.
    pub fn release(&self, extents: Vec<Extent>) -> io::Result<()> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for extent in extents {
            rustix::fs::fallocate(
                &self.file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                extent.offset,
                extent.len,
            )?;
            free.give(extent);
        }
        Ok(())
    }

    /// Maps the extents one after the other at `addr`, in the place of whatever is mapped there.
    pub fn map(&self, addr: u64, extents: &[Extent]) -> io::Result<()> {
        let mut at = addr as usize;
        for extent in extents {
            let len = extent.len as usize;
            // SAFETY: the caller of the transport owns the addresses, and says that what is there may go.
            unsafe {
                rustix::mm::mmap(
                    at as *mut _,
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::FIXED,
                    &self.file,
                    extent.offset,
                )?;
            }
            at += len;
        }
        Ok(())
    }

    /// Puts an inaccessible reservation where something was mapped.
    pub fn unmap(&self, addr: u64, len: u64) -> io::Result<()> {
        // SAFETY: as in `map`.
        unsafe {
            rustix::mm::mmap_anonymous(
                addr as usize as *mut _,
                len as usize,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )?;
        }
        Ok(())
    }
}

/// Free extents, none touching another.
#[derive(Debug)]
struct FreeList {
    by_offset: BTreeMap<u64, u64>,
}

impl FreeList {
    fn new(start: u64, end: u64) -> Self {
        Self {
            by_offset: BTreeMap::from([(start, end - start)]),
        }
    }

    /// The first extent that is long enough, or, if there is none, the longest ones that do together.
    fn take(&mut self, len: u64) -> Option<Vec<Extent>> {
        let enough = self.by_offset.iter().find(|(_, free)| **free >= len);
        if let Some((&offset, _)) = enough {
            self.cut(offset, len);
            return Some(vec![Extent { offset, len }]);
        }
        let mut longest: Vec<(u64, u64)> = self
            .by_offset
            .iter()
            .map(|(&offset, &free)| (free, offset))
            .collect();
        longest.sort_unstable_by_key(|&(free, offset)| (std::cmp::Reverse(free), offset));
        let mut left = len;
        let mut taken = Vec::new();
        for (free, offset) in longest {
            if left == 0 {
                break;
            }
            let len = free.min(left);
            taken.push(Extent { offset, len });
            left -= len;
        }
        if left > 0 {
            return None;
        }
        for extent in &taken {
            self.cut(extent.offset, extent.len);
        }
        Some(taken)
    }

    /// Takes the first `len` bytes of the free extent at `offset`.
    fn cut(&mut self, offset: u64, len: u64) {
        if let Some(free) = self.by_offset.remove(&offset)
            && free > len
        {
            self.by_offset.insert(offset + len, free - len);
        }
    }

    fn give(&mut self, extent: Extent) {
        let Extent { mut offset, mut len } = extent;
        if let Some((&before, &before_len)) = self.by_offset.range(..offset).next_back()
            && before + before_len == offset
        {
            self.by_offset.remove(&before);
            offset = before;
            len += before_len;
        }
        if let Some(after_len) = self.by_offset.remove(&(offset + len)) {
            len += after_len;
        }
        self.by_offset.insert(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(len_from(None).unwrap(), LEN_DEFAULT);
        assert_eq!(len_from(Some("64M")).unwrap(), 64 << 20);
        assert_eq!(
            len_from(Some("20000000")).unwrap(),
            20000000u64.next_multiple_of(PAGE_LEN)
        );
        for wrong in ["x", "1K", "-1G", "99999999999T", "G"] {
            assert!(len_from(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn released_pages_read_as_zero() {
        let memory = Memory::new(LEN_MIN, 0).unwrap();
        let extents = memory.allocate(PAGE_LEN).unwrap();
        assert_eq!(
            rustix::io::pwrite(memory.file(), b"secret", extents[0].offset).unwrap(),
            6
        );
        memory.release(extents).unwrap();
        let mut bytes = [1; 6];
        rustix::io::pread(memory.file(), &mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 6]);
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_all_come_back(sizes in proptest::collection::vec((1u64..40, any::<bool>()), 1..60)) {
            let end = 256 * PAGE_LEN;
            let mut free = FreeList::new(PAGE_LEN, end);
            let mut held: Vec<Vec<Extent>> = Vec::new();
            for (pages, give) in sizes {
                if give && !held.is_empty() {
                    for extent in held.swap_remove(pages as usize % held.len()) {
                        free.give(extent);
                    }
                } else if let Some(extents) = free.take(pages * PAGE_LEN) {
                    prop_assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), pages * PAGE_LEN);
                    held.push(extents);
                }
                let mut all: Vec<(u64, u64)> = held.iter().flatten().map(|extent| (extent.offset, extent.len)).collect();
                all.extend(free.by_offset.iter().map(|(&offset, &len)| (offset, len)));
                all.sort_unstable();
                let mut at = PAGE_LEN;
                for (offset, len) in all {
                    prop_assert_eq!(offset, at);
                    at += len;
                }
                prop_assert_eq!(at, end);
            }
            for extent in held.into_iter().flatten() {
                free.give(extent);
            }
            prop_assert_eq!(free.by_offset, BTreeMap::from([(PAGE_LEN, end - PAGE_LEN)]));
        }
    }
}
