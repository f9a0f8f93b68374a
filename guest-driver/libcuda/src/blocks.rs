//! Pinned memory in blocks, for what comes and goes where nothing may be waited for: to unmap memory the host waits for all
//! work, so a block that is given back is kept for the next one.
use crate::lock;
use crate::session::Session;
use std::collections::HashMap;
use std::sync::Mutex;
use vgpu_protocol::result::{self, Code};

/// Bytes of the smallest block.
const LEAST: u64 = 4096;
/// Smaller blocks are parts of one of this length, in bytes.
pub const SLAB: u64 = 1 << 20;

/// Blocks that nobody uses, by their length.
#[derive(Default)]
pub struct Blocks(Mutex<HashMap<u64, Vec<u64>>>);

/// A block; [`Session::give_block`] takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it lies, for both sides.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
}

impl Blocks {
    fn take(&self, len: u64) -> Option<u64> {
        lock(&self.0).get_mut(&len)?.pop()
    }

    fn add(&self, len: u64, addrs: impl IntoIterator<Item = u64>) {
        lock(&self.0).entry(len).or_default().extend(addrs);
    }

    /// Takes all that are memory of their own.
    fn take_whole(&self) -> Vec<Block> {
        let mut free = lock(&self.0);
        let whole = free.iter_mut().filter(|(len, _)| **len > SLAB);
        whole
            .flat_map(|(&len, addrs)| addrs.drain(..).map(move |addr| Block { addr, len }))
            .collect()
    }
}

impl Session {
    /// A block of at least that many bytes, which the GPU reaches.
    pub fn take_block(&self, bytes: u64) -> Result<Block, Code> {
        let len = bytes.max(LEAST).checked_next_power_of_two();
        let len = len.ok_or(result::OUT_OF_MEMORY)?;
        let block = |addr| Block { addr, len };
        if let Some(addr) = self.blocks.take(len) {
            return Ok(block(addr));
        }
        let addr = self.alloc(len.max(SLAB), true).or_else(|code| {
            // What is kept may be what is missing.
            let kept = self.blocks.take_whole();
            if kept.is_empty() {
                return Err(code);
            }
            for block in kept {
                self.free(block.addr, block.len)?;
            }
            self.alloc(len.max(SLAB), true)
        })?;
        if len < SLAB {
            self.blocks
                .add(len, (1..SLAB / len).map(|part| addr + part * len));
        }
        Ok(block(addr))
    }

    /// Nobody uses a block any more.
    pub fn give_block(&self, block: Block) {
        self.blocks.add(block.len, [block.addr]);
    }
}
