//! How many blocks of a kernel a multiprocessor holds, were it one of the GPU whose attributes this one shows.

use super::abi::{CUfunction, Out, api};
use super::device::SHARED_OPTIN;
use super::error::{self, Result};
use super::module::Function;
use super::runtime::runtime;
use std::sync::atomic::Ordering;

/// Of a multiprocessor, as the device's attributes say: threads, blocks, bytes of shared memory.
const THREADS: i32 = 2048;
const BLOCKS: i32 = 32;
const SHARED: usize = 228 << 10;
/// Bytes of shared memory that every block takes beside its own.
const RESERVED: usize = 1 << 10;
const WARP: i32 = 32;

fn active_blocks(function: &Function, block: i32, dynamic: usize) -> Result<i32> {
    if block <= 0 {
        return Err(error::INVALID_VALUE);
    }
    let limit = function.max_dynamic_shared.load(Ordering::Relaxed) as usize;
    if block > function.kernel.max_threads as i32 || dynamic > limit {
        return Ok(0);
    }
    let threads = (block + WARP - 1) / WARP * WARP;
    let shared = function.kernel.shared_bytes + dynamic + RESERVED;
    Ok((THREADS / threads).min(BLOCKS).min((SHARED / shared) as i32))
}

api! { SYMBOLS;
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>, function: CUfunction, block: i32, shared: usize, flags: u32,
    ) {
        let function = runtime()?.functions.get(function)?;
        // CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE
        if flags & !1 != 0 {
            return Err(error::INVALID_VALUE);
        }
        blocks.set(active_blocks(&function, block, shared)?)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(shared: Out<usize>, function: CUfunction, blocks: i32, block: i32) {
        let function = runtime()?.functions.get(function)?;
        if blocks <= 0 || block <= 0 || blocks > active_blocks(&function, block, 0)? {
            return Err(error::INVALID_VALUE);
        }
        let each = SHARED / blocks as usize;
        let left = each.min(SHARED_OPTIN as usize + RESERVED).saturating_sub(RESERVED + function.kernel.shared_bytes);
        shared.set(left)
    }
}
