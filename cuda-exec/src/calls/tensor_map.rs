//! Tensor maps. The library computes them from numbers; that the address is the guest's keeps others' out of its sight, what
//! a kernel may reach is the GPU's to say.
use crate::dispatch::handlers_of;
use crate::ring::{Consumer, Failure};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{TENSOR_RANK_MAX, TensorMap, TensorShape};
use zerocopy::{FromBytes, IntoBytes};

/// Checks what the library would follow, or look up.
fn check(ring: &Consumer, rank: u32, address: u64, blob: &[u8]) -> Result<TensorShape, Code> {
    if rank as usize > TENSOR_RANK_MAX {
        return Err(result::INVALID_VALUE);
    }
    check_address(ring, address)?;
    TensorShape::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)
}

/// A map may be of no address until it gets one.
fn check_address(ring: &Consumer, address: u64) -> Result<(), Code> {
    if address == 0 || ring.session.memory.view().is_device(address, 1) {
        Ok(())
    } else {
        Err(result::INVALID_VALUE)
    }
}

fn answer(
    reply: &mut Vec<u8>,
    encode: impl FnOnce(&mut TensorMap) -> Result<(), Code>,
) -> Result<(), Failure> {
    let mut map = TensorMap::default();
    encode(&mut map)?;
    reply.extend_from_slice(map.as_bytes());
    Ok(())
}

handlers_of! {
    cuTensorMapEncodeTiled(ring, a, blob, reply) {
        let s = check(ring, a.rank, a.address, blob)?;
        // SAFETY: the arrays have as many elements as any rank, and outlive the call.
        answer(reply, |map| unsafe {
            ring.session.cuda.tensor_maps.encode_tiled(
                map, a.data_type, a.rank, a.address, s.dims.as_ptr(), s.strides.as_ptr(), s.box_dims.as_ptr(),
                s.element_strides.as_ptr(), a.interleave, a.swizzle, a.promotion, a.fill,
            )
        })?;
        Ok(Out {})
    }

    cuTensorMapEncodeIm2col(ring, a, blob, reply) {
        let s = check(ring, a.rank, a.address, blob)?;
        // SAFETY: as above.
        answer(reply, |map| unsafe {
            ring.session.cuda.tensor_maps.encode_im2col(
                map, a.data_type, a.rank, a.address, s.dims.as_ptr(), s.strides.as_ptr(), s.lower.as_ptr(),
                s.upper.as_ptr(), a.channels, a.pixels, s.element_strides.as_ptr(), a.interleave, a.swizzle,
                a.promotion, a.fill,
            )
        })?;
        Ok(Out {})
    }

    cuTensorMapEncodeIm2colWide(ring, a, blob, reply) {
        let s = check(ring, a.rank, a.address, blob)?;
        // SAFETY: as above.
        answer(reply, |map| unsafe {
            ring.session.cuda.tensor_maps.encode_im2col_wide(
                map, a.data_type, a.rank, a.address, s.dims.as_ptr(), s.strides.as_ptr(), a.lower, a.upper,
                a.channels, a.pixels, s.element_strides.as_ptr(), a.interleave, a.mode, a.swizzle, a.promotion, a.fill,
            )
        })?;
        Ok(Out {})
    }

    cuTensorMapReplaceAddress(ring, a, blob, reply) {
        check_address(ring, a.address)?;
        let given = TensorMap::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
        answer(reply, |map| {
            *map = given;
            // SAFETY: a map that outlives the call.
            unsafe { ring.session.cuda.tensor_maps.replace_address(map, a.address) }
        })?;
        Ok(Out {})
    }
}
