//! Copies of graphs from and to pageable memory. A graph touches such memory when it runs, where the host does not reach it: so
//! its rows pass through pinned memory of the graph's own, which a host function fills before the copy, or empties behind it.
//!
//! Such a copy is one node, so it is a graph of three here: a host function, the copy, a host function. It is told to be the copy that
//! the program asked for. Of arrays, which such a node cannot name, a capture takes a copy and a function, each a node.
use super::capture::take;
use super::graph::nodes_of;
use super::graph_edit::add_made;
use super::graph_node::Made;
use super::rows::{Rows, pack};
use crate::abi::HostCall;
use crate::blocks::Block;
use crate::graphs::{Graph, Needs};
use crate::host_functions::Kept;
use crate::lock;
use crate::objects::Stream;
use crate::session::{Call, Session};
use std::ffi::c_void;
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{ChildGraph, Dependency, EdgeData, MemcpyNode, MemcpySide, kind};
use zerocopy::{FromBytes, IntoBytes};

/// Pinned memory for the rows of one side of a copy.
pub(super) struct Staging {
    session: &'static Session,
    block: Block,
    size: [u64; 3],
    rows: Rows,
    to_host: bool,
}

impl Staging {
    /// For rows of that size, which are filled in before a copy or, `to_host`, taken out behind it.
    pub(super) fn new(
        session: &'static Session,
        rows: Rows,
        size: [u64; 3],
        to_host: bool,
    ) -> Result<Arc<Self>, Code> {
        let bytes = size.iter().try_fold(1u64, |bytes, &size| bytes.checked_mul(size));
        let block = session.take_block(bytes.ok_or(result::INVALID_VALUE)?)?;
        Ok(Arc::new(Self {
            session,
            block,
            size,
            rows,
            to_host,
        }))
    }

    /// Where it lies, for both sides.
    pub(super) fn addr(&self) -> u64 {
        self.block.addr
    }

    fn run(&self) {
        pack(self.size, |y, z, offset, len| {
            let (row, staged) = (self.rows.at([0, y, z]), self.addr() + offset as u64);
            // SAFETY: the staging has room for all rows, and the GPU does not use it while the function runs. The program
            // promised memory of this size whenever the graph runs.
            unsafe {
                match self.to_host {
                    true => row.copy_in(0, staged as *const u8, len),
                    false => row.copy_out(0, staged as *mut u8, len),
                }
            }
        });
    }

    /// The host function.
    pub(super) fn function(self: &Arc<Self>) -> HostCall {
        HostCall::ours(run, Arc::as_ptr(self) as usize)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.session.give_block(self.block);
    }
}

unsafe extern "C" fn run(staging: *mut c_void) {
    // SAFETY: what keeps the function keeps the staging.
    unsafe { &*staging.cast::<Staging>() }.run();
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

/// Has a capture take a function that fills a staging, or empties it.
pub(super) fn capture_function(call: &Call, stream: &Stream, staging: &Arc<Staging>) -> Result<(), Code> {
    super::host_fn::launch(call, stream, staging.function(), Some(staging.clone()))
}

/// Adds a copy to a graph: the node, and what runs of it need.
pub(super) fn add(
    call: &Call,
    graph: &Graph,
    before: &[u8],
    copy: &Described,
) -> Result<(u32, Vec<Kept>), Code> {
    let mut three = copy.graph(call, graph.context)?;
    let made = three.as_node();
    let (node, _) = add_made(call, graph, before, &made)?;
    remember(call, graph, node, copy.node);
    Ok((node, made.kept))
}

/// Has a capture take a copy of that size, of which some sides, from and to, are pageable memory.
pub(super) fn capture(
    call: &Call,
    stream: &Stream,
    [from, to]: [MemcpySide; 2],
    pageable: [bool; 2],
    [width, height, depth]: [u64; 3],
) -> Result<(), Code> {
    let node = MemcpyNode {
        from,
        to,
        width,
        height,
        depth,
        context: stream.context.into(),
    };
    let (copy, number) = (Described { node, pageable }, stream.capture());
    take(call, stream, |graph, before| {
        let (node, kept) = add(call, graph, before, &copy)?;
        call.session.captures.keep(number, kept);
        Ok(node)
    })
}

/// A copy as a program describes it.
pub(super) struct Described {
    pub(super) node: MemcpyNode,
    /// Which of its sides, from and to, are pageable memory.
    pub(super) pageable: [bool; 2],
}

impl Described {
    pub(super) fn is_pageable(&self) -> bool {
        self.pageable != [false, false]
    }

    /// What the three nodes are made of.
    fn made(&self, call: &Call) -> Result<[Made; 3], Code> {
        let size = [self.node.width, self.node.height, self.node.depth];
        let mut node = self.node;
        let function = |side: &mut MemcpySide, pageable: bool, to_host: bool| {
            if !pageable {
                return Made::function(call, HostCall::ours(nothing, 0), None);
            }
            let (first, _) = side
                .range(size[0], size[1], size[2])
                .ok_or(result::INVALID_VALUE)?;
            let or = |given: u64, default: u64| if given == 0 { default } else { given };
            let rows = Rows {
                first,
                pitch: or(side.pitch, size[0]),
                rows: or(side.rows, size[1]),
            };
            let staging = Staging::new(call.session, rows, size, to_host)?;
            *side = MemcpySide::at(MemcpySide::HOST, staging.addr(), size[0], size[1]);
            Made::function(call, staging.function(), Some(staging))
        };
        let before = function(&mut node.from, self.pageable[0], false)?;
        let behind = function(&mut node.to, self.pageable[1], true)?;
        let copy = Made::of(kind::MEMCPY, node.as_bytes());
        Ok([before, copy, behind])
    }

    /// A graph of the three nodes, which is gone with the result.
    pub(super) fn graph<'a>(&self, call: &'a Call, context: u32) -> Result<Temporary<'a>, Code> {
        let graphs = &call.session.graphs;
        let id = graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuGraphCreate::In { graph: id, flags: 0 };
        call.ask::<calls::cuGraphCreate::Call>(context, arguments)
            .inspect_err(|_| graphs.release(id))?;
        let graph = Graph::owned(id, context, Needs::default());
        let mut temporary = Temporary {
            call,
            graph,
            kept: Vec::new(),
        };
        let mut after = Vec::new();
        for made in self.made(call)? {
            let (node, _) = add_made(call, &temporary.graph, &after, &made)?;
            let dependency = Dependency {
                node,
                reserved: 0,
                data: EdgeData::default(),
            };
            after = dependency.as_bytes().to_vec();
            temporary.kept.extend(made.kept);
        }
        Ok(temporary)
    }

    /// Changes the three nodes of a node of a graph; what runs of that need.
    pub(super) fn set(&self, call: &Call, node: u32) -> Result<Vec<Kept>, Code> {
        let graphs = &call.session.graphs;
        let id = graphs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuGraphChildGraphNodeGetGraph::In { node, graph: id };
        let context = call.anywhere();
        call.ask::<calls::cuGraphChildGraphNodeGetGraph::Call>(context, arguments)
            .inspect_err(|_| graphs.release(id))?;
        let part = Temporary {
            call,
            graph: Graph::owned(id, context, Needs::default()),
            kept: Vec::new(),
        };
        let [before, copy, behind] = three(call, &part.graph)?;
        let [fill, copied, take] = self.made(call)?;
        let mut kept = Vec::new();
        // The copy first: it is what the host may refuse, and then nothing has changed.
        for (node, made) in [(copy, copied), (before, fill), (behind, take)] {
            let arguments = calls::cuGraphNodeSetParams::In {
                node,
                kind: made.kind,
            };
            call.ask_with::<calls::cuGraphNodeSetParams::Call>(context, arguments, &made.blob)?;
            kept.extend(made.kept);
        }
        Ok(kept)
    }
}

