//! Contexts and the stack of current ones that each thread has.

use super::abi::{CUcontext, CUdevice, In, Out, api};
use super::device::{Device, Primary, device};
use super::error::{self, Result};
use super::registry::new_handle;
use super::runtime::{Runtime, initialised, runtime};
use super::stream::{Kind, Marker, Stream};
use crate::arbiter::Gate;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A context.
pub struct Context {
    pub handle: CUcontext,
    pub ordinal: CUdevice,
    flags: AtomicU32,
    version: u32,
    /// Its place on the compute engine.
    pub gate: Arc<Gate>,
    /// The legacy default stream.
    pub legacy: Arc<Stream>,
    /// All streams, the legacy one apart.
    streams: Mutex<Vec<Weak<Stream>>>,
    /// Held while an operation is ordered between the legacy stream and the others.
    submission: Mutex<()>,
    /// What all its work that comes waits for.
    waits: Mutex<Vec<Marker>>,
    destroyed: AtomicBool,
    limits: [AtomicU64; LIMITS],
}

const LIMITS: usize = 8;
/// Defaults of the limits: stack, printf FIFO, heap, sync depth, pending launches, L2 fetch granularity,
/// persisting L2 and shared memory carve-out.
const LIMIT_DEFAULTS: [u64; LIMITS] = [1024, 1 << 20, 8 << 20, 0, 0, 64, 0, 0];

/// Most local memory of a thread, in bytes, whatever the limit of its stack is.
const MOST_STACK: usize = 512 << 10;

thread_local! {
    static STACK: RefCell<Vec<CUcontext>> = const { RefCell::new(Vec::new()) };
    static PER_THREAD: RefCell<HashMap<CUcontext, Arc<Stream>>> = RefCell::new(HashMap::new());
}

/// The current context of the calling thread; an error if there is none or the process is lost.
pub(crate) fn current() -> Result<Arc<Context>> {
    let runtime = runtime()?;
    let handle = current_handle().ok_or(error::INVALID_CONTEXT)?;
    runtime
        .contexts
        .get(handle)
        .map_err(|_| error::CONTEXT_IS_DESTROYED)
}

fn current_handle() -> Option<CUcontext> {
    STACK
        .with_borrow(|stack| stack.last().copied())
        .filter(|handle| *handle != 0)
}

/// The context of a handle, 0 being the current one.
pub(crate) fn context(handle: CUcontext) -> Result<Arc<Context>> {
    if handle == 0 {
        return current();
    }
    runtime()?
        .contexts
        .get(handle)
        .map_err(|_| error::INVALID_CONTEXT)
}

impl Context {
    fn create(runtime: &Runtime, ordinal: CUdevice, flags: u32, version: u32) -> Result<Arc<Context>> {
        let device = device(ordinal)?;
        let gate = Gate::new(&device.share).ok_or(error::OUT_OF_MEMORY)?;
        let handle = new_handle();
        let context = Arc::new_cyclic(|this: &Weak<Context>| Context {
            handle,
            ordinal,
            flags: AtomicU32::new(flags),
            version,
            gate,
            legacy: Stream::new(this.clone(), Kind::Legacy, 0, 0),
            streams: Mutex::default(),
            submission: Mutex::default(),
            waits: Mutex::default(),
            destroyed: AtomicBool::new(false),
            limits: LIMIT_DEFAULTS.map(AtomicU64::new),
        });
        runtime.streams.add(context.legacy.handle, context.legacy.clone());
        runtime.contexts.add(handle, context.clone());
        Ok(context)
    }

    /// Waits for its work and takes away all it has.
    fn destroy(&self, runtime: &Runtime) {
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = runtime.contexts.remove(self.handle);
        self.drain();
        runtime.streams.retain(|stream| !stream.belongs_to(self.handle));
        runtime.events.retain(|event| event.context != self.handle);
        runtime
            .functions
            .retain(|function| function.context != self.handle);
        runtime.modules.retain(|module| module.context != self.handle);
        runtime.arrays.retain(|array| array.context != self.handle);
        runtime.mipmapped.retain(|array| array.context != self.handle);
        runtime.textures.retain(|object| object.context != self.handle);
        runtime.memory.free_context(self.handle);
        self.gate.close();
    }

    /// `CU_LIMIT_STACK_SIZE` as far as there is memory, in bytes per thread.
    pub fn stack_size(&self) -> usize {
        let limit = self.limits[0].load(Ordering::Relaxed);
        usize::try_from(limit).map_or(MOST_STACK, |n| n.min(MOST_STACK))
    }

