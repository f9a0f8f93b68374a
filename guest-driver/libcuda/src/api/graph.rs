//! Graphs, what is in them, and their execution.
use super::capture::refuse_in_capture;
use super::{cuda, cuda_pairs};
use crate::abi::{CUgraph, CUgraphExec, CUgraphNode, CUstream, In, Out};
use crate::fence::refuse_capture;
use crate::graphs::{Graph, GraphExec, node_handle, node_id};
use crate::handles::Entry;
use crate::host_functions::Kept;
use crate::lock;
use crate::objects::Recorded;
use crate::session::{Call, NullStream};
use std::ffi::{c_char, c_int};
use std::sync::Arc;
use vgpu_protocol::calls::{self, Wire};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{Dependency, Edge, EdgeData, NODE_NONE, kind};
use vgpu_protocol::words::handle;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD.
const UPLOAD: u64 = 2;
/// CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY.
const USE_NODE_PRIORITY: u64 = 8;

/// A CUDA_GRAPH_INSTANTIATE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct InstantiateParams {
    flags: u64,
    upload_stream: CUstream,
    error_node: CUgraphNode,
    outcome: c_int,
}

impl Call {
    /// The context in which a call is made that needs none.
    pub(super) fn anywhere(&self) -> u32 {
        self.context().map_or(handle::CONTEXT_NONE, |context| context.id)
    }
}

/// The graph of a handle.
pub(super) fn find_graph(call: &Call, graph: CUgraph) -> Result<Arc<Entry<Graph>>, Code> {
    let found = call.session.graphs.get(graph).ok_or(result::INVALID_VALUE)?;
    Ok(Arc::clone(&*found))
}

/// The whole of a list that the host tells in parts: each from a number on, with how many there are.
pub(super) fn all<T: FromBytes + Immutable>(
    mut part: impl FnMut(u32) -> Result<(u32, Vec<u8>), Code>,
) -> Result<Vec<T>, Code> {
    let mut all = Vec::new();
    loop {
        let (total, blob) = part(all.len() as u32)?;
        let more = blob.chunks_exact(size_of::<T>());
        all.extend(more.filter_map(|bytes| T::read_from_bytes(bytes).ok()));
        if blob.is_empty() || all.len() >= total as usize {
            return Ok(all);
        }
    }
}

/// Nodes that something is to come after, as the wire has them.
pub(super) fn after(nodes: In<CUgraphNode>, edges: In<EdgeData>, count: usize) -> Result<Vec<u8>, Code> {
    let mut all = Vec::new();
    for n in 0..count {
        let data = if edges.is_null() {
            EdgeData::default()
        } else {
            edges.at(n)?
        };
        let one = Dependency {
            node: node_id(nodes.at(n)?)?,
            reserved: 0,
            data,
        };
        all.extend_from_slice(one.as_bytes());
    }
    Ok(all)
}

/// Refuses to tell of edges that are no plain ones to those who do not ask what they are.
pub(super) fn edges_wanted(edges: impl IntoIterator<Item = EdgeData>, wanted: bool) -> Result<(), Code> {
    if wanted || edges.into_iter().all(|edge| edge == EdgeData::default()) {
        Ok(())
    } else {
        Err(result::LOSSY_QUERY)
    }
}

/// Gives a list: its length, or as many elements as there is room for; the rest of the room is nothing.
pub(super) fn list<T: Copy + Default>(all: &[T], place: Out<T>, len: Out<usize>) -> Result<(), Code> {
    if place.is_null() {
        return len.set(all.len());
    }
    let room = len.get()?;
    for n in 0..room {
        place.set_at(n, all.get(n).copied().unwrap_or_default())?;
    }
    len.set(room.min(all.len()))
}

/// The nodes of a graph.
pub(super) fn nodes_of(call: &Call, graph: &Graph) -> Result<Vec<u32>, Code> {
    all(|first| {
        let arguments = calls::cuGraphGetNodes::In {
            graph: graph.id,
            first,
        };
        let (out, blob) = call.ask_with::<calls::cuGraphGetNodes::Call>(graph.context, arguments, &[])?;
        Ok((out.total, blob))
    })
}

