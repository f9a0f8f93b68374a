//! What streams capture.
use super::cuda_pairs;
use super::graph::{after, all, edges_wanted, find_graph};
use super::stream::context_of;
use crate::abi::{CUgraph, CUgraphNode, CUstream, In, Out};
use crate::graphs::{Graph, Needs, node_handle};
use crate::handles::Entry;
use crate::lock;
use crate::objects::{Capture, Stream, StreamKind};
use crate::session::{Call, NullStream};
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{Dependency, EdgeData, GRAPH_NONE};
use zerocopy::IntoBytes;

/// CUstreamCaptureMode: the highest, relaxed.
pub const CAPTURE_MODE_MAX: c_uint = 2;
/// The CUstreamCaptureStatus of a stream that does not capture, and of one that does.
const CAPTURE_NONE: c_int = 0;
const CAPTURE_ACTIVE: c_int = 1;
const CAPTURE_INVALIDATED: c_int = 2;
/// CU_STREAM_SET_CAPTURE_DEPENDENCIES: what the stream had captured so far is no longer what comes before.
const SET_CAPTURE_DEPENDENCIES: c_uint = 1;

/// Ends a capture for all streams that take part in it, whatever their contexts: what was known of it.
pub fn end_capture(call: &Call, capture: u64) -> Option<Capture> {
    for context in call.session.contexts.all() {
        for stream in context.streams.all() {
            if stream.capture() == capture {
                stream.set_capture(0);
            }
        }
    }
    call.session.captures.ended(capture)
}

/// A capture made nothing: a graph of it that the program has a handle of is gone.
pub fn abandon(call: &Call, capture: Option<Capture>) {
    let session = call.session;
    let Some(handle) = capture.and_then(|capture| capture.graph) else {
        return;
    };
    // One that was captured into is still the program's.
    if session.graphs.get(handle).is_some_and(|graph| !graph.is_owned())
        && let Some(graph) = session.graphs.remove(handle)
    {
        let arguments = calls::cuGraphDestroy::In { graph: graph.id };
        // The host has dropped it with the capture, and drops its id.
        let _ = call.submit::<calls::cuGraphDestroy::Call>(graph.context, arguments);
        session.graphs.release(graph.id);
    }
}

/// Whether a failed cuStreamEndCapture leaves the capture as it is.
fn goes_on(code: Code) -> bool {
    matches!(
        code,
        result::STREAM_CAPTURE_UNMATCHED | result::STREAM_CAPTURE_WRONG_THREAD | result::ILLEGAL_STATE
    )
}

/// Asks for the fences of a stream's work while they may still be asked for: none may on a capturing stream, nor on
/// the legacy stream while it waits for one. Staging and destruction then need no new ones.
pub fn flush_before_capture(call: &Call, stream: &Stream) -> Result<(), Code> {
    call.session.fence(call.thread, stream)?;
    if stream.is_blocking() {
        let context = context_of(call, stream)?;
        if !context.legacy.waits_for_capture() {
            call.session.fence(call.thread, &context.legacy)?;
        }
    }
    Ok(())
}

/// Refuses, as NVIDIA's library does, what would disturb a capture, and ends it: for what the host need not be asked, or is asked too
/// late.
pub(super) fn refuse_in_capture(call: &Call) -> Result<(), Code> {
    match call.session.captures.any() {
        // Of the calls that are refused then this one changes nothing.
        true => super::pool::trim_nothing(call),
        false => Ok(()),
    }
}

/// The stream on which a capture is to begin.
fn to_begin(call: &Call, stream: CUstream, null: NullStream, mode: c_uint) -> Result<Arc<Stream>, Code> {
    let context = call.context()?;
    let stream = call.work_stream(&context, stream, null)?;
    if mode > CAPTURE_MODE_MAX {
        return Err(result::INVALID_VALUE);
    }
    if stream.kind == StreamKind::Legacy {
        return Err(result::STREAM_CAPTURE_UNSUPPORTED);
    }
    if stream.capture() == 0 {
        flush_before_capture(call, &stream)?;
    }
    Ok(stream)
}

/// Where what is known of a stream's capture goes.
struct Info {
    status: Out<c_int>,
    id: Out<u64>,
    graph: Out<CUgraph>,
    nodes: Out<usize>,
    edges: Out<usize>,
    count: Out<usize>,
}

