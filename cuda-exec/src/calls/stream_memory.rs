//! Operations of streams on words of memory: of the guest's device memory, or of its registered memory.
use crate::dispatch::handlers_of;
use crate::memory::View;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use vgpu_protocol::calls::cuStreamBatchMemOp;
use vgpu_protocol::limits::BATCH_MEM_OPS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::RingError;
use vgpu_protocol::structs::BatchMemOp;
use zerocopy::FromBytes;

/// Refuses what the driver could take for an access to other memory.
pub(super) fn check(view: &View<'_>, operation: &BatchMemOp) -> Result<(), Code> {
    if operation.operation == BatchMemOp::FLUSH {
        return Err(result::NOT_SUPPORTED);
    }
    let word = operation.word_len().ok_or(result::INVALID_VALUE)?;
    let address = operation.address;
    let bad = word != 0 && !(address.is_multiple_of(word) && view.is_device(address, word));
    if bad || !operation.has_good_flags() {
        return Err(result::INVALID_VALUE);
    }
    Ok(())
}

/// Submits one operation, which `submit` does once it is checked.
fn one(
    ring: &Consumer,
    stream: u64,
    operation: BatchMemOp,
    submit: impl FnOnce(usize) -> Result<(), Code>,
) -> Result<(), Failure> {
    let stream = ring.stream(stream)?;
    let work = if operation.waits() {
        Work::Value
    } else {
        Work::Other
    };
    ring.submit(&stream, work, |raw, _| {
        let view = ring.session.memory.view();
        check(&view, &operation)?;
        submit(raw)?;
        Ok(view)
    })
}

/// A call with one operation: which it is, and libcuda's function for it.
macro_rules! word {
    ($($call:ident $method:ident $operation:ident;)*) => {
        handlers_of! {$(
            $call(ring, a) {
                let operation = BatchMemOp {
                    operation: BatchMemOp::$operation,
                    address: a.word,
                    flags: a.flags,
                    ..BatchMemOp::default()
                };
                one(ring, a.stream, operation, |raw| {
                    // SAFETY: the word was just looked up, and stays until the work is done (see `memory`).
                    unsafe { ring.session.cuda.stream_memory.$method(raw, a.word, a.value, a.flags) }
                })?;
                Ok(Out {})
            }
        )*}
    };
}
word! {
    cuStreamWaitValue32 wait32 WAIT_32;
    cuStreamWaitValue64 wait64 WAIT_64;
    cuStreamWriteValue32 write32 WRITE_32;
    cuStreamWriteValue64 write64 WRITE_64;
}

handlers_of! {
    cuStreamBatchMemOp(ring, a, blob, _reply) {
        let session = ring.session;
        let bad = RingError::Arguments { op: cuStreamBatchMemOp::OP };
        let operations = <[BatchMemOp]>::ref_from_bytes(blob).map_err(|_| bad)?;
        if operations.len() > BATCH_MEM_OPS_MAX {
            return Err(bad.into());
        }
        let mut operations = operations.to_vec();
        let stream = ring.stream(a.stream)?;
        let waits = operations.iter().any(BatchMemOp::waits);
        ring.submit(&stream, if waits { Work::Value } else { Work::Other }, |raw, _| {
            let view = session.memory.view();
            for operation in &mut operations {
                check(&view, operation)?;
                operation.alias = 0;
            }
            // SAFETY: the words were just looked up, and stay until the work is done; libcuda copies the operations.
            unsafe {
                session.cuda.stream_memory.batch(raw, operations.len() as u32, operations.as_mut_ptr(), a.flags)
            }?;
            Ok(view)
        })?;
        Ok(Out {})
    }
}
