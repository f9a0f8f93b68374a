//! Graphs: operations, and which comes after which.

use super::abi::{CUgraph, CUgraphExec, CUgraphNode, CUstream, Out, api, stream_api};
use super::capture;
use super::error::{self, Result};
use super::event::Event;
use super::launch::KernelLaunch;
use super::memcpy3d::Memcpy3d;
use super::registry::new_handle;
use super::runtime::{Runtime, initialised, runtime};
use super::stream::{Marker, Stream, stream};
use super::stream_memory::Words;
use super::work::{HostFunction, Work};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};

/// `CUgraphEdgeData`
pub type EdgeData = [u8; 8];
/// The edge of those who give none.
pub const PLAIN: EdgeData = [0; 8];
/// The nodes that one comes after, each with the edge from it.
pub type After = Vec<(CUgraphNode, EdgeData)>;

/// What a node does.
#[derive(Clone)]
pub enum Op {
    Kernel(Arc<KernelLaunch>),
    Copy(Memcpy3d),
    Fill(Fill),
    Host(HostFunction),
    Graph(Arc<Graph>),
    Empty,
    WaitEvent(Arc<Event>),
    RecordEvent(Arc<Event>),
    /// Operations on words of memory.
    Words(Arc<Words>),
    /// A copy or fill of rows, or an allocation.
    Memory(Work),
    /// The end of an allocation of a graph, whose memory stays the graph's.
    Free(u64),
}

/// `CUDA_MEMSET_NODE_PARAMS`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fill {
    pub to: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: u32,
    pub width: usize,
    pub height: usize,
}

impl Op {
    /// `CUgraphNodeType`
    pub fn kind(&self) -> u32 {
        match self {
            Op::Kernel(_) => 0,
            Op::Copy(_) => 1,
            Op::Fill(_) => 2,
            Op::Host(_) => 3,
            Op::Graph(_) => 4,
            Op::Empty => 5,
            Op::WaitEvent(_) => 6,
            Op::RecordEvent(_) => 7,
            Op::Words(_) => 12,
            Op::Memory(Work::CopyRows { .. }) => 1,
            Op::Memory(Work::FillRows { .. }) => 2,
            Op::Memory(_) => 10,
            Op::Free(_) => 11,
        }
    }

    /// What an operation that a stream captures does as a node.
    pub fn captured(runtime: &Runtime, work: &Work) -> Result<Op> {
        Ok(match work {
            Work::Kernel(launch) => Op::Kernel(launch.clone()),
            Work::Copy { to, from, len } => Op::Copy(Memcpy3d::linear(runtime, *to, *from, *len)),
            Work::Fill {
                to,
                value,
                size,
                count,
            } => Op::Fill(Fill {
                to: *to,
                pitch: 0,
                value: *value,
                element: u32::from(*size),
                width: *count,
                height: 1,
            }),
            Work::Host(function) => Op::Host(*function),
            Work::RecordEvent(event) => Op::RecordEvent(event.clone()),
            Work::WaitEvent(event) => Op::WaitEvent(event.clone()),
            Work::Nothing => Op::Empty,
            Work::Write { .. } | Work::WaitValue { .. } => Op::Words(Arc::new(Words::captured(work)?)),
            Work::FillRows {
                to,
                pitch,
                value,
                size,
                count,
                height,
            } => Op::Fill(Fill {
                to: *to,
                pitch: *pitch,
                value: *value,
                element: u32::from(*size),
                width: *count,
                height: *height,
            }),
            Work::CopyRows { .. } | Work::Free(_) | Work::Keep(_) => Op::Memory(work.clone()),
            Work::Upload { .. } | Work::Record(_) | Work::Graph(_) => return Err(error::INVALID_VALUE),
        })
    }

