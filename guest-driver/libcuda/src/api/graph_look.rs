//! What nodes of graphs are made of, as a program asks for it.
use super::cuda;
use super::graph_node::{
    BatchMemOpNodeParams, HostNodeParams, KernelNodeParams, KernelNodeParamsV2, MemAllocNodeParams, Memcpy3d,
    MemsetNodeParams,
};
use crate::abi::{CUdeviceptr, CUevent, CUgraphNode, Host, In, Out};
use crate::graphs::{Params, node_id};
use crate::lock;
use crate::session::Call;
use std::ffi::{c_int, c_uint};
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::BatchMemOp;
use vgpu_protocol::structs::graph::{BatchMemOpNode, KernelNode, MemcpyNode, MemsetNode};
use zerocopy::{FromBytes, IntoBytes};

/// What the host says that a kernel's node is made of. The parameters are where the program may look at them as long as the
/// node is there and they are these.
fn kernel(call: &Call, node: CUgraphNode) -> Result<KernelNodeParams, Code> {
    let node = node_id(node)?;
    let arguments = calls::cuGraphKernelNodeGetParams::In { node };
    let (out, blob) =
        call.ask_with::<calls::cuGraphKernelNodeGetParams::Call>(call.anywhere(), arguments, &[])?;
    let (told, packed) = KernelNode::read_from_prefix(&blob).map_err(|_| result::UNKNOWN)?;
    let function = call
        .session
        .functions
        .by_id(told.function)
        .ok_or(result::INVALID_VALUE)?;
    let graph = call
        .session
        .graphs
        .by_id(out.graph)
        .ok_or(result::INVALID_VALUE)?;
    let mut params = lock(&graph.params);
    if params.get(&node).is_none_or(|known| !known.are(packed)) {
        params.insert(node, Params::new(packed, &function.params));
    }
    let each = params.get(&node).map_or(0, Params::each);
    Ok(KernelNodeParams {
        function: function.handle(),
        grid: told.grid,
        block: told.block,
        shared: told.shared,
        each: In::at_address(each),
        extra: In::null(),
    })
}

