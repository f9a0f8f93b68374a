//! What nodes of graphs are made of.
use super::context;
use super::graph::find_graph;
use super::graph_copy::{Described, Staging};
use super::launch::Params;
use crate::abi::{CUcontext, CUevent, CUfunction, CUgraph, CUhostFn, CUkernel, Host, HostCall, In};
use crate::host_functions::Kept;
use crate::session::Call;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use vgpu_protocol::limits::BATCH_MEM_OPS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{
    BatchMemOpNode, ChildGraph, KernelNode, MemAllocNode, MemcpyNode, MemcpySide, MemsetNode, kind,
};
use vgpu_protocol::structs::{Access, BatchMemOp, Location, PoolProps};
use zerocopy::IntoBytes;

/// A CUDA_KERNEL_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNodeParams {
    pub function: CUfunction,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub each: In<Host>,
    pub extra: In<usize>,
}

/// A CUDA_KERNEL_NODE_PARAMS_v2.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNodeParamsV2 {
    pub plain: KernelNodeParams,
    pub kernel: CUkernel,
    pub context: CUcontext,
}

/// A CUDA_MEMSET_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemsetNodeParams {
    pub to: u64,
    pub pitch: usize,
    pub value: c_uint,
    pub element: c_uint,
    pub width: usize,
    pub height: usize,
}

/// A CUDA_HOST_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HostNodeParams {
    pub function: Option<CUhostFn>,
    pub data: Host,
}

/// A CUDA_MEMCPY3D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy3d {
    pub from: Memcpy3dSide,
    pub to: Memcpy3dSide,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// One side of a [`Memcpy3d`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy3dSide {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    memory: c_uint,
    host: usize,
    device: u64,
    array: usize,
    reserved: usize,
    pitch: usize,
    rows: usize,
}

/// A CUDA_MEM_ALLOC_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemAllocNodeParams {
    pub pool: PoolProps,
    accesses: In<Access>,
    accesses_len: usize,
    pub bytes: usize,
    pub pointer: u64,
}

impl MemAllocNodeParams {
    /// What the host says of a node.
    pub fn of(device: u32, bytes: u64, pointer: u64) -> Self {
        Self {
            pool: PoolProps::new(Location::of_device(device), 0, 0, 0),
            accesses: In::null(),
            accesses_len: 0,
            bytes: bytes as usize,
            pointer,
        }
    }
}

/// A CUDA_BATCH_MEM_OP_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BatchMemOpNodeParams {
    pub context: CUcontext,
    pub count: c_uint,
    pub operations: In<BatchMemOp>,
    pub flags: c_uint,
}

/// A CUgraphNodeParams: its body holds the structure of its kind, which consists of words and of pairs of halves of one.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NodeParams {
    pub kind: c_uint,
    reserved: [c_int; 3],
    pub body: [u64; 29],
    end: u64,
}

const _: () = assert!(size_of::<NodeParams>() == 256 && size_of::<Memcpy3d>() == 200);
const _: () = assert!(size_of::<MemAllocNodeParams>() == 120);
const _: () = assert!(size_of::<KernelNodeParamsV2>() == 72 && size_of::<MemsetNodeParams>() == 40);

/// What a node is made of, as the wire has it.
pub struct Made {
    /// Its kind.
    pub kind: u32,
    /// The structure of its kind.
    pub blob: Vec<u8>,
    /// What runs of it need.
    pub kept: Vec<Kept>,
    /// What the program said, if it is a copy.
    pub(super) copy: Option<Box<Described>>,
}

impl Made {
    /// A node of that kind, with its structure.
    pub(super) fn of(kind: u32, blob: &[u8]) -> Self {
        Self {
            kind,
            blob: blob.to_vec(),
            kept: Vec::new(),
            copy: None,
        }
    }

    /// A kernel.
    pub fn kernel(call: &Call, params: &KernelNodeParamsV2) -> Result<Self, Code> {
        let KernelNodeParamsV2 {
            plain,
            kernel,
            context,
        } = *params;
        let function = match (plain.function, context) {
            (0, 0) => call.function(kernel)?,
            // A library's kernel is one of each context.
            (0, context) => {
                let kernel = call.session.kernels.get(kernel).ok_or(result::INVALID_HANDLE)?;
                kernel.function(call, &context::find(call, context)?)?
            }
            (function, _) => call.function(function)?,
        };
        let packed = Params::new(&function, plain.each, plain.extra)?;
        let (grid, block, shared) = (plain.grid, plain.block, plain.shared);
        let node = KernelNode {
            function: function.id,
            grid,
            block,
            shared,
        };
        let mut blob = node.as_bytes().to_vec();
        let start = blob.len();
        blob.resize(start + packed.len(&function), 0);
        packed.pack(&function, &mut blob[start..]);
        Ok(Self {
            blob,
            ..Self::of(kind::KERNEL, &[])
        })
    }