    /// What it is when it runs.
    fn work(&self) -> Vec<Work> {
        match self {
            Op::Kernel(launch) => vec![Work::Kernel(launch.clone())],
            Op::Copy(copy) => copy.work(),
            Op::Fill(fill) => (0..fill.height)
                .map(|row| Work::Fill {
                    to: fill.to + (row * fill.pitch) as u64,
                    value: fill.value,
                    size: fill.element as u8,
                    count: fill.width,
                })
                .collect(),
            Op::Host(function) => vec![Work::Host(*function)],
            Op::WaitEvent(event) => vec![Work::WaitEvent(event.clone())],
            Op::RecordEvent(event) => vec![Work::RecordEvent(event.clone())],
            Op::Words(words) => words.works().to_vec(),
            Op::Memory(work) => vec![work.clone()],
            Op::Graph(_) | Op::Empty | Op::Free(_) => Vec::new(),
        }
    }
}

/// An operation and those it comes after.
#[derive(Clone)]
pub struct Node {
    pub op: Op,
    pub after: After,
    /// The node that it is a copy of, 0 for none.
    pub original: CUgraphNode,
    /// A kernel's attributes by their number: hints, or clusters, which need no more than blocks do here.
    pub attributes: BTreeMap<i32, [u64; 8]>,
}

/// Nodes by their handles, which rise as they are made.
pub type Nodes = BTreeMap<CUgraphNode, Node>;

/// A graph.
pub struct Graph {
    pub handle: CUgraph,
    /// It is the graph of a node of another one.
    is_part: AtomicBool,
    /// The capture that made it has become invalid.
    lost: AtomicBool,
    nodes: Mutex<Nodes>,
}

impl Graph {
    /// The capture that made it has become invalid.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// The graph of a capture may go when that becomes invalid, before the program has ended it: whoever adds to it then would touch
    /// freed memory in NVIDIA's library.
    pub fn must_be_there(&self) {
        if self.lost.load(Ordering::Acquire) {
            eprintln!("softgpu: a node is added to the graph of a capture that is invalid");
            std::process::abort();
        }
    }

    /// An empty one. It has a handle as long as it is in the table.
    pub fn new(is_part: bool) -> Arc<Graph> {
        Arc::new(Graph {
            handle: new_handle(),
            is_part: AtomicBool::new(is_part),
            lost: AtomicBool::new(false),
            nodes: Mutex::default(),
        })
    }

    /// Whether it is the graph of a node of another one.
    pub fn is_part(&self) -> bool {
        self.is_part.load(Ordering::Relaxed)
    }

    /// It becomes that, if it was not.
    pub fn become_part(&self) -> Result {
        match self.is_part.swap(true, Ordering::Relaxed) {
            true => Err(error::NOT_SUPPORTED),
            false => Ok(()),
        }
    }

    /// Its nodes. Where two threads use a graph at once NVIDIA's library breaks, now or later: this one does at once.
    pub fn nodes(&self) -> MutexGuard<'_, Nodes> {
        match self.nodes.try_lock() {
            Ok(nodes) => nodes,
            Err(TryLockError::Poisoned(nodes)) => nodes.into_inner(),
            Err(TryLockError::WouldBlock) => {
                eprintln!("softgpu: two threads use a graph at once");
                std::process::abort()
            }
        }
    }

    /// Adds a node behind some of it.
    pub fn add(self: &Arc<Self>, runtime: &Runtime, op: Op, after: After) -> Result<CUgraphNode> {
        let mut nodes = self.nodes();
        if !after.iter().all(|(node, _)| nodes.contains_key(node)) {
            return Err(error::INVALID_VALUE);
        }
        let handle = new_handle();
        if let Op::Graph(part) = &op {
            runtime.graphs.add(part.handle, part.clone());
        }
        nodes.insert(
            handle,
            Node {
                op,
                after,
                original: 0,
                attributes: BTreeMap::new(),
            },
        );
        runtime.graph_nodes.add(handle, Arc::new(Arc::downgrade(self)));
        Ok(handle)
    }

    /// A copy, whose nodes and parts are new ones.
    pub fn copy(&self, runtime: &Runtime, is_part: bool) -> Result<Arc<Graph>> {
        let copy = Graph::new(is_part);
        let mut new = BTreeMap::new();
        for (handle, node) in ordered(&self.nodes())? {
            let after = node
                .after
                .iter()
                .map(|(before, edge)| (new[before], *edge))
                .collect();
            let op = match &node.op {
                Op::Graph(part) => Op::Graph(part.copy(runtime, true)?),
                other => other.clone(),
            };
            let made = copy.add(runtime, op, after)?;
            new.insert(handle, made);
            if let Some(made) = copy.nodes().get_mut(&made) {
                made.original = handle;
                made.attributes = node.attributes.clone();
            }
        }
        Ok(copy)
    }

    /// Takes it out of the tables, with all that is in it.
    pub fn forget(&self, runtime: &Runtime) {
        let _ = runtime.graphs.remove(self.handle);
        let nodes = self.nodes().clone();
        for (handle, node) in &nodes {
            forget_node(runtime, *handle, node);
        }
    }
}