cuda! {
    fn cuGraphKernelNodeGetParams(node: CUgraphNode, place: Out<KernelNodeParams>) {
        let call = Call::enter()?;
        place.check()?;
        place.set(kernel(&call, node)?)
    }

    fn cuGraphKernelNodeGetParams_v2(node: CUgraphNode, place: Out<KernelNodeParamsV2>) {
        let call = Call::enter()?;
        place.check()?;
        let plain = kernel(&call, node)?;
        let function = call.session.functions.get(plain.function).ok_or(result::INVALID_VALUE)?;
        let context = call.session.contexts.by_id(function.context).map_or(0, |context| context.handle());
        // By this alone NVIDIA's runtime finds which of its kernels it is.
        let kernel = function.kernel(call.session).unwrap_or(0);
        place.set(KernelNodeParamsV2 { plain, kernel, context })
    }

    fn cuGraphMemcpyNodeGetParams(node: CUgraphNode, place: Out<Memcpy3d>) {
        let call = Call::enter()?;
        place.check()?;
        let node = node_id(node)?;
        if let Some(copy) = super::graph_copy::remembered(&call, node) {
            return place.set(Memcpy3d::of(&copy));
        }
        let arguments = calls::cuGraphMemcpyNodeGetParams::In { node };
        let (_, blob) = call.ask_with::<calls::cuGraphMemcpyNodeGetParams::Call>(call.anywhere(), arguments, &[])?;
        place.set(Memcpy3d::of(&MemcpyNode::read_from_bytes(&blob).map_err(|_| result::UNKNOWN)?))
    }

    fn cuGraphMemsetNodeGetParams(node: CUgraphNode, place: Out<MemsetNodeParams>) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuGraphMemsetNodeGetParams::In { node: node_id(node)? };
        let (_, blob) = call.ask_with::<calls::cuGraphMemsetNodeGetParams::Call>(call.anywhere(), arguments, &[])?;
        place.set(MemsetNodeParams::of(&MemsetNode::read_from_bytes(&blob).map_err(|_| result::UNKNOWN)?))
    }

    fn cuGraphBatchMemOpNodeGetParams(node: CUgraphNode, place: Out<BatchMemOpNodeParams>) {
        let call = Call::enter()?;
        place.check()?;
        let node = node_id(node)?;
        let arguments = calls::cuGraphBatchMemOpNodeGetParams::In { node };
        let (out, blob) =
            call.ask_with::<calls::cuGraphBatchMemOpNodeGetParams::Call>(call.anywhere(), arguments, &[])?;
        let (told, operations) = BatchMemOpNode::read_from_prefix(&blob).map_err(|_| result::UNKNOWN)?;
        let graph = call.session.graphs.by_id(out.graph).ok_or(result::INVALID_VALUE)?;
        let context = u32::try_from(told.context).ok().and_then(|id| call.session.contexts.by_id(id));
        // The program may look at them as long as the node is there and they are these.
        let mut params = lock(&graph.params);
        if params.get(&node).is_none_or(|known| !known.are(operations)) {
            params.insert(node, Params::new(operations, &[]));
        }
        place.set(BatchMemOpNodeParams {
            context: context.map_or(0, |context| context.handle()),
            count: (operations.len() / size_of::<BatchMemOp>()) as c_uint,
            operations: In::at_address(params.get(&node).map_or(0, Params::addr)),
            flags: told.flags,
        })
    }

    fn cuGraphHostNodeGetParams(node: CUgraphNode, place: Out<HostNodeParams>) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuGraphHostNodeGetParams::In { node: node_id(node)? };
        let out = call.ask::<calls::cuGraphHostNodeGetParams::Call>(call.anywhere(), arguments)?;
        let function = call.session.host_functions.find(out.cookie).and_then(|function| function.parts());
        let (function, data) = function.ok_or(result::INVALID_VALUE)?;
        // SAFETY: the program's own argument, which is only given back to it.
        let data = unsafe { Host::new(data) };
        place.set(HostNodeParams { function: Some(function), data })
    }

    fn cuGraphMemAllocNodeGetParams(node: CUgraphNode, place: Out<MemAllocNodeParams>) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuGraphMemAllocNodeGetParams::In { node: node_id(node)? };
        let out = call.ask::<calls::cuGraphMemAllocNodeGetParams::Call>(call.anywhere(), arguments)?;
        place.set(MemAllocNodeParams::of(out.device, out.bytes, out.pointer))
    }

    fn cuGraphMemFreeNodeGetParams(node: CUgraphNode, place: Out<CUdeviceptr>) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuGraphMemFreeNodeGetParams::In { node: node_id(node)? };
        place.set(call.ask::<calls::cuGraphMemFreeNodeGetParams::Call>(call.anywhere(), arguments)?.pointer)
    }

    fn cuGraphEventRecordNodeGetEvent(node: CUgraphNode, place: Out<CUevent>) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuGraphEventRecordNodeGetEvent::In { node: node_id(node)? };
        let out = call.ask::<calls::cuGraphEventRecordNodeGetEvent::Call>(call.anywhere(), arguments)?;
        place.set(call.session.events.by_id(out.event).ok_or(result::INVALID_VALUE)?.handle())
    }

    fn cuGraphEventWaitNodeGetEvent(node: CUgraphNode, place: Out<CUevent>) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuGraphEventWaitNodeGetEvent::In { node: node_id(node)? };
        let out = call.ask::<calls::cuGraphEventWaitNodeGetEvent::Call>(call.anywhere(), arguments)?;
        place.set(call.session.events.by_id(out.event).ok_or(result::INVALID_VALUE)?.handle())
    }

    fn cuGraphKernelNodeCopyAttributes(to: CUgraphNode, from: CUgraphNode) {
        let call = Call::enter()?;
        let arguments = calls::cuGraphKernelNodeCopyAttributes::In { node: node_id(to)?, source: node_id(from)? };
        call.ask::<calls::cuGraphKernelNodeCopyAttributes::Call>(call.anywhere(), arguments).map(drop)
    }

    fn cuGraphKernelNodeGetAttribute(node: CUgraphNode, attribute: c_int, value: Out<[u64; 8]>) {
        let call = Call::enter()?;
        value.check()?;
        let arguments = calls::cuGraphKernelNodeGetAttribute::In { node: node_id(node)?, attribute };
        let asked = call.ask_with::<calls::cuGraphKernelNodeGetAttribute::Call>(call.anywhere(), arguments, &[])?;
        value.set(<[u64; 8]>::read_from_bytes(&asked.1).map_err(|_| result::UNKNOWN)?)
    }

    fn cuGraphKernelNodeSetAttribute(node: CUgraphNode, attribute: c_int, value: In<[u64; 8]>) {
        let call = Call::enter()?;
        let value = value.get()?;
        let arguments = calls::cuGraphKernelNodeSetAttribute::In { node: node_id(node)?, attribute };
        let blob = value.as_bytes();
        call.ask_with::<calls::cuGraphKernelNodeSetAttribute::Call>(call.anywhere(), arguments, blob).map(drop)
    }
}
