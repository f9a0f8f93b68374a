//! Messages between a backend and its executors, over a `SOCK_SEQPACKET` socket pair that never leaves the
//! host. A request is an [`ExecHeader`] and its body, with descriptors as ancillary data; each is answered by one
//! [`ExecReply`], in order. The backend does not trust an executor's replies: it runs a tenant's work.
use crate::limits::WINDOW_CANDIDATES_MAX;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The descriptor on which an executor finds its socket.
pub const EXEC_SOCKET_FD: i32 = 3;

/// What a backend asks of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExecKind {
    /// Choose a window, confine libcuda to it, start libcuda. Body [`Start`]; descriptors: an eventfd that the
    /// executor writes when the guest should look, and a socket on which it asks what [`ShareKind`] says. The reply's value is the window's base. First message.
    Start = 1,
    /// The guest's memory. Body: one u64 length per region; descriptors: one per region. Second message, once.
    Memory = 2,
    /// Map pages: body [`ExecMap`] and its [`ExecRun`]s; chunks as in [`crate::virtio::Map`].
    Map = 3,
    /// Undo a mapping: body [`crate::virtio::Unmap`].
    Unmap = 4,
    /// Consume a ring: body [`crate::virtio::RingCreate`]; descriptor: an eventfd that is the ring's doorbell.
    RingCreate = 5,
    /// Stop consuming it: body [`crate::virtio::RingDestroy`].
    RingDestroy = 6,
    /// Where turns come from: descriptors: a socket to vgpud, the turn page. No body. Once after Start, and
    /// again whenever vgpud was restarted.
    Scheduler = 7,
}

impl ExecKind {
    /// The kind with this number.
    pub fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Start,
            2 => Self::Memory,
            3 => Self::Map,
            4 => Self::Unmap,
            5 => Self::RingCreate,
            6 => Self::RingDestroy,
            7 => Self::Scheduler,
            _ => return None,
        })
    }
}

/// Starts every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecHeader {
    /// An [`ExecKind`].
    pub kind: u32,
    /// Repeated in the reply.
    pub sequence: u32,
}

/// Answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecReply {
    /// The request's.
    pub sequence: u32,
    /// A [`crate::virtio::Status`].
    pub status: u32,
    /// As the request says, else 0.
    pub value: u64,
}

/// Starts an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Start {
    /// The VM's number, for the log.
    pub vm: u32,
    /// The session's number, for the log.
    pub session: u32,
    /// How many of `windows` are set, from 1.
    pub windows_len: u32,
    /// Zero.
    pub reserved: u32,
    /// Bases that the guest proposes, best first.
    pub windows: [u64; WINDOW_CANDIDATES_MAX],
}

/// Maps runs of guest memory one after the other; fields as in [`crate::virtio::Map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecMap {
    /// Address in the executor.
    pub addr: u64,
    /// Bytes of the whole mapping.
    pub len: u64,
    /// Bytes that earlier messages covered.
    pub offset: u64,
    /// [`crate::virtio::MAP_REGISTER`], [`crate::virtio::MAP_PROGRAM`] or 0.
    pub flags: u32,
    /// How many runs follow.
    pub runs_len: u32,
}

/// Guest memory that lies side by side in one region's file; the backend has checked that it is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecRun {
    /// Index of the region.
    pub region: u32,
    /// Zero.
    pub reserved: u32,
    /// Offset in its file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Bytes of a handle for memory or an event that processes share, and of the token that stands for it.
pub const SHARE_LEN: usize = 64;

/// What an executor asks of its backend, over the second socket that came with Start; each is answered by one [`ShareReply`]. What is
/// shared by a descriptor has it with the request to publish it, and with the answer to who finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ShareKind {
    /// Other sessions of the VM may find a handle: the reply is its token.
    Publish = 1,
    /// The reply is the handle of a token.
    Find = 2,
    /// A token of this session's, for what it says, stands for nothing any more.
    Withdraw = 3,
}

impl ShareKind {
    /// The kind with this number.
    pub fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Publish,
            2 => Self::Find,
            3 => Self::Withdraw,
            _ => return None,
        })
    }
}

/// See [`ShareKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareRequest {
    /// A [`ShareKind`].
    pub kind: u32,
    /// What kind of thing the handle or token is for: one that is looked for as another is not found.
    pub what: u32,
    /// Bytes of the memory that is published.
    pub len: u64,
    /// The handle or the token.
    pub bytes: [u8; SHARE_LEN],
    /// The token of what it is a part of, and is only found with, else zeros.
    pub of: [u8; SHARE_LEN],
}

/// See [`ShareKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareReply {
    /// A [`crate::virtio::Status`].
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes of memory that was found.
    pub len: u64,
    /// The token or the handle.
    pub bytes: [u8; SHARE_LEN],
}

/// Bytes of a request at most.
pub const REQUEST_LEN_MAX: usize = size_of::<ExecHeader>()
    + size_of::<ExecMap>()
    + crate::limits::RUNS_PER_MESSAGE_MAX * size_of::<ExecRun>();
