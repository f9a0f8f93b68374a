//! Copies of rows, and copies between contexts.
//!
//! Each becomes one or more of one kind of copy ([`Copy3D`]). Where neither side is pageable memory that is one; pageable memory
//! goes through staging in blocks of rows.
use super::copy::{HostKind, Job, WITH_THE_COMMAND, copy};
use super::cuda_pairs;
use super::graph_copy::{self, Staging};
use crate::abi::{CUcontext, CUdeviceptr, CUstream, Host, In, Memcpy2D, Memcpy2DSide};
use crate::fence::refuse_capture;
use crate::session::{Call, NullStream};
use crate::staging::CHUNK_LEN;
use vgpu_protocol::calls::cuMemcpy3DAsync;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Copy3D, CopySide, Memcpy3D, MemcpySide, extent, graph};
use zerocopy::IntoBytes;

/// CU_MEMORYTYPE_HOST, _DEVICE, _ARRAY and _UNIFIED.
const HOST: u32 = CopySide::HOST;
const DEVICE: u32 = CopySide::DEVICE;
const ARRAY: u32 = CopySide::ARRAY;
pub(super) const UNIFIED: u32 = 4;

/// The number of an array on the wire.
fn array(call: &Call, array: usize) -> Result<u32, Code> {
    Ok(super::array::find_array(call, array)?.id)
}

/// One side of a copy.
#[derive(Clone, Copy)]
enum Side {
    /// The device reaches it.
    Reached(CopySide),
    /// Host memory that it does not reach.
    Pageable(Rows),
}

/// Rows of host memory.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The first byte.
    pub(super) first: u64,
    /// Bytes from row to row.
    pub(super) pitch: u64,
    /// Rows from slice to slice.
    pub(super) rows: u64,
}

impl Rows {
    /// Where one of its bytes lies.
    pub(super) fn at(&self, [x, y, z]: [u64; 3]) -> Host {
        // SAFETY: inside the memory that the caller promised.
        unsafe { Host::new((self.first + (z * self.rows + y) * self.pitch + x) as usize) }
    }
}

impl Side {
    /// It as a graph's node has it, and whether it is pageable, if it is no array.
    fn as_node(&self, raw: &MemcpySide) -> Option<(graph::MemcpySide, bool)> {
        let at = |address, pitch, rows| graph::MemcpySide::at(raw.memory.into(), address, pitch, rows);
        match self {
            Self::Reached(side) if side.memory == ARRAY => None,
            Self::Reached(side) => Some((at(side.address, side.pitch, side.rows), false)),
            Self::Pageable(rows) => Some((at(rows.first, rows.pitch, rows.rows), true)),
        }
    }

    /// What of it a block that begins at `x`, `y`, `z` is.
    fn part(side: &CopySide, [x, y, z]: [u64; 3]) -> CopySide {
        let mut part = *side;
        if side.memory == ARRAY {
            (part.x, part.y, part.z) = (side.x + x, side.y + y, side.z + z);
        } else {
            part.address += (z * side.rows + y) * side.pitch + x;
        }
        part
    }

