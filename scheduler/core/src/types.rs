//! The vocabulary: who takes part, what happens, what is to be done.

/// A physical GPU, by its index in the host's inventory, below [`GpuSet::MAX`].
pub type Gpu = u32;
/// A VM's number.
pub type Vm = u32;

/// A pool's number, of the caller's choice.
pub type Pool = u32;

/// A session: one guest process' use of its VM's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Whose it is.
    pub vm: Vm,
    /// Its number within the VM.
    pub number: u32,
}

/// A set of GPUs of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuSet(u64);

impl GpuSet {
    /// No GPU.
    pub const EMPTY: Self = Self(0);
    /// GPUs that can be told apart.
    pub const MAX: u32 = u64::BITS;

    /// Whether it has no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members of both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members of either.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they have a member in common.
    pub fn meets(self, other: Self) -> bool {
        !self.and(other).is_empty()
    }

    /// How many members it has.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether all members of the other one are its own.
    pub fn has_all(self, other: Self) -> bool {
        self.and(other) == other
    }

    /// The members in rising order.
    pub fn iter(self) -> impl Iterator<Item = Gpu> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let gpu = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (gpu < Self::MAX).then_some(gpu)
        })
    }
}

impl FromIterator<Gpu> for GpuSet {
    /// Panics on a GPU that is not below [`GpuSet::MAX`].
    fn from_iter<I: IntoIterator<Item = Gpu>>(gpus: I) -> Self {
        gpus.into_iter().fold(Self::EMPTY, |set, gpu| {
            assert!(gpu < Self::MAX, "GPU {gpu} is beyond the limit of {}", Self::MAX);
            Self(set.0 | 1 << gpu)
        })
    }
}

/// How urgent a VM's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Waits for the others.
    Low,
    /// In between.
    Medium,
    /// First.
    High,
}

impl Level {
    /// The most urgent first.
    pub const DESCENDING: [Self; 3] = [Self::High, Self::Medium, Self::Low];

    /// This many levels further up, [`Level::High`] at most.
    pub fn raised(self, steps: u64) -> Self {
        match self as u64 + steps.min(2) {
            0 => Self::Low,
            1 => Self::Medium,
            _ => Self::High,
        }
    }
}

/// One value per level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerLevel<T> {
    pub low: T,
    pub medium: T,
    pub high: T,
}

impl<T: Copy> PerLevel<T> {
    /// That level's.
    pub fn of(&self, level: Level) -> T {
        match level {
            Level::Low => self.low,
            Level::Medium => self.medium,
            Level::High => self.high,
        }
    }
}

impl<T> PerLevel<T> {
    pub(crate) fn get(&self, level: Level) -> &T {
        match level {
            Level::Low => &self.low,
            Level::Medium => &self.medium,
            Level::High => &self.high,
        }
    }

    pub(crate) fn get_mut(&mut self, level: Level) -> &mut T {
        match level {
            Level::Low => &mut self.low,
            Level::Medium => &mut self.medium,
            Level::High => &mut self.high,
        }
    }
}

/// What can be tuned. Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a turn lasts while a VM of the same level waits.
    pub quantum_us: PerLevel<u64>,
    /// How long a VM that was busy still counts as active.
    pub active_hold_us: u64,
    /// How long a session that was asked back may drain before it is stopped.
    pub grace_us: u64,
    /// When a stopped session resumes without an order. An order is repeated at half that time.
    pub deadman_us: u64,
    /// The hardware time slice of the level's contexts.
    pub slice_us: PerLevel<u64>,
    /// Operations in flight per stream.
    pub window: PerLevel<u32>,
    /// A turn that nobody else waits for is looked at this often, and taken back if it is idle.
    pub look_us: u64,
    /// Over how long [`Terms::share_max`] is averaged.
    pub share_window_us: u64,
    /// A session that was seen at work, call after call, for so long has a burst: who is seated below it is stopped.
    /// 0: never.
    pub burst_us: u64,
    /// A burst is over when its session was not seen at work for so long.
    pub burst_gap_us: u64,
    /// A burst that lasts longer is none: those below are let in again.
    pub burst_us_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            quantum_us: PerLevel {
                low: 20_000,
                medium: 20_000,
                high: 20_000,
            },
            active_hold_us: 100_000,
            grace_us: 10_000,
            deadman_us: 2_000_000,
            slice_us: PerLevel {
                low: 200,
                medium: 2_000,
                high: 20_000,
            },
            window: PerLevel {
                low: 128,
                medium: 256,
                high: 512,
            },
            look_us: 10_000_000,
            share_window_us: 1_000_000,
            burst_us: 1_000,
            burst_gap_us: 2_000,
            burst_us_max: 50_000,
        }
    }
}

