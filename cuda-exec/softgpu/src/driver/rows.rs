//! Copies and fills of rows.

use super::abi::{CUcontext, CUdeviceptr, CUstream, DefaultStream, In, stream_api};
use super::capture;
use super::context::context;
use super::error::{self, Result};
use super::runtime::runtime;
use super::stream::{Stream, default_stream, stream, wait_for};
use super::transfer::{End, Found, inspect};
use super::work::{Rows, Work};
use std::sync::Arc;

/// `CU_MEMORYTYPE_HOST`, `_DEVICE`, `_UNIFIED`
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

/// One side of a CUDA_MEMCPY2D.
#[derive(Clone, Copy)]
#[repr(C)]
struct Side2D {
    x: usize,
    y: usize,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// A CUDA_MEMCPY2D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Copy2D {
    from: Side2D,
    to: Side2D,
    width: usize,
    height: usize,
}

/// One side of a CUDA_MEMCPY3D or CUDA_MEMCPY3D_PEER.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Side3D {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub level: usize,
    pub memory: u32,
    pub host: u64,
    pub device: u64,
    pub array: u64,
    pub context: CUcontext,
    pub pitch: usize,
    pub rows: usize,
}

/// A CUDA_MEMCPY3D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Copy3D {
    pub(super) from: Side3D,
    pub(super) to: Side3D,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: usize,
}

const _: () = assert!(size_of::<Copy2D>() == 128 && size_of::<Copy3D>() == 200);

impl Copy2D {
    fn rows(self) -> Copy3D {
        let side = |side: Side2D| Side3D {
            x: side.x,
            y: side.y,
            z: 0,
            level: 0,
            memory: side.memory,
            host: side.host,
            device: side.device,
            array: side.array,
            context: 0,
            pitch: side.pitch,
            rows: self.height,
        };
        Copy3D {
            from: side(self.from),
            to: side(self.to),
            width: self.width,
            height: self.height,
            depth: 1,
        }
    }
}

/// An array as the memory that it is; an array must hold all that is copied.
fn unfolded(side: &Side3D, [width, height, depth]: [usize; 3]) -> Result<Side3D> {
    const ARRAY: u32 = 3;
    if side.memory != ARRAY {
        return Ok(*side);
    }
    let array = runtime()?.arrays.get(side.array)?;
    let whole = array.size();
    let fits = [(side.x, width), (side.y, height), (side.z, depth)]
        .iter()
        .zip(whole)
        .all(|((at, len), whole)| at.checked_add(*len).is_some_and(|end| end <= whole));
    if !fits || side.level != 0 {
        return Err(error::INVALID_VALUE);
    }
    Ok(Side3D {
        memory: DEVICE,
        device: array.address,
        pitch: whole[0],
        rows: whole[1],
        ..*side
    })
}

/// Where one side's rows lie, and in what memory.
fn side(side: &Side3D, [width, height, depth]: [usize; 3]) -> Result<(Rows, Found)> {
    let side = &unfolded(side, [width, height, depth])?;
    let (base, end) = match side.memory {
        HOST => (side.host, End::Any),
        DEVICE => (side.device, End::Device),
        UNIFIED => (side.device, End::Any),
        _ => return Err(error::INVALID_VALUE),
    };
    let several = height > 1 || depth > 1;
    if (several && side.pitch < side.x.saturating_add(width))
        || (depth > 1 && side.rows < side.y.saturating_add(height))
    {
        return Err(error::INVALID_VALUE);
    }
    let place = || {
        let slice = if depth > 1 || side.z > 0 {
            side.rows.checked_mul(side.pitch)?
        } else {
            0
        };
        let before = side
            .z
            .checked_mul(slice)?
            .checked_add(side.y.checked_mul(side.pitch)?)?;
        let address = base.checked_add(before.checked_add(side.x)? as u64)?;
        let last = (depth - 1)
            .checked_mul(slice)?
            .checked_add((height - 1).checked_mul(side.pitch)?)?;
        Some((address, slice, last.checked_add(width)?))
    };
    let (address, slice, len) = place().ok_or(error::INVALID_VALUE)?;
    let found = inspect(runtime()?, address, len as u64, end)?;
    let rows = Rows {
        address,
        pitch: side.pitch,
        slice,
    };
    Ok((rows, found))
}

pub(super) fn copy(stream: &Arc<Stream>, copy: Copy3D, synchronous: bool) -> Result {
    let runtime = runtime()?;
    let size = [copy.width, copy.height, copy.depth];
    if size.contains(&0) {
        return Ok(());
    }
    let (from, source) = side(&copy.from, size)?;
    let (to, target) = side(&copy.to, size)?;
    let work = Work::CopyRows { to, from, size };
    if capture::add(stream, &work)? {
        return Ok(());
    }
    let marker = stream.submit(Vec::new(), work)?;
    let on_device = source == Found::Device && target == Found::Device;
    let pageable = source == Found::Pageable || target == Found::Pageable;
    if (synchronous && !on_device) || pageable {
        wait_for(runtime, &marker)?;
    }
    Ok(())
}