/// The edges of a graph.
pub(super) fn edges_of(call: &Call, graph: &Graph) -> Result<Vec<Edge>, Code> {
    all(|first| {
        let arguments = calls::cuGraphGetEdges::In {
            graph: graph.id,
            first,
        };
        let (out, blob) = call.ask_with::<calls::cuGraphGetEdges::Call>(graph.context, arguments, &[])?;
        Ok((out.total, blob))
    })
}

/// The kind of a node.
pub(super) fn type_of(call: &Call, node: u32) -> Result<u32, Code> {
    if super::graph_copy::remembered(call, node).is_some() {
        return Ok(kind::MEMCPY);
    }
    let arguments = calls::cuGraphNodeGetType::In { node };
    Ok(call
        .ask::<calls::cuGraphNodeGetType::Call>(call.anywhere(), arguments)?
        .kind)
}

fn get_edges(
    graph: CUgraph,
    from: Out<CUgraphNode>,
    to: Out<CUgraphNode>,
    data: Out<EdgeData>,
    len: Out<usize>,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let graph = find_graph(&call, graph)?;
    let room = len.get()?;
    if from.is_null() != to.is_null() {
        return Err(result::INVALID_VALUE);
    }
    let edges = edges_of(&call, &graph)?;
    if from.is_null() {
        return len.set(edges.len());
    }
    edges_wanted(edges.iter().map(|edge| edge.data), !data.is_null())?;
    let column =
        |of: fn(&Edge) -> u32| -> Vec<_> { edges.iter().map(|edge| node_handle(of(edge))).collect() };
    list(&column(|edge| edge.from), from, len)?;
    len.set(room)?;
    list(&column(|edge| edge.to), to, len)?;
    if !data.is_null() {
        len.set(room)?;
        list(&edges.iter().map(|edge| edge.data).collect::<Vec<_>>(), data, len)?;
    }
    Ok(())
}

/// How an instantiation went.
#[derive(Default)]
struct Instantiated {
    /// A CUgraphInstantiateResult.
    outcome: c_int,
    /// The node because of which it failed.
    error_node: CUgraphNode,
}

fn instantiate(
    call: &Call,
    graph: CUgraph,
    flags: u64,
    told: &mut Instantiated,
) -> Result<CUgraphExec, Code> {
    let session = call.session;
    let graph = find_graph(call, graph)?;
    let id = session.graph_execs.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let arguments = calls::cuGraphInstantiateWithParams::In {
        graph: graph.id,
        flags: flags & !UPLOAD,
        exec: id,
    };
    let asked = call.ask::<calls::cuGraphInstantiateWithParams::Call>(graph.context, arguments);
    let made = asked.and_then(|out| {
        told.outcome = out.outcome;
        told.error_node = if out.error_node == NODE_NONE {
            0
        } else {
            node_handle(out.error_node)
        };
        if out.result == result::SUCCESS {
            Ok(())
        } else {
            Err(out.result)
        }
    });
    if let Err(code) = made {
        session.graph_execs.release(id);
        return Err(code);
    }
    let exec = GraphExec::new(id, graph.context, flags & !UPLOAD, graph.needs());
    Ok(session.graph_execs.insert(id, exec).handle())
}

/// The same with a log, which the library leaves empty.
fn instantiate_logged(
    place: Out<CUgraphExec>,
    graph: CUgraph,
    error_node: Out<CUgraphNode>,
    log: Out<c_char>,
    len: usize,
) -> Result<(), Code> {
    let call = Call::enter()?;
    place.check()?;
    let mut told = Instantiated::default();
    let made = instantiate(&call, graph, 0, &mut told);
    error_node.set_if_wanted(told.error_node);
    if len > 0 {
        log.set_if_wanted(0);
    }
    place.set(made?)
}

