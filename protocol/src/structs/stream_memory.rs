//! Operations of a stream on words of memory.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One operation of a batch (CUstreamBatchMemOpParams).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BatchMemOp {
    /// A CUstreamBatchMemOpType.
    pub operation: u32,
    /// The flags of a barrier, or of a flush.
    pub barrier_flags: u32,
    /// The word that is waited for or written.
    pub address: u64,
    /// The value; of a 32-bit operation its lower half.
    pub value: u64,
    /// The flags of a wait, or of a write.
    pub flags: u32,
    /// Nothing.
    pub reserved: u32,
    /// The driver's own.
    pub alias: u64,
    /// Nothing.
    pub unused: u64,
}

impl BatchMemOp {
    /// CU_STREAM_MEM_OP_WAIT_VALUE_32.
    pub const WAIT_32: u32 = 1;
    /// CU_STREAM_MEM_OP_WRITE_VALUE_32.
    pub const WRITE_32: u32 = 2;
    /// CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES: nothing writes remotely, and the devices say that they cannot.
    pub const FLUSH: u32 = 3;
    /// CU_STREAM_MEM_OP_WAIT_VALUE_64.
    pub const WAIT_64: u32 = 4;
    /// CU_STREAM_MEM_OP_WRITE_VALUE_64.
    pub const WRITE_64: u32 = 5;
    /// CU_STREAM_MEM_OP_BARRIER.
    pub const BARRIER: u32 = 6;

    /// Whether it waits.
    pub fn waits(&self) -> bool {
        matches!(self.operation, Self::WAIT_32 | Self::WAIT_64)
    }

    /// Bytes of its word: `Some(0)` if it has none, `None` if there is no such operation.
    pub fn word_len(&self) -> Option<u64> {
        match self.operation {
            Self::WAIT_32 | Self::WRITE_32 => Some(4),
            Self::WAIT_64 | Self::WRITE_64 => Some(8),
            Self::BARRIER => Some(0),
            _ => None,
        }
    }

    /// Whether its flags are such as there are. A wait that flushes remote writes needs another device's.
    pub fn has_good_flags(&self) -> bool {
        match self.operation {
            Self::WAIT_32 | Self::WAIT_64 => self.flags <= 3,
            // NVIDIA's library refuses a write without a barrier, whatever it documents.
            Self::WRITE_32 | Self::WRITE_64 => self.flags == 0,
            _ => self.barrier_flags <= 1,
        }
    }
}
