//! Launches of kernels and host functions.

use super::abi::{CUcontext, CUfunction, CUstream, In, stream_api};
use super::context::Context;
use super::device::SHARED_OPTIN;
use super::error::{self, Result};
use super::module::Function;
use super::runtime::runtime;
use super::stream::{Stream, stream};
use super::work::{HostFunction, Work};
use crate::ptx::interp::{self, Gate, Launch, Stop};
use crate::ptx::ir::Kernel;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `CU_LAUNCH_PARAM_END`, `_BUFFER_POINTER`, `_BUFFER_SIZE`
const PARAM_END: u64 = 0;
const PARAM_BUFFER_POINTER: u64 = 1;
const PARAM_BUFFER_SIZE: u64 = 2;

/// Local memory that recursion may use whatever the context's limit is, in bytes per thread: frames here are larger
/// than those of compiled code, which keeps most of what they hold in registers.
const LEAST_STACK: usize = 16 << 10;

/// A kernel with everything a run of it needs.
pub struct KernelLaunch {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: usize,
    /// Local memory for recursion, in bytes per thread.
    stack: usize,
    /// The parameter buffer, in units that keep it aligned.
    params: Vec<u128>,
    /// The function's handle, and the place of each parameter in the buffer.
    function: CUfunction,
    each: Vec<u64>,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParams {
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    each: In<*const u8>,
    extra: In<u64>,
    kernel: u64,
    context: CUcontext,
}

impl KernelNodeParams {
    /// The kernel of a node.
    pub fn launch(&self) -> Result<KernelLaunch> {
        let runtime = runtime()?;
        let function = runtime.functions.get(self.function)?;
        let shape = Shape {
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.shared,
        };
        let context = runtime.contexts.get(function.context)?;
        KernelLaunch::new(&context, (self.function, &function), shape, self.each, self.extra)
    }

    /// What a node's kernel was launched with.
    pub fn of(launch: &KernelLaunch) -> KernelNodeParams {
        let each = match launch.each.is_empty() {
            true => std::ptr::null(),
            false => launch.each.as_ptr().cast(),
        };
        KernelNodeParams {
            function: launch.function,
            grid: launch.grid,
            block: launch.block,
            shared: launch.dynamic_shared as u32,
            each: In(each),
            extra: In(std::ptr::null()),
            kernel: 0,
            context: 0,
        }
    }
}

impl KernelLaunch {
    fn new(
        context: &Context,
        (handle, function): (CUfunction, &Function),
        shape: Shape,
        params: In<*const u8>,
        extra: In<u64>,
    ) -> Result<KernelLaunch> {
        shape.check(function)?;
        let kernel = &function.kernel;
        let params = parameters(kernel, params, extra)?;
        let start = params.as_ptr() as u64;
        Ok(KernelLaunch {
            kernel: kernel.clone(),
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.dynamic_shared as usize,
            stack: context.stack_size().max(LEAST_STACK),
            params,
            function: handle,
            each: kernel
                .params
                .iter()
                .map(|(offset, _)| start + *offset as u64)
                .collect(),
        })
    }

    pub fn name(&self) -> &str {
        &self.kernel.name
    }