/// Has work of an executable graph done on a stream.
fn submit<C: Wire>(
    exec: CUgraphExec,
    stream: CUstream,
    null: NullStream,
    arguments: impl FnOnce(u32, u64) -> C::In,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let stream = call.stream(stream, null)?;
    let found = call.session.graph_execs.get(exec);
    let exec = found.ok_or(result::INVALID_VALUE)?;
    let kept = exec.kept();
    if !kept.is_empty() {
        let mut launched = lock(&exec.launched);
        if !launched.iter().any(|other| Arc::ptr_eq(other, &stream)) {
            launched.push(stream.clone());
        }
    }
    call.submit::<C>(stream.context, arguments(exec.id, stream.word))?;
    if stream.capture() == 0 {
        stream.did_submit();
        for event in kept.iter().filter_map(Kept::event) {
            if let Some(event) = call.session.events.get(event) {
                *lock(&event.recorded) = Recorded::AtHost;
            }
        }
    } else {
        // It becomes part of another graph.
        call.session.captures.keep(stream.capture(), kept);
    }
    Ok(())
}

/// Keeps what runs of an executable graph needed as long as they may be under way.
pub(super) fn retire(call: &Call, exec: &GraphExec, kept: Vec<Kept>) {
    if kept.is_empty() {
        return;
    }
    let session = call.session;
    let launched = lock(&exec.launched).clone();
    let points = launched.iter().map(|stream| {
        // One that captures was fenced before. Where no fence can be asked for, nothing better is known.
        let fence = refuse_capture(stream).and_then(|()| session.fence(call.thread, stream));
        fence.unwrap_or_else(|_| stream.last_fence())
    });
    session.host_functions.retire(session, kept, points.collect());
}

/// Forgets a graph, and those that are part of it.
pub(super) fn forget(call: &Call, graph: &Entry<Graph>) {
    let nodes = std::mem::take(&mut *lock(&graph.parts));
    nodes.into_iter().for_each(|node| forget_parts(call, node));
    call.session.graphs.release(graph.id);
}

/// Forgets the graphs of a node.
pub(super) fn forget_parts(call: &Call, node: u32) {
    lock(&call.session.graph_copies).remove(&node);
    let parts = lock(&call.session.node_parts).remove(&node);
    for &part in parts.iter().flatten() {
        if let Some(part) = call.session.graphs.remove(part) {
            forget(call, &part);
        }
    }
}

