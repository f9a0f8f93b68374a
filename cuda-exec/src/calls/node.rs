//! Nodes of graphs: what they are made of, and what depends on what.
use super::BAD_HANDLE;
use super::capture::page;
use super::host_fn::run_captured;
use super::launch::padded;
use super::pool::add_to_graph;
use super::stream_memory::check as check_word;
use crate::cuda::graph::Dependencies;
use crate::cuda::node::{BatchMemOpParams, KernelParams, NodeParams, alloc_of, memcpy_of};
use crate::cuda::{Grid, Raw};
use crate::dispatch::handlers_of;
use crate::graphs::{Graph, Nodes};
use crate::handles::{Context, Event, Function};
use crate::memory::View;
use crate::recording::Named;
use crate::ring::Failure;
use crate::session::Session;
use std::ffi::c_void;
use std::sync::{Arc, PoisonError};
use vgpu_protocol::limits::{BATCH_MEM_OPS_MAX, KERNEL_PARAMS_LEN_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::BatchMemOp;
use vgpu_protocol::structs::graph::{
    BatchMemOpNode, ChildGraph, ConditionalNode, Dependency, Edge, KernelNode, MemAllocNode, MemcpyNode,
    MemcpySide, MemsetNode, kind,
};
use vgpu_protocol::words::{LaunchAttribute, handle};
use zerocopy::{FromBytes, IntoBytes};

/// Graphs that one conditional node may have.
const BODIES_MAX: usize = 1024;

/// What a node is to be made of, as a record's blob has it.
fn structure<T: FromBytes>(blob: &[u8]) -> Result<T, Code> {
    T::read_from_bytes(blob).map_err(|_| result::INVALID_VALUE)
}

/// The context with that id.
fn context(session: &Session, id: u64) -> Result<Arc<Context>, Code> {
    let id = u32::try_from(id).map_err(|_| result::INVALID_CONTEXT)?;
    session.objects.contexts.get(id).ok_or(result::INVALID_CONTEXT)
}

fn event(session: &Session, blob: &[u8]) -> Result<(Arc<Event>, Raw), Code> {
    let event = session
        .objects
        .events
        .get(structure(blob)?)
        .ok_or(result::INVALID_HANDLE)?;
    let raw = event.raw?;
    Ok((event, raw))
}

/// Refuses a side of a copy that names memory which is not the guest's, or that a copy's run could not reach. Whatever
/// lies there when the graph runs is the guest's as well: its allocations, and its memory in the arena.
fn check_side(view: &View<'_>, side: &MemcpySide, node: &MemcpyNode) -> Result<(), Code> {
    match side.memory {
        MemcpySide::HOST | MemcpySide::DEVICE | MemcpySide::UNIFIED => {}
        MemcpySide::ARRAY => return Err(result::NOT_SUPPORTED),
        _ => return Err(result::INVALID_VALUE),
    }
    let one_row = node.height == 1 && node.depth == 1 && side.y == 0 && side.z == 0;
    let end = |start: u64, len: u64| start.checked_add(len).ok_or(result::INVALID_VALUE);
    let rows_fit = side.pitch >= end(side.x, node.width)?;
    let slices_fit = side.rows >= end(side.y, node.height)? || (node.depth == 1 && side.z == 0);
    if !(one_row || rows_fit && slices_fit) {
        return Err(result::INVALID_VALUE);
    }
    let range = side
        .range(node.width, node.height, node.depth)
        .ok_or(result::INVALID_VALUE)?;
    // Of host memory, too, only what is registered: the processor would read other memory when the graph runs.
    if view.is_device(range.0, range.1) {
        Ok(())
    } else {
        Err(result::INVALID_VALUE)
    }
}

/// Makes what libcuda is to be told of a node out of a record's blob, and tells it. What the node names stays as long as the
/// graph.
fn told(
    session: &'static Session,
    nodes: &Nodes,
    kind: u32,
    blob: &[u8],
    tell: impl FnOnce(&mut NodeParams) -> Result<(), Code>,
) -> Result<Vec<Named>, Code> {
    match kind {
        kind::KERNEL => {
            let (node, packed) = KernelNode::read_from_prefix(blob).map_err(|_| result::INVALID_VALUE)?;
            if packed.len() > KERNEL_PARAMS_LEN_MAX {
                return Err(result::INVALID_VALUE);
            }
            let function: Arc<Function> = session
                .objects
                .functions
                .get(node.function)
                .ok_or(result::INVALID_HANDLE)?;
            function.module.context.make_current()?;
            let grid = Grid {
                blocks: node.grid,
                threads: node.block,
                shared: node.shared,
            };
            let params = padded(&function, packed);
            NodeParams::kernel(function.raw, grid, &params, packed.len(), |mut params| {
                tell(&mut params)
            })?;
            Ok(vec![function])
        }
        kind::MEMCPY => {
            let node: MemcpyNode = structure(blob)?;
            let view = session.memory.view();
            if node.width == 0 || node.height == 0 || node.depth == 0 {
                return Err(result::INVALID_VALUE);
            }
            check_side(&view, &node.from, &node)?;
            check_side(&view, &node.to, &node)?;
            let context = context(session, node.context)?;
            tell(&mut NodeParams::memcpy(&node, context.raw))?;
            Ok(vec![context])
        }
        kind::MEMSET => {
            let node: MemsetNode = structure(blob)?;
            let view = session.memory.view();
            let row = node
                .width
                .checked_mul(u64::from(node.element))
                .ok_or(result::INVALID_VALUE)?;
            let rows = node
                .height
                .checked_sub(1)
                .and_then(|rows| rows.checked_mul(node.pitch));
            let len = rows
                .and_then(|rows| rows.checked_add(row))
                .ok_or(result::INVALID_VALUE)?;
            let pitch_fits = node.height == 1 || node.pitch >= row;
            if !matches!(node.element, 1 | 2 | 4) || row == 0 || !pitch_fits || !view.is_device(node.to, len)
            {
                return Err(result::INVALID_VALUE);
            }
            let context = context(session, node.context)?;
            tell(&mut NodeParams::memset(&node, context.raw))?;
            Ok(vec![context])
        }
        kind::HOST => {
            let cookie: u64 = structure(blob)?;
            // The cookie is not followed: whatever it is, the guest is asked for it.
            tell(&mut NodeParams::host(
                run_captured,
                cookie as usize as *mut c_void,
            ))?;
            Ok(Vec::new())
        }
        kind::GRAPH => {
            let child: ChildGraph = structure(blob)?;
            let graph = nodes.graph(session, child.graph)?;
            tell(&mut NodeParams::graph(graph.raw, child.ownership))?;
            Ok(graph.named())
        }
        kind::EMPTY => {
            structure::<[u8; 0]>(blob)?;
            tell(&mut NodeParams::empty())?;
            Ok(Vec::new())
        }
        kind::WAIT_EVENT | kind::EVENT_RECORD => {
            let (event, raw) = event(session, blob)?;
            tell(&mut NodeParams::event(kind, raw))?;
            Ok(vec![event])
        }
        kind::BATCH_MEM_OP => {
            let (node, operations) =
                BatchMemOpNode::read_from_prefix(blob).map_err(|_| result::INVALID_VALUE)?;
            let operations = <[BatchMemOp]>::ref_from_bytes(operations).map_err(|_| result::INVALID_VALUE)?;
            if operations.len() > BATCH_MEM_OPS_MAX || node.flags != 0 {
                return Err(result::INVALID_VALUE);
            }
            let mut operations = operations.to_vec();
            let view = session.memory.view();
            for operation in &mut operations {
                check_word(&view, operation)?;
                operation.alias = 0;
            }
            let context = context(session, node.context)?;
            // SAFETY: used within this call.
            let mut params = unsafe { NodeParams::batch_mem_op(&mut operations, node.flags, context.raw) };
            tell(&mut params)?;
            Ok(vec![context])
        }
        kind::MEM_FREE => {
            let pointer = structure(blob)?;
            // libcuda refuses what no graph has allocated.
            if !session.memory.view().is_device(pointer, 1) {
                return Err(result::INVALID_VALUE);
            }
            tell(&mut NodeParams::free(pointer))?;
            Ok(Vec::new())
        }
        _ => Err(result::NOT_SUPPORTED),
    }
}

/// How many graphs a conditional node is to have.
fn bodies(blob: &[u8]) -> Result<u64, Code> {
    let (node, _) = ConditionalNode::read_from_prefix(blob).map_err(|_| result::INVALID_VALUE)?;
    Ok(node.size.into())
}

/// A conditional node, and its graphs' ids.
fn conditional(session: &Session, graph: &Graph, blob: &[u8]) -> Result<(ConditionalNode, Vec<u32>), Code> {
    let (node, ids) = ConditionalNode::read_from_prefix(blob).map_err(|_| result::INVALID_VALUE)?;
    let ids = <[u32]>::ref_from_bytes(ids).map_err(|_| result::INVALID_VALUE)?;
    let mut unique: Vec<u32> = ids.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let are_new =
        unique.len() == ids.len() && ids.iter().all(|&id| session.objects.graphs.check_new(id).is_ok());
    // libcuda follows the value wherever it points.
    if ids.len() != node.size as usize
        || ids.is_empty()
        || ids.len() > BODIES_MAX
        || !graph.has_value(node.handle)
    {
        return Err(result::INVALID_VALUE);
    }
    if are_new {
        Ok((node, ids.to_vec()))
    } else {
        Err(result::INVALID_HANDLE)
    }
}

/// The id of the event that libcuda knows as this.
fn event_id(session: &Session, raw: Raw) -> Result<u32, Code> {
    let found = session.objects.events.find(|event| event.raw == Ok(raw));
    found.map(|(id, _)| id).ok_or(result::INVALID_VALUE)
}

/// Edges of a graph, as a record's blob lists them: from where, to where, and what they are.
fn edges(nodes: &Nodes, graph: &Arc<Graph>, blob: &[u8]) -> Result<[Dependencies; 2], Code> {
    let named = <[Edge]>::ref_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
    let [mut from, mut to] = <[Dependencies; 2]>::default();
    for edge in named {
        from.push(nodes.node_in(edge.from, graph)?, edge.data);
        to.push(nodes.node_in(edge.to, graph)?, edge.data);
    }
    Ok([from, to])
}

/// Refuses attributes whose values are handles, or let kernels change their nodes by themselves.
fn check_attribute(attribute: i32) -> Result<(), Code> {
    let attribute = LaunchAttribute {
        id: attribute as u32,
        reserved: 0,
        value: [0; 8],
    };
    if attribute.id == LaunchAttribute::DEVICE_UPDATABLE_NODE || attribute.names_event() {
        return Err(result::NOT_SUPPORTED);
    }
    if !LaunchAttribute::is_known(attribute.id) {
        return Err(result::INVALID_VALUE);
    }
    Ok(())
}

/// The nodes before a node, or behind it.
fn neighbours(
    session: &Session,
    (node, first): (u32, u32),
    behind: bool,
    reply: &mut Vec<u8>,
) -> Result<u32, Failure> {
    let mut nodes = session.graphs.lock();
    let (raw, graph) = nodes.node(node)?;
    let all = session.cuda.graphs.neighbours(raw, behind)?;
    for &(raw, data) in page(&all, first) {
        let node = nodes.name(&graph, raw)?;
        reply.extend_from_slice(
            Dependency {
                node,
                reserved: 0,
                data,
            }
            .as_bytes(),
        );
    }
    Ok(all.len() as u32)
}

/// The graph that is to become part of another one, and whether by moving there.
fn child(
    session: &Session,
    nodes: &Nodes,
    graph: &Arc<Graph>,
    made_of: &[u8],
) -> Result<(Arc<Graph>, bool), Code> {
    let ChildGraph {
        graph: child,
        ownership,
    } = structure(made_of)?;
    let child = nodes.graph(session, child)?;
    match ownership {
        ChildGraph::CLONE => Ok((child, false)),
        // Nor can it move into what is part of it.
        ChildGraph::MOVE if child.is_owned() && !child.contains(graph) && !nodes.captures_within(&child) => {
            Ok((child, true))
        }
        _ => Err(result::NOT_SUPPORTED),
    }
}

/// Adds a node to a graph, which counts it already: libcuda's handle of it, and the address of an allocation.
fn add(
    session: &'static Session,
    nodes: &mut Nodes,
    graph: &Arc<Graph>,
    after: &Dependencies,
    kind: u32,
    made_of: &[u8],
) -> Result<(Raw, u64), Code> {
    let mut raw = 0;
    let mut add = |params: &mut NodeParams| {
        // SAFETY: places that outlive the call, and arrays of that length.
        unsafe {
            session.cuda.graphs.graph_add_node(
                &mut raw,
                graph.raw,
                after.nodes(),
                after.edges(),
                after.len(),
                params,
            )
        }
    };
    match kind {
        kind::CONDITIONAL => {
            let (node, ids) = conditional(session, graph, made_of)?;
            let context = context(session, node.context.into())?;
            let mut params = NodeParams::conditional(node.handle, node.kind, node.size, context.raw);
            add(&mut params)?;
            graph.name([context as Named]);
            let name = nodes.name(graph, raw)?;
            // SAFETY: the node was just made, with that many graphs.
            for (id, body) in ids.into_iter().zip(unsafe { params.bodies(node.size as usize) }) {
                nodes.add_part(session, name, id, body)?;
            }
            Ok((raw, 0))
        }
        kind::MEM_ALLOC => {
            let node: MemAllocNode = structure(made_of)?;
            let device = session.cuda.device(node.device)?;
            if !session.limits.fits(node.device, node.bytes) {
                return Err(session.limits.refuse());
            }
            let mut params = NodeParams::alloc(node.bytes, device);
            add(&mut params)?;
            let pointer = params.pointer();
            let memory = add_to_graph(session, node.device, graph.context.id, pointer, node.bytes);
            graph.recorded(|graph| graph.memory.push(memory));
            Ok((raw, pointer))
        }
        _ => {
            let named = told(session, nodes, kind, made_of, add)?;
            graph.name(named);
            if kind == kind::MEM_FREE {
                let pointer = structure(made_of)?;
                graph.recorded(|graph| graph.frees.push(pointer));
            }
            Ok((raw, 0))
        }
    }
}

handlers_of! {
    cuGraphAddNode(ring, arguments, blob, _reply) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let len = (arguments.dependencies as usize).checked_mul(size_of::<Dependency>());
        let (after, made_of) = len.and_then(|len| blob.split_at_checked(len)).ok_or(result::INVALID_VALUE)?;
        let after = nodes.dependencies(&graph, after)?;
        // A graph in a graph is a copy of all its nodes, unless it moves there with what it counts.
        let child = match arguments.kind {
            kind::GRAPH => Some(child(session, &nodes, &graph, made_of)?),
            _ => None,
        };
        let weight = match (&child, arguments.kind) {
            (Some((child, false)), _) => child.nodes() + 1,
            (_, kind::CONDITIONAL) => bodies(made_of)? + 1,
            _ => 1,
        };
        nodes.has_room()?;
        graph.recorded(|graph| graph.weight.grow(weight))?;
        let added = add(session, &mut nodes, &graph, &after, arguments.kind, made_of);
        let (raw, out) = added.inspect_err(|_| graph.recorded(|graph| graph.weight.shrink(weight)))?;
        let node = nodes.name_new(&graph, raw, weight)?;
        if let Some((child, true)) = child {
            nodes.moved(&child, &graph, node);
        }
        Ok(Out { node, pointer: out })
    }

    cuGraphNodeSetParams(ring, arguments, blob, _reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let (raw, graph) = nodes.node(arguments.node)?;
        // The graph that a node had before would be gone, and with it what has names in it.
        if arguments.kind == kind::GRAPH {
            return Err(result::NOT_SUPPORTED.into());
        }
        if session.cuda.graphs.node_type(raw)? != arguments.kind {
            return Err(result::INVALID_VALUE.into());
        }
        let named = told(session, &nodes, arguments.kind, blob, |params| {
            // SAFETY: a structure that outlives the call.
            unsafe { session.cuda.graphs.node_set_params(raw, params) }
        })?;
        graph.name(named);
        Ok(Out { graph: graph.id })
    }

    cuGraphExecNodeSetParams(ring, arguments, blob, _reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let exec = session.objects.graph_execs.get(arguments.exec).ok_or(BAD_HANDLE)?;
        let (raw, _graph) = nodes.node(arguments.node)?;
        if session.cuda.graphs.node_type(raw)? != arguments.kind {
            return Err(result::INVALID_VALUE.into());
        }
        if arguments.kind == kind::GRAPH && structure::<ChildGraph>(blob)?.ownership != ChildGraph::CLONE {
            // An executable graph owns none.
            return Err(result::INVALID_VALUE.into());
        }
        let _busy = exec.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let named = told(session, &nodes, arguments.kind, blob, |params| {
            // SAFETY: a structure that outlives the call.
            unsafe { session.cuda.graphs.exec_set_params(exec.raw, raw, params) }
        })?;
        exec.name(named);
        Ok(Out {})
    }

    cuGraphNodeSetEnabled(ring, arguments) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let exec = session.objects.graph_execs.get(arguments.exec).ok_or(BAD_HANDLE)?;
        let (raw, _graph) = nodes.node(arguments.node)?;
        let _busy = exec.busy.lock().unwrap_or_else(PoisonError::into_inner);
        session.cuda.graphs.exec_set_enabled(exec.raw, raw, arguments.enabled)?;
        Ok(Out {})
    }

    cuGraphNodeGetEnabled(ring, arguments) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let exec = session.objects.graph_execs.get(arguments.exec).ok_or(BAD_HANDLE)?;
        let (raw, _graph) = nodes.node(arguments.node)?;
        let _busy = exec.busy.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Out { enabled: session.cuda.graphs.exec_get_enabled(exec.raw, raw)? })
    }

    cuGraphAddDependencies(ring, arguments, blob, _reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let [from, to] = edges(&nodes, &graph, blob)?;
        // SAFETY: arrays of that length.
        unsafe {
            session.cuda.graphs.graph_add_edges(graph.raw, from.nodes(), to.nodes(), from.edges(), from.len())
        }?;
        Ok(Out {})
    }

    cuGraphRemoveDependencies(ring, arguments, blob, _reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let [from, to] = edges(&nodes, &graph, blob)?;
        // SAFETY: arrays of that length.
        unsafe {
            session.cuda.graphs.graph_remove_edges(graph.raw, from.nodes(), to.nodes(), from.edges(), from.len())
        }?;
        Ok(Out {})
    }

    cuGraphNodeGetDependencies(ring, arguments, _blob, reply) {
        let total = neighbours(ring.session, (arguments.node, arguments.first), false, reply)?;
        Ok(Out { total })
    }

    cuGraphNodeGetDependentNodes(ring, arguments, _blob, reply) {
        let total = neighbours(ring.session, (arguments.node, arguments.first), true, reply)?;
        Ok(Out { total })
    }

    cuGraphDestroyNode(ring, arguments) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        let (raw, graph) = nodes.node(arguments.node)?;
        if graph.is_captured() || nodes.captures_within(&graph) {
            return Err(result::NOT_PERMITTED.into());
        }
        session.cuda.graphs.node_destroy(raw)?;
        nodes.forget_node(session, arguments.node);
        Ok(Out { graph: graph.id })
    }

    cuGraphChildGraphNodeGetGraph(ring, arguments) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        session.objects.graphs.check_new(arguments.graph).map_err(|_| BAD_HANDLE)?;
        let (raw, owner) = nodes.node(arguments.node)?;
        let child = session.cuda.graphs.child_graph(raw)?;
        nodes.add_part(session, arguments.node, arguments.graph, child)?;
        Ok(Out { owner: owner.id })
    }

    cuGraphNodeFindInClone(ring, arguments) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let clone = nodes.graph(session, arguments.graph)?;
        let found = session.cuda.graphs.node_find_in_clone(raw, clone.raw)?;
        // A node of a graph that is part of the clone would outlive its name's graph.
        if !session.cuda.graphs.nodes_of(clone.raw)?.contains(&found) {
            return Err(result::INVALID_VALUE.into());
        }
        Ok(Out { found: nodes.name(&clone, found)? })
    }

    cuGraphKernelNodeGetParams(ring, arguments, _blob, reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let (raw, graph) = nodes.node(arguments.node)?;
        let mut params = KernelParams::default();
        // SAFETY: a place that outlives the call.
        unsafe { session.cuda.graphs.kernel_params(raw, &mut params) }?;
        let found = session.objects.functions.find(|function| function.raw == params.function);
        let (id, function) = found.ok_or(result::INVALID_VALUE)?;
        let KernelParams { grid, block, shared, .. } = params;
        reply.extend_from_slice(KernelNode { function: id, grid, block, shared }.as_bytes());
        // SAFETY: the node's, whose graph is locked.
        reply.extend_from_slice(&unsafe { params.packed(&function.params, function.params_len()) });
        Ok(Out { graph: graph.id })
    }

    cuGraphMemcpyNodeGetParams(ring, arguments, _blob, reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let mut words = [0; 25];
        // SAFETY: a place of a CUDA_MEMCPY3D's size.
        unsafe { session.cuda.graphs.memcpy_params(raw, &mut words) }?;
        reply.extend_from_slice(memcpy_of(&words)?.as_bytes());
        Ok(Out {})
    }

    cuGraphMemsetNodeGetParams(ring, arguments, _blob, reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let mut words = [0; 5];
        // SAFETY: a place of a CUDA_MEMSET_NODE_PARAMS' size.
        unsafe { session.cuda.graphs.memset_params(raw, &mut words) }?;
        let [to, pitch, element, width, height] = words;
        let (value, element) = (element as u32, (element >> 32) as u32);
        reply.extend_from_slice(MemsetNode { to, pitch, value, element, width, height, context: 0 }.as_bytes());
        Ok(Out {})
    }

    cuGraphBatchMemOpNodeGetParams(ring, arguments, _blob, reply) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let (raw, graph) = nodes.node(arguments.node)?;
        if session.cuda.graphs.node_type(raw)? != kind::BATCH_MEM_OP {
            return Err(result::INVALID_VALUE.into());
        }
        let mut params = BatchMemOpParams::default();
        // SAFETY: a place that outlives the call.
        unsafe { session.cuda.graphs.batch_mem_op_params(raw, &mut params) }?;
        // SAFETY: the node's, whose graph is locked.
        let mut operations = unsafe { params.operations(BATCH_MEM_OPS_MAX) }.ok_or(result::INVALID_VALUE)?;
        // Where else the host's driver has the words is nobody's business.
        operations.iter_mut().for_each(|operation| operation.alias = 0);
        let context = session.objects.contexts.find(|context| context.raw == params.context);
        let context = context.map_or(handle::CONTEXT_NONE, |(id, _)| id).into();
        reply.extend_from_slice(BatchMemOpNode { context, flags: params.flags, reserved: 0 }.as_bytes());
        reply.extend_from_slice(operations.as_bytes());
        Ok(Out { graph: graph.id })
    }

    cuGraphHostNodeGetParams(ring, arguments) {
        let nodes = ring.session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let params = ring.session.cuda.graphs.host_params(raw)?;
        // Only functions of the guest's are in its graphs.
        if params.function != run_captured as *const () as usize {
            return Err(result::INVALID_VALUE.into());
        }
        Ok(Out { cookie: params.user as u64 })
    }

    cuGraphMemAllocNodeGetParams(ring, arguments) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let mut words = [0; 15];
        // SAFETY: a place of a CUDA_MEM_ALLOC_NODE_PARAMS' size.
        unsafe { session.cuda.graphs.alloc_params(raw, &mut words) }?;
        let (bytes, device, pointer) = alloc_of(&words);
        let gpu = (0..session.cuda.gpus().len() as u32).find(|&gpu| session.cuda.device(gpu) == Ok(device));
        Ok(Out { pointer, bytes, device: gpu.ok_or(result::INVALID_VALUE)? })
    }

    cuGraphMemFreeNodeGetParams(ring, arguments) {
        let nodes = ring.session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        Ok(Out { pointer: ring.session.cuda.graphs.freed_memory(raw)? })
    }

    cuGraphEventRecordNodeGetEvent(ring, arguments) {
        let nodes = ring.session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let event = ring.session.cuda.graphs.recorded_event(raw)?;
        Ok(Out { event: event_id(ring.session, event)? })
    }

    cuGraphEventWaitNodeGetEvent(ring, arguments) {
        let nodes = ring.session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        let event = ring.session.cuda.graphs.awaited_event(raw)?;
        Ok(Out { event: event_id(ring.session, event)? })
    }

    cuGraphKernelNodeCopyAttributes(ring, arguments) {
        let nodes = ring.session.graphs.lock();
        let (to, _) = nodes.node(arguments.node)?;
        let (from, _) = nodes.node(arguments.source)?;
        ring.session.cuda.graphs.kernel_copy_attributes(to, from)?;
        Ok(Out {})
    }

    cuGraphKernelNodeGetAttribute(ring, arguments, _blob, reply) {
        let nodes = ring.session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        check_attribute(arguments.attribute)?;
        let mut value = [0u64; 8];
        // SAFETY: a place of a CUlaunchAttributeValue's size.
        unsafe { ring.session.cuda.graphs.kernel_get_attribute(raw, arguments.attribute, &mut value) }?;
        reply.extend_from_slice(value.as_bytes());
        Ok(Out {})
    }

    cuGraphKernelNodeSetAttribute(ring, arguments, blob, _reply) {
        let nodes = ring.session.graphs.lock();
        let (raw, _graph) = nodes.node(arguments.node)?;
        check_attribute(arguments.attribute)?;
        let value: [u64; 8] = structure(blob)?;
        // SAFETY: a CUlaunchAttributeValue that outlives the call. None of the values that are let through is followed.
        unsafe { ring.session.cuda.graphs.kernel_set_attribute(raw, arguments.attribute, &value) }?;
        Ok(Out {})
    }
}
