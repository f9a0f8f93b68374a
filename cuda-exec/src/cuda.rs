//! The driver API of whichever libcuda is loaded: functions looked up by name, with integers where CUDA has
//! enumerations (a guest's number must never become a Rust enum) and plain words where it has handles.
//!
//! A handle that is passed in came out of this module and has not been destroyed: the object tables
//! ([`crate::handles`]) own every one and destroy it when its last user is gone. That is what makes the calls
//! below sound.
mod array;
mod context;
pub mod graph;
mod group;
mod jit;
#[cfg(test)]
mod layout;
mod link;
mod memory;
pub mod node;
mod stream_memory;
mod tensor_map;

pub use context::LaunchConfig;
use cudarc::driver::sys;
pub use jit::{Jit, JitSaid};
use libloading::Library;
pub use memory::{IpcHandle, PointerData};
use std::ffi::{CStr, c_char, c_void};
use vgpu_protocol::limits::GPUS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{GPU_ATTRIBUTES, GpuInfo};
use vgpu_sched_api::vm_page::GPUS;

/// A handle that libcuda gave out.
pub type Raw = usize;
/// A function that libcuda calls when a stream comes to it.
pub type HostFn = extern "C" fn(*mut c_void);

/// The legacy default stream of the current context.
pub const STREAM_LEGACY: Raw = 1;
/// Capture mode that never interferes with another thread's capture.
pub const CAPTURE_RELAXED: i32 = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as i32;
const CAPTURE_NONE: i32 = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE as i32;
const EVENT_DISABLE_TIMING: u32 = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
/// A kernel's assertion failed.
pub const ASSERT: Code = sys::cudaError_enum::CUDA_ERROR_ASSERT as Code;
/// 1 where the GPU reads and writes any memory of the process.
pub const PAGEABLE_MEMORY_ACCESS: i32 =
    sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS as i32;

/// Why libcuda cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be loaded, or lacks a function.
    #[error("{0}")]
    Library(#[from] libloading::Error),
    /// It loaded and refused.
    #[error("{call} failed with CUDA error {code}")]
    Call { call: &'static str, code: Code },
    /// With PAGEABLE_MEMORY_ACCESS a guest's kernels could write all memory of this process.
    #[error(
        "GPU {0} can access pageable memory: load nvidia-uvm with uvm_disable_hmm=1 before guests may use it"
    )]
    PageableMemoryAccess(u32),
    /// There is none.
    #[error("no GPU")]
    NoGpu,
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($type:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($type),*) -> Code,)* }
        impl Functions {
            fn load(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self { $(
                    // SAFETY: the driver API's ABI gives this name this signature.
                    $field: *unsafe { library.get($symbol) }?,
                )* })
            }
        }
    };
}

