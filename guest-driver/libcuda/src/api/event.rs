//! Events. An event stands for a point: a number that a stream's fence word reaches right before the event.
use super::{cuda, cuda_pairs};
use crate::abi::{CUcontext, CUevent, CUstream, Out};
use crate::fence::refuse_capture;
use crate::handles::{Entry, Found};
use crate::lock;
use crate::objects::{Context, Event, Recorded, Stream, StreamKind};
use crate::session::Call;
use crate::text::Waited;
use std::ffi::c_uint;
use std::sync::{Arc, Mutex};
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// CU_EVENT_BLOCKING_SYNC, _DISABLE_TIMING and _INTERPROCESS.
const BLOCKING_SYNC: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
const INTERPROCESS: c_uint = 4;
/// CU_EVENT_RECORD_EXTERNAL.
const RECORD_EXTERNAL: c_uint = 1;

fn find(call: &Call, event: CUevent) -> Result<Found<Event>, Code> {
    call.session.events.get(event).ok_or(result::INVALID_HANDLE)
}

fn named(call: &Call, context: CUcontext) -> Result<Arc<Entry<Context>>, Code> {
    match context {
        0 => Err(result::INVALID_CONTEXT),
        context => super::context::find(call, context),
    }
}

fn elapsed(milliseconds: Out<f32>, start: CUevent, end: CUevent) -> Result<(), Code> {
    let call = Call::enter()?;
    let (start, end) = (find(&call, start)?, find(&call, end)?);
    let usable = |event: &Event| event.timing && *lock(&event.recorded) != Recorded::Never;
    if !usable(&start) || !usable(&end) {
        return Err(result::INVALID_HANDLE);
    }
    // So says NVIDIA's library.
    milliseconds.check().map_err(|_| result::INVALID_HANDLE)?;
    loop {
        for event in [&start, &end] {
            let recorded = *lock(&event.recorded);
            if !call.is_event_done(recorded)? {
                return Err(result::NOT_READY);
            }
        }
        // All before the events is done, so the host finds them done at once or a moment later.
        match ask_elapsed(&call, &start, &end) {
            Err(result::NOT_READY) => std::thread::yield_now(),
            other => return milliseconds.set(other?),
        }
    }
}

fn ask_elapsed(call: &Call, start: &Event, end: &Event) -> Result<f32, Code> {
    let arguments = calls::cuEventElapsedTime::In {
        start: start.id,
        end: end.id,
    };
    let out = call.ask::<calls::cuEventElapsedTime::Call>(start.context, arguments)?;
    Ok(f32::from_bits(out.milliseconds_bits))
}

