//! The driver API's C types, as far as the library uses them, and the arguments that are pointers.
//!
//! The pointer types below are only ever made by a C caller, who promises what the driver API's documentation
//! says of that argument: null, or valid for the access. Their methods therefore are safe.
use std::ffi::{CStr, c_char, c_int, c_void};
use vgpu_protocol::result::{self, Code};

/// A CUresult.
pub type CUresult = c_int;
/// Ordinal of a device.
pub type CUdevice = c_int;
/// An address in device memory, or in memory that the device reaches.
pub type CUdeviceptr = u64;
/// Opaque handles: pointers in C, never dereferenced.
pub type CUcontext = usize;
/// See [`CUcontext`].
pub type CUstream = usize;
/// See [`CUcontext`].
pub type CUevent = usize;
/// See [`CUcontext`].
pub type CUmodule = usize;
/// See [`CUcontext`].
pub type CUfunction = usize;
/// See [`CUcontext`].
pub type CUlibrary = usize;
/// See [`CUcontext`].
pub type CUkernel = usize;
/// See [`CUcontext`].
pub type CUgraph = usize;
/// See [`CUcontext`].
pub type CUgraphExec = usize;
/// See [`CUcontext`].
pub type CUlinkState = usize;
/// See [`CUcontext`].
pub type CUarray = usize;
/// See [`CUcontext`].
pub type CUmipmappedArray = usize;
/// See [`CUcontext`].
pub type CUuserObject = usize;
/// What kernels know a texture by.
pub type CUtexObject = u64;
/// What kernels know a surface by.
pub type CUsurfObject = u64;

/// See [`CUcontext`].
pub type CUmemoryPool = usize;
/// See [`CUcontext`]; a number in C.
pub type CUmemGenericAllocationHandle = u64;
pub type CUgraphNode = usize;

/// The stream handle that always is the legacy default stream.
pub const CU_STREAM_LEGACY: CUstream = 1;
/// The stream handle that always is the calling thread's default stream.
pub const CU_STREAM_PER_THREAD: CUstream = 2;

/// A CUuuid.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CUuuid(pub [u8; 16]);

/// A CUdevprop.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CUdevprop {
    pub max_threads_per_block: c_int,
    pub max_threads_dim: [c_int; 3],
    pub max_grid_size: [c_int; 3],
    pub shared_mem_per_block: c_int,
    pub total_constant_memory: c_int,
    pub simd_width: c_int,
    pub mem_pitch: c_int,
    pub regs_per_block: c_int,
    pub clock_rate: c_int,
    pub texture_align: c_int,
}

/// A CUctxCreateParams.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CUctxCreateParams {
    pub exec_affinity_params: usize,
    pub num_exec_affinity_params: c_int,
    pub cig_params: usize,
}

/// One side of a CUDA_MEMCPY2D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy2DSide {
    pub x: usize,
    pub y: usize,
    pub memory: u32,
    pub host: usize,
    pub device: CUdeviceptr,
    pub array: usize,
    pub pitch: usize,
}

/// A CUDA_MEMCPY2D.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy2D {
    pub from: Memcpy2DSide,
    pub to: Memcpy2DSide,
    pub width: usize,
    pub height: usize,
}

/// A CUmemcpyAttributes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CUmemcpyAttributes {
    pub access_order: u32,
    pub from_hint: [u32; 2],
    pub to_hint: [u32; 2],
    pub flags: u32,
}

/// A CUDA_MEMCPY3D_BATCH_OP. An operand is a type of 32 bits, then a pointer, bytes of a row, rows of a layer and a hint, or
/// an array and an offset.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CUmemcpy3DOp {
    pub from: [usize; 5],
    pub to: [usize; 5],
    pub extent: [usize; 3],
    pub access_order: u32,
    pub flags: u32,
}

/// A CUipcMemHandle or a CUipcEventHandle.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IpcHandle(pub [u8; 64]);

/// A CUhostFn.
pub type CUhostFn = unsafe extern "C" fn(*mut c_void);

