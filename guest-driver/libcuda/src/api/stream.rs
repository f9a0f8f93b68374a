//! Streams, and their capture.
use super::{cuda, cuda_pairs};
use crate::abi::{CUevent, CUgraph, CUstream, Out};
use crate::host_functions::Kept;
use crate::lock;
use crate::objects::{Context, Graph, Recorded, Stream, StreamKind};
use crate::session::Call;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// CU_STREAM_NON_BLOCKING.
const NON_BLOCKING: c_uint = 1;
/// CU_EVENT_WAIT_EXTERNAL.
const WAIT_EXTERNAL: c_uint = 1;
/// CUstreamCaptureMode: the highest, relaxed.
const CAPTURE_MODE_MAX: c_uint = 2;
/// The CUstreamCaptureStatus of a stream that does not capture.
const CAPTURE_NONE: c_int = 0;

/// The context of a stream, which its program has not destroyed.
fn context_of(call: &Call, stream: &Stream) -> Result<Arc<crate::handles::Entry<Context>>, Code> {
    let contexts = call.session.contexts.all();
    contexts
        .into_iter()
        .find(|c| c.id == stream.context)
        .ok_or(result::CONTEXT_IS_DESTROYED)
}

/// Ends a capture for all streams that take part in it.
/// The host functions in it.
fn end_capture(call: &Call, context: &Context, capture: u64) -> Vec<Kept> {
    for stream in context.streams.all() {
        if stream.capture() == capture {
            stream.set_capture(0);
        }
    }
    call.session.captures.ended(capture)
}

/// Whether a failed cuStreamEndCapture leaves the capture as it is.
fn goes_on(code: Code) -> bool {
    matches!(
        code,
        result::STREAM_CAPTURE_UNMATCHED | result::STREAM_CAPTURE_WRONG_THREAD | result::ILLEGAL_STATE
    )
}

cuda! {
    fn cuStreamCreate(place: Out<CUstream>, flags: c_uint) {
        let call = Call::enter()?;
        let context = call.context()?;
        place.check()?;
        if flags & !NON_BLOCKING != 0 {
            return Err(result::INVALID_VALUE);
        }
        let session = call.session;
        let (id, sequence) = session.reserve_slot()?;
        let arguments = calls::cuStreamCreate::In { stream: id, flags, priority: 0 };
        if let Err(code) = call.submit::<calls::cuStreamCreate::Call>(context.id, arguments) {
            session.streams.release(id);
            return Err(code);
        }
        let kind = if flags & NON_BLOCKING != 0 { StreamKind::NonBlocking } else { StreamKind::Blocking };
        let stream = Arc::new(Stream::new(id, id.into(), context.id, kind, sequence));
        context.streams.add(stream.clone());
        place.set(session.streams.insert(id, stream).handle())
    }

    fn cuStreamDestroy_v2(stream: CUstream) {
        let call = Call::enter()?;
        let session = call.session;
        let entry = session.streams.remove(stream).ok_or(result::INVALID_HANDLE)?;
        let context = context_of(&call, &entry)?;
        let stream: &Arc<Stream> = &entry;
        // Its work goes on; whoever waits for the context waits for that, too.
        if stream.capture() == 0 {
            let point = session.fence(call.thread, stream)?;
            if stream.kind == StreamKind::NonBlocking && !session.is_reached(point) {
                let mut retired = lock(&context.retired);
                retired.retain(|&point| !session.is_reached(point));
                retired.push(point);
            }
        }
        let capture = stream.capture();
        if call.session.captures.began_on(capture, stream.slot) {
            end_capture(&call, &context, capture);
        }
        let arguments = calls::cuStreamDestroy::In { stream: stream.slot };
        let destroyed = call.submit::<calls::cuStreamDestroy::Call>(stream.context, arguments);
        context.streams.retire(stream);
        session.streams.release(stream.slot);
        destroyed
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) {
        let call = Call::enter()?;
        let new = mode.get()?;
        if new > CAPTURE_MODE_MAX {
            return Err(result::INVALID_VALUE);
        }
        // The consumer of the thread's ring changes to it with the thread's next record.
        mode.set(call.thread.mode.replace(new))
    }
}