cuda! {
    fn cuEventCreate(place: Out<CUevent>, flags: c_uint) {
        let call = Call::enter()?;
        let context = call.context()?;
        place.check()?;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 {
            return Err(result::INVALID_VALUE);
        }
        // Times of events that other processes may open cannot be taken.
        if flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS {
            return Err(result::INVALID_VALUE);
        }
        let session = call.session;
        let id = session.events.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuEventCreate::In { event: id, flags };
        if let Err(code) = call.submit::<calls::cuEventCreate::Call>(context.id, arguments) {
            session.events.release(id);
            return Err(code);
        }
        let event = Event {
            id,
            context: context.id,
            timing: flags & DISABLE_TIMING == 0,
            shared: flags & INTERPROCESS != 0,
            recorded: Mutex::new(Recorded::Never),
        };
        place.set(session.events.insert(id, event).handle())
    }

    fn cuEventDestroy_v2(event: CUevent) {
        let call = Call::enter()?;
        let entry = call.session.events.remove(event).ok_or(result::INVALID_HANDLE)?;
        let arguments = calls::cuEventDestroy::In { event: entry.id };
        let destroyed = call.submit::<calls::cuEventDestroy::Call>(entry.context, arguments);
        call.session.events.release(entry.id);
        destroyed
    }

    fn cuEventQuery(event: CUevent) {
        let call = Call::enter()?;
        let event = find(&call, event)?;
        if call.session.captures.any() || *lock(&event.recorded) == Recorded::AtHost {
            let arguments = calls::cuEventQuery::In { event: event.id };
            return call.ask::<calls::cuEventQuery::Call>(event.context, arguments).map(drop);
        }
        let recorded = *lock(&event.recorded);
        let done = call.is_event_done(recorded)?;
        call.take_errors(event.context)?;
        if done { Ok(()) } else { Err(result::NOT_READY) }
    }

    fn cuEventSynchronize(event: CUevent) {
        let call = Call::enter()?;
        let event = find(&call, event)?;
        let recorded = *lock(&event.recorded);
        if let Recorded::At(point) = recorded {
            call.session.wait_for(call.thread, event.context, point)?;
        }
        if call.session.captures.any() || recorded == Recorded::AtHost {
            let arguments = calls::cuEventSynchronize::In { event: event.id };
            call.ask::<calls::cuEventSynchronize::Call>(event.context, arguments)?;
        }
        call.is_event_done(recorded)?;
        call.print(event.context, Waited::Event(event.id));
        call.take_errors(event.context)
    }

    fn cuCtxRecordEvent(context: CUcontext, event: CUevent) {
        let call = Call::enter()?;
        let (context, event) = (named(&call, context)?, find(&call, event)?);
        if event.context != context.id {
            return Err(result::INVALID_HANDLE);
        }
        // Whoever finds the event done then finds the streams done, too.
        for stream in context.streams.all().iter().chain([&context.legacy]) {
            if stream.kind != StreamKind::PerThread && refuse_capture(stream).is_ok() {
                call.session.fence(call.thread, stream)?;
            }
        }
        let arguments = calls::cuCtxRecordEvent::In { context: context.id, event: event.id };
        call.ask::<calls::cuCtxRecordEvent::Call>(context.id, arguments)?;
        *lock(&event.recorded) = Recorded::AtHost;
        Ok(())
    }

    fn cuCtxWaitEvent(context: CUcontext, event: CUevent) {
        let call = Call::enter()?;
        let (context, event) = (named(&call, context)?, find(&call, event)?);
        let arguments = calls::cuCtxWaitEvent::In { context: context.id, event: event.id };
        call.ask::<calls::cuCtxWaitEvent::Call>(context.id, arguments).map(drop)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: CUevent, end: CUevent) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: CUevent, end: CUevent) {
        elapsed(milliseconds, start, end)
    }
}

/// Records an event behind a stream's work; `external` in a capture makes it a node of the graph.
fn record(call: &Call, event: CUevent, stream: &Stream, external: bool) -> Result<(), Code> {
    let event = find(call, event)?;
    if event.context != stream.context {
        return Err(result::INVALID_HANDLE);
    }
    // The fence goes before the event: whatever waits for the event on the GPU then finds the number written. In a
    // capture there is none, since a graph would write it again whenever it runs.
    let capture = stream.capture();
    let refused = if capture == 0 {
        refuse_capture(stream)
    } else {
        Ok(())
    };
    let recorded = match capture {
        0 if external => return Err(result::ILLEGAL_STATE),
        0 if refused.is_ok() => Recorded::At(call.session.fence(call.thread, stream)?),
        0 => Recorded::Never,
        capture => Recorded::Captured(capture),
    };
    if external {
        let arguments = calls::cuEventRecordWithFlags::In {
            event: event.id,
            stream: stream.word,
            flags: RECORD_EXTERNAL,
        };
        call.ask::<calls::cuEventRecordWithFlags::Call>(stream.context, arguments)?;
        // When it is done only the host can tell: the graph records it.
        *lock(&event.recorded) = Recorded::AtHost;
        return Ok(());
    }
    let arguments = calls::cuEventRecord::In {
        event: event.id,
        stream: stream.word,
        slot: stream.slot,
        sequence: 0,
    };
    call.submit::<calls::cuEventRecord::Call>(stream.context, arguments)?;
    refused?;
    *lock(&event.recorded) = match recorded {
        Recorded::At(_) if event.shared => Recorded::AtHost,
        recorded => recorded,
    };
    Ok(())
}

cuda_pairs! {
    fn cuEventRecord / cuEventRecord_ptsz(event: CUevent, stream: CUstream) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        record(&call, event, &stream, false)
    }

    fn cuEventRecordWithFlags / cuEventRecordWithFlags_ptsz(event: CUevent, stream: CUstream, flags: c_uint) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        if flags & !RECORD_EXTERNAL != 0 {
            return Err(result::INVALID_VALUE);
        }
        record(&call, event, &stream, flags != 0)
    }
}
