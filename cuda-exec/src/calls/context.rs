//! Contexts and the threads' capture modes.
use super::BAD_HANDLE;
use crate::cuda;
use crate::cuda::graph::CAPTURE_ACTIVE;
use crate::dispatch::{Handle, handlers_of};
use crate::handles::{Context, Stream};
use crate::recording::captures;
use crate::ring::{Consumer, Failure};
use crate::session::Session;
use std::sync::Arc;
use vgpu_protocol::calls::{cuCtxCreate, cuCtxDestroy, cuCtxSynchronize, cuThreadExchangeStreamCaptureMode};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::RingError;

/// CU_CTX_SCHED_*: how a thread waits for the GPU. The guest's library waits by itself, so libcuda need not know.
const SCHED: u32 = 0x07;
/// CU_CTX_MAP_HOST and CU_CTX_LMEM_RESIZE_TO_MAX. The other flags have to do with core dumps: files on this host.
const PASSED_ON: u32 = 0x08 | 0x10;

impl Handle for cuCtxCreate::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuCtxCreate::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuCtxCreate::Out, Failure> {
        let cuCtxCreate::In {
            flags,
            device,
            context,
        } = arguments;
        if flags & !(SCHED | PASSED_ON) != 0 {
            return Err(result::INVALID_VALUE.into());
        }
        let contexts = &ring.session.objects.contexts;
        contexts.check_new(context).map_err(|_| BAD_HANDLE)?;
        let created = ring.session.create_context(context, flags & PASSED_ON, device)?;
        contexts.insert(context, created).map_err(|_| BAD_HANDLE)?;
        Ok(cuCtxCreate::Out {})
    }
}

impl Handle for cuCtxDestroy::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuCtxDestroy::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuCtxDestroy::Out, Failure> {
        let session = ring.session;
        let id = arguments.context;
        let context = session.objects.contexts.remove(id).ok_or(BAD_HANDLE)?;
        let mut streams = context.destroy();
        let objects = &session.objects;
        let of = |other: &std::sync::Arc<crate::handles::Context>| std::sync::Arc::ptr_eq(other, &context);
        streams.extend(objects.streams.remove_all(|stream| of(&stream.context)));
        super::capture::abandon(session, &streams);
        // What was submitted to it ends before its memory goes.
        session.relaxed(|| {
            for stream in &streams {
                session.completion.finish(session, stream);
            }
        });
        drop(streams);
        objects.events.remove_all(|event| of(&event.context));
        objects.graph_execs.remove_all(|exec| of(&exec.context));
        let graphs = objects.graphs.remove_all(|graph| of(&graph.context));
        let had: Vec<_> = graphs.iter().map(|graph| graph.all_that_it_has()).collect();
        let mut nodes = session.graphs.lock();
        for graph in graphs {
            nodes.forget(session, &graph);
        }
        drop(nodes);
        drop(had);
        objects
            .functions
            .remove_all(|function| of(&function.module.context));
        objects.modules.remove_all(|module| of(&module.context));
        objects.links.remove_all(|link| of(&link.context));
        objects.textures.remove_context(&context);
        objects.arrays.remove_all(|array| of(&array.context));
        objects.mipmapped.remove_all(|array| of(&array.context));
        let allocations = session.memory.remove_context(id);
        // The context goes with its last user, and what it holds with it; as home it stays, so its memory is freed here.
        context.make_current()?;
        session.relaxed(|| {
            super::host_memory::unregister_of(session, id);
            allocations
                .into_iter()
                .try_for_each(|(pointer, device)| super::memory::give_back(session, pointer, device))
        })?;
        Ok(cuCtxDestroy::Out {})
    }
}

impl Handle for cuCtxSynchronize::Call {
    fn handle(
        ring: &mut Consumer,
        _: cuCtxSynchronize::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuCtxSynchronize::Out, Failure> {
        let (session, context) = (ring.session, ring.context()?);
        session.refuse_in_capture()?;
        if session.captures() {
            // Refused whatever the mode, if a stream of it captures; that capture ends, and nobody uses its graph meanwhile. A last
            // user of a stream destroys it, which is not to be waited for under the lock.
            let streams;
            let nodes = session.graphs.lock();
            streams = streams_of(session, &context);
            let status = |stream: &Arc<Stream>| session.cuda.stream_capture_status(stream.raw()?);
            if streams.iter().any(|stream| status(stream) == Ok(CAPTURE_ACTIVE)) {
                session.cuda.ctx_synchronize()?;
                return Ok(cuCtxSynchronize::Out {});
            }
            drop(nodes);
        }
        session.cuda.ctx_synchronize()?;
        Ok(cuCtxSynchronize::Out {})
    }
}

impl Handle for cuThreadExchangeStreamCaptureMode::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuThreadExchangeStreamCaptureMode::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuThreadExchangeStreamCaptureMode::Out, Failure> {
        let mode = i32::try_from(arguments.mode)
            .ok()
            .filter(|mode| (0..=cuda::CAPTURE_RELAXED).contains(mode));
        let mode = mode.ok_or(RingError::Arguments {
            op: cuThreadExchangeStreamCaptureMode::OP,
        })?;
        ring.session.cuda.exchange_capture_mode(mode)?;
        Ok(cuThreadExchangeStreamCaptureMode::Out {})
    }
}

