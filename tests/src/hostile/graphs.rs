//! Graphs of fixtures: a node of each kind, and what calls about nodes do no harm with.
use anyhow::Result;
use vgpu_protocol::structs::BatchMemOp;
use vgpu_protocol::structs::graph::{
    BatchMemOpNode, ChildGraph, KernelNode, MemAllocNode, MemcpyNode, MemcpySide, MemsetNode, kind,
};
use zerocopy::IntoBytes;

use super::cases::Fixture;
use super::{PINNED_AT, Session, WINDOW};

/// The graph that was captured, its copy, and one that allocates.
const CAPTURED: u64 = 1;
pub const CLONE: u64 = 2;
const ALLOCATES: u64 = 3;
/// The names of the nodes, which the host gives in the order in which it is first asked for them.
const MEMSET: u64 = 1;
const KERNEL: u64 = 2;
const MEMCPY: u64 = 3;
const HOST: u64 = 4;
const EVENT_RECORD: u64 = 5;
const EVENT_WAIT: u64 = 6;
const CHILD: u64 = 7;
const ALLOC: u64 = 8;
const FREE: u64 = 9;
const WORDS: u64 = 10;

/// Adds a node of each kind to the captured graph.
pub fn make(fixture: &Fixture, session: &mut Session<'_>) -> Result<()> {
    let make = |session: &mut Session<'_>, call: &str, values: &[(&str, u64)], blob: &[u8]| {
        fixture.must(session, call, values, blob)
    };
    make(session, "cuGraphGetNodes", &[("graph", CAPTURED)], &[])?;
    make(
        session,
        "cuGraphClone",
        &[("graph", CAPTURED), ("clone", CLONE)],
        &[],
    )?;
    let copy = MemcpyNode {
        from: MemcpySide {
            memory: MemcpySide::DEVICE,
            device: fixture.device,
            pitch: 64,
            rows: 1,
            ..MemcpySide::default()
        },
        to: MemcpySide {
            memory: MemcpySide::HOST,
            host: WINDOW + PINNED_AT,
            pitch: 64,
            rows: 1,
            ..MemcpySide::default()
        },
        width: 64,
        height: 1,
        depth: 1,
        context: 1,
    };
    let kernel = KernelNode {
        function: 1,
        grid: [1; 3],
        block: [1; 3],
        shared: 0,
    };
    let alloc = MemAllocNode {
        bytes: 4096,
        device: 0,
        reserved: 0,
    };
    let add = |session: &mut Session<'_>, graph: u64, kind: u32, blob: &[u8]| {
        let values = [("graph", graph), ("kind", kind.into()), ("dependencies", 0)];
        make(session, "cuGraphAddNode", &values, blob)
    };
    add(session, CAPTURED, kind::KERNEL, kernel.as_bytes())?;
    add(session, CAPTURED, kind::MEMCPY, copy.as_bytes())?;
    add(session, CAPTURED, kind::HOST, 1u64.as_bytes())?;
    add(session, CAPTURED, kind::EVENT_RECORD, 1u32.as_bytes())?;
    add(session, CAPTURED, kind::WAIT_EVENT, 1u32.as_bytes())?;
    add(
        session,
        CAPTURED,
        kind::GRAPH,
        [CLONE as u32, ChildGraph::CLONE].as_bytes(),
    )?;
    make(session, "cuGraphCreate", &[("graph", ALLOCATES)], &[])?;
    add(session, ALLOCATES, kind::MEM_ALLOC, alloc.as_bytes())?;
    let allocated = session.results(0)[1];
    add(session, ALLOCATES, kind::MEM_FREE, allocated.as_bytes())?;
    let word = words(WINDOW + PINNED_AT, BatchMemOp::WRITE_32);
    add(session, CAPTURED, kind::BATCH_MEM_OP, &word)
}

/// A node with one operation on a word.
fn words(address: u64, operation: u32) -> Vec<u8> {
    let node = BatchMemOpNode {
        context: 1,
        flags: 0,
        reserved: 0,
    };
    let operation = BatchMemOp {
        operation,
        address,
        ..BatchMemOp::default()
    };
    [node.as_bytes(), operation.as_bytes()].concat()
}

/// The node that a call takes.
pub fn node(call: &str) -> u64 {
    match call {
        "cuGraphKernelNodeGetParams" | "cuGraphKernelNodeCopyAttributes" => KERNEL,
        "cuGraphKernelNodeGetAttribute" | "cuGraphKernelNodeSetAttribute" => KERNEL,
        "cuGraphMemcpyNodeGetParams" => MEMCPY,
        "cuGraphHostNodeGetParams" => HOST,
        "cuGraphNodeSetParams" | "cuGraphExecNodeSetParams" | "cuGraphEventRecordNodeGetEvent" => {
            EVENT_RECORD
        }
        "cuGraphEventWaitNodeGetEvent" => EVENT_WAIT,
        "cuGraphChildGraphNodeGetGraph" => CHILD,
        "cuGraphMemAllocNodeGetParams" => ALLOC,
        "cuGraphMemFreeNodeGetParams" => FREE,
        "cuGraphBatchMemOpNodeGetParams" => WORDS,
        _ => MEMSET,
    }
}

/// A kind that a call takes with its blob.
pub fn kind_of(call: &str) -> u64 {
    match call {
        "cuGraphAddNode" => kind::EMPTY.into(),
        _ => kind::EVENT_RECORD.into(),
    }
}

/// A blob that does no harm.
pub fn blob(call: &str) -> &'static [u8] {
    match call {
        "cuGraphNodeSetParams" | "cuGraphExecNodeSetParams" => &[1, 0, 0, 0],
        "cuGraphKernelNodeSetAttribute" => &[0; 64],
        _ => &[],
    }
}

/// What nodes may be made of that names what is not the guest's: `cuGraphAddNode`'s kind and blob.
pub fn strange(addresses: &[u64]) -> Vec<(u32, Vec<u8>)> {
    let mut all = Vec::new();
    for &address in addresses {
        let fill = |element: u32, width: u64, height: u64, pitch: u64| MemsetNode {
            to: address,
            pitch,
            value: 1,
            element,
            width,
            height,
            context: 1,
        };
        for node in [
            fill(4, 16, 1, 0),
            fill(1, 64, 2, u64::MAX / 2),
            fill(1, 64, u64::MAX, 64),
            fill(4, u64::MAX / 2, 1, 0),
        ] {
            all.push((kind::MEMSET, node.as_bytes().to_vec()));
        }
        let side = |memory: u64| MemcpySide {
            memory,
            host: address,
            device: address,
            pitch: 64,
            rows: 1,
            ..MemcpySide::default()
        };
        for memory in 0..6 {
            let copy = |y: u64, height: u64, depth: u64| MemcpyNode {
                from: MemcpySide { y, ..side(memory) },
                to: side(memory),
                width: 64,
                height,
                depth,
                context: 1,
            };
            for node in [copy(0, 1, 1), copy(1 << 60, 2, 1), copy(0, 1 << 40, 1 << 40)] {
                all.push((kind::MEMCPY, node.as_bytes().to_vec()));
            }
        }
        all.push((kind::MEM_FREE, address.as_bytes().to_vec()));
        // No word begins there.
        for operation in [0, 1, 2, 3, 4, 5, 7] {
            all.push((kind::BATCH_MEM_OP, words(address | 1, operation)));
        }
        all.push((kind::CONDITIONAL, [address, 1 << 32, 1].as_bytes().to_vec()));
    }
    for kind in 0..20 {
        all.push((kind, vec![0xff; 200]));
    }
    all
}
