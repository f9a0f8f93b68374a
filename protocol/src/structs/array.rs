//! Arrays, textures and surfaces.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What an array is to be (CUDA_ARRAY_DESCRIPTOR).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArrayDescriptor {
    /// Elements of a row.
    pub width: u64,
    /// Rows; 0 for an array of one dimension.
    pub height: u64,
    /// A CUarray_format.
    pub format: u32,
    /// Numbers in an element.
    pub channels: u32,
}

/// What an array is to be (CUDA_ARRAY3D_DESCRIPTOR).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Array3DDescriptor {
    /// Elements of a row.
    pub width: u64,
    /// Rows; 0 for an array of one dimension.
    pub height: u64,
    /// Slices or layers; 0 for an array of two dimensions.
    pub depth: u64,
    /// A CUarray_format.
    pub format: u32,
    /// Numbers in an element.
    pub channels: u32,
    /// CUDA_ARRAY3D_*.
    pub flags: u32,
    /// Nothing.
    pub reserved: u32,
}

impl Array3DDescriptor {
    /// CUDA_ARRAY3D_SPARSE and _DEFERRED_MAPPING: arrays that get their memory piece by piece.
    pub const WITHOUT_MEMORY: u32 = 0x40 | 0x80;
}

/// The memory that an array needs (CUDA_ARRAY_MEMORY_REQUIREMENTS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArrayMemory {
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub alignment: u64,
    /// Nothing.
    pub reserved: [u32; 4],
}

/// How a sparse array is divided (CUDA_ARRAY_SPARSE_PROPERTIES).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArraySparse {
    /// Elements of a tile in each dimension.
    pub tile: [u32; 3],
    /// The first level of the tail.
    pub tail_level: u32,
    /// Bytes of the tail.
    pub tail_size: u64,
    /// CU_ARRAY_SPARSE_PROPERTIES_*.
    pub flags: u32,
    /// Nothing.
    pub reserved: [u32; 5],
}

/// What a texture or a surface is of (CUDA_RESOURCE_DESC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceDesc {
    /// A CUresourcetype: one of the constants below.
    pub kind: u32,
    /// Nothing.
    pub reserved: u32,
    /// The array, or the address; then of memory the format and the channels, and its measures.
    pub words: [u64; 16],
    /// Nothing.
    pub flags: u32,
    /// Nothing.
    pub end: u32,
}

impl ResourceDesc {
    /// CU_RESOURCE_TYPE_ARRAY.
    pub const ARRAY: u32 = 0;
    /// CU_RESOURCE_TYPE_MIPMAPPED_ARRAY.
    pub const MIPMAPPED_ARRAY: u32 = 1;
    /// CU_RESOURCE_TYPE_LINEAR.
    pub const LINEAR: u32 = 2;
    /// CU_RESOURCE_TYPE_PITCH2D.
    pub const PITCH_2D: u32 = 3;

    /// Only what that kind of resource has; `None` if there is no such kind.
    pub fn cleaned(&self) -> Option<Self> {
        let words = match self.kind {
            Self::ARRAY | Self::MIPMAPPED_ARRAY => 1,
            Self::LINEAR => 3,
            Self::PITCH_2D => 5,
            _ => return None,
        };
        let mut clean = Self {
            kind: self.kind,
            flags: self.flags,
            ..Self::default()
        };
        clean.words[..words].copy_from_slice(&self.words[..words]);
        Some(clean)
    }

    /// The memory that it is of, if it is of memory: address and bytes. `None` if there can be none such.
    pub fn memory(&self) -> Option<(u64, u64)> {
        let [address, format, width, height, pitch, ..] = self.words;
        match self.kind {
            Self::LINEAR => Some((address, width)),
            Self::PITCH_2D => {
                let row = width.checked_mul(element_len(format as u32, (format >> 32) as u32))?;
                if height > 1 && pitch < row {
                    return None;
                }
                let before = height.saturating_sub(1).checked_mul(pitch)?;
                Some((address, before.checked_add(row)?))
            }
            _ => None,
        }
    }
}

/// Bytes of an element, at least: formats that are not numbers in channels are taken for bytes.
pub fn element_len(format: u32, channels: u32) -> u64 {
    let number = match format {
        // CU_AD_FORMAT_UNSIGNED_INT16, _SIGNED_INT16, _HALF; _UNSIGNED_INT32, _SIGNED_INT32, _FLOAT.
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        _ => 1,
    };
    number * u64::from(channels)
}

/// How a texture is read (CUDA_TEXTURE_DESC): numbers, which only the driver reads.
pub type TextureDesc = [u32; 26];
/// What part of an array a texture is of (CUDA_RESOURCE_VIEW_DESC): numbers, which only the driver reads.
pub type ResourceViewDesc = [u64; 14];

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(width: u64, height: u64, pitch: u64) -> Option<(u64, u64)> {
        let mut desc = ResourceDesc {
            kind: ResourceDesc::PITCH_2D,
            ..ResourceDesc::default()
        };
        desc.words[..5].copy_from_slice(&[4096, 4 << 32 | 0x20, width, height, pitch]);
        desc.memory()
    }

    #[test]
    fn memory_of_rows_reaches_to_the_last_of_them() {
        assert_eq!(rows(10, 3, 256), Some((4096, 2 * 256 + 160)));
        assert_eq!(rows(10, 1, 0), Some((4096, 160)));
        assert_eq!(rows(10, 2, 100), None);
        assert_eq!(rows(u64::MAX, 1, 0), None);
        assert_eq!(rows(1, u64::MAX, 1 << 40), None);
    }
}
