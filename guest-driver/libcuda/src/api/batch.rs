//! Several copies with one call: one after the other, in the order of the stream.
use super::copy::{Job, copy};
use super::cuda_pairs;
use super::rows::{UNIFIED, rows};
use crate::abi::{CUdeviceptr, CUmemcpy3DOp, CUmemcpyAttributes, CUstream, In, Out};
use crate::fence::refuse_capture;
use crate::objects::StreamKind;
use crate::session::NullStream;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Memcpy3D, MemcpySide, extent};

/// CU_MEMCPY_SRC_ACCESS_ORDER_STREAM; the other orders let a source be read earlier.
const IN_STREAM_ORDER: u32 = 1;
/// CU_MEMCPY_OPERAND_TYPE_POINTER and _ARRAY.
const POINTER: u32 = 1;
const OF_ARRAY: u32 = 2;

/// Has the source of a batch's copy be read only behind the stream's work, if that is asked for and it is read at once otherwise.
fn keep_order(job: &Job, order: u32, from: u64, len: u64) -> Result<(), Code> {
    let session = job.call.session;
    if !(1..=3).contains(&order) {
        return Err(result::INVALID_VALUE);
    }
    let at_once = !session.is_device(from) && session.find_pinned(from, len).is_none();
    if order == IN_STREAM_ORDER && at_once {
        job.wait_before()?;
    }
    Ok(())
}

/// Runs the copies of a batch one after the other; which of them failed goes to `failed`.
fn batch(
    len: usize,
    failed: Out<usize>,
    stream: CUstream,
    null: NullStream,
    check: impl FnOnce() -> Result<(), Code>,
    run: impl Fn(&Job, usize) -> Result<(), Code>,
) -> Result<(), Code> {
    copy(Some(stream), null, |job| {
        // Said of the batch as a whole, until it is known which of its copies failed.
        failed.set_if_wanted(usize::MAX);
        if job.stream.kind == StreamKind::Legacy || len == 0 {
            return Err(result::INVALID_VALUE);
        }
        refuse_capture(&job.stream)?;
        check()?;
        (0..len).try_for_each(|at| run(job, at).inspect_err(|_| failed.set_if_wanted(at)))
    })
}

struct Batch {
    to: In<CUdeviceptr>,
    from: In<CUdeviceptr>,
    bytes: In<usize>,
    len: usize,
    attributes: In<CUmemcpyAttributes>,
    firsts: In<usize>,
    attributes_len: usize,
}

impl Batch {
    /// The attributes of each copy hold from the copy on that `firsts` says.
    fn check(&self) -> Result<(), Code> {
        let count = self.attributes_len;
        if count == 0 || count > self.len || self.firsts.at(0)? != 0 {
            return Err(result::INVALID_VALUE);
        }
        for at in 1..count {
            let (before, first) = (self.firsts.at(at - 1)?, self.firsts.at(at)?);
            if first <= before || first >= self.len {
                return Err(result::INVALID_VALUE);
            }
        }
        Ok(())
    }

    fn copy(&self, failed: Out<usize>, stream: CUstream, null: NullStream) -> Result<(), Code> {
        batch(
            self.len,
            failed,
            stream,
            null,
            || self.check(),
            |job, at| {
                let (to, from, bytes) = (self.to.at(at)?, self.from.at(at)?, self.bytes.at(at)?);
                let mut order = self.attributes.at(0)?.access_order;
                for other in 1..self.attributes_len {
                    if self.firsts.at(other)? <= at {
                        order = self.attributes.at(other)?.access_order;
                    }
                }
                if bytes == 0 {
                    return Err(result::INVALID_VALUE);
                }
                keep_order(job, order, from, bytes as u64)?;
                job.any(to, from, bytes)
            },
        )
    }
}

fn batch_3d(
    len: usize,
    ops: In<CUmemcpy3DOp>,
    failed: Out<usize>,
    flags: u64,
    stream: CUstream,
    null: NullStream,
) -> Result<(), Code> {
    let check = || {
        if flags == 0 {
            Ok(())
        } else {
            Err(result::INVALID_VALUE)
        }
    };
    batch(len, failed, stream, null, check, |job, at| {
        let op = ops.at(at)?;
        let [width, height, depth] = op.extent;
        let side = |operand: &[usize; 5]| {
            // The first of them is 32 bits, and nothing.
            let [kind, pointer, row, layer, ..] = *operand;
            match kind as u32 {
                POINTER => Ok(MemcpySide {
                    memory: UNIFIED,
                    device: pointer as u64,
                    pitch: if row == 0 { width } else { row },
                    rows: if layer == 0 { height } else { layer },
                    ..MemcpySide::default()
                }),
                OF_ARRAY => Err(result::NOT_SUPPORTED),
                _ => Err(result::INVALID_VALUE),
            }
        };
        let raw = Memcpy3D {
            from: side(&op.from)?,
            to: side(&op.to)?,
            width,
            height,
            depth,
        };
        let len = extent(
            [width as u64, height as u64, depth as u64],
            raw.from.pitch as u64,
            raw.from.rows as u64,
        );
        keep_order(
            job,
            op.access_order,
            raw.from.device,
            len.ok_or(result::INVALID_VALUE)?,
        )?;
        rows(job, &raw)
    })
}

cuda_pairs! {
    fn cuMemcpyBatchAsync / cuMemcpyBatchAsync_ptsz(
        to: In<CUdeviceptr>, from: In<CUdeviceptr>, bytes: In<usize>, len: usize, attributes: In<CUmemcpyAttributes>,
        firsts: In<usize>, attributes_len: usize, failed: Out<usize>, stream: CUstream,
    ) |null| {
        Batch { to, from, bytes, len, attributes, firsts, attributes_len }.copy(failed, stream, null)
    }

    fn cuMemcpyBatchAsync_v2 / cuMemcpyBatchAsync_v2_ptsz(
        to: In<CUdeviceptr>, from: In<CUdeviceptr>, bytes: In<usize>, len: usize, attributes: In<CUmemcpyAttributes>,
        firsts: In<usize>, attributes_len: usize, stream: CUstream,
    ) |null| {
        Batch { to, from, bytes, len, attributes, firsts, attributes_len }.copy(Out::none(), stream, null)
    }

    fn cuMemcpy3DBatchAsync / cuMemcpy3DBatchAsync_ptsz(
        len: usize, ops: In<CUmemcpy3DOp>, failed: Out<usize>, flags: u64, stream: CUstream,
    ) |null| {
        batch_3d(len, ops, failed, flags, stream, null)
    }

    fn cuMemcpy3DBatchAsync_v2 / cuMemcpy3DBatchAsync_v2_ptsz(
        len: usize, ops: In<CUmemcpy3DOp>, flags: u64, stream: CUstream,
    ) |null| {
        batch_3d(len, ops, Out::none(), flags, stream, null)
    }
}
