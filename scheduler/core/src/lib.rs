//! Who may run on which GPU, and when: the scheduler's decisions, pure. [`Core::step`] takes the time and an
//! [`Event`] and says what is to be done; there is no clock, thread, I/O, randomness or logging in here, and
//! equal inputs give equal outputs.
//!
//! # The rules, and why
//!
//! **Hardware slices across levels, software turns within one.** The GPU goes round all runnable contexts, each
//! for its time slice. With a short slice for a low VM and a long one for a high VM, set *ahead*, the high VM gets
//! in within a fraction of a millisecond whatever the low one runs, and the low one loses nothing while it is
//! alone. So a VM never waits for the turn of a VM of a *lower* level. But with several low contexts runnable, each
//! round pays all their slices and context switches. So there are two limits on who may be *seated* (hold a turn)
//! on a GPU:
//!
//! 1. *One VM per level.* It brings all its sessions. The others of its level wait, first come, first served; a
//!    turn ends when its time is over (the quantum times the VM's weight) and somebody of its level waits, at once if its
//!    holder is idle then. So VMs that are all busy get GPU time in proportion to their weights.
//! 2. *One guest below an active level.* Below a level that is active on a GPU, one session alone may be seated,
//!    also within one VM: that of the most urgent level that wants. The sessions of a VM take their turn at it,
//!    a quantum each.
//!
//! **Active** means: seated and not idle, about to be seated, or so within the last `active_hold_us`. Without that
//! delay a high VM that works for 50 us every 10 ms would throw the low ones off and back a hundred times a
//! second, and each time costs more than it gains. A session says that it is idle only while it is contended, so a
//! holder counts as busy until it is seen idle.
//!
//! **Gangs.** A session has all its GPUs or none. Waiting VMs are considered in the order they came; one that
//! cannot get all its GPUs keeps later ones from taking any of them, so a gang is not starved by single-GPU VMs.
//! A holder whose quantum is over stays until a waiting VM can get everything it needs.
//!
//! **Aging.** The first waiting VM of a level (per GPU) rises by one level for each of its `aging_us` that it waits, and
//! with its level rises its slice; once its turn ends it falls back. Only the first rises, and its clock starts
//! when the one before it was seated: a queue that moves is not starved, and a long queue of low VMs must not
//! crowd the high level. *Bound:* on one GPU, with `k` VMs of its own level before it in the queue and `h` VMs of high
//! level, a VM is seated after at most the sum over the `k` and itself of `2 aging + (h + 2) (turn + drain)`: each of the
//! `k` is first for no longer than that; who is first has reached the high level after `2 aging` of its own, where nobody
//! is above it, and before it come the level's own VMs, the first of the third level, and one that was seated. `turn` is
//! the quantum times the largest weight, `drain` is what a session
//! takes to give its turn back: `grace_us` and a stop where stopping is proved, else the rest of its kernels.
//!
//! **Giving back.** A session that loses its seat is taken off at once if it is idle, else asked. If it does
//! not give back within `grace_us` (its kernel is long) and stopping was proved on it, it is stopped where it is. Its
//! next turn begins by resuming it; it can then only finish and give back, for it is still being asked. A stop holds
//! no longer than `deadman_us`, so that nobody stays stopped if the scheduler dies; while the session is to stay
//! stopped the order is repeated at half that time. Every stop is thus followed by a resume or by the session's end.
//!
//! **Charge** is host time while seated, less idle and stopped time, times the GPUs of the gang. Time in which
//! several are seated on one GPU is split by their slices, as the hardware would, and marked as estimated.
//! A turn that nobody else waits for has no end; it is looked at every `look_us` (by marking it as contended for
//! a moment) and taken back when idle, so that a sleeping program is charged for no longer than that.
mod books;
mod plan;
mod types;

pub use types::*;

use std::collections::{BTreeMap, BTreeSet};

/// How long a holder that nobody waits for is watched for being idle at each look, in microseconds.
const LOOK_LASTS_US: u64 = 5_000;

/// The scheduler's state.
#[derive(Debug, Default)]
pub struct Core {
    config: Config,
    vms: BTreeMap<Vm, VmState>,
    sessions: BTreeMap<Session, SessionState>,
    /// The sessions that hold a turn.
    seated: BTreeSet<Session>,
    /// See [`Core::busy_ns`].
    busy: BTreeMap<Gpu, u64>,
    /// The time of the last step.
    now: u64,
    tickets: u64,
    turns: u64,
    sequence: u64,
    deadline: Option<u64>,
}

