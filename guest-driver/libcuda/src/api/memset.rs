//! Filling memory. The calls without a stream run on the null stream; as CUDA's, they wait only if the memory is the host's.
use super::cuda_pairs;
use crate::abi::{CUdeviceptr, CUstream};
use crate::session::{Call, NullStream};
use std::ffi::{c_uchar, c_uint, c_ushort};
use vgpu_protocol::calls::{
    Wire, cuMemsetD2D8Async, cuMemsetD2D16Async, cuMemsetD2D32Async, cuMemsetD8Async, cuMemsetD16Async,
    cuMemsetD32Async,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::extent;

/// Fills memory whose elements are `align` bytes and which reaches over `len` bytes; nothing if that is more than there can be.
fn fill<C: Wire>(
    to: CUdeviceptr,
    align: u64,
    len: Option<u64>,
    stream: Option<CUstream>,
    null: NullStream,
    arguments: impl FnOnce(u64) -> C::In,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    let sync = stream.is_none();
    let stream = call.stream(stream.unwrap_or(0), null)?;
    if sync {
        call.may_wait_for(&stream)?;
    }
    if len == Some(0) {
        return Ok(());
    }
    if !to.is_multiple_of(align) {
        return Err(result::INVALID_VALUE);
    }
    let len = len.ok_or(result::INVALID_VALUE)?;
    // A capture takes any address; no graph of that can be made executable. Which streams take part in one the host's library knows,
    // and refuses the others' fills itself.
    if !call.session.captures.any() {
        call.session.check_device(to, len)?;
    }
    if stream.context == context.id {
        call.submit::<C>(context.id, arguments(stream.word))?;
    } else {
        call.submit_answered::<C>(stream.context, arguments(stream.word), &[])?;
    }
    stream.did_submit();
    if sync && call.session.is_reached_host(to) {
        call.finish_stream(&stream)?;
    }
    Ok(())
}

macro_rules! memsets {
    ($($op:ident $type:ty: $sync:ident / $sync_ptds:ident, $async:ident / $async_ptsz:ident;)*) => {
        cuda_pairs! {$(
            fn $sync / $sync_ptds(to: CUdeviceptr, value: $type, count: usize) |null| {
                let (value, bytes) = (value.into(), size_of::<$type>() as u64);
                let len = bytes.checked_mul(count as u64);
                fill::<$op::Call>(to, bytes, len, None, null, |stream| $op::In { to, value, count: count as u64, stream })
            }
            fn $async / $async_ptsz(to: CUdeviceptr, value: $type, count: usize, stream: CUstream) |null| {
                let (value, bytes) = (value.into(), size_of::<$type>() as u64);
                let len = bytes.checked_mul(count as u64);
                fill::<$op::Call>(to, bytes, len, Some(stream), null, |stream| {
                    $op::In { to, value, count: count as u64, stream }
                })
            }
        )*}
    };
}

memsets! {
    cuMemsetD8Async c_uchar: cuMemsetD8_v2 / cuMemsetD8_v2_ptds, cuMemsetD8Async / cuMemsetD8Async_ptsz;
    cuMemsetD16Async c_ushort: cuMemsetD16_v2 / cuMemsetD16_v2_ptds, cuMemsetD16Async / cuMemsetD16Async_ptsz;
    cuMemsetD32Async c_uint: cuMemsetD32_v2 / cuMemsetD32_v2_ptds, cuMemsetD32Async / cuMemsetD32Async_ptsz;
}

/// Bytes from the first of `height` rows to the last; nothing if there cannot be so many, or if rows are not aligned.
fn rows(bytes: u64, pitch: usize, width: usize, height: usize) -> Option<u64> {
    let width = bytes.checked_mul(width as u64)?;
    let aligned = height <= 1 || (pitch as u64).is_multiple_of(bytes);
    extent([width, height as u64, 1], pitch as u64, 0).filter(|&len| aligned || len == 0)
}

macro_rules! memsets_of_rows {
    ($($op:ident $type:ty: $sync:ident / $sync_ptds:ident, $async:ident / $async_ptsz:ident;)*) => {
        cuda_pairs! {$(
            fn $sync / $sync_ptds(to: CUdeviceptr, pitch: usize, value: $type, width: usize, height: usize) |null| {
                let (value, bytes) = (value.into(), size_of::<$type>() as u64);
                let len = rows(bytes, pitch, width, height);
                let (pitch, width, height) = (pitch as u64, width as u64, height as u64);
                fill::<$op::Call>(to, bytes, len, None, null, |stream| $op::In { to, pitch, value, width, height, stream })
            }
            fn $async / $async_ptsz(
                to: CUdeviceptr, pitch: usize, value: $type, width: usize, height: usize, stream: CUstream,
            ) |null| {
                let (value, bytes) = (value.into(), size_of::<$type>() as u64);
                let len = rows(bytes, pitch, width, height);
                let (pitch, width, height) = (pitch as u64, width as u64, height as u64);
                fill::<$op::Call>(to, bytes, len, Some(stream), null, |stream| {
                    $op::In { to, pitch, value, width, height, stream }
                })
            }
        )*}
    };
}

memsets_of_rows! {
    cuMemsetD2D8Async c_uchar: cuMemsetD2D8_v2 / cuMemsetD2D8_v2_ptds, cuMemsetD2D8Async / cuMemsetD2D8Async_ptsz;
    cuMemsetD2D16Async c_ushort: cuMemsetD2D16_v2 / cuMemsetD2D16_v2_ptds, cuMemsetD2D16Async / cuMemsetD2D16Async_ptsz;
    cuMemsetD2D32Async c_uint: cuMemsetD2D32_v2 / cuMemsetD2D32_v2_ptds, cuMemsetD2D32Async / cuMemsetD2D32Async_ptsz;
}
