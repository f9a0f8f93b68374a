//! The messages on `vgpud`'s control socket and on a session's socket.
//!
//! On the control socket a client sends a [`Request`] and gets exactly one [`Answer`]. A session's socket (a
//! socket pair whose ends a backend hands to `vgpud` and to the executor) carries [`FromExec`] one way and
//! [`ToExec`] the other, without answers but for [`FromExec::Done`].
//!
//! To a backend `vgpud` also sends [`Answer::End`], which answers nothing: at any time, before the answer to what the
//! backend has just asked, too.
use serde::{Deserialize, Serialize};

/// Version of these messages; another one is refused.
pub const VERSION: u32 = 5;
/// Version of [`Status`] and of everything else a tool prints as JSON.
pub const SCHEMA_VERSION: u32 = 3;
/// Bytes of one packet at most.
pub const PACKET_LEN_MAX: usize = 256 * 1024;
/// Edits that somebody may try at once who may not make them: each takes its time, in which no turn is given.
pub const EDITS_TRIED_MAX: usize = 16;

/// How urgent a VM's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// A session of this backend's VM is about to start, with these of the VM's GPUs, in this order; with all if it names none.
    OpenSession {
        session: u32,
        pid: u32,
        program: String,
        gpus: Vec<String>,
    },
    /// Its executor runs, or goes on running after `vgpud` was restarted; it has these GPUs. Descriptors: the turn page (a
    /// sealed memfd of [`crate::turn::PAGE_LEN`] bytes), `vgpud`'s end of the session's socket, a pidfd of the executor.
    AttachSession {
        session: u32,
        pid: u32,
        program: String,
        gpus: Vec<String>,
        exec_pid: u32,
    },
    /// It is over; its executor is gone.
    CloseSession { session: u32 },
    /// A backend asks what its VM may know of its GPUs; answered with [`Answer::VmGpus`].
    VmGpus,
    /// A tool asks for everything there is to see, of VMs from that number on.
    Status {
        #[serde(default)]
        from_vm: u32,
    },
    /// A tool asks for the turns that were given, the oldest first, from that number on.
    Turns { from: u64 },
    /// A tool asks to look for GPUs again; answered with [`Answer::Scanned`]. For who is no administrator there is no more of a
    /// look than for a [`Request::Status`].
    Scan,
    /// A tool asks to change something; answered with [`Answer::Changed`]. For administrators, but what all may try
    /// ([`Wanted::dry_run`]): all but [`Change::Reload`], and up to [`EDITS_TRIED_MAX`] edits. What was done, and what was
    /// refused, is kept for [`Request::Changes`].
    Change(Wanted),
    /// A tool asks who changed what, the oldest first, from that number on.
    Changes { from: u64 },
    /// A tool asks what happened, the oldest first, from that number on; of one VM, or of all.
    Events { from: u64, vm: Option<u32> },
    /// A tool asks for every statistic, exactly, of VMs from that number on.
    Stats {
        #[serde(default)]
        from_vm: u32,
    },
    /// A tool asks what VMs used by hour or by day, the oldest first.
    Usage(WantedUsage),
    /// The same of GPUs: neither VMs nor a pool are named.
    GpuUsage(WantedUsage),
    /// A tool asks which means of preemption hold on each GPU.
    Probe,
    /// A tool asks when sessions wanted a turn, and how much GPU time they then needed, from that number on.
    Arrivals { from: u64 },
}

/// Which part of what VMs used is wanted: that of hours that have a part in `from_s` to `to_s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedUsage {
    /// Of these VMs alone: a number, or a range such as "1-7".
    #[serde(default)]
    pub vms: Option<String>,
    /// Of VMs that were in this pool then.
    #[serde(default)]
    pub pool: Option<String>,
    /// From this second since 1970 on.
    pub from_s: u64,
    /// Up to this second since 1970.
    pub to_s: u64,
    pub by: Period,
    /// What the last answer said is to be asked with for the rest; `None` at first.
    #[serde(default)]
    pub next: Option<String>,
}

