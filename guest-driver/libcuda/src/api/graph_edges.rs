//! What depends on what in a graph.
use super::cuda;
use super::graph::{all, edges_wanted, find_graph, list};
use crate::abi::{CUgraph, CUgraphNode, In, Out};
use crate::graphs::{Graph, node_handle, node_id};
use crate::session::Call;
use vgpu_protocol::calls;
use vgpu_protocol::limits::RECORD_LEN_MAX;
use vgpu_protocol::result::Code;
use vgpu_protocol::structs::graph::{Dependency, Edge, EdgeData};
use zerocopy::IntoBytes;

/// Edges that one record holds beside a node.
pub(super) const EDGES_PER_RECORD: usize = RECORD_LEN_MAX as usize / 4 / size_of::<Edge>();

/// Adds edges to a graph, or takes them out.
pub(super) fn change_edges(call: &Call, graph: &Graph, edges: &[Edge], adds: bool) -> Result<(), Code> {
    let id = graph.id;
    for part in edges.chunks(EDGES_PER_RECORD) {
        let blob = part.as_bytes();
        if adds {
            let arguments = calls::cuGraphAddDependencies::In { graph: id };
            call.ask_with::<calls::cuGraphAddDependencies::Call>(graph.context, arguments, blob)?;
        } else {
            let arguments = calls::cuGraphRemoveDependencies::In { graph: id };
            call.ask_with::<calls::cuGraphRemoveDependencies::Call>(graph.context, arguments, blob)?;
        }
    }
    Ok(())
}

fn edges(
    graph: CUgraph,
    from: In<CUgraphNode>,
    to: In<CUgraphNode>,
    data: In<EdgeData>,
    len: usize,
    adds: bool,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let graph = find_graph(&call, graph)?;
    let edge = |n| {
        let data = if data.is_null() {
            EdgeData::default()
        } else {
            data.at(n)?
        };
        Ok(Edge {
            from: node_id(from.at(n)?)?,
            to: node_id(to.at(n)?)?,
            data,
        })
    };
    let edges: Result<Vec<_>, Code> = (0..len).map(edge).collect();
    change_edges(&call, &graph, &edges?, adds)
}

/// The nodes before a node, or behind it.
fn neighbours(
    node: CUgraphNode,
    nodes: Out<CUgraphNode>,
    edges: Out<EdgeData>,
    len: Out<usize>,
    behind: bool,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let node = node_id(node)?;
    let room = len.get()?;
    let context = call.anywhere();
    let found: Vec<Dependency> = all(|first| {
        if behind {
            let arguments = calls::cuGraphNodeGetDependentNodes::In { node, first };
            let (out, blob) =
                call.ask_with::<calls::cuGraphNodeGetDependentNodes::Call>(context, arguments, &[])?;
            return Ok((out.total, blob));
        }
        let arguments = calls::cuGraphNodeGetDependencies::In { node, first };
        let (out, blob) =
            call.ask_with::<calls::cuGraphNodeGetDependencies::Call>(context, arguments, &[])?;
        Ok((out.total, blob))
    })?;
    if nodes.is_null() {
        return len.set(found.len());
    }
    edges_wanted(found.iter().map(|one| one.data), !edges.is_null())?;
    if !edges.is_null() {
        list(&found.iter().map(|one| one.data).collect::<Vec<_>>(), edges, len)?;
        len.set(room)?;
    }
    list(
        &found.iter().map(|one| node_handle(one.node)).collect::<Vec<_>>(),
        nodes,
        len,
    )
}

cuda! {
    fn cuGraphAddDependencies(graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, len: usize) {
        edges(graph, from, to, In::null(), len, true)
    }

    fn cuGraphAddDependencies_v2(
        graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, data: In<EdgeData>, len: usize,
    ) {
        edges(graph, from, to, data, len, true)
    }

    fn cuGraphRemoveDependencies(graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, len: usize) {
        edges(graph, from, to, In::null(), len, false)
    }

    fn cuGraphRemoveDependencies_v2(
        graph: CUgraph, from: In<CUgraphNode>, to: In<CUgraphNode>, data: In<EdgeData>, len: usize,
    ) {
        edges(graph, from, to, data, len, false)
    }

    fn cuGraphNodeGetDependencies(node: CUgraphNode, nodes: Out<CUgraphNode>, len: Out<usize>) {
        neighbours(node, nodes, Out::none(), len, false)
    }

    fn cuGraphNodeGetDependencies_v2(
        node: CUgraphNode, nodes: Out<CUgraphNode>, edges: Out<EdgeData>, len: Out<usize>,
    ) {
        neighbours(node, nodes, edges, len, false)
    }

    fn cuGraphNodeGetDependentNodes(node: CUgraphNode, nodes: Out<CUgraphNode>, len: Out<usize>) {
        neighbours(node, nodes, Out::none(), len, true)
    }

    fn cuGraphNodeGetDependentNodes_v2(
        node: CUgraphNode, nodes: Out<CUgraphNode>, edges: Out<EdgeData>, len: Out<usize>,
    ) {
        neighbours(node, nodes, edges, len, true)
    }
}