/// CU_LIMIT_PRINTF_FIFO_SIZE and CU_LIMIT_MALLOC_HEAP_SIZE: memory of the device that goes with the context.
const LIMITS_IN_MEMORY: std::ops::RangeInclusive<i32> = 1..=2;

/// A context's streams that libcuda has.
fn streams_of(session: &Session, context: &Arc<Context>) -> Vec<Arc<Stream>> {
    let mut streams = session.objects.streams.all();
    streams.retain(|stream| Arc::ptr_eq(&stream.context, context) && stream.raw().is_ok());
    streams.extend(context.default_streams());
    streams
}

/// Has all that comes in a context wait, with `wait`. Each of its streams is at a wait from then on, so that nothing that comes counts as
/// running before it does. (A stream that is created while the wait goes on is not known to wait.)
fn wait_in(
    session: &'static Session,
    context: &Arc<Context>,
    wait: impl FnOnce() -> Result<(), Code>,
) -> Result<(), Code> {
    // Captures of the context's streams become invalid by it.
    let _alone = session.changes_captures();
    let _graphs = session.graphs.lock();
    let streams = streams_of(session, context);
    session.relaxed(|| {
        for stream in &streams {
            if !captures(session, stream)? {
                stream.mark_before_capture()?;
            }
        }
        Ok::<(), Code>(())
    })?;
    wait()?;
    session.relaxed(|| {
        streams
            .iter()
            .try_for_each(|stream| stream.submitted_wait(session.load.start()))
    })
}

handlers_of! {
    cuCtxGetLimit(ring, arguments) {
        ring.context()?;
        let value = ring.session.cuda.contexts.get_limit(arguments.limit)? as u64;
        Ok(Out { value })
    }

    cuCtxSetLimit(ring, arguments) {
        let context = ring.context()?;
        let session = ring.session;
        let value = usize::try_from(arguments.value).map_err(|_| result::INVALID_VALUE)?;
        let contexts = &session.cuda.contexts;
        let set = || contexts.set_limit(arguments.limit, value);
        if LIMITS_IN_MEMORY.contains(&arguments.limit) {
            let before = || Ok(contexts.get_limit(arguments.limit)? as u64);
            context.resize_buffer(before, arguments.value, set)?;
        } else {
            set()?;
        }
        Ok(Out {})
    }

    cuCtxGetCacheConfig(ring, _) {
        ring.context()?;
        let config = ring.session.cuda.contexts.get_cache_config()?;
        Ok(Out { config })
    }

    cuCtxSetCacheConfig(ring, arguments) {
        ring.context()?;
        ring.session.cuda.contexts.set_cache_config(arguments.config)?;
        Ok(Out {})
    }

    cuCtxGetStreamPriorityRange(ring, _) {
        ring.context()?;
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: two places that outlive the call.
        unsafe { ring.session.cuda.contexts.get_stream_priority_range(&mut least, &mut greatest) }?;
        Ok(Out { least, greatest })
    }

    cuCtxResetPersistingL2Cache(ring, _) {
        ring.context()?;
        ring.session.cuda.contexts.reset_persisting_l2()?;
        Ok(Out {})
    }

    cuCtxRecordEvent(ring, arguments) {
        let session = ring.session;
        let context = session.objects.contexts.get(arguments.context).ok_or(BAD_HANDLE)?;
        let event = session.objects.events.get(arguments.event).ok_or(BAD_HANDLE)?;
        if !Arc::ptr_eq(&event.context, &context) {
            return Err(result::INVALID_HANDLE.into());
        }
        // Captures of the context's streams become invalid by it.
        let _alone = session.changes_captures();
        let _graphs = session.graphs.lock();
        session.cuda.contexts.record_event(context.raw, event.raw?)?;
        Ok(Out {})
    }

    cuCtxWaitEvent(ring, arguments) {
        let session = ring.session;
        let context = session.objects.contexts.get(arguments.context).ok_or(BAD_HANDLE)?;
        let event = session.objects.events.get(arguments.event).ok_or(BAD_HANDLE)?;
        let event = event.raw?;
        wait_in(session, &context, || session.cuda.contexts.wait_event(context.raw, event))?;
        Ok(Out {})
    }

    cuDeviceGetHostAtomicCapabilities(ring, arguments, blob, reply) {
        let cuda = &ring.session.cuda;
        let device = cuda.device(arguments.device)?;
        super::peer::atomics(blob, reply, |can, operations, len| {
            // SAFETY: two arrays that are as long as is said and outlive the call.
            unsafe { cuda.contexts.host_atomics(can, operations, len, device) }
        })?;
        Ok(Out {})
    }

    cuDeviceGetTexture1DLinearMaxWidth(ring, arguments) {
        let cuda = &ring.session.cuda;
        let device = cuda.device(arguments.device)?;
        let width = cuda.contexts.texture_1d_max_width(arguments.format, arguments.channels, device)? as u64;
        Ok(Out { width })
    }
}
