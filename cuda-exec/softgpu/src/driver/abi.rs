//! The types that cross the C boundary, and the macros that export functions.

use super::error::{self, CuError, Result};
use std::ffi::{CStr, c_char};

pub type CUresult = i32;
pub type CUdevice = i32;
/// A device address. Here it is an address of the process.
pub type CUdeviceptr = u64;
/// Handles are numbers, looked up in a table at each use, so that a bad one is found and never followed.
pub type CUcontext = u64;
pub type CUmodule = u64;
pub type CUfunction = u64;
pub type CUstream = u64;
pub type CUevent = u64;
pub type CUgraph = u64;
pub type CUgraphExec = u64;
pub type CUgraphNode = u64;
pub type CUlinkState = u64;
pub type CUarray = u64;
pub type CUmipmappedArray = u64;

/// `CU_STREAM_LEGACY`
pub const STREAM_LEGACY: CUstream = 1;
/// `CU_STREAM_PER_THREAD`
pub const STREAM_PER_THREAD: CUstream = 2;

/// Which stream the handle 0 means: it depends on the function's variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultStream {
    Legacy,
    PerThread,
}

/// A pointer where a result goes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Out<T>(pub *mut T);

impl<T> Out<T> {
    /// Stores the result; a null pointer is an error.
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: as part of the C interface the caller passes null or a pointer valid for this write.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores the result if it is wanted.
    pub fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // A pointer that is not null cannot fail.
            let _ = self.set(value);
        }
    }

    /// The value there now; a null pointer is an error.
    pub fn get(self) -> Result<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }
}

/// A pointer to an argument.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct In<T>(pub *const T);

impl<T: Copy> In<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The argument; a null pointer is an error.
    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// Element `index` of an array; a null pointer is an error.
    pub fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: as part of the C interface the caller passes null or a pointer to enough elements.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

impl In<u8> {
    /// The first `len` bytes.
    pub fn bytes(self, len: usize) -> Result<Vec<u8>> {
        if self.0.is_null() {
            return if len == 0 {
                Ok(Vec::new())
            } else {
                Err(error::INVALID_VALUE)
            };
        }
        // SAFETY: as part of the C interface the caller passes null or a pointer to that many bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.0, len) }.to_vec())
    }
}

/// A C string.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Text(pub *const c_char);

impl Text {
    /// The string; null or not UTF-8 is an error.
    pub fn get(self) -> Result<String> {
        if self.0.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: as part of the C interface the caller passes null or a terminated string.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| error::INVALID_VALUE)
    }
}

/// An exported function, for the table that `cuGetProcAddress` reads.
#[derive(Clone, Copy)]
pub struct Symbol {
    pub name: &'static str,
    pub address: *const (),
}

// SAFETY: the address is that of a function, and nobody writes through it.
unsafe impl Sync for Symbol {}

/// Runs the body of an exported function; no panic leaves it. Refused while the process is checkpointed.
pub fn guarded(body: impl FnOnce() -> Result) -> CUresult {
    match super::checkpoint::allows_calls() {
        Ok(()) => caught(body),
        Err(CuError(code)) => code,
    }
}

/// Runs the body of an exported function, whatever state the process is in; no panic leaves it.
pub fn caught(body: impl FnOnce() -> Result) -> CUresult {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(CuError(code))) => code,
        Err(_) => error::UNKNOWN.0,
    }
}

/// Exports functions whose bodies give a [`Result`], and lists them in a table.
macro_rules! api {
    ($table:ident; $($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $($(#[$meta])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments, missing_docs)]
        pub extern "C" fn $name($($arg: $ty),*) -> $crate::driver::abi::CUresult {
            $crate::driver::abi::guarded(move || $body)
        })*

        pub(crate) const $table: &[$crate::driver::abi::Symbol] = &[$($crate::driver::abi::Symbol {
            name: stringify!($name),
            address: $name as *const (),
        }),*];
    };
}

/// Exports functions in two variants, for the legacy and for the per-thread default stream.
macro_rules! stream_api {
    ($table:ident, $default:ident;
     $($(#[$meta:meta])* fn $name:ident | $per_thread:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $($(#[$meta])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments, missing_docs)]
        pub extern "C" fn $name($($arg: $ty),*) -> $crate::driver::abi::CUresult {
            let $default = $crate::driver::abi::DefaultStream::Legacy;
            $crate::driver::abi::guarded(move || $body)
        }
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments, missing_docs)]
        pub extern "C" fn $per_thread($($arg: $ty),*) -> $crate::driver::abi::CUresult {
            let $default = $crate::driver::abi::DefaultStream::PerThread;
            $crate::driver::abi::guarded(move || $body)
        })*

        pub(crate) const $table: &[$crate::driver::abi::Symbol] = &[$(
            $crate::driver::abi::Symbol { name: stringify!($name), address: $name as *const () },
            $crate::driver::abi::Symbol { name: stringify!($per_thread), address: $per_thread as *const () },
        )*];
    };
}

pub(crate) use {api, stream_api};