functions! {
    init = b"cuInit\0" (u32);
    driver_get_version = b"cuDriverGetVersion\0" (*mut i32);
    device_get_count = b"cuDeviceGetCount\0" (*mut i32);
    device_get = b"cuDeviceGet\0" (*mut i32, i32);
    device_get_name = b"cuDeviceGetName\0" (*mut c_char, i32, i32);
    device_get_uuid = b"cuDeviceGetUuid_v2\0" (*mut [u8; 16], i32);
    device_get_pci_bus_id = b"cuDeviceGetPCIBusId\0" (*mut c_char, i32, i32);
    device_total_mem = b"cuDeviceTotalMem_v2\0" (*mut usize, i32);
    device_get_attribute = b"cuDeviceGetAttribute\0" (*mut i32, i32, i32);
    ctx_create = b"cuCtxCreate_v2\0" (*mut Raw, u32, i32);
    ctx_destroy = b"cuCtxDestroy_v2\0" (Raw);
    ctx_set_current = b"cuCtxSetCurrent\0" (Raw);
    thread_exchange_capture_mode = b"cuThreadExchangeStreamCaptureMode\0" (*mut i32);
    mem_alloc = b"cuMemAlloc_v2\0" (*mut u64, usize);
    mem_free = b"cuMemFree_v2\0" (u64);
    mem_get_info = b"cuMemGetInfo_v2\0" (*mut usize, *mut usize);
    mem_host_register = b"cuMemHostRegister_v2\0" (*mut c_void, usize, u32);
    mem_host_unregister = b"cuMemHostUnregister\0" (*mut c_void);
    mem_host_get_device_pointer = b"cuMemHostGetDevicePointer_v2\0" (*mut u64, *mut c_void, u32);
    memcpy_htod_async = b"cuMemcpyHtoDAsync_v2\0" (u64, *const c_void, usize, Raw);
    memcpy_dtoh_async = b"cuMemcpyDtoHAsync_v2\0" (*mut c_void, u64, usize, Raw);
    memcpy_dtod_async = b"cuMemcpyDtoDAsync_v2\0" (u64, u64, usize, Raw);
    memset_d8_async = b"cuMemsetD8Async\0" (u64, u8, usize, Raw);
    memset_d16_async = b"cuMemsetD16Async\0" (u64, u16, usize, Raw);
    memset_d32_async = b"cuMemsetD32Async\0" (u64, u32, usize, Raw);
    module_load_data = b"cuModuleLoadData\0" (*mut Raw, *const c_void);
    module_load_data_ex = b"cuModuleLoadDataEx\0" (*mut Raw, *const c_void, u32, *mut i32, *mut usize);
    module_unload = b"cuModuleUnload\0" (Raw);
    module_get_function = b"cuModuleGetFunction\0" (*mut Raw, Raw, *const c_char);
    module_get_global = b"cuModuleGetGlobal_v2\0" (*mut u64, *mut usize, Raw, *const c_char);
    func_get_attribute = b"cuFuncGetAttribute\0" (*mut i32, i32, Raw);
    func_get_param_info = b"cuFuncGetParamInfo\0" (Raw, usize, *mut usize, *mut usize);
    launch_kernel = b"cuLaunchKernel\0" (Raw, u32, u32, u32, u32, u32, u32, u32, Raw, *mut *mut c_void, *mut *mut c_void);
    launch_host_func = b"cuLaunchHostFunc\0" (Raw, HostFn, *mut c_void);
    stream_create = b"cuStreamCreateWithPriority\0" (*mut Raw, u32, i32);
    stream_destroy = b"cuStreamDestroy_v2\0" (Raw);
    stream_wait_event = b"cuStreamWaitEvent\0" (Raw, Raw, u32);
    ctx_synchronize = b"cuCtxSynchronize\0" ();
    stream_synchronize = b"cuStreamSynchronize\0" (Raw);
    event_synchronize = b"cuEventSynchronize\0" (Raw);
    stream_query = b"cuStreamQuery\0" (Raw);
    stream_is_capturing = b"cuStreamIsCapturing\0" (Raw, *mut i32);
    stream_begin_capture = b"cuStreamBeginCapture_v2\0" (Raw, i32);
    stream_end_capture = b"cuStreamEndCapture\0" (Raw, *mut Raw);
    stream_write_value64 = b"cuStreamWriteValue64_v2\0" (Raw, u64, u64, u32);
    event_create = b"cuEventCreate\0" (*mut Raw, u32);
    event_destroy = b"cuEventDestroy_v2\0" (Raw);
    event_record = b"cuEventRecord\0" (Raw, Raw);
    event_query = b"cuEventQuery\0" (Raw);
    event_elapsed_time = b"cuEventElapsedTime\0" (*mut f32, Raw, Raw);
}

/// What moves a process' GPU state to the host and back. CUDA 12.8 brought it.
struct Checkpoint {
    lock: unsafe extern "C" fn(i32, *mut sys::CUcheckpointLockArgs) -> Code,
    checkpoint: unsafe extern "C" fn(i32, *mut c_void) -> Code,
    restore: unsafe extern "C" fn(i32, *mut c_void) -> Code,
    unlock: unsafe extern "C" fn(i32, *mut c_void) -> Code,
    get_state: unsafe extern "C" fn(i32, *mut i32) -> Code,
}

