//! The messages on `vgpud`'s control socket and on a session's socket.
//!
//! On the control socket a client sends a [`Request`] and gets exactly one [`Answer`]. A session's socket (a
//! socket pair whose ends a backend hands to `vgpud` and to the executor) carries [`FromExec`] one way and
//! [`ToExec`] the other, without answers but for [`FromExec::Done`].
use serde::{Deserialize, Serialize};

/// Version of these messages; another one is refused.
pub const VERSION: u32 = 2;
/// Version of [`Status`] and of everything else a tool prints as JSON.
pub const SCHEMA_VERSION: u32 = 2;
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
    /// A tool asks to read the pool map again. For administrators.
    Reload,
    /// A tool asks to look for GPUs again; answered with [`Answer::Scanned`]. For administrators.
    Scan,
    /// A tool asks to change the pool map's file, and what follows from it; all of the edits or none. With
    /// `dry_run` nothing is changed. For administrators.
    Edit { edits: Vec<Edit>, dry_run: bool },
}

/// A change of the pool map. A GPU is named by its index, UUID or PCI address; VMs by a number or a range
/// such as "1-7".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// The GPU serves the pool, which is created if there is none of that name.
    AssignGpu { gpu: String, pool: String },
    /// It serves the pool no longer.
    UnassignGpu { gpu: String, pool: String },
    /// The VMs belong to the pool. Those that belong to another one are moved only if `move_from_other` is set.
    RegisterVms {
        vms: String,
        pool: String,
        settings: VmSettings,
        move_from_other: bool,
    },
    /// The VMs belong to no pool.
    UnregisterVms { vms: String },
    /// The VMs, which belong to a pool, get these settings.
    SetVms { vms: String, settings: VmSettings },
}

/// What can be set for a VM; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmSettings {
    pub priority: Option<Priority>,
    /// Its turns are this many quanta long while others of its level wait, 1 to 100.
    pub weight: Option<u32>,
    /// Operations of the VM in flight on its GPUs at most.
    pub queue_depth: Option<u32>,
    /// How long it waits, in milliseconds, before it counts as of the level above.
    pub aging_ms: Option<u64>,
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
    /// To [`Request::Scan`]: the GPUs that are there now, and the UUIDs of those that came and went since the last look.
    Scanned {
        gpus: Vec<GpuStatus>,
        appeared: Vec<String>,
        vanished: Vec<String>,
    },
    /// To [`Request::Edit`]: what changes or changed, a line each; empty if everything is so already.
    Edited { changes: Vec<String> },
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
    /// Only administrators may.
    NotAllowed,
    /// It was tried and could not be done, as when the pool map's file cannot be written.
    Failed,
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
    /// How many operations may be in flight per stream, and over all streams of the session: `None` if only the
    /// streams' windows limit them.
    Window { operations: u32, depth: Option<u32> },
    /// Stop what runs; it is resumed without an order after `deadman_ms`.
    Stop { sequence: u64, deadman_ms: u64 },
    /// Resume it.
    Resume { sequence: u64 },
}

/// Everything there is to see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of `vgpud`.
    pub version: String,
    /// Seconds since `vgpud` started.
    pub uptime_s: u64,
    /// The pool map's file.
    pub config: String,
    /// What is not as the pool map wants it, a line each; empty when all is well.
    pub degraded: Vec<String>,
    pub gpus: Vec<GpuStatus>,
    pub pools: Vec<PoolStatus>,
}

/// A physical GPU: one that is there, or one that a pool names and that is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuStatus {
    /// `None` for one that is missing.
    pub index: Option<u32>,
    pub uuid: String,
    /// Empty if it is not known.
    pub model: String,
    /// Its PCI address; empty if it is not known.
    pub pci: String,
    /// Bytes; 0 if it is not known.
    pub memory: u64,
    pub state: GpuState,
    /// The pools that it serves.
    pub pools: Vec<String>,
    /// The sessions that may use it now.
    pub sessions: u32,
}

/// How a GPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// It is there and serves a pool.
    Ready,
    /// It is there and serves no pool.
    Unassigned,
    /// A pool names it and it is not there.
    Missing,
}

/// A pool and its VMs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: String,
    /// UUIDs, those of missing GPUs too.
    pub gpus: Vec<String>,
    /// Whether all of its GPUs are there.
    pub complete: bool,
    /// The VMs that belong to it, as the pool map writes them: "1-7".
    pub ranges: Vec<String>,
    /// Those that have a backend, have run something, or have settings of their own.
    pub vms: Vec<VmStatus>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    pub vm: u32,
    /// Its backend is connected.
    pub connected: bool,
    pub priority: Priority,
    pub weight: u32,
    /// Milliseconds.
    pub aging_ms: u64,
    /// Operations in flight at most; `None` if only the windows of its streams limit them.
    pub queue_depth: Option<u32>,
    /// Operations that its sessions took from their rings and that are not known to be done.
    pub queued: u64,
    /// Calls done since its first session.
    pub calls: u64,
    /// Turns it got.
    pub turns: u64,
    /// Turn time less idle time, in microseconds.
    pub gpu_microseconds: u64,
    /// Part of that is an estimate: while VMs of several levels run at once, their time is split by slice.
    pub estimated: bool,
    pub sessions: Vec<SessionStatus>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    pub session: u32,
    /// The process in the VM.
    pub pid: u32,
    pub program: String,
    /// "out", "waiting", "running", "idle", "asked" or "stopped".
    pub state: String,
    /// UUIDs.
    pub gpus: Vec<String>,
    pub queued: u64,
    pub calls: u64,
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
