//! Contexts, and each thread's stack of them.
use super::cuda;
use super::device::gpu;
use crate::abi::{CUcontext, CUctxCreateParams, CUdevice, In, Out};
use crate::handles::Entry;
use crate::lock;
use crate::objects::{Context, Stream, StreamKind, Streams};
use crate::session::Call;
use crate::text::Waited;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::handle;

/// The version of the context interface that `cuCtxGetApiVersion` names for all contexts.
const API_VERSION: c_uint = 3020;
/// CU_CTX_FLAGS_MASK.
const FLAGS: c_uint = 0xff;
/// CU_CTX_SCHED_MASK: how a thread waits, one way at most.
const WAITING: c_uint = 7;

/// Refuses flags that no context may have.
pub(super) fn check_flags(flags: c_uint) -> Result<(), Code> {
    if flags & !FLAGS != 0 || (flags & WAITING).count_ones() > 1 {
        return Err(result::INVALID_VALUE);
    }
    Ok(())
}

/// The flags that a context is told to have. All host memory can be mapped, whatever was asked for.
pub(super) fn told_flags(context: &Context) -> c_uint {
    const MAP_HOST: c_uint = 8;
    context.flags.load(Ordering::Relaxed) | MAP_HOST
}

/// Makes a context with this number, which is reserved; `handle` is that of a primary context.
pub(super) fn make(
    call: &Call,
    (id, handle): (u32, Option<usize>),
    device: CUdevice,
    flags: c_uint,
) -> Result<Arc<Entry<Context>>, Code> {
    let session = call.session;
    let info = gpu(call, device)?;
    let (slot, sequence) = session.reserve_slot()?;
    let arguments = calls::cuCtxCreate::In {
        flags,
        device: device as u32,
        context: id,
    };
    let current = call.context().map_or(handle::CONTEXT_NONE, |context| context.id);
    if let Err(code) = call.ask::<calls::cuCtxCreate::Call>(current, arguments) {
        session.streams.release(slot);
        return Err(code);
    }
    // What an earlier context of this number left is not this one's.
    let _ = session.area.take_error(id);
    let streams = Arc::new(Streams::default());
    let legacy = Stream::new(slot, handle::STREAM_LEGACY, id, StreamKind::Legacy, sequence);
    let legacy = Arc::new(legacy.with_siblings(streams.clone()));
    let named = (id, device as usize, info);
    let context = Context::new(named, legacy, streams, flags, handle.is_some());
    Ok(match handle {
        Some(handle) => session.contexts.insert_as(handle, context),
        None => session.contexts.insert(id, context),
    })
}

fn create(place: Out<CUcontext>, flags: c_uint, device: CUdevice) -> Result<(), Code> {
    let call = Call::enter()?;
    gpu(&call, device)?;
    place.check()?;
    check_flags(flags)?;
    let contexts = &call.session.contexts;
    let id = contexts.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let entry = make(&call, (id, None), device, flags).inspect_err(|_| contexts.release(id))?;
    call.thread.contexts.borrow_mut().push(entry.clone());
    place.set(entry.handle())
}

pub(super) fn find(call: &Call, context: CUcontext) -> Result<Arc<Entry<Context>>, Code> {
    if context == 0 {
        return Err(result::INVALID_VALUE);
    }
    if let Some(found) = call.session.contexts.get(context) {
        return Ok(Arc::clone(&*found));
    }
    let session = call.session;
    let primary = session.primaries.find(&session.gpus, context);
    primary.ok_or(result::INVALID_CONTEXT)
}

