//! Graphs that a program builds: their nodes, one by one, and what these are made of.

use super::abi::{CUcontext, CUdevice, CUevent, CUgraph, CUgraphExec, CUgraphNode, In, Out, api};
use super::capture::after;
use super::context::current;
use super::error::{self, Result};
use super::graph::{EdgeData, Fill, Graph, Node, Op, Step, forget_node, graph_of, steps, with_node};
use super::launch::{KernelLaunch, KernelNodeParams};
use super::memcpy3d::Memcpy3d;
use super::pool::GraphAllocation;
use super::runtime::runtime;
use super::stream_memory::{self, Words};
use super::work::{HostFunction, Work};
use std::ffi::c_void;
use std::sync::Arc;

/// `CUgraphNodeParams`: its body holds the structure of its kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NodeParams {
    kind: u32,
    reserved: [u32; 3],
    body: [u64; 29],
    end: u64,
}

/// `CUDA_HOST_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostNodeParams {
    function: Option<extern "C" fn(*mut c_void)>,
    data: *mut c_void,
}

/// The structure that begins at a word of a node's body.
fn body<T: Copy>(params: &NodeParams, word: usize) -> Result<T> {
    In(params.body[word..].as_ptr().cast::<T>()).get()
}

fn kernel(params: &KernelNodeParams) -> Result<Op> {
    let launch: KernelLaunch = params.launch()?;
    Ok(Op::Kernel(Arc::new(launch)))
}

fn copy(copy: Memcpy3d) -> Result<Op> {
    copy.check(runtime()?)?;
    Ok(Op::Copy(copy))
}

fn fill(fill: Fill) -> Result<Op> {
    fill.check()?;
    Ok(Op::Fill(fill))
}

impl Fill {
    /// Refuses what cannot be, and memory that is not there.
    pub(super) fn check(&self) -> Result {
        let row = self
            .width
            .checked_mul(self.element as usize)
            .ok_or(error::INVALID_VALUE)?;
        let rows = self
            .height
            .checked_sub(1)
            .and_then(|rows| rows.checked_mul(self.pitch));
        let len = rows
            .and_then(|rows| rows.checked_add(row))
            .ok_or(error::INVALID_VALUE)?;
        let is_aligned = self.to.is_multiple_of(u64::from(self.element.max(1)));
        if !matches!(self.element, 1 | 2 | 4)
            || row == 0
            || !is_aligned
            || (self.height > 1 && self.pitch < row)
        {
            return Err(error::INVALID_VALUE);
        }
        if !runtime()?.memory.is_accessible(self.to, len as u64, None) {
            return Err(error::INVALID_VALUE);
        }
        Ok(())
    }
}

fn host(params: &HostNodeParams) -> Result<Op> {
    let function = params.function.ok_or(error::INVALID_VALUE)?;
    Ok(Op::Host(HostFunction {
        function,
        data: params.data,
    }))
}

fn child(graph: CUgraph) -> Result<Op> {
    let runtime = runtime()?;
    Ok(Op::Graph(runtime.graphs.named(graph)?.copy(runtime, true)?))
}

fn record(event: CUevent) -> Result<Op> {
    Ok(Op::RecordEvent(runtime()?.events.get(event)?))
}

fn wait(event: CUevent) -> Result<Op> {
    Ok(Op::WaitEvent(runtime()?.events.get(event)?))
}

fn words(params: &stream_memory::NodeParams) -> Result<Op> {
    Ok(Op::Words(Arc::new(Words::new(params)?)))
}

/// What a structure for any kind of node says.
fn any(params: &NodeParams) -> Result<Op> {
    match params.kind {
        0 => kernel(&body(params, 0)?),
        1 => copy(body(params, 2)?),
        2 => fill(body(params, 0)?),
        3 => host(&body(params, 0)?),
        4 => match params.body[1] as u32 {
            0 => child(params.body[0]),
            // It moves there itself.
            1 => {
                let part = runtime()?.graphs.named(params.body[0])?;
                part.become_part()?;
                Ok(Op::Graph(part))
            }
            _ => Err(error::NOT_SUPPORTED),
        },
        5 => Ok(Op::Empty),
        6 => wait(params.body[0]),
        7 => record(params.body[0]),
        10 => {
            let bytes = params.body[13];
            if bytes == 0 {
                return Err(error::INVALID_VALUE);
            }
            Ok(Op::Memory(Work::Keep(GraphAllocation::new(&current()?, bytes)?)))
        }
        11 => {
            let range = runtime()?
                .memory
                .find(params.body[0])
                .filter(|range| range.start == params.body[0]);
            range
                .map(|range| Op::Free(range.start))
                .ok_or(error::INVALID_VALUE)
        }
        12 => words(&body(params, 0)?),
        8 | 9 | 13 => Err(error::NOT_SUPPORTED),
        _ => Err(error::INVALID_VALUE),
    }
}