impl Info {
    fn tell(&self, stream: CUstream, null: NullStream) -> Result<(), Code> {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        self.status.check()?;
        let number = stream.capture();
        if number == 0 && !stream.waits_for_capture() {
            return self.status.set(CAPTURE_NONE);
        }
        let wanted = !(self.graph.is_null() && self.nodes.is_null() && self.count.is_null());
        let told = if wanted && number != 0 {
            named(&call, &stream)?
        } else {
            ask(&call, &stream, GRAPH_NONE)?
        };
        self.status.set(told.status)?;
        if told.status != CAPTURE_ACTIVE {
            return Ok(());
        }
        edges_wanted(
            told.after.iter().map(|one| one.data),
            !self.edges.is_null() || self.nodes.is_null(),
        )?;
        if let Some(graph) = &told.graph {
            self.graph.set_if_wanted(graph.handle());
        }
        self.id.set_if_wanted(told.id);
        self.count.set_if_wanted(told.after.len());
        let mut place = lock(&stream.told);
        *place = told
            .after
            .iter()
            .map(|one| (node_handle(one.node), one.data))
            .unzip();
        self.nodes.set_if_wanted(place.0.as_ptr() as usize);
        let plain = told.after.iter().all(|one| one.data == EdgeData::default());
        self.edges
            .set_if_wanted(if plain { 0 } else { place.1.as_ptr() as usize });
        Ok(())
    }
}

/// What the host says of a stream's capture.
struct Told {
    status: c_int,
    id: u64,
    after: Vec<Dependency>,
    /// What is captured into, if it was named and the capture is valid.
    graph: Option<Arc<Entry<Graph>>>,
}

fn ask(call: &Call, stream: &Stream, named: u32) -> Result<Told, Code> {
    let (mut status, mut id) = (CAPTURE_NONE, 0);
    let after = all(|first| {
        let arguments = calls::cuStreamGetCaptureInfo::In {
            stream: stream.word,
            named,
            first,
        };
        let (out, blob) =
            call.ask_with::<calls::cuStreamGetCaptureInfo::Call>(stream.context, arguments, &[])?;
        (status, id) = (out.status, out.id);
        Ok((out.total, blob))
    })?;
    Ok(Told {
        status,
        id,
        after,
        graph: None,
    })
}

/// The same of a stream that captures, with the graph, which has a handle from then on.
fn named(call: &Call, stream: &Stream) -> Result<Told, Code> {
    let (session, number) = (call.session, stream.capture());
    let _naming = lock(&session.captures.naming);
    if let Some(handle) = session.captures.graph(number) {
        let graph = find_graph(call, handle)?;
        let told = ask(call, stream, graph.id)?;
        return Ok(Told {
            graph: Some(graph),
            ..told
        });
    }
    let id = session.graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
    match ask(call, stream, id) {
        Ok(mut told) if told.status == CAPTURE_ACTIVE => {
            let graph = session.graphs.insert(id, Graph::captured(id, stream.context));
            session.captures.set_graph(number, graph.handle());
            told.graph = Some(graph);
            Ok(told)
        }
        other => {
            session.graphs.release(id);
            other
        }
    }
}

/// Has a capture take a node that `add` adds behind what the stream has captured so far.
pub(super) fn take(
    call: &Call,
    stream: &Stream,
    add: impl FnOnce(&Graph, &[u8]) -> Result<u32, Code>,
) -> Result<(), Code> {
    let add_behind = || {
        let told = named(call, stream)?;
        let graph = told.graph.ok_or(result::STREAM_CAPTURE_INVALIDATED)?;
        let after = Dependency {
            node: add(&graph, told.after.as_bytes())?,
            reserved: 0,
            data: EdgeData::default(),
        };
        let arguments = calls::cuStreamUpdateCaptureDependencies::In {
            stream: stream.word,
            flags: SET_CAPTURE_DEPENDENCIES,
        };
        let context = stream.context;
        call.ask_with::<calls::cuStreamUpdateCaptureDependencies::Call>(context, arguments, after.as_bytes())
    };
    // Another thread may make the capture fail between these calls, which is then what there is to tell.
    add_behind().map_err(|code| match ask(call, stream, GRAPH_NONE) {
        Ok(told) if told.status == CAPTURE_INVALIDATED => result::STREAM_CAPTURE_INVALIDATED,
        _ => code,
    })?;
    stream.did_submit();
    Ok(())
}

fn update(
    stream: CUstream,
    null: NullStream,
    nodes: In<CUgraphNode>,
    edges: In<EdgeData>,
    count: usize,
    flags: c_uint,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let stream = call.stream(stream, null)?;
    let after = after(nodes, edges, count)?;
    let arguments = calls::cuStreamUpdateCaptureDependencies::In {
        stream: stream.word,
        flags,
    };
    let asked =
        call.ask_with::<calls::cuStreamUpdateCaptureDependencies::Call>(stream.context, arguments, &after);
    asked.map(drop)
}