/// Where a result goes.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Refuses null.
    pub fn check(self) -> Result<Self, Code> {
        if self.0.is_null() {
            Err(result::INVALID_VALUE)
        } else {
            Ok(self)
        }
    }

    /// Stores the result; refuses null.
    pub fn set(self, value: T) -> Result<(), Code> {
        self.check()?;
        // SAFETY: not null, so by the API's contract valid for a write (see the module).
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores the result if the caller wants it.
    pub fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Stores the `index`-th element; the caller has checked it against the length that C passed.
    pub fn set_at(self, index: usize, value: T) -> Result<(), Code> {
        self.check()?;
        // SAFETY: as in `set`; by the API's contract the array is as long as the argument beside it says.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }
}

impl<T> Out<T> {
    /// The place for a value of another type.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// A place that nobody wants filled.
    pub fn none() -> Self {
        Self(std::ptr::null_mut())
    }

    /// Where it lies.
    pub fn addr(self) -> usize {
        self.0 as usize
    }

    /// Whether nobody wants it filled.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl<T: Copy> Out<T> {
    /// Reads what lies there, for arguments that go both ways; refuses null.
    pub fn get(self) -> Result<T, Code> {
        self.check()?;
        // SAFETY: not null, so by the API's contract valid for a read.
        Ok(unsafe { self.0.read_unaligned() })
    }
}

impl Out<c_char> {
    /// Stores `text` with its terminator in a buffer of `len` bytes, cut to what fits.
    pub fn set_text(self, text: &[u8], len: c_int) -> Result<(), Code> {
        self.check()?;
        let len = usize::try_from(len).map_err(|_| result::INVALID_VALUE)?;
        let Some(room) = len.checked_sub(1) else {
            return Err(result::INVALID_VALUE);
        };
        let text = &text[..text.len().min(room)];
        for (i, &byte) in text.iter().enumerate() {
            self.set_at(i, byte as c_char)?;
        }
        self.set_at(text.len(), 0)
    }
}

/// Where an argument, or an array of them, lies.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> In<T> {
    /// Nothing, where a caller need not pass anything.
    pub fn null() -> Self {
        Self(std::ptr::null())
    }

    /// What a caller is given to look at.
    pub fn at_address(address: usize) -> Self {
        Self(address as *const T)
    }
}

impl<T: Copy> In<T> {
    /// Nothing.
    pub fn none() -> Self {
        Self(std::ptr::null())
    }

    /// An argument at `addr`.
    ///
    /// # Safety
    /// Null, or valid for what the call that took it may read, for as long as the result is used.
    pub unsafe fn new(addr: usize) -> Self {
        Self(addr as *const T)
    }

    /// Where it lies.
    pub fn addr(self) -> usize {
        self.0 as usize
    }

    /// Whether the caller passed nothing.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The argument; refuses null.
    pub fn get(self) -> Result<T, Code> {
        self.at(0)
    }