/// The nodes that a new one comes after.
struct Behind(In<CUgraphNode>, In<EdgeData>, usize);

fn add(out: Out<CUgraphNode>, graph: CUgraph, behind: Behind, op: impl FnOnce() -> Result<Op>) -> Result {
    let runtime = runtime()?;
    let graph = runtime.graphs.named(graph)?;
    graph.must_be_there();
    let behind = after(behind.0, behind.1, behind.2)?;
    if out.0.is_null() {
        return Err(error::INVALID_VALUE);
    }
    out.set(graph.add(runtime, op()?, behind)?)
}

/// Changes what a node does, which stays of its kind.
fn set(node: CUgraphNode, op: Result<Op>) -> Result {
    let op = op?;
    with_node(node, |node| change(&mut node.op, op))
}

fn change(place: &mut Op, op: Op) -> Result {
    if place.kind() != op.kind() {
        return Err(error::INVALID_VALUE);
    }
    *place = op;
    Ok(())
}

/// What `f` makes of the step of an executable graph that stands for a node.
fn with_step<T>(exec: CUgraphExec, node: CUgraphNode, f: impl FnOnce(&mut Step) -> Result<T>) -> Result<T> {
    fn find(steps: &mut [Step], node: CUgraphNode) -> Option<&mut Step> {
        for step in steps {
            if step.node == node {
                return Some(step);
            }
            if let Some(found) = find(&mut step.parts, node) {
                return Some(found);
            }
        }
        None
    }
    let exec = runtime()?.graph_execs.named(exec)?;
    let mut steps = exec.steps.lock().unwrap_or_else(|e| e.into_inner());
    // A launch that is under way keeps what it was launched with.
    let steps = Arc::make_mut(&mut steps);
    f(find(steps, node).ok_or(error::INVALID_VALUE)?)
}

fn set_in(exec: CUgraphExec, node: CUgraphNode, op: Result<Op>) -> Result {
    let op = op?;
    let parts = match &op {
        Op::Graph(part) => steps(part)?,
        _ => Vec::new(),
    };
    with_step(exec, node, |step| {
        change(&mut step.op, op)?;
        step.parts = parts;
        Ok(())
    })
}

/// What `f` makes of what a node does, or an error if that is something else.
fn look<T>(node: CUgraphNode, f: impl FnOnce(&Op) -> Option<T>) -> Result<T> {
    with_node(node, |node| f(&node.op).ok_or(error::INVALID_VALUE))
}

const PLAIN_EDGES: In<EdgeData> = In(std::ptr::null());