impl Checkpoint {
    fn load(library: &Library) -> Option<Self> {
        // SAFETY: the driver API's ABI gives these names these signatures.
        unsafe {
            Some(Self {
                lock: *library.get(b"cuCheckpointProcessLock\0").ok()?,
                checkpoint: *library.get(b"cuCheckpointProcessCheckpoint\0").ok()?,
                restore: *library.get(b"cuCheckpointProcessRestore\0").ok()?,
                unlock: *library.get(b"cuCheckpointProcessUnlock\0").ok()?,
                get_state: *library.get(b"cuCheckpointProcessGetState\0").ok()?,
            })
        }
    }
}

/// CU_PROCESS_STATE_CHECKPOINTED
const CHECKPOINTED: i32 = 2;
/// How long other threads' calls may take to end before a checkpoint, in milliseconds.
const LOCK_MS: u32 = 5000;

/// A loaded libcuda that was initialised.
pub struct Cuda {
    f: Functions,
    checkpoint: Option<Checkpoint>,
    /// Contexts' settings, kernels' attributes, launches with attributes, occupancy.
    pub contexts: context::Contexts,
    /// Pools, virtual memory, copies of rows.
    pub memories: memory::Memories,
    /// Graphs and captures.
    pub graphs: graph::Graphs,
    /// Operations of streams on words of memory.
    pub stream_memory: stream_memory::StreamMemory,
    /// Tensor maps.
    pub tensor_maps: tensor_map::TensorMaps,
    /// Linking at run time.
    pub linker: link::Linker,
    /// Arrays, textures, surfaces.
    pub arrays: array::Arrays,
    library: Library,
    gpus: Vec<Gpu>,
}

struct Gpu {
    device: i32,
    info: GpuInfo,
}

/// A kernel's grid.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks in each dimension.
    pub blocks: [u32; 3],
    /// Threads of a block in each dimension.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

fn check(code: Code) -> Result<(), Code> {
    if code == result::SUCCESS {
        Ok(())
    } else {
        Err(code)
    }
}

/// Calls `f` with a place for one result.
fn get<T: Default>(f: impl FnOnce(*mut T) -> Code) -> Result<T, Code> {
    let mut value = T::default();
    check(f(&mut value))?;
    Ok(value)
}

/// Calls `launch` with what names the first `len` bytes of packed parameters; null if the kernel has none.
fn with_packed(
    params: &[u8],
    mut len: usize,
    launch: impl FnOnce(*mut *mut c_void) -> Result<(), Code>,
) -> Result<(), Code> {
    // CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END.
    let mut extra: [*mut c_void; 5] = [
        std::ptr::without_provenance_mut(1),
        params.as_ptr().cast_mut().cast(),
        std::ptr::without_provenance_mut(2),
        (&raw mut len).cast(),
        std::ptr::null_mut(),
    ];
    launch(if params.is_empty() {
        std::ptr::null_mut()
    } else {
        extra.as_mut_ptr()
    })
}

// A method that is named as a driver function is that function.
//
// Every unsafe block below calls a driver function with live handles (see the module's comment), with places for its
// results that outlive the call, and with pointers that the caller vouches for where the method is unsafe.
impl Cuda {
    /// Loads `libcuda.so.1`, initialises it, and looks at the GPUs.
    pub fn load() -> Result<Self, LoadError> {
        // SAFETY: loading runs the library's constructors, as for every CUDA program.
        let library = unsafe { Library::new("libcuda.so.1") }?;
        let f = Functions::load(&library)?;
        let mut cuda = Self {
            f,
            checkpoint: Checkpoint::load(&library),
            contexts: context::Contexts::load(&library),
            memories: memory::Memories::load(&library),
            graphs: graph::Graphs::load(&library),
            stream_memory: stream_memory::StreamMemory::load(&library),
            tensor_maps: tensor_map::TensorMaps::load(&library),
            linker: link::Linker::load(&library),
            arrays: array::Arrays::load(&library),
            library,
            gpus: Vec::new(),
        };
        // SAFETY: takes no pointer.
        check(unsafe { (cuda.f.init)(0) }).map_err(|code| LoadError::Call { call: "cuInit", code })?;
        // SAFETY: writes the place that `get` holds.
        let count = get(|p| unsafe { (cuda.f.device_get_count)(p) }).map_err(|code| LoadError::Call {
            call: "cuDeviceGetCount",
            code,
        })?;
        for ordinal in 0..(count.max(0) as u32).min(GPUS_MAX.min(GPUS as u32)) {
            let gpu = cuda.look_at(ordinal)?;
            cuda.gpus.push(gpu);
        }
        if cuda.gpus.is_empty() {
            return Err(LoadError::NoGpu);
        }
        Ok(cuda)
    }

