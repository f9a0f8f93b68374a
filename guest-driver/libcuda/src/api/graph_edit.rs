//! Graphs that a program builds, and changes.
use super::graph::{after, find_graph, forget_parts, retire};
use super::graph_edges::{EDGES_PER_RECORD, change_edges};
use super::graph_node::{
    BatchMemOpNodeParams, HostNodeParams, KernelNodeParams, KernelNodeParamsV2, Made, MemAllocNodeParams,
    Memcpy3d, MemsetNodeParams, NodeParams,
};
use super::{cuda, graph_copy};
use crate::abi::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUgraph, CUgraphExec, CUgraphNode, In, Out};
use crate::device_memory::{DeviceMemory, Origin};
use crate::graphs::{Graph, GraphExec, Needs, node_handle, node_id};
use crate::handles::Entry;
use crate::host_functions::Kept;
use crate::lock;
use crate::session::Call;
use crate::user_objects::References;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{
    ChildGraph, ConditionalNode, Dependency, Edge, EdgeData, MemAllocNode, NODE_NONE, kind,
};
use zerocopy::{FromBytes, IntoBytes};

/// CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, _ERROR_NOT_SUPPORTED.
const TOPOLOGY_CHANGED: c_int = 2;
const UPDATE_NOT_SUPPORTED: c_int = 6;

/// A CUgraphExecUpdateResultInfo.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UpdateInfo {
    outcome: c_int,
    error_node: CUgraphNode,
    error_from: CUgraphNode,
}

/// Nodes that another one is to come after.
struct After(In<CUgraphNode>, In<EdgeData>, usize);

/// Adds a node to a graph.
fn add(
    place: Out<CUgraphNode>,
    graph: CUgraph,
    before: After,
    made: impl FnOnce(&Call) -> Result<Made, Code>,
) -> Result<u64, Code> {
    let call = Call::enter()?;
    place.check()?;
    let graph = find_graph(&call, graph)?;
    let before = after(before.0, before.1, before.2)?;
    let mut made = made(&call)?;
    if let Some(copy) = made.copy.take_if(|copy| copy.is_pageable()) {
        let (node, kept) = graph_copy::add(&call, &graph, &before, &copy)?;
        graph.keep_for(node, kept);
        place.set(node_handle(node))?;
        return Ok(0);
    }
    let (node, pointer) = add_made(&call, &graph, &before, &made)?;
    if let Some(child) = moved(&call, &made) {
        child.move_to(graph.clone());
        add_parts(&call, &graph, node, Box::new([child.handle()]));
    }
    graph.keep_for(node, made.kept);
    place.set(node_handle(node))?;
    if let Ok(node) = MemAllocNode::read_from_bytes(&made.blob)
        && made.kind == kind::MEM_ALLOC
    {
        let memory = DeviceMemory {
            origin: Origin::Graph,
            ..DeviceMemory::allocated(node.bytes, graph.context)
        };
        call.session.device_memory().insert(pointer, memory);
    }
    Ok(pointer)
}

/// The graph that a node is made of, if it has moved there.
fn moved(call: &Call, made: &Made) -> Option<Arc<Entry<Graph>>> {
    let child = ChildGraph::read_from_bytes(&made.blob).ok()?;
    let moves = made.kind == kind::GRAPH && child.ownership == ChildGraph::MOVE;
    moves.then(|| call.session.graphs.by_id(child.graph))?
}

pub(super) fn add_made(call: &Call, graph: &Graph, before: &[u8], made: &Made) -> Result<(u32, u64), Code> {
    // More edges than fit are added behind it.
    let (first, rest) = before.split_at(before.len().min(EDGES_PER_RECORD * size_of::<Dependency>()));
    let arguments = calls::cuGraphAddNode::In {
        graph: graph.id,
        kind: made.kind,
        dependencies: (first.len() / size_of::<Dependency>()) as u32,
    };
    let blob = [first, &made.blob].concat();
    let (out, _) = call.ask_with::<calls::cuGraphAddNode::Call>(graph.context, arguments, &blob)?;
    let rest = rest
        .chunks_exact(size_of::<Dependency>())
        .filter_map(|one| Dependency::read_from_bytes(one).ok());
    let rest: Vec<_> = rest
        .map(|one| Edge {
            from: one.node,
            to: out.node,
            data: one.data,
        })
        .collect();
    if let Err(code) = change_edges(call, graph, &rest, true) {
        let arguments = calls::cuGraphDestroyNode::In { node: out.node };
        call.ask::<calls::cuGraphDestroyNode::Call>(graph.context, arguments)?;
        return Err(code);
    }
    Ok((out.node, out.pointer))
}

