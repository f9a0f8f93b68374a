//! How the library reaches the device: through `/dev/vgpu` in a VM ([`device`]), or, in a process on the host
//! itself, as its own vhost-user front end ([`socket`]). Nothing above this module knows which.
//!
//! A transport serves one session. All methods may be called from any thread at any time after [`Transport::open`].

pub mod device;
pub mod socket;

use vgpu_protocol::virtio::Status;

/// Why a transport could not do as told.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no device: no `/dev/vgpu`, no such socket, or its driver or backend speaks another version.
    #[error("{0}")]
    NoDevice(String),
    /// The host refused.
    #[error("the host refused: {0:?}")]
    Refused(Status),
    /// Out of memory in the guest, or it is too scattered.
    #[error("out of memory")]
    NoMemory,
    /// The device or the session is gone.
    #[error("the device is gone")]
    Gone,
    /// An operating-system call failed.
    #[error("{0}")]
    Os(#[from] std::io::Error),
}

/// One session's way to the device.
pub trait Transport: Send + Sync {
    /// Opens the session, proposing windows (bases, best first) that the caller has found free; the one chosen.
    /// Called once, before everything else.
    fn open(&self, windows: &[u64]) -> Result<u64, TransportError>;

    /// Allocates a zeroed buffer of `len` bytes that is mapped at `addr` (inside the arena, page-aligned) in this process, replacing
    /// what is mapped there, and at the same address in the executor; with `register`, pinned for the GPU.
    fn alloc(&self, addr: u64, len: u64, register: bool) -> Result<(), TransportError>;

    /// Gives the buffer at `addr` back once the host no longer uses it, and leaves an inaccessible reservation at its place in this process.
    fn free(&self, addr: u64, len: u64) -> Result<(), TransportError>;

    /// Has the host consume the ring at `addr` (inside one buffer).
    fn ring_create(&self, ring: u32, addr: u64) -> Result<(), TransportError>;

    /// Has it stop doing so. This library reuses the rings of threads that have ended, and so destroys none.
    #[allow(dead_code)]
    fn ring_destroy(&self, ring: u32) -> Result<(), TransportError>;

    /// Tells the host that a sleeping ring has records.
    fn doorbell(&self, ring: u32) -> Result<(), TransportError>;

    /// Sleeps until the count of "look" events differs from `seen`, or until `deadline_ns` (CLOCK_MONOTONIC, 0 for none);
    /// the count now. Several threads may sleep at a time; each event wakes all.
    fn wait(&self, seen: u64, deadline_ns: u64) -> Result<u64, TransportError>;
}
