//! Tensor maps: computed by the library, on no device.
use super::group::group;
use vgpu_protocol::structs::TensorMap;

group! {
    /// Functions of tensor maps.
    TensorMaps {
        raw encode_tiled = "cuTensorMapEncodeTiled" (map: *mut TensorMap, data_type: i32, rank: u32, address: u64,
            dims: *const u64, strides: *const u64, box_dims: *const u32, element_strides: *const u32,
            interleave: i32, swizzle: i32, promotion: i32, fill: i32);
        raw encode_im2col = "cuTensorMapEncodeIm2col" (map: *mut TensorMap, data_type: i32, rank: u32, address: u64,
            dims: *const u64, strides: *const u64, lower: *const i32, upper: *const i32, channels: u32, pixels: u32,
            element_strides: *const u32, interleave: i32, swizzle: i32, promotion: i32, fill: i32);
        raw encode_im2col_wide = "cuTensorMapEncodeIm2colWide" (map: *mut TensorMap, data_type: i32, rank: u32, address: u64,
            dims: *const u64, strides: *const u64, lower: i32, upper: i32, channels: u32, pixels: u32,
            element_strides: *const u32, interleave: i32, mode: i32, swizzle: i32, promotion: i32, fill: i32);
        raw replace_address = "cuTensorMapReplaceAddress" (map: *mut TensorMap, address: u64);
    }
}