    fn look_at(&self, ordinal: u32) -> Result<Gpu, LoadError> {
        let failed = |call| move |code| LoadError::Call { call, code };
        // SAFETY: as above.
        let device =
            get(|p| unsafe { (self.f.device_get)(p, ordinal as i32) }).map_err(failed("cuDeviceGet"))?;
        let mut info = GpuInfo {
            name: [0; 128],
            uuid: [0; 16],
            pci: [0; 32],
            memory: 0,
            driver_version: 0,
            reserved: 0,
            attributes: [i32::MIN; GPU_ATTRIBUTES],
        };
        // SAFETY: the buffers have the lengths that are passed.
        unsafe {
            check((self.f.device_get_name)(
                info.name.as_mut_ptr().cast(),
                128,
                device,
            ))
            .map_err(failed("cuDeviceGetName"))?;
            check((self.f.device_get_uuid)(&mut info.uuid, device)).map_err(failed("cuDeviceGetUuid"))?;
            check((self.f.device_get_pci_bus_id)(
                info.pci.as_mut_ptr().cast(),
                32,
                device,
            ))
            .map_err(failed("cuDeviceGetPCIBusId"))?;
        }
        // SAFETY: as above.
        info.memory = get(|p| unsafe { (self.f.device_total_mem)(p, device) })
            .map_err(failed("cuDeviceTotalMem"))? as u64;
        // SAFETY: as above.
        info.driver_version =
            get(|p| unsafe { (self.f.driver_get_version)(p) }).map_err(failed("cuDriverGetVersion"))? as u32;
        for (number, value) in info.attributes.iter_mut().enumerate().skip(1) {
            // SAFETY: as above; an attribute that the driver does not know is refused by it.
            if let Ok(found) = get(|p| unsafe { (self.f.device_get_attribute)(p, number as i32, device) }) {
                *value = found;
            }
        }
        if info.attributes[PAGEABLE_MEMORY_ACCESS as usize] != 0 {
            return Err(LoadError::PageableMemoryAccess(ordinal));
        }
        Ok(Gpu { device, info })
    }

    /// What there is to know of each GPU.
    pub fn gpus(&self) -> impl ExactSizeIterator<Item = &GpuInfo> {
        self.gpus.iter().map(|gpu| &gpu.info)
    }

    /// libcuda's name of a GPU.
    pub fn device(&self, gpu: u32) -> Result<i32, Code> {
        let gpu = self.gpus.get(gpu as usize);
        Ok(gpu.ok_or(result::INVALID_DEVICE)?.device)
    }

    /// The GPU that libcuda names so, if it is the session's.
    pub fn gpu_of(&self, device: i32) -> Result<u32, Code> {
        let gpu = self.gpus.iter().position(|gpu| gpu.device == device);
        gpu.map(|gpu| gpu as u32).ok_or(result::INVALID_DEVICE)
    }

    /// The function of that name, if this libcuda exports it.
    ///
    /// # Safety
    /// `T` must be the function's type.
    pub unsafe fn symbol<T: Copy>(&self, name: &[u8]) -> Option<T> {
        // SAFETY: the caller's.
        unsafe { self.library.get::<T>(name) }.ok().map(|symbol| *symbol)
    }

