//! Graphs, as captures make them.

use super::abi::{CUgraph, CUgraphExec, CUgraphNode, CUstream, Out, api, stream_api};
use super::capture;
use super::error::Result;
use super::registry::new_handle;
use super::runtime::{Runtime, initialised, runtime};
use super::stream::{Marker, Stream, stream};
use super::work::Work;
use std::sync::{Arc, Mutex};

/// An operation and the nodes it comes after, which all stand before it.
#[derive(Clone)]
pub struct Node {
    pub work: Work,
    pub after: Vec<usize>,
}

/// A graph.
pub struct Graph {
    nodes: Arc<[Node]>,
}

/// A graph made ready to be launched.
pub struct GraphExec {
    nodes: Arc<[Node]>,
    /// The launch before: two of one graph never overlap.
    last: Mutex<Option<Marker>>,
}

impl GraphExec {
    /// Its nodes, each behind those it depends on.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn launch(self: &Arc<Self>, stream: &Arc<Stream>) -> Result {
        let work = Work::Graph(self.clone());
        if capture::add(stream, &work)? {
            return Ok(());
        }
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        let after = last.take().into_iter().collect();
        *last = Some(stream.submit(after, work)?);
        Ok(())
    }
}

/// The nodes (numbered from `base`) that no other comes after.
pub(crate) fn leaves(nodes: &[Node], base: usize) -> Vec<usize> {
    let mut is_leaf = vec![true; nodes.len()];
    for before in nodes.iter().flat_map(|node| &node.after) {
        if let Some(flag) = before.checked_sub(base).and_then(|n| is_leaf.get_mut(n)) {
            *flag = false;
        }
    }
    (0..nodes.len())
        .filter(|&n| is_leaf[n])
        .map(|n| n + base)
        .collect()
}

/// Makes a graph of a capture's nodes.
pub(crate) fn add(runtime: &Runtime, nodes: Vec<Node>) -> CUgraph {
    let handle = new_handle();
    runtime
        .graphs
        .add(handle, Arc::new(Graph { nodes: nodes.into() }));
    handle
}

fn instantiate(out: Out<CUgraphExec>, graph: CUgraph) -> Result {
    let runtime = runtime()?;
    let graph = runtime.graphs.get(graph)?;
    let handle = new_handle();
    out.set(handle)?;
    let exec = GraphExec {
        nodes: graph.nodes.clone(),
        last: Mutex::default(),
    };
    runtime.graph_execs.add(handle, Arc::new(exec));
    Ok(())
}

api! { SYMBOLS;
    fn cuGraphInstantiateWithFlags(out: Out<CUgraphExec>, graph: CUgraph, _flags: u64) {
        instantiate(out, graph)
    }

    fn cuGraphGetNodes(graph: CUgraph, nodes: Out<CUgraphNode>, count: Out<usize>) {
        let graph = runtime()?.graphs.get(graph)?;
        if nodes.0.is_null() {
            return count.set(graph.nodes.len());
        }
        let wanted = count.get()?.min(graph.nodes.len());
        for n in 0..wanted {
            // Nodes are only counted, never named in another call, so any distinct value does.
            Out(nodes.0.wrapping_add(n)).set(n as u64 + 1)?;
        }
        count.set(wanted)
    }

    fn cuGraphExecDestroy(exec: CUgraphExec) {
        let runtime = initialised()?;
        runtime.graph_execs.remove(exec)?;
        runtime.check()
    }

    fn cuGraphDestroy(graph: CUgraph) {
        let runtime = initialised()?;
        runtime.graphs.remove(graph)?;
        runtime.check()
    }
}

stream_api! { STREAM_SYMBOLS, default;
    fn cuGraphLaunch | cuGraphLaunch_ptsz(exec: CUgraphExec, handle: CUstream) {
        let stream = stream(handle, default)?;
        runtime()?.graph_execs.get(exec)?.launch(&stream)
    }

    fn cuGraphUpload | cuGraphUpload_ptsz(exec: CUgraphExec, handle: CUstream) {
        stream(handle, default)?;
        runtime()?.graph_execs.get(exec).map(|_| ())
    }
}
