//! Streams, and what they capture.
use super::{BAD_HANDLE, unknown};
use crate::cuda;
use crate::dispatch::Handle;
use crate::handles::Stream;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use std::sync::PoisonError;
use vgpu_protocol::calls::{
    cuStreamBeginCapture, cuStreamCreate, cuStreamDestroy, cuStreamEndCapture, cuStreamIsCapturing,
    cuStreamQuery, cuStreamSynchronize, cuStreamWaitEvent,
};
use vgpu_protocol::result;
use vgpu_protocol::ring::RingError;

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
            .map_err(|_| unknown(cuStreamCreate::OP, stream))?;
        let raw = session.cuda.stream_create(flags, priority);
        let created = Stream::new(context, raw, true);
        session
            .objects
            .streams
            .insert(stream, created)
            .map_err(|_| unknown(cuStreamCreate::OP, stream))?;
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
        let stream = ring
            .session
            .objects
            .streams
            .remove(id)
            .ok_or_else(|| unknown(cuStreamDestroy::OP, id))?;
        // Destroyed with its last user: the completion thread keeps it while its work is in flight.
        stream.capture_ended();
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
        let event = ring.event(cuStreamWaitEvent::OP, event)?;
        let stream = ring.stream(cuStreamWaitEvent::OP, stream)?;
        let event = event.raw?;
        if !session.captures() {
            ring.submit(&stream, Work::Wait, |raw| {
                session.cuda.stream_wait_event(raw, event, flags)
            })?;
            return Ok(cuStreamWaitEvent::Out {});
        }
        // Waiting for an event of a capture makes the stream part of it.
        let _alone = stream
            .context
            .capture
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let raw = stream.raw()?;
        if !session.cuda.stream_is_capturing(raw)? {
            session.relaxed(|| stream.mark_before_capture())?;
        }
        session.cuda.stream_wait_event(raw, event, flags)?;
        if !session.cuda.stream_is_capturing(raw)? {
            session.relaxed(|| stream.submitted_wait(session.load.start()))?;
        }
        Ok(cuStreamWaitEvent::Out {})
    }
}

impl Handle for cuStreamBeginCapture::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamBeginCapture::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamBeginCapture::Out, Failure> {
        let cuStreamBeginCapture::In { stream, mode } = arguments;
        let session = ring.session;
        let mode = i32::try_from(mode)
            .ok()
            .filter(|mode| (0..=cuda::CAPTURE_RELAXED).contains(mode));
        let mode = mode.ok_or(result::INVALID_VALUE)?;
        let stream = answered(ring.stream(cuStreamBeginCapture::OP, stream))?;
        let raw = stream.raw()?;
        let _alone = stream
            .context
            .capture
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Nothing of our own can be recorded on it, nor on the legacy stream, until the capture ends.
        session.relaxed(|| {
            for other in session.completion.streams() {
                if std::sync::Arc::ptr_eq(&other.context, &stream.context)
                    && !session.cuda.stream_is_capturing(other.raw()?)?
                {
                    other.mark_before_capture()?;
                }
            }
            Ok::<(), vgpu_protocol::result::Code>(())
        })?;
        session.cuda.stream_begin_capture(raw, mode)?;
        stream.capture_began();
        Ok(cuStreamBeginCapture::Out {})
    }
}

impl Handle for cuStreamEndCapture::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamEndCapture::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamEndCapture::Out, Failure> {
        let cuStreamEndCapture::In { stream, graph } = arguments;
        let session = ring.session;
        session.objects.graphs.check_new(graph).map_err(|_| BAD_HANDLE)?;
        let stream = answered(ring.stream(cuStreamEndCapture::OP, stream))?;
        let raw = stream.raw()?;
        let captured = {
            let _alone = stream
                .context
                .capture
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let captured = session.cuda.stream_end_capture(raw);
            if !session.cuda.stream_is_capturing(raw).unwrap_or(false) {
                stream.capture_ended();
            }
            captured?
        };
        let captured = crate::handles::Graph {
            context: stream.context.clone(),
            raw: captured,
        };
        session
            .objects
            .graphs
            .insert(graph, captured)
            .map_err(|_| BAD_HANDLE)?;
        Ok(cuStreamEndCapture::Out {})
    }
}

impl Handle for cuStreamQuery::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuStreamQuery::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuStreamQuery::Out, Failure> {
        let stream = answered(ring.stream(cuStreamQuery::OP, arguments.stream))?;
        ring.session.cuda.stream_query(stream.raw()?)?;
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
        let stream = answered(ring.stream(cuStreamSynchronize::OP, arguments.stream))?;
        ring.session.cuda.stream_synchronize(stream.raw()?)?;
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
        let stream = answered(ring.stream(cuStreamIsCapturing::OP, arguments.stream))?;
        let status = ring.session.cuda.stream_capture_status(stream.raw()?)?;
        Ok(cuStreamIsCapturing::Out { status })
    }
}

/// In a call that is answered, a stream that does not exist is an error of the guest's program.
fn answered<T>(found: Result<T, Failure>) -> Result<T, Failure> {
    found.map_err(|failure| match failure {
        Failure::Broken(RingError::Handle { .. }) => BAD_HANDLE,
        other => other,
    })
}
