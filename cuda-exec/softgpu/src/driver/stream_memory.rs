//! Operations of streams on words of memory.

use super::abi::{CUstream, In, stream_api};
use super::error::{self, Result};
use super::runtime::runtime;
use super::stream::{Stream, stream};
use super::work::{Condition, Width, Work};
use std::sync::Arc;

/// `CUstreamBatchMemOpParams`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Operation {
    kind: u32,
    barrier_flags: u32,
    address: u64,
    value: u64,
    flags: u32,
    _alias: u64,
    _unused: u64,
}

/// Operations of a batch at most.
const BATCH_MAX: u32 = 256;

/// The work of an operation on a word that the stream's context may use.
fn work(stream: &Stream, width: Width, address: u64, make: impl FnOnce() -> Result<Work>) -> Result<Work> {
    let context = stream.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
    let bytes = width.bytes();
    if !address.is_multiple_of(bytes)
        || !runtime()?
            .memory
            .is_accessible(address, bytes, Some(context.handle))
    {
        return Err(error::INVALID_VALUE);
    }
    make()
}

fn write(stream: &Stream, address: u64, value: u64, width: Width, flags: u32) -> Result<Work> {
    work(stream, width, address, || match flags {
        // CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER changes nothing here.
        0 | 1 => Ok(Work::Write {
            address,
            value,
            width,
        }),
        _ => Err(error::INVALID_VALUE),
    })
}

fn wait(stream: &Stream, address: u64, value: u64, width: Width, flags: u32) -> Result<Work> {
    const FLUSH: u32 = 1 << 30;
    work(stream, width, address, || {
        let condition = match flags & !FLUSH {
            0 => Condition::GreaterOrEqual,
            1 => Condition::Equal,
            2 => Condition::And,
            3 => Condition::Nor,
            _ => return Err(error::INVALID_VALUE),
        };
        Ok(Work::WaitValue {
            address,
            value,
            width,
            condition,
        })
    })
}

fn of_batch(stream: &Stream, operation: Operation) -> Result<Work> {
    let Operation {
        address,
        value,
        flags,
        ..
    } = operation;
    // A 32-bit value lies in the lower half.
    let half = value & 0xffff_ffff;
    match operation.kind {
        1 => wait(stream, address, half, Width::Four, flags),
        2 => write(stream, address, half, Width::Four, flags),
        4 => wait(stream, address, value, Width::Eight, flags),
        5 => write(stream, address, value, Width::Eight, flags),
        // CU_STREAM_MEM_OP_BARRIER: what comes before is done before what comes after anyway.
        6 if operation.barrier_flags <= 1 => Ok(Work::Nothing),
        _ => Err(error::INVALID_VALUE),
    }
}

fn batch(stream: &Arc<Stream>, count: u32, operations: In<Operation>, flags: u32) -> Result {
    if flags != 0 || count > BATCH_MAX {
        return Err(error::INVALID_VALUE);
    }
    let works: Vec<Work> = (0..count as usize)
        .map(|i| of_batch(stream, operations.at(i)?))
        .collect::<Result<_>>()?;
    works.into_iter().try_for_each(|work| stream.enqueue(work))
}

stream_api! { SYMBOLS, default;
    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(handle: CUstream, address: u64, value: u32, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(write(&stream, address, u64::from(value), Width::Four, flags)?)
    }

    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(handle: CUstream, address: u64, value: u64, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(write(&stream, address, value, Width::Eight, flags)?)
    }

    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(handle: CUstream, address: u64, value: u32, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(wait(&stream, address, u64::from(value), Width::Four, flags)?)
    }

    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(handle: CUstream, address: u64, value: u64, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(wait(&stream, address, value, Width::Eight, flags)?)
    }

    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz(
        handle: CUstream, count: u32, operations: In<Operation>, flags: u32,
    ) {
        batch(&stream(handle, default)?, count, operations, flags)
    }
}