    /// A copy. What it copies from or to is read and written when the graph runs: if that is pageable memory, not by this node.
    pub fn memcpy(call: &Call, params: &Memcpy3d, context: CUcontext) -> Result<Self, Code> {
        let (width, height, depth) = (params.width as u64, params.height as u64, params.depth as u64);
        let (from, from_pageable) = params.from.wire(call, width, height, depth)?;
        let (to, to_pageable) = params.to.wire(call, width, height, depth)?;
        let node = MemcpyNode {
            from,
            to,
            width,
            height,
            depth,
            context: context_id(call, context)?,
        };
        let described = Described {
            node,
            pageable: [from_pageable, to_pageable],
        };
        Ok(Self {
            copy: Some(Box::new(described)),
            ..Self::of(kind::MEMCPY, node.as_bytes())
        })
    }

    /// A fill.
    pub fn memset(call: &Call, params: &MemsetNodeParams, context: CUcontext) -> Result<Self, Code> {
        let node = MemsetNode {
            to: params.to,
            pitch: params.pitch as u64,
            value: params.value,
            element: params.element,
            width: params.width as u64,
            height: params.height as u64,
            context: context_id(call, context)?,
        };
        Ok(Self::of(kind::MEMSET, node.as_bytes()))
    }

    /// A function of the program.
    pub fn host(call: &Call, params: &HostNodeParams) -> Result<Self, Code> {
        Self::function(call, HostCall::new(params.function, params.data)?, None)
    }

    /// A function, with what its argument points to if that is this library's.
    pub(super) fn function(
        call: &Call,
        function: HostCall,
        data: Option<Arc<Staging>>,
    ) -> Result<Self, Code> {
        let functions = &call.session.host_functions;
        let cookie = functions.add(call.session, function, true)?;
        Ok(Self {
            kept: vec![functions.keep(cookie, data.map(|data| data as _))],
            ..Self::of(kind::HOST, cookie.as_bytes())
        })
    }

    /// A graph: a copy of it or, as `ownership` says, itself.
    pub fn graph(call: &Call, graph: CUgraph, ownership: u32) -> Result<Self, Code> {
        let graph = find_graph(call, graph)?;
        let child = ChildGraph {
            graph: graph.id,
            ownership,
        };
        if ownership > ChildGraph::MOVE || ownership == ChildGraph::MOVE && !graph.is_owned() {
            return Err(result::NOT_SUPPORTED);
        }
        // One that moves takes along what it needs.
        let kept = match ownership {
            ChildGraph::MOVE => Vec::new(),
            _ => graph.needs().all(),
        };
        Ok(Self {
            kept,
            ..Self::of(kind::GRAPH, child.as_bytes())
        })
    }

    /// An allocation. Other devices than its own do not get at it.
    pub fn mem_alloc(call: &Call, params: &MemAllocNodeParams) -> Result<Self, Code> {
        let pool = &params.pool;
        if !pool.is_pinned() || pool.location.kind != Location::DEVICE || params.bytes == 0 {
            return Err(result::INVALID_VALUE);
        }
        super::device::gpu(call, pool.location.id)?;
        for n in 0..params.accesses_len {
            if params.accesses.at(n)?.location != pool.location {
                return Err(result::NOT_SUPPORTED);
            }
        }
        if pool.handle_types != 0 {
            return Err(result::NOT_SUPPORTED);
        }
        let node = MemAllocNode {
            bytes: params.bytes as u64,
            device: pool.location.id as u32,
            reserved: 0,
        };
        Ok(Self::of(kind::MEM_ALLOC, node.as_bytes()))
    }

    /// Operations on words of memory.
    pub fn batch_mem_op(call: &Call, params: &BatchMemOpNodeParams) -> Result<Self, Code> {
        let count = params.count as usize;
        if count > BATCH_MEM_OPS_MAX || params.flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let node = BatchMemOpNode {
            context: context_id(call, params.context)?,
            flags: params.flags,
            reserved: 0,
        };
        let mut made = Self::of(kind::BATCH_MEM_OP, node.as_bytes());
        for at in 0..count {
            let operation = params.operations.at(at)?;
            super::stream_memory::check(call, &operation)?;
            made.blob.extend_from_slice(operation.as_bytes());
        }
        Ok(made)
    }

    /// The end of an allocation.
    pub fn mem_free(pointer: u64) -> Self {
        Self::of(kind::MEM_FREE, pointer.as_bytes())
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self::of(kind::EMPTY, &[])
    }

    /// Records an event.
    pub fn event_record(call: &Call, event: CUevent) -> Result<Self, Code> {
        let entry = call.session.events.get(event).ok_or(result::INVALID_HANDLE)?;
        Ok(Self {
            kept: vec![Kept::Event(event)],
            ..Self::of(kind::EVENT_RECORD, entry.id.as_bytes())
        })
    }

    /// Waits for an event.
    pub fn event_wait(call: &Call, event: CUevent) -> Result<Self, Code> {
        let entry = call.session.events.get(event).ok_or(result::INVALID_HANDLE)?;
        Ok(Self::of(kind::WAIT_EVENT, entry.id.as_bytes()))
    }

