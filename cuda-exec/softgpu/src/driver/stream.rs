//! Streams: queues of operations, each run in order by a thread of its own, which comes when there is work
//! and goes when there has been none for a while.

use super::abi::{
    CUcontext, CUevent, CUstream, DefaultStream, In, Out, STREAM_LEGACY, STREAM_PER_THREAD, api, stream_api,
};
use super::capture::{self, Capturing};
use super::context::{Context, current};
use super::error::{self, Result};
use super::registry::new_handle;
use super::runtime::{Runtime, initialised, runtime};
use super::work::{self, Work};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// A submitter blocks while so many operations of one stream are not done.
const DEPTH: u64 = 1024;
/// How long a worker waits for more before it goes.
const LINGER: Duration = Duration::from_millis(500);
/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u32 = 1;

/// Where a stream comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The default stream which all blocking streams synchronise with.
    Legacy,
    /// A thread's own default stream.
    PerThread,
    Created,
}

/// A stream.
pub struct Stream {
    pub handle: CUstream,
    context: Weak<Context>,
    pub kind: Kind,
    flags: u32,
    priority: i32,
    /// What was set of its attributes, which change nothing here.
    attributes: Mutex<HashMap<i32, [u64; 8]>>,
    queue: Mutex<Queue>,
    /// The worker waits here for work.
    work: Condvar,
    /// Submitters wait here for room, others for completion.
    done: Condvar,
    /// Operations done so far.
    completed: AtomicU64,
    /// Whether its operations go into a graph instead.
    pub capture: Mutex<Option<Capturing>>,
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    /// Operations submitted so far.
    submitted: u64,
    has_worker: bool,
    worker_waits: bool,
    /// Threads that wait on `done`.
    waiters: u32,
}

struct Op {
    after: Vec<Marker>,
    work: Work,
}

/// A point in a stream.
#[derive(Clone)]
pub struct Marker {
    stream: Arc<Stream>,
    /// The operations before it.
    count: u64,
}

impl Marker {
    /// Whether all operations before it are done.
    pub fn is_done(&self) -> bool {
        self.stream.completed.load(Ordering::Acquire) >= self.count
    }

    /// Waits until all operations before it are done.
    pub fn wait(&self) {
        if self.is_done() {
            return;
        }
        let mut queue = self.stream.queue();
        queue.waiters += 1;
        while !self.is_done() {
            queue = self.stream.done.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
        queue.waiters -= 1;
    }
}

impl Stream {
    /// A stream of `context`, not yet known to it.
    pub fn new(context: Weak<Context>, kind: Kind, flags: u32, priority: i32) -> Arc<Stream> {
        Arc::new(Stream {
            handle: new_handle(),
            context,
            kind,
            flags,
            priority,
            attributes: Mutex::default(),
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            completed: AtomicU64::new(0),
            capture: Mutex::default(),
        })
    }

