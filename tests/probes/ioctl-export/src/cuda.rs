//! The few driver calls the probe makes, looked up in a libcuda opened at run time.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};

use anyhow::{Context as _, Result, bail};
use libloading::os::unix::Library;

type Handle = *mut c_void;

/// Declares `struct Cuda` with one function pointer per line, and how to find them all.
macro_rules! driver_calls {
    ($($field:ident = $symbol:literal : fn($($arg:ty),*);)*) => {
        struct Calls { $($field: unsafe extern "C" fn($($arg),*) -> c_int,)* }
        impl Calls {
            fn find(lib: &Library) -> Result<Self> {
                // SAFETY: the types are those of the driver API's functions of these names.
                unsafe { Ok(Self { $($field: *lib.get($symbol).with_context(|| String::from_utf8_lossy($symbol).into_owned())?,)* }) }
            }
        }
    };
}

driver_calls! {
    init = b"cuInit": fn(c_uint);
    device_get = b"cuDeviceGet": fn(*mut c_int, c_int);
    ctx_create = b"cuCtxCreate_v2": fn(*mut Handle, c_uint, c_int);
    ctx_set_current = b"cuCtxSetCurrent": fn(Handle);
    ctx_synchronize = b"cuCtxSynchronize": fn();
    module_load_data = b"cuModuleLoadData": fn(*mut Handle, *const c_void);
    module_get_function = b"cuModuleGetFunction": fn(*mut Handle, Handle, *const c_char);
    mem_alloc = b"cuMemAlloc_v2": fn(*mut u64, usize);
    mem_host_alloc = b"cuMemHostAlloc": fn(*mut Handle, usize, c_uint);
    memcpy_dtoh = b"cuMemcpyDtoH_v2": fn(*mut c_void, u64, usize);
    launch_kernel = b"cuLaunchKernel": fn(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    get_error_name = b"cuGetErrorName": fn(c_int, *mut *const c_char);
}

/// `cuMemHostAlloc`: mapped for the device.
const HOST_ALLOC_DEVICEMAP: c_uint = 2;

/// 256 threads step a linear congruential generator `iters` times from their own number and store
/// it; thread 0 reports its step count in `*progress` every 65536 steps.
const PTX: &CStr = c"
.version 7.8
.target sm_80
.address_size 64
.visible .entry work(.param .u64 p_iters, .param .u64 p_out, .param .u64 p_progress)
{
    .reg .pred %p<4>;
    .reg .b32 %r<3>;
    .reg .b64 %d<8>;
    ld.param.u64 %d0, [p_iters];
    ld.param.u64 %d1, [p_out];
    ld.param.u64 %d2, [p_progress];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %r0;
    mov.u64 %d3, 0;
NEXT:
    setp.ge.u64 %p0, %d3, %d0;
    @%p0 bra DONE;
    mad.lo.u32 %r1, %r1, 1664525, 1013904223;
    add.u64 %d3, %d3, 1;
    and.b64 %d4, %d3, 65535;
    setp.ne.u64 %p1, %d4, 0;
    @%p1 bra NEXT;
    setp.ne.u32 %p2, %r0, 0;
    @%p2 bra NEXT;
    st.volatile.u64 [%d2], %d3;
    bra NEXT;
DONE:
    mul.wide.u32 %d5, %r0, 4;
    add.u64 %d6, %d1, %d5;
    st.u32 [%d6], %r1;
    ret;
}
";

/// A context with the kernel above, an output buffer and a progress word.
pub struct Cuda {
    calls: Calls,
    context: Handle,
    kernel: Handle,
    out: u64,
    progress: *const u64,
    /// Keeps the code mapped; dropped last.
    _lib: Library,
}

// SAFETY: the driver API may be called from any thread; the handles are not tied to one.
unsafe impl Send for Cuda {}
// SAFETY: as above, and `progress` is only read.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens libcuda with these `dlopen` flags and makes a context on device 0.
    pub fn open(flags: c_int) -> Result<Self> {
        // SAFETY: libcuda's initialisers have no precondition.
        let lib = unsafe { Library::open(Some("libcuda.so.1"), flags) }.context("libcuda.so.1")?;
        let mut cuda = Self {
            calls: Calls::find(&lib)?,
            context: null_mut(),
            kernel: null_mut(),
            out: 0,
            progress: null(),
            _lib: lib,
        };
        let (mut device, mut module, mut progress) = (0, null_mut(), null_mut());
        let calls = &cuda.calls;
        // SAFETY: every pointer is to a live variable of the type that the call fills; the PTX
        // and the kernel's name end with a NUL.
        unsafe {
            cuda.check("cuInit", (calls.init)(0))?;
            cuda.check("cuDeviceGet", (calls.device_get)(&mut device, 0))?;
            let mut context = null_mut();
            cuda.check("cuCtxCreate", (calls.ctx_create)(&mut context, 0, device))?;
            cuda.check(
                "cuModuleLoadData",
                (calls.module_load_data)(&mut module, PTX.as_ptr().cast()),
            )?;
            let mut kernel = null_mut();
            cuda.check(
                "cuModuleGetFunction",
                (calls.module_get_function)(&mut kernel, module, c"work".as_ptr()),
            )?;
            let mut out = 0;
            cuda.check("cuMemAlloc", (calls.mem_alloc)(&mut out, 4096))?;
            cuda.check(
                "cuMemHostAlloc",
                (calls.mem_host_alloc)(&mut progress, 4096, HOST_ALLOC_DEVICEMAP),
            )?;
            (cuda.context, cuda.kernel, cuda.out) = (context, kernel, out);
        }
        cuda.progress = progress.cast();
        Ok(cuda)
    }

    fn check(&self, call: &str, result: c_int) -> Result<()> {
        if result == 0 {
            return Ok(());
        }
        let mut name: *const c_char = null();
        // SAFETY: `name` is filled with a static string, or stays null.
        unsafe { (self.calls.get_error_name)(result, &mut name) };
        // SAFETY: not null, so the driver's NUL-terminated static string.
        let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy());
        bail!("{call}: {} ({result})", name.as_deref().unwrap_or("?"))
    }

    /// Makes the context current on the calling thread.
    pub fn use_here(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        self.check("cuCtxSetCurrent", unsafe {
            (self.calls.ctx_set_current)(self.context)
        })
    }

    /// Starts the kernel on the default stream.
    pub fn start(&self, mut iters: u64) -> Result<()> {
        let (mut out, mut progress) = (self.out, self.progress as u64);
        let mut args: [*mut c_void; 3] = [
            (&raw mut iters).cast(),
            (&raw mut out).cast(),
            (&raw mut progress).cast(),
        ];
        // SAFETY: the kernel takes three 64-bit parameters, copied during the call.
        let result = unsafe {
            (self.calls.launch_kernel)(
                self.kernel,
                1,
                1,
                1,
                256,
                1,
                1,
                0,
                null_mut(),
                args.as_mut_ptr(),
                null_mut(),
            )
        };
        self.check("cuLaunchKernel", result)
    }

    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: no argument.
        self.check("cuCtxSynchronize", unsafe { (self.calls.ctx_synchronize)() })
    }

    /// How many steps thread 0 last reported.
    pub fn progress(&self) -> u64 {
        // SAFETY: host memory that the GPU writes while we read, hence volatile.
        unsafe { self.progress.read_volatile() }
    }

    /// How many of the 256 results are not what `iters` steps give.
    pub fn wrong_results(&self, iters: u64) -> Result<usize> {
        let mut results = [0u32; 256];
        // SAFETY: the buffer has room for the bytes asked for.
        let code =
            unsafe { (self.calls.memcpy_dtoh)(results.as_mut_ptr().cast(), self.out, size_of_val(&results)) };
        self.check("cuMemcpyDtoH", code)?;
        Ok((0u32..)
            .zip(results)
            .filter(|&(id, r)| r != expected(id, iters))
            .count())
    }
}

/// `steps` steps of the kernel's generator from `x`, by repeated squaring of one step.
fn expected(mut x: u32, mut steps: u64) -> u32 {
    let (mut a, mut c) = (1_664_525u32, 1_013_904_223u32);
    while steps > 0 {
        if steps & 1 == 1 {
            x = a.wrapping_mul(x).wrapping_add(c);
        }
        c = a.wrapping_mul(c).wrapping_add(c);
        a = a.wrapping_mul(a);
        steps >>= 1;
    }
    x
}

#[cfg(test)]
mod tests {
    #[test]
    fn expected_is_the_generator_stepped() {
        let mut x = 7u32;
        for steps in 0..1000 {
            assert_eq!(super::expected(7, steps), x);
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        }
    }
}
