//! Device memory, copies and fills.
use crate::dispatch::Handle;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use vgpu_protocol::calls::{
    Wire, cuMemAlloc, cuMemFree, cuMemGetInfo, cuMemcpyDtoDAsync, cuMemcpyDtoHAsync, cuMemcpyHtoDAsync,
    cuMemsetD8Async, cuMemsetD16Async, cuMemsetD32Async,
};
use vgpu_protocol::result;

impl Handle for cuMemAlloc::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuMemAlloc::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuMemAlloc::Out, Failure> {
        let context = ring.context()?;
        let bytes = usize::try_from(arguments.bytes).map_err(|_| result::OUT_OF_MEMORY)?;
        let session = ring.session;
        let charge = session.limits.allocate(context.gpu, arguments.bytes)?;
        let allocated = session.cuda.mem_alloc(bytes);
        let pointer = allocated.inspect_err(|_| session.limits.give(charge))?;
        session
            .memory
            .add_allocation(pointer, arguments.bytes, context.id, charge);
        Ok(cuMemAlloc::Out { pointer })
    }
}

impl Handle for cuMemFree::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuMemFree::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuMemFree::Out, Failure> {
        let _context = ring.context()?;
        let session = ring.session;
        let charge = session.memory.remove_allocation(arguments.pointer);
        let charge = charge.ok_or(result::INVALID_VALUE)?;
        session.cuda.mem_free(arguments.pointer)?;
        session.limits.give(charge);
        Ok(cuMemFree::Out {})
    }
}

impl Handle for cuMemGetInfo::Call {
    fn handle(
        ring: &mut Consumer,
        _: cuMemGetInfo::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuMemGetInfo::Out, Failure> {
        let context = ring.context()?;
        let (free, total) = ring.session.cuda.mem_get_info()?;
        let (free, total) = ring.session.limits.memory(context.gpu, free, total);
        Ok(cuMemGetInfo::Out { free, total })
    }
}

/// A copy: its call, libcuda's function for it, and which ranges must be known before that sees them.
macro_rules! copy {
    ($call:ident $method:ident |$view:ident, $to:ident, $from:ident, $bytes:ident| $known:expr) => {
        impl Handle for $call::Call {
            fn handle(
                ring: &mut Consumer,
                arguments: $call::In,
                _: &[u8],
                _: &mut Vec<u8>,
            ) -> Result<$call::Out, Failure> {
                let $call::In {
                    to: $to,
                    from: $from,
                    bytes: $bytes,
                    stream,
                } = arguments;
                let session = ring.session;
                if $bytes == 0 {
                    return Ok($call::Out {});
                }
                let stream = ring.stream($call::OP, stream)?;
                ring.submit(&stream, Work::data($call::Call::CALL.turn), |raw| {
                    let $view = session.memory.view();
                    if !$known {
                        return Err(result::INVALID_VALUE);
                    }
                    // SAFETY: both ranges were just looked up, and stay until the work is done (see `memory`).
                    unsafe { session.cuda.$method($to, $from, $bytes, raw) }?;
                    Ok($view)
                })?;
                Ok($call::Out {})
            }
        }
    };
}
copy!(cuMemcpyHtoDAsync memcpy_htod |view, to, from, bytes| (view.is_device(to, bytes) && view.host(from, bytes).is_some()));
copy!(cuMemcpyDtoHAsync memcpy_dtoh |view, to, from, bytes| (view.is_device(from, bytes) && view.host(to, bytes).is_some()));
copy!(cuMemcpyDtoDAsync memcpy_dtod |view, to, from, bytes| (view.is_device(to, bytes) && view.is_device(from, bytes)));

macro_rules! fill {
    ($call:ident $method:ident $type:ty) => {
        impl Handle for $call::Call {
            fn handle(
                ring: &mut Consumer,
                arguments: $call::In,
                _: &[u8],
                _: &mut Vec<u8>,
            ) -> Result<$call::Out, Failure> {
                let $call::In {
                    to,
                    value,
                    count,
                    stream,
                } = arguments;
                let session = ring.session;
                let value = <$type>::try_from(value).map_err(|_| result::INVALID_VALUE)?;
                let bytes = count
                    .checked_mul(size_of::<$type>() as u64)
                    .ok_or(result::INVALID_VALUE)?;
                if bytes == 0 {
                    return Ok($call::Out {});
                }
                let stream = ring.stream($call::OP, stream)?;
                ring.submit(&stream, Work::data($call::Call::CALL.turn), |raw| {
                    let view = session.memory.view();
                    if !view.is_device(to, bytes) {
                        return Err(result::INVALID_VALUE);
                    }
                    // SAFETY: the range was just looked up, and stays until the work is done.
                    unsafe { session.cuda.$method(to, value, count, raw) }?;
                    Ok(view)
                })?;
                Ok($call::Out {})
            }
        }
    };
}
fill!(cuMemsetD8Async memset_d8 u8);
fill!(cuMemsetD16Async memset_d16 u16);
fill!(cuMemsetD32Async memset_d32 u32);
