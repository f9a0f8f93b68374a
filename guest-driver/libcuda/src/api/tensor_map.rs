//! Tensor maps: the host's library computes them, from arguments alone, so that what it once said is kept.
use super::cuda;
use crate::abi::{CUdeviceptr, In, Out};
use crate::lock;
use crate::session::{Call, Session};
use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::Mutex;
use vgpu_protocol::calls::{
    Wire, cuTensorMapEncodeIm2col, cuTensorMapEncodeIm2colWide, cuTensorMapEncodeTiled,
    cuTensorMapReplaceAddress,
};
use vgpu_protocol::limits::WORDS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{TENSOR_RANK_MAX, TensorMap, TensorShape};
use vgpu_protocol::words::{Words, handle};
use zerocopy::{FromBytes, IntoBytes};

/// Maps that are kept at most.
const KEPT_MAX: usize = 1024;
/// What C promises of a map's address.
const ALIGN: usize = align_of::<TensorMap>();

/// Maps that were computed, by what they were computed from.
#[derive(Default)]
pub struct TensorMaps(Mutex<HashMap<Vec<u8>, TensorMap>>);

/// A caller's map.
type Place = Out<[u64; 16]>;

fn check_place(place: Place) -> Result<(), Code> {
    if place.check()?.addr() % ALIGN == 0 {
        Ok(())
    } else {
        Err(result::INVALID_VALUE)
    }
}

/// What must be said of a map may be said while no context is current.
fn context(call: &Call) -> u32 {
    call.context().map_or(handle::CONTEXT_NONE, |context| context.id)
}

fn compute<C: Wire>(place: Place, arguments: C::In, blob: &[u8]) -> Result<(), Code> {
    let call = Call::enter()?;
    check_place(place)?;
    let mut words = [0; WORDS_MAX];
    arguments.put(&mut words);
    let key = [C::OP.as_bytes(), words.as_bytes(), blob].concat();
    let session: &Session = call.session;
    let kept = &session.tensor_maps.0;
    let known = lock(kept).get(&key).copied();
    let map = match known {
        Some(map) => map,
        None => {
            let (_, said) = call.ask_with::<C>(context(&call), arguments, blob)?;
            let map = TensorMap::read_from_bytes(&said).map_err(|_| result::UNKNOWN)?;
            let mut kept = lock(kept);
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
            kept.insert(key, map);
            map
        }
    };
    place.set(map.opaque)
}

/// The first `len` elements of an array of C's.
fn array<T: Copy + Default>(from: In<T>, len: usize) -> Result<[T; TENSOR_RANK_MAX], Code> {
    let mut array = [T::default(); TENSOR_RANK_MAX];
    for (i, element) in array.iter_mut().enumerate().take(len) {
        *element = from.at(i)?;
    }
    Ok(array)
}

/// Reads what all maps have. Arrays are as long as the rank says, which no map has above [`TENSOR_RANK_MAX`].
fn shape(
    rank: c_uint,
    dims: In<u64>,
    strides: In<u64>,
    element_strides: In<c_uint>,
) -> Result<(TensorShape, usize), Code> {
    let rank = rank as usize;
    if !(1..=TENSOR_RANK_MAX).contains(&rank) {
        return Err(result::INVALID_VALUE);
    }
    let shape = TensorShape {
        dims: array(dims, rank)?,
        strides: array(strides, rank - 1)?,
        element_strides: array(element_strides, rank)?,
        ..TensorShape::default()
    };
    Ok((shape, rank))
}

cuda! {
    fn cuTensorMapEncodeTiled(
        map: Place, data_type: c_int, rank: c_uint, address: CUdeviceptr, dims: In<u64>, strides: In<u64>,
        box_dims: In<c_uint>, element_strides: In<c_uint>, interleave: c_int, swizzle: c_int, promotion: c_int, fill: c_int,
    ) {
        let (shape, len) = shape(rank, dims, strides, element_strides)?;
        let shape = TensorShape { box_dims: array(box_dims, len)?, ..shape };
        let arguments = cuTensorMapEncodeTiled::In { data_type, rank, address, interleave, swizzle, promotion, fill };
        compute::<cuTensorMapEncodeTiled::Call>(map, arguments, shape.as_bytes())
    }

    fn cuTensorMapEncodeIm2col(
        map: Place, data_type: c_int, rank: c_uint, address: CUdeviceptr, dims: In<u64>, strides: In<u64>,
        lower: In<c_int>, upper: In<c_int>, channels: c_uint, pixels: c_uint, element_strides: In<c_uint>,
        interleave: c_int, swizzle: c_int, promotion: c_int, fill: c_int,
    ) {
        let (shape, len) = shape(rank, dims, strides, element_strides)?;
        let corner = len.saturating_sub(2);
        let shape = TensorShape { lower: array(lower, corner)?, upper: array(upper, corner)?, ..shape };
        let arguments = cuTensorMapEncodeIm2col::In {
            data_type, rank, address, channels, pixels, interleave, swizzle, promotion, fill,
        };
        compute::<cuTensorMapEncodeIm2col::Call>(map, arguments, shape.as_bytes())
    }

    fn cuTensorMapEncodeIm2colWide(
        map: Place, data_type: c_int, rank: c_uint, address: CUdeviceptr, dims: In<u64>, strides: In<u64>,
        lower: c_int, upper: c_int, channels: c_uint, pixels: c_uint, element_strides: In<c_uint>,
        interleave: c_int, mode: c_int, swizzle: c_int, promotion: c_int, fill: c_int,
    ) {
        let (shape, _) = shape(rank, dims, strides, element_strides)?;
        let arguments = cuTensorMapEncodeIm2colWide::In {
            data_type, rank, address, lower, upper, channels, pixels, interleave, mode, swizzle, promotion, fill,
        };
        compute::<cuTensorMapEncodeIm2colWide::Call>(map, arguments, shape.as_bytes())
    }

    fn cuTensorMapReplaceAddress(map: Place, address: CUdeviceptr) {
        check_place(map)?;
        let given = map.get()?;
        compute::<cuTensorMapReplaceAddress::Call>(map, cuTensorMapReplaceAddress::In { address }, given.as_bytes())
    }
}