    /// Whether this libcuda can move the process' GPU state to the host.
    pub fn can_suspend(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Moves all GPU memory of this process to the host, and gives the GPUs up. No other thread makes a call until
    /// [`Self::restore`] succeeds. If it fails, everything is as it was.
    pub fn suspend(&self) -> Result<(), Code> {
        let calls = self.checkpoint.as_ref().ok_or(result::NOT_SUPPORTED)?;
        let own = std::process::id() as i32;
        // SAFETY: zero is a valid value of each of its numbers.
        let mut arguments: sys::CUcheckpointLockArgs = unsafe { std::mem::zeroed() };
        arguments.timeoutMs = LOCK_MS;
        // SAFETY: the arguments outlive the call.
        check(unsafe { (calls.lock)(own, &mut arguments) })?;
        // SAFETY: it needs no arguments.
        check(unsafe { (calls.checkpoint)(own, std::ptr::null_mut()) }).inspect_err(|_| {
            // SAFETY: as above. Should it fail as well, every later call does.
            unsafe { (calls.unlock)(own, std::ptr::null_mut()) };
        })
    }

    /// Brings it back. May be tried again while there is no memory for it.
    pub fn restore(&self) -> Result<(), Code> {
        let calls = self.checkpoint.as_ref().ok_or(result::NOT_SUPPORTED)?;
        let own = std::process::id() as i32;
        // SAFETY: writes the place that `get` holds.
        if get(|p| unsafe { (calls.get_state)(own, p) })? == CHECKPOINTED {
            // SAFETY: it needs no arguments.
            check(unsafe { (calls.restore)(own, std::ptr::null_mut()) })?;
        }
        // SAFETY: it needs no arguments.
        check(unsafe { (calls.unlock)(own, std::ptr::null_mut()) })
    }

    pub fn ctx_create(&self, flags: u32, gpu: u32) -> Result<Raw, Code> {
        let device = self.device(gpu)?;
        // SAFETY: see the comment above this block.
        get(|p| unsafe { (self.f.ctx_create)(p, flags, device) })
    }
    pub fn ctx_destroy(&self, context: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.ctx_destroy)(context) })
    }
    /// Makes a context current to this thread; 0 for none.
    pub fn ctx_set_current(&self, context: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.ctx_set_current)(context) })
    }
    /// Sets this thread's capture mode; the one before.
    pub fn exchange_capture_mode(&self, mode: i32) -> Result<i32, Code> {
        let mut mode = mode;
        // SAFETY: see above.
        check(unsafe { (self.f.thread_exchange_capture_mode)(&mut mode) })?;
        Ok(mode)
    }
    pub fn mem_alloc(&self, bytes: usize) -> Result<u64, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.mem_alloc)(p, bytes) })
    }
    pub fn mem_free(&self, pointer: u64) -> Result<(), Code> {
        // SAFETY: the pointer is in the table of allocations.
        check(unsafe { (self.f.mem_free)(pointer) })
    }
    /// Free and total bytes.
    pub fn mem_get_info(&self) -> Result<(u64, u64), Code> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: see above.
        check(unsafe { (self.f.mem_get_info)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }
    /// Registers host memory for all contexts, with `flags` beside that; its device pointer.
    ///
    /// # Safety
    /// The range is mapped shared memory that stays mapped until [`Self::host_unregister`].
    pub unsafe fn host_register(&self, addr: u64, len: u64, flags: u32) -> Result<u64, Code> {
        let flags = flags | sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: the caller's.
        check(unsafe { (self.f.mem_host_register)(addr as *mut c_void, len as usize, flags) })?;
        // SAFETY: the range was just registered.
        get(|p| unsafe { (self.f.mem_host_get_device_pointer)(p, addr as *mut c_void, 0) })
    }
    pub fn host_unregister(&self, addr: u64) -> Result<(), Code> {
        // SAFETY: libcuda looks the address up and reads nothing there.
        check(unsafe { (self.f.mem_host_unregister)(addr as *mut c_void) })
    }
    /// # Safety
    /// Both ranges stay valid until the copy is done: device memory or registered memory, and mapped host memory.
    pub unsafe fn memcpy_htod(&self, to: u64, from: u64, bytes: u64, stream: Raw) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.memcpy_htod_async)(to, from as *const c_void, bytes as usize, stream) })
    }
    /// # Safety
    /// As [`Self::memcpy_htod`].
    pub unsafe fn memcpy_dtoh(&self, to: u64, from: u64, bytes: u64, stream: Raw) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.memcpy_dtoh_async)(to as *mut c_void, from, bytes as usize, stream) })
    }
    /// # Safety
    /// As [`Self::memcpy_htod`], both of them device or registered memory.
    pub unsafe fn memcpy_dtod(&self, to: u64, from: u64, bytes: u64, stream: Raw) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.memcpy_dtod_async)(to, from, bytes as usize, stream) })
    }
    /// # Safety
    /// `to` stays valid for `count` bytes until the work is done.
    pub unsafe fn memset_d8(&self, to: u64, value: u8, count: u64, stream: Raw) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.memset_d8_async)(to, value, count as usize, stream) })
    }
    /// # Safety
    /// `to` stays valid for `2 * count` bytes until the work is done.
    pub unsafe fn memset_d16(&self, to: u64, value: u16, count: u64, stream: Raw) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.memset_d16_async)(to, value, count as usize, stream) })
    }
    /// # Safety
    /// `to` stays valid for `4 * count` bytes until the work is done.
    pub unsafe fn memset_d32(&self, to: u64, value: u32, count: u64, stream: Raw) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.memset_d32_async)(to, value, count as usize, stream) })
    }
    /// Loads a module into the current context.
    pub fn module_load(&self, image: &crate::image::Image) -> Result<Raw, Code> {
        // SAFETY: the image is sealed, ends with a zero byte and is followed by an inaccessible page, so that a length
        // inside it that lies ends this process and reads nothing else.
        get(|p| unsafe { (self.f.module_load_data)(p, image.as_ptr().cast()) })
    }
    /// Loads a module into the current context with options of the compiler.
    pub fn module_load_with(&self, image: &crate::image::Image, jit: &mut Jit) -> Result<Raw, Code> {
        let (len, options, values) = jit.arrays();
        // SAFETY: as in `module_load`; the arrays have as many entries as is passed, and the logs are as long as the options
        // beside them say.
        get(|p| unsafe { (self.f.module_load_data_ex)(p, image.as_ptr().cast(), len, options, values) })
    }
    pub fn module_unload(&self, module: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.module_unload)(module) })
    }
    pub fn module_get_function(&self, module: Raw, name: &CStr) -> Result<Raw, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.module_get_function)(p, module, name.as_ptr()) })
    }
    /// Address and bytes of a module's variable.
    pub fn module_get_global(&self, module: Raw, name: &CStr) -> Result<(u64, u64), Code> {
        let (mut pointer, mut bytes) = (0, 0);
        // SAFETY: see above.
        check(unsafe { (self.f.module_get_global)(&mut pointer, &mut bytes, module, name.as_ptr()) })?;
        Ok((pointer, bytes as u64))
    }
    pub fn func_get_attribute(&self, function: Raw, attribute: i32) -> Result<i32, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.func_get_attribute)(p, attribute, function) })
    }
    /// Offset and bytes of a kernel's parameter; INVALID_VALUE after the last.
    pub fn func_get_param_info(&self, function: Raw, index: usize) -> Result<(usize, usize), Code> {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: see above.
        check(unsafe { (self.f.func_get_param_info)(function, index, &mut offset, &mut size) })?;
        Ok((offset, size))
    }
    /// Launches a kernel with packed parameters, which are copied: the first `len` bytes of `params`, which holds as many as
    /// the kernel has.
    pub fn launch_kernel(
        &self,
        function: Raw,
        grid: Grid,
        stream: Raw,
        params: &[u8],
        len: usize,
    ) -> Result<(), Code> {
        let Grid {
            blocks: [gx, gy, gz],
            threads: [bx, by, bz],
            shared,
        } = grid;
        let none = std::ptr::null_mut();
        with_packed(params, len, |extra| {
            // SAFETY: the parameters are read before the call returns; the caller checked their length.
            check(unsafe {
                (self.f.launch_kernel)(function, gx, gy, gz, bx, by, bz, shared, stream, none, extra)
            })
        })
    }
    /// The same with attributes.
    pub fn launch_kernel_ex(
        &self,
        function: Raw,
        config: &LaunchConfig<'_>,
        params: &[u8],
        len: usize,
    ) -> Result<(), Code> {
        with_packed(params, len, |extra| {
            // SAFETY: as in `launch_kernel`; the configuration outlives the call.
            unsafe {
                self.contexts
                    .launch_ex(config, function, std::ptr::null_mut(), extra)
            }
        })
    }
    /// # Safety
    /// `call` may be called with `user` once the stream comes to it, and as often as a graph that captured it runs.
    pub unsafe fn launch_host_fn(&self, stream: Raw, call: HostFn, user: *mut c_void) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.launch_host_func)(stream, call, user) })
    }
    pub fn stream_create(&self, flags: u32, priority: i32) -> Result<Raw, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.stream_create)(p, flags, priority) })
    }
    pub fn stream_destroy(&self, stream: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.stream_destroy)(stream) })
    }
    pub fn stream_wait_event(&self, stream: Raw, event: Raw, flags: u32) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.stream_wait_event)(stream, event, flags) })
    }
    pub fn ctx_synchronize(&self) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.ctx_synchronize)() })
    }
    pub fn stream_synchronize(&self, stream: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.stream_synchronize)(stream) })
    }
    pub fn event_synchronize(&self, event: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.event_synchronize)(event) })
    }
    /// Whether the stream is done, if it may be asked.
    pub fn stream_query(&self, stream: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.stream_query)(stream) })
    }
    /// The stream's CUstreamCaptureStatus.
    pub fn stream_capture_status(&self, stream: Raw) -> Result<i32, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.stream_is_capturing)(stream, p) })
    }
    /// Whether the stream captures, or may not be touched because a stream that it would wait for does.
    pub fn stream_is_capturing(&self, stream: Raw) -> Result<bool, Code> {
        match self.stream_capture_status(stream) {
            Ok(status) => Ok(status != CAPTURE_NONE),
            Err(result::STREAM_CAPTURE_IMPLICIT) => Ok(true),
            Err(code) => Err(code),
        }
    }
    pub fn stream_begin_capture(&self, stream: Raw, mode: i32) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.stream_begin_capture)(stream, mode) })
    }
    pub fn stream_end_capture(&self, stream: Raw) -> Result<Raw, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.stream_end_capture)(stream, p) })
    }
    /// # Safety
    /// `addr` is registered memory that stays so until the work is done.
    pub unsafe fn stream_write_value64(&self, stream: Raw, addr: u64, value: u64) -> Result<(), Code> {
        // SAFETY: the caller's.
        check(unsafe { (self.f.stream_write_value64)(stream, addr, value, 0) })
    }
    pub fn event_create(&self, flags: u32) -> Result<Raw, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.event_create)(p, flags) })
    }
    /// An event of our own, which nobody asks for a time.
    pub fn event_create_untimed(&self) -> Result<Raw, Code> {
        self.event_create(EVENT_DISABLE_TIMING)
    }
    pub fn event_destroy(&self, event: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.event_destroy)(event) })
    }
    pub fn event_record(&self, event: Raw, stream: Raw) -> Result<(), Code> {
        // SAFETY: see above.
        check(unsafe { (self.f.event_record)(event, stream) })
    }
    /// Whether everything before the event's last record is done.
    pub fn event_query(&self, event: Raw) -> Result<bool, Code> {
        // SAFETY: see above.
        match check(unsafe { (self.f.event_query)(event) }) {
            Ok(()) => Ok(true),
            Err(result::NOT_READY) => Ok(false),
            Err(code) => Err(code),
        }
    }
    /// Milliseconds from one event to another.
    pub fn event_elapsed_time(&self, start: Raw, end: Raw) -> Result<f32, Code> {
        // SAFETY: see above.
        get(|p| unsafe { (self.f.event_elapsed_time)(p, start, end) })
    }
}
