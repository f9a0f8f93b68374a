//! What streams capture.
use super::BAD_HANDLE;
use crate::cuda;
use crate::cuda::graph::{CAPTURE_ACTIVE, Dependencies};
use crate::dispatch::handlers_of;
use crate::handles::{Stream, report};
use crate::ring::{Consumer, Failure};
use crate::session::Session;
use std::sync::Arc;
use vgpu_protocol::limits::REPLY_LEN_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{Dependency, GRAPH_NONE};
use zerocopy::IntoBytes;

/// CU_STREAM_SET_CAPTURE_DEPENDENCIES, the highest flag of cuStreamUpdateCaptureDependencies.
const UPDATE_FLAGS_MAX: u32 = 1;

/// A CUstreamCaptureMode.
fn mode(mode: u32) -> Result<i32, Code> {
    let mode = i32::try_from(mode).ok();
    mode.filter(|mode| (0..=cuda::CAPTURE_RELAXED).contains(mode))
        .ok_or(result::INVALID_VALUE)
}

/// Begins a capture on a stream. Nothing of our own can be recorded on it, nor on the legacy stream, until it ends.
fn begin(
    ring: &Consumer,
    stream: &Arc<Stream>,
    begin: impl FnOnce(cuda::Raw) -> Result<(), Code>,
) -> Result<(), Failure> {
    let session = ring.session;
    let raw = stream.raw()?;
    session.relaxed(|| {
        for other in session.completion.streams() {
            if Arc::ptr_eq(&other.context, &stream.context)
                && !session.cuda.stream_is_capturing(other.raw()?)?
            {
                other.mark_before_capture()?;
            }
        }
        Ok::<(), Code>(())
    })?;
    // Counted first: whoever finds no capture under way must not find its stream capturing.
    let counted = stream.capture_began();
    begin(raw).inspect_err(|_| {
        // It may capture all the same, since another one's capture came here; that is not counted twice.
        if counted {
            stream.capture_ended();
        }
    })?;
    Ok(())
}

/// Streams are destroyed: what began on them to be captured ends, and is nobody's unless it was begun with a graph of the guest's.
/// A capture that began on another stream goes on without them.
pub fn abandon(session: &'static Session, streams: &[Arc<Stream>]) {
    if !session.captures() {
        return;
    }
    let _gone;
    let _alone = session.changes_captures();
    let mut nodes = session.graphs.lock();
    for stream in streams {
        if stream.captures()
            && let Ok(raw) = stream.raw()
            && session.cuda.stream_is_capturing(raw).unwrap_or(false)
        {
            let ended = session.relaxed(|| session.cuda.stream_end_capture(raw));
            if nodes.capture_ended(ended.ok()).is_none()
                && let Ok(graph) = ended
                && graph != 0
            {
                report(session.cuda.graphs.graph_destroy(graph), "cuGraphDestroy");
            }
        }
        stream.capture_ended();
    }
    _gone = nodes.take_failed(session);
}

/// As many elements from number `first` on as an answer holds.
pub fn page<T>(all: &[T], first: u32) -> &[T] {
    let rest = all.get(first as usize..).unwrap_or_default();
    &rest[..rest.len().min(REPLY_LEN_MAX as usize / 2 / size_of::<T>())]
}

