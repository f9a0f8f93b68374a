//! Completion of streams: asking for fences and waiting for them.
use crate::lock;
use crate::objects::{Context, Point, Recorded, Stream, StreamKind};
use crate::ring::Caller;
use crate::session::{Call, Session};
use crate::text::Waited;
use crate::thread::Thread;
use crate::wait::Wake;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// How much longer than its context's error a fence may take.
const LATE: Duration = Duration::from_secs(1);

impl Session {
    /// A point behind all work that was submitted to `stream`; asks for a fence only if the last one does not cover it.
    pub fn fence(&self, thread: &Thread, stream: &Stream) -> Result<Point, Code> {
        let mut fenced = lock(&stream.fenced);
        let work = stream.work();
        if fenced.is_last && fenced.work < work && !stream.is_dead() {
            // Submitted while another thread destroyed the stream. Memory that it uses is in use until that is known to be done.
            drop(fenced);
            self.finish_context(thread, stream.context)?;
            fenced = lock(&stream.fenced);
            fenced.work = fenced.work.max(work);
        } else if fenced.work < work && !stream.is_dead() {
            let sequence = fenced.sequence + 1;
            let ring = match stream.home {
                Some(index) => self.rings.get(index).ok_or(result::UNKNOWN)?,
                None => thread.ring(self)?,
            };
            ring.fence(self, thread, stream.context, stream.word, stream.slot, sequence)?;
            (fenced.work, fenced.sequence) = (work, sequence);
            self.sequences[stream.slot as usize].store(sequence, Ordering::Release);
        }
        Ok(Point {
            slot: stream.slot,
            sequence: fenced.sequence,
        })
    }

    /// Has the host wait for all work of a context, also of streams that it does not know any more.
    fn finish_context(&self, thread: &Thread, context: u32) -> Result<(), Code> {
        // Known here as long as the host has not said that it is destroyed, and all of its work is over.
        if self
            .contexts
            .by_id(context)
            .is_none_or(|context| !context.is_alive())
        {
            return Ok(());
        }
        if self.captures.any() {
            // It would be forbidden, and end the capture.
            return Err(result::INVALID_HANDLE);
        }
        let caller = Caller { context, mode: None };
        let (ring, arguments) = (thread.ring(self)?, calls::cuCtxSynchronize::In {});
        ring.call::<calls::cuCtxSynchronize::Call>(self, thread, caller, &arguments, &[], &mut Vec::new())?;
        Ok(())
    }

    /// Whether a point is reached.
    pub fn is_reached(&self, point: Point) -> bool {
        self.area.fence(point.slot) >= point.sequence
    }

    /// Waits until a point is reached. What fails may be the fence itself, which then never comes: so an error of the
    /// context that nobody takes meanwhile ends the wait after a while, and is taken.
    pub fn wait_for(&self, thread: &Thread, context: u32, point: Point) -> Result<(), Code> {
        loop {
            self.wait(thread, Wake::Event, || {
                (self.is_reached(point) || self.area.has_error(context)).then_some(())
            })?;
            let since = Instant::now();
            let reached = self.wait(thread, Wake::Event, || match self.is_reached(point) {
                true => Some(true),
                false => (since.elapsed() >= LATE).then_some(false),
            })?;
            if reached {
                return Ok(());
            }
            self.area.take_error(context)?;
        }
    }

    /// Waits for everything that was submitted to a context. What a capture holds is not submitted: streams that take part
    /// in one, or wait for it, were fenced before.
    pub fn synchronize(&self, thread: &Thread, context: &Context) -> Result<(), Code> {
        let mut points = lock(&context.retired).clone();
        let other = context.streams.all();
        let other = other.iter().filter(|s| s.kind == StreamKind::NonBlocking);
        for stream in other.chain([&context.legacy]) {
            points.push(match refuse_capture(stream) {
                Ok(()) => self.fence(thread, stream)?,
                Err(_) => stream.last_fence(),
            });
        }
        for point in points {
            self.wait_for(thread, context.id, point)?;
        }
        lock(&context.retired).retain(|&point| !self.is_reached(point));
        Ok(())
    }
}

impl Call {
    /// Waits for a stream, then takes what failed before. A capturing stream cannot be waited for.
    pub fn synchronize_stream(&self, stream: &Stream) -> Result<(), Code> {
        let refused = refuse_capture(stream);
        if refused.is_ok() {
            self.wait_for_submitted(stream)?;
        }
        if self.session.captures.any() {
            let arguments = calls::cuStreamSynchronize::In { stream: stream.word };
            self.ask::<calls::cuStreamSynchronize::Call>(stream.context, arguments)?;
        }
        refused?;
        self.told_after(stream)
    }

    /// Refuses to wait for a stream that captures, or for the legacy stream while one that it waits for does. What that does to the
    /// capture the host's library knows.
    pub fn may_wait_for(&self, stream: &Stream) -> Result<(), Code> {
        match refuse_capture(stream) {
            Ok(()) => Ok(()),
            Err(_) => self.synchronize_stream(stream),
        }
    }

    /// Waits for a stream that captures nothing, whatever captures of others forbid: synchronous copies may be made beside them.
    pub fn finish_stream(&self, stream: &Stream) -> Result<(), Code> {
        self.wait_for_submitted(stream)?;
        self.told_after(stream)
    }

    fn wait_for_submitted(&self, stream: &Stream) -> Result<(), Code> {
        let point = self.session.fence(self.thread, stream)?;
        self.session.wait_for(self.thread, stream.context, point)
    }

    /// What comes out once a stream was waited for: what kernels printed, and what failed.
    fn told_after(&self, stream: &Stream) -> Result<(), Code> {
        self.print(stream.context, Waited::Stream(stream));
        self.take_errors(stream.context)
    }

    /// What ended the session, or else the first failure of a call that nobody waited for.
    pub fn take_errors(&self, context: u32) -> Result<(), Code> {
        self.session.host_functions.sweep(self.session);
        self.session.area.status()?;
        self.session.area.take_error(context)
    }

    /// Whether an event's work is done.
    pub fn is_event_done(&self, recorded: Recorded) -> Result<bool, Code> {
        match recorded {
            // What a graph does is asked of the host.
            Recorded::Never | Recorded::AtHost => Ok(true),
            Recorded::At(point) => Ok(self.session.is_reached(point)),
            Recorded::Captured(_) => Err(result::CAPTURED_EVENT),
        }
    }
}

/// Refuses to wait for a stream that captures, or for the legacy stream while one that it waits for does.
pub fn refuse_capture(stream: &Stream) -> Result<(), Code> {
    if stream.capture() != 0 {
        Err(result::STREAM_CAPTURE_UNSUPPORTED)
    } else if stream.waits_for_capture() {
        Err(result::STREAM_CAPTURE_IMPLICIT)
    } else {
        Ok(())
    }
}
