//! Pages that are shared with `vgpud`: files that cannot shrink, mapped once and for good.
use rustix::fs::{SealFlags, Stat};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::os::fd::AsFd;

/// Sees that a file is at least so long and cannot become shorter. What it is, to tell it from another one.
pub fn check_sealed(file: impl AsFd, len: usize) -> std::io::Result<Stat> {
    let stat = rustix::fs::fstat(&file)?;
    let seals = rustix::fs::fcntl_get_seals(&file)?;
    if stat.st_size < len as _ || !seals.contains(SealFlags::SHRINK) {
        return Err(std::io::Error::other("the page is too short or not sealed"));
    }
    Ok(stat)
}

/// Maps the beginning of a file that was checked, for as long as the process lives.
pub fn map_for_good(file: impl AsFd, len: usize) -> std::io::Result<*mut c_void> {
    let rw = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice replaces none; the file cannot shrink.
    Ok(unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, rw, MapFlags::SHARED, file, 0) }?)
}
