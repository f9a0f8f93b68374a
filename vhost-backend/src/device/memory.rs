//! The guest's memory as executors get it: one file per region, and places in them.
use rustix::fs::SealFlags;
use std::os::fd::OwnedFd;
use vgpu_protocol::host::ExecRun;
use vgpu_protocol::limits::{MEMORY_REGIONS_MAX, PAGE_LEN};
use vgpu_protocol::virtio::Run;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Why a front end's memory is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// More regions than executors can be told of.
    #[error("{0} memory regions, more than {MEMORY_REGIONS_MAX}")]
    Regions(usize),
    /// A region that no other process can map.
    #[error(
        "the memory region at {0:#x} is not a shared file (with QEMU: memory-backend-memfd with share=on)"
    )]
    NotShared(u64),
    /// Shrinking the file would kill whoever touches the memory.
    #[error(
        "the memory region at {0:#x} is not a memfd sealed against shrinking (with QEMU: memory-backend-memfd)"
    )]
    NotSealed(u64),
    /// A region outside its file, or not made of whole pages.
    #[error("the memory region at {0:#x} is outside its file or not aligned to pages")]
    Bounds(u64),
    /// The system failed.
    #[error("memory region")]
    Os(#[from] std::io::Error),
}

/// A region: guest-physical memory that lies side by side in one file.
#[derive(Debug)]
struct Region {
    gpa: u64,
    len: u64,
    /// Offset of its start in the file, in bytes.
    offset: u64,
    file: OwnedFd,
    /// Device and inode: which file it is.
    identity: (u64, u64),
}

/// All of a guest's memory, by rising guest-physical address.
#[derive(Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// Takes what the front end has shared, if executors can use it.
    pub fn of(guest: &GuestMemoryMmap<()>) -> Result<Self, MemoryError> {
        let count = guest.num_regions();
        if count > MEMORY_REGIONS_MAX {
            return Err(MemoryError::Regions(count));
        }
        let mut regions = Vec::with_capacity(count);
        for region in guest.iter() {
            let (gpa, len) = (region.start_addr().raw_value(), region.len());
            let place = region.file_offset().ok_or(MemoryError::NotShared(gpa))?;
            let file = crate::fd::duplicate(place.file())?;
            let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| MemoryError::NotSealed(gpa))?;
            if !seals.contains(SealFlags::SHRINK) {
                return Err(MemoryError::NotSealed(gpa));
            }
            let stat = rustix::fs::fstat(&file).map_err(std::io::Error::from)?;
            let end = place.start().checked_add(len);
            let inside = end.is_some_and(|end| end <= u64::try_from(stat.st_size).unwrap_or(0));
            if !inside || [gpa, len, place.start()].iter().any(|n| n % PAGE_LEN != 0) {
                return Err(MemoryError::Bounds(gpa));
            }
            regions.push(Region {
                gpa,
                len,
                offset: place.start(),
                file,
                identity: (stat.st_dev, stat.st_ino),
            });
        }
        regions.sort_by_key(|region| region.gpa);
        Ok(Self { regions })
    }

    /// Whether both are the same files at the same places.
    pub fn same(&self, other: &Self) -> bool {
        let key = |region: &Region| (region.gpa, region.len, region.offset, region.identity);
        self.regions.iter().map(key).eq(other.regions.iter().map(key))
    }

    /// Each region's file, and how many bytes of it belong to the guest's memory at most.
    pub fn files(&self) -> impl Iterator<Item = (&OwnedFd, u64)> {
        self.regions
            .iter()
            .map(|region| (&region.file, region.offset + region.len))
    }

    /// Where the runs lie in the files; `None` if a part of one is not guest memory. A run that crosses from one
    /// region to the next becomes several.
    pub fn translate(&self, runs: &[Run]) -> Option<Vec<ExecRun>> {
        let mut places = Vec::with_capacity(runs.len());
        for run in runs {
            let mut gpa = run.gpa;
            let mut left = run.len;
            while left > 0 {
                let index = self
                    .regions
                    .partition_point(|region| region.gpa <= gpa)
                    .checked_sub(1)?;
                let region = self.regions.get(index)?;
                let inside = gpa - region.gpa;
                let len = region.len.checked_sub(inside).filter(|&rest| rest > 0)?.min(left);
                places.push(ExecRun {
                    region: u32::try_from(index).ok()?,
                    reserved: 0,
                    offset: region.offset + inside,
                    len,
                });
                left -= len;
                gpa = gpa.checked_add(len)?;
            }
        }
        Some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

    fn guest(places: &[(u64, u64, u64)], sealed: bool) -> GuestMemoryMmap<()> {
        let regions = places
            .iter()
            .map(|&(gpa, len, offset)| {
                let file = if sealed {
                    crate::fd::sealed_memory("test", offset + len).unwrap()
                } else {
                    let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
                    let file = rustix::fs::memfd_create("test", flags).unwrap();
                    rustix::fs::ftruncate(&file, offset + len).unwrap();
                    file
                };
                let place = FileOffset::new(File::from(file), offset);
                let mapping = MmapRegion::from_file(place, len as usize).unwrap();
                GuestRegionMmap::new(mapping, GuestAddress(gpa)).unwrap()
            })
            .collect();
        GuestMemoryMmap::from_regions(regions).unwrap()
    }

    #[test]
    fn memory_that_may_shrink_is_refused() {
        let error = Memory::of(&guest(&[(0, 4096, 0)], false)).unwrap_err();
        assert!(matches!(error, MemoryError::NotSealed(0)));
        let anonymous = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        assert!(matches!(Memory::of(&anonymous), Err(MemoryError::NotShared(0))));
    }

    #[test]
    fn runs_across_regions_are_split_and_holes_refused() {
        let memory = Memory::of(&guest(
            &[(0, 8192, 4096), (8192, 8192, 0), (1 << 20, 4096, 0)],
            true,
        ))
        .unwrap();
        let places = memory.translate(&[Run { gpa: 4096, len: 8192 }]).unwrap();
        let got: Vec<_> = places
            .iter()
            .map(|run| (run.region, run.offset, run.len))
            .collect();
        assert_eq!(got, [(0, 8192, 4096), (1, 0, 4096)]);
        assert!(
            memory
                .translate(&[Run {
                    gpa: 12288,
                    len: 8192
                }])
                .is_none()
        );
        assert!(
            memory
                .translate(&[Run {
                    gpa: u64::MAX - 4095,
                    len: 4096
                }])
                .is_none()
        );
        assert!(
            memory
                .translate(&[Run {
                    gpa: 1 << 20,
                    len: u64::MAX - 4095
                }])
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn what_is_translated_lies_inside_the_files(gpa: u64, len in 1u64..1 << 40, near in 0u64..40) {
            let memory = Memory::of(&guest(&[(0, 8192, 4096), (8192, 8192, 0), (1 << 20, 4096, 0)], true)).unwrap();
            for run in [Run { gpa, len }, Run { gpa: near * 4096, len: len % 65536 + 1 }] {
                if let Some(places) = memory.translate(&[run]) {
                    let files: Vec<u64> = memory.files().map(|(_, len)| len).collect();
                    prop_assert_eq!(places.iter().map(|place| place.len).sum::<u64>(), run.len);
                    for place in places {
                        prop_assert!(place.offset + place.len <= files[place.region as usize]);
                    }
                }
            }
        }
    }
}