/// Destroys a context and everything in it.
pub(super) fn destroy(call: &Call, entry: &Arc<Entry<Context>>) -> Result<(), Code> {
    let session = call.session;
    if !entry.is_alive() {
        return Err(result::INVALID_CONTEXT);
    }
    // The host destroys it only after what was submitted to it; what that comes to is nobody's any more.
    if session.synchronize(call.thread, entry).is_ok() {
        call.print(entry.id, Waited::Context);
    }
    session.storage.end(entry.handle());
    let arguments = calls::cuCtxDestroy::In { context: entry.id };
    // With its session lost, or about to be, the context is gone already.
    if let Err(code) = call.ask::<calls::cuCtxDestroy::Call>(entry.id, arguments)
        && session.area.status().is_ok()
        && !result::is_sticky(code)
    {
        return Err(code);
    }
    if !entry.end() {
        return Err(result::INVALID_CONTEXT);
    }
    session.contexts.remove(entry.handle());
    for stream in entry.streams.all() {
        let capture = stream.capture();
        if session.captures.began_on(capture, stream.slot) {
            session.captures.ended(capture);
        }
    }
    for stream in entry.streams.all().into_iter().chain([entry.legacy.clone()]) {
        stream.bury(&session.area);
        if stream.kind == StreamKind::Legacy || stream.kind == StreamKind::PerThread {
            session.streams.release(stream.slot);
        }
    }
    macro_rules! forget {
        ($($table:ident),*) => {$(
            for object in session.$table.all().iter().filter(|o| o.context == entry.id) {
                if session.$table.remove(object.handle()).is_some() {
                    session.$table.release(object.id);
                }
            }
        )*};
    }
    forget!(
        events,
        modules,
        functions,
        graphs,
        graph_execs,
        links,
        arrays,
        mipmapped
    );
    session.textures.forget_context(entry.id);
    session.surfaces.forget_context(entry.id);
    let graphs = &session.graphs;
    lock(&session.graph_copies).retain(|_, (context, _)| *context != entry.id);
    lock(&session.node_parts).retain(|_, parts| parts.iter().all(|part| graphs.get(*part).is_some()));
    for stream in session.streams.all().iter().filter(|s| s.context == entry.id) {
        if session.streams.remove(stream.handle()).is_some() {
            session.streams.release(stream.slot);
        }
    }
    session
        .device_memory()
        .retain(|_, memory| memory.context != entry.id);
    session.free_pinned_of(entry.id);
    let _ = session.area.take_error(entry.id);
    lock(&entry.retired).clear();
    if !entry.is_primary {
        session.contexts.release(entry.id);
    }
    Ok(())
}

/// CU_EXEC_AFFINITY_TYPE_SM_COUNT.
const SM_COUNT: c_int = 0;

fn device(call: &Call, place: Out<CUdevice>, context: CUcontext) -> Result<(), Code> {
    let ordinal = match context {
        // Also of one that was destroyed meanwhile.
        0 => {
            let contexts = call.thread.contexts.borrow();
            contexts.last().ok_or(result::INVALID_CONTEXT)?.device
        }
        context => find(call, context)?.device,
    };
    place.set(ordinal as CUdevice)
}

fn synchronize(call: &Call, context: &Context) -> Result<(), Code> {
    if call.session.captures.any() {
        call.ask::<calls::cuCtxSynchronize::Call>(context.id, calls::cuCtxSynchronize::In {})?;
    }
    call.session.synchronize(call.thread, context)?;
    call.print(context.id, Waited::Context);
    call.take_errors(context.id)
}

