//! Operations of streams on words of memory: waiting for a value, and writing one.
use super::cuda_pairs;
use crate::abi::{CUdeviceptr, CUstream, In};
use crate::session::{Call, NullStream};
use std::ffi::c_uint;
use vgpu_protocol::calls::{
    cuStreamBatchMemOp, cuStreamWaitValue32, cuStreamWaitValue64, cuStreamWriteValue32, cuStreamWriteValue64,
};
use vgpu_protocol::limits::BATCH_MEM_OPS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::BatchMemOp;
use zerocopy::IntoBytes;

/// CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1.
const V1_WORKS: usize = 92;

/// Refuses what the device may not access, and flags that there are not.
pub(super) fn check(call: &Call, operation: &BatchMemOp) -> Result<(), Code> {
    if operation.operation == BatchMemOp::FLUSH {
        return Err(result::NOT_SUPPORTED);
    }
    let word = operation.word_len().ok_or(result::INVALID_VALUE)?;
    if !operation.has_good_flags() {
        return Err(result::INVALID_VALUE);
    }
    if word != 0 {
        if !operation.address.is_multiple_of(word) {
            return Err(result::INVALID_VALUE);
        }
        call.session.check_device(operation.address, word)?;
    }
    Ok(())
}

/// The first version of these calls works only where the host's library says so.
fn may_use_v1() -> Result<Call, Code> {
    let call = Call::enter()?;
    let works = call
        .session
        .gpus
        .first()
        .is_some_and(|gpu| gpu.attributes[V1_WORKS] == 1);
    if works {
        Ok(call)
    } else {
        Err(result::NOT_SUPPORTED)
    }
}

fn batch(
    call: Call,
    stream: CUstream,
    null: NullStream,
    count: c_uint,
    operations: In<BatchMemOp>,
    flags: c_uint,
) -> Result<(), Code> {
    drop(call.context()?);
    let stream = call.stream(stream, null)?;
    if flags != 0 || count as usize > BATCH_MEM_OPS_MAX {
        return Err(result::INVALID_VALUE);
    }
    let operations: Vec<_> = (0..count as usize)
        .map(|i| operations.at(i))
        .collect::<Result<_, Code>>()?;
    operations
        .iter()
        .try_for_each(|operation| check(&call, operation))?;
    let arguments = cuStreamBatchMemOp::In {
        stream: stream.word,
        flags,
    };
    let blob = operations.as_bytes();
    if call.session.captures.any() {
        call.submit_answered::<cuStreamBatchMemOp::Call>(stream.context, arguments, blob)?;
    } else {
        call.submit_with::<cuStreamBatchMemOp::Call>(stream.context, arguments, blob.len(), |place| {
            place.copy_from_slice(blob);
        })?;
    }
    stream.did_submit();
    Ok(())
}

macro_rules! words {
    ($($op:ident $type:ty, $operation:ident: $v1:ident / $v1_ptsz:ident, $v2:ident / $v2_ptsz:ident;)*) => {$(
        #[allow(non_snake_case)]
        mod $v2 {
            use super::*;
            pub fn run(
                call: Call, stream: CUstream, null: NullStream, word: CUdeviceptr, value: $type, flags: c_uint,
            ) -> Result<(), Code> {
                drop(call.context()?);
                let stream = call.stream(stream, null)?;
                let operation = BatchMemOp::$operation;
                check(&call, &BatchMemOp { operation, address: word, flags, ..BatchMemOp::default() })?;
                let arguments = $op::In { stream: stream.word, word, value, flags };
                call.submit::<$op::Call>(stream.context, arguments)?;
                stream.did_submit();
                Ok(())
            }
        }
        cuda_pairs! {
            fn $v1 / $v1_ptsz(stream: CUstream, word: CUdeviceptr, value: $type, flags: c_uint) |null| {
                $v2::run(may_use_v1()?, stream, null, word, value, flags)
            }
            fn $v2 / $v2_ptsz(stream: CUstream, word: CUdeviceptr, value: $type, flags: c_uint) |null| {
                $v2::run(Call::enter()?, stream, null, word, value, flags)
            }
        }
    )*};
}

words! {
    cuStreamWaitValue32 u32, WAIT_32: cuStreamWaitValue32 / cuStreamWaitValue32_ptsz,
        cuStreamWaitValue32_v2 / cuStreamWaitValue32_v2_ptsz;
    cuStreamWaitValue64 u64, WAIT_64: cuStreamWaitValue64 / cuStreamWaitValue64_ptsz,
        cuStreamWaitValue64_v2 / cuStreamWaitValue64_v2_ptsz;
    cuStreamWriteValue32 u32, WRITE_32: cuStreamWriteValue32 / cuStreamWriteValue32_ptsz,
        cuStreamWriteValue32_v2 / cuStreamWriteValue32_v2_ptsz;
    cuStreamWriteValue64 u64, WRITE_64: cuStreamWriteValue64 / cuStreamWriteValue64_ptsz,
        cuStreamWriteValue64_v2 / cuStreamWriteValue64_v2_ptsz;
}

cuda_pairs! {
    fn cuStreamBatchMemOp / cuStreamBatchMemOp_ptsz(
        stream: CUstream, count: c_uint, operations: In<BatchMemOp>, flags: c_uint,
    ) |null| {
        batch(may_use_v1()?, stream, null, count, operations, flags)
    }

    fn cuStreamBatchMemOp_v2 / cuStreamBatchMemOp_v2_ptsz(
        stream: CUstream, count: c_uint, operations: In<BatchMemOp>, flags: c_uint,
    ) |null| {
        batch(Call::enter()?, stream, null, count, operations, flags)
    }
}
