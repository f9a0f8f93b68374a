//! Copies and fills of rows.
use super::Array;
use super::memory::check_fill;
use crate::dispatch::handlers_of;
use crate::memory::View;
use crate::ring::Failure;
use crate::session::Session;
use crate::window::Work;
use std::sync::Arc;
use vgpu_protocol::calls::{Wire, cuMemsetD2D8Async, cuMemsetD2D16Async, cuMemsetD2D32Async};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Copy3D, CopySide, Memcpy3D, MemcpySide, extent};
use zerocopy::FromBytes;

/// One side as libcuda takes it, if the guest may access all of it; and its array, which must be kept until libcuda has it.
fn side(
    session: &Session,
    view: &View<'_>,
    side: &CopySide,
    size: [u64; 3],
) -> Result<(MemcpySide, Option<Arc<Array>>), Code> {
    let bad = result::INVALID_VALUE;
    let linear = || {
        if (side.array, side.x, side.y, side.z, side.level) != (0, 0, 0, 0, 0) {
            return Err(bad);
        }
        let len = extent(size, side.pitch, side.rows).ok_or(bad)?;
        Ok(len)
    };
    let mut raw = MemcpySide {
        memory: side.memory,
        pitch: side.pitch as usize,
        rows: side.rows as usize,
        ..MemcpySide::default()
    };
    match side.memory {
        CopySide::HOST => {
            if !view.is_pinned(side.address, linear()?) {
                return Err(bad);
            }
            raw.host = side.address as usize;
        }
        CopySide::DEVICE => {
            if !view.is_device(side.address, linear()?) {
                return Err(bad);
            }
            raw.device = side.address;
        }
        CopySide::ARRAY => {
            if (side.address, side.pitch, side.rows) != (0, 0, 0) {
                return Err(bad);
            }
            let found = session
                .objects
                .arrays
                .get(side.array)
                .ok_or(result::INVALID_HANDLE)?;
            raw.array = found.raw;
            (raw.x, raw.y, raw.z) = (side.x as usize, side.y as usize, side.z as usize);
            raw.level = side.level as usize;
            return Ok((raw, Some(found)));
        }
        _ => return Err(bad),
    }
    Ok((raw, None))
}

handlers_of! {
    cuMemcpy3DAsync(ring, arguments, blob, _reply) {
        let session = ring.session;
        let copy = Copy3D::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
        let size = [copy.width, copy.height, copy.depth];
        if size.contains(&0) {
            return Ok(Out {});
        }
        let stream = ring.stream(arguments.stream)?;
        // Between host and device it is a copy engine's work.
        let compute = copy.from.memory != CopySide::HOST && copy.to.memory != CopySide::HOST;
        ring.submit(&stream, Work::data(compute), |raw, to_where| {
            let view = session.memory.view();
            let (from, from_array) = side(session, &view, &copy.from, size)?;
            let (to, to_array) = side(session, &view, &copy.to, size)?;
            from_array.iter().chain(&to_array).for_each(|array| to_where.keep(array));
            let raw_copy = Memcpy3D {
                from,
                to,
                width: copy.width as usize,
                height: copy.height as usize,
                depth: copy.depth as usize,
            };
            // SAFETY: both sides were just looked up, and stay until the work is done (see `memory`).
            unsafe { session.cuda.memories.memcpy_3d(&raw_copy, raw) }?;
            Ok(view)
        })?;
        Ok(Out {})
    }
}

macro_rules! fill {
    ($($call:ident $method:ident $type:ty;)*) => {
        handlers_of! {$(
            $call(ring, arguments) {
                let session = ring.session;
                let $call::In { to, pitch, value, width, height, stream } = arguments;
                let value = <$type>::try_from(value).map_err(|_| result::INVALID_VALUE)?;
                let bytes = width.checked_mul(size_of::<$type>() as u64).ok_or(result::INVALID_VALUE)?;
                let len = extent([bytes, height, 1], pitch, 0).ok_or(result::INVALID_VALUE)?;
                if len == 0 {
                    return Ok(Out {});
                }
                let stream = ring.stream(stream)?;
                ring.submit(&stream, Work::data($call::Call::CALL.turn), |raw, place| {
                    let view = session.memory.view();
                    check_fill(&view, to, len, place)?;
                    let (pitch, width, height) = (pitch as usize, width as usize, height as usize);
                    // SAFETY: the range was just looked up, and stays until the work is done; or a capture only notes it.
                    unsafe { session.cuda.memories.$method(to, pitch, value, width, height, raw) }?;
                    Ok(view)
                })?;
                Ok::<Out, Failure>(Out {})
            }
        )*}
    };
}
fill! {
    cuMemsetD2D8Async memset_2d_d8 u8;
    cuMemsetD2D16Async memset_2d_d16 u16;
    cuMemsetD2D32Async memset_2d_d32 u32;
}