/// Takes a node out of the tables, with all that is in it.
pub(crate) fn forget_node(runtime: &Runtime, handle: CUgraphNode, node: &Node) {
    let _ = runtime.graph_nodes.remove(handle);
    if let Op::Graph(part) = &node.op {
        part.forget(runtime);
    }
}

/// The graph of a node.
pub(crate) fn graph_of(runtime: &Runtime, node: CUgraphNode) -> Result<Arc<Graph>> {
    let found = runtime.graph_nodes.get(node).map_err(|_| error::INVALID_VALUE)?;
    let graph: &Weak<Graph> = &found;
    graph.upgrade().ok_or(error::INVALID_VALUE)
}

/// What `f` makes of a node.
pub(crate) fn with_node<T>(node: CUgraphNode, f: impl FnOnce(&mut Node) -> Result<T>) -> Result<T> {
    let graph = graph_of(runtime()?, node)?;
    let mut nodes = graph.nodes();
    f(nodes.get_mut(&node).ok_or(error::INVALID_VALUE)?)
}

/// Nodes, each behind those it comes after; refused if some come after each other.
fn ordered(nodes: &Nodes) -> Result<Vec<(CUgraphNode, Node)>> {
    let mut order = Vec::with_capacity(nodes.len());
    let mut waiting: BTreeMap<CUgraphNode, usize> =
        nodes.iter().map(|(n, node)| (*n, node.after.len())).collect();
    let mut behind: BTreeMap<CUgraphNode, Vec<CUgraphNode>> = BTreeMap::new();
    for (handle, node) in nodes {
        for (before, _) in &node.after {
            behind.entry(*before).or_default().push(*handle);
        }
    }
    let mut ready: std::collections::BTreeSet<_> = waiting
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(n, _)| *n)
        .collect();
    while let Some(next) = ready.pop_first() {
        order.push((next, nodes[&next].clone()));
        for later in behind.remove(&next).unwrap_or_default() {
            if let Some(left) = waiting.get_mut(&later) {
                *left -= 1;
                if *left == 0 {
                    ready.insert(later);
                }
            }
        }
    }
    if order.len() == nodes.len() {
        Ok(order)
    } else {
        Err(error::INVALID_VALUE)
    }
}

/// A node of an executable graph.
#[derive(Clone)]
pub struct Step {
    /// The graph's node.
    pub node: CUgraphNode,
    pub op: Op,
    /// The steps of the graph that it is.
    pub parts: Vec<Step>,
    pub enabled: bool,
}

impl Step {
    /// All operations that it is made of.
    pub fn work(&self) -> Vec<Work> {
        if !self.enabled {
            return Vec::new();
        }
        let own = self.op.work();
        own.into_iter()
            .chain(self.parts.iter().flat_map(Step::work))
            .collect()
    }
}