    /// What a structure for any kind of node says. Conditional nodes are made elsewhere.
    pub fn any(call: &Call, params: &NodeParams) -> Result<Self, Code> {
        let words = &params.body;
        match params.kind {
            kind::KERNEL => {
                // SAFETY: numbers and pointers.
                let params: KernelNodeParamsV2 = unsafe { structure(words) };
                Self::kernel(call, &params)
            }
            // Flags and the context come first.
            kind::MEMCPY => {
                // SAFETY: numbers and pointers.
                let copy: Memcpy3d = unsafe { structure(&words[2..]) };
                Self::memcpy(call, &copy, words[1] as usize)
            }
            // The context comes last.
            kind::MEMSET => {
                // SAFETY: numbers.
                let fill: MemsetNodeParams = unsafe { structure(words) };
                Self::memset(call, &fill, words[5] as usize)
            }
            kind::HOST => {
                // SAFETY: a pointer, and a function, which is none if it is null.
                let params: HostNodeParams = unsafe { structure(words) };
                Self::host(call, &params)
            }
            kind::MEM_ALLOC => {
                // SAFETY: numbers and pointers.
                let params: MemAllocNodeParams = unsafe { structure(words) };
                Self::mem_alloc(call, &params)
            }
            kind::GRAPH => Self::graph(call, words[0] as usize, words[1] as u32),
            kind::EMPTY => Ok(Self::empty()),
            kind::WAIT_EVENT => Self::event_wait(call, words[0] as usize),
            kind::EVENT_RECORD => Self::event_record(call, words[0] as usize),
            kind::MEM_FREE => Ok(Self::mem_free(words[0])),
            kind::BATCH_MEM_OP => {
                // SAFETY: numbers and pointers.
                let params: BatchMemOpNodeParams = unsafe { structure(words) };
                Self::batch_mem_op(call, &params)
            }
            8 | 9 => Err(result::NOT_SUPPORTED),
            _ => Err(result::INVALID_VALUE),
        }
    }
}

/// The structure that a node's body begins with.
///
/// # Safety
/// It consists of what any words are a value of: numbers, and pointers, which the program vouches for.
unsafe fn structure<T: Copy>(words: &[u64]) -> T {
    assert!(size_of::<T>() <= size_of_val(words));
    // SAFETY: as long as the words are, aligned as they are, and the caller's.
    unsafe { words.as_ptr().cast::<T>().read() }
}

/// The context of a handle, or the current one.
fn context_id(call: &Call, context: CUcontext) -> Result<u64, Code> {
    Ok(match context {
        0 => call.context()?.id,
        context => context::find(call, context)?.id,
    }
    .into())
}

impl Memcpy3dSide {
    /// It as the wire has it, and whether it is pageable memory.
    fn wire(&self, call: &Call, width: u64, height: u64, depth: u64) -> Result<(MemcpySide, bool), Code> {
        let side = MemcpySide {
            x: self.x as u64,
            y: self.y as u64,
            z: self.z as u64,
            lod: self.lod as u64,
            memory: u64::from(self.memory),
            host: self.host as u64,
            device: self.device,
            array: 0,
            reserved: 0,
            pitch: self.pitch as u64,
            rows: self.rows as u64,
        };
        let session = call.session;
        match side.memory {
            MemcpySide::HOST | MemcpySide::DEVICE | MemcpySide::UNIFIED => {}
            MemcpySide::ARRAY => return Err(result::NOT_SUPPORTED),
            _ => return Err(result::INVALID_VALUE),
        }
        let (start, len) = side.range(width, height, depth).ok_or(result::INVALID_VALUE)?;
        let is_pageable = side.memory != MemcpySide::DEVICE
            && side.address() != 0
            && len != 0
            && !session.is_device(start)
            && !session.is_in_arena(start)
            && session.find_pinned(start, len).is_none();
        Ok((side, is_pageable))
    }

    fn of(side: &MemcpySide) -> Self {
        Self {
            x: side.x as usize,
            y: side.y as usize,
            z: side.z as usize,
            lod: side.lod as usize,
            memory: side.memory as c_uint,
            host: side.host as usize,
            device: side.device,
            array: 0,
            reserved: 0,
            pitch: side.pitch as usize,
            rows: side.rows as usize,
        }
    }
}

impl Memcpy3d {
    /// What the host says of a node.
    pub fn of(node: &MemcpyNode) -> Self {
        Self {
            from: Memcpy3dSide::of(&node.from),
            to: Memcpy3dSide::of(&node.to),
            width: node.width as usize,
            height: node.height as usize,
            depth: node.depth as usize,
        }
    }
}

impl MemsetNodeParams {
    /// What the host says of a node.
    pub fn of(node: &MemsetNode) -> Self {
        Self {
            to: node.to,
            pitch: node.pitch as usize,
            value: node.value,
            element: node.element,
            width: node.width as usize,
            height: node.height as usize,
        }
    }
}
