//! Operations of streams on words of memory.

use super::abi::{CUcontext, CUstream, In, stream_api};
use super::context::{context, current};
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

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NodeParams {
    context: CUcontext,
    count: u32,
    operations: In<Operation>,
    flags: u32,
}

/// The operations of a node.
pub struct Words {
    context: CUcontext,
    operations: Vec<Operation>,
    works: Vec<Work>,
}

impl Words {
    /// What a node is to be made of.
    pub fn new(params: &NodeParams) -> Result<Self> {
        if params.flags != 0 || params.count > BATCH_MAX {
            return Err(error::INVALID_VALUE);
        }
        let context = context(params.context)?.handle;
        let operations: Vec<Operation> = (0..params.count as usize)
            .map(|at| params.operations.at(at))
            .collect::<Result<_>>()?;
        let works = operations.iter().map(|operation| of_batch(context, *operation));
        Ok(Self {
            context,
            works: works.collect::<Result<_>>()?,
            operations,
        })
    }

    /// What a stream captures.
    pub fn captured(work: &Work) -> Result<Self> {
        let operation = |wait: bool, width: Width, address: u64, value: u64, flags: u32| Operation {
            kind: match (wait, width) {
                (true, Width::Four) => 1,
                (false, Width::Four) => 2,
                (true, Width::Eight) => 4,
                (false, Width::Eight) => 5,
            },
            barrier_flags: 0,
            address,
            value,
            flags,
            _alias: 0,
            _unused: 0,
        };
        let operation = match *work {
            Work::Write {
                address,
                value,
                width,
            } => operation(false, width, address, value, 0),
            Work::WaitValue {
                address,
                value,
                width,
                ref condition,
            } => {
                let flags = match condition {
                    Condition::GreaterOrEqual => 0,
                    Condition::Equal => 1,
                    Condition::And => 2,
                    Condition::Nor => 3,
                };
                operation(true, width, address, value, flags)
            }
            _ => return Err(error::NOT_SUPPORTED),
        };
        Ok(Self {
            context: current()?.handle,
            operations: vec![operation],
            works: vec![work.clone()],
        })
    }

    /// What it does when it runs.
    pub fn works(&self) -> &[Work] {
        &self.works
    }

    /// What it is made of.
    pub fn params(&self) -> NodeParams {
        NodeParams {
            context: self.context,
            count: self.operations.len() as u32,
            operations: In(self.operations.as_ptr()),
            flags: 0,
        }
    }
}

/// Operations of a batch at most.
const BATCH_MAX: u32 = 256;

/// The work of an operation on a word that the stream's context may use.
fn work(context: CUcontext, width: Width, address: u64, make: impl FnOnce() -> Result<Work>) -> Result<Work> {
    let bytes = width.bytes();
    if !address.is_multiple_of(bytes) || !runtime()?.memory.is_accessible(address, bytes, Some(context)) {
        return Err(error::INVALID_VALUE);
    }
    make()
}

fn write(context: CUcontext, address: u64, value: u64, width: Width, flags: u32) -> Result<Work> {
    work(context, width, address, || match flags {
        // NVIDIA's refuses CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER.
        0 => Ok(Work::Write {
            address,
            value,
            width,
        }),
        _ => Err(error::INVALID_VALUE),
    })
}

fn wait(context: CUcontext, address: u64, value: u64, width: Width, flags: u32) -> Result<Work> {
    const FLUSH: u32 = 1 << 30;
    work(context, width, address, || {
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

fn of_batch(context: CUcontext, operation: Operation) -> Result<Work> {
    let Operation {
        address,
        value,
        flags,
        ..
    } = operation;
    // A 32-bit value lies in the lower half.
    let half = value & 0xffff_ffff;
    match operation.kind {
        1 => wait(context, address, half, Width::Four, flags),
        2 => write(context, address, half, Width::Four, flags),
        4 => wait(context, address, value, Width::Eight, flags),
        5 => write(context, address, value, Width::Eight, flags),
        // CU_STREAM_MEM_OP_BARRIER: what comes before is done before what comes after anyway.
        6 if operation.barrier_flags <= 1 => Ok(Work::Nothing),
        _ => Err(error::INVALID_VALUE),
    }
}

/// The context of a stream.
fn of(stream: &Stream) -> Result<CUcontext> {
    let context = stream.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
    Ok(context.handle)
}

fn batch(stream: &Arc<Stream>, count: u32, operations: In<Operation>, flags: u32) -> Result {
    if flags != 0 || count > BATCH_MAX {
        return Err(error::INVALID_VALUE);
    }
    let works: Vec<Work> = (0..count as usize)
        .map(|i| of_batch(of(stream)?, operations.at(i)?))
        .collect::<Result<_>>()?;
    works.into_iter().try_for_each(|work| stream.enqueue(work))
}

stream_api! { SYMBOLS, default;
    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(handle: CUstream, address: u64, value: u32, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(write(of(&stream)?, address, u64::from(value), Width::Four, flags)?)
    }

    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(handle: CUstream, address: u64, value: u64, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(write(of(&stream)?, address, value, Width::Eight, flags)?)
    }

    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(handle: CUstream, address: u64, value: u32, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(wait(of(&stream)?, address, u64::from(value), Width::Four, flags)?)
    }

    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(handle: CUstream, address: u64, value: u64, flags: u32) {
        let stream = stream(handle, default)?;
        stream.enqueue(wait(of(&stream)?, address, value, Width::Eight, flags)?)
    }

    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz(
        handle: CUstream, count: u32, operations: In<Operation>, flags: u32,
    ) {
        batch(&stream(handle, default)?, count, operations, flags)
    }
}