    pub fn is_destroyed(&self) -> bool {
        self.destroyed.load(Ordering::Acquire)
    }

    /// The device it is on.
    pub fn device(&self) -> Result<&'static Device> {
        device(self.ordinal)
    }

    pub fn add_stream(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams();
        streams.retain(|s| s.strong_count() > 0);
        streams.push(Arc::downgrade(stream));
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<Stream>>> {
        self.streams.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The streams which exist now, the legacy one apart.
    pub fn live_streams(&self) -> Vec<Arc<Stream>> {
        self.streams().iter().filter_map(Weak::upgrade).collect()
    }

    /// Orders submissions to the legacy stream and to those that synchronise with it.
    pub fn order(&self) -> MutexGuard<'_, ()> {
        self.submission.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until all work submitted before has been done.
    pub fn drain(&self) {
        for marker in self.tails() {
            marker.wait();
        }
    }

    /// The points behind all that was submitted so far.
    pub fn tails(&self) -> Vec<Marker> {
        let mut markers = vec![self.legacy.tail()];
        markers.extend(self.live_streams().iter().map(|s| s.tail()));
        markers
    }

    /// Has all that comes wait for a point.
    pub fn wait_for(&self, marker: Marker) {
        self.waits.lock().unwrap_or_else(|e| e.into_inner()).push(marker);
    }

    /// What all that comes waits for.
    pub fn waits(&self) -> Vec<Marker> {
        let mut waits = self.waits.lock().unwrap_or_else(|e| e.into_inner());
        waits.retain(|marker| !marker.is_done());
        waits.clone()
    }

    /// The calling thread's own default stream.
    pub fn per_thread_stream(self: &Arc<Self>) -> Arc<Stream> {
        PER_THREAD.with_borrow_mut(|streams| {
            streams.retain(|_, s| !s.context().is_none_or(|c| c.is_destroyed()));
            let make = || {
                let stream = Stream::new(Arc::downgrade(self), Kind::PerThread, 0, 0);
                self.add_stream(&stream);
                stream
            };
            streams.entry(self.handle).or_insert_with(make).clone()
        })
    }
}

fn create_current(out: Out<CUcontext>, flags: u32, ordinal: CUdevice, version: u32) -> Result {
    let runtime = runtime()?;
    device(ordinal)?;
    if flags & !0xff != 0 {
        return Err(error::INVALID_VALUE);
    }
    let context = Context::create(runtime, ordinal, flags, version)?;
    out.set(context.handle)?;
    STACK.with_borrow_mut(|stack| stack.push(context.handle));
    Ok(())
}

fn primary(device: &Device) -> MutexGuard<'_, Primary> {
    device.primary.lock().unwrap_or_else(|e| e.into_inner())
}

fn release_primary(ordinal: CUdevice, all: bool) -> Result {
    let device = device(ordinal)?;
    let context = {
        let mut primary = primary(device);
        if primary.retained == 0 && !all {
            return Err(error::INVALID_CONTEXT);
        }
        primary.retained = if all { 0 } else { primary.retained - 1 };
        if primary.retained > 0 {
            None
        } else {
            primary.context.take()
        }
    };
    let runtime = initialised()?;
    if let Some(context) = context {
        context.destroy(runtime);
    }
    runtime.check()
}

