//! The `libnvidia-ml.so.1` of a guest: NVIDIA's management library as far as a VM may look. It shows the VM's own GPUs, its own
//! memory and processes on them, and changes nothing.
//!
//! * [`told`]: what the host tells, and how old that may be;
//! * [`system`]: starting, and what is not one GPU's;
//! * [`device`], [`memory`], [`topology`], [`fields`]: what there is to ask of a GPU;
//! * [`events`]: event sets, which never have an event;
//! * [`refused`]: every other function of the interface.
//!
//! What the host does not tell is answered with NVML_ERROR_NOT_SUPPORTED, what would change a GPU with
//! NVML_ERROR_NO_PERMISSION.
#![allow(non_snake_case)]

mod device;
mod events;
#[cfg(test)]
mod fake;
mod fields;
mod memory;
mod refused;
mod system;
mod told;
mod topology;

use std::ffi::{CStr, c_char, c_uint};

/// An `nvmlReturn_t`.
type Return = c_uint;
type Result<T = ()> = std::result::Result<T, Return>;

/// The codes that this library returns, by NVML's numbers.
mod code {
    use super::Return;

    pub const SUCCESS: Return = 0;
    pub const UNINITIALIZED: Return = 1;
    pub const INVALID_ARGUMENT: Return = 2;
    pub const NOT_SUPPORTED: Return = 3;
    pub const NO_PERMISSION: Return = 4;
    pub const NOT_FOUND: Return = 6;
    pub const INSUFFICIENT_SIZE: Return = 7;
    pub const DRIVER_NOT_LOADED: Return = 9;
    pub const TIMEOUT: Return = 10;
    pub const GPU_IS_LOST: Return = 15;
    pub const MEMORY: Return = 20;
    pub const INSUFFICIENT_RESOURCES: Return = 23;
    pub const ARGUMENT_VERSION_MISMATCH: Return = 25;
    pub const UNKNOWN: Return = 999;
}

/// Exports functions of the interface, each under all of its names. A body gives a [`Result`]; a panic in it is an unknown
/// error, since the program that calls is not ours to end.
macro_rules! api {
    ($(fn $($name:ident)|+ ($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $crate::api!(@one [$($name)+] ($($arg: $ty),*) $body);
    )*};
    (@one [$($name:ident)+] $args:tt $body:block) => {
        $($crate::api!(@export $name $args $body);)+
    };
    (@export $name:ident ($($arg:ident: $ty:ty),*) $body:block) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $ty),*) -> $crate::Return {
            $crate::answer(move || $body)
        }
    };
}
use api;

/// What a body comes to.
fn answer(body: impl FnOnce() -> Result) -> Return {
    // What it shares with other calls is behind locks that are taken as they are found.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => code::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => code::UNKNOWN,
    }
}

/// Stores a result.
fn put<T>(out: *mut T, value: T) -> Result {
    if out.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    // SAFETY: as part of the C interface the caller passes null or a pointer valid for this write.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// What the caller has stored.
fn get<T: Copy>(from: *const T) -> Result<T> {
    if from.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    // SAFETY: as part of the C interface the caller passes null or a pointer valid for this read.
    Ok(unsafe { from.read_unaligned() })
}

/// Stores the first items of a list, and their number in `count`, which says how many there is room for; or only their
/// number, with an error, if that is too little.
fn put_list<T: Copy>(items: &[T], count: *mut c_uint, out: *mut T) -> Result {
    let room = get(count)? as usize;
    put(count, items.len() as c_uint)?;
    if items.len() > room {
        return Err(code::INSUFFICIENT_SIZE);
    }
    for (at, item) in items.iter().enumerate() {
        put(out.wrapping_add(at), *item)?;
    }
    Ok(())
}

/// Stores a text with its end.
fn put_text(text: &str, out: *mut c_char, len: c_uint) -> Result {
    if out.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    if text.len() >= len as usize {
        return Err(code::INSUFFICIENT_SIZE);
    }
    for (at, byte) in text.bytes().chain([0]).enumerate() {
        put(out.wrapping_add(at), byte as c_char)?;
    }
    Ok(())
}

/// A text argument.
fn get_text(text: *const c_char) -> Result<String> {
    if text.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    // SAFETY: as part of the C interface the caller passes null or a terminated string.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map(str::to_owned)
        .map_err(|_| code::INVALID_ARGUMENT)
}

/// Checks the version word that a structure starts with: its size, and its number in the highest byte.
fn check_version<T>(out: *const T, number: u32) -> Result<c_uint> {
    let version: c_uint = get(out.cast())?;
    match version == size_of::<T>() as c_uint | number << 24 {
        true => Ok(version),
        false => Err(code::ARGUMENT_VERSION_MISMATCH),
    }
}
