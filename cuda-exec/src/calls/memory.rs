//! Device memory, copies and fills.
use super::pool::count_graphs;
use crate::device_memory::{Device, Owner};
use crate::dispatch::{Handle, handlers_of};
use crate::handles::Context;
use crate::memory::View;
use crate::recording::To;
use crate::ring::{Consumer, Failure};
use crate::session::Session;
use crate::window::Work;
use vgpu_protocol::calls::{
    Wire, cuMemAlloc, cuMemFree, cuMemGetInfo, cuMemcpyDtoDAsync, cuMemcpyDtoHAsync, cuMemcpyHtoDAsync,
    cuMemsetD8Async, cuMemsetD16Async, cuMemsetD32Async,
};
use vgpu_protocol::result::{self, Code};

/// Has libcuda free device memory of a context that ends, or that the guest frees.
pub fn give_back(session: &Session, pointer: u64, device: Device) -> Result<(), Code> {
    match device.owner {
        Owner::Imported(times) => {
            for _ in 0..times {
                session.cuda.memories.ipc_close_mem(pointer)?;
            }
        }
        // There may be no memory behind the address.
        Owner::Graph(..) => {
            session.pooled.freed(pointer);
            session.survive(session.cuda.mem_free(pointer));
        }
        _ => session.cuda.mem_free(pointer)?,
    }
    session.shares.withdraw(pointer);
    freed(session, device.owner);
    Ok(())
}

/// Device memory is free, or will be in the order of its stream.
pub fn freed(session: &Session, owner: Owner) {
    match owner {
        Owner::Allocated(charge) => session.limits.give(charge),
        Owner::Pool(pool) => pool.has_freed(),
        Owner::Graph(gpu, _) => count_graphs(session, gpu),
        Owner::Variable(_) | Owner::Mapped { .. } | Owner::Imported(_) => {}
    }
}

/// Rows of pitched memory begin at multiples of this, in bytes: what is counted before it is known.
const PITCH: u64 = 512;

/// Takes a new allocation back if its context was destroyed meanwhile, which took only what it knew of.
pub(super) fn still_there(session: &Session, context: &Context, pointer: u64) -> Result<(), Failure> {
    if !context.is_destroyed() {
        return Ok(());
    }
    if let Some(device) = session.memory.remove_allocation(pointer) {
        give_back(session, pointer, device)?;
    }
    Err(result::CONTEXT_IS_DESTROYED.into())
}

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
        let charge = super::pool::allocate(session, context.gpu, arguments.bytes, Some(&context))?;
        let allocated = session.cuda.mem_alloc(bytes);
        let pointer = allocated.inspect_err(|_| session.limits.give(charge))?;
        session
            .memory
            .add_allocation(pointer, arguments.bytes, context.id, charge);
        still_there(session, &context, pointer)?;
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
        let device = session.memory.remove_allocation(arguments.pointer);
        give_back(session, arguments.pointer, device.ok_or(result::INVALID_VALUE)?)?;
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
        super::pool::settle_pools(ring.session);
        ring.session.pooled.let_go_now(ring.session, Some(&context))?;
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
                let stream = ring.stream(stream)?;
                ring.submit(&stream, Work::data($call::Call::CALL.turn), |raw, _| {
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

/// Refuses to fill what is not the guest's. A capture takes any address, as libcuda's own does: libcuda looks for memory there when
/// it makes a graph executable, and what fills it then is the GPU, which reaches no more than by a kernel.
pub(super) fn check_fill(view: &View<'_>, to: u64, bytes: u64, place: &To<'_>) -> Result<(), Code> {
    if place.is_graph() || view.is_device(to, bytes) {
        Ok(())
    } else {
        Err(result::INVALID_VALUE)
    }
}

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
                let stream = ring.stream(stream)?;
                ring.submit(&stream, Work::data($call::Call::CALL.turn), |raw, place| {
                    let view = session.memory.view();
                    check_fill(&view, to, bytes, place)?;
                    // SAFETY: the range was just looked up, and stays until the work is done; or a capture only notes it.
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

handlers_of! {
    cuMemAllocPitch(ring, arguments) {
        let context = ring.context()?;
        let session = ring.session;
        let size = |n: u64| usize::try_from(n).map_err(|_| result::OUT_OF_MEMORY);
        let (width, height) = (size(arguments.width)?, size(arguments.height)?);
        let allocate = || -> Result<(u64, usize), Code> {
            let (mut pointer, mut pitch) = (0, 0);
            // SAFETY: two places that outlive the call.
            unsafe {
                session.cuda.contexts.mem_alloc_pitch(&mut pointer, &mut pitch, width, height, arguments.element)
            }?;
            Ok((pointer, pitch))
        };
        let row = arguments.width.checked_next_multiple_of(PITCH);
        let bytes = row.and_then(|row| row.checked_mul(arguments.height)).ok_or(result::OUT_OF_MEMORY)?;
        let charge = super::pool::allocate(session, context.gpu, bytes, Some(&context))?;
        let (pointer, pitch) = allocate().inspect_err(|_| session.limits.give(charge))?;
        let bytes = (pitch as u64).saturating_mul(arguments.height);
        session.memory.add_allocation(pointer, bytes, context.id, charge);
        still_there(session, &context, pointer)?;
        Ok(Out { pointer, pitch: pitch as u64 })
    }
}