    /// Runs it on the calling thread.
    pub fn run(&self, memory: &dyn interp::Memory, gate: &dyn Gate) -> std::result::Result<(), Stop> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // SAFETY: the bytes of the vector, which outlives the slice.
        let params =
            unsafe { std::slice::from_raw_parts(self.params.as_ptr().cast::<u8>(), self.params.len() * 16) };
        interp::run(&Launch {
            kernel: &self.kernel,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            stack: self.stack,
            params,
            memory,
            gate,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }
}

/// The parameter buffer, from an array of pointers or as one packed buffer.
fn parameters(kernel: &Kernel, each: In<*const u8>, extra: In<u64>) -> Result<Vec<u128>> {
    let mut bytes = vec![0u8; kernel.param_bytes];
    if !each.is_null() {
        for (index, &(offset, size)) in kernel.params.iter().enumerate() {
            let value = In(each.at(index)?).bytes(size)?;
            bytes[offset..offset + size].copy_from_slice(&value);
        }
    } else if !extra.is_null() {
        let packed = packed(extra)?;
        let len = packed.len().min(bytes.len());
        bytes[..len].copy_from_slice(&packed[..len]);
    } else if kernel.param_bytes > 0 {
        return Err(error::INVALID_VALUE);
    }
    let mut words = vec![0u128; bytes.len().div_ceil(16)];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(16)) {
        let mut whole = [0u8; 16];
        whole[..chunk.len()].copy_from_slice(chunk);
        *word = u128::from_ne_bytes(whole);
    }
    Ok(words)
}

fn packed(extra: In<u64>) -> Result<Vec<u8>> {
    let (mut buffer, mut size) = (0, 0);
    let mut at = 0;
    loop {
        match extra.at(at)? {
            PARAM_END => break,
            PARAM_BUFFER_POINTER => buffer = extra.at(at + 1)?,
            PARAM_BUFFER_SIZE => size = In(extra.at(at + 1)? as *const usize).get()?,
            _ => return Err(error::INVALID_VALUE),
        }
        at += 2;
    }
    // A kernel takes at most 32,764 bytes of parameters.
    if size > 1 << 16 {
        return Err(error::INVALID_VALUE);
    }
    In(buffer as *const u8).bytes(size)
}

/// Grid and block of a launch, and its dynamic shared memory in bytes.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
}

impl Shape {
    /// Refuses what the kernel cannot be launched with.
    fn check(&self, function: &Function) -> Result {
        let kernel = &function.kernel;
        let Shape {
            grid,
            block,
            dynamic_shared,
        } = *self;
        let threads = block.iter().try_fold(1u64, |all, &n| all.checked_mul(n.into()));
        let threads = threads.ok_or(error::INVALID_VALUE)?;
        if threads == 0
            || grid.contains(&0)
            || grid[0] > i32::MAX as u32
            || grid[1] > 65535
            || grid[2] > 65535
        {
            return Err(error::INVALID_VALUE);
        }
        if threads > u64::from(kernel.max_threads) || block[2] > 64 {
            return Err(error::INVALID_VALUE);
        }
        let limit = function.max_dynamic_shared.load(Ordering::Relaxed) as u32;
        if dynamic_shared > limit || dynamic_shared + kernel.shared_bytes as u32 > SHARED_OPTIN as u32 {
            return Err(error::INVALID_VALUE);
        }
        if kernel.required_threads.is_some_and(|required| required != block) {
            return Err(error::INVALID_VALUE);
        }
        Ok(())
    }
}

fn launch(
    stream: &Arc<Stream>,
    function: CUfunction,
    shape: Shape,
    params: In<*const u8>,
    extra: In<u64>,
) -> Result {
    let found = runtime()?.functions.get(function)?;
    let context = stream.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
    let launch = KernelLaunch::new(&context, (function, &found), shape, params, extra)?;
    stream.enqueue(Work::Kernel(Arc::new(launch)))
}

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: CUstream,
    attributes: In<[u8; 72]>,
    attribute_count: u32,
}

stream_api! { SYMBOLS, default;
    fn cuLaunchKernel | cuLaunchKernel_ptsz(
        function: CUfunction, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32,
        handle: CUstream, params: In<*const u8>, extra: In<u64>,
    ) {
        let stream = stream(handle, default)?;
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic_shared: shared };
        launch(&stream, function, shape, params, extra)
    }

    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(
        config: In<LaunchConfig>, function: CUfunction, params: In<*const u8>, extra: In<u64>,
    ) {
        // The attributes are hints, or ask for clusters, which need no more than blocks do here.
        let config = config.get()?;
        let stream = stream(config.stream, default)?;
        let shape = Shape { grid: config.grid, block: config.block, dynamic_shared: config.shared };
        launch(&stream, function, shape, params, extra)
    }

    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(
        handle: CUstream, function: Option<extern "C" fn(*mut c_void)>, data: *mut c_void,
    ) {
        let stream = stream(handle, default)?;
        let function = function.ok_or(error::INVALID_VALUE)?;
        stream.enqueue(Work::Host(HostFunction { function, data }))
    }
}