cuda! {
    fn cuGraphInstantiateWithFlags(place: Out<CUgraphExec>, graph: CUgraph, flags: u64) {
        let call = Call::enter()?;
        place.check()?;
        place.set(instantiate(&call, graph, flags, &mut Instantiated::default())?)
    }

    fn cuGraphInstantiate(
        place: Out<CUgraphExec>, graph: CUgraph, error_node: Out<CUgraphNode>, log: Out<c_char>, len: usize,
    ) {
        instantiate_logged(place, graph, error_node, log, len)
    }

    fn cuGraphInstantiate_v2(
        place: Out<CUgraphExec>, graph: CUgraph, error_node: Out<CUgraphNode>, log: Out<c_char>, len: usize,
    ) {
        instantiate_logged(place, graph, error_node, log, len)
    }

    fn cuGraphExecGetFlags(exec: CUgraphExec, flags: Out<u64>) {
        let call = Call::enter()?;
        let found = call.session.graph_execs.get(exec);
        // By what order its nodes run is not told.
        flags.set(found.ok_or(result::INVALID_VALUE)?.flags & !USE_NODE_PRIORITY)
    }

    fn cuGraphDestroy(graph: CUgraph) {
        let call = Call::enter()?;
        if !find_graph(&call, graph)?.is_owned() {
            return Err(result::INVALID_VALUE);
        }
        let entry = call.session.graphs.remove(graph).ok_or(result::INVALID_VALUE)?;
        let arguments = calls::cuGraphDestroy::In { graph: entry.id };
        let destroyed = call.submit::<calls::cuGraphDestroy::Call>(entry.context, arguments);
        forget(&call, &entry);
        destroyed
    }

    fn cuGraphExecDestroy(exec: CUgraphExec) {
        let call = Call::enter()?;
        drop(call.session.graph_execs.get(exec).ok_or(result::INVALID_VALUE)?);
        refuse_in_capture(&call)?;
        let entry = call.session.graph_execs.remove(exec).ok_or(result::INVALID_VALUE)?;
        let arguments = calls::cuGraphExecDestroy::In { exec: entry.id };
        let destroyed = call.submit::<calls::cuGraphExecDestroy::Call>(entry.context, arguments);
        call.session.graph_execs.release(entry.id);
        retire(&call, &entry, entry.kept());
        destroyed
    }

    fn cuGraphGetNodes(graph: CUgraph, nodes: Out<CUgraphNode>, len: Out<usize>) {
        let call = Call::enter()?;
        let graph = find_graph(&call, graph)?;
        len.check()?;
        let all: Vec<_> = nodes_of(&call, &graph)?.into_iter().map(node_handle).collect();
        list(&all, nodes, len)
    }

    fn cuGraphGetRootNodes(graph: CUgraph, nodes: Out<CUgraphNode>, len: Out<usize>) {
        let call = Call::enter()?;
        let graph = find_graph(&call, graph)?;
        len.check()?;
        let roots: Vec<u32> = all(|first| {
            let arguments = calls::cuGraphGetRootNodes::In { graph: graph.id, first };
            let (out, blob) = call.ask_with::<calls::cuGraphGetRootNodes::Call>(graph.context, arguments, &[])?;
            Ok((out.total, blob))
        })?;
        list(&roots.into_iter().map(node_handle).collect::<Vec<_>>(), nodes, len)
    }

    fn cuGraphGetEdges(graph: CUgraph, from: Out<CUgraphNode>, to: Out<CUgraphNode>, len: Out<usize>) {
        get_edges(graph, from, to, Out::none(), len)
    }

    fn cuGraphGetEdges_v2(
        graph: CUgraph, from: Out<CUgraphNode>, to: Out<CUgraphNode>, data: Out<EdgeData>, len: Out<usize>,
    ) {
        get_edges(graph, from, to, data, len)
    }

    fn cuGraphNodeGetType(node: CUgraphNode, kind: Out<u32>) {
        let call = Call::enter()?;
        kind.check()?;
        kind.set(type_of(&call, node_id(node)?)?)
    }
}

cuda_pairs! {
    fn cuGraphInstantiateWithParams / cuGraphInstantiateWithParams_ptsz(
        place: Out<CUgraphExec>, graph: CUgraph, params: Out<InstantiateParams>,
    ) |null| {
        let call = Call::enter()?;
        place.check()?;
        let mut wanted = params.get()?;
        let upload = wanted.flags & UPLOAD != 0;
        if upload {
            call.stream(wanted.upload_stream, null)?;
        }
        let mut told = Instantiated::default();
        let made = instantiate(&call, graph, wanted.flags, &mut told);
        (wanted.error_node, wanted.outcome) = (told.error_node, told.outcome);
        params.set(wanted)?;
        let exec = made?;
        place.set(exec)?;
        if upload {
            submit::<calls::cuGraphUpload::Call>(exec, wanted.upload_stream, null, |exec, stream| {
                calls::cuGraphUpload::In { exec, stream }
            })?;
        }
        Ok(())
    }

    fn cuGraphLaunch / cuGraphLaunch_ptsz(exec: CUgraphExec, stream: CUstream) |null| {
        submit::<calls::cuGraphLaunch::Call>(exec, stream, null, |exec, stream| {
            calls::cuGraphLaunch::In { exec, stream }
        })
    }

    fn cuGraphUpload / cuGraphUpload_ptsz(exec: CUgraphExec, stream: CUstream) |null| {
        submit::<calls::cuGraphUpload::Call>(exec, stream, null, |exec, stream| {
            calls::cuGraphUpload::In { exec, stream }
        })
    }
}
