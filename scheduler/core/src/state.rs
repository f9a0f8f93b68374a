//! What the scheduler knows: VMs with their sessions, GPUs, and the classes in which VMs wait.
//!
//! Everything is reached by index, so that a step costs no more with many VMs than with few: VMs lie in slots, and a
//! class (the VMs of one pool that use the same GPUs) keeps those that wait in order.
use crate::{Charge, GpuSet, Level, Limit, PerLevel, Pool, PoolTerms, Rung, Session, Terms, Vm};
use std::collections::BTreeSet;

/// A VM's place in [`crate::Core::vms`].
pub(crate) type Slot = u32;

/// A session that holds a turn: its VM's slot and its number.
pub(crate) type Holder = (Slot, u32);

#[derive(Debug)]
pub(crate) struct VmState {
    pub(crate) vm: Vm,
    pub(crate) terms: Terms,
    pub(crate) pool: PoolTerms,
    /// As configured, raised by aging, or lowered by a limit.
    pub(crate) level: Level,
    /// It counts as low until its turn ends: what it runs takes too long.
    pub(crate) lowered: bool,
    /// All GPUs of its sessions.
    pub(crate) gang: GpuSet,
    pub(crate) class: usize,
    /// In rising order of their numbers.
    pub(crate) sessions: Vec<SessionState>,
    /// How many of them hold a turn, and how many want one.
    pub(crate) seats: u32,
    pub(crate) wanting: u32,
    /// Its place in the queue; a lower number came earlier.
    pub(crate) ticket: u64,
    /// Where it waits: its level and its key there, which is its ticket, or its virtual time and its ticket.
    pub(crate) queued: Option<(Level, u64)>,
    /// It waits or holds a turn, and so its pool takes part on its GPUs.
    pub(crate) contends: bool,
    /// Since when it has been the first of its level that waits.
    pub(crate) first_since: Option<u64>,
    /// When its turn began: from its first seat to the loss of its last.
    pub(crate) turn_since: Option<u64>,
    /// GPU time by weight, in nanoseconds: see [`crate::Policy::Weighted`].
    pub(crate) vtime: u64,
    /// When it last ceased to wait or hold a turn.
    pub(crate) left_at: Option<u64>,
    pub(crate) budget: Option<Budget>,
    /// Of turns that ended.
    pub(crate) charge: Charge,
    pub(crate) turns: u64,
    pub(crate) due: Option<u64>,
}

/// What is left of a VM's share of GPU time: a bucket that fills at the rate of its cap, and empties while it works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) left_ns: i64,
    pub(crate) at: u64,
    /// It ran empty, and the VM waits until enough is there for a turn.
    pub(crate) spent: bool,
}

#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) number: u32,
    pub(crate) gpus: GpuSet,
    pub(crate) place: Place,
    /// Among the sessions of its VM that want a seat.
    pub(crate) ticket: u64,
    pub(crate) can_stop: bool,
    /// Whether slices were seen to work, and the last one ordered with its sequence number.
    pub(crate) slices_work: bool,
    pub(crate) slice: Option<(u64, u64)>,
    /// Operations in flight per stream and over all, as last ordered.
    pub(crate) window: Option<(u32, Option<u32>)>,
    pub(crate) contended: bool,
    /// Time on the GPU since some of its work was last seen to be done, and the rung that it has reached by it.
    pub(crate) stuck_ns: u64,
    pub(crate) reached: Option<Rung>,
    /// When it was first and last seen at work in what may be a burst of short calls, and whether what it did before was one.
    pub(crate) burst: Option<(u64, u64, bool)>,
    /// It has no turn and no work since then.
    pub(crate) out_since: u64,
    pub(crate) suspend: Suspend,
    pub(crate) due: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspend {
    No,
    Asked,
    Yes,
}

#[derive(Debug)]
pub(crate) enum Place {
    Out,
    Waiting {
        since: u64,
    },
    Seated(Seat),
    Stopped {
        since: u64,
        repeat_at: u64,
        /// It already wants the next turn: it had drained when the stop took effect, and will say so.
        wants_again: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) turn: u64,
    pub(crate) since: u64,
    /// Since when nothing of it is in flight, if that was seen.
    pub(crate) idle_since: Option<u64>,
    /// Asked to give back.
    pub(crate) asked: bool,
    /// A [`crate::Action::TakeIfIdle`] or [`crate::Action::AskBack`] is not answered yet.
    pub(crate) taking: bool,
    /// Sequence number of the order to stop that is under way, and when it is to be repeated.
    pub(crate) stopping: Option<(u64, u64)>,
    /// Since when it is to lose the seat.
    pub(crate) unwanted_since: Option<u64>,
    /// The limit for which it is to lose it, and whether that was reported.
    pub(crate) over: Option<(Limit, bool)>,
    /// It already wants the next turn.
    pub(crate) wants_again: bool,
    /// When it is looked at although nobody waits.
    pub(crate) look_at: u64,
    pub(crate) charge: Charge,
}

