//! Events.

use super::abi::{CUcontext, CUevent, CUstream, Out, api, stream_api};
use super::capture::{self, Session};
use super::context::{Context, context, current};
use super::error::{self, Result};
use super::graph::After;
use super::registry::new_handle;
use super::runtime::{initialised, runtime};
use super::stream::{Marker, Stream, stream};
use super::work::Work;
use crate::ptx::interp::now;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// `CU_EVENT_DISABLE_TIMING`
const DISABLE_TIMING: u32 = 2;
/// `CU_EVENT_RECORD_EXTERNAL`, `CU_EVENT_WAIT_EXTERNAL`
const EXTERNAL: u32 = 1;

/// An event.
pub struct Event {
    pub handle: CUevent,
    pub context: CUcontext,
    flags: u32,
    state: Mutex<State>,
}

/// What an event stands for.
#[derive(Clone)]
enum State {
    Fresh,
    /// A point in a stream.
    Recorded {
        at: Option<Marker>,
        record: Arc<Record>,
    },
    /// Nodes of a graph being captured.
    Captured {
        session: Arc<Session>,
        frontier: After,
    },
}

/// One recording: when it happened, in nanoseconds, or 0.
#[derive(Default)]
pub struct Record {
    time: AtomicU64,
}

impl Record {
    /// It happens now.
    pub fn done(&self) {
        self.time.store(now().max(1), Ordering::Release);
    }

    fn time(&self) -> u64 {
        self.time.load(Ordering::Acquire)
    }
}

impl Event {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Records it at this moment, as a node of a graph does.
    pub fn record_now(&self) {
        let record = Arc::new(Record::default());
        record.done();
        *self.state() = State::Recorded { at: None, record };
    }

    /// Waits for what it stands for at this moment, as a node of a graph does.
    pub fn wait_now(&self) {
        let state = self.state().clone();
        if let State::Recorded { at: Some(marker), .. } = state {
            marker.wait();
        }
    }

    fn record(self: &Arc<Self>, stream: &Arc<Stream>, flags: u32) -> Result {
        if flags & !EXTERNAL != 0 {
            return Err(error::INVALID_VALUE);
        }
        if flags & EXTERNAL != 0 {
            if !capture::add(stream, &Work::RecordEvent(self.clone()))? {
                return Err(error::INVALID_VALUE);
            }
            return Ok(());
        }
        if let Some((session, frontier)) = capture::frontier(stream)? {
            *self.state() = State::Captured { session, frontier };
            return Ok(());
        }
        let record = Arc::new(Record::default());
        // The lock is not held while the queue may be full.
        let marker = stream.submit(Vec::new(), Work::Record(record.clone()))?;
        *self.state() = State::Recorded {
            at: Some(marker),
            record,
        };
        Ok(())
    }

    /// Records it behind all work of a context.
    fn record_behind(&self, context: &Arc<Context>) -> Result {
        if self.context != context.handle {
            return Err(error::INVALID_HANDLE);
        }
        runtime()?.captures.forbid_in_context(context)?;
        // A stream of its own, which waits for all others.
        let stream = Stream::apart(context);
        let record = Arc::new(Record::default());
        let marker = stream.submit(context.tails(), Work::Record(record.clone()))?;
        *self.state() = State::Recorded {
            at: Some(marker),
            record,
        };
        Ok(())
    }

    fn time(&self) -> Result<u64> {
        if self.flags & DISABLE_TIMING != 0 {
            return Err(error::INVALID_HANDLE);
        }
        match &*self.state() {
            State::Fresh => Err(error::INVALID_HANDLE),
            State::Captured { .. } => Err(error::CAPTURED_EVENT),
            State::Recorded { record, .. } => match record.time() {
                0 => Err(error::NOT_READY),
                time => Ok(time),
            },
        }
    }
}

