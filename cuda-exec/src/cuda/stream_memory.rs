//! Operations of streams on words of memory.
use super::Raw;
use super::group::group;
use vgpu_protocol::structs::BatchMemOp;

group! {
    /// These operations.
    StreamMemory {
        raw batch = "cuStreamBatchMemOp_v2" (stream: Raw, count: u32, operations: *mut BatchMemOp, flags: u32);
        raw wait32 = "cuStreamWaitValue32_v2" (stream: Raw, word: u64, value: u32, flags: u32);
        raw wait64 = "cuStreamWaitValue64_v2" (stream: Raw, word: u64, value: u64, flags: u32);
        raw write32 = "cuStreamWriteValue32_v2" (stream: Raw, word: u64, value: u32, flags: u32);
        raw write64 = "cuStreamWriteValue64_v2" (stream: Raw, word: u64, value: u64, flags: u32);
    }
}
