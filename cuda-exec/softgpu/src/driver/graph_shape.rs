//! What comes after what in a graph, copies of graphs, and executable graphs that take over what others do.

use super::abi::{CUgraph, CUgraphExec, CUgraphNode, In, Out, api};
use super::capture::after;
use super::error::{self, Result};
use super::graph::{EdgeData, Graph, Node, PLAIN, Step, graph_of, list, steps};
use super::runtime::{Runtime, runtime};
use std::sync::Arc;

/// `CUgraphExecUpdateResult`: topology, a node's type, parameters have changed.
const TOPOLOGY_CHANGED: i32 = 2;
const TYPE_CHANGED: i32 = 3;
const NOT_SUPPORTED: i32 = 6;

/// `CUgraphExecUpdateResultInfo`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateInfo {
    outcome: i32,
    error_node: CUgraphNode,
    error_from: CUgraphNode,
}

fn edges(
    graph: CUgraph,
    from: In<CUgraphNode>,
    to: In<CUgraphNode>,
    data: In<EdgeData>,
    len: usize,
    adds: bool,
) -> Result {
    let graph = runtime()?.graphs.named(graph)?;
    let mut nodes = graph.nodes();
    let before = after(from, data, len)?;
    for (n, edge) in before.into_iter().enumerate() {
        if !nodes.contains_key(&edge.0) {
            return Err(error::INVALID_VALUE);
        }
        let node = nodes.get_mut(&to.at(n)?).ok_or(error::INVALID_VALUE)?;
        let known = node.after.iter().position(|(before, _)| *before == edge.0);
        match (known, adds) {
            (None, true) => node.after.push(edge),
            (Some(known), false) => drop(node.after.remove(known)),
            _ => return Err(error::INVALID_VALUE),
        }
    }
    Ok(())
}

/// The nodes before a node, or those behind it.
fn neighbours(
    node: CUgraphNode,
    nodes: Out<CUgraphNode>,
    data: Out<EdgeData>,
    len: Out<usize>,
    behind: bool,
) -> Result {
    let graph = graph_of(runtime()?, node)?;
    let all = graph.nodes();
    let found: Vec<(CUgraphNode, EdgeData)> = match behind {
        false => all.get(&node).ok_or(error::INVALID_VALUE)?.after.clone(),
        true => all
            .iter()
            .flat_map(|(later, n)| {
                n.after
                    .iter()
                    .filter(|(b, _)| *b == node)
                    .map(|(_, edge)| (*later, *edge))
            })
            .collect(),
    };
    if !nodes.0.is_null() && data.0.is_null() && found.iter().any(|(_, edge)| *edge != PLAIN) {
        return Err(error::LOSSY_QUERY);
    }
    let (names, edges): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    if !nodes.0.is_null() && !data.0.is_null() {
        let mut room = len.get()?;
        list(&edges, data, Out(&mut room))?;
    }
    list(&names, nodes, len)
}

/// Takes over what a graph's nodes do, if it is shaped as the one that the executable graph was made of.
fn update(runtime: &Runtime, exec: CUgraphExec, graph: CUgraph) -> Result<i32> {
    fn differ(old: &[Step], new: &[Step]) -> Option<i32> {
        if old.len() != new.len() {
            return Some(TOPOLOGY_CHANGED);
        }
        old.iter()
            .zip(new)
            .find_map(|(old, new)| match old.op.kind() == new.op.kind() {
                true => differ(&old.parts, &new.parts),
                false => Some(TYPE_CHANGED),
            })
    }
    fn take(old: &mut [Step], new: Vec<Step>) {
        for (old, new) in old.iter_mut().zip(new) {
            old.op = new.op;
            take(&mut old.parts, new.parts);
        }
    }
    fn shape(graph: &Graph) -> Vec<usize> {
        graph.nodes().values().map(|node| node.after.len()).collect()
    }
    let (exec, graph) = (runtime.graph_execs.named(exec)?, runtime.graphs.named(graph)?);
    let new = steps(&graph)?;
    let mut old = exec.steps.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(difference) = differ(&old, &new) {
        return Ok(difference);
    }
    if shape(&exec.graph) != shape(&graph) {
        return Ok(TOPOLOGY_CHANGED);
    }
    let old: &mut Vec<Step> = Arc::make_mut(&mut *old);
    take(old, new);
    Ok(0)
}

