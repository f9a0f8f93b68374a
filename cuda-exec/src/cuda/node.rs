//! Nodes of graphs as libcuda describes them.
use super::{Grid, HostFn, Raw, with_packed};
use std::ffi::c_void;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{MemcpyNode, MemcpySide, MemsetNode, kind};
use vgpu_protocol::structs::{BatchMemOp, Location};

/// A CUgraphNodeParams: its body holds one of CUDA's structures, which all consist of words and of pairs of halves of one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NodeParams {
    kind: u32,
    reserved: [u32; 3],
    body: [u64; 29],
    end: u64,
}

/// Two numbers in one word of a structure.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

impl NodeParams {
    fn new<const N: usize>(kind: u32, words: [u64; N]) -> Self {
        let mut params = Self {
            kind,
            ..Self::default()
        };
        params.body[..N].copy_from_slice(&words);
        params
    }

    /// A kernel with its first `len` bytes of packed parameters, for as long as `then` lasts.
    pub fn kernel(
        function: Raw,
        grid: Grid,
        params: &[u8],
        len: usize,
        then: impl FnOnce(Self) -> Result<(), Code>,
    ) -> Result<(), Code> {
        let ([gx, gy, gz], [bx, by, bz]) = (grid.blocks, grid.threads);
        with_packed(params, len, |extra| {
            let words = [
                function as u64,
                pair(gx, gy),
                pair(gz, bx),
                pair(by, bz),
                u64::from(grid.shared),
                0,
                extra as u64,
                0,
                0,
            ];
            then(Self::new(kind::KERNEL, words))
        })
    }

    /// A copy.
    pub fn memcpy(node: &MemcpyNode, context: Raw) -> Self {
        let mut words = [0; 27];
        words[1] = context as u64;
        words[2..13].copy_from_slice(&side_words(&node.from));
        words[13..24].copy_from_slice(&side_words(&node.to));
        words[24..].copy_from_slice(&[node.width, node.height, node.depth]);
        Self::new(kind::MEMCPY, words)
    }

    /// A fill.
    pub fn memset(node: &MemsetNode, context: Raw) -> Self {
        let element = pair(node.value, node.element);
        let words = [
            node.to,
            node.pitch,
            element,
            node.width,
            node.height,
            context as u64,
        ];
        Self::new(kind::MEMSET, words)
    }

    /// A function.
    pub fn host(function: HostFn, user: *mut c_void) -> Self {
        Self::new(kind::HOST, [function as usize as u64, user as u64])
    }

    /// A graph: a copy of it or, as `ownership` says, itself.
    pub fn graph(graph: Raw, ownership: u32) -> Self {
        Self::new(kind::GRAPH, [graph as u64, ownership.into()])
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self::new(kind::EMPTY, [])
    }

    /// Records an event, or waits for it.
    pub fn event(kind: u32, event: Raw) -> Self {
        Self::new(kind, [event as u64])
    }

    /// Graphs that run as a value says. libcuda says which they are.
    pub fn conditional(value: u64, kind_of: u32, size: u32, context: Raw) -> Self {
        Self::new(kind::CONDITIONAL, [value, pair(kind_of, size), 0, context as u64])
    }

    /// An allocation of a device's memory.
    pub fn alloc(bytes: u64, device: i32) -> Self {
        let mut words = [0; 15];
        // CU_MEM_ALLOCATION_TYPE_PINNED, no handles.
        words[0] = pair(1, 0);
        words[1] = pair(Location::DEVICE, device as u32);
        words[13] = bytes;
        Self::new(kind::MEM_ALLOC, words)
    }

    /// The address of an allocation whose node was made.
    pub fn pointer(&self) -> u64 {
        self.body[14]
    }

    /// The end of an allocation.
    pub fn free(pointer: u64) -> Self {
        Self::new(kind::MEM_FREE, [pointer])
    }

    /// Operations on words of memory, which libcuda copies.
    ///
    /// # Safety
    /// The result is used only as long as the operations are there.
    pub unsafe fn batch_mem_op(operations: &mut [BatchMemOp], flags: u32, context: Raw) -> Self {
        let words = [
            context as u64,
            operations.len() as u64,
            operations.as_mut_ptr() as u64,
            u64::from(flags),
        ];
        Self::new(kind::BATCH_MEM_OP, words)
    }

