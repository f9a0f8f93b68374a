//! Streams.
use super::capture::{CAPTURE_MODE_MAX, abandon, end_capture, flush_before_capture};
use super::{cuda, cuda_pairs};
use crate::abi::{CUcontext, CUdevice, CUevent, CUstream, In, Out};
use crate::lock;
use crate::objects::{Context, Recorded, Stream, StreamKind};
use crate::session::Call;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};
use zerocopy::{FromBytes, IntoBytes};

/// CU_STREAM_NON_BLOCKING.
const NON_BLOCKING: c_uint = 1;
/// CU_EVENT_WAIT_EXTERNAL.
const WAIT_EXTERNAL: c_uint = 1;

/// The context of a stream, which its program has not destroyed.
pub(super) fn context_of(call: &Call, stream: &Stream) -> Result<Arc<crate::handles::Entry<Context>>, Code> {
    let contexts = call.session.contexts.all();
    contexts
        .into_iter()
        .find(|c| c.id == stream.context)
        .ok_or(result::CONTEXT_IS_DESTROYED)
}

/// The priorities that streams may have: numerically the least important's is the greatest.
fn priorities(call: &Call, context: &Context) -> Result<(c_int, c_int), Code> {
    if let Some(&known) = context.priorities.get() {
        return Ok(known);
    }
    let arguments = calls::cuCtxGetStreamPriorityRange::In {};
    let out = call.ask::<calls::cuCtxGetStreamPriorityRange::Call>(context.id, arguments)?;
    Ok(*context.priorities.get_or_init(|| (out.least, out.greatest)))
}

fn create(place: Out<CUstream>, flags: c_uint, priority: c_int) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    place.check()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(result::INVALID_VALUE);
    }
    let priority = match priority {
        0 => 0,
        other => {
            let (least, greatest) = priorities(&call, &context)?;
            other.clamp(greatest, least)
        }
    };
    let session = call.session;
    let (id, sequence) = session.reserve_slot()?;
    let arguments = calls::cuStreamCreate::In {
        stream: id,
        flags,
        priority,
    };
    if let Err(code) = call.submit::<calls::cuStreamCreate::Call>(context.id, arguments) {
        session.streams.release(id);
        return Err(code);
    }
    let kind = match flags & NON_BLOCKING {
        0 => StreamKind::Blocking,
        _ => StreamKind::NonBlocking,
    };
    let stream = Stream::new(id, id.into(), context.id, kind, sequence).with_priority(priority);
    let stream = Arc::new(stream);
    context.add(stream.clone(), &session.area);
    place.set(session.streams.insert(id, stream).handle())
}

cuda! {
    fn cuStreamCreate(place: Out<CUstream>, flags: c_uint) {
        create(place, flags, 0)
    }

    fn cuStreamCreateWithPriority(place: Out<CUstream>, flags: c_uint, priority: c_int) {
        create(place, flags, priority)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        let call = Call::enter()?;
        let context = call.context()?;
        let (lowest, highest) = priorities(&call, &context)?;
        least.set_if_wanted(lowest);
        greatest.set_if_wanted(highest);
        Ok(())
    }

    fn cuStreamDestroy_v2(stream: CUstream) {
        let call = Call::enter()?;
        let session = call.session;
        let entry = session.streams.remove(stream).ok_or(result::INVALID_HANDLE)?;
        if entry.is_dead() {
            // Made while its context was destroyed.
            session.streams.release(entry.slot);
            return Err(result::CONTEXT_IS_DESTROYED);
        }
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
            abandon(&call, end_capture(&call, capture));
        }
        // A thread that has the stream still, as no program should have one, waits for no fence that would never come.
        lock(&stream.fenced).is_last = true;
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
            Recorded::At(_) | Recorded::AtHost => {}
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

    fn cuStreamGetPriority / cuStreamGetPriority_ptsz(stream: CUstream, priority: Out<c_int>) |null| {
        let call = Call::enter()?;
        priority.set(call.stream(stream, null)?.priority)
    }

    fn cuStreamGetFlags / cuStreamGetFlags_ptsz(stream: CUstream, flags: Out<c_uint>) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        flags.set(if stream.kind == StreamKind::NonBlocking { NON_BLOCKING } else { 0 })
    }

    fn cuStreamGetId / cuStreamGetId_ptsz(stream: CUstream, id: Out<u64>) |null| {
        let call = Call::enter()?;
        id.set(call.stream(stream, null)?.serial)
    }

    fn cuStreamGetCtx / cuStreamGetCtx_ptsz(stream: CUstream, context: Out<CUcontext>) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        context.set(context_of(&call, &stream)?.handle())
    }

    fn cuStreamGetCtx_v2 / cuStreamGetCtx_v2_ptsz(
        stream: CUstream, context: Out<CUcontext>, green: Out<usize>,
    ) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        context.check()?;
        context.set(context_of(&call, &stream)?.handle())?;
        green.set_if_wanted(0);
        Ok(())
    }

    fn cuStreamGetDevice / cuStreamGetDevice_ptsz(stream: CUstream, device: Out<CUdevice>) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        device.set(context_of(&call, &stream)?.device as CUdevice)
    }

    fn cuStreamGetAttribute / cuStreamGetAttribute_ptsz(
        stream: CUstream, attribute: c_int, value: Out<[u64; 8]>,
    ) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        value.check()?;
        let arguments = calls::cuStreamGetAttribute::In { stream: stream.word, attribute };
        let (_, said) = call.ask_with::<calls::cuStreamGetAttribute::Call>(stream.context, arguments, &[])?;
        value.set(<[u64; 8]>::read_from_bytes(&said).map_err(|_| result::UNKNOWN)?)
    }

    fn cuStreamSetAttribute / cuStreamSetAttribute_ptsz(
        stream: CUstream, attribute: c_int, value: In<[u64; 8]>,
    ) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        let value = value.get()?;
        let arguments = calls::cuStreamSetAttribute::In { stream: stream.word, attribute };
        call.ask_with::<calls::cuStreamSetAttribute::Call>(stream.context, arguments, value.as_bytes()).map(drop)
    }

    fn cuStreamCopyAttributes / cuStreamCopyAttributes_ptsz(to: CUstream, from: CUstream) |null| {
        let call = Call::enter()?;
        let (to, from) = (call.stream(to, null)?, call.stream(from, null)?);
        let arguments = calls::cuStreamCopyAttributes::In { to: to.word, from: from.word };
        call.ask::<calls::cuStreamCopyAttributes::Call>(to.context, arguments).map(drop)
    }
}
