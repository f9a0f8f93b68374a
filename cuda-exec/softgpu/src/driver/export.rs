//! Finding functions by name.

use super::abi::{Out, Symbol, Text, api};
use super::error::{self, Result};
use super::{
    array, array_copies, capture, checkpoint, context, device, event, graph, graph_node, graph_shape, launch,
    link, memory, module, occupancy, pool, resource, rows, runtime, stream, stream_memory, tensor_map,
    texture, transfer, virtual_memory,
};
use std::ffi::c_void;

const TABLES: &[&[Symbol]] = &[
    error::SYMBOLS,
    runtime::SYMBOLS,
    device::SYMBOLS,
    context::SYMBOLS,
    memory::SYMBOLS,
    pool::SYMBOLS,
    pool::STREAM_SYMBOLS,
    resource::SYMBOLS,
    rows::SYMBOLS,
    rows::BYTES,
    rows::HALVES,
    rows::WORDS,
    virtual_memory::SYMBOLS,
    module::SYMBOLS,
    occupancy::SYMBOLS,
    launch::SYMBOLS,
    link::SYMBOLS,
    array::SYMBOLS,
    array_copies::SYMBOLS,
    texture::SYMBOLS,
    transfer::SYMBOLS,
    stream::SYMBOLS,
    stream::STREAM_SYMBOLS,
    stream_memory::SYMBOLS,
    tensor_map::SYMBOLS,
    event::SYMBOLS,
    event::STREAM_SYMBOLS,
    capture::SYMBOLS,
    checkpoint::SYMBOLS,
    capture::STREAM_SYMBOLS,
    graph::SYMBOLS,
    graph::STREAM_SYMBOLS,
    graph_node::SYMBOLS,
    graph_shape::SYMBOLS,
    SYMBOLS,
];

/// Versioned names of functions whose plain name means an older or newer form depending on the version
/// asked for: name, first CUDA version that means it.
const SINCE: &[(&str, i32)] = &[
    ("cuCtxCreate_v3", 11040),
    ("cuCtxCreate_v4", 12050),
    ("cuCtxGetDevice_v2", 13000),
    ("cuCtxSynchronize_v2", 13000),
    ("cuDeviceGetUuid_v2", 11040),
    ("cuEventElapsedTime_v2", 12080),
    ("cuGraphAddDependencies_v2", 12030),
    ("cuGraphAddNode_v2", 12030),
    ("cuGraphExecUpdate_v2", 12000),
    ("cuGraphGetEdges_v2", 12030),
    ("cuGraphInstantiate_v2", 11000),
    ("cuGraphNodeGetDependencies_v2", 12030),
    ("cuGraphNodeGetDependentNodes_v2", 12030),
    ("cuGraphRemoveDependencies_v2", 12030),
    ("cuStreamGetCaptureInfo_v2", 11030),
    ("cuStreamGetCaptureInfo_v3", 12030),
    ("cuStreamUpdateCaptureDependencies_v2", 12030),
];

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`
const PER_THREAD: u64 = 2;

/// The address behind an exported name.
pub(crate) fn exported(name: &str) -> Option<*const ()> {
    TABLES
        .iter()
        .copied()
        .flatten()
        .find(|s| s.name == name)
        .map(|s| s.address)
}

/// The newest form of a function that a program of that CUDA version may mean by its plain name.
fn lookup(name: &str, version: i32, per_thread: bool) -> Option<*const ()> {
    for suffix in ["_v4", "_v3", "_v2", ""] {
        let full = format!("{name}{suffix}");
        let since = SINCE.iter().find(|(n, _)| *n == full).map_or(0, |(_, v)| *v);
        if since > version {
            continue;
        }
        if per_thread {
            let variants = [format!("{full}_ptsz"), format!("{full}_ptds")];
            if let Some(address) = variants.iter().find_map(|v| exported(v)) {
                return Some(address);
            }
        }
        if let Some(address) = exported(&full) {
            return Some(address);
        }
    }
    None
}

fn get(name: Text, out: Out<*const ()>, version: i32, flags: u64, status: Out<i32>) -> Result {
    let found = lookup(&name.get()?, version, flags & PER_THREAD != 0);
    out.set(found.unwrap_or(std::ptr::null()))?;
    // CU_GET_PROC_ADDRESS_SUCCESS, _SYMBOL_NOT_FOUND
    status.set_if_wanted(if found.is_some() { 0 } else { 1 });
    found.map(|_| ()).ok_or(error::NOT_FOUND)
}

api! { SYMBOLS;
    fn cuGetProcAddress(name: Text, out: Out<*const ()>, version: i32, flags: u64) {
        get(name, out, version, flags, Out(std::ptr::null_mut()))
    }

    fn cuGetProcAddress_v2(name: Text, out: Out<*const ()>, version: i32, flags: u64, status: Out<i32>) {
        get(name, out, version, flags, status)
    }

    fn cuGetExportTable(table: Out<*const c_void>, _id: *const c_void) {
        // Tables of NVIDIA's own libraries, which this is not for.
        table.set(std::ptr::null())?;
        Err(error::NOT_FOUND)
    }
}