/// What is summed up. Hours and days are those of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Period {
    #[default]
    Hour,
    Day,
}

impl Period {
    /// Seconds.
    pub fn len_s(self) -> u64 {
        match self {
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Hour => "hour",
            Self::Day => "day",
        })
    }
}

/// A change that somebody wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub change: Change,
    /// Nothing is changed; the answer says what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// [`Status::map_version`] as the tool saw it. It is refused if the pool map's file is another one by now.
    #[serde(default)]
    pub seen: Option<String>,
    /// The tool's own word for the person who asks, as where a panel knows who that is.
    #[serde(default)]
    pub user: Option<String>,
}

impl From<Change> for Wanted {
    /// It is to be made, whatever was seen.
    fn from(change: Change) -> Self {
        Self {
            change,
            dry_run: false,
            seen: None,
            user: None,
        }
    }
}

/// What an administrator asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The pool map's file is edited, and what follows from it is done; all of the edits or none.
    Edit { edits: Vec<Edit> },
    /// A change of the pool map's file is taken back, if it was the last one.
    Undo {
        /// The change's.
        number: u64,
    },
    /// The pool map's file is read again.
    Reload {},
    /// The sessions of these VMs end, and none of theirs opens.
    Quarantine {
        vms: String,
        why: String,
        /// For so many seconds; until they are released unless it is given.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// The quarantine of these VMs ends.
    Release { vms: String },
}

/// A change of the pool map. A GPU is named by its index, UUID or PCI address; VMs by a number or a range
/// such as "1-7".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        #[serde(default)]
        settings: VmSettings,
        #[serde(default)]
        move_from_other: bool,
    },
    /// The VMs belong to no pool.
    UnregisterVms { vms: String },
    /// The VMs, which belong to a pool, get these settings.
    SetVms { vms: String, settings: VmSettings },
    /// The pool gets these settings.
    SetPool { pool: String, settings: PoolSettings },
}

/// How a pool's GPUs go from one VM to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Higher priority first; turns within a level, time slices across levels.
    Priority,
    /// GPU time in proportion to the VMs' weights, whatever their priority.
    Weighted,
    /// One turn after the other, in the order of asking, each until its work is done.
    Fifo,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Priority => "priority",
            Self::Weighted => "weighted",
            Self::Fifo => "fifo",
        })
    }
}

/// How VMs share a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// They take turns, and each is a GPU context of its own.
    Turns,
    /// All run at once through NVIDIA's MPS, without turns. A fault of one ends the work of all.
    Mps,
}

impl std::fmt::Display for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Turns => "turns",
            Self::Mps => "mps",
        })
    }
}

/// What is done about a VM that breaks a limit, in this order. A rung that a pool leaves out is only logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// An event says that half the limit is reached.
    Warn,
    /// At three quarters of it, the VM counts as low until its turn ends.
    Deprioritise,
    /// At the limit, what runs is stopped, and others run.
    Stop,
    /// A quarter later, the session ends with CUDA_ERROR_LAUNCH_TIMEOUT.
    End,
    /// After so many violations, the VM may start no work for a while.
    Quarantine,
}

impl Rung {
    /// All, from the bottom.
    pub const ALL: [Self; 5] = [
        Self::Warn,
        Self::Deprioritise,
        Self::Stop,
        Self::End,
        Self::Quarantine,
    ];
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Warn => "warn",
            Self::Deprioritise => "deprioritise",
            Self::Stop => "stop",
            Self::End => "end",
            Self::Quarantine => "quarantine",
        })
    }
}

/// What can be set for a pool; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PoolSettings {
    pub policy: Option<Policy>,
    /// One session at a time on a GPU, whatever its level.
    pub exclusive: Option<bool>,
    pub sharing: Option<Sharing>,
    /// Its part of the GPUs that it shares with other pools, 1 to 100.
    pub weight: Option<u32>,
    /// How many of its GPUs a VM gets; all if 0.
    pub gpus_per_vm: Option<u32>,
    /// The rungs that are climbed; the others are only logged.
    pub ladder: Option<Vec<Rung>>,
    /// The limits of its VMs that have none of their own.
    pub limits: Limits,
}

