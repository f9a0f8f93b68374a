//! Tensor maps.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Dimensions of a tensor at most.
pub const TENSOR_RANK_MAX: usize = 5;

/// A tensor map (CUtensorMap): what is in it only the driver knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct TensorMap {
    /// The driver's.
    pub opaque: [u64; 16],
}

/// The arrays that say what a tensor map is to be of, with zeros behind those of its dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TensorShape {
    /// Elements in each dimension.
    pub dims: [u64; TENSOR_RANK_MAX],
    /// Bytes from one element to the next, in each dimension but the first.
    pub strides: [u64; TENSOR_RANK_MAX],
    /// The elements that are taken in each dimension.
    pub element_strides: [u32; TENSOR_RANK_MAX],
    /// Of a tiled map the box.
    pub box_dims: [u32; TENSOR_RANK_MAX],
    /// Of one from images to columns the lower corner of the pixels' box.
    pub lower: [i32; TENSOR_RANK_MAX],
    /// And its upper corner.
    pub upper: [i32; TENSOR_RANK_MAX],
}