/// Adds a conditional node, whose graphs' handles the caller is given.
fn add_conditional(
    place: Out<CUgraphNode>,
    graph: CUgraph,
    before: After,
    mut params: NodeParams,
    told: Out<NodeParams>,
) -> Result<(), Code> {
    let call = Call::enter()?;
    place.check()?;
    let graph = find_graph(&call, graph)?;
    let before = after(before.0, before.1, before.2)?;
    let size = (params.body[1] >> 32) as u32;
    let context = match params.body[3] as usize {
        0 => call.context()?.id,
        context => super::context::find(&call, context)?.id,
    };
    // As many as one conditional node may have on the host.
    if !(1..=1024).contains(&size) {
        return Err(result::INVALID_VALUE);
    }
    let graphs = &call.session.graphs;
    let mut ids = Vec::new();
    for _ in 0..size {
        ids.extend(graphs.reserve());
    }
    let node = ConditionalNode {
        handle: params.body[0],
        kind: params.body[1] as u32,
        size,
        context,
        reserved: 0,
    };
    let blob = [node.as_bytes(), ids.as_bytes()].concat();
    let made = Made::of(kind::CONDITIONAL, &blob);
    let added = if ids.len() == size as usize {
        add_made(&call, &graph, &before, &made)
    } else {
        Err(result::OUT_OF_MEMORY)
    };
    let node = match added {
        Ok((node, _)) => node,
        Err(code) => {
            ids.into_iter().for_each(|id| graphs.release(id));
            return Err(code);
        }
    };
    let bodies = ids
        .into_iter()
        .map(|id| graphs.insert(id, Graph::part(id, graph.clone())).handle());
    params.body[2] = add_parts(&call, &graph, node, bodies.collect()) as u64;
    told.set(params)?;
    place.set(node_handle(node))
}

/// The program has these graphs of a node; the address of their handles.
fn add_parts(call: &Call, graph: &Graph, node: u32, handles: Box<[CUgraph]>) -> usize {
    let place = handles.as_ptr() as usize;
    lock(&graph.parts).push(node);
    lock(&call.session.node_parts).insert(node, handles);
    place
}

fn add_any(
    place: Out<CUgraphNode>,
    graph: CUgraph,
    before: After,
    params: Out<NodeParams>,
) -> Result<(), Code> {
    let wanted = params.get()?;
    match wanted.kind {
        kind::CONDITIONAL => add_conditional(place, graph, before, wanted, params),
        kind::MEM_ALLOC => {
            let mut told = wanted;
            told.body[14] = add(place, graph, before, |call| Made::any(call, &wanted))?;
            params.set(told)
        }
        _ => add(place, graph, before, |call| Made::any(call, &wanted)).map(drop),
    }
}

/// A node that was a copy among memories that the host reaches stays one.
fn refuse_pageable(made: &Made) -> Result<(), Code> {
    match &made.copy {
        Some(copy) if copy.is_pageable() => Err(result::NOT_SUPPORTED),
        _ => Ok(()),
    }
}

/// Changes what a node is made of.
fn set(node: CUgraphNode, made: impl FnOnce(&Call) -> Result<Made, Code>) -> Result<(), Code> {
    let call = Call::enter()?;
    let node = node_id(node)?;
    let made = made(&call)?;
    if graph_copy::remembered(&call, node).is_some() {
        let copy = made.copy.ok_or(result::INVALID_VALUE)?;
        let kept = copy.set(&call, node)?;
        return graph_copy::set(&call, node, copy.node, kept);
    }
    refuse_pageable(&made)?;
    let arguments = calls::cuGraphNodeSetParams::In {
        node,
        kind: made.kind,
    };
    let (out, _) =
        call.ask_with::<calls::cuGraphNodeSetParams::Call>(call.anywhere(), arguments, &made.blob)?;
    if let Some(graph) = call.session.graphs.by_id(out.graph) {
        graph.keep_for(node, made.kept);
    }
    Ok(())
}