/// The limits of a VM, or of a pool's VMs; what is `None` stays as it is, and 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Calls per second, over all its processes.
    pub call_rate: Option<u64>,
    /// Calls at once, after a pause.
    pub call_burst: Option<u64>,
    /// Driver-heavy calls per second (contexts, registrations, allocations, modules), over all its processes.
    pub driver_call_rate: Option<u64>,
    /// Such calls at once, after a pause.
    pub driver_call_burst: Option<u64>,
    /// Percent of each GPU's time, averaged over a second.
    pub gpu_share_max: Option<u32>,
    /// MiB of memory on each GPU, its contexts' own included.
    pub gpu_memory_mib: Option<u64>,
    /// The longest turn while others wait, in milliseconds.
    pub turn_ms_max: Option<u64>,
    /// The longest that a kernel, or a graph's launch, may run, in milliseconds of its own time on the GPU.
    pub kernel_ms_max: Option<u64>,
    /// Seconds without work after which a session's GPU memory is moved to the host, until its next call.
    pub suspend_after_s: Option<u64>,
    /// Violations within [`Limits::violation_window_s`] after which the VM is quarantined.
    pub violations_max: Option<u32>,
    pub violation_window_s: Option<u64>,
    /// How long a quarantine lasts, in seconds; 0: until it is released.
    pub quarantine_s: Option<u64>,
}

/// What can be set for a VM; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct VmSettings {
    pub priority: Option<Priority>,
    /// Its turns are this many quanta long while others of its level wait, 1 to 100.
    pub weight: Option<u32>,
    /// Operations of the VM in flight on its GPUs at most.
    pub queue_depth: Option<u32>,
    /// How long it waits, in milliseconds, before it counts as of the level above.
    pub aging_ms: Option<u64>,
    pub limits: Limits,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// Done; nothing to say.
    Ok,
    /// To [`Request::Hello`].
    Welcome { pool: String, priority: Priority },
    /// To [`Request::OpenSession`]: the GPUs to show to it, by UUID ("GPU-…", "MIG-…"), and whether it shares them through
    /// MPS.
    Gpus { uuids: Vec<String>, mps: bool },
    /// To [`Request::VmGpus`].
    VmGpus { gpus: Box<VmGpus> },
    /// To [`Request::Status`]. VMs from `next_vm` on did not fit.
    Status {
        status: Box<Status>,
        next_vm: Option<u32>,
    },
    /// To [`Request::Turns`].
    Turns { turns: Vec<TurnRecord>, next: u64 },
    /// To [`Request::Scan`].
    Scanned(Scanned),
    /// To [`Request::Change`].
    Changed(Changed),
    /// To [`Request::Changes`].
    Changes { changes: Vec<ChangeRecord>, next: u64 },
    /// To [`Request::Events`].
    Events { events: Vec<EventRecord>, next: u64 },
    /// To [`Request::Stats`]. VMs from `next_vm` on did not fit.
    Stats { stats: Box<Stats>, next_vm: Option<u32> },
    /// To [`Request::Usage`]. The rest, if there is more, is what is asked for with `next`; of a part there may be nothing.
    Usage {
        usage: Vec<UsageRecord>,
        next: Option<String>,
    },
    /// The same to [`Request::GpuUsage`].
    GpuUsage {
        gpus: Vec<GpuUsageRecord>,
        next: Option<String>,
    },
    /// To [`Request::Probe`].
    Probe { gpus: Vec<GpuRungs> },
    /// To [`Request::Arrivals`].
    Arrivals { arrivals: Vec<Arrival>, next: u64 },
    /// To a backend, unasked: the executor of this session is to be killed. Its program gets this CUDA error.
    End { session: u32, code: i32 },
    /// It is refused.
    Refused { why: Refusal, message: String },
}