    /// A stream of `context` that nobody else knows.
    pub fn apart(context: &Arc<Context>) -> Arc<Stream> {
        Self::new(Arc::downgrade(context), Kind::Created, NON_BLOCKING, 0)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Its context, as long as that exists.
    pub fn context(&self) -> Option<Arc<Context>> {
        self.context.upgrade()
    }

    /// Whether it is a stream of the context with that handle, or of one that is gone.
    pub fn belongs_to(&self, context: CUcontext) -> bool {
        self.context().is_none_or(|c| c.handle == context)
    }

    /// Whether it synchronises with the legacy stream.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// The point behind everything submitted so far.
    pub fn tail(self: &Arc<Self>) -> Marker {
        Marker {
            stream: self.clone(),
            count: self.queue().submitted,
        }
    }

    /// Puts an operation into the stream, or into the graph it is being captured to.
    pub fn enqueue(self: &Arc<Self>, work: Work) -> Result {
        if capture::add(self, &work)? {
            return Ok(());
        }
        self.submit(Vec::new(), work).map(|_| ())
    }

    /// Queues an operation that starts once those before it and `after` are done; gives the point behind it.
    pub fn submit(self: &Arc<Self>, mut after: Vec<Marker>, work: Work) -> Result<Marker> {
        let context = self.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
        self.wait_for_room();
        after.extend(context.waits());
        if self.kind == Kind::Legacy {
            let _order = context.order();
            let others = context.live_streams();
            after.extend(others.iter().filter(|s| s.is_blocking()).map(|s| s.tail()));
            self.push(after, work)
        } else if self.is_blocking() {
            let _order = context.order();
            after.push(context.legacy.tail());
            self.push(after, work)
        } else {
            self.push(after, work)
        }
    }

    fn wait_for_room(&self) {
        let mut queue = self.queue();
        while queue.submitted - self.completed.load(Ordering::Acquire) >= DEPTH {
            queue.waiters += 1;
            queue = self.done.wait(queue).unwrap_or_else(|e| e.into_inner());
            queue.waiters -= 1;
        }
    }

    fn push(self: &Arc<Self>, mut after: Vec<Marker>, work: Work) -> Result<Marker> {
        after.retain(|marker| !marker.is_done());
        let mut queue = self.queue();
        if !queue.has_worker {
            let stream = self.clone();
            let worker = std::thread::Builder::new().name("softgpu-stream".to_owned());
            worker
                .spawn(move || stream.run())
                .map_err(|_| error::OUT_OF_MEMORY)?;
            queue.has_worker = true;
        }
        queue.ops.push_back(Op { after, work });
        queue.submitted += 1;
        let wake = std::mem::take(&mut queue.worker_waits);
        let count = queue.submitted;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        Ok(Marker {
            stream: self.clone(),
            count,
        })
    }

    /// The worker: runs operations until none have come for a while.
    fn run(self: Arc<Self>) {
        block_signals();
        while let Some(op) = self.next() {
            let mut engine = None;
            let Some(context) = self.context() else {
                self.complete();
                continue;
            };
            let mut op = Some(op);
            while let Some(Op { after, work }) = op.take() {
                after.iter().for_each(Marker::wait);
                work::run_guarded(&context, &work, &mut engine);
                // A kernel that follows at once runs in the same turn of the compute engine.
                let more = engine.is_some() && self.next_is_ready_kernel();
                if !more {
                    engine = None;
                }
                drop(work);
                self.complete();
                if more {
                    op = self.queue().ops.pop_front();
                }
            }
        }
    }

    fn next(&self) -> Option<Op> {
        let mut queue = self.queue();
        loop {
            if let Some(op) = queue.ops.pop_front() {
                return Some(op);
            }
            queue.worker_waits = true;
            let (guard, timeout) = self
                .work
                .wait_timeout(queue, LINGER)
                .unwrap_or_else(|e| e.into_inner());
            queue = guard;
            queue.worker_waits = false;
            if timeout.timed_out() && queue.ops.is_empty() {
                queue.has_worker = false;
                return None;
            }
        }
    }

    fn next_is_ready_kernel(&self) -> bool {
        let queue = self.queue();
        queue
            .ops
            .front()
            .is_some_and(|op| op.work.is_kernel() && op.after.iter().all(Marker::is_done))
    }

    fn complete(&self) {
        let queue = self.queue();
        self.completed.fetch_add(1, Ordering::Release);
        if queue.waiters > 0 {
            self.done.notify_all();
        }
    }
}

/// Signals are for the program's own threads.
fn block_signals() {
    // SAFETY: the set is initialised by sigfillset before it is used.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

/// The stream of a handle, in the current context.
pub(crate) fn stream(handle: CUstream, default: DefaultStream) -> Result<Arc<Stream>> {
    let context = current()?;
    match (handle, default) {
        (0, DefaultStream::Legacy) | (STREAM_LEGACY, _) => Ok(context.legacy.clone()),
        (0, DefaultStream::PerThread) | (STREAM_PER_THREAD, _) => Ok(context.per_thread_stream()),
        (handle, _) => runtime()?.streams.get(handle),
    }
}

/// The default stream.
pub(crate) fn default_stream(default: DefaultStream) -> Result<Arc<Stream>> {
    stream(0, default)
}

/// Waits for a point, and says whether the process was lost meanwhile.
pub(crate) fn wait_for(runtime: &Runtime, marker: &Marker) -> Result {
    marker.wait();
    crate::fifo::flush();
    runtime.check()
}

/// `cuCtxSynchronize`
pub(crate) fn synchronize_context(context: &Arc<Context>) -> Result {
    let runtime = runtime()?;
    runtime.captures.forbid_in_context(context)?;
    runtime.captures.forbid()?;
    context.drain();
    crate::fifo::flush();
    runtime.check()
}

fn create(out: Out<CUstream>, flags: u32, priority: i32) -> Result {
    let context = current()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(error::INVALID_VALUE);
    }
    let stream = Stream::new(
        Arc::downgrade(&context),
        Kind::Created,
        flags,
        priority.clamp(-5, 0),
    );
    out.set(stream.handle)?;
    context.add_stream(&stream);
    runtime()?.streams.add(stream.handle, stream);
    Ok(())
}

api! { SYMBOLS;
    fn cuStreamCreate(out: Out<CUstream>, flags: u32) {
        create(out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: Out<CUstream>, flags: u32, priority: i32) {
        create(out, flags, priority)
    }

    fn cuStreamDestroy_v2(handle: CUstream) {
        let runtime = initialised()?;
        if handle == 0 || handle == STREAM_LEGACY || handle == STREAM_PER_THREAD {
            return Err(error::INVALID_HANDLE);
        }
        let stream = runtime.streams.get(handle)?;
        if stream.kind != Kind::Created {
            return Err(error::INVALID_HANDLE);
        }
        capture::abandon(runtime, &stream);
        // What is queued still runs: the worker keeps the stream alive.
        runtime.streams.remove(handle)?;
        runtime.check()
    }
}

/// CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW, _SYNCHRONIZATION_POLICY, _PRIORITY, _MEM_SYNC_DOMAIN_MAP, _MEM_SYNC_DOMAIN.
const ATTRIBUTES: [i32; 5] = [1, 3, PRIORITY, 9, 10];
const PRIORITY: i32 = 8;

stream_api! { STREAM_SYMBOLS, default;
    fn cuStreamSynchronize | cuStreamSynchronize_ptsz(handle: CUstream) {
        let stream = stream(handle, default)?;
        let runtime = runtime()?;
        capture::forbid_on(&stream)?;
        runtime.captures.forbid()?;
        wait_for(runtime, &stream.tail())
    }

    fn cuStreamQuery | cuStreamQuery_ptsz(handle: CUstream) {
        let stream = stream(handle, default)?;
        let runtime = runtime()?;
        capture::forbid_on(&stream)?;
        runtime.captures.forbid()?;
        if stream.tail().is_done() { runtime.check() } else { Err(error::NOT_READY) }
    }

    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(handle: CUstream, event: CUevent, flags: u32) {
        let stream = stream(handle, default)?;
        super::event::wait(&stream, &runtime()?.events.get(event)?, flags)
    }

    fn cuStreamGetAttribute | cuStreamGetAttribute_ptsz(handle: CUstream, id: i32, value: Out<[u64; 8]>) {
        let stream = stream(handle, default)?;
        if !ATTRIBUTES.contains(&id) {
            return Err(error::INVALID_VALUE);
        }
        let attributes = stream.attributes.lock().unwrap_or_else(|e| e.into_inner());
        let unset = if id == PRIORITY { [stream.priority as u32 as u64, 0, 0, 0, 0, 0, 0, 0] } else { [0; 8] };
        value.set(attributes.get(&id).copied().unwrap_or(unset))
    }

    fn cuStreamSetAttribute | cuStreamSetAttribute_ptsz(handle: CUstream, id: i32, value: In<[u64; 8]>) {
        let stream = stream(handle, default)?;
        if !ATTRIBUTES.contains(&id) {
            return Err(error::INVALID_VALUE);
        }
        stream.attributes.lock().unwrap_or_else(|e| e.into_inner()).insert(id, value.get()?);
        Ok(())
    }

    fn cuStreamCopyAttributes | cuStreamCopyAttributes_ptsz(to: CUstream, from: CUstream) {
        let (to, from) = (stream(to, default)?, stream(from, default)?);
        let copy = from.attributes.lock().unwrap_or_else(|e| e.into_inner()).clone();
        *to.attributes.lock().unwrap_or_else(|e| e.into_inner()) = copy;
        Ok(())
    }

    fn cuStreamGetFlags | cuStreamGetFlags_ptsz(handle: CUstream, flags: Out<u32>) {
        flags.set(stream(handle, default)?.flags)
    }

    fn cuStreamGetPriority | cuStreamGetPriority_ptsz(handle: CUstream, priority: Out<i32>) {
        priority.set(stream(handle, default)?.priority)
    }

    fn cuStreamGetId | cuStreamGetId_ptsz(handle: CUstream, id: Out<u64>) {
        id.set(stream(handle, default)?.handle)
    }

    fn cuStreamGetCtx | cuStreamGetCtx_ptsz(handle: CUstream, out: Out<CUcontext>) {
        let context = stream(handle, default)?.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
        out.set(context.handle)
    }
}
