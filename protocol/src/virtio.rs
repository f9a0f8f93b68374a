//! The virtio-vgpu device: configuration space, and the messages on its queues.
//!
//! | queue | direction | a buffer holds |
//! | --- | --- | --- |
//! | 0 control | guest asks, device answers | readable [`ControlHeader`] and body, then a writable [`ControlReply`] and body |
//! | 1 doorbell | guest to device | one readable [`Doorbell`] |
//! | 2 event | device to guest | one writable [`Event`]; the guest keeps the queue filled |
//!
//! Control requests of different sessions may complete in any order; those of one session complete in the
//! order they were made.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The virtio device id that is used: QEMU's generic vhost-user device accepts only ids that it has a name
/// for, and no Linux driver claims this one.
pub const DEVICE_ID: u32 = 21;
/// Number of virtqueues.
pub const QUEUES: usize = 3;
/// Index of the control queue.
pub const QUEUE_CONTROL: u16 = 0;
/// Index of the doorbell queue.
pub const QUEUE_DOORBELL: u16 = 1;
/// Index of the event queue.
pub const QUEUE_EVENT: u16 = 2;
/// "VGPU", the first word of the configuration space.
pub const MAGIC: u32 = u32::from_le_bytes(*b"VGPU");
/// Version of this wire. Either side refuses a version it does not know.
pub const VERSION: u32 = 1;

/// The device's configuration space, read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Sessions the VM may have open.
    pub sessions_max: u32,
    /// Rings of a session.
    pub rings_max: u32,
    /// Scattered page runs a session may have mapped.
    pub runs_max: u32,
    /// Runs in one MAP message.
    pub runs_per_message_max: u32,
    /// Bytes a session may have mapped.
    pub mapped_len_max: u64,
    /// Bytes of the address window.
    pub window_len: u64,
    /// Bytes of the arena at the window's start.
    pub arena_len: u64,
}

/// What a control request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ControlKind {
    /// Open a session: body [`SessionOpen`] and the names of the GPUs that it is to have, reply body [`SessionOpened`]. The
    /// header's session is 0.
    SessionOpen = 1,
    /// Close it. Answered once its executor is gone and no page is in use any more. No bodies.
    SessionClose = 2,
    /// Map guest pages into the executor: body [`Map`] and its runs.
    Map = 3,
    /// Undo a whole mapping: body [`Unmap`]. Answered once the host no longer uses the pages.
    Unmap = 4,
    /// Start consuming a ring: body [`RingCreate`].
    RingCreate = 5,
    /// Stop consuming it: body [`RingDestroy`].
    RingDestroy = 6,
    /// What the VM may know of its GPUs: no body, reply body as in [`crate::gpus`]. The header's session is 0, and none is
    /// started.
    Gpus = 7,
}

impl ControlKind {
    /// The kind with this number.
    pub fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::SessionOpen,
            2 => Self::SessionClose,
            3 => Self::Map,
            4 => Self::Unmap,
            5 => Self::RingCreate,
            6 => Self::RingDestroy,
            7 => Self::Gpus,
            _ => return None,
        })
    }
}

/// Starts every control request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControlHeader {
    /// A [`ControlKind`].
    pub kind: u32,
    /// The session it is about, from 1.
    pub session: u32,
}

/// Starts every control reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControlReply {
    /// A [`Status`].
    pub status: u32,
    /// With [`Status::Quarantined`]: seconds until that is over, 0 if somebody has to release the VM. Else zero.
    pub wait_s: u32,
}

/// How a control request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The message is malformed: wrong length, unknown kind, a value out of bounds.
    Invalid = 1,
    /// There is no such session, mapping or ring, or no such GPU of the VM.
    NotFound = 2,
    /// A limit of the protocol or of the VM would be exceeded.
    Limit = 3,
    /// None of the proposed windows is free in the executor.
    NoWindow = 4,
    /// The VM's pool has no GPU that works.
    NoGpu = 5,
    /// The VM is quarantined.
    Quarantined = 6,
    /// The session is lost: its executor died or its context faulted.
    Lost = 7,
    /// The host failed; its log says why.
    HostError = 8,
    /// The VM is in no pool.
    NoPool = 9,
    /// The executor has something of its own at those addresses.
    Taken = 10,
    /// The host's scheduler does not answer.
    NoScheduler = 11,
}