/// What a VM may know of its GPUs: them, its own memory and its own processes on them, and nothing of anybody else's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmGpus {
    /// The driver's version; empty if it is not known.
    pub driver: String,
    /// In the order of a session that starts now.
    pub gpus: Vec<VmGpu>,
    pub processes: Vec<VmProcess>,
}

/// A GPU of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmGpu {
    pub uuid: String,
    pub model: String,
    pub pci: String,
    /// Bytes, no more than the VM's quota.
    pub memory: u64,
    /// Bytes that the VM's sessions have.
    pub used: u64,
    /// Percent of the last second in which the VM had its turn and worked.
    pub utilisation: Option<u32>,
    /// The places in [`VmGpus::gpus`] of those whose memory it can read and write.
    #[serde(default)]
    pub peers: Vec<u32>,
    pub facts: GpuFacts,
    pub readings: GpuReadings,
}

/// A process of a VM on one of its GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmProcess {
    pub pid: u32,
    /// Its place in [`VmGpus::gpus`].
    pub gpu: u32,
    /// Bytes.
    pub memory: u64,
}

/// What stays as it is while a GPU is there, as far as its driver tells. Numbers are NVML's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuFacts {
    /// The CUDA version of its driver, such as 13000.
    pub cuda_version: Option<u32>,
    /// Vendor and model on the PCI bus in one word, and those of the board.
    pub pci_device: Option<u32>,
    pub pci_subsystem: Option<u32>,
    /// Compute capability.
    pub compute: Option<[u32; 2]>,
    pub architecture: Option<u32>,
    pub brand: Option<u32>,
    /// CUDA cores.
    pub cores: Option<u32>,
    /// Bits.
    pub bus_width: Option<u32>,
    pub ecc: Option<bool>,
    /// MHz at most: graphics, SM, memory, video.
    pub clocks_max: [Option<u32>; 4],
    /// Generation and lanes of its PCI Express link at most.
    pub pcie_max: [Option<u32>; 2],
}

/// What changes all the time, of the whole GPU, whoever uses it; as far as its driver tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuReadings {
    /// MHz: graphics, SM, memory, video.
    pub clocks: [Option<u32>; 4],
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts that it takes, and may take.
    pub power: Option<u32>,
    pub power_limit: Option<u32>,
    /// Performance state, from 0.
    pub performance: Option<u32>,
}

/// What a GPU measures and its driver counts, of all who use it, so for operators alone. What the driver does not tell, or
/// not now, is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct GpuMeasured {
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts that it takes.
    pub power_mw: Option<u32>,
    /// Milliwatts that it may take.
    pub power_limit_mw: Option<u32>,
    /// Percent of the time, up to a second, in which a kernel ran.
    pub utilisation: Option<u32>,
    /// Percent of that time in which its memory was read or written.
    pub memory_utilisation: Option<u32>,
    /// Bytes in use, the driver's own included.
    pub memory_used: Option<u64>,
    /// Bytes there are.
    pub memory_total: Option<u64>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    /// Whether its memory finds errors and corrects them (ECC).
    pub ecc: Option<bool>,
    /// Errors that could not be corrected, since the driver was loaded.
    pub ecc_volatile: Option<u64>,
    /// Errors that could not be corrected, in the GPU's life.
    pub ecc_aggregate: Option<u64>,
    /// Whether it is in MIG mode.
    pub mig: Option<bool>,
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
    Quarantined {
        /// Seconds until that is over; not known if somebody has to release it.
        wait_s: Option<u64>,
    },
    /// There is a backend for that VM already.
    Duplicate,
    /// No such session, or no such GPU among those of the VM.
    NotFound,
    /// The pool map is wrong; the old one stays.
    BadConfig,
    /// Only administrators may.
    NotAllowed,
    /// Somebody else changed the pool map meanwhile.
    Conflict,
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
    Proved {
        slices: bool,
        stop: bool,
        /// How long the stop and the resume of the proof took, in microseconds.
        stop_us: u64,
        resume_us: u64,
        /// libcuda has the calls to suspend a process.
        suspend: bool,
    },
    /// What `vgpud` needs to stop the session by itself: the resource manager's client and the handles of its subdevices
    /// and compute channels. Descriptor: the driver's control node, opened by that client. Sent anew when it changes.
    Channels {
        client: u32,
        subdevices: Vec<u32>,
        channels: Vec<u32>,
    },
    /// What calls took since the last such message, at most once a second.
    Latencies {
        /// From being taken from the ring until libcuda had it: windows, turn, limits.
        wait: Vec<Sample>,
        /// From then until it was seen to be done.
        service: Vec<Sample>,
        /// Both.
        total: Vec<Sample>,
        /// Microseconds for which calls were held back by a limit on their rate.
        throttled_us: u64,
        /// Calls that were refused for want of memory under the quota.
        refused: u64,
    },
    /// It ends, since its backend has let it go: what it still had in flight is nobody's loss.
    Leaving,
    /// It wants to know what the driver accounts to it from now on; answered by [`ToExec::MemoryInUse`], at once or, if it has
    /// asked a moment ago, when that is next looked up.
    MemoryWanted,
    /// It suspended itself, or is back: on an order, or since it has work again.
    Suspended { suspended: bool, microseconds: u64 },
}

