//! Files without a name, as which memory of a device is shared between processes. What one is for, and of which device, its name
//! says: a descriptor is all that a process gets that imports it.

use super::abi::CUdevice;
use super::device::device;
use super::error::{self, Result};
use super::runtime::initialised;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`
pub const FILE: u32 = 1;
/// It has its length for good, so that whoever has mapped it can rely on it.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Memory with a handle.
    Memory,
    /// All that a pool may have.
    Pool,
}

/// A file that was imported.
pub struct Imported {
    pub file: OwnedFd,
    pub len: u64,
    pub ordinal: CUdevice,
}

fn name(what: What, ordinal: CUdevice) -> Result<String> {
    let what = match what {
        What::Memory => "memory",
        What::Pool => "pool",
    };
    Ok(format!("softgpu-{what}-{}", device(ordinal)?.part.uuid_text()))
}

/// A new file of that many bytes, which take no memory before they are written.
pub fn create(what: What, ordinal: CUdevice, len: u64) -> Result<OwnedFd> {
    let name = CString::new(name(what, ordinal)?).map_err(|_| error::UNKNOWN)?;
    // SAFETY: the name is a terminated string.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if file < 0 {
        return Err(error::OUT_OF_MEMORY);
    }
    // SAFETY: just made, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    // SAFETY: calls on a descriptor of ours.
    let made = unsafe {
        libc::ftruncate(file.as_raw_fd(), len as i64) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) == 0
    };
    if made { Ok(file) } else { Err(error::OUT_OF_MEMORY) }
}

/// Another descriptor of a file, for the caller to close.
pub fn export(file: &OwnedFd) -> Result<i32> {
    // SAFETY: makes a descriptor, and changes none.
    let descriptor = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(error::OUT_OF_MEMORY);
    }
    Ok(descriptor)
}

/// The file of a descriptor, which stays the caller's; an error if it is no such file, of the other kind, or of a device that this
/// process does not see.
pub fn import(what: What, descriptor: usize) -> Result<Imported> {
    let descriptor = i32::try_from(descriptor).map_err(|_| error::UNKNOWN)?;
    // SAFETY: makes a descriptor, and changes none; one that is not open is an error.
    let file = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) };
    if file < 0 {
        return Err(error::UNKNOWN);
    }
    // SAFETY: just made, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let link = link.map_err(|_| error::UNKNOWN)?;
    // SAFETY: a call on a descriptor of ours; what has no seals answers -1.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & SEALS != SEALS {
        return Err(error::UNKNOWN);
    }
    let is_of = |what, ordinal| {
        let name = name(what, ordinal);
        name.is_ok_and(|name| link.as_os_str() == format!("/memfd:{name} (deleted)").as_str())
    };
    let ordinals = 0..initialised()?.devices.len() as CUdevice;
    let mut all = ordinals.flat_map(|ordinal| [(What::Memory, ordinal), (What::Pool, ordinal)]);
    let (found, ordinal) = all
        .find(|&(what, ordinal)| is_of(what, ordinal))
        .ok_or(error::UNKNOWN)?;
    if found != what {
        return Err(error::NOT_SUPPORTED);
    }
    let len = status(&file)?.st_size as u64;
    Ok(Imported { file, len, ordinal })
}

/// What tells a file from all others, while it is there.
pub fn identity(file: &OwnedFd) -> Result<u64> {
    Ok(status(file)?.st_ino)
}

fn status(file: &OwnedFd) -> Result<libc::stat> {
    // SAFETY: zero is a valid value of every field.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor of ours, and a place that outlives the call.
    match unsafe { libc::fstat(file.as_raw_fd(), &mut status) } {
        0 => Ok(status),
        _ => Err(error::UNKNOWN),
    }
}