#[derive(Debug, Default)]
pub(crate) struct GpuState {
    pub(crate) holders: Vec<Holder>,
    /// Up to when its time was charged.
    pub(crate) accounted: u64,
    /// Since when the same have worked on it, for the same slices.
    pub(crate) split_since: u64,
    /// Nanoseconds in which somebody who was not idle had a turn on it.
    pub(crate) busy_ns: u64,
    /// When somebody of a level was last seen busy.
    pub(crate) busy_at: PerLevel<Option<u64>>,
    /// Below that level nobody may be seated until then: it is having a burst of short calls.
    pub(crate) burst: Option<(Level, u64)>,
    /// No burst counts until then: the last one was long enough.
    pub(crate) no_burst_until: u64,
    /// The classes that use it.
    pub(crate) classes: Vec<usize>,
    pub(crate) pools: Vec<PoolShare>,
    pub(crate) due: Option<u64>,
}

/// A pool's part of a GPU.
#[derive(Debug)]
pub(crate) struct PoolShare {
    pub(crate) pool: Pool,
    /// GPU time by weight, in nanoseconds.
    pub(crate) vtime: u64,
    /// VMs of it that wait or hold a turn.
    pub(crate) contenders: u32,
    /// When the last of them ceased to.
    pub(crate) left_at: Option<u64>,
    /// The virtual time of the VM that was seated last: whoever comes begins there.
    pub(crate) served: u64,
}

/// The VMs of one pool that use the same GPUs.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) gpus: GpuSet,
    pub(crate) pool: Pool,
    pub(crate) members: u32,
    /// Those that wait, by their level: key, ticket.
    pub(crate) waiting: PerLevel<BTreeSet<(u64, u64, Slot)>>,
    /// Those of them that age, by their configured level: ticket.
    pub(crate) aging: PerLevel<BTreeSet<(u64, Slot)>>,
}

impl VmState {
    pub(crate) fn session(&self, number: u32) -> Option<&SessionState> {
        let at = self
            .sessions
            .binary_search_by_key(&number, |session| session.number);
        at.ok().map(|at| &self.sessions[at])
    }

    pub(crate) fn session_mut(&mut self, number: u32) -> Option<&mut SessionState> {
        let at = self
            .sessions
            .binary_search_by_key(&number, |session| session.number);
        at.ok().map(|at| &mut self.sessions[at])
    }

    pub(crate) fn id(&self, number: u32) -> Session {
        Session { vm: self.vm, number }
    }

    /// Whether it waits for a turn and has none.
    pub(crate) fn waits(&self) -> bool {
        self.seats == 0 && self.wanting > 0
    }

    /// Whether it has used up its share for now.
    pub(crate) fn is_spent(&self) -> bool {
        self.budget.is_some_and(|budget| budget.spent)
    }
}

impl SessionState {
    pub(crate) fn seat(&self) -> Option<&Seat> {
        match &self.place {
            Place::Seated(seat) => Some(seat),
            _ => None,
        }
    }

    pub(crate) fn seat_mut(&mut self) -> Option<&mut Seat> {
        match &mut self.place {
            Place::Seated(seat) => Some(seat),
            _ => None,
        }
    }

    /// Whether it waits for a seat.
    pub(crate) fn wants(&self) -> bool {
        matches!(self.place, Place::Waiting { .. } | Place::Stopped { .. })
    }

    /// Whether it has a seat and is not idle.
    pub(crate) fn works(&self) -> bool {
        self.seat().is_some_and(|seat| !seat.is_idle())
    }
}

impl Seat {
    pub(crate) fn is_idle(&self) -> bool {
        self.idle_since.is_some()
    }
}

impl GpuState {
    pub(crate) fn share(&self, pool: Pool) -> Option<&PoolShare> {
        self.pools.iter().find(|share| share.pool == pool)
    }

    /// Whether several pools wait for it or hold it.
    pub(crate) fn is_shared(&self) -> bool {
        self.pools.iter().filter(|share| share.contenders > 0).count() > 1
    }

    /// `claim` says how far behind the others it may still be, by when it left.
    pub(crate) fn pool_begins(&mut self, pool: Pool, claim: impl Fn(Option<u64>) -> u64) {
        let others = self
            .pools
            .iter()
            .filter(|share| share.pool != pool && share.contenders > 0);
        let least = others.map(|share| share.vtime).min();
        let at = match self.pools.iter().position(|share| share.pool == pool) {
            Some(at) => at,
            None => {
                self.pools.push(PoolShare {
                    pool,
                    vtime: 0,
                    contenders: 0,
                    left_at: None,
                    served: 0,
                });
                self.pools.len() - 1
            }
        };
        let share = &mut self.pools[at];
        if share.contenders == 0 {
            let least = least.unwrap_or(0);
            share.vtime = share.vtime.max(least.saturating_sub(claim(share.left_at)));
        }
        share.contenders += 1;
    }

    pub(crate) fn pool_ends(&mut self, pool: Pool, now: u64, vtime: u64) {
        if let Some(share) = self.pools.iter_mut().find(|share| share.pool == pool) {
            share.contenders = share.contenders.saturating_sub(1);
            if share.contenders == 0 {
                // What the last one had while nobody else was there is no debt of it.
                share.served = share.served.max(vtime);
            }
            share.left_at = Some(now);
        }
    }
}