    /// The graphs of a conditional node that was made.
    ///
    /// # Safety
    /// It was made of these parameters, with that many graphs.
    pub unsafe fn bodies(&self, size: usize) -> Vec<Raw> {
        let graphs = self.body[2] as *const Raw;
        match graphs.is_null() {
            true => Vec::new(),
            // SAFETY: libcuda's array of as many graphs as were asked for.
            false => unsafe { std::slice::from_raw_parts(graphs, size) }.to_vec(),
        }
    }
}

/// The words of one side of a CUDA_MEMCPY3D; arrays' handles are none.
fn side_words(side: &MemcpySide) -> [u64; 11] {
    [
        side.x,
        side.y,
        side.z,
        side.lod,
        side.memory,
        side.host,
        side.device,
        0,
        0,
        side.pitch,
        side.rows,
    ]
}

/// A CUDA_MEMCPY3D as words.
pub type Memcpy3d = [u64; 25];

/// What the words of a CUDA_MEMCPY3D say, if neither side is an array.
pub fn memcpy_of(words: &Memcpy3d) -> Result<MemcpyNode, Code> {
    let side = |at: usize| -> Result<MemcpySide, Code> {
        let w = &words[at..at + 11];
        // The word's other half is padding.
        let memory = w[4] & 0xffff_ffff;
        if memory == MemcpySide::ARRAY {
            return Err(result::NOT_SUPPORTED);
        }
        let (host, device) = if memory == MemcpySide::HOST {
            (w[5], 0)
        } else {
            (0, w[6])
        };
        let (array, reserved) = (0, 0);
        Ok(MemcpySide {
            x: w[0],
            y: w[1],
            z: w[2],
            lod: w[3],
            memory,
            host,
            device,
            array,
            reserved,
            pitch: w[9],
            rows: w[10],
        })
    };
    Ok(MemcpyNode {
        from: side(0)?,
        to: side(11)?,
        width: words[22],
        height: words[23],
        depth: words[24],
        context: 0,
    })
}

/// A CUDA_MEM_ALLOC_NODE_PARAMS as words.
pub type AllocParams = [u64; 15];

/// Bytes, device and address of an allocation.
pub fn alloc_of(words: &AllocParams) -> (u64, i32, u64) {
    (words[13], (words[1] >> 32) as i32, words[14])
}

/// A CUDA_KERNEL_NODE_PARAMS_v2.
#[derive(Debug)]
#[repr(C)]
pub struct KernelParams {
    pub function: Raw,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub each: *const *const u8,
    pub extra: *const usize,
    pub kernel: Raw,
    pub context: Raw,
}

impl Default for KernelParams {
    fn default() -> Self {
        Self {
            function: 0,
            grid: [0; 3],
            block: [0; 3],
            shared: 0,
            each: std::ptr::null(),
            extra: std::ptr::null(),
            kernel: 0,
            context: 0,
        }
    }
}

impl KernelParams {
    /// The packed parameters of a kernel with these.
    ///
    /// # Safety
    /// libcuda has just filled this in for a node, which is still there, and whose kernel has these parameters.
    pub unsafe fn packed(&self, params: &[vgpu_protocol::words::KernelParam], len: usize) -> Vec<u8> {
        let mut packed = vec![0; len];
        if !self.each.is_null() {
            for (i, param) in params.iter().enumerate() {
                let place = &mut packed[param.offset as usize..][..param.size as usize];
                // SAFETY: libcuda's array has a pointer to each parameter.
                place.copy_from_slice(unsafe {
                    std::slice::from_raw_parts(*self.each.add(i), param.size as usize)
                });
            }
        } else if !self.extra.is_null() {
            let (mut buffer, mut size, mut at) = (std::ptr::null::<u8>(), 0, 0);
            // CU_LAUNCH_PARAM_END, _BUFFER_POINTER and _BUFFER_SIZE.
            // SAFETY: libcuda's list ends with the first, and what it names is there.
            unsafe {
                while *self.extra.add(at) != 0 {
                    match *self.extra.add(at) {
                        1 => buffer = *self.extra.add(at + 1) as *const u8,
                        2 => size = *(*self.extra.add(at + 1) as *const usize),
                        _ => break,
                    }
                    at += 2;
                }
                if !buffer.is_null() {
                    let size = size.min(len);
                    packed[..size].copy_from_slice(std::slice::from_raw_parts(buffer, size));
                }
            }
        }
        packed
    }
}