cuda! {
    fn cuCtxGetExecAffinity(affinity: Out<[c_uint; 2]>, kind: c_int) {
        let call = Call::enter()?;
        drop(call.context()?);
        affinity.check()?;
        match kind {
            // No context is made with one: only clients of NVIDIA's MPS could.
            SM_COUNT => Err(result::UNSUPPORTED_EXEC_AFFINITY),
            _ => Err(result::INVALID_VALUE),
        }
    }

    fn cuCtxCreate_v2(context: Out<CUcontext>, flags: c_uint, device: CUdevice) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(
        context: Out<CUcontext>, affinities: In<usize>, affinities_len: c_int, flags: c_uint, device: CUdevice,
    ) {
        if !affinities.is_null() && affinities_len != 0 {
            return Err(result::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: Out<CUcontext>, parameters: In<CUctxCreateParams>, flags: c_uint, device: CUdevice) {
        if !parameters.is_null() {
            let parameters = parameters.get()?;
            if parameters.cig_params != 0 || parameters.exec_affinity_params != 0 {
                return Err(result::NOT_SUPPORTED);
            }
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: CUcontext) {
        let call = Call::enter()?;
        let entry = find(&call, context)?;
        if entry.is_primary {
            return Err(result::INVALID_CONTEXT);
        }
        destroy(&call, &entry)?;
        let mut contexts = call.thread.contexts.borrow_mut();
        if contexts.last().is_some_and(|top| Arc::ptr_eq(top, &entry)) {
            contexts.pop();
        }
        Ok(())
    }

    fn cuCtxGetApiVersion(context: CUcontext, version: Out<c_uint>) {
        let call = Call::local()?;
        if context == 0 {
            call.context()?;
        } else {
            find(&call, context)?;
        }
        version.set(API_VERSION)
    }

    fn cuCtxGetCurrent(context: Out<CUcontext>) {
        let call = Call::local()?;
        let contexts = call.thread.contexts.borrow();
        context.set(contexts.last().map_or(0, |top| top.handle()))
    }

    fn cuCtxSetCurrent(context: CUcontext) {
        let call = Call::local()?;
        let entry = match context {
            0 => None,
            context => Some(find(&call, context)?),
        };
        let mut contexts = call.thread.contexts.borrow_mut();
        contexts.pop();
        contexts.extend(entry);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: CUcontext) {
        let call = Call::local()?;
        let entry = find(&call, context)?;
        call.thread.contexts.borrow_mut().push(entry);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<CUcontext>) {
        let call = Call::local()?;
        let top = call.thread.contexts.borrow_mut().pop().ok_or(result::INVALID_CONTEXT)?;
        context.set_if_wanted(top.handle());
        Ok(())
    }

    fn cuCtxGetDevice(ordinal: Out<CUdevice>) {
        device(&Call::local()?, ordinal, 0)
    }

    fn cuCtxGetDevice_v2(ordinal: Out<CUdevice>, context: CUcontext) {
        device(&Call::local()?, ordinal, context)
    }

    fn cuCtxSynchronize() {
        let call = Call::enter()?;
        let context = call.context()?;
        synchronize(&call, &context)
    }

    fn cuCtxSynchronize_v2(context: CUcontext) {
        let call = Call::enter()?;
        if context == 0 {
            let context = call.context()?;
            return synchronize(&call, &context);
        }
        let entry = find(&call, context)?;
        if !entry.is_alive() {
            return Err(result::CONTEXT_IS_DESTROYED);
        }
        synchronize(&call, &entry)
    }

    fn cuCtxGetFlags(flags: Out<c_uint>) {
        let call = Call::local()?;
        let context = call.context()?;
        flags.set(told_flags(&context))
    }

    fn cuCtxSetFlags(flags: c_uint) {
        let call = Call::local()?;
        let context = call.context()?;
        check_flags(flags)?;
        context.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetId(context: CUcontext, id: Out<u64>) {
        let call = Call::local()?;
        id.set(match context {
            0 => call.context()?.serial,
            context => find(&call, context)?.serial,
        })
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: c_int) {
        let call = Call::enter()?;
        let context = call.context()?;
        value.check()?;
        let out = call.ask::<calls::cuCtxGetLimit::Call>(context.id, calls::cuCtxGetLimit::In { limit })?;
        value.set(out.value as usize)
    }

    fn cuCtxSetLimit(limit: c_int, value: usize) {
        let call = Call::enter()?;
        let context = call.context()?;
        let arguments = calls::cuCtxSetLimit::In { limit, value: value as u64 };
        call.ask::<calls::cuCtxSetLimit::Call>(context.id, arguments).map(drop)
    }

    fn cuCtxGetCacheConfig(config: Out<c_int>) {
        let call = Call::enter()?;
        let context = call.context()?;
        config.check()?;
        let out = call.ask::<calls::cuCtxGetCacheConfig::Call>(context.id, calls::cuCtxGetCacheConfig::In {})?;
        config.set(out.config)
    }

    fn cuCtxSetCacheConfig(config: c_int) {
        let call = Call::enter()?;
        let context = call.context()?;
        let arguments = calls::cuCtxSetCacheConfig::In { config };
        call.ask::<calls::cuCtxSetCacheConfig::Call>(context.id, arguments).map(drop)
    }

    fn cuCtxResetPersistingL2Cache() {
        let call = Call::enter()?;
        let context = call.context()?;
        let arguments = calls::cuCtxResetPersistingL2Cache::In {};
        call.ask::<calls::cuCtxResetPersistingL2Cache::Call>(context.id, arguments).map(drop)
    }
}