    /// Looks at a side of a copy of that size, of which there is at least a byte.
    fn new(job: &Job, raw: &MemcpySide, size: [u64; 3]) -> Result<Self, Code> {
        let session = job.call.session;
        let [width, height, depth] = size;
        let (x, y, z) = (raw.x as u64, raw.y as u64, raw.z as u64);
        if raw.memory == ARRAY {
            return Ok(Self::Reached(CopySide {
                memory: ARRAY,
                array: array(&job.call, raw.array)?,
                x,
                y,
                z,
                level: raw.level as u64,
                ..CopySide::default()
            }));
        }
        let (base, is_device) = match raw.memory {
            HOST => (raw.host as u64, false),
            DEVICE => (raw.device, true),
            UNIFIED => (raw.device, session.is_device(raw.device)),
            _ => return Err(result::INVALID_VALUE),
        };
        let (pitch, rows) = (raw.pitch as u64, raw.rows as u64);
        let several = height > 1 || depth > 1;
        let fits = |whole: u64, first: u64, len: u64| first.checked_add(len).is_some_and(|end| end <= whole);
        if (several && !fits(pitch, x, width)) || (depth > 1 && !fits(rows, y, height)) {
            return Err(result::INVALID_VALUE);
        }
        let before = z
            .checked_mul(rows)
            .and_then(|slices| slices.checked_add(y)?.checked_mul(pitch)?.checked_add(x));
        let first = before.and_then(|before| base.checked_add(before));
        let len = extent(size, pitch, rows);
        let (first, len) = first.zip(len).ok_or(result::INVALID_VALUE)?;
        let reached = |memory| {
            Self::Reached(CopySide {
                memory,
                address: first,
                pitch,
                rows,
                ..CopySide::default()
            })
        };
        if is_device {
            session.check_device(first, len)?;
            return Ok(reached(DEVICE));
        }
        // SAFETY: the caller promised host memory of this size.
        let host = unsafe { Host::new(first as usize) };
        if base == 0 {
            return Err(result::INVALID_VALUE);
        }
        Ok(match job.host_kind(host, len as usize)? {
            HostKind::Pinned => reached(HOST),
            HostKind::Pageable | HostKind::Captured => Self::Pageable(Rows { first, pitch, rows }),
        })
    }
}

/// The blocks of a copy that fit into a chunk: where each begins, and its size.
fn blocks([width, height, depth]: [u64; 3]) -> impl Iterator<Item = ([u64; 3], [u64; 3])> {
    let chunk = CHUNK_LEN as u64;
    let w = width.min(chunk);
    let h = if w == width {
        (chunk / w).clamp(1, height)
    } else {
        1
    };
    let d = if h == height {
        (chunk / (w * h)).clamp(1, depth)
    } else {
        1
    };
    let starts = |whole: u64, part: u64| (0..whole).step_by(part as usize);
    starts(depth, d).flat_map(move |z| {
        starts(height, h).flat_map(move |y| {
            starts(width, w)
                .map(move |x| ([x, y, z], [w.min(width - x), h.min(height - y), d.min(depth - z)]))
        })
    })
}

/// Copies rows between host memory and packed rows of the same size.
pub(super) fn pack([width, height, depth]: [u64; 3], mut row: impl FnMut(u64, u64, usize, usize)) {
    for z in 0..depth {
        for y in 0..height {
            row(y, z, ((z * height + y) * width) as usize, width as usize);
        }
    }
}

fn submit(job: &Job, from: CopySide, to: CopySide, [width, height, depth]: [u64; 3]) -> Result<(), Code> {
    let copy = Copy3D {
        from,
        to,
        width,
        height,
        depth,
    };
    let arguments = cuMemcpy3DAsync::In {
        stream: job.stream.word,
    };
    let context = job.stream.context;
    // How much an array holds only the host knows.
    let of_array = from.memory == ARRAY || to.memory == ARRAY;
    if of_array || job.foreign || job.call.session.captures.any() {
        job.call
            .submit_answered::<cuMemcpy3DAsync::Call>(context, arguments, copy.as_bytes())?;
    } else {
        let bytes = copy.as_bytes();
        job.call
            .submit_with::<cuMemcpy3DAsync::Call>(context, arguments, bytes.len(), |blob| {
                blob.copy_from_slice(bytes)
            })?;
    }
    job.stream.did_submit();
    Ok(())
}

/// The packed rows of a block in staging memory.
fn staged(address: u64, [width, height, _]: [u64; 3]) -> CopySide {
    CopySide {
        memory: HOST,
        address,
        pitch: width,
        rows: height,
        ..CopySide::default()
    }
}