api! { SYMBOLS;
    fn cuGraphCreate(out: Out<CUgraph>, flags: u32) {
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        let graph = Graph::new(false);
        out.set(graph.handle)?;
        runtime()?.graphs.add(graph.handle, graph);
        Ok(())
    }

    fn cuGraphAddNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: Out<NodeParams>,
    ) {
        let made_of = params.get()?;
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || any(&made_of))?;
        tell_address(out, made_of, params)
    }

    fn cuGraphAddNode_v2(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, data: In<EdgeData>, len: usize,
        params: Out<NodeParams>,
    ) {
        let made_of = params.get()?;
        add(out, graph, Behind(nodes, data, len), || any(&made_of))?;
        tell_address(out, made_of, params)
    }

    fn cuGraphAddKernelNode_v2(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: In<KernelNodeParams>,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || kernel(&params.get()?))
    }

    fn cuGraphAddMemcpyNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: In<Memcpy3d>,
        _context: CUcontext,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || copy(params.get()?))
    }

    fn cuGraphAddMemsetNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: In<Fill>,
        _context: CUcontext,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || fill(params.get()?))
    }

    fn cuGraphAddHostNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: In<HostNodeParams>,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || host(&params.get()?))
    }

    fn cuGraphAddChildGraphNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, part: CUgraph,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || child(part))
    }

    fn cuGraphAddEmptyNode(out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || Ok(Op::Empty))
    }

    fn cuGraphAddEventRecordNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, event: CUevent,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || record(event))
    }

    fn cuGraphAddEventWaitNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, event: CUevent,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || wait(event))
    }

    fn cuGraphAddBatchMemOpNode(
        out: Out<CUgraphNode>, graph: CUgraph, nodes: In<CUgraphNode>, len: usize, params: In<stream_memory::NodeParams>,
    ) {
        add(out, graph, Behind(nodes, PLAIN_EDGES, len), || words(&params.get()?))
    }

    fn cuGraphBatchMemOpNodeSetParams(node: CUgraphNode, params: In<stream_memory::NodeParams>) {
        set(node, words(&params.get()?))
    }

    fn cuGraphExecBatchMemOpNodeSetParams(
        exec: CUgraphExec, node: CUgraphNode, params: In<stream_memory::NodeParams>,
    ) {
        set_in(exec, node, words(&params.get()?))
    }

    fn cuGraphBatchMemOpNodeGetParams(node: CUgraphNode, out: Out<stream_memory::NodeParams>) {
        // The node's own operations, which stay where they are until it is changed.
        out.set(look(node, |op| if let Op::Words(words) = op { Some(words.params()) } else { None })?)
    }

    fn cuGraphNodeSetParams(node: CUgraphNode, params: In<NodeParams>) {
        set(node, any(&params.get()?))
    }

    fn cuGraphKernelNodeSetParams_v2(node: CUgraphNode, params: In<KernelNodeParams>) {
        set(node, kernel(&params.get()?))
    }

    fn cuGraphMemcpyNodeSetParams(node: CUgraphNode, params: In<Memcpy3d>) {
        set(node, copy(params.get()?))
    }

    fn cuGraphMemsetNodeSetParams(node: CUgraphNode, params: In<Fill>) {
        set(node, fill(params.get()?))
    }

    fn cuGraphHostNodeSetParams(node: CUgraphNode, params: In<HostNodeParams>) {
        set(node, host(&params.get()?))
    }

    fn cuGraphEventRecordNodeSetEvent(node: CUgraphNode, event: CUevent) {
        set(node, record(event))
    }

    fn cuGraphEventWaitNodeSetEvent(node: CUgraphNode, event: CUevent) {
        set(node, wait(event))
    }

    fn cuGraphExecNodeSetParams(exec: CUgraphExec, node: CUgraphNode, params: In<NodeParams>) {
        set_in(exec, node, any(&params.get()?))
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: CUgraphExec, node: CUgraphNode, params: In<KernelNodeParams>) {
        set_in(exec, node, kernel(&params.get()?))
    }

    fn cuGraphExecMemcpyNodeSetParams(
        exec: CUgraphExec, node: CUgraphNode, params: In<Memcpy3d>, _context: CUcontext,
    ) {
        set_in(exec, node, copy(params.get()?))
    }

    fn cuGraphExecMemsetNodeSetParams(
        exec: CUgraphExec, node: CUgraphNode, params: In<Fill>, _context: CUcontext,
    ) {
        set_in(exec, node, fill(params.get()?))
    }

    fn cuGraphExecHostNodeSetParams(exec: CUgraphExec, node: CUgraphNode, params: In<HostNodeParams>) {
        set_in(exec, node, host(&params.get()?))
    }

    fn cuGraphExecChildGraphNodeSetParams(exec: CUgraphExec, node: CUgraphNode, part: CUgraph) {
        set_in(exec, node, child(part))
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: CUgraphExec, node: CUgraphNode, event: CUevent) {
        set_in(exec, node, record(event))
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: CUgraphExec, node: CUgraphNode, event: CUevent) {
        set_in(exec, node, wait(event))
    }

    fn cuGraphKernelNodeGetParams_v2(node: CUgraphNode, out: Out<KernelNodeParams>) {
        out.set(look(node, |op| match op {
            Op::Kernel(launch) => Some(KernelNodeParams::of(launch)),
            _ => None,
        })?)
    }

    fn cuGraphMemcpyNodeGetParams(node: CUgraphNode, out: Out<Memcpy3d>) {
        out.set(look(node, |op| if let Op::Copy(copy) = op { Some(*copy) } else { None })?)
    }

    fn cuGraphMemsetNodeGetParams(node: CUgraphNode, out: Out<Fill>) {
        out.set(look(node, |op| if let Op::Fill(fill) = op { Some(*fill) } else { None })?)
    }

    fn cuGraphHostNodeGetParams(node: CUgraphNode, out: Out<HostNodeParams>) {
        out.set(look(node, |op| match op {
            Op::Host(host) => Some(HostNodeParams { function: Some(host.function), data: host.data }),
            _ => None,
        })?)
    }

    fn cuGraphEventRecordNodeGetEvent(node: CUgraphNode, out: Out<CUevent>) {
        out.set(look(node, |op| if let Op::RecordEvent(event) = op { Some(event.handle) } else { None })?)
    }

    fn cuGraphEventWaitNodeGetEvent(node: CUgraphNode, out: Out<CUevent>) {
        out.set(look(node, |op| if let Op::WaitEvent(event) = op { Some(event.handle) } else { None })?)
    }

    fn cuGraphMemAllocNodeGetParams(node: CUgraphNode, out: Out<[u64; 15]>) {
        let address = look(node, |op| match op {
            Op::Memory(Work::Keep(memory)) => Some(memory.address()),
            _ => None,
        })?;
        let range = runtime()?.memory.find(address).ok_or(error::INVALID_VALUE)?;
        let mut words = [0; 15];
        // Pinned memory of this device.
        words[0] = 1;
        words[1] = 1 | (range.ordinal as u64) << 32;
        words[13] = range.len;
        words[14] = address;
        out.set(words)
    }

    fn cuGraphMemFreeNodeGetParams(node: CUgraphNode, out: Out<u64>) {
        out.set(look(node, |op| if let Op::Free(address) = op { Some(*address) } else { None })?)
    }

    fn cuGraphChildGraphNodeGetGraph(node: CUgraphNode, out: Out<CUgraph>) {
        out.set(look(node, |op| if let Op::Graph(part) = op { Some(part.handle) } else { None })?)
    }

    fn cuGraphKernelNodeGetAttribute(node: CUgraphNode, attribute: i32, value: Out<[u64; 8]>) {
        value.set(with_node(node, |node| match node.op {
            Op::Kernel(_) => Ok(node.attributes.get(&attribute).copied().unwrap_or_default()),
            _ => Err(error::INVALID_VALUE),
        })?)
    }

    fn cuGraphKernelNodeSetAttribute(node: CUgraphNode, attribute: i32, value: In<[u64; 8]>) {
        let value = value.get()?;
        with_node(node, |node| match node.op {
            Op::Kernel(_) => {
                node.attributes.insert(attribute, value);
                Ok(())
            }
            _ => Err(error::INVALID_VALUE),
        })
    }

    fn cuGraphKernelNodeCopyAttributes(to: CUgraphNode, from: CUgraphNode) {
        let attributes = |node: &mut Node| match node.op {
            Op::Kernel(_) => Ok(node.attributes.clone()),
            _ => Err(error::INVALID_VALUE),
        };
        let copied = with_node(from, attributes)?;
        with_node(to, |node| {
            attributes(node)?;
            node.attributes = copied;
            Ok(())
        })
    }

    fn cuGraphDestroyNode(node: CUgraphNode) {
        let runtime = runtime()?;
        let graph = graph_of(runtime, node)?;
        let mut nodes = graph.nodes();
        let gone = nodes.remove(&node).ok_or(error::INVALID_VALUE)?;
        nodes.values_mut().for_each(|other| other.after.retain(|(before, _)| *before != node));
        drop(nodes);
        forget_node(runtime, node, &gone);
        Ok(())
    }

    fn cuGraphNodeSetEnabled(exec: CUgraphExec, node: CUgraphNode, enabled: u32) {
        with_step(exec, node, |step| {
            // Only kernels, copies and fills.
            if step.op.kind() > 2 {
                return Err(error::INVALID_VALUE);
            }
            step.enabled = enabled != 0;
            Ok(())
        })
    }

    fn cuGraphNodeGetEnabled(exec: CUgraphExec, node: CUgraphNode, enabled: Out<u32>) {
        let is_enabled = with_step(exec, node, |step| match step.op.kind() {
            0..=2 => Ok(step.enabled),
            _ => Err(error::INVALID_VALUE),
        });
        enabled.set(is_enabled?.into())
    }

    fn cuDeviceSetGraphMemAttribute(ordinal: CUdevice, attribute: i32, bytes: In<u64>) {
        super::device::device(ordinal)?;
        // The highest numbers so far can be forgotten, and nothing else; they are not remembered.
        match (attribute, bytes.get()?) {
            (1 | 3, 0) => Ok(()),
            _ => Err(error::INVALID_VALUE),
        }
    }
}

/// Tells where the memory of an allocating node lies.
fn tell_address(node: Out<CUgraphNode>, mut params: NodeParams, out: Out<NodeParams>) -> Result {
    if params.kind != 10 {
        return Ok(());
    }
    params.body[14] = look(node.get()?, |op| match op {
        Op::Memory(Work::Keep(memory)) => Some(memory.address()),
        _ => None,
    })?;
    out.set(params)
}