/// The three nodes of such a graph, in order.
fn three(call: &Call, graph: &Graph) -> Result<[u32; 3], Code> {
    let before = |node: u32| {
        let arguments = calls::cuGraphNodeGetDependencies::In { node, first: 0 };
        let (_, blob) =
            call.ask_with::<calls::cuGraphNodeGetDependencies::Call>(graph.context, arguments, &[])?;
        let first = Dependency::read_from_prefix(&blob).ok();
        Ok::<_, Code>(first.map(|(dependency, _)| dependency.node))
    };
    let mut ordered = Vec::new();
    for node in nodes_of(call, graph)? {
        if let Some(copy) = before(node)?
            && let Some(first) = before(copy)?
        {
            ordered.push([first, copy, node]);
        }
    }
    ordered.pop().ok_or(result::INVALID_VALUE)
}

/// A graph, or a name for one, that the program does not see.
pub(super) struct Temporary<'a> {
    call: &'a Call,
    graph: Graph,
    /// What runs of it need.
    pub(super) kept: Vec<Kept>,
}

impl Temporary<'_> {
    /// A node that is a copy of it.
    pub(super) fn as_node(&mut self) -> Made {
        let child = ChildGraph {
            graph: self.graph.id,
            ownership: ChildGraph::CLONE,
        };
        Made {
            kept: std::mem::take(&mut self.kept),
            ..Made::of(kind::GRAPH, child.as_bytes())
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let arguments = calls::cuGraphDestroy::In { graph: self.graph.id };
        // It fails only where the session has ended.
        let _ = self
            .call
            .submit::<calls::cuGraphDestroy::Call>(self.graph.context, arguments);
        self.call.session.graphs.release(self.graph.id);
    }
}

/// A node is such a copy.
pub(super) fn remember(call: &Call, graph: &Graph, node: u32, copy: MemcpyNode) {
    lock(&graph.parts).push(node);
    lock(&call.session.graph_copies).insert(node, (graph.context, copy));
}

/// The copy that a node is told to be, if it is one of these.
pub(super) fn remembered(call: &Call, node: u32) -> Option<MemcpyNode> {
    lock(&call.session.graph_copies).get(&node).map(|(_, copy)| *copy)
}

/// A node is another copy now; its graph keeps what runs of it need.
pub(super) fn set(call: &Call, node: u32, copy: MemcpyNode, kept: Vec<Kept>) -> Result<(), Code> {
    if let Some((_, known)) = lock(&call.session.graph_copies).get_mut(&node) {
        *known = copy;
    }
    let graphs = call.session.graphs.all();
    let graph = graphs.iter().find(|graph| lock(&graph.parts).contains(&node));
    graph.ok_or(result::INVALID_VALUE)?.keep_for(node, kept);
    Ok(())
}

/// A graph has been copied: its nodes that are such copies are that there as well.
pub(super) fn remember_clones(call: &Call, original: &Graph, clone: &Graph) {
    let nodes = lock(&original.parts).clone();
    for node in nodes {
        let Some(copy) = remembered(call, node) else {
            continue;
        };
        let arguments = calls::cuGraphNodeFindInClone::In {
            node,
            graph: clone.id,
        };
        if let Ok(out) = call.ask::<calls::cuGraphNodeFindInClone::Call>(clone.context, arguments) {
            remember(call, clone, out.found, copy);
        }
    }
}