pub(super) fn rows(job: &Job, raw: &Memcpy3D) -> Result<(), Code> {
    let size = [raw.width as u64, raw.height as u64, raw.depth as u64];
    if size.contains(&0) {
        return Ok(());
    }
    let session = job.call.session;
    let from = Side::new(job, &raw.from, size)?;
    let to = Side::new(job, &raw.to, size)?;
    let captured = job.stream.capture() != 0;
    if captured
        && let Some((from, from_pageable)) = from.as_node(&raw.from)
        && let Some((to, to_pageable)) = to.as_node(&raw.to)
        && (from_pageable || to_pageable)
    {
        let pageable = [from_pageable, to_pageable];
        return graph_copy::capture(&job.call, &job.stream, [from, to], pageable, size);
    }
    match (from, to) {
        (Side::Reached(from), Side::Reached(to)) => {
            submit(job, from, to, size)?;
            // Between memories of the device no copy is waited for.
            if from.memory == HOST || to.memory == HOST {
                job.finish()?;
            }
            Ok(())
        }
        (Side::Pageable(rows), Side::Reached(to)) if to.memory == ARRAY && captured => {
            let staging = Staging::new(session, rows, size, false)?;
            graph_copy::capture_function(&job.call, &job.stream, &staging)?;
            submit(job, staged(staging.addr(), size), to, size)
        }
        (Side::Reached(from), Side::Pageable(rows)) if from.memory == ARRAY && captured => {
            let staging = Staging::new(session, rows, size, true)?;
            submit(job, from, staged(staging.addr(), size), size)?;
            graph_copy::capture_function(&job.call, &job.stream, &staging)
        }
        (Side::Pageable(rows), Side::Reached(to)) if to.memory != HOST => {
            for ([x, y, z], block) in blocks(size) {
                let lease = session.stage(job.call.thread, block.iter().product::<u64>() as usize)?;
                pack(block, |row, slice, offset, len| {
                    let from = rows.at([x, y + row, z + slice]);
                    // SAFETY: the lease is mapped memory of the block's size, which only this call writes.
                    unsafe { from.copy_out(0, (lease.addr as *mut u8).wrapping_add(offset), len) };
                });
                submit(job, staged(lease.addr, block), Side::part(&to, [x, y, z]), block)?;
                lease.guard(&job.stream);
            }
            if size.iter().product::<u64>() > WITH_THE_COMMAND as u64 {
                job.finish()?;
            }
            Ok(())
        }
        (Side::Reached(from), Side::Pageable(rows)) if from.memory != HOST => {
            for ([x, y, z], block) in blocks(size) {
                let lease = session.stage(job.call.thread, block.iter().product::<u64>() as usize)?;
                submit(
                    job,
                    Side::part(&from, [x, y, z]),
                    staged(lease.addr, block),
                    block,
                )?;
                let arrived = session
                    .fence(job.call.thread, &job.stream)
                    .and_then(|point| session.wait_for(job.call.thread, job.stream.context, point))
                    // What the host refused to copy must not be taken for what the device had.
                    .and_then(|()| job.call.take_errors(job.stream.context));
                if arrived.is_err() {
                    lease.guard(&job.stream);
                    return arrived;
                }
                pack(block, |row, slice, offset, len| {
                    let to = rows.at([x, y + row, z + slice]);
                    // SAFETY: the device has finished writing the lease, which is as long as the block.
                    unsafe { to.copy_in(0, (lease.addr as *const u8).wrapping_add(offset), len) };
                });
            }
            Ok(())
        }
        // Host memory on both sides: behind the stream's work, as every copy.
        (from, to) => {
            let linear = |side: Side| match side {
                Side::Reached(CopySide {
                    address: first,
                    pitch,
                    rows,
                    ..
                }) => Rows { first, pitch, rows },
                Side::Pageable(rows) => rows,
            };
            let (from, to) = (linear(from), linear(to));
            refuse_capture(&job.stream)?;
            job.wait_before()?;
            pack(size, |y, z, _, len| {
                to.at([0, y, z]).copy_from(from.at([0, y, z]), len);
            });
            Ok(())
        }
    }
}

fn of_2d(raw: &Memcpy2D) -> Memcpy3D {
    let side = |side: &Memcpy2DSide| MemcpySide {
        x: side.x,
        y: side.y,
        memory: side.memory,
        host: side.host,
        device: side.device,
        array: side.array,
        pitch: side.pitch,
        ..MemcpySide::default()
    };
    Memcpy3D {
        from: side(&raw.from),
        to: side(&raw.to),
        width: raw.width,
        height: raw.height,
        depth: 1,
    }
}