/// So many times this long: microseconds, and how often.
pub type Sample = (u64, u64);

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
    /// The VM's page, which slot of it is the session's, and which of a slot's columns is that of each of the session's GPUs.
    /// Descriptor: the page.
    VmPage { slot: u32, columns: Vec<u32> },
    /// What the driver accounts to the executor's process on each of its GPUs, in bytes: every memory there is, its contexts'
    /// own included; empty if the driver does not say. Looked up after the last such message was sent; sent now and then while
    /// the session is there, and in answer to [`FromExec::MemoryWanted`]. Under a quota, a session's first context waits for
    /// it, up to a second.
    MemoryInUse {
        bytes: Vec<u64>,
        /// It was looked up after it was asked for.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        asked: bool,
    },
    /// The session ends, and its program gets this CUDA error from every later call.
    End { code: i32, why: String },
    /// Move the GPU memory to the host, until there is work again. Answered by [`FromExec::Suspended`].
    Suspend,
}

/// Everything there is to see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Version of this object; another one when a key goes or means something else.
    pub schema_version: u32,
    /// Version of `vgpud`.
    pub version: String,
    /// Seconds since `vgpud` started.
    pub uptime_s: u64,
    /// What the host is called.
    #[serde(default)]
    pub hostname: String,
    /// The pool map's file.
    pub config: String,
    /// The version of the pool map in use: another one for every other text of its file.
    pub map_version: String,
    /// What is not as the pool map wants it, or keeps `vgpud` from its work, a line each; empty when all is well.
    pub degraded: Vec<String>,
    /// What there is to know of the pool map's file if it is not what is in use: changed by hand and not read again, or not to
    /// be read.
    #[serde(default)]
    pub map_differs: Option<String>,
    pub gpus: Vec<GpuStatus>,
    pub pools: Vec<PoolStatus>,
    /// VMs that belong to no pool any longer, and that are quarantined or still have sessions.
    #[serde(default)]
    pub in_no_pool: Vec<VmStatus>,
}

/// A GPU, or a MIG instance of one: one that is there, or one that a pool names and that is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GpuStatus {
    /// `None` for one that is missing. Instances are numbered behind all GPUs.
    pub index: Option<u32>,
    pub uuid: String,
    /// Empty if it is not known.
    pub model: String,
    /// Its PCI address; empty if it is not known.
    pub pci: String,
    /// The version of its driver; empty if it is not known.
    pub driver: String,
    /// Bytes; 0 if it is not known.
    pub memory: u64,
    pub state: GpuState,
    /// The pools that it serves.
    pub pools: Vec<String>,
    /// The sessions that may use it now.
    pub sessions: u32,
    #[serde(default)]
    pub measured: GpuMeasured,
    /// The errors that its driver reported, each number once, the latest first.
    #[serde(default)]
    pub xids: Vec<XidStatus>,
}