#[derive(Debug)]
struct VmState {
    terms: Terms,
    /// Its own level, or raised by aging.
    level: Level,
    /// Its place in the queue; a lower number came earlier.
    ticket: u64,
    /// When its turn began: from its first seat to the loss of its last.
    turn_since: Option<u64>,
    /// Waiting for a turn: from when it ages.
    aging_since: Option<u64>,
    /// When it was last seen busy, if it was and has sessions.
    busy_at: Option<u64>,
    /// Of turns that ended.
    charge: Charge,
    turns: u64,
}

#[derive(Debug)]
struct SessionState {
    gpus: GpuSet,
    place: Place,
    /// Among the sessions of its VM that want a seat.
    ticket: u64,
    can_stop: bool,
    /// Whether slices were seen to work, and the last one ordered with its sequence number.
    slices_work: bool,
    slice: Option<(u64, u64)>,
    /// Operations in flight per stream and over all, as last ordered.
    window: Option<(u32, Option<u32>)>,
    contended: bool,
}

#[derive(Debug)]
enum Place {
    Out,
    Waiting { since: u64 },
    Seated(Seat),
    Stopped { since: u64, repeat_at: u64 },
}

#[derive(Debug)]
struct Seat {
    turn: u64,
    since: u64,
    idle: bool,
    /// Asked to give back.
    asked: bool,
    /// A [`Action::TakeIfIdle`] or [`Action::AskBack`] is not answered yet.
    taking: bool,
    /// Sequence number of the order to stop that is under way.
    stopping: Option<u64>,
    /// Since when it is to lose the seat.
    unwanted_since: Option<u64>,
    /// It already wants the next turn.
    wants_again: bool,
    /// When it is looked at although nobody waits.
    look_at: u64,
    charge: Charge,
}

impl Core {
    /// A scheduler without VMs.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Takes note of an event and appends what is to be done. `now_us` is a monotonic clock's; a time before an
    /// earlier step's counts as that step's.
    pub fn step(&mut self, now_us: u64, event: Event, actions: &mut Vec<Action>) {
        let now = now_us.max(self.now);
        self.account(now);
        self.now = now;
        self.note(event, actions);
        self.age(actions);
        let plan = self.plan();
        self.unseat(&plan, actions);
        self.seat(&plan, actions);
        self.keep_stopped(actions);
        self.mark_contended(actions);
        self.deadline = self.next_deadline();
    }

    /// When [`Event::Tick`] is to come at the latest; always later than the last step.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// What a session is doing.
    pub fn standing(&self, session: Session) -> Option<Standing> {
        Some(match &self.sessions.get(&session)?.place {
            Place::Out => Standing::Out,
            Place::Waiting { .. } => Standing::Waiting,
            Place::Stopped { .. } => Standing::Stopped,
            Place::Seated(seat) if seat.asked => Standing::Asked,
            Place::Seated(seat) if seat.idle => Standing::Idle,
            Place::Seated(_) => Standing::Running,
        })
    }

    /// The level at which a VM stands in the queue now.
    pub fn level(&self, vm: Vm) -> Option<Level> {
        self.vms.get(&vm).map(|vm| vm.level)
    }

    /// Turns begun and GPU time used by a VM, that of turns still held included up to the last step.
    pub fn usage(&self, vm: Vm) -> Option<(u64, Charge)> {
        let state = self.vms.get(&vm)?;
        let held = self.sessions_of(vm).filter_map(|(_, session)| session.seat());
        let charge = held.fold(state.charge, |sum, seat| sum.plus(seat.charge));
        Some((state.turns, charge))
    }

