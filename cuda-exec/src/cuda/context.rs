//! Contexts' settings, kernels' attributes, launches with attributes, occupancy.
use super::group::group;
use super::{Grid, Raw};
use std::ffi::c_char;
use std::marker::PhantomData;
use vgpu_protocol::words::LaunchAttribute;

/// A CUlaunchConfig.
#[derive(Debug)]
#[repr(C)]
pub struct LaunchConfig<'a> {
    blocks: [u32; 3],
    threads: [u32; 3],
    shared: u32,
    stream: Raw,
    attributes: *const LaunchAttribute,
    attributes_len: u32,
    _attributes: PhantomData<&'a [LaunchAttribute]>,
}

impl<'a> LaunchConfig<'a> {
    /// A launch of this shape on a stream.
    pub fn new(grid: Grid, stream: Raw, attributes: &'a [LaunchAttribute]) -> Self {
        Self {
            blocks: grid.blocks,
            threads: grid.threads,
            shared: grid.shared,
            stream,
            attributes: match attributes {
                [] => std::ptr::null(),
                some => some.as_ptr(),
            },
            attributes_len: attributes.len() as u32,
            _attributes: PhantomData,
        }
    }
}

group! {
    /// Functions of these topics.
    Contexts {
        first get_limit = "cuCtxGetLimit" (limit: i32) -> usize;
        plain set_limit = "cuCtxSetLimit" (limit: i32, value: usize);
        first get_cache_config = "cuCtxGetCacheConfig" () -> i32;
        plain set_cache_config = "cuCtxSetCacheConfig" (config: i32);
        raw get_stream_priority_range = "cuCtxGetStreamPriorityRange" (least: *mut i32, greatest: *mut i32);
        plain reset_persisting_l2 = "cuCtxResetPersistingL2Cache" ();
        plain record_event = "cuCtxRecordEvent" (context: Raw, event: Raw);
        plain wait_event = "cuCtxWaitEvent" (context: Raw, event: Raw);
        raw host_atomics = "cuDeviceGetHostAtomicCapabilities" (can: *mut u32, operations: *const u32, len: u32, device: i32);
        first module_function_count = "cuModuleGetFunctionCount" (module: Raw) -> u32;
        raw module_functions = "cuModuleEnumerateFunctions" (functions: *mut Raw, len: u32, module: Raw);
        raw func_name = "cuFuncGetName" (name: *mut *const c_char, function: Raw);
        plain func_set_attribute = "cuFuncSetAttribute" (function: Raw, attribute: i32, value: i32);
        plain func_set_cache_config = "cuFuncSetCacheConfig" (function: Raw, config: i32);
        first func_is_loaded = "cuFuncIsLoaded" (function: Raw) -> i32;
        plain func_load = "cuFuncLoad" (function: Raw);
        raw launch_ex = "cuLaunchKernelEx"
            (config: *const LaunchConfig<'_>, function: Raw, params: *mut *mut std::ffi::c_void, extra: *mut *mut std::ffi::c_void);
        first max_active_blocks = "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"
            (function: Raw, block: i32, shared: usize, flags: u32) -> i32;
        first available_shared = "cuOccupancyAvailableDynamicSMemPerBlock" (function: Raw, blocks: i32, block: i32) -> usize;
        raw max_active_clusters = "cuOccupancyMaxActiveClusters" (clusters: *mut i32, function: Raw, config: *const LaunchConfig<'_>);
        raw max_cluster_size = "cuOccupancyMaxPotentialClusterSize" (size: *mut i32, function: Raw, config: *const LaunchConfig<'_>);
        raw stream_get_attribute = "cuStreamGetAttribute" (stream: Raw, attribute: i32, value: *mut [u64; 8]);
        raw stream_set_attribute = "cuStreamSetAttribute" (stream: Raw, attribute: i32, value: *const [u64; 8]);
        plain stream_copy_attributes = "cuStreamCopyAttributes" (to: Raw, from: Raw);
        first texture_1d_max_width = "cuDeviceGetTexture1DLinearMaxWidth" (format: i32, channels: u32, device: i32) -> usize;
        raw mem_alloc_pitch = "cuMemAllocPitch_v2" (pointer: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32);
        plain event_record_with_flags = "cuEventRecordWithFlags" (event: Raw, stream: Raw, flags: u32);
    }
}
