//! Streams.
use super::BAD_HANDLE;
use crate::dispatch::{Handle, handlers_of};
use crate::handles::Stream;
use crate::recording::To;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use vgpu_protocol::calls::{
    cuStreamCreate, cuStreamDestroy, cuStreamIsCapturing, cuStreamQuery, cuStreamSynchronize,
    cuStreamWaitEvent,
};
use vgpu_protocol::result;
use vgpu_protocol::words::LaunchAttribute;
use zerocopy::{FromBytes, IntoBytes};

impl Handle for cuStreamCreate::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamCreate::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamCreate::Out, Failure> {
        let cuStreamCreate::In {
            stream,
            flags,
            priority,
        } = arguments;
        let session = ring.session;
        let context = ring.context()?;
        session
            .objects
            .streams
            .check_new(stream)
            .map_err(|_| BAD_HANDLE)?;
        let raw = session.cuda.stream_create(flags, priority);
        let created = Stream::new(context, raw, true);
        session
            .objects
            .streams
            .insert(stream, created)
            .map_err(|_| BAD_HANDLE)?;
        raw?;
        Ok(cuStreamCreate::Out {})
    }
}

impl Handle for cuStreamDestroy::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamDestroy::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamDestroy::Out, Failure> {
        let id = arguments.stream;
        let session = ring.session;
        let stream = session.objects.streams.remove(id).ok_or(BAD_HANDLE)?;
        // Destroyed with its last user: the completion thread keeps it while its work is in flight. But its capture ends here.
        super::capture::abandon(session, &[stream]);
        Ok(cuStreamDestroy::Out {})
    }
}

impl Handle for cuStreamWaitEvent::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamWaitEvent::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamWaitEvent::Out, Failure> {
        let cuStreamWaitEvent::In { stream, event, flags } = arguments;
        let session = ring.session;
        let event = ring.event(event)?;
        let stream = ring.stream(stream)?;
        let event_raw = event.raw?;
        // Waiting for an event of a capture makes the stream part of it: while there is any, only who may change captures waits.
        let mut captures = session.captures();
        if !captures {
            ring.submit(&stream, Work::Wait, |raw, _| {
                captures = session.captures();
                match captures {
                    true => Ok(()),
                    false => session.cuda.stream_wait_event(raw, event_raw, flags),
                }
            })?;
        }
        if !captures {
            return Ok(cuStreamWaitEvent::Out {});
        }
        let room = ring.make_room(&stream)?;
        let _alone = session.changes_captures();
        let raw = stream.raw()?;
        let mut graphs = session.graphs.lock();
        if !session.cuda.stream_is_capturing(raw)? {
            session.relaxed(|| stream.mark_before_capture())?;
        }
        session.cuda.stream_wait_event(raw, event_raw, flags)?;
        if session.cuda.stream_is_capturing(raw)? {
            graphs.record(session, raw, |recorded| {
                To::Graph(recorded).keep(&event);
                Ok(())
            })?;
        } else {
            session.relaxed(|| stream.submitted_wait(room))?;
        }
        Ok(cuStreamWaitEvent::Out {})
    }
}

impl Handle for cuStreamQuery::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamQuery::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamQuery::Out, Failure> {
        let stream = ring.stream(arguments.stream)?;
        let (session, raw) = (ring.session, stream.raw()?);
        session.ask_beside_captures(|| session.cuda.stream_query(raw))?;
        Ok(cuStreamQuery::Out {})
    }
}

impl Handle for cuStreamSynchronize::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamSynchronize::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamSynchronize::Out, Failure> {
        let stream = ring.stream(arguments.stream)?;
        let (session, raw) = (ring.session, stream.raw()?);
        // Refused as the wait is.
        match session.ask_beside_captures(|| session.cuda.stream_query(raw)) {
            Ok(()) | Err(result::NOT_READY) => {}
            Err(code) => return Err(code.into()),
        }
        session.relaxed(|| session.cuda.stream_synchronize(raw))?;
        Ok(cuStreamSynchronize::Out {})
    }
}

impl Handle for cuStreamIsCapturing::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamIsCapturing::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamIsCapturing::Out, Failure> {
        let stream = ring.stream(arguments.stream)?;
        let status = ring.session.cuda.stream_capture_status(stream.raw()?)?;
        Ok(cuStreamIsCapturing::Out { status })
    }
}

handlers_of! {
    cuStreamGetAttribute(ring, arguments, _blob, reply) {
        let stream = ring.stream(arguments.stream)?;
        let mut value = [0u64; 8];
        // SAFETY: a place of a CUstreamAttrValue's size that outlives the call.
        unsafe { ring.session.cuda.contexts.stream_get_attribute(stream.raw()?, arguments.attribute, &mut value) }?;
        reply.extend_from_slice(value.as_bytes());
        Ok(Out {})
    }

    cuStreamSetAttribute(ring, arguments, blob, _reply) {
        let stream = ring.stream(arguments.stream)?;
        let value = <[u64; 8]>::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
        if !u32::try_from(arguments.attribute).is_ok_and(LaunchAttribute::is_known) {
            return Err(result::INVALID_VALUE.into());
        }
        // SAFETY: a CUstreamAttrValue that outlives the call. None of them holds a pointer that is followed.
        unsafe { ring.session.cuda.contexts.stream_set_attribute(stream.raw()?, arguments.attribute, &value) }?;
        Ok(Out {})
    }

    cuStreamCopyAttributes(ring, arguments) {
        let to = ring.stream(arguments.to)?;
        let from = ring.stream(arguments.from)?;
        ring.session.cuda.contexts.stream_copy_attributes(to.raw()?, from.raw()?)?;
        Ok(Out {})
    }
}