/// The steps of a graph in the order in which they run.
pub(crate) fn steps(graph: &Graph) -> Result<Vec<Step>> {
    let order = ordered(&graph.nodes())?;
    let step = |(node, Node { op, .. })| {
        let parts = match &op {
            Op::Graph(part) => steps(part)?,
            // A captured one may be of any address.
            Op::Fill(fill) => fill.check().map(|()| Vec::new())?,
            _ => Vec::new(),
        };
        Ok(Step {
            node,
            op,
            parts,
            enabled: true,
        })
    };
    order.into_iter().map(step).collect()
}

/// A graph made ready to be launched.
pub struct GraphExec {
    pub flags: u64,
    /// What it was made of.
    pub graph: Arc<Graph>,
    pub steps: Mutex<Arc<Vec<Step>>>,
    /// The launch before: two of one graph never overlap.
    last: Mutex<Option<Marker>>,
}

impl GraphExec {
    fn launch(self: &Arc<Self>, stream: &Arc<Stream>) -> Result {
        let runtime = runtime()?;
        if capture::add_node(stream, || Ok(Op::Graph(self.graph.copy(runtime, true)?)))? {
            return Ok(());
        }
        let steps = self.steps.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        let after = last.take().into_iter().collect();
        *last = Some(stream.submit(after, Work::Graph(steps))?);
        Ok(())
    }
}