fn find_exec(call: &Call, exec: CUgraphExec) -> Result<Arc<Entry<GraphExec>>, Code> {
    let found = call.session.graph_execs.get(exec).ok_or(result::INVALID_VALUE)?;
    Ok(Arc::clone(&*found))
}

/// The same in an executable graph.
fn set_in(
    exec: CUgraphExec,
    node: CUgraphNode,
    made: impl FnOnce(&Call) -> Result<Made, Code>,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let exec = find_exec(&call, exec)?;
    let node = node_id(node)?;
    let mut made = made(&call)?;
    let mut three;
    if graph_copy::remembered(&call, node).is_some() {
        let copy = made.copy.take().ok_or(result::INVALID_VALUE)?;
        three = copy.graph(&call, exec.context)?;
        made = three.as_node();
    }
    refuse_pageable(&made)?;
    let arguments = calls::cuGraphExecNodeSetParams::In {
        exec: exec.id,
        node,
        kind: made.kind,
    };
    call.ask_with::<calls::cuGraphExecNodeSetParams::Call>(exec.context, arguments, &made.blob)?;
    let before = exec.keep_for(node, made.kept);
    retire(&call, &exec, before);
    Ok(())
}

fn update(exec: CUgraphExec, graph: CUgraph) -> Result<(UpdateInfo, Code), Code> {
    let call = Call::enter()?;
    let (exec, graph) = (find_exec(&call, exec)?, find_graph(&call, graph)?);
    let arguments = calls::cuGraphExecUpdate::In {
        exec: exec.id,
        graph: graph.id,
    };
    let out = call.ask::<calls::cuGraphExecUpdate::Call>(exec.context, arguments)?;
    if out.result == result::SUCCESS {
        let before = exec.keep_instead(graph.needs());
        retire(&call, &exec, before);
    } else {
        // Who knows how far it came.
        exec.keep(graph.needs());
    }
    let handle = |node| if node == NODE_NONE { 0 } else { node_handle(node) };
    let info = UpdateInfo {
        outcome: out.outcome,
        error_node: handle(out.error_node),
        error_from: handle(out.error_from),
    };
    Ok((info, out.result))
}

/// Success, or the failure.
fn outcome(code: Code) -> Result<(), Code> {
    if code == result::SUCCESS {
        Ok(())
    } else {
        Err(code)
    }
}

/// The functions that add a node of a kind, and those that change one.
macro_rules! nodes {
    ($($add:ident($($arg:ident: $type:ty),*) $made:expr;)*) => {
        /// CU_GRAPH_USER_OBJECT_MOVE.
const USER_OBJECT_MOVE: c_uint = 1;

cuda! {$(
            fn $add(place: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, $($arg: $type),*) {
                #[allow(clippy::redundant_closure_call)]
                add(place, graph, After(nodes, In::null(), len), |call| ($made)(call)).map(drop)
            }
        )*}
    };
}
macro_rules! setters {
    ($($set:ident, $exec_set:ident($($arg:ident: $type:ty),*) $made:expr;)*) => {
        cuda! {$(
            fn $set(node: CUgraphNode, $($arg: $type),*) {
                #[allow(clippy::redundant_closure_call)]
                set(node, |call| ($made)(call))
            }
        )*}
        cuda! {$(
            fn $exec_set(exec: CUgraphExec, node: CUgraphNode, $($arg: $type),*) {
                #[allow(clippy::redundant_closure_call)]
                set_in(exec, node, |call| ($made)(call))
            }
        )*}
    };
}

/// A kernel's structure of before library kernels.
fn kernel_v1(call: &Call, params: In<KernelNodeParams>) -> Result<Made, Code> {
    Made::kernel(
        call,
        &KernelNodeParamsV2 {
            plain: params.get()?,
            kernel: 0,
            context: 0,
        },
    )
}