handlers_of! {
    cuStreamBeginCapture(ring, arguments) {
        let mode = mode(arguments.mode)?;
        let stream = ring.stream(arguments.stream)?;
        let _failed;
        let _alone = ring.session.changes_captures();
        let mut nodes = ring.session.graphs.lock();
        nodes.capture_ended(None);
        _failed = nodes.take_failed(ring.session);
        begin(ring, &stream, |raw| ring.session.cuda.stream_begin_capture(raw, mode))?;
        Ok(Out {})
    }

    cuStreamBeginCaptureToGraph(ring, arguments, blob, _reply) {
        let session = ring.session;
        let mode = mode(arguments.mode)?;
        let stream = ring.stream(arguments.stream)?;
        let _failed;
        let _alone = session.changes_captures();
        let mut nodes = session.graphs.lock();
        nodes.capture_ended(None);
        _failed = nodes.take_failed(session);
        let graph = nodes.graph(session, arguments.graph)?;
        if graph.is_captured() {
            return Err(result::INVALID_VALUE.into());
        }
        let after = nodes.dependencies(&graph, blob)?;
        begin(ring, &stream, |raw| {
            // SAFETY: arrays of that length.
            unsafe {
                session.cuda.graphs.stream_begin_capture_to_graph(
                    raw, graph.raw, after.nodes(), after.edges(), after.len(), mode)
            }
        })?;
        nodes.capture_into(arguments.graph, &graph, &stream);
        Ok(Out {})
    }

    cuStreamEndCapture(ring, arguments) {
        let session = ring.session;
        let id = arguments.graph;
        let stream = ring.stream(arguments.stream)?;
        let raw = stream.raw()?;
        let _failed;
        let _alone = session.changes_captures();
        let mut nodes = session.graphs.lock();
        let is_new = session.objects.graphs.check_new(id).is_ok();
        // One that has an id must be the one that is captured (which that is, is known when it is), or one whose capture has failed
        // and still has to be ended.
        let may_be = is_new || nodes.is_captured(id) || session.objects.graphs.get(id).is_some_and(|graph| graph.is_lost());
        if !may_be {
            return Err(BAD_HANDLE);
        }
        let ended = session.cuda.stream_end_capture(raw);
        if !session.cuda.stream_is_capturing(raw).unwrap_or(false) {
            stream.capture_ended();
        }
        let known = nodes.capture_ended(ended.ok());
        let mut added = Ok(());
        if let (Ok(captured), None) = (ended, known) {
            let graph = nodes.graph_of_capture(session, &stream.context, id, captured);
            added = session.objects.graphs.insert(id, graph).map(drop);
        }
        _failed = nodes.take_failed(session);
        ended?;
        added.map_err(|_| BAD_HANDLE)?;
        if known.is_some_and(|known| known != id) {
            return Err(BAD_HANDLE);
        }
        Ok(Out {})
    }

    cuStreamGetCaptureInfo(ring, arguments, _blob, reply) {
        let session = ring.session;
        let stream = ring.stream(arguments.stream)?;
        let raw = stream.raw()?;
        let mut nodes = session.graphs.lock();
        let info = session.cuda.graphs.capture_info(raw)?;
        let mut total = 0;
        if info.status == CAPTURE_ACTIVE && arguments.named != GRAPH_NONE {
            let graph = nodes.captured_by(session, &stream, arguments.named, info.graph)?;
            total = info.dependencies.len() as u32;
            for &(raw, data) in page(&info.dependencies, arguments.first) {
                let node = nodes.name(&graph, raw)?;
                reply.extend_from_slice(Dependency { node, reserved: 0, data }.as_bytes());
            }
        }
        Ok(Out { status: info.status, id: info.id, total })
    }

    cuStreamUpdateCaptureDependencies(ring, arguments, blob, _reply) {
        let session = ring.session;
        let stream = ring.stream(arguments.stream)?;
        if arguments.flags > UPDATE_FLAGS_MAX {
            return Err(result::INVALID_VALUE.into());
        }
        let raw = stream.raw()?;
        let nodes = session.graphs.lock();
        let info = session.cuda.graphs.capture_info(raw)?;
        let after = match nodes.captured_graph(info.graph) {
            Some(graph) if info.status == CAPTURE_ACTIVE => nodes.dependencies(&graph, blob)?,
            // No node of it has a name.
            _ if blob.is_empty() => Dependencies::default(),
            _ => return Err(result::INVALID_VALUE.into()),
        };
        // SAFETY: arrays of that length.
        unsafe {
            session.cuda.graphs.stream_update_capture_dependencies(
                raw, after.nodes(), after.edges(), after.len(), arguments.flags)
        }?;
        Ok(Out {})
    }
}