    /// The `index`-th element, which the API's contract says there is; refuses null.
    pub fn at(self, index: usize) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(result::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract (see the module) valid for reads of that element.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

impl In<Out<u8>> {
    /// The place of the `index`-th element, for options whose value is replaced by a result.
    pub fn place(self, index: usize) -> Result<Out<usize>, Code> {
        self.at(index)?;
        Ok(Out(self.0.wrapping_add(index).cast_mut().cast()))
    }
}

/// Host memory that a call reads or writes: bytes at an address, with a length beside it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Host(*mut u8);

impl Host {
    /// The memory at `addr`.
    ///
    /// # Safety
    /// Null, or valid for what the call that takes it does, as the driver API says.
    pub unsafe fn new(addr: usize) -> Self {
        Self(addr as *mut u8)
    }

    /// The address.
    pub fn addr(self) -> u64 {
        self.0 as u64
    }

    /// Whether it is null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Copies the bytes from `offset` on to `to`, as many as that holds; false if there is no memory for some of them. The
    /// kernel copies, so what is not there is an error and not a signal.
    pub fn read(self, offset: u64, to: &mut [u8]) -> bool {
        let from = self.addr().wrapping_add(offset);
        let mut done = 0;
        while done < to.len() {
            let local = libc::iovec {
                iov_base: to[done..].as_mut_ptr().cast(),
                iov_len: to.len() - done,
            };
            let remote = libc::iovec {
                iov_base: from.wrapping_add(done as u64) as *mut c_void,
                iov_len: to.len() - done,
            };
            // SAFETY: writes into `to`; what it reads is checked by the kernel.
            match unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) } {
                n @ 1.. => done += n as usize,
                0 => return false,
                _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) => return false,
                // Not allowed here: trust the image.
                _ => {
                    // SAFETY: by the API's contract the image is as long as it says.
                    unsafe {
                        (from as *const u8)
                            .wrapping_add(done)
                            .copy_to(to[done..].as_mut_ptr(), to.len() - done)
                    };
                    return true;
                }
            }
        }
        true
    }

    /// Copies `len` bytes, from `offset`, to `to`.
    ///
    /// # Safety
    /// `to` is valid for writes of `len` bytes and does not overlap the caller's memory.
    pub unsafe fn copy_out(self, offset: usize, to: *mut u8, len: usize) {
        // SAFETY: the API's contract for this memory, and this function's for `to`.
        unsafe { self.0.add(offset).copy_to_nonoverlapping(to, len) };
    }

    /// Copies `len` bytes from `from` to `offset`.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` bytes and does not overlap the caller's memory.
    pub unsafe fn copy_in(self, offset: usize, from: *const u8, len: usize) {
        // SAFETY: the API's contract for this memory, and this function's for `from`.
        unsafe { crate::bulk::copy(from, self.0.add(offset), len) };
    }

    /// Copies `len` bytes from `from`, which may overlap.
    pub fn copy_from(self, from: Host, len: usize) {
        // SAFETY: by the API's contract both are valid for `len` bytes.
        unsafe { self.0.copy_from(from.0, len) };
    }

    /// `len` bytes from its start; refuses null.
    pub fn bytes<'a>(self, len: usize) -> Result<&'a [u8], Code> {
        if self.0.is_null() {
            return Err(result::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract valid for reads of `len` bytes for the length of the call.
        Ok(unsafe { std::slice::from_raw_parts(self.0, len) })
    }
}

/// A C string.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// The string at `addr`.
    ///
    /// # Safety
    /// Null, or a C string, for as long as the call that takes it lasts.
    pub unsafe fn new(addr: usize) -> Self {
        Self(addr as *const c_char)
    }

    /// Whether there is none.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The string without its terminator; refuses null.
    pub fn get<'a>(self) -> Result<&'a CStr, Code> {
        if self.0.is_null() {
            return Err(result::INVALID_VALUE);
        }
        // SAFETY: not null, so by the API's contract a C string that lives as long as the call.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }
}

/// A CUstreamCallback.
pub type CUstreamCallback = unsafe extern "C" fn(usize, CUresult, *mut c_void);

/// The function of a host callback.
#[derive(Clone, Copy)]
enum HostFunction {
    Plain(CUhostFn),
    /// With the stream that it is told.
    OfStream(CUstreamCallback, usize),
}

/// The function of a host callback together with its argument.
#[derive(Clone, Copy)]
pub struct HostCall {
    function: HostFunction,
    data: usize,
}

impl HostCall {
    /// What the caller of `cuLaunchHostFunc` passed; refuses a null function.
    pub fn new(function: Option<CUhostFn>, data: Host) -> Result<Self, Code> {
        let function = function.ok_or(result::INVALID_VALUE)?;
        Ok(Self {
            function: HostFunction::Plain(function),
            data: data.addr() as usize,
        })
    }

    /// What the caller of `cuStreamAddCallback` passed; refuses a null function.
    pub fn of_stream(function: Option<CUstreamCallback>, stream: CUstream, data: Host) -> Result<Self, Code> {
        let function = function.ok_or(result::INVALID_VALUE)?;
        Ok(Self {
            function: HostFunction::OfStream(function, stream),
            data: data.addr() as usize,
        })
    }

    /// A function of this library's.
    pub fn ours(function: CUhostFn, data: usize) -> Self {
        let function = HostFunction::Plain(function);
        Self { function, data }
    }

    /// Function and argument, unless it is a stream's.
    pub fn parts(self) -> Option<(CUhostFn, usize)> {
        match self.function {
            HostFunction::Plain(function) => Some((function, self.data)),
            HostFunction::OfStream(..) => None,
        }
    }

    /// Runs it.
    pub fn run(self) {
        let data = self.data as *mut c_void;
        // SAFETY: the caller promised that the function may be called once with these arguments per execution of the node,
        // from a thread of the driver.
        unsafe {
            match self.function {
                HostFunction::Plain(function) => function(data),
                HostFunction::OfStream(function, stream) => function(stream, result::SUCCESS, data),
            }
        }
    }
}

#[cfg(test)]
impl<T> Out<T> {
    /// Where a test wants its result.
    pub fn to(place: &mut T) -> Self {
        Self(place)
    }
}

#[cfg(test)]
impl<T> In<T> {
    /// A test's argument.
    pub fn from(place: &[T]) -> Self {
        Self(place.as_ptr())
    }
}