impl Status {
    /// The status with this number; an unknown one is [`Status::HostError`].
    pub fn from_u32(status: u32) -> Self {
        match status {
            0 => Self::Ok,
            1 => Self::Invalid,
            2 => Self::NotFound,
            3 => Self::Limit,
            4 => Self::NoWindow,
            5 => Self::NoGpu,
            6 => Self::Quarantined,
            7 => Self::Lost,
            9 => Self::NoPool,
            10 => Self::Taken,
            11 => Self::NoScheduler,
            _ => Self::HostError,
        }
    }
}

/// Opens a session.
///
/// Behind it come [`crate::limits::GPUS_MAX`] [`crate::gpus::GpuName`]s at most, each once: those of the VM's GPUs that the session
/// is to have, in the order in which its program numbers them. Without any it gets all, in the VM's order. If one is none of
/// the VM's it is [`Status::NotFound`]: names come from [`ControlKind::Gpus`], and the VM's GPUs may have changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionOpen {
    /// The guest's process id, shown to the operator and otherwise unused.
    pub pid: u32,
    /// How many of `windows` are set, from 1.
    pub windows_len: u32,
    /// Bases of address windows of [`crate::limits::WINDOW_LEN`] bytes that are free in the guest process,
    /// best first; 2 MiB aligned, below 2^47.
    pub windows: [u64; crate::limits::WINDOW_CANDIDATES_MAX],
    /// The program's name, zero-padded UTF-8, shown to the operator.
    pub name: [u8; 32],
}

/// A session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionOpened {
    /// Its number, from 1. Never reused while the device lives.
    pub session: u32,
    /// Zero.
    pub reserved: u32,
    /// Base of the window that both sides use.
    pub window: u64,
}

/// Maps runs of guest-physical pages, one after the other, at one address in the executor.
///
/// A mapping with more runs than fit one message is sent as several with the same `addr`, `len` and `flags`
/// and rising `offset`; it takes effect with the one that completes it. The first mapping of a session is its
/// session area: at the window's base, [`crate::limits::AREA_LEN`] bytes, with [`MAP_REGISTER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Map {
    /// Address in the guest process and in the executor; page-aligned, inside the arena or, with [`MAP_PROGRAM`], outside
    /// the window.
    pub addr: u64,
    /// Bytes of the whole mapping; a multiple of the page size.
    pub len: u64,
    /// Bytes of it that earlier messages covered.
    pub offset: u64,
    /// [`MAP_REGISTER`], [`MAP_PROGRAM`] or 0.
    pub flags: u32,
    /// How many [`Run`]s follow, from 1.
    pub runs_len: u32,
}

/// In [`Map::flags`]: register the pages with CUDA, so that the GPU reads and writes them (pinned memory).
pub const MAP_REGISTER: u32 = 1;

/// In [`Map::flags`]: the pages are a program's own memory, of which it registers ranges with `cuMemHostRegister`. They count
/// as registered, and cannot be unmapped before it has unregistered all of them.
pub const MAP_PROGRAM: u32 = 2;

/// Guest-physical pages that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Run {
    /// Guest-physical address; page-aligned.
    pub gpa: u64,
    /// Bytes; a multiple of the page size.
    pub len: u64,
}

/// Undoes a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Unmap {
    /// The mapping's address.
    pub addr: u64,
}

/// Starts consuming a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingCreate {
    /// Index of the ring, below [`crate::limits::RINGS_MAX`].
    pub ring: u32,
    /// Zero.
    pub reserved: u32,
    /// Where it lies: inside one mapping, page-aligned, [`crate::ring::RING_LEN`] bytes.
    pub addr: u64,
}

/// Stops consuming a ring. Records already in it are not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingDestroy {
    /// Index of the ring.
    pub ring: u32,
    /// Zero.
    pub reserved: u32,
}

/// Says that a ring whose consumer sleeps has something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Doorbell {
    /// The session.
    pub session: u32,
    /// Its ring.
    pub ring: u32,
}

/// Says "look at the session area": something there changed. It carries no state, so none can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// The session; 0 for all.
    pub session: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Config>() == 48);
const _: () = assert!(size_of::<SessionOpen>() == 104);
const _: () = assert!(size_of::<SessionOpened>() == 16);
const _: () = assert!(size_of::<Map>() == 32);
const _: () = assert!(
    size_of::<ControlHeader>()
        + size_of::<SessionOpen>()
        + crate::limits::GPUS_MAX as usize * size_of::<crate::gpus::GpuName>()
        <= crate::limits::CONTROL_LEN_MAX
);
const _: () = assert!(
    size_of::<ControlHeader>() + size_of::<Map>() + crate::limits::RUNS_PER_MESSAGE_MAX * size_of::<Run>()
        <= crate::limits::CONTROL_LEN_MAX
);