nodes! {
    cuGraphAddKernelNode(params: In<KernelNodeParams>) |call: &Call| kernel_v1(call, params);
    cuGraphAddKernelNode_v2(params: In<KernelNodeParamsV2>) |call: &Call| Made::kernel(call, &params.get()?);
    cuGraphAddMemcpyNode(params: In<Memcpy3d>, context: CUcontext) |call: &Call| Made::memcpy(call, &params.get()?, context);
    cuGraphAddMemsetNode(params: In<MemsetNodeParams>, context: CUcontext)
        |call: &Call| Made::memset(call, &params.get()?, context);
    cuGraphAddHostNode(params: In<HostNodeParams>) |call: &Call| Made::host(call, &params.get()?);
    cuGraphAddChildGraphNode(child: CUgraph) |call: &Call| Made::graph(call, child, ChildGraph::CLONE);
    cuGraphAddMemFreeNode(pointer: CUdeviceptr) |_: &Call| Ok(Made::mem_free(pointer));
    cuGraphAddEmptyNode() |_: &Call| Ok(Made::empty());
    cuGraphAddEventRecordNode(event: CUevent) |call: &Call| Made::event_record(call, event);
    cuGraphAddEventWaitNode(event: CUevent) |call: &Call| Made::event_wait(call, event);
    cuGraphAddBatchMemOpNode(params: In<BatchMemOpNodeParams>) |call: &Call| Made::batch_mem_op(call, &params.get()?);
}

setters! {
    cuGraphKernelNodeSetParams, cuGraphExecKernelNodeSetParams(params: In<KernelNodeParams>)
        |call: &Call| kernel_v1(call, params);
    cuGraphKernelNodeSetParams_v2, cuGraphExecKernelNodeSetParams_v2(params: In<KernelNodeParamsV2>)
        |call: &Call| Made::kernel(call, &params.get()?);
    cuGraphHostNodeSetParams, cuGraphExecHostNodeSetParams(params: In<HostNodeParams>)
        |call: &Call| Made::host(call, &params.get()?);
    cuGraphEventRecordNodeSetEvent, cuGraphExecEventRecordNodeSetEvent(event: CUevent)
        |call: &Call| Made::event_record(call, event);
    cuGraphEventWaitNodeSetEvent, cuGraphExecEventWaitNodeSetEvent(event: CUevent)
        |call: &Call| Made::event_wait(call, event);
    cuGraphBatchMemOpNodeSetParams, cuGraphExecBatchMemOpNodeSetParams(params: In<BatchMemOpNodeParams>)
        |call: &Call| Made::batch_mem_op(call, &params.get()?);
    cuGraphNodeSetParams, cuGraphExecNodeSetParams(params: In<NodeParams>)
        |call: &Call| Made::any(call, &params.get()?);
}