/// How a VM is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub pool: Pool,
    pub level: Level,
    /// Under [`Policy::Priority`] its turns last this many quanta while others of its level wait; under
    /// [`Policy::Weighted`] its part of the time. Zero counts as one.
    pub weight: u32,
    /// How long it waits as the first of its level before it counts as one of the level above.
    pub aging_us: u64,
    /// Operations in flight over all its sessions, which share it evenly, one each at least.
    pub depth: Option<u32>,
    /// The part of a GPU's time that it may have, in thousandths, averaged over [`Config::share_window_us`].
    pub share_max: Option<u32>,
    /// The longest turn while others wait, whatever the policy says.
    pub turn_max_us: Option<u64>,
    /// The longest that what it runs may show no progress, in time on the GPU.
    pub kernel_max_us: Option<u64>,
    /// Without work for so long, its sessions are suspended.
    pub suspend_after_us: Option<u64>,
}

impl Terms {
    /// The usual ones for that level, in pool 0.
    pub const fn at(level: Level) -> Self {
        Self {
            pool: 0,
            level,
            weight: 1,
            aging_us: 1_000_000,
            depth: None,
            share_max: None,
            turn_max_us: None,
            kernel_max_us: None,
            suspend_after_us: None,
        }
    }
}

/// How a pool's GPUs go from one VM to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Higher levels first: turns within a level, first come, first served, and time slices across levels.
    #[default]
    Priority,
    /// Everybody is of one level; the next turn is that of the VM which had least time for its weight.
    Weighted,
    /// Everybody is of one level; first come, first served, and a turn lasts until its work is done.
    Fifo,
}

/// How a pool is treated. A pool that was never set has the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolTerms {
    pub policy: Policy,
    /// One session at a time on a GPU, whatever its level.
    pub exclusive: bool,
    /// Whether its sessions take turns; else all are seated at once, and nobody is asked back.
    pub turns: bool,
    /// Its part of the turns of GPUs that it shares with other pools. Zero counts as one.
    pub weight: u32,
    /// The rungs that are climbed; the others are only reported.
    pub rungs: Rungs,
}

impl Default for PoolTerms {
    fn default() -> Self {
        Self {
            policy: Policy::Priority,
            exclusive: false,
            turns: true,
            weight: 1,
            rungs: Rungs::ALL,
        }
    }
}

/// What is done about a session that breaks a limit, from the bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Half the limit is reached.
    Warn,
    /// Three quarters of it are: its VM counts as low until its turn ends.
    Deprioritise,
    /// The limit is reached: what runs is stopped, and others run.
    Stop,
    /// A quarter of the limit has passed since: the session ends.
    End,
}

/// A set of rungs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rungs(u8);

impl Rungs {
    /// Each of them.
    pub const ALL: Self = Self(0b1111);

    /// Whether that one is a member.
    pub fn has(self, rung: Rung) -> bool {
        self.0 >> rung as u8 & 1 == 1
    }
}

impl FromIterator<Rung> for Rungs {
    fn from_iter<I: IntoIterator<Item = Rung>>(rungs: I) -> Self {
        Self(rungs.into_iter().fold(0, |set, rung| set | 1 << rung as u8))
    }
}

/// A limit that a session broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`Terms::kernel_max_us`].
    Kernel,
    /// [`Terms::turn_max_us`]: it did not give its turn back in time, or cannot be stopped.
    Turn,
}

/// The turn a session had when it was attached, as its turn page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// None.
    Nothing,
    /// It holds one and works.
    Held,
    /// It holds one and is idle.
    Idle,
    /// It holds one and was asked to give it back.
    Asked,
}