/// A CUDA_BATCH_MEM_OP_NODE_PARAMS.
#[derive(Debug)]
#[repr(C)]
pub struct BatchMemOpParams {
    pub context: Raw,
    pub count: u32,
    pub operations: *const BatchMemOp,
    pub flags: u32,
}

impl Default for BatchMemOpParams {
    fn default() -> Self {
        Self {
            context: 0,
            count: 0,
            operations: std::ptr::null(),
            flags: 0,
        }
    }
}

impl BatchMemOpParams {
    /// The operations of a node, if they are no more than `most`.
    ///
    /// # Safety
    /// libcuda has just filled this in for a node, which is still there and has not been changed.
    pub unsafe fn operations(&self, most: usize) -> Option<Vec<BatchMemOp>> {
        match self.count as usize {
            0 => Some(Vec::new()),
            count if count > most || self.operations.is_null() => None,
            // SAFETY: the node's array of as many operations.
            count => Some(unsafe { std::slice::from_raw_parts(self.operations, count) }.to_vec()),
        }
    }
}

/// A CUDA_HOST_NODE_PARAMS.
#[derive(Debug, Default)]
#[repr(C)]
pub struct HostParams {
    pub function: usize,
    pub user: usize,
}

/// A CUgraphExecUpdateResultInfo.
#[derive(Debug, Default)]
#[repr(C)]
pub struct UpdateInfo {
    pub outcome: i32,
    pub error_node: Raw,
    pub error_from: Raw,
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys;
    use std::mem::{offset_of, size_of};

    /// The word of a node's body at which a field lies, or the half of one.
    macro_rules! word {
        ($type:ident . $field:ident) => {
            offset_of!(sys::$type, $field) as f64 / 8.0
        };
    }

