//! A graph as text for Graphviz.
use super::cuda;
use super::graph::{edges_of, find_graph, nodes_of, type_of};
use crate::abi::{CUgraph, Text};
use crate::session::Call;
use std::collections::HashMap;
use std::ffi::{OsStr, c_uint};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use vgpu_protocol::result;
use vgpu_protocol::structs::graph::EdgeData;

/// What a node's kind is called.
fn name(kind: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "KERNEL",
        "MEMCPY",
        "MEMSET",
        "HOST",
        "GRAPH",
        "EMPTY",
        "WAIT_EVENT",
        "EVENT_RECORD",
        "EXT_SEMAS_SIGNAL",
        "EXT_SEMAS_WAIT",
        "MEM_ALLOC",
        "MEM_FREE",
        "BATCH_MEM_OP",
        "CONDITIONAL",
    ];
    NAMES.get(kind as usize).copied().unwrap_or("NODE")
}

/// The text: nodes by their number in the graph and their kind, then the edges.
fn dot(kinds: &[u32], edges: &[(usize, usize, EdgeData)]) -> String {
    let mut text = String::from("digraph dot {\n");
    for (number, kind) in kinds.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  node_{number} [shape=box label=\"{number}\\n{}\"];",
            name(*kind)
        );
    }
    for (from, to, data) in edges {
        let style = if data.kind == 0 { "" } else { " [style=dashed]" };
        let _ = writeln!(text, "  node_{from} -> node_{to}{style};");
    }
    text.push_str("}\n");
    text
}

cuda! {
    fn cuGraphDebugDotPrint(graph: CUgraph, path: Text, _flags: c_uint) {
        let call = Call::enter()?;
        let path = path.get()?;
        let graph = find_graph(&call, graph)?;
        let nodes = nodes_of(&call, &graph)?;
        let kinds: Result<Vec<_>, _> = nodes.iter().map(|&node| type_of(&call, node)).collect();
        let numbers: HashMap<u32, usize> = nodes.iter().enumerate().map(|(number, &node)| (node, number)).collect();
        let edges = edges_of(&call, &graph)?;
        let edges: Vec<_> = edges.iter()
            .filter_map(|edge| Some((*numbers.get(&edge.from)?, *numbers.get(&edge.to)?, edge.data)))
            .collect();
        // It is the program's file, in its own file system.
        std::fs::write(OsStr::from_bytes(path.to_bytes()), dot(&kinds?, &edges)).map_err(|_| result::OPERATING_SYSTEM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_and_every_edge_is_in_the_text() {
        let programmatic = EdgeData {
            kind: 1,
            ..EdgeData::default()
        };
        let text = dot(&[0, 2, 99], &[(0, 1, EdgeData::default()), (1, 2, programmatic)]);
        for line in [
            "node_0 [shape=box label=\"0\\nKERNEL\"];",
            "1\\nMEMSET",
            "2\\nNODE",
            "node_0 -> node_1;",
            "node_1 -> node_2 [style=dashed];",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
