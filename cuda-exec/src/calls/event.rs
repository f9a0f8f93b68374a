//! Events.
use super::BAD_HANDLE;
use crate::dispatch::{Handle, handlers_of};
use crate::handles::Event;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use vgpu_protocol::calls::{
    cuEventCreate, cuEventDestroy, cuEventElapsedTime, cuEventQuery, cuEventRecord, cuEventSynchronize,
};
use vgpu_protocol::limits::STREAMS_MAX;
use vgpu_protocol::result;
use vgpu_protocol::ring::RingError;

/// CU_EVENT_BLOCKING_SYNC, _DISABLE_TIMING and _INTERPROCESS.
const FLAGS: u32 = 1 | 2 | 4;

impl Handle for cuEventCreate::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuEventCreate::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuEventCreate::Out, Failure> {
        let cuEventCreate::In { event, flags } = arguments;
        let session = ring.session;
        let context = ring.context()?;
        session.objects.events.check_new(event).map_err(|_| BAD_HANDLE)?;
        let raw = if flags & !FLAGS == 0 {
            session.cuda.event_create(flags)
        } else {
            Err(result::NOT_SUPPORTED)
        };
        let created = Event { context, raw };
        session
            .objects
            .events
            .insert(event, created)
            .map_err(|_| BAD_HANDLE)?;
        raw?;
        Ok(cuEventCreate::Out {})
    }
}

impl Handle for cuEventDestroy::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuEventDestroy::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuEventDestroy::Out, Failure> {
        let id = arguments.event;
        let event = ring.session.objects.events.remove(id);
        event.ok_or(BAD_HANDLE)?;
        Ok(cuEventDestroy::Out {})
    }
}

impl Handle for cuEventRecord::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuEventRecord::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuEventRecord::Out, Failure> {
        let cuEventRecord::In {
            event,
            stream,
            slot,
            sequence,
        } = arguments;
        let session = ring.session;
        if slot >= STREAMS_MAX {
            return Err(RingError::Arguments {
                op: cuEventRecord::OP,
            }
            .into());
        }
        let event = ring.event(event)?;
        let stream = ring.stream(stream)?;
        let event_raw = event.raw?;
        let fence = ring.fence_word(slot)?;
        let mut fenced = false;
        ring.submit(&stream, Work::Other, |raw, to| {
            to.keep(&event);
            session.cuda.event_record(event_raw, raw)?;
            // A sequence number of 0 asks for no fence; in a capture one would become a node, and come again and again.
            fenced = sequence != 0 && !to.is_graph();
            if fenced { fence(raw, sequence) } else { Ok(()) }
        })?;
        if fenced {
            session.completion.fence(slot, sequence);
        }
        Ok(cuEventRecord::Out {})
    }
}

impl Handle for cuEventQuery::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuEventQuery::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuEventQuery::Out, Failure> {
        let event = ring
            .session
            .objects
            .events
            .get(arguments.event)
            .ok_or(BAD_HANDLE)?;
        let (session, raw) = (ring.session, event.raw?);
        match session.ask_beside_captures(|| session.cuda.event_query(raw))? {
            true => Ok(cuEventQuery::Out {}),
            false => Err(result::NOT_READY.into()),
        }
    }
}

impl Handle for cuEventSynchronize::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuEventSynchronize::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuEventSynchronize::Out, Failure> {
        let event = ring
            .session
            .objects
            .events
            .get(arguments.event)
            .ok_or(BAD_HANDLE)?;
        let (session, raw) = (ring.session, event.raw?);
        // Refused as the wait is.
        session.ask_beside_captures(|| session.cuda.event_query(raw))?;
        session.relaxed(|| session.cuda.event_synchronize(raw))?;
        Ok(cuEventSynchronize::Out {})
    }
}

impl Handle for cuEventElapsedTime::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuEventElapsedTime::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuEventElapsedTime::Out, Failure> {
        let events = &ring.session.objects.events;
        let start = events.get(arguments.start).ok_or(BAD_HANDLE)?;
        let end = events.get(arguments.end).ok_or(BAD_HANDLE)?;
        let milliseconds = ring.session.cuda.event_elapsed_time(start.raw?, end.raw?)?;
        Ok(cuEventElapsedTime::Out {
            milliseconds_bits: milliseconds.to_bits(),
        })
    }
}

/// CU_EVENT_RECORD_EXTERNAL.
const RECORD_EXTERNAL: u32 = 1;

handlers_of! {
    /// Only a capture takes other flags than none.
    cuEventRecordWithFlags(ring, arguments) {
        let event = ring.session.objects.events.get(arguments.event).ok_or(BAD_HANDLE)?;
        let stream = ring.stream(arguments.stream)?;
        if arguments.flags & !RECORD_EXTERNAL != 0 {
            return Err(result::INVALID_VALUE.into());
        }
        let event_raw = event.raw?;
        ring.submit(&stream, Work::Other, |raw, to| {
            to.keep(&event);
            ring.session.cuda.contexts.event_record_with_flags(event_raw, raw, arguments.flags)
        })?;
        Ok(Out {})
    }
}