fn copy_2d(raw: In<Memcpy2D>, stream: Option<CUstream>, null: NullStream) -> Result<(), Code> {
    copy(stream, null, |job| rows(job, &of_2d(&raw.get()?)))
}

fn copy_3d(raw: In<Memcpy3D>, stream: Option<CUstream>, null: NullStream) -> Result<(), Code> {
    copy(stream, null, |job| rows(job, &raw.get()?))
}

/// Refuses what is no context. Which one an address belongs to it says itself, since addresses are unified.
fn check_context(job: &Job, context: CUcontext) -> Result<(), Code> {
    let found = job.call.session.contexts.get(context);
    found.map(drop).ok_or(result::INVALID_CONTEXT)
}

fn copy_3d_peer(raw: In<Memcpy3D>, stream: Option<CUstream>, null: NullStream) -> Result<(), Code> {
    copy(stream, null, |job| {
        let raw = raw.get()?;
        for side in [raw.from, raw.to] {
            if matches!(side.memory, DEVICE | ARRAY) {
                check_context(job, side.context)?;
            }
        }
        rows(job, &raw)
    })
}

fn copy_peer(
    [(to, to_context), (from, from_context)]: [(CUdeviceptr, CUcontext); 2],
    len: usize,
    stream: Option<CUstream>,
    null: NullStream,
) -> Result<(), Code> {
    copy(stream, null, |job| {
        check_context(job, to_context)?;
        check_context(job, from_context)?;
        job.on_device(to, from, len)
    })
}

cuda_pairs! {
    fn cuMemcpy2D_v2 / cuMemcpy2D_v2_ptds(raw: In<Memcpy2D>) |null| {
        copy_2d(raw, None, null)
    }

    fn cuMemcpy2DUnaligned_v2 / cuMemcpy2DUnaligned_v2_ptds(raw: In<Memcpy2D>) |null| {
        copy_2d(raw, None, null)
    }

    fn cuMemcpy2DAsync_v2 / cuMemcpy2DAsync_v2_ptsz(raw: In<Memcpy2D>, stream: CUstream) |null| {
        copy_2d(raw, Some(stream), null)
    }

    fn cuMemcpy3D_v2 / cuMemcpy3D_v2_ptds(raw: In<Memcpy3D>) |null| {
        copy_3d(raw, None, null)
    }

    fn cuMemcpy3DAsync_v2 / cuMemcpy3DAsync_v2_ptsz(raw: In<Memcpy3D>, stream: CUstream) |null| {
        copy_3d(raw, Some(stream), null)
    }

    fn cuMemcpy3DPeer / cuMemcpy3DPeer_ptds(raw: In<Memcpy3D>) |null| {
        copy_3d_peer(raw, None, null)
    }

    fn cuMemcpy3DPeerAsync / cuMemcpy3DPeerAsync_ptsz(raw: In<Memcpy3D>, stream: CUstream) |null| {
        copy_3d_peer(raw, Some(stream), null)
    }

    fn cuMemcpyPeer / cuMemcpyPeer_ptds(
        to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize,
    ) |null| {
        copy_peer([(to, to_context), (from, from_context)], bytes, None, null)
    }

    fn cuMemcpyPeerAsync / cuMemcpyPeerAsync_ptsz(
        to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize, stream: CUstream,
    ) |null| {
        copy_peer([(to, to_context), (from, from_context)], bytes, Some(stream), null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_copy_once_and_fit_into_a_chunk() {
        let chunk = CHUNK_LEN as u64;
        for size in [
            [1, 1, 1],
            [3, 5, 7],
            [chunk + 5, 2, 2],
            [1000, 3000, 2],
            [64, 100, 500],
            [chunk, 3, 1],
        ] {
            let mut bytes = 0;
            let mut last = None;
            for (start, block) in blocks(size) {
                assert!(block.iter().product::<u64>() <= chunk && !block.contains(&0));
                assert!((0..3).all(|i| start[i] + block[i] <= size[i]));
                assert!(last.is_none_or(|last| last < (start[2], start[1], start[0])));
                last = Some((start[2], start[1], start[0]));
                bytes += block.iter().product::<u64>();
            }
            assert_eq!(bytes, size.iter().product::<u64>());
        }
    }
}