    #[test]
    fn nodes_are_described_as_in_cuda() {
        assert_eq!(size_of::<NodeParams>(), size_of::<sys::CUgraphNodeParams>());
        assert_eq!(offset_of!(NodeParams, body), 16);
        let kernel = [
            word!(CUDA_KERNEL_NODE_PARAMS_v3.func),
            word!(CUDA_KERNEL_NODE_PARAMS_v3.gridDimX),
            word!(CUDA_KERNEL_NODE_PARAMS_v3.gridDimZ),
            word!(CUDA_KERNEL_NODE_PARAMS_v3.blockDimX),
            word!(CUDA_KERNEL_NODE_PARAMS_v3.sharedMemBytes),
            word!(CUDA_KERNEL_NODE_PARAMS_v3.kernelParams),
            word!(CUDA_KERNEL_NODE_PARAMS_v3.extra),
        ];
        assert_eq!(kernel, [0.0, 1.0, 2.0, 2.5, 4.0, 5.0, 6.0]);
        let memset = [
            word!(CUDA_MEMSET_NODE_PARAMS_v2.dst),
            word!(CUDA_MEMSET_NODE_PARAMS_v2.pitch),
            word!(CUDA_MEMSET_NODE_PARAMS_v2.value),
            word!(CUDA_MEMSET_NODE_PARAMS_v2.elementSize),
            word!(CUDA_MEMSET_NODE_PARAMS_v2.width),
            word!(CUDA_MEMSET_NODE_PARAMS_v2.height),
            word!(CUDA_MEMSET_NODE_PARAMS_v2.ctx),
        ];
        assert_eq!(memset, [0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0]);
        let conditional = [
            word!(CUDA_CONDITIONAL_NODE_PARAMS.handle),
            word!(CUDA_CONDITIONAL_NODE_PARAMS.type_),
            word!(CUDA_CONDITIONAL_NODE_PARAMS.size),
            word!(CUDA_CONDITIONAL_NODE_PARAMS.phGraph_out),
            word!(CUDA_CONDITIONAL_NODE_PARAMS.ctx),
        ];
        assert_eq!(conditional, [0.0, 1.0, 1.5, 2.0, 3.0]);
        assert_eq!(word!(CUDA_CHILD_GRAPH_NODE_PARAMS.ownership), 1.0);
        let words = [
            word!(CUDA_BATCH_MEM_OP_NODE_PARAMS_v2.ctx),
            word!(CUDA_BATCH_MEM_OP_NODE_PARAMS_v2.count),
            word!(CUDA_BATCH_MEM_OP_NODE_PARAMS_v2.paramArray),
            word!(CUDA_BATCH_MEM_OP_NODE_PARAMS_v2.flags),
        ];
        assert_eq!(words, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(
            size_of::<BatchMemOpParams>(),
            size_of::<sys::CUDA_BATCH_MEM_OP_NODE_PARAMS_v1>()
        );
        assert_eq!(word!(CUDA_MEMCPY_NODE_PARAMS.copyCtx), 1.0);
        assert_eq!(word!(CUDA_MEMCPY_NODE_PARAMS.copyParams), 2.0);
        assert_eq!(size_of::<Memcpy3d>(), size_of::<sys::CUDA_MEMCPY3D>());
        let side = [
            word!(CUDA_MEMCPY3D.srcMemoryType),
            word!(CUDA_MEMCPY3D.srcHost),
            word!(CUDA_MEMCPY3D.srcDevice),
            word!(CUDA_MEMCPY3D.srcArray),
            word!(CUDA_MEMCPY3D.srcPitch),
            word!(CUDA_MEMCPY3D.dstXInBytes),
            word!(CUDA_MEMCPY3D.WidthInBytes),
        ];
        assert_eq!(side, [4.0, 5.0, 6.0, 7.0, 9.0, 11.0, 22.0]);
        assert_eq!(
            size_of::<KernelParams>(),
            size_of::<sys::CUDA_KERNEL_NODE_PARAMS_v2>()
        );
        assert_eq!(
            offset_of!(KernelParams, each),
            offset_of!(sys::CUDA_KERNEL_NODE_PARAMS_v2, kernelParams)
        );
        assert_eq!(
            offset_of!(KernelParams, context),
            offset_of!(sys::CUDA_KERNEL_NODE_PARAMS_v2, ctx)
        );
        assert_eq!(size_of::<HostParams>(), size_of::<sys::CUDA_HOST_NODE_PARAMS>());
        assert_eq!(
            size_of::<UpdateInfo>(),
            size_of::<sys::CUgraphExecUpdateResultInfo>()
        );
    }

    #[test]
    fn allocations_are_described_as_in_cuda() {
        assert_eq!(
            size_of::<AllocParams>(),
            size_of::<sys::CUDA_MEM_ALLOC_NODE_PARAMS_v2>()
        );
        let words = [
            offset_of!(sys::CUDA_MEM_ALLOC_NODE_PARAMS_v2, poolProps.location),
            offset_of!(sys::CUDA_MEM_ALLOC_NODE_PARAMS_v2, accessDescs),
            offset_of!(sys::CUDA_MEM_ALLOC_NODE_PARAMS_v2, bytesize),
            offset_of!(sys::CUDA_MEM_ALLOC_NODE_PARAMS_v2, dptr),
        ];
        assert_eq!(words, [8, 88, 104, 112]);
    }

    #[test]
    fn a_copy_is_what_its_words_say() {
        let mut words: Memcpy3d = std::array::from_fn(|i| i as u64 + 1);
        (words[4], words[15]) = (MemcpySide::HOST, MemcpySide::DEVICE);
        let node = memcpy_of(&words).unwrap();
        let again = NodeParams::memcpy(&node, 77);
        assert_eq!(again.body[1], 77);
        for (i, word) in words.into_iter().enumerate() {
            // What libcuda does not look at is left out.
            if ![6, 7, 8, 16, 18, 19].contains(&i) {
                assert_eq!(again.body[2 + i], word, "word {i}");
            }
        }
        words[4] = MemcpySide::ARRAY;
        assert_eq!(memcpy_of(&words), Err(result::NOT_SUPPORTED));
    }
}