struct Fill {
    to: u64,
    pitch: usize,
    value: u32,
    size: u8,
    width: usize,
    height: usize,
}

fn fill(stream: &Arc<Stream>, fill: &Fill, synchronous: bool) -> Result {
    let runtime = runtime()?;
    let size = usize::from(fill.size);
    let row = fill.width.checked_mul(size).ok_or(error::INVALID_VALUE)?;
    if row == 0 || fill.height == 0 {
        return Ok(());
    }
    let several = fill.height > 1;
    if !fill.to.is_multiple_of(size as u64)
        || (several && (fill.pitch < row || !fill.pitch.is_multiple_of(size)))
    {
        return Err(error::INVALID_VALUE);
    }
    let before = if several {
        (fill.height - 1).checked_mul(fill.pitch)
    } else {
        Some(0)
    };
    let len = before
        .and_then(|before| before.checked_add(row))
        .ok_or(error::INVALID_VALUE)?;
    let work = Work::FillRows {
        to: fill.to,
        pitch: fill.pitch,
        value: fill.value,
        size: fill.size,
        count: fill.width,
        height: fill.height,
    };
    // As of a fill in one line.
    if capture::add(stream, &work)? {
        return Ok(());
    }
    let target = inspect(runtime, fill.to, len as u64, End::Device)?;
    let marker = stream.submit(Vec::new(), work)?;
    if synchronous && target == Found::Pinned {
        wait_for(runtime, &marker)?;
    }
    Ok(())
}

fn peers(copy: &Copy3D) -> Result {
    context(copy.from.context)?;
    context(copy.to.context).map(|_| ())
}

/// The stream of a call: its argument, or the null stream of one that has none.
pub(super) fn of(handle: Option<CUstream>, default: DefaultStream) -> Result<(Arc<Stream>, bool)> {
    match handle {
        Some(handle) => Ok((stream(handle, default)?, false)),
        None => Ok((default_stream(default)?, true)),
    }
}

macro_rules! fills {
    ($($type:ty: $sync:ident | $sync_ptds:ident, $async:ident | $async_ptsz:ident, $module:ident;)*) => {$(
        mod $module {
            use super::*;
            stream_api! { SYMBOLS, default;
                fn $sync | $sync_ptds(to: CUdeviceptr, pitch: usize, value: $type, width: usize, height: usize) {
                    let rows = Fill { to, pitch, value: value.into(), size: size_of::<$type>() as u8, width, height };
                    let (stream, sync) = of(None, default)?;
                    fill(&stream, &rows, sync)
                }
                fn $async | $async_ptsz(
                    to: CUdeviceptr, pitch: usize, value: $type, width: usize, height: usize, handle: CUstream,
                ) {
                    let rows = Fill { to, pitch, value: value.into(), size: size_of::<$type>() as u8, width, height };
                    let (stream, sync) = of(Some(handle), default)?;
                    fill(&stream, &rows, sync)
                }
            }
        }
    )*};
}
fills! {
    u8: cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds, cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz, bytes;
    u16: cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds, cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz, halves;
    u32: cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds, cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz, words;
}
pub(crate) use bytes::SYMBOLS as BYTES;
pub(crate) use halves::SYMBOLS as HALVES;
pub(crate) use words::SYMBOLS as WORDS;

stream_api! { SYMBOLS, default;
    fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds(arguments: In<Copy2D>) {
        let (stream, sync) = of(None, default)?;
        copy(&stream, arguments.get()?.rows(), sync)
    }

    fn cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(arguments: In<Copy2D>) {
        let (stream, sync) = of(None, default)?;
        copy(&stream, arguments.get()?.rows(), sync)
    }

    fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(arguments: In<Copy2D>, handle: CUstream) {
        let (stream, sync) = of(Some(handle), default)?;
        copy(&stream, arguments.get()?.rows(), sync)
    }

    fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds(arguments: In<Copy3D>) {
        let (stream, sync) = of(None, default)?;
        copy(&stream, arguments.get()?, sync)
    }

    fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz(arguments: In<Copy3D>, handle: CUstream) {
        let (stream, sync) = of(Some(handle), default)?;
        copy(&stream, arguments.get()?, sync)
    }

    fn cuMemcpy3DPeer | cuMemcpy3DPeer_ptds(arguments: In<Copy3D>) {
        let (stream, sync) = of(None, default)?;
        peers(&arguments.get()?)?;
        copy(&stream, arguments.get()?, sync)
    }

    fn cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz(arguments: In<Copy3D>, handle: CUstream) {
        let (stream, sync) = of(Some(handle), default)?;
        peers(&arguments.get()?)?;
        copy(&stream, arguments.get()?, sync)
    }
}