    fn note(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Configured(config) => {
                self.config = config;
                for vm in self.vms.keys().copied().collect::<Vec<_>>() {
                    self.set_slices(vm, actions);
                }
            }
            Event::VmSet { vm, terms } => self.set_vm(vm, terms, actions),
            Event::VmRemoved { vm } => {
                for session in self.sessions_of(vm).map(|(id, _)| id).collect::<Vec<_>>() {
                    self.gone(session, actions);
                }
                self.vms.remove(&vm);
            }
            Event::Attached { session, gpus, found } => self.attach(session, gpus, found, actions),
            Event::Gone { session } => self.gone(session, actions),
            Event::Proved {
                session,
                slices,
                stop,
            } => {
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.slices_work = slices;
                    state.can_stop = stop;
                }
            }
            Event::Want { session } => self.want(session),
            Event::Released { session } => self.released(session, actions),
            Event::IdleSeen { session } => self.set_idle(session, true),
            Event::BusySeen { session } => self.set_idle(session, false),
            Event::TakeResult { session, taken } => self.take_result(session, taken, actions),
            Event::OrderDone {
                session,
                sequence,
                ok,
            } => self.order_done(session, sequence, ok, actions),
            Event::PoolSet { .. } | Event::Progress { .. } | Event::Suspended { .. } | Event::Tick => {}
        }
    }

    fn set_vm(&mut self, vm: Vm, terms: Terms, actions: &mut Vec<Action>) {
        let now = self.now;
        let state = self.vms.entry(vm).or_insert(VmState {
            terms,
            level: terms.level,
            ticket: 0,
            turn_since: None,
            aging_since: None,
            busy_at: None,
            charge: Charge::default(),
            turns: 0,
        });
        let before = std::mem::replace(&mut state.terms, terms);
        if before.level != terms.level {
            state.level = terms.level;
            state.aging_since = state.aging_since.map(|_| now);
        }
        self.set_slices(vm, actions);
    }

    fn attach(&mut self, session: Session, gpus: GpuSet, found: Found, actions: &mut Vec<Action>) {
        if !self.vms.contains_key(&session.vm) || self.sessions.contains_key(&session) {
            return;
        }
        let ticket = self.ticket();
        self.sessions.insert(
            session,
            SessionState {
                gpus,
                place: Place::Out,
                ticket,
                can_stop: false,
                slices_work: false,
                slice: None,
                window: None,
                contended: false,
            },
        );
        self.set_slices(session.vm, actions);
        if found != Found::Nothing {
            self.sit_down(session, actions);
            if let Some(seat) = self.seat_mut(session) {
                seat.idle = found == Found::Idle;
                seat.asked = found == Found::Asked;
            }
        }
    }

    fn gone(&mut self, session: Session, actions: &mut Vec<Action>) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        self.stand_up(session, End::Gone, Place::Out, actions);
        self.sessions.remove(&session);
        self.settle_queue(session.vm);
        // The others have its part of the depth.
        self.set_slices(session.vm, actions);
        if self.sessions_of(session.vm).next().is_none()
            && let Some(vm) = self.vms.get_mut(&session.vm)
        {
            vm.busy_at = None;
        }
    }

    fn want(&mut self, session: Session) {
        let now = self.now;
        let ticket = self.ticket();
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        match &mut state.place {
            Place::Out => {
                state.place = Place::Waiting { since: now };
                state.ticket = ticket;
                self.settle_queue(session.vm);
            }
            // It is giving this turn back, or lost it before this event and we do not know yet.
            Place::Seated(seat) if seat.asked || seat.taking => seat.wants_again = true,
            Place::Seated(_) | Place::Waiting { .. } | Place::Stopped { .. } => {}
        }
    }

    fn released(&mut self, session: Session, actions: &mut Vec<Action>) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        match &state.place {
            Place::Seated(seat) => {
                let end = if seat.asked { End::Yielded } else { End::Released };
                let stopping = seat.stopping.is_some();
                let after = self.place_after(session);
                self.stand_up(session, end, after, actions);
                if stopping {
                    self.order_resume(session, actions);
                }
            }
            // It had drained just when the stop took effect: there is nothing to keep stopped.
            Place::Stopped { .. } => {
                state.place = Place::Out;
                self.order_resume(session, actions);
                self.settle_queue(session.vm);
            }
            Place::Out | Place::Waiting { .. } => {}
        }
    }

    fn set_idle(&mut self, session: Session, idle: bool) {
        let now = self.now;
        if let Some(seat) = self.seat_mut(session)
            && seat.idle != idle
        {
            seat.idle = idle;
            if let Some(vm) = self.vms.get_mut(&session.vm) {
                vm.busy_at = Some(now);
            }
        }
    }

    fn take_result(&mut self, session: Session, taken: bool, actions: &mut Vec<Action>) {
        let Some(seat) = self.seat_mut(session) else {
            return;
        };
        if !seat.taking {
            return;
        }
        seat.taking = false;
        if taken {
            let after = self.place_after(session);
            self.stand_up(session, End::Taken, after, actions);
        } else {
            // It works again. If it wanted a turn it would not have one.
            seat.wants_again &= seat.asked;
            self.set_idle(session, false);
        }
    }

    fn order_done(&mut self, session: Session, sequence: u64, ok: bool, actions: &mut Vec<Action>) {
        let now = self.now;
        let deadman = self.config.deadman_us;
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        if !ok && state.slice.is_some_and(|(_, order)| order == sequence) {
            state.slices_work = false;
        }
        if let Place::Seated(seat) = &mut state.place
            && seat.stopping == Some(sequence)
        {
            if ok {
                let after = Place::Stopped {
                    since: now,
                    repeat_at: now + deadman / 2,
                };
                self.stand_up(session, End::Stopped, after, actions);
            } else {
                seat.stopping = None;
                state.can_stop = false;
                // It may have taken effect in part; nobody may stay stopped without anyone knowing.
                self.order_resume(session, actions);
            }
        }
    }

    /// Where a session goes that gives its turn back.
    fn place_after(&self, session: Session) -> Place {
        let again = self
            .sessions
            .get(&session)
            .and_then(SessionState::seat)
            .is_some_and(|seat| seat.wants_again);
        if again {
            Place::Waiting { since: self.now }
        } else {
            Place::Out
        }
    }

    /// Gives a session a seat. The caller knows that it may have it.
    fn sit_down(&mut self, session: Session, actions: &mut Vec<Action>) {
        let now = self.now;
        self.turns += 1;
        let turn = self.turns;
        let look_at = now + self.config.look_us;
        let (Some(state), Some(vm)) = (self.sessions.get_mut(&session), self.vms.get_mut(&session.vm)) else {
            return;
        };
        let (waited_us, asked) = match state.place {
            Place::Waiting { since } => (now - since, false),
            // It is resumed, and still being asked back: it can only finish what it has.
            Place::Stopped { since, .. } => (now - since, true),
            Place::Out | Place::Seated(_) => (0, false),
        };
        state.place = Place::Seated(Seat {
            turn,
            since: now,
            idle: false,
            asked,
            taking: false,
            stopping: None,
            unwanted_since: None,
            wants_again: false,
            look_at,
            charge: Charge::default(),
        });
        vm.turns += 1;
        vm.busy_at = Some(now);
        vm.aging_since = None;
        let begins = vm.turn_since.is_none();
        let level = vm.level;
        vm.turn_since.get_or_insert(now);
        self.seated.insert(session);
        actions.push(Action::Began {
            session,
            turn,
            level,
            waited_us,
        });
        if begins {
            self.queue_moved(session.vm);
        }
    }

    /// Those who wait behind a VM that was seated, at its level and for its GPUs, age from now on.
    fn queue_moved(&mut self, seated: Vm) {
        let gpus = self.gang(seated);
        let Some((base, ticket)) = self.vms.get(&seated).map(|vm| (vm.terms.level, vm.ticket)) else {
            return;
        };
        for other in self.vms.keys().copied().collect::<Vec<_>>() {
            let meets = self.gang(other).meets(gpus);
            if let Some(vm) = self.vms.get_mut(&other)
                && vm.terms.level == base
                && vm.ticket > ticket
                && meets
                && let Some(since) = &mut vm.aging_since
            {
                *since = self.now;
            }
        }
    }

    /// Takes a session's seat, if it has one, in the books and in the queue.
    fn stand_up(&mut self, session: Session, end: End, after: Place, actions: &mut Vec<Action>) {
        let now = self.now;
        let ticket = self.ticket();
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let before = std::mem::replace(&mut state.place, after);
        let Place::Seated(seat) = before else { return };
        state.ticket = ticket;
        self.seated.remove(&session);
        let Some(vm) = self.vms.get_mut(&session.vm) else {
            return;
        };
        vm.charge = vm.charge.plus(seat.charge);
        if !seat.idle {
            vm.busy_at = Some(now);
        }
        actions.push(Action::Ended {
            session,
            turn: seat.turn,
            held_us: now - seat.since,
            charge: seat.charge,
            end,
        });
        if !self
            .sessions_of(session.vm)
            .any(|(_, session)| session.seat().is_some())
        {
            if let Some(vm) = self.vms.get_mut(&session.vm) {
                vm.turn_since = None;
                vm.level = vm.terms.level;
            }
            self.set_slices(session.vm, actions);
        }
        self.settle_queue(session.vm);
    }

    /// Puts a VM at the end of the queue if it just began to wait, and takes it out if it does not wait any longer.
    fn settle_queue(&mut self, vm: Vm) {
        let waits = self.sessions_of(vm).any(|(_, session)| session.wants());
        let ticket = self.tickets + 1;
        let now = self.now;
        let Some(state) = self.vms.get_mut(&vm) else {
            return;
        };
        if state.turn_since.is_some() || !waits {
            state.aging_since = None;
            if state.turn_since.is_none() {
                state.level = state.terms.level;
            }
        } else if state.aging_since.is_none() {
            state.aging_since = Some(now);
            state.ticket = ticket;
            self.tickets = ticket;
        }
    }

    fn order_resume(&mut self, session: Session, actions: &mut Vec<Action>) {
        let sequence = self.next_sequence();
        actions.push(Action::Resume { session, sequence });
    }

    /// Raises those that have waited long.
    fn age(&mut self, actions: &mut Vec<Action>) {
        for vm in self.first_waiting() {
            let Some(state) = self.vms.get_mut(&vm) else {
                continue;
            };
            let Some(since) = state.aging_since else { continue };
            let steps = (self.now - since) / state.terms.aging_us.max(1);
            let level = state.terms.level.raised(steps);
            if level > state.level {
                state.level = level;
                self.set_slices(vm, actions);
            }
        }
    }

    /// Orders what the level and the depth of a VM say for its sessions, where it is not so yet.
    fn set_slices(&mut self, vm: Vm, actions: &mut Vec<Action>) {
        let Some((level, depth)) = self.vms.get(&vm).map(|vm| (vm.level, vm.terms.depth)) else {
            return;
        };
        let sessions = self.sessions_of(vm).count().max(1) as u32;
        let depth = depth.map(|depth| (depth / sessions).max(1));
        let slice_us = self.config.slice_us.of(level);
        let operations = self.config.window.of(level);
        for session in self.sessions_of(vm).map(|(id, _)| id).collect::<Vec<_>>() {
            let sequence = self.sequence + 1;
            let Some(state) = self.sessions.get_mut(&session) else {
                continue;
            };
            if state.slice.is_none_or(|(slice, _)| slice != slice_us) {
                state.slice = Some((slice_us, sequence));
                self.sequence = sequence;
                actions.push(Action::SetSlice {
                    session,
                    sequence,
                    slice_us,
                });
            }
            if state.window != Some((operations, depth)) {
                state.window = Some((operations, depth));
                actions.push(Action::SetWindow {
                    session,
                    operations,
                    depth,
                });
            }
        }
    }

    /// How long a VM's turn lasts while another one of its level waits.
    fn turn_us(&self, vm: &VmState) -> u64 {
        self.config
            .quantum_us
            .of(vm.level)
            .saturating_mul(vm.terms.weight.max(1).into())
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn sessions_of(&self, vm: Vm) -> impl Iterator<Item = (Session, &SessionState)> {
        let first = Session { vm, number: 0 };
        let last = Session { vm, number: u32::MAX };
        self.sessions.range(first..=last).map(|(id, state)| (*id, state))
    }

    /// All GPUs of a VM's sessions.
    fn gang(&self, vm: Vm) -> GpuSet {
        self.sessions_of(vm)
            .fold(GpuSet::EMPTY, |set, (_, session)| set.or(session.gpus))
    }

    fn seat_mut(&mut self, session: Session) -> Option<&mut Seat> {
        match &mut self.sessions.get_mut(&session)?.place {
            Place::Seated(seat) => Some(seat),
            _ => None,
        }
    }
}

impl SessionState {
    fn seat(&self) -> Option<&Seat> {
        match &self.place {
            Place::Seated(seat) => Some(seat),
            _ => None,
        }
    }

    /// Whether it waits for a seat.
    fn wants(&self) -> bool {
        matches!(self.place, Place::Waiting { .. } | Place::Stopped { .. })
    }
}
