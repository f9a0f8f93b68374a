//! Copies and fills.

use super::abi::{CUdeviceptr, CUstream, DefaultStream, stream_api};
use super::capture;
use super::error::{self, Result};
use super::memory::Kind;
use super::runtime::{Runtime, runtime};
use super::stream::{Stream, default_stream, stream, wait_for};
use super::work::Work;
use std::sync::Arc;

/// Pageable memory up to this size is copied at the call; the copy to the device then needs it no more.
const STAGED: u64 = 64 * 1024;

/// What an end of a copy must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Memory the device can access.
    Device,
    /// Host memory of any kind.
    Any,
}

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Device,
    Pinned,
    Pageable,
}

pub fn inspect(runtime: &Runtime, address: u64, len: u64, end: End) -> Result<Found> {
    match runtime.memory.find(address) {
        Some(range) => {
            if !runtime.memory.is_accessible(address, len, None) {
                // Host memory may be registered in part.
                if range.kind == Kind::Device || end == End::Device {
                    return Err(error::INVALID_VALUE);
                }
                return Ok(Found::Pageable);
            }
            Ok(if range.kind == Kind::Device {
                Found::Device
            } else {
                Found::Pinned
            })
        }
        None if end == End::Device || address == 0 || address.checked_add(len).is_none() => {
            Err(error::INVALID_VALUE)
        }
        // Also an address of the device's window where nothing is allocated.
        None if runtime.memory.in_window(address) => Err(error::INVALID_VALUE),
        None => Ok(Found::Pageable),
    }
}

fn copy(stream: &Arc<Stream>, to: (u64, End), from: (u64, End), len: usize, synchronous: bool) -> Result {
    let runtime = runtime()?;
    if len == 0 {
        return Ok(());
    }
    let target = inspect(runtime, to.0, len as u64, to.1)?;
    let source = inspect(runtime, from.0, len as u64, from.1)?;
    let work = Work::Copy {
        to: to.0,
        from: from.0,
        len,
    };
    if capture::add(stream, &work)? {
        return Ok(());
    }
    let between_device = target == Found::Device && source == Found::Device;
    if synchronous && !between_device {
        return wait_for(runtime, &stream.submit(Vec::new(), work)?);
    }
    if source == Found::Pageable && len as u64 <= STAGED && target != Found::Pageable {
        // SAFETY: the caller vouches for its own memory, as with any copy function.
        let data = unsafe { std::slice::from_raw_parts(from.0 as *const u8, len) }.into();
        return stream
            .submit(Vec::new(), Work::Upload { to: to.0, data })
            .map(|_| ());
    }
    let marker = stream.submit(Vec::new(), work)?;
    // Pageable memory cannot be left to the device: the call returns when it is no longer needed.
    if source == Found::Pageable || target == Found::Pageable {
        wait_for(runtime, &marker)
    } else {
        Ok(())
    }
}

fn fill(stream: &Arc<Stream>, to: u64, value: u32, size: u8, count: usize, synchronous: bool) -> Result {
    let runtime = runtime()?;
    let len = (count as u64)
        .checked_mul(u64::from(size))
        .ok_or(error::INVALID_VALUE)?;
    if !to.is_multiple_of(u64::from(size)) {
        return Err(error::INVALID_VALUE);
    }
    if len == 0 {
        return Ok(());
    }
    let work = Work::Fill {
        to,
        value,
        size,
        count,
    };
    // Of any address: whether there is memory is looked at when the graph is made executable.
    if capture::add(stream, &work)? {
        return Ok(());
    }
    let target = inspect(runtime, to, len, End::Device)?;
    let marker = stream.submit(Vec::new(), work)?;
    if synchronous && target == Found::Pinned {
        wait_for(runtime, &marker)
    } else {
        Ok(())
    }
}

fn sync_copy(default: DefaultStream, to: (u64, End), from: (u64, End), len: usize) -> Result {
    copy(&default_stream(default)?, to, from, len, true)
}

fn async_copy(
    handle: CUstream,
    default: DefaultStream,
    to: (u64, End),
    from: (u64, End),
    len: usize,
) -> Result {
    copy(&stream(handle, default)?, to, from, len, false)
}

stream_api! { SYMBOLS, default;
    fn cuMemcpy | cuMemcpy_ptds(to: CUdeviceptr, from: CUdeviceptr, len: usize) {
        sync_copy(default, (to, End::Any), (from, End::Any), len)
    }

    fn cuMemcpyAsync | cuMemcpyAsync_ptsz(to: CUdeviceptr, from: CUdeviceptr, len: usize, handle: CUstream) {
        async_copy(handle, default, (to, End::Any), (from, End::Any), len)
    }

    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(to: CUdeviceptr, from: u64, len: usize) {
        sync_copy(default, (to, End::Device), (from, End::Any), len)
    }

    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(to: u64, from: CUdeviceptr, len: usize) {
        sync_copy(default, (to, End::Any), (from, End::Device), len)
    }

    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(to: CUdeviceptr, from: CUdeviceptr, len: usize) {
        sync_copy(default, (to, End::Device), (from, End::Device), len)
    }

    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(to: CUdeviceptr, from: u64, len: usize, handle: CUstream) {
        async_copy(handle, default, (to, End::Device), (from, End::Any), len)
    }

    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(to: u64, from: CUdeviceptr, len: usize, handle: CUstream) {
        async_copy(handle, default, (to, End::Any), (from, End::Device), len)
    }

    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(to: CUdeviceptr, from: CUdeviceptr, len: usize, handle: CUstream) {
        async_copy(handle, default, (to, End::Device), (from, End::Device), len)
    }

    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(to: CUdeviceptr, value: u8, count: usize) {
        fill(&default_stream(default)?, to, u32::from(value), 1, count, true)
    }

    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(to: CUdeviceptr, value: u16, count: usize) {
        fill(&default_stream(default)?, to, u32::from(value), 2, count, true)
    }

    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(to: CUdeviceptr, value: u32, count: usize) {
        fill(&default_stream(default)?, to, value, 4, count, true)
    }

    fn cuMemsetD8Async | cuMemsetD8Async_ptsz(to: CUdeviceptr, value: u8, count: usize, handle: CUstream) {
        fill(&stream(handle, default)?, to, u32::from(value), 1, count, false)
    }

    fn cuMemsetD16Async | cuMemsetD16Async_ptsz(to: CUdeviceptr, value: u16, count: usize, handle: CUstream) {
        fill(&stream(handle, default)?, to, u32::from(value), 2, count, false)
    }

    fn cuMemsetD32Async | cuMemsetD32Async_ptsz(to: CUdeviceptr, value: u32, count: usize, handle: CUstream) {
        fill(&stream(handle, default)?, to, value, 4, count, false)
    }
}