cuda_pairs! {
    fn cuStreamBeginCapture_v2 / cuStreamBeginCapture_v2_ptsz(stream: CUstream, mode: c_uint) |null| {
        let call = Call::enter()?;
        let stream = to_begin(&call, stream, null, mode)?;
        let arguments = calls::cuStreamBeginCapture::In { stream: stream.word, mode };
        call.ask::<calls::cuStreamBeginCapture::Call>(stream.context, arguments)?;
        stream.set_capture(call.session.captures.began(stream.slot, None));
        Ok(())
    }

    fn cuStreamBeginCaptureToGraph / cuStreamBeginCaptureToGraph_ptsz(
        stream: CUstream, graph: CUgraph, nodes: In<CUgraphNode>, edges: In<EdgeData>, count: usize, mode: c_uint,
    ) |null| {
        let call = Call::enter()?;
        let stream = to_begin(&call, stream, null, mode)?;
        let entry = call.session.graphs.get(graph).ok_or(result::INVALID_VALUE)?;
        let after = after(nodes, edges, count)?;
        let arguments = calls::cuStreamBeginCaptureToGraph::In { stream: stream.word, graph: entry.id, mode };
        call.ask_with::<calls::cuStreamBeginCaptureToGraph::Call>(stream.context, arguments, &after)?;
        stream.set_capture(call.session.captures.began(stream.slot, Some(graph)));
        Ok(())
    }

    fn cuStreamEndCapture / cuStreamEndCapture_ptsz(stream: CUstream, graph: Out<CUgraph>) |null| {
        let call = Call::enter()?;
        let context = call.context()?;
        let stream = call.work_stream(&context, stream, null)?;
        let capture = stream.capture();
        if capture == 0 {
            return Err(result::ILLEGAL_STATE);
        }
        let session = call.session;
        let known = session.captures.graph(capture).and_then(|handle| session.graphs.get(handle));
        let known = known.map(|found| Arc::clone(&*found));
        let id = match &known {
            Some(known) => known.id,
            None => session.graphs.reserve().ok_or(result::OUT_OF_MEMORY)?,
        };
        let arguments = calls::cuStreamEndCapture::In { stream: stream.word, graph: id };
        let asked = call.ask::<calls::cuStreamEndCapture::Call>(context.id, arguments);
        match (asked, known) {
            (Ok(_), known) => {
                let kept = end_capture(&call, capture).map_or_else(Vec::new, |capture| capture.kept);
                graph.set_if_wanted(match known {
                    Some(known) => {
                        known.keep(kept);
                        known.give();
                        known.handle()
                    }
                    // Nobody wants it.
                    None if graph.is_null() => {
                        let arguments = calls::cuGraphDestroy::In { graph: id };
                        let destroyed = call.submit::<calls::cuGraphDestroy::Call>(context.id, arguments);
                        session.graphs.release(id);
                        return destroyed;
                    }
                    None => {
                        let graph = session.graphs.insert(id, Graph::owned(id, context.id, Needs::default()));
                        graph.keep(kept);
                        graph.handle()
                    }
                });
                Ok(())
            }
            (Err(code), known) => {
                if known.is_none() {
                    session.graphs.release(id);
                }
                if !goes_on(code) {
                    abandon(&call, end_capture(&call, capture));
                    graph.set_if_wanted(0);
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

    fn cuStreamGetCaptureInfo / cuStreamGetCaptureInfo_ptsz(stream: CUstream, status: Out<c_int>, id: Out<u64>) |null| {
        let (graph, nodes, edges, count) = (Out::none(), Out::none(), Out::none(), Out::none());
        Info { status, id, graph, nodes, edges, count }.tell(stream, null)
    }

    fn cuStreamGetCaptureInfo_v2 / cuStreamGetCaptureInfo_v2_ptsz(
        stream: CUstream, status: Out<c_int>, id: Out<u64>, graph: Out<CUgraph>, nodes: Out<usize>, count: Out<usize>,
    ) |null| {
        Info { status, id, graph, nodes, edges: Out::none(), count }.tell(stream, null)
    }

    fn cuStreamGetCaptureInfo_v3 / cuStreamGetCaptureInfo_v3_ptsz(
        stream: CUstream, status: Out<c_int>, id: Out<u64>, graph: Out<CUgraph>, nodes: Out<usize>, edges: Out<usize>,
        count: Out<usize>,
    ) |null| {
        Info { status, id, graph, nodes, edges, count }.tell(stream, null)
    }

    fn cuStreamUpdateCaptureDependencies / cuStreamUpdateCaptureDependencies_ptsz(
        stream: CUstream, nodes: In<CUgraphNode>, count: usize, flags: c_uint,
    ) |null| {
        update(stream, null, nodes, In::null(), count, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2 / cuStreamUpdateCaptureDependencies_v2_ptsz(
        stream: CUstream, nodes: In<CUgraphNode>, edges: In<EdgeData>, count: usize, flags: c_uint,
    ) |null| {
        update(stream, null, nodes, edges, count, flags)
    }
}