cuda! {
    fn cuGraphRetainUserObject(graph: CUgraph, object: usize, count: c_uint, flags: c_uint) {
        let call = Call::enter()?;
        let graph = find_graph(&call, graph)?;
        let object = call.session.user_object(object)?;
        if flags & !USER_OBJECT_MOVE != 0 {
            return Err(result::INVALID_VALUE);
        }
        let held = References::take(object, count, flags != 0)?;
        graph.keep([Kept::Object(Arc::new(held))]);
        Ok(())
    }

    fn cuGraphReleaseUserObject(graph: CUgraph, object: usize, count: c_uint) {
        let call = Call::enter()?;
        let graph = find_graph(&call, graph)?;
        let object = call.session.user_object(object)?;
        graph.release_object(&object, count)
    }

    fn cuGraphAddMemAllocNode(
        place: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: Out<MemAllocNodeParams>,
    ) {
        let mut told = params.get()?;
        told.pointer = add(place, graph, After(nodes, In::null(), len), |call| Made::mem_alloc(call, &told))?;
        params.set(told)
    }

    fn cuGraphMemcpyNodeSetParams(node: CUgraphNode, params: In<Memcpy3d>) {
        set(node, |call| Made::memcpy(call, &params.get()?, 0))
    }

    fn cuGraphMemsetNodeSetParams(node: CUgraphNode, params: In<MemsetNodeParams>) {
        set(node, |call| Made::memset(call, &params.get()?, 0))
    }

    fn cuGraphExecMemcpyNodeSetParams(exec: CUgraphExec, node: CUgraphNode, params: In<Memcpy3d>, context: CUcontext) {
        set_in(exec, node, |call| Made::memcpy(call, &params.get()?, context))
    }

    fn cuGraphExecMemsetNodeSetParams(
        exec: CUgraphExec, node: CUgraphNode, params: In<MemsetNodeParams>, context: CUcontext,
    ) {
        set_in(exec, node, |call| Made::memset(call, &params.get()?, context))
    }

    fn cuGraphExecChildGraphNodeSetParams(exec: CUgraphExec, node: CUgraphNode, child: CUgraph) {
        set_in(exec, node, |call| Made::graph(call, child, ChildGraph::CLONE))
    }

    fn cuGraphAddNode(
        place: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: Out<NodeParams>,
    ) {
        add_any(place, graph, After(nodes, In::null(), len), params)
    }

    fn cuGraphAddNode_v2(
        place: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, edges: In<EdgeData>, len: usize,
        params: Out<NodeParams>,
    ) {
        add_any(place, graph, After(nodes, edges, len), params)
    }

    fn cuGraphCreate(place: Out<CUgraph>, flags: c_uint) {
        let call = Call::enter()?;
        place.check()?;
        let context = call.context()?.id;
        let graphs = &call.session.graphs;
        let id = graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuGraphCreate::In { graph: id, flags };
        call.ask::<calls::cuGraphCreate::Call>(context, arguments).inspect_err(|_| graphs.release(id))?;
        place.set(graphs.insert(id, Graph::owned(id, context, Needs::default())).handle())
    }

    fn cuGraphClone(place: Out<CUgraph>, original: CUgraph) {
        let call = Call::enter()?;
        place.check()?;
        let original = find_graph(&call, original)?;
        let graphs = &call.session.graphs;
        let id = graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuGraphClone::In { graph: original.id, clone: id };
        call.ask::<calls::cuGraphClone::Call>(original.context, arguments).inspect_err(|_| graphs.release(id))?;
        let clone = graphs.insert(id, Graph::owned(id, original.context, original.needs()));
        graph_copy::remember_clones(&call, &original, &clone);
        place.set(clone.handle())
    }

    fn cuGraphNodeFindInClone(place: Out<CUgraphNode>, node: CUgraphNode, clone: CUgraph) {
        let call = Call::enter()?;
        place.check()?;
        let clone = find_graph(&call, clone)?;
        let arguments = calls::cuGraphNodeFindInClone::In { node: node_id(node)?, graph: clone.id };
        let out = call.ask::<calls::cuGraphNodeFindInClone::Call>(clone.context, arguments)?;
        place.set(node_handle(out.found))
    }

    fn cuGraphDestroyNode(node: CUgraphNode) {
        let call = Call::enter()?;
        let node = node_id(node)?;
        let arguments = calls::cuGraphDestroyNode::In { node };
        let out = call.ask::<calls::cuGraphDestroyNode::Call>(call.anywhere(), arguments)?;
        if let Some(graph) = call.session.graphs.by_id(out.graph) {
            lock(&graph.params).remove(&node);
            graph.keep_for(node, []);
            lock(&graph.parts).retain(|&other| other != node);
        }
        forget_parts(&call, node);
        Ok(())
    }

    fn cuGraphChildGraphNodeGetGraph(node: CUgraphNode, place: Out<CUgraph>) {
        let call = Call::enter()?;
        place.check()?;
        let node = node_id(node)?;
        if graph_copy::remembered(&call, node).is_some() {
            return Err(result::INVALID_VALUE);
        }
        if let Some(&[known]) = lock(&call.session.node_parts).get(&node).map(|parts| &**parts) {
            return place.set(known);
        }
        let graphs = &call.session.graphs;
        let id = graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuGraphChildGraphNodeGetGraph::In { node, graph: id };
        let asked = call.ask::<calls::cuGraphChildGraphNodeGetGraph::Call>(call.anywhere(), arguments);
        let owner = asked.and_then(|out| graphs.by_id(out.owner).ok_or(result::INVALID_VALUE));
        let owner = owner.inspect_err(|_| graphs.release(id))?;
        let handle = graphs.insert(id, Graph::part(id, owner.clone())).handle();
        add_parts(&call, &owner, node, Box::new([handle]));
        place.set(handle)
    }

    fn cuGraphExecUpdate(exec: CUgraphExec, graph: CUgraph, error_node: Out<CUgraphNode>, told: Out<c_int>) {
        let (info, code) = update(exec, graph)?;
        error_node.set_if_wanted(info.error_node);
        // Of another number of nodes, which is no node's fault, NVIDIA's says less here than in the later function.
        told.set_if_wanted(match info {
            UpdateInfo { outcome: TOPOLOGY_CHANGED, error_node: 0, .. } => UPDATE_NOT_SUPPORTED,
            _ => info.outcome,
        });
        outcome(code)
    }

    fn cuGraphExecUpdate_v2(exec: CUgraphExec, graph: CUgraph, told: Out<UpdateInfo>) {
        told.check()?;
        let (info, code) = update(exec, graph)?;
        told.set(info)?;
        outcome(code)
    }

    fn cuGraphNodeSetEnabled(exec: CUgraphExec, node: CUgraphNode, enabled: c_uint) {
        let call = Call::enter()?;
        let exec = find_exec(&call, exec)?;
        let arguments = calls::cuGraphNodeSetEnabled::In { exec: exec.id, node: node_id(node)?, enabled };
        call.ask::<calls::cuGraphNodeSetEnabled::Call>(exec.context, arguments).map(drop)
    }

    fn cuGraphNodeGetEnabled(exec: CUgraphExec, node: CUgraphNode, enabled: Out<c_uint>) {
        let call = Call::enter()?;
        enabled.check()?;
        let exec = find_exec(&call, exec)?;
        let arguments = calls::cuGraphNodeGetEnabled::In { exec: exec.id, node: node_id(node)? };
        enabled.set(call.ask::<calls::cuGraphNodeGetEnabled::Call>(exec.context, arguments)?.enabled)
    }

    fn cuGraphConditionalHandleCreate(
        place: Out<u64>, graph: CUgraph, context: CUcontext, initial: c_uint, flags: c_uint,
    ) {
        let call = Call::enter()?;
        place.check()?;
        let graph = find_graph(&call, graph)?;
        let context = match context {
            0 => call.context()?.id,
            context => super::context::find(&call, context)?.id,
        };
        let arguments = calls::cuGraphConditionalHandleCreate::In { graph: graph.id, initial, flags };
        place.set(call.ask::<calls::cuGraphConditionalHandleCreate::Call>(context, arguments)?.value)
    }

    fn cuDeviceGraphMemTrim(device: CUdevice) {
        let call = Call::enter()?;
        super::device::gpu(&call, device)?;
        let arguments = calls::cuDeviceGraphMemTrim::In { device: device as u32 };
        call.ask::<calls::cuDeviceGraphMemTrim::Call>(call.anywhere(), arguments).map(drop)
    }

    fn cuDeviceGetGraphMemAttribute(device: CUdevice, attribute: c_int, bytes: Out<u64>) {
        let call = Call::enter()?;
        super::device::gpu(&call, device)?;
        bytes.check()?;
        let arguments = calls::cuDeviceGetGraphMemAttribute::In { device: device as u32, attribute };
        bytes.set(call.ask::<calls::cuDeviceGetGraphMemAttribute::Call>(call.anywhere(), arguments)?.bytes)
    }

    fn cuDeviceSetGraphMemAttribute(device: CUdevice, attribute: c_int, bytes: In<u64>) {
        let call = Call::enter()?;
        super::device::gpu(&call, device)?;
        let arguments =
            calls::cuDeviceSetGraphMemAttribute::In { device: device as u32, attribute, most: bytes.get()? };
        call.ask::<calls::cuDeviceSetGraphMemAttribute::Call>(call.anywhere(), arguments).map(drop)
    }
}