/// An error that the driver reported (an Xid), when it came last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct XidStatus {
    pub number: u64,
    /// What it means, in short; `None` if that is not well known.
    pub meaning: Option<String>,
    /// Whether it is usually what a program did, and not the GPU.
    pub by_program: bool,
    /// Seconds since 1970.
    pub at_s: u64,
}

/// How a GPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// It is there and serves a pool.
    Ready,
    /// It is there and serves no pool.
    Unassigned,
    /// A pool names it and it is not there.
    Missing,
    /// It is in MIG mode: its instances can be assigned, itself cannot.
    Divided,
}

/// A pool and its VMs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolStatus {
    pub name: String,
    /// UUIDs, those of missing GPUs too.
    pub gpus: Vec<String>,
    /// Whether all of its GPUs are there.
    pub complete: bool,
    /// The VMs that belong to it, as the pool map writes them: "1-7".
    pub ranges: Vec<String>,
    pub policy: Policy,
    pub exclusive: bool,
    pub sharing: Sharing,
    /// Its part of the GPUs that it shares with other pools.
    pub weight: u32,
    /// How many of its GPUs a VM gets; 0 for all.
    pub gpus_per_vm: u32,
    pub ladder: Vec<Rung>,
    /// Those that have a backend, have run something, or have settings of their own.
    pub vms: Vec<VmStatus>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Part of that is an estimate: while several sessions work on one GPU at once, its time is split by slice.
    pub estimated: bool,
    /// The limits in force; `None` is no limit.
    pub limits: Limits,
    /// Violations of limits so far.
    pub violations: u64,
    /// If it is quarantined.
    pub quarantine: Option<QuarantineStatus>,
    pub sessions: Vec<SessionStatus>,
}

/// A quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QuarantineStatus {
    pub why: String,
    /// Seconds since 1970.
    pub since_s: u64,
    /// `None`: until it is released.
    pub until_s: Option<u64>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionStatus {
    pub session: u32,
    /// The process in the VM.
    pub pid: u32,
    pub program: String,
    /// "out", "waiting", "running", "idle", "asked", "stopped" or "suspended".
    pub state: String,
    /// GPU memory in bytes.
    pub memory: u64,
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
    /// The VM's.
    pub priority: Priority,
    /// Its pool's.
    pub policy: Policy,
    /// As of which priority it came first: the VM's, but for one that waited for long, or that was lowered for a limit. `None`
    /// where the policy knows no priorities.
    pub level: Option<Priority>,
    /// Microseconds since `vgpud` started.
    pub granted_us: u64,
    /// Microseconds it waited.
    pub waited_us: u64,
    /// Microseconds it was held, up to its last work if it was idle at the end; `None` while it is.
    pub held_us: Option<u64>,
    /// How it ended.
    pub end: Option<String>,
}

/// Something that happened and that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventRecord {
    /// Rises by one per event, over restarts.
    pub number: u64,
    /// Seconds since 1970.
    pub at_s: u64,
    pub kind: EventKind,
    pub vm: Option<u32>,
    pub session: Option<u32>,
    /// UUIDs.
    pub gpu: Option<String>,
    /// A sentence.
    pub message: String,
    /// The last calls of the session, the oldest first, where they matter.
    pub calls: Vec<CallRecord>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A limit is about to be broken.
    Warned,
    /// A VM counts as low for now.
    Deprioritised,
    /// Work was stopped.
    Stopped,
    /// A session was ended.
    Ended,
    /// A VM was quarantined.
    Quarantined,
    /// A quarantine is over.
    Released,
    /// The driver reported an error of the GPU (an Xid).
    GpuError,
    /// A GPU came or went.
    GpuChanged,
    /// A session was lost to an error of its own.
    Lost,
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Warned => "warned",
            Self::Deprioritised => "deprioritised",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
            Self::Quarantined => "quarantined",
            Self::Released => "released",
            Self::GpuError => "gpu error",
            Self::GpuChanged => "gpu changed",
            Self::Lost => "lost",
        })
    }
}

