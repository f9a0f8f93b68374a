//! Filling memory. The calls without a stream run on the null stream; as CUDA's, they wait only if the memory is the host's.
use super::cuda_pairs;
use crate::abi::{CUdeviceptr, CUstream};
use crate::session::{Call, NullStream};
use std::ffi::{c_uchar, c_uint, c_ushort};
use vgpu_protocol::calls::{Wire, cuMemsetD8Async, cuMemsetD16Async, cuMemsetD32Async};
use vgpu_protocol::result::{self, Code};

fn fill<C: Wire>(
    to: CUdeviceptr,
    align: u64,
    count: usize,
    stream: Option<CUstream>,
    null: NullStream,
    arguments: impl FnOnce(u64) -> C::In,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    let sync = stream.is_none();
    let stream = call.stream(stream.unwrap_or(0), null)?;
    if sync && call.session.captures.any() {
        call.synchronize_stream(&stream)?;
    }
    if count == 0 {
        return Ok(());
    }
    if !to.is_multiple_of(align) {
        return Err(result::INVALID_VALUE);
    }
    let len = align.checked_mul(count as u64).ok_or(result::INVALID_VALUE)?;
    call.session.check_device(to, len)?;
    if stream.context == context.id {
        call.submit::<C>(context.id, arguments(stream.word))?;
    } else {
        call.submit_answered::<C>(stream.context, arguments(stream.word), &[])?;
    }
    stream.did_submit();
    if sync && call.session.is_in_arena(to) {
        call.synchronize_stream(&stream)?;
    }
    Ok(())
}

macro_rules! memsets {
    ($($op:ident $type:ty: $sync:ident / $sync_ptds:ident, $async:ident / $async_ptsz:ident;)*) => {
        cuda_pairs! {$(
            fn $sync / $sync_ptds(to: CUdeviceptr, value: $type, count: usize) |null| {
                let (value, bytes) = (value.into(), size_of::<$type>() as u64);
                fill::<$op::Call>(to, bytes, count, None, null, |stream| $op::In { to, value, count: count as u64, stream })
            }
            fn $async / $async_ptsz(to: CUdeviceptr, value: $type, count: usize, stream: CUstream) |null| {
                let (value, bytes) = (value.into(), size_of::<$type>() as u64);
                fill::<$op::Call>(to, bytes, count, Some(stream), null, |stream| {
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
