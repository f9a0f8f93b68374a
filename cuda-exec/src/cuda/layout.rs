//! The structures that cross the wire are those of the driver's headers.
use cudarc::driver::sys;
use std::mem::offset_of;
use vgpu_protocol::structs::*;

/// That fields lie where the driver has them, and that both are as long.
macro_rules! same {
    ($ours:ty, $theirs:ty: $($field:ident = $other:ident),*) => {
        $(assert_eq!(
            offset_of!($ours, $field),
            offset_of!($theirs, $other),
            "{}.{}", stringify!($ours), stringify!($field)
        );)*
        assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), "{}", stringify!($ours));
    };
}

#[test]
fn operations_on_words() {
    use sys::CUstreamBatchMemOpParams_union_CUstreamMemOpWaitValueParams_st as Wait;
    use sys::CUstreamBatchMemOpParams_union_CUstreamMemOpWriteValueParams_st as Write;
    assert_eq!(
        size_of::<BatchMemOp>(),
        size_of::<sys::CUstreamBatchMemOpParams>()
    );
    for (operation, address, value, flags, alias) in [
        (
            offset_of!(Wait, operation),
            offset_of!(Wait, address),
            offset_of!(Wait, __bindgen_anon_1),
            offset_of!(Wait, flags),
            offset_of!(Wait, alias),
        ),
        (
            offset_of!(Write, operation),
            offset_of!(Write, address),
            offset_of!(Write, __bindgen_anon_1),
            offset_of!(Write, flags),
            offset_of!(Write, alias),
        ),
    ] {
        assert_eq!(operation, offset_of!(BatchMemOp, operation));
        assert_eq!(address, offset_of!(BatchMemOp, address));
        assert_eq!(value, offset_of!(BatchMemOp, value));
        assert_eq!(flags, offset_of!(BatchMemOp, flags));
        assert_eq!(alias, offset_of!(BatchMemOp, alias));
    }
    type Barrier = sys::CUstreamBatchMemOpParams_union_CUstreamMemOpMemoryBarrierParams_st;
    assert_eq!(offset_of!(Barrier, flags), offset_of!(BatchMemOp, barrier_flags));
}

#[test]
fn arrays() {
    same!(ArrayDescriptor, sys::CUDA_ARRAY_DESCRIPTOR:
        width = Width, height = Height, format = Format, channels = NumChannels);
    same!(Array3DDescriptor, sys::CUDA_ARRAY3D_DESCRIPTOR:
        width = Width, height = Height, depth = Depth, format = Format, channels = NumChannels, flags = Flags);
    same!(ArrayMemory, sys::CUDA_ARRAY_MEMORY_REQUIREMENTS: size = size, alignment = alignment, reserved = reserved);
    same!(ArraySparse, sys::CUDA_ARRAY_SPARSE_PROPERTIES:
        tile = tileExtent, tail_level = miptailFirstLevel, tail_size = miptailSize, flags = flags);
}

#[test]
fn textures() {
    use sys::CUDA_RESOURCE_DESC_st__bindgen_ty_1__bindgen_ty_3 as Linear;
    use sys::CUDA_RESOURCE_DESC_st__bindgen_ty_1__bindgen_ty_4 as Rows;
    same!(ResourceDesc, sys::CUDA_RESOURCE_DESC: kind = resType, words = res, flags = flags);
    assert_eq!(size_of::<TextureDesc>(), size_of::<sys::CUDA_TEXTURE_DESC>());
    assert_eq!(
        size_of::<ResourceViewDesc>(),
        size_of::<sys::CUDA_RESOURCE_VIEW_DESC>()
    );
    // The words that `ResourceDesc::memory` looks at.
    assert_eq!(
        (
            offset_of!(Linear, devPtr),
            offset_of!(Linear, format),
            offset_of!(Linear, numChannels)
        ),
        (0, 8, 12)
    );
    assert_eq!(offset_of!(Linear, sizeInBytes), 16);
    assert_eq!((offset_of!(Rows, format), offset_of!(Rows, numChannels)), (8, 12));
    assert_eq!(
        (
            offset_of!(Rows, width),
            offset_of!(Rows, height),
            offset_of!(Rows, pitchInBytes)
        ),
        (16, 24, 32)
    );
}

#[test]
fn tensor_maps() {
    same!(TensorMap, sys::CUtensorMap: opaque = opaque);
}