/// A call of a session, for the flight recorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CallRecord {
    /// CUDA's name of it.
    pub name: String,
    /// Microseconds before the event.
    pub before_us: u64,
    /// How long it took to be carried out on the host; `None` if it had not returned.
    pub took_us: Option<u64>,
    /// Which thread's ring it came through.
    pub ring: u32,
}

/// The GPUs that there are now, and the UUIDs of those that came and went since the last look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Scanned {
    pub gpus: Vec<GpuStatus>,
    pub appeared: Vec<String>,
    pub vanished: Vec<String>,
}

/// What was changed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// A line each; empty if everything is so already.
    pub changes: Vec<String>,
    /// The number under which it is kept; `None` if nothing was changed.
    pub number: Option<u64>,
    /// The `map_version` of a status, now; of the pool map's file, where it was only tried to have that read.
    pub map_version: String,
}

/// Who changed what, or tried to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangeRecord {
    /// Rises by one per change, over restarts.
    pub number: u64,
    /// Seconds since 1970.
    pub at_s: u64,
    /// The user that the tool ran as, as the kernel says; `None` if it was a signal that had the pool map read again.
    pub uid: Option<u32>,
    /// Who that was by the tool's own word.
    pub user: Option<String>,
    pub change: Change,
    /// What has changed, a line each.
    pub changes: Vec<String>,
    /// The lines of the pool map's file that went ("-") and came ("+"); empty if it stayed as it was.
    pub diff: String,
    /// The version of the pool map after it.
    pub map_version: String,
    /// Why it was not done; `None` if it was.
    pub refused: Option<String>,
}

/// What holds on a GPU, as sessions proved it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuRungs {
    pub uuid: String,
    /// The driver's version when it was proved.
    pub driver: String,
    /// Seconds since 1970; `None` if no session has tried yet.
    pub proved_s: Option<u64>,
    pub slices: bool,
    pub stop: bool,
    pub stop_us: u64,
    pub resume_us: u64,
    pub suspend: bool,
    /// `vgpud` can stop a session by itself.
    pub stop_by_vgpud: bool,
}

/// Percentiles of a latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
    pub sum: u64,
}

/// Every statistic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stats {
    /// Version of this object; another one when a key goes or means something else.
    pub schema_version: u32,
    pub uptime_s: u64,
    pub gpus: Vec<GpuStats>,
    pub vms: Vec<VmStats>,
}

/// A GPU's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GpuStats {
    pub uuid: String,
    /// Microseconds for which somebody had a turn on it and was not idle.
    pub busy_us: u64,
    /// Turns that went to another session than the one before.
    pub switches: u64,
    /// Sessions that wait for it.
    pub waiting: u32,
}

/// A VM's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmStats {
    pub vm: u32,
    pub pool: String,
    /// Calls that need the GPU: from being taken from the ring until NVIDIA's library had it.
    pub wait: Percentiles,
    /// From then until it was seen to be done.
    pub service: Percentiles,
    /// Both.
    pub total: Percentiles,
    /// From wanting a turn to having it.
    pub turn_wait: Percentiles,
    /// From being asked for a turn back to having given it.
    pub preemption: Percentiles,
    pub calls: u64,
    pub queued: u64,
    pub turns: u64,
    /// Turns that were asked back before their work was done.
    pub preemptions: u64,
    /// Turns that were ended by stopping what ran.
    pub stops: u64,
    pub gpu_microseconds: u64,
    pub estimated: bool,
    pub throttled_us: u64,
    pub violations: u64,
    /// Allocations refused by the memory quota.
    pub refused: u64,
    /// Bytes on all its GPUs.
    pub memory: u64,
}