cuda_pairs! {
    fn cuStreamSynchronize / cuStreamSynchronize_ptsz(stream: CUstream) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        call.synchronize_stream(&stream)
    }

    fn cuStreamQuery / cuStreamQuery_ptsz(stream: CUstream) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        if call.session.captures.any() {
            let arguments = calls::cuStreamQuery::In { stream: stream.word };
            return call.ask::<calls::cuStreamQuery::Call>(stream.context, arguments).map(drop);
        }
        let point = call.session.fence(call.thread, &stream)?;
        call.take_errors(stream.context)?;
        if call.session.is_reached(point) { Ok(()) } else { Err(result::NOT_READY) }
    }

    fn cuStreamWaitEvent / cuStreamWaitEvent_ptsz(stream: CUstream, event: CUevent, flags: c_uint) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        let found = call.session.events.get(event);
        let event = found.ok_or(result::INVALID_HANDLE)?;
        if flags & !WAIT_EXTERNAL != 0 {
            return Err(result::INVALID_VALUE);
        }
        // Only a graph has external events.
        if flags != 0 && stream.capture() == 0 {
            return Err(result::ILLEGAL_STATE);
        }
        let recorded = *lock(&event.recorded);
        let mut joins = 0;
        match recorded {
            Recorded::Never => return Ok(()),
            Recorded::At(_) => {}
            Recorded::Captured(capture) => match stream.capture() {
                0 if stream.kind == StreamKind::Legacy => return Err(result::STREAM_CAPTURE_IMPLICIT),
                // It joins the capture.
                0 => {
                    flush_before_capture(&call, &stream)?;
                    joins = capture;
                }
                own if own == capture => {}
                _ => return Err(result::STREAM_CAPTURE_MERGE),
            },
        }
        let arguments = calls::cuStreamWaitEvent::In { stream: stream.word, event: event.id, flags };
        call.submit::<calls::cuStreamWaitEvent::Call>(stream.context, arguments)?;
        if joins != 0 {
            stream.set_capture(joins);
        }
        stream.did_submit();
        Ok(())
    }

    fn cuStreamBeginCapture_v2 / cuStreamBeginCapture_v2_ptsz(stream: CUstream, mode: c_uint) |null| {
        let call = Call::enter()?;
        let context = call.context()?;
        let stream = call.work_stream(&context, stream, null)?;
        if mode > CAPTURE_MODE_MAX {
            return Err(result::INVALID_VALUE);
        }
        if stream.kind == StreamKind::Legacy {
            return Err(result::STREAM_CAPTURE_UNSUPPORTED);
        }
        if stream.capture() == 0 {
            flush_before_capture(&call, &stream)?;
        }
        let arguments = calls::cuStreamBeginCapture::In { stream: stream.word, mode };
        call.ask::<calls::cuStreamBeginCapture::Call>(context.id, arguments)?;
        stream.set_capture(call.session.captures.began(stream.slot));
        Ok(())
    }

    fn cuStreamEndCapture / cuStreamEndCapture_ptsz(stream: CUstream, graph: Out<CUgraph>) |null| {
        let call = Call::enter()?;
        let context = call.context()?;
        let stream = call.work_stream(&context, stream, null)?;
        graph.check()?;
        let capture = stream.capture();
        if capture == 0 {
            return Err(result::ILLEGAL_STATE);
        }
        let session = call.session;
        let id = session.graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuStreamEndCapture::In { stream: stream.word, graph: id };
        match call.ask::<calls::cuStreamEndCapture::Call>(context.id, arguments) {
            Ok(_) => {
                let functions = end_capture(&call, &context, capture);
                graph.set(session.graphs.insert(id, Graph::new(id, context.id, functions)).handle())
            }
            Err(code) => {
                session.graphs.release(id);
                if !goes_on(code) {
                    end_capture(&call, &context, capture);
                    graph.set(0)?;
                }
                Err(code)
            }
        }
    }

    fn cuStreamIsCapturing / cuStreamIsCapturing_ptsz(stream: CUstream, status: Out<c_int>) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        status.check()?;
        if stream.capture() == 0 && !stream.waits_for_capture() {
            return status.set(CAPTURE_NONE);
        }
        // An error may have ended it.
        let arguments = calls::cuStreamIsCapturing::In { stream: stream.word };
        let out = call.ask::<calls::cuStreamIsCapturing::Call>(stream.context, arguments)?;
        status.set(out.status)
    }
}

/// Asks for the fences of a stream's work while they may still be asked for: none may on a capturing stream, nor on
/// the legacy stream while it waits for one. Staging and destruction then need no new ones.
fn flush_before_capture(call: &Call, stream: &Stream) -> Result<(), Code> {
    call.session.fence(call.thread, stream)?;
    if stream.is_blocking() {
        let context = context_of(call, stream)?;
        if !context.legacy.waits_for_capture() {
            call.session.fence(call.thread, &context.legacy)?;
        }
    }
    Ok(())
}