/// What happened. An event that names a session which is not attached changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The tuning changed.
    Configured(Config),
    /// A pool's terms.
    PoolSet { pool: Pool, terms: PoolTerms },
    /// A VM takes part from now on, or its terms changed.
    VmSet { vm: Vm, terms: Terms },
    /// A VM takes part no longer; its sessions are gone with it.
    VmRemoved { vm: Vm },
    /// A session takes part from now on, on these GPUs (a gang: it gets all of them or none), with the turn
    /// that was found in its page. Its VM takes part already.
    Attached {
        session: Session,
        gpus: GpuSet,
        found: Found,
    },
    /// A session is over.
    Gone { session: Session },
    /// Which controls were seen to have their effect on this session's GPU.
    Proved {
        session: Session,
        slices: bool,
        stop: bool,
    },
    /// It has work and no turn.
    Want { session: Session },
    /// It has no turn any longer: asked for it or not.
    Released { session: Session },
    /// Its page says that nothing of it is in flight, and has not been for so long.
    IdleSeen { session: Session, idle_us: u64 },
    /// Its page says that it works.
    BusySeen { session: Session },
    /// Its page says that some of its work is done since this was last said, or the session worked first.
    Progress { session: Session },
    /// It suspended itself, or is back.
    Suspended { session: Session, suspended: bool },
    /// How [`Action::TakeIfIdle`] or [`Action::AskBack`] went: whether it was idle and was taken at once.
    TakeResult { session: Session, taken: bool },
    /// How an order with that sequence number went.
    OrderDone {
        session: Session,
        sequence: u64,
        ok: bool,
    },
    /// Time has passed; see [`crate::Core::deadline`].
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Give this session the turn.
    Grant { session: Session },
    /// Take its turn if its page says idle, and report [`Event::TakeResult`].
    TakeIfIdle { session: Session },
    /// Take its turn if its page says idle, else ask for it. [`Event::TakeResult`] follows if it was taken,
    /// [`Event::Released`] once it was given back.
    AskBack { session: Session },
    /// Tell it whether somebody cares if it is idle.
    SetContended { session: Session, contended: bool },
    /// Set its hardware time slice.
    SetSlice {
        session: Session,
        sequence: u64,
        slice_us: u64,
    },
    /// Set how many operations it may have in flight per stream, and over all its streams.
    SetWindow {
        session: Session,
        operations: u32,
        depth: Option<u32>,
    },
    /// Stop what it runs, or keep it stopped. It resumes by itself after that time.
    Stop {
        session: Session,
        sequence: u64,
        deadman_us: u64,
    },
    /// Resume it.
    Resume { session: Session, sequence: u64 },
    /// Move its GPU memory to the host: it has had no work for long.
    Suspend { session: Session },
    /// A rung of the ladder is reached. `climbed`: the pool wants it, and it is done, or ordered by another action; else it is only to be noted.
    /// From [`Rung::Stop`] on this is a violation, once per kernel or turn.
    Reached {
        session: Session,
        limit: Limit,
        rung: Rung,
        climbed: bool,
    },
    /// End the session: it broke that limit. [`Event::Gone`] follows.
    EndSession { session: Session, limit: Limit },
    /// For the books: a turn began, by a grant or by resuming what was stopped.
    Began {
        session: Session,
        turn: u64,
        level: Level,
        waited_us: u64,
    },
    /// For the books: it ended.
    Ended {
        session: Session,
        turn: u64,
        /// From the grant to its end, or to the end of its last work if it was idle then.
        held_us: u64,
        charge: Charge,
        end: End,
    },
}

/// GPU time, summed over the GPUs of the gang.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Nanoseconds.
    pub ns: u64,
    /// How much of it is a share, by time slices, of time in which several were admitted.
    pub estimated_ns: u64,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The session gave it back unasked.
    Released,
    /// It gave it back when asked to.
    Yielded,
    /// It was idle and it was taken.
    Taken,
    /// It did not give it back in time and was stopped.
    Stopped,
    /// The session ended.
    Gone,
}

/// What a session is doing, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It neither has a turn nor wants one.
    Out,
    /// It wants one.
    Waiting,
    /// It has one.
    Running,
    /// It has one and nothing to do.
    Idle,
    /// It has one and was asked to give it back.
    Asked,
    /// It lost its turn by being stopped and waits to be resumed.
    Stopped,
    /// Its GPU memory is on the host.
    Suspended,
}
