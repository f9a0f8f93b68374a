//! How a guest's library reaches the device: through `/dev/vgpu` in a VM ([`device`]), or, in a process on the host
//! itself, as its own vhost-user front end ([`socket`]). Nothing above this crate knows which.
//!
//! A transport serves one session. All methods may be called from any thread at any time after [`Transport::open`]; before it
//! only [`Transport::gpus`].

pub mod device;
mod reason;
pub mod socket;

use device::Device;
use socket::{Socket, memory};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use vgpu_protocol::gpus::{GpuName, Reply};
use vgpu_protocol::virtio::Status;

/// The backend's socket, for a process on the host itself: what the environment variable `VGPU_SOCKET` names, unless that is empty.
pub fn socket_path() -> Option<PathBuf> {
    std::env::var_os("VGPU_SOCKET")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Why a transport could not do as told.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no device: no `/dev/vgpu`, no such socket, or its driver or backend speaks another version.
    #[error("{0}")]
    NoDevice(String),
    /// The host refused.
    #[error("{}", reason::refused(*.0))]
    Refused(Status),
    /// The host refuses the VM for so many seconds, or, if 0, until somebody releases it.
    #[error("{}", reason::quarantined(*.0))]
    Quarantined(u32),
    /// Out of memory in the guest, or it is too scattered.
    #[error("out of memory")]
    NoMemory,
    /// There is no memory there that this process may write.
    #[error("no memory of this process")]
    NotItsOwn,
    /// The memory is of a kind that the device cannot have, or its driver is from before it could have any.
    #[error("memory that cannot be shared with the device")]
    Unsupported,
    /// The device or the session is gone.
    #[error("the host's end of the device is gone; its operator starts it anew")]
    Gone,
    /// An operating-system call failed.
    #[error("{0}")]
    Os(#[from] std::io::Error),
}

/// What the VM may know of its GPUs, over a way of its own that is open for this one question. No session is opened.
pub fn gpus() -> Result<Reply, TransportError> {
    match socket_path() {
        Some(path) => Socket::connect_with(&path, memory::LEN_MIN)?.gpus(),
        None => Device::open()?.gpus(),
    }
}

/// The open file of the session, which a forked child closes: its parent's end must be the session's.
static SESSION_FD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn forked() {
    let fd = SESSION_FD.swap(-1, Ordering::Relaxed);
    if fd >= 0 {
        // SAFETY: the session's own descriptor, in a child whose library answers no call any more; close is safe there.
        unsafe { libc::close(fd) };
    }
}

/// Has forked children close the descriptor that the session lives by, until this is dropped, which comes before its
/// own close.
struct ClosedInChildren(RawFd);

impl ClosedInChildren {
    fn new(fd: RawFd) -> Self {
        SESSION_FD.store(fd, Ordering::Relaxed);
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: the handler does only what a forked child may do, and stays loaded.
            unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        });
        Self(fd)
    }
}

impl Drop for ClosedInChildren {
    fn drop(&mut self) {
        // Another session's stays.
        let _ = SESSION_FD.compare_exchange(self.0, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// One session's way to the device.
pub trait Transport: Send + Sync {
    /// What the VM may know of its GPUs.
    fn gpus(&self) -> Result<Reply, TransportError>;

    /// Opens the session, proposing windows (bases, best first) that the caller has found free; the one chosen. The session
    /// has these GPUs, in this order, each once; all of the VM's if none is named. May be called again if it failed.
    fn open(&self, windows: &[u64], gpus: &[GpuName]) -> Result<u64, TransportError>;

    /// Allocates a zeroed buffer of `len` bytes that is mapped at `addr` (inside the arena, page-aligned) in this process, replacing
    /// what is mapped there, and at the same address in the executor; with `register`, pinned for the GPU.
    fn alloc(&self, addr: u64, len: u64, register: bool) -> Result<(), TransportError>;

    /// Gives the buffer at `addr` back once the host no longer uses it, and leaves an inaccessible reservation at its place in this process.
    fn free(&self, addr: u64, len: u64) -> Result<(), TransportError>;

    /// Has the host map this process' own pages from `addr` on (page-aligned, outside the window) at the same address in the
    /// executor, for as long as it has them registered. They stay what they are to this process.
    fn pin(&self, addr: u64, len: u64) -> Result<(), TransportError>;

    /// Undoes exactly that, once the host no longer uses the pages.
    fn unpin(&self, addr: u64, len: u64) -> Result<(), TransportError>;

    /// Has the host consume the ring at `addr` (inside one buffer).
    fn ring_create(&self, ring: u32, addr: u64) -> Result<(), TransportError>;

    /// Has it stop doing so.
    fn ring_destroy(&self, ring: u32) -> Result<(), TransportError>;

    /// Tells the host that a sleeping ring has records.
    fn doorbell(&self, ring: u32) -> Result<(), TransportError>;

    /// Sleeps until the count of "look" events differs from `seen`, or until `deadline_ns` (CLOCK_MONOTONIC, 0 for none);
    /// the count now. Several threads may sleep at a time; each event wakes all.
    fn wait(&self, seen: u64, deadline_ns: u64) -> Result<u64, TransportError>;
}