fn instantiate(out: Out<CUgraphExec>, graph: CUgraph, flags: u64) -> Result {
    let runtime = runtime()?;
    runtime.captures.forbid()?;
    let graph = runtime.graphs.named(graph)?;
    // AUTO_FREE_ON_LAUNCH, UPLOAD, USE_NODE_PRIORITY; kernels launch no graphs here.
    if flags & !(1 | 2 | 8) != 0 {
        return Err(if flags & !15 == 0 {
            error::NOT_SUPPORTED
        } else {
            error::INVALID_VALUE
        });
    }
    let steps = steps(&graph)?;
    let handle = new_handle();
    out.set(handle)?;
    let exec = GraphExec {
        // Of these two nobody is told.
        flags: flags & !(2 | 8),
        graph: graph.copy(runtime, true)?,
        steps: Mutex::new(Arc::new(steps)),
        last: Mutex::default(),
    };
    runtime.graph_execs.add(handle, Arc::new(exec));
    Ok(())
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParams {
    flags: u64,
    upload_stream: CUstream,
    error_node: CUgraphNode,
    outcome: i32,
}

/// Gives a list: its length, or as much of it as there is room for.
pub(crate) fn list<T: Copy + Default>(all: &[T], out: Out<T>, len: Out<usize>) -> Result {
    if out.0.is_null() {
        return len.set(all.len());
    }
    let room = len.get()?;
    for n in 0..room {
        // What is beyond the list is nothing.
        Out(out.0.wrapping_add(n)).set(all.get(n).copied().unwrap_or_default())?;
    }
    len.set(room.min(all.len()))
}

/// The edges of a graph.
fn edges(graph: &Graph) -> (Vec<CUgraphNode>, Vec<CUgraphNode>, Vec<EdgeData>) {
    let (mut from, mut to, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for (handle, node) in graph.nodes().iter() {
        for &(before, edge) in &node.after {
            from.push(before);
            to.push(*handle);
            data.push(edge);
        }
    }
    (from, to, data)
}

fn get_edges(
    graph: CUgraph,
    from: Out<CUgraphNode>,
    to: Out<CUgraphNode>,
    data: Out<EdgeData>,
    len: Out<usize>,
) -> Result {
    let graph = runtime()?.graphs.named(graph)?;
    let (all_from, all_to, all_data) = edges(&graph);
    if from.0.is_null() != to.0.is_null() {
        return Err(error::INVALID_VALUE);
    }
    if from.0.is_null() {
        return len.set(all_from.len());
    }
    if data.0.is_null() && all_data.iter().any(|edge| *edge != PLAIN) {
        return Err(error::LOSSY_QUERY);
    }
    let room = len.get()?;
    let mut each = room;
    list(&all_from, from, Out(&mut each))?;
    each = room;
    list(&all_to, to, Out(&mut each))?;
    if !data.0.is_null() {
        each = room;
        list(&all_data, data, Out(&mut each))?;
    }
    len.set(room.min(all_from.len()))
}

api! { SYMBOLS;
    fn cuGraphInstantiateWithFlags(out: Out<CUgraphExec>, graph: CUgraph, flags: u64) {
        instantiate(out, graph, flags)
    }

    fn cuGraphInstantiate_v2(
        out: Out<CUgraphExec>, graph: CUgraph, error_node: Out<CUgraphNode>, _log: *mut c_char, _len: usize,
    ) {
        error_node.set_if_wanted(0);
        instantiate(out, graph, 0)
    }

    fn cuGraphExecGetFlags(exec: CUgraphExec, flags: Out<u64>) {
        flags.set(runtime()?.graph_execs.named(exec)?.flags)
    }

    fn cuGraphGetNodes(graph: CUgraph, nodes: Out<CUgraphNode>, len: Out<usize>) {
        let graph = runtime()?.graphs.named(graph)?;
        let all: Vec<_> = graph.nodes().keys().copied().collect();
        list(&all, nodes, len)
    }

    fn cuGraphGetRootNodes(graph: CUgraph, nodes: Out<CUgraphNode>, len: Out<usize>) {
        let graph = runtime()?.graphs.named(graph)?;
        let roots: Vec<_> = graph.nodes().iter().filter(|(_, n)| n.after.is_empty()).map(|(n, _)| *n).collect();
        list(&roots, nodes, len)
    }

    fn cuGraphGetEdges(graph: CUgraph, from: Out<CUgraphNode>, to: Out<CUgraphNode>, len: Out<usize>) {
        get_edges(graph, from, to, Out(std::ptr::null_mut()), len)
    }

    fn cuGraphGetEdges_v2(
        graph: CUgraph, from: Out<CUgraphNode>, to: Out<CUgraphNode>, data: Out<EdgeData>, len: Out<usize>,
    ) {
        get_edges(graph, from, to, data, len)
    }

    fn cuGraphNodeGetType(node: CUgraphNode, kind: Out<u32>) {
        kind.set(with_node(node, |node| Ok(node.op.kind()))?)
    }

    fn cuGraphExecDestroy(exec: CUgraphExec) {
        let runtime = initialised()?;
        runtime.captures.forbid()?;
        runtime.graph_execs.remove(exec).map_err(|_| error::INVALID_VALUE)?.graph.forget(runtime);
        runtime.check()
    }

    fn cuGraphDestroy(graph: CUgraph) {
        let runtime = initialised()?;
        let graph = runtime.graphs.named(graph)?;
        if graph.is_part() {
            return Err(error::INVALID_VALUE);
        }
        graph.forget(runtime);
        runtime.check()
    }
}

stream_api! { STREAM_SYMBOLS, default;
    fn cuGraphLaunch | cuGraphLaunch_ptsz(exec: CUgraphExec, handle: CUstream) {
        let stream = stream(handle, default)?;
        runtime()?.graph_execs.named(exec)?.launch(&stream)
    }

    fn cuGraphUpload | cuGraphUpload_ptsz(exec: CUgraphExec, handle: CUstream) {
        stream(handle, default)?;
        runtime()?.graph_execs.named(exec).map(|_| ())
    }

    fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz(
        out: Out<CUgraphExec>, graph: CUgraph, params: Out<InstantiateParams>,
    ) {
        let mut told = params.get()?;
        if told.flags & 2 != 0 {
            stream(told.upload_stream, default)?;
        }
        let result = instantiate(out, graph, told.flags);
        // CUDA_GRAPH_INSTANTIATE_SUCCESS, _ERROR
        (told.error_node, told.outcome) = (0, i32::from(result.is_err()));
        params.set(told)?;
        result
    }
}
