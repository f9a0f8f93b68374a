//! The messages on `vgpud`'s control socket and on a session's socket.
//!
//! On the control socket a client sends a [`Request`] and gets exactly one [`Answer`]. A session's socket (a
//! socket pair whose ends a backend hands to `vgpud` and to the executor) carries [`FromExec`] one way and
//! [`ToExec`] the other, without answers but for [`FromExec::Done`].
use serde::{Deserialize, Serialize};

/// Version of these messages; another one is refused.
pub const VERSION: u32 = 1;
/// Bytes of one packet at most.
pub const PACKET_LEN_MAX: usize = 256 * 1024;

/// How urgent a VM's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Waits for the others.
    Low,
    /// In between.
    Medium,
    /// First.
    High,
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// What a client of the control socket asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// A backend says whose VM it serves. First message of a backend.
    Hello { version: u32, vm: u32 },
    /// A session of this backend's VM is about to start.
    OpenSession { session: u32, pid: u32, program: String },
    /// Its executor runs, or goes on running after `vgpud` was restarted. Descriptors: the turn page (a sealed memfd of
    /// [`crate::turn::PAGE_LEN`] bytes), `vgpud`'s end of the session's socket, a pidfd of the executor.
    AttachSession {
        session: u32,
        pid: u32,
        program: String,
        exec_pid: u32,
    },
    /// It is over; its executor is gone.
    CloseSession { session: u32 },
    /// A tool asks for everything there is to see.
    Status,
    /// A tool asks for the turns that were given, the oldest first, from that number on.
    Turns { from: u64 },
    /// A tool asks to read the pool map again.
    Reload,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// Done; nothing to say.
    Ok,
    /// To [`Request::Hello`].
    Welcome { pool: String, priority: Priority },
    /// To [`Request::OpenSession`]: the GPUs to show to it, by UUID ("GPU-…").
    Gpus { uuids: Vec<String> },
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Turns`].
    Turns { turns: Vec<TurnRecord>, next: u64 },
    /// It is refused.
    Refused { why: Refusal, message: String },
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The message makes no sense here.
    Invalid,
    /// The VM is in no pool.
    NotMapped,
    /// Its pool has no usable GPU.
    NoGpu,
    /// It is quarantined.
    Quarantined,
    /// There is a backend for that VM already.
    Duplicate,
    /// No such session.
    NotFound,
    /// The pool map is wrong; the old one stays.
    BadConfig,
}

/// From a session's executor to `vgpud`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromExec {
    /// It has work for the GPU and no turn.
    Want,
    /// It gave its turn back after being asked to ([`crate::turn::State::Yield`] to `None`), or unasked.
    Released,
    /// How a [`ToExec`] order with a sequence number went.
    Done {
        sequence: u64,
        ok: bool,
        microseconds: u64,
    },
    /// What was proved on this GPU by its effect.
    Proved { slices: bool, stop: bool },
}

/// From `vgpud` to a session's executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToExec {
    /// Set the hardware time slice of all its contexts, present and future, in microseconds.
    Slice { sequence: u64, microseconds: u64 },
    /// How many operations may be in flight per stream.
    Window { operations: u32 },
    /// Stop what runs; it is resumed without an order after `deadman_ms`.
    Stop { sequence: u64, deadman_ms: u64 },
    /// Resume it.
    Resume { sequence: u64 },
}

/// Everything there is to see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this structure.
    pub schema_version: u32,
    pub gpus: Vec<GpuStatus>,
    pub pools: Vec<PoolStatus>,
}

/// A physical GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuStatus {
    pub index: u32,
    pub uuid: String,
    pub model: String,
    pub pci: String,
    /// Bytes.
    pub memory: u64,
    pub pools: Vec<String>,
}

/// A pool and its VMs that have a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: String,
    pub gpus: Vec<String>,
    pub vms: Vec<VmStatus>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    pub vm: u32,
    pub priority: Priority,
    pub sessions: Vec<SessionStatus>,
    /// Turns it got.
    pub turns: u64,
    /// Turn time less idle time, in microseconds.
    pub gpu_microseconds: u64,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    pub session: u32,
    pub pid: u32,
    pub program: String,
    pub state: String,
}

/// A turn that was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// Rises by one per turn.
    pub number: u64,
    pub vm: u32,
    pub session: u32,
    pub gpu: String,
    pub priority: Priority,
    /// Microseconds since `vgpud` started.
    pub granted_us: u64,
    /// Microseconds it waited.
    pub waited_us: u64,
    /// Microseconds it was held; `None` while it is.
    pub held_us: Option<u64>,
    /// How it ended.
    pub end: Option<String>,
}
