//! Copies of rows, and who may access memory.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One side of a copy of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopySide {
    /// [`Self::HOST`], [`Self::DEVICE`] or [`Self::ARRAY`].
    pub memory: u32,
    /// The array's id; 0 for linear memory.
    pub array: u32,
    /// Where the first byte that is copied lies; 0 for an array.
    pub address: u64,
    /// Bytes from the start of a row to the first that is copied; 0 for linear memory, as the next three.
    pub x: u64,
    /// Rows before the first that is copied.
    pub y: u64,
    /// Slices before the first that is copied.
    pub z: u64,
    /// The mipmap level.
    pub level: u64,
    /// Bytes from row to row; 0 for an array, as the next.
    pub pitch: u64,
    /// Rows from slice to slice.
    pub rows: u64,
}

impl CopySide {
    /// CU_MEMORYTYPE_HOST: pinned memory of the guest's.
    pub const HOST: u32 = 1;
    /// CU_MEMORYTYPE_DEVICE.
    pub const DEVICE: u32 = 2;
    /// CU_MEMORYTYPE_ARRAY.
    pub const ARRAY: u32 = 3;
}

/// A copy of rows: `height` of them in each of `depth` slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Copy3D {
    /// From where.
    pub from: CopySide,
    /// Where to.
    pub to: CopySide,
    /// Bytes of a row.
    pub width: u64,
    /// Rows of a slice.
    pub height: u64,
    /// Slices.
    pub depth: u64,
}

/// How many bytes there are from the first to the last of `depth` slices of `height` rows of `width` bytes that lie `pitch`
/// bytes apart, `rows` of them in a slice; `None` if that is more than there can be, or if rows or slices overlap.
pub fn extent([width, height, depth]: [u64; 3], pitch: u64, rows: u64) -> Option<u64> {
    if width == 0 || height == 0 || depth == 0 {
        return Some(0);
    }
    let one_row = height == 1 && depth == 1;
    if (!one_row && pitch < width) || (depth > 1 && rows < height) {
        return None;
    }
    let before = (depth - 1).checked_mul(if depth > 1 { rows } else { 0 })?;
    let before = before.checked_add(height - 1)?;
    before
        .checked_mul(if one_row { 0 } else { pitch })?
        .checked_add(width)
}

/// CU_MEM_ALLOCATION_TYPE_PINNED.
const PINNED: u32 = 1;

/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR: memory that is to be exported to other processes as a file. There is no other way.
pub const HANDLE_TYPE_FILE: u32 = 1;

/// What a pool is to be (CUmemPoolProps).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PoolProps {
    /// A CUmemAllocationType.
    pub kind: u32,
    /// CUmemAllocationHandleTypes.
    pub handle_types: u32,
    /// Where its memory is.
    pub location: Location,
    /// Only Windows knows it.
    pub security: usize,
    /// Bytes at most; 0 for as many as there are.
    pub most: usize,
    /// What for.
    pub usage: u16,
    /// Nothing.
    pub reserved: [u8; 54],
}

impl PoolProps {
    /// A pool of a device's memory, at most that many bytes of it, or 0.
    pub fn new(location: Location, most: usize, usage: u16, handle_types: u32) -> Self {
        Self {
            kind: PINNED,
            handle_types,
            location,
            security: 0,
            most,
            usage,
            reserved: [0; 54],
        }
    }

    /// Whether it is memory for devices.
    pub fn is_pinned(&self) -> bool {
        self.kind == PINNED
    }
}

/// What memory is to be (CUmemAllocationProp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AllocationProps {
    /// A CUmemAllocationType.
    pub kind: u32,
    /// CUmemAllocationHandleTypes.
    pub handle_types: u32,
    /// Where it is.
    pub location: Location,
    /// Only Windows knows it.
    pub win32: usize,
    /// A CUmemAllocationCompType.
    pub compression: u8,
    /// Whether other devices are to access it.
    pub rdma: u8,
    /// What for.
    pub usage: u16,
    /// Nothing.
    pub reserved: [u8; 4],
}

impl AllocationProps {
    /// Memory of a device.
    pub fn new(location: Location, compression: u8, rdma: u8, usage: u16, handle_types: u32) -> Self {
        Self {
            kind: PINNED,
            handle_types,
            location,
            win32: 0,
            compression,
            rdma,
            usage,
            reserved: [0; 4],
        }
    }

    /// Whether it is memory for devices.
    pub fn is_pinned(&self) -> bool {
        self.kind == PINNED
    }
}

/// One side of a CUDA_MEMCPY3D, or of a CUDA_MEMCPY3D_PEER.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MemcpySide {
    /// Bytes from the start of a row.
    pub x: usize,
    /// Rows from the start of a slice.
    pub y: usize,
    /// Slices.
    pub z: usize,
    /// The mipmap level.
    pub level: usize,
    /// A CUmemorytype.
    pub memory: u32,
    /// Host memory.
    pub host: usize,
    /// Device memory.
    pub device: u64,
    /// An array.
    pub array: usize,
    /// The context, in the peer structure.
    pub context: usize,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Rows from slice to slice.
    pub rows: usize,
}

/// A CUDA_MEMCPY3D, or a CUDA_MEMCPY3D_PEER.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Memcpy3D {
    /// From where.
    pub from: MemcpySide,
    /// Where to.
    pub to: MemcpySide,
    /// Bytes of a row.
    pub width: usize,
    /// Rows of a slice.
    pub height: usize,
    /// Slices.
    pub depth: usize,
}

/// Who may access memory how (CUmemAccessDesc).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Access {
    /// Who.
    pub location: Location,
    /// CUmemAccess_flags: 0, 1 to read, 3 to read and write.
    pub flags: u32,
}

/// A place for memory (CUmemLocation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Location {
    /// A CUmemLocationType.
    pub kind: u32,
    /// Which of them.
    pub id: i32,
}

impl Location {
    /// CU_MEM_LOCATION_TYPE_DEVICE.
    pub const DEVICE: u32 = 1;
    /// CU_MEM_LOCATION_TYPE_HOST.
    pub const HOST: u32 = 2;
    /// CU_MEM_LOCATION_TYPE_HOST_NUMA and _HOST_NUMA_CURRENT.
    pub const HOST_NUMA: std::ops::RangeInclusive<u32> = 3..=4;

    /// That device.
    pub fn of_device(ordinal: u32) -> Self {
        Self {
            kind: Self::DEVICE,
            id: ordinal as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_reach_from_the_first_byte_to_the_last() {
        assert_eq!(extent([10, 1, 1], 0, 0), Some(10));
        assert_eq!(extent([10, 3, 1], 16, 0), Some(2 * 16 + 10));
        assert_eq!(extent([10, 3, 2], 16, 4), Some((4 + 2) * 16 + 10));
        assert_eq!(extent([0, 3, 2], 0, 0), Some(0));
        assert_eq!(extent([10, 0, 2], 0, 0), Some(0));
        assert_eq!(extent([10, 3, 0], 0, 0), Some(0));
    }

    #[test]
    fn extents_that_cannot_be_are_none() {
        assert_eq!(extent([10, 2, 1], 9, 0), None);
        assert_eq!(extent([10, 2, 2], 10, 1), None);
        assert_eq!(extent([10, 1, 2], 9, 1), None);
        assert_eq!(extent([1, u64::MAX, 1], 2, 0), None);
        assert_eq!(extent([1, 1, u64::MAX], 1, u64::MAX), None);
        assert_eq!(extent([u64::MAX, 2, 1], u64::MAX, 0), None);
        assert_eq!(extent([2, 2, u64::MAX], 2, 2), None);
    }
}