api! { SYMBOLS;
    fn cuCtxEnablePeerAccess(peer: CUcontext, flags: u32) {
        let own = current()?;
        let peer = context(peer)?;
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        if peer.ordinal == own.ordinal {
            return Err(error::INVALID_CONTEXT);
        }
        Err(error::PEER_ACCESS_UNSUPPORTED)
    }

    fn cuCtxDisablePeerAccess(peer: CUcontext) {
        current()?;
        context(peer)?;
        // None was ever enabled.
        Err(error::PEER_ACCESS_NOT_ENABLED)
    }

    fn cuDevicePrimaryCtxRetain(out: Out<CUcontext>, ordinal: CUdevice) {
        let runtime = runtime()?;
        let mut primary = primary(device(ordinal)?);
        let context = match &primary.context {
            Some(context) => context.clone(),
            None => {
                let context = Context::create(runtime, ordinal, primary.flags, 3020)?;
                primary.context = Some(context.clone());
                context
            }
        };
        primary.retained += 1;
        out.set(context.handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(ordinal: CUdevice) {
        release_primary(ordinal, false)
    }

    fn cuDevicePrimaryCtxReset_v2(ordinal: CUdevice) {
        release_primary(ordinal, true)
    }

    fn cuDevicePrimaryCtxGetState(ordinal: CUdevice, flags: Out<u32>, active: Out<i32>) {
        let primary = primary(device(ordinal)?);
        flags.set(primary.flags)?;
        active.set(primary.context.is_some() as i32)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(ordinal: CUdevice, flags: u32) {
        let mut primary = primary(device(ordinal)?);
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cuCtxCreate_v2(out: Out<CUcontext>, flags: u32, ordinal: CUdevice) {
        create_current(out, flags, ordinal, 3020)
    }

    fn cuCtxCreate_v3(out: Out<CUcontext>, _affinity: In<u8>, _count: i32, flags: u32, ordinal: CUdevice) {
        create_current(out, flags, ordinal, 3020)
    }

    fn cuCtxCreate_v4(out: Out<CUcontext>, _params: In<u8>, flags: u32, ordinal: CUdevice) {
        create_current(out, flags, ordinal, 3020)
    }

    fn cuCtxDestroy_v2(handle: CUcontext) {
        let runtime = initialised()?;
        let context = runtime.contexts.get(handle).map_err(|_| error::INVALID_CONTEXT)?;
        let is_primary = primary(context.device()?).context.as_ref().is_some_and(|p| p.handle == handle);
        if is_primary {
            return Err(error::INVALID_CONTEXT);
        }
        context.destroy(runtime);
        STACK.with_borrow_mut(|stack| stack.pop_if(|top| *top == handle));
        runtime.check()
    }

    fn cuCtxGetCurrent(out: Out<CUcontext>) {
        initialised()?;
        out.set(current_handle().unwrap_or(0))
    }

    fn cuCtxSetCurrent(handle: CUcontext) {
        let runtime = initialised()?;
        if handle != 0 {
            runtime.contexts.get(handle).map_err(|_| error::INVALID_CONTEXT)?;
        }
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if handle != 0 {
                stack.push(handle);
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(handle: CUcontext) {
        initialised()?.contexts.get(handle).map_err(|_| error::INVALID_CONTEXT)?;
        STACK.with_borrow_mut(|stack| stack.push(handle));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<CUcontext>) {
        initialised()?;
        let handle = STACK.with_borrow_mut(Vec::pop).ok_or(error::INVALID_CONTEXT)?;
        out.set_if_wanted(handle);
        Ok(())
    }

    fn cuCtxGetDevice(out: Out<CUdevice>) {
        let handle = current_handle().ok_or(error::INVALID_CONTEXT)?;
        let context = initialised()?.contexts.get(handle).map_err(|_| error::CONTEXT_IS_DESTROYED)?;
        out.set(context.ordinal)
    }

    fn cuCtxGetDevice_v2(out: Out<CUdevice>, handle: CUcontext) {
        out.set(context(handle)?.ordinal)
    }

    fn cuCtxSynchronize() {
        super::stream::synchronize_context(&current()?)
    }

    fn cuCtxSynchronize_v2(handle: CUcontext) {
        super::stream::synchronize_context(&context(handle)?)
    }

    fn cuCtxGetApiVersion(handle: CUcontext, version: Out<u32>) {
        version.set(context(handle)?.version)
    }

    fn cuCtxGetId(handle: CUcontext, id: Out<u64>) {
        id.set(context(handle)?.handle)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(-5);
        Ok(())
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(current()?.flags.load(Ordering::Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        current()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: i32) {
        let context = current()?;
        let limit = usize::try_from(limit).ok().and_then(|n| context.limits.get(n));
        value.set(limit.ok_or(error::UNSUPPORTED_LIMIT)?.load(Ordering::Relaxed) as usize)
    }

    fn cuCtxSetLimit(limit: i32, value: usize) {
        let context = current()?;
        runtime()?.captures.forbid()?;
        let limit = usize::try_from(limit).ok().and_then(|n| context.limits.get(n));
        limit.ok_or(error::UNSUPPORTED_LIMIT)?.store(value as u64, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        // There is none.
        current().map(|_| ())
    }

    fn cuCtxGetCacheConfig(config: Out<i32>) {
        current()?;
        config.set(0)
    }

    fn cuCtxSetCacheConfig(_config: i32) {
        current()?;
        Ok(())
    }
}