fn updated(exec: CUgraphExec, graph: CUgraph) -> Result<(i32, Result)> {
    let outcome = update(runtime()?, exec, graph)?;
    let result = if outcome == 0 {
        Ok(())
    } else {
        Err(error::GRAPH_EXEC_UPDATE_FAILURE)
    };
    Ok((outcome, result))
}

const PLAIN_EDGES: In<EdgeData> = In(std::ptr::null());

api! { SYMBOLS;
    fn cuGraphAddDependencies(graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, len: usize) {
        edges(graph, from, to, PLAIN_EDGES, len, true)
    }

    fn cuGraphAddDependencies_v2(
        graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, data: In<EdgeData>, len: usize,
    ) {
        edges(graph, from, to, data, len, true)
    }

    fn cuGraphRemoveDependencies(graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, len: usize) {
        edges(graph, from, to, PLAIN_EDGES, len, false)
    }

    fn cuGraphRemoveDependencies_v2(
        graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, data: In<EdgeData>, len: usize,
    ) {
        edges(graph, from, to, data, len, false)
    }

    fn cuGraphNodeGetDependencies(node: CUgraphNode, nodes: Out<CUgraphNode>, len: Out<usize>) {
        neighbours(node, nodes, Out(std::ptr::null_mut()), len, false)
    }

    fn cuGraphNodeGetDependencies_v2(
        node: CUgraphNode, nodes: Out<CUgraphNode>, data: Out<EdgeData>, len: Out<usize>,
    ) {
        neighbours(node, nodes, data, len, false)
    }

    fn cuGraphNodeGetDependentNodes(node: CUgraphNode, nodes: Out<CUgraphNode>, len: Out<usize>) {
        neighbours(node, nodes, Out(std::ptr::null_mut()), len, true)
    }

    fn cuGraphNodeGetDependentNodes_v2(
        node: CUgraphNode, nodes: Out<CUgraphNode>, data: Out<EdgeData>, len: Out<usize>,
    ) {
        neighbours(node, nodes, data, len, true)
    }

    fn cuGraphExecUpdate(exec: CUgraphExec, graph: CUgraph, error_node: Out<CUgraphNode>, told: Out<i32>) {
        let (outcome, result) = updated(exec, graph)?;
        error_node.set_if_wanted(0);
        // As an H200's library has it, where no node is to blame.
        told.set_if_wanted(if outcome == TOPOLOGY_CHANGED { NOT_SUPPORTED } else { outcome });
        result
    }

    fn cuGraphExecUpdate_v2(exec: CUgraphExec, graph: CUgraph, told: Out<UpdateInfo>) {
        let (outcome, result) = updated(exec, graph)?;
        told.set(UpdateInfo { outcome, error_node: 0, error_from: 0 })?;
        result
    }

    fn cuGraphClone(out: Out<CUgraph>, graph: CUgraph) {
        let runtime = runtime()?;
        let copy = runtime.graphs.named(graph)?.copy(runtime, false)?;
        out.set(copy.handle)?;
        runtime.graphs.add(copy.handle, copy);
        Ok(())
    }

    fn cuGraphNodeFindInClone(out: Out<CUgraphNode>, node: CUgraphNode, clone: CUgraph) {
        let clone = runtime()?.graphs.named(clone)?;
        let nodes = clone.nodes();
        let found = nodes.iter().find(|(_, copy): &(_, &Node)| copy.original == node);
        out.set(*found.ok_or(error::INVALID_VALUE)?.0)
    }
}