/// Makes `stream` wait for `event`.
pub(crate) fn wait(stream: &Arc<Stream>, event: &Arc<Event>, flags: u32) -> Result {
    if flags & !EXTERNAL != 0 {
        return Err(error::INVALID_VALUE);
    }
    if flags & EXTERNAL != 0 {
        return if capture::add(stream, &Work::WaitEvent(event.clone()))? {
            Ok(())
        } else {
            Err(error::INVALID_VALUE)
        };
    }
    let state = event.state().clone();
    match state {
        State::Captured { session, frontier } => capture::join(stream, &session, &frontier),
        State::Fresh => Ok(()),
        State::Recorded { at, .. } => {
            capture::isolate(stream)?;
            match at.filter(|marker| !marker.is_done()) {
                Some(marker) => stream.submit(vec![marker], Work::Nothing).map(|_| ()),
                None => Ok(()),
            }
        }
    }
}

/// Makes all that comes in a context wait for `event`.
fn wait_in(context: &Context, event: &Event) -> Result {
    runtime()?.captures.forbid_in_context(context)?;
    let state = event.state().clone();
    match state {
        State::Captured { session, .. } => {
            session.invalidate();
            Err(error::STREAM_CAPTURE_UNSUPPORTED)
        }
        State::Recorded { at: Some(marker), .. } => {
            context.wait_for(marker);
            Ok(())
        }
        State::Recorded { at: None, .. } | State::Fresh => Ok(()),
    }
}

fn query(event: &Event) -> Result<Option<Marker>> {
    match &*event.state() {
        State::Captured { session, .. } => {
            session.invalidate();
            Err(error::CAPTURED_EVENT)
        }
        State::Recorded { at: Some(marker), .. } if !marker.is_done() => Ok(Some(marker.clone())),
        _ => Ok(None),
    }
}

/// The context of a handle that is not null.
fn named(handle: CUcontext) -> Result<Arc<Context>> {
    match handle {
        0 => Err(error::INVALID_CONTEXT),
        handle => context(handle),
    }
}

fn elapsed(milliseconds: Out<f32>, start: CUevent, end: CUevent) -> Result {
    let runtime = runtime()?;
    let (start, end) = (runtime.events.get(start)?, runtime.events.get(end)?);
    let (start, end) = (start.time()?, end.time()?);
    milliseconds.set(((end as f64 - start as f64) / 1e6) as f32)
}

api! { SYMBOLS;
    fn cuEventCreate(out: Out<CUevent>, flags: u32) {
        let context = current()?;
        // Default, blocking sync, disable timing, interprocess (which needs disable timing).
        if flags & !7 != 0 || flags & 6 == 4 {
            return Err(error::INVALID_VALUE);
        }
        let handle = new_handle();
        let event = Event { handle, context: context.handle, flags, state: Mutex::new(State::Fresh) };
        out.set(handle)?;
        runtime()?.events.add(handle, Arc::new(event));
        Ok(())
    }

    fn cuEventDestroy_v2(handle: CUevent) {
        let runtime = initialised()?;
        runtime.events.remove(handle)?;
        runtime.check()
    }

    fn cuEventQuery(handle: CUevent) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        match query(&*runtime.events.get(handle)?)? {
            Some(_) => Err(error::NOT_READY),
            None => runtime.check(),
        }
    }

    fn cuEventSynchronize(handle: CUevent) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let marker = query(&*runtime.events.get(handle)?)?;
        if let Some(marker) = marker {
            marker.wait();
        }
        crate::fifo::flush();
        runtime.check()
    }

    fn cuCtxRecordEvent(handle: CUcontext, event: CUevent) {
        let event = runtime()?.events.get(event)?;
        event.record_behind(&named(handle)?)
    }

    fn cuCtxWaitEvent(handle: CUcontext, event: CUevent) {
        let event = runtime()?.events.get(event)?;
        wait_in(&*named(handle)?, &event)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: CUevent, end: CUevent) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: CUevent, end: CUevent) {
        elapsed(milliseconds, start, end)
    }
}

stream_api! { STREAM_SYMBOLS, default;
    fn cuEventRecord | cuEventRecord_ptsz(event: CUevent, handle: CUstream) {
        let stream = stream(handle, default)?;
        runtime()?.events.get(event)?.record(&stream, 0)
    }

    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(event: CUevent, handle: CUstream, flags: u32) {
        let stream = stream(handle, default)?;
        runtime()?.events.get(event)?.record(&stream, flags)
    }
}