/// What a VM used in an hour, or a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UsageRecord {
    /// When it began, in seconds since 1970.
    pub from_s: u64,
    /// When the next one began.
    pub to_s: u64,
    pub vm: u32,
    /// The pool that it was in then; empty if it was in none any longer.
    pub pool: String,
    #[serde(flatten)]
    pub used: Used,
}

/// What a VM used in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Used {
    /// Turn time less idle time.
    pub gpu_microseconds: u64,
    /// How much of that is an estimate: while several sessions work on one GPU at once, its time is split by their slices.
    pub estimated_microseconds: u64,
    /// Turns that it got.
    pub turns: u64,
    /// What its sessions waited for those, in all.
    pub turn_wait_us: u64,
    /// The median of these waits; of a day the highest of its hours'.
    pub turn_wait_p50_us: u64,
    /// Their 99th percentile; of a day the highest of its hours'.
    pub turn_wait_p99_us: u64,
    /// The longest of them.
    pub turn_wait_max_us: u64,
    /// Calls that needed the GPU and waited until NVIDIA's library had them.
    pub call_waits: u64,
    /// The median of these waits; of a day the highest of its hours'.
    pub call_wait_p50_us: u64,
    /// Their 99th percentile; of a day the highest of its hours'.
    pub call_wait_p99_us: u64,
    /// The longest of them.
    pub call_wait_max_us: u64,
    /// Calls done.
    pub calls: u64,
    /// Limits broken.
    pub violations: u64,
    /// Allocations refused by the memory quota.
    pub refused: u64,
    /// Bytes on all its GPUs times the seconds for which it had them.
    pub memory_byte_seconds: u64,
}

impl Used {
    /// Both. An executor may have counted anything, so no sum goes beyond what there are numbers for. The percentiles of both
    /// together are not known, but are no higher than the higher ones.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            gpu_microseconds: self.gpu_microseconds.saturating_add(other.gpu_microseconds),
            estimated_microseconds: self
                .estimated_microseconds
                .saturating_add(other.estimated_microseconds),
            turns: self.turns.saturating_add(other.turns),
            turn_wait_us: self.turn_wait_us.saturating_add(other.turn_wait_us),
            turn_wait_p50_us: self.turn_wait_p50_us.max(other.turn_wait_p50_us),
            turn_wait_p99_us: self.turn_wait_p99_us.max(other.turn_wait_p99_us),
            turn_wait_max_us: self.turn_wait_max_us.max(other.turn_wait_max_us),
            call_waits: self.call_waits.saturating_add(other.call_waits),
            call_wait_p50_us: self.call_wait_p50_us.max(other.call_wait_p50_us),
            call_wait_p99_us: self.call_wait_p99_us.max(other.call_wait_p99_us),
            call_wait_max_us: self.call_wait_max_us.max(other.call_wait_max_us),
            calls: self.calls.saturating_add(other.calls),
            violations: self.violations.saturating_add(other.violations),
            refused: self.refused.saturating_add(other.refused),
            memory_byte_seconds: self.memory_byte_seconds.saturating_add(other.memory_byte_seconds),
        }
    }
}

/// How long a GPU was in use in an hour, or a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GpuUsageRecord {
    /// When it began, in seconds since 1970.
    pub from_s: u64,
    /// When the next one began.
    pub to_s: u64,
    pub uuid: String,
    /// For which somebody had a turn on it and was not idle.
    pub busy_us: u64,
}

/// A session wanted a turn, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// Rises by one per arrival.
    pub number: u64,
    pub vm: u32,
    pub session: u32,
    pub pool: String,
    /// UUIDs.
    pub gpus: Vec<String>,
    pub priority: Priority,
    pub weight: u32,
    /// Its pool's; older records do not say it.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Microseconds since `vgpud` started.
    pub at_us: u64,
    /// How long it waited.
    pub waited_us: u64,
    /// GPU time that it then used until it had no more work, over as many turns as that took.
    pub used_us: u64,
}
