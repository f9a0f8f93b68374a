//! Who may run on which GPU, and when: the scheduler's decisions, pure. [`Core::step`] takes the time and an
//! [`Event`] and says what is to be done; there is no clock, thread, I/O, randomness or logging in here, and
//! equal inputs give equal outputs. `docs/scheduling.md` says what follows for those who use it.
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
//! 1. *One VM per level.* It brings all its sessions. The others of its level wait; a turn ends when its time is over
//!    and somebody of its level waits, at once if its holder is idle then.
//! 2. *One guest below an active level.* Below a level that is active on a GPU, one session alone may be seated,
//!    also within one VM: that of the most urgent level that wants. The sessions of a VM take their turn at it,
//!    a quantum each.
//!
//! **Active** means: seated and not idle, about to be seated, or so within the last `active_hold_us`. Without that
//! delay a high VM that works for 50 us every 10 ms would throw the low ones off and back a hundred times a
//! second, and each time costs more than it gains. Whether a session is idle is watched only while it is contended, so a
//! holder counts as busy until it is seen idle.
//!
//! **Policies** of a pool say who of a level comes next, and for how long:
//!
//! * [`Policy::Priority`]: first come, first served; a turn is the quantum times the VM's weight.
//! * [`Policy::Weighted`]: all VMs are of the medium level. Each has a *virtual time*, its GPU time by its weight; the
//!   one that waits and is furthest behind is next, and a holder stays, quantum after quantum, while it is further
//!   behind than all who wait. Whoever comes begins where the holder is, so what one did not use is nobody's debt; but for
//!   `active_hold_us` it keeps its place, as far as that is no further behind than `active_hold_us` and a quantum: it may have
//!   given its turn back to ask for the next, but one that works a little all the time must not save up a claim.
//!   *Error:* VMs that are always busy are never further from their part of the time than one turn with its drain of each
//!   of them, however long that lasts.
//! * [`Policy::Fifo`]: all are of the medium level; first come, first served, and a turn ends when its holder is idle.
//!
//! Pools that share a GPU take turns within each level by virtual times of their own, by weight, before the policy of the
//! one that is next says who. An *exclusive* pool's GPUs have one session seated at a time, whatever its level, the most
//! urgent that wants; nobody else is let in beside it. Where there are no *turns* (MPS), everybody is seated at once.
//!
//! **Gangs.** A session has all its GPUs or none. Waiting VMs are considered in their order; one that
//! cannot get all its GPUs keeps later ones from taking any of them, so a gang is not starved by single-GPU VMs.
//! A holder whose quantum is over stays until a waiting VM can get everything it needs. A VM's turn is one on all GPUs of its
//! sessions: whoever is to follow it waits until the last of them gave its seat back; and if a new session brings it to a GPU
//! that another one of its level holds, the one that came first keeps its turn and the other goes, whatever the policy.
//!
//! **Aging** (under [`Policy::Priority`]). The first waiting VM of a level (per GPU) rises by one level for each of its
//! `aging_us` that it waits, and with its level rises its slice; once its turn ends it falls back. Only the first rises, and
//! its clock starts when it became the first: a queue that moves is not starved, and a long queue of low VMs must not
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
//! **Bursts.** Each of many short calls, one after the other, would wait for the slice of the guest below. So a session
//! that is seen at work again and again for `burst_us`, with no gap of `burst_gap_us`, has a *burst*: whoever is below is
//! stopped without grace, and comes back when it is over. One whose last activity was a burst is taken to have one again
//! at its first call. What lasts longer than `burst_us_max` is no burst but work, beside which those below have their slices.
//!
//! **Limits.** A *cap* on a VM's GPU time is a budget that fills at its rate and empties with use; with none left the VM
//! loses its turn, and waits until there is enough for a quantum. What a session runs without any of it being done is
//! its *kernel*, in time on the GPU, over turns and stops; at half its limit the session is reported, at three quarters it counts
//! as low, at the limit it is stopped, a quarter later it is ended ([`Rung`]). A turn beyond its limit that is not given back in its
//! grace is stopped, or ended if it cannot be stopped. Rungs that the pool leaves out are reported only. When limits or rungs
//! change, what runs climbs anew.
//!
//! **Charge** is host time while seated, less idle and stopped time, times the GPUs of the gang. Time in which
//! several are seated on one GPU is split by their slices, as the hardware would, and marked as estimated.
//! A turn that nobody else waits for has no end; it is looked at every `look_us` (by marking it as contended for
//! a moment) and taken back when idle. Since when it is idle its page says, so what it was charged since is counted anew, back
//! to when somebody else there began or ceased to work.
//!
//! # Cost
//! A step looks at one *island*: GPUs that hang together through VMs that use several. There it looks at the few sessions
//! that are seated and at the first of each class of waiting VMs (those of one pool on the same GPUs, in order in a tree); all
//! that time alone changes lies in one tree by its time. So a step costs the logarithm of the number of VMs.
mod books;
mod ladder;
mod plan;
mod queue;
mod state;
mod timers;
mod types;

pub use types::*;

use state::{Class, GpuState, Place, Seat, SessionState, Slot, Suspend, VmState};
use std::collections::BTreeMap;
use timers::Timers;

/// How long a holder that nobody waits for is watched for being idle at each look, in microseconds.
const LOOK_LASTS_US: u64 = 5_000;

/// The scheduler's state.
#[derive(Debug, Default)]
pub struct Core {
    config: Config,
    pools: BTreeMap<Pool, PoolTerms>,
    /// Where each VM lies in `vms`.
    index: BTreeMap<Vm, Slot>,
    vms: Vec<Option<VmState>>,
    free: Vec<Slot>,
    classes: Vec<Class>,
    /// As many as were ever used.
    gpus: Vec<GpuState>,
    timers: Timers,
    /// Sessions whose time to be looked at may have changed in this step, and those that are due.
    touched: Vec<(Slot, u32)>,
    /// The time of the last step.
    now: u64,
    tickets: u64,
    turns: u64,
    sequence: u64,
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
        self.now = now_us.max(self.now);
        let due = self.due();
        let dirty = self.note(event, actions).or(due);
        self.serve_due(actions);
        self.settle(dirty, actions);
    }

    /// When [`Event::Tick`] is to come at the latest; always later than the last step.
    pub fn deadline(&self) -> Option<u64> {
        self.timers.first()
    }

    /// What a session is doing.
    pub fn standing(&self, session: Session) -> Option<Standing> {
        let state = self.session(session)?;
        Some(match &state.place {
            Place::Out if state.suspend == Suspend::Yes => Standing::Suspended,
            Place::Out => Standing::Out,
            Place::Waiting { .. } => Standing::Waiting,
            Place::Stopped { .. } => Standing::Stopped,
            Place::Seated(seat) if seat.asked => Standing::Asked,
            Place::Seated(seat) if seat.is_idle() => Standing::Idle,
            Place::Seated(_) => Standing::Running,
        })
    }

    /// The level at which a VM stands in the queue now.
    pub fn level(&self, vm: Vm) -> Option<Level> {
        Some(self.vm(self.slot(vm)?)?.level)
    }

    /// Turns begun and GPU time used by a VM, that of turns still held included up to the last step.
    pub fn usage(&self, vm: Vm) -> Option<(u64, Charge)> {
        let slot = self.slot(vm)?;
        let state = self.vm(slot)?;
        let seats = state.sessions.iter().filter(|session| session.seat().is_some());
        let charge = seats.fold(state.charge, |sum, session| {
            let seat = session.seat().map_or(Charge::default(), |seat| seat.charge);
            sum.plus(seat).plus(self.pending(slot, session))
        });
        Some((state.turns, charge))
    }

    /// Nanoseconds in which somebody who was not idle had a turn on a GPU, up to the last step.
    pub fn busy_ns(&self, gpu: Gpu) -> u64 {
        let Some(state) = self.gpus.get(gpu as usize) else {
            return 0;
        };
        let works = state.holders.iter().any(|holder| self.works(*holder));
        state.busy_ns
            + if works {
                (self.now - state.accounted) * 1000
            } else {
                0
            }
    }

    /// Whether a VM waits because it has used up its share of GPU time.
    pub fn is_spent(&self, vm: Vm) -> bool {
        let state = self.slot(vm).and_then(|slot| self.vm(slot));
        state.is_some_and(VmState::is_spent)
    }

    /// Takes note of an event. Returns the GPUs on which it may matter.
    fn note(&mut self, event: Event, actions: &mut Vec<Action>) -> GpuSet {
        match event {
            Event::Configured(config) => self.configure(config, actions),
            Event::PoolSet { pool, terms } => self.set_pool(pool, terms, actions),
            Event::VmSet { vm, terms } => self.set_vm(vm, terms, actions),
            Event::VmRemoved { vm } => self.remove_vm(vm, actions),
            Event::Attached { session, gpus, found } => self.attach(session, gpus, found, actions),
            Event::Gone { session } => {
                self.with(session, |core, slot, number| core.gone(slot, number, actions))
            }
            Event::Proved {
                session,
                slices,
                stop,
            } => {
                let gpus = self.gpus_of(session);
                self.account(gpus);
                if let Some(state) = self.session_mut(session) {
                    state.slices_work = slices;
                    state.can_stop = stop;
                }
                self.split_changed(gpus);
                gpus
            }
            Event::Want { session } => {
                self.with(session, |core, slot, number| core.want(slot, number, actions))
            }
            Event::Released { session } => {
                self.with(session, |core, slot, number| core.released(slot, number, actions))
            }
            Event::IdleSeen { session, idle_us } => self.with(session, |core, slot, number| {
                core.idle_seen(slot, number, idle_us)
            }),
            Event::BusySeen { session } => self.with(session, Self::busy_seen),
            Event::Progress { session } => self.with(session, Self::progress),
            Event::Suspended { session, suspended } => {
                let now = self.now;
                if let Some(state) = self.session_mut(session) {
                    state.suspend = if suspended { Suspend::Yes } else { Suspend::No };
                    state.out_since = now;
                }
                self.gpus_of(session)
            }
            Event::TakeResult { session, taken } => self.with(session, |core, slot, number| {
                core.take_result(slot, number, taken, actions)
            }),
            Event::OrderDone {
                session,
                sequence,
                ok,
            } => self.with(session, |core, slot, number| {
                core.order_done(slot, number, (sequence, ok), actions);
            }),
            Event::Tick => GpuSet::EMPTY,
        }
    }

    /// Decides again who is to be seated on these GPUs and on those that hang together with them.
    fn settle(&mut self, dirty: GpuSet, actions: &mut Vec<Action>) {
        if dirty.is_empty() {
            self.reschedule(GpuSet::EMPTY);
            return;
        }
        let island = self.island(dirty);
        self.account(island);
        self.climb(island, actions);
        self.age(island, actions);
        let plan = self.plan(island);
        self.unseat(island, &plan, actions);
        self.seat(island, &plan, actions);
        self.mark_contended(island, actions);
        self.reschedule(island);
    }

    /// These GPUs, and all on which what is decided for them depends.
    fn island(&self, mut gpus: GpuSet) -> GpuSet {
        loop {
            let mut more = gpus;
            for gpu in gpus.iter() {
                let Some(state) = self.gpus.get(gpu as usize) else {
                    continue;
                };
                for class in &state.classes {
                    more = more.or(self.classes[*class].gpus);
                }
            }
            if more == gpus {
                return gpus;
            }
            gpus = more;
        }
    }

    fn configure(&mut self, config: Config, actions: &mut Vec<Action>) -> GpuSet {
        self.account(self.all_gpus());
        self.config = config;
        for slot in 0..self.vms.len() as Slot {
            self.set_slices(slot, actions);
            self.touch_all(slot);
        }
        self.all_gpus()
    }

    fn set_pool(&mut self, pool: Pool, terms: PoolTerms, actions: &mut Vec<Action>) -> GpuSet {
        self.pools.insert(pool, terms);
        let members = self.index.values().copied();
        let members = members.filter(|slot| self.vm(*slot).is_some_and(|vm| vm.terms.pool == pool));
        let mut dirty = GpuSet::EMPTY;
        for slot in members.collect::<Vec<_>>() {
            dirty = dirty.or(self.change_terms(slot, actions, |vm| vm.pool = terms));
        }
        dirty
    }

    fn set_vm(&mut self, vm: Vm, terms: Terms, actions: &mut Vec<Action>) -> GpuSet {
        let pool = self.pools.get(&terms.pool).copied().unwrap_or_default();
        let Some(slot) = self.slot(vm) else {
            let class = self.class(GpuSet::EMPTY, terms.pool);
            let mut state = VmState {
                vm,
                terms,
                pool,
                level: terms.level,
                lowered: false,
                gang: GpuSet::EMPTY,
                class,
                sessions: Vec::new(),
                seats: 0,
                wanting: 0,
                ticket: 0,
                queued: None,
                contends: false,
                first_since: None,
                turn_since: None,
                vtime: 0,
                left_at: None,
                budget: None,
                charge: Charge::default(),
                turns: 0,
                due: None,
            };
            state.level = base_level(&state);
            state.budget = self.new_budget(&state);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.vms.push(None);
                self.vms.len() as Slot - 1
            });
            self.vms[slot as usize] = Some(state);
            self.index.insert(vm, slot);
            return GpuSet::EMPTY;
        };
        self.change_terms(slot, actions, |state| {
            state.terms = terms;
            state.pool = pool;
        })
    }

    /// Changes a VM's terms, and everything that follows from them.
    fn change_terms(
        &mut self,
        slot: Slot,
        actions: &mut Vec<Action>,
        change: impl FnOnce(&mut VmState),
    ) -> GpuSet {
        let Some(gang) = self.vm(slot).map(|vm| vm.gang) else {
            return GpuSet::EMPTY;
        };
        self.account(gang);
        let ticket = self.leave_queue(slot);
        self.leave_class(slot);
        let Some(vm) = self.vm_mut(slot) else {
            return GpuSet::EMPTY;
        };
        let before = (base_level(vm), vm.terms.share_max, vm.pool.turns);
        let ladder = |vm: &VmState| (vm.terms.kernel_max_us, vm.terms.turn_max_us, vm.pool.rungs);
        let ladder_before = ladder(vm);
        change(vm);
        if ladder(vm) != ladder_before {
            // What is beyond a limit already climbs by the new rule.
            for session in &mut vm.sessions {
                session.reached = None;
                if let Some(seat) = session.seat_mut() {
                    seat.over = None;
                }
            }
        }
        let base = base_level(vm);
        if base != before.0 {
            vm.level = base;
            vm.first_since = None;
        }
        let share_changed = vm.terms.share_max != before.1;
        let no_turns_now = before.2 && !vm.pool.turns;
        if share_changed {
            let budget = self.vm(slot).and_then(|vm| self.new_budget(vm));
            if let Some(vm) = self.vm_mut(slot) {
                vm.budget = budget;
            }
        }
        self.join_class(slot);
        self.settle_queue(slot, ticket);
        self.set_slices(slot, actions);
        if no_turns_now {
            self.seat_all(slot, actions);
        }
        self.touch_all(slot);
        gang
    }

    fn remove_vm(&mut self, vm: Vm, actions: &mut Vec<Action>) -> GpuSet {
        let Some(slot) = self.slot(vm) else {
            return GpuSet::EMPTY;
        };
        let mut dirty = GpuSet::EMPTY;
        while let Some((number, gang)) = self
            .vm(slot)
            .and_then(|vm| Some((vm.sessions.first()?.number, vm.gang)))
        {
            dirty = dirty.or(gang);
            self.gone(slot, number, actions);
        }
        self.leave_class(slot);
        if let Some(state) = self.vms[slot as usize].take() {
            self.timers.set(timers::Who::Vm(slot), state.due, None);
        }
        self.touched.retain(|(touched, _)| *touched != slot);
        self.index.remove(&vm);
        self.free.push(slot);
        dirty
    }

    fn attach(&mut self, session: Session, gpus: GpuSet, found: Found, actions: &mut Vec<Action>) -> GpuSet {
        let Some(slot) = self.slot(session.vm) else {
            return GpuSet::EMPTY;
        };
        let (number, now, ticket) = (session.number, self.now, self.ticket());
        let Some(vm) = self.vm_mut(slot) else {
            return GpuSet::EMPTY;
        };
        let Err(at) = vm
            .sessions
            .binary_search_by_key(&number, |session| session.number)
        else {
            return GpuSet::EMPTY;
        };
        vm.sessions.insert(
            at,
            SessionState {
                number,
                gpus,
                place: Place::Out,
                ticket,
                can_stop: false,
                slices_work: false,
                slice: None,
                window: None,
                contended: false,
                stuck_ns: 0,
                reached: None,
                burst: None,
                out_since: now,
                suspend: Suspend::No,
                due: None,
            },
        );
        self.gang_changed(slot, None);
        self.set_slices(slot, actions);
        self.touched.push((slot, number));
        if found != Found::Nothing {
            self.sit_down(slot, number, actions);
            if let Some(seat) = self.seat_mut(slot, number) {
                seat.idle_since = (found == Found::Idle).then_some(now);
                seat.asked = found == Found::Asked;
            }
        }
        self.vm(slot).map_or(gpus, |vm| vm.gang)
    }

    fn gone(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        self.stand_up(slot, number, End::Gone, Place::Out, actions);
        self.set_place(slot, number, Place::Out);
        let Some(vm) = self.vm_mut(slot) else { return };
        let Ok(at) = vm
            .sessions
            .binary_search_by_key(&number, |session| session.number)
        else {
            return;
        };
        let state = vm.sessions.remove(at);
        self.timers
            .set(timers::Who::Session(slot, number), state.due, None);
        self.touched.retain(|touched| *touched != (slot, number));
        let again = self.leave_queue(slot);
        self.gang_changed(slot, again);
        self.settle_queue(slot, again);
        // The others have its part of the depth.
        self.set_slices(slot, actions);
    }

    fn want(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        let now = self.now;
        let ticket = self.ticket();
        let Some(vm) = self.vm_mut(slot) else { return };
        let turns = vm.pool.turns;
        let Some(session) = vm.session_mut(number) else {
            return;
        };
        session.suspend = Suspend::No;
        match &mut session.place {
            Place::Out => {
                session.ticket = ticket;
                self.set_place(slot, number, Place::Waiting { since: now });
                if turns {
                    self.settle_queue(slot, None);
                } else {
                    self.seat_all(slot, actions);
                }
            }
            // It is giving this turn back, or lost it before this event and we do not know yet.
            Place::Seated(seat) if seat.asked || seat.taking => seat.wants_again = true,
            Place::Stopped { wants_again, .. } => *wants_again = true,
            Place::Seated(_) | Place::Waiting { .. } => {}
        }
    }

    /// Seats all sessions of a VM that want it: where there are no turns, nobody is in anybody's way.
    fn seat_all(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        let Some(vm) = self.vm(slot) else { return };
        let wanting = vm.sessions.iter().filter(|session| session.wants());
        let wanting: Vec<_> = wanting.map(|session| session.number).collect();
        for number in wanting {
            self.give_seat(slot, number, actions);
        }
    }

    /// Seats a session that wants it, and has it know.
    fn give_seat(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        let Some(vm) = self.vm(slot) else { return };
        let id = vm.id(number);
        let stopped = vm
            .session(number)
            .is_some_and(|session| matches!(session.place, Place::Stopped { .. }));
        self.sit_down(slot, number, actions);
        if stopped {
            self.order_resume(id, actions);
        } else {
            actions.push(Action::Grant { session: id });
        }
    }

    fn released(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        let since = self.now;
        let Some(vm) = self.vm_mut(slot) else { return };
        let (id, turns) = (vm.id(number), vm.pool.turns);
        let Some(session) = vm.session_mut(number) else {
            return;
        };
        match &session.place {
            Place::Seated(seat) => {
                let end = if seat.asked { End::Yielded } else { End::Released };
                let stopping = seat.stopping.is_some();
                let after = self.place_after(slot, number);
                self.work_done(slot, number);
                self.stand_up(slot, number, end, after, actions);
                if stopping {
                    self.order_resume(id, actions);
                }
            }
            // It had drained just when the stop took effect: there is nothing to keep stopped.
            Place::Stopped { wants_again, .. } => {
                let after = if *wants_again {
                    Place::Waiting { since }
                } else {
                    Place::Out
                };
                self.work_done(slot, number);
                self.set_place(slot, number, after);
                self.order_resume(id, actions);
                self.settle_queue(slot, None);
                if !turns {
                    self.seat_all(slot, actions);
                }
            }
            Place::Out | Place::Waiting { .. } => {}
        }
    }

    fn idle_seen(&mut self, slot: Slot, number: u32, idle_us: u64) {
        let Some(session) = self.session_at(slot, number).filter(|session| session.works()) else {
            return;
        };
        let gpus = session.gpus;
        self.account(gpus);
        self.work_done(slot, number);
        let splits = gpus.iter().map(|gpu| self.gpus[gpu as usize].split_since);
        // The books are counted anew no further back than they are as simple as now.
        let now = self.now;
        let since = splits.fold(now.saturating_sub(idle_us), u64::max);
        self.recount(gpus, since, |core| {
            if let Some(seat) = core.seat_mut(slot, number) {
                seat.idle_since = Some(since);
                if idle_us >= LOOK_LASTS_US {
                    // As long as a look takes: if nobody waits, it has been one.
                    seat.look_at = now;
                }
            }
        });
        self.was_busy(slot);
    }

    fn busy_seen(&mut self, slot: Slot, number: u32) {
        let idle = |seat: &Seat| seat.is_idle();
        let Some(session) = self
            .session_at(slot, number)
            .filter(|session| session.seat().is_some_and(idle))
        else {
            return;
        };
        let gpus = session.gpus;
        self.account(gpus);
        if let Some(seat) = self.seat_mut(slot, number) {
            seat.idle_since = None;
            if !seat.asked {
                // It was to go only because it was idle.
                seat.unwanted_since = None;
            }
        }
        self.split_changed(gpus);
        self.was_busy(slot);
        self.progress(slot, number);
    }

    fn take_result(&mut self, slot: Slot, number: u32, taken: bool, actions: &mut Vec<Action>) {
        let Some(seat) = self.seat_mut(slot, number) else {
            return;
        };
        if !seat.taking {
            return;
        }
        seat.taking = false;
        let stopping = seat.stopping.is_some();
        if taken {
            let after = self.place_after(slot, number);
            self.work_done(slot, number);
            self.stand_up(slot, number, End::Taken, after, actions);
            if stopping && let Some(vm) = self.vm(slot) {
                self.order_resume(vm.id(number), actions);
            }
        } else {
            // It works again. If it wanted a turn it would not have one.
            seat.wants_again &= seat.asked;
            self.busy_seen(slot, number);
        }
    }

    fn order_done(
        &mut self,
        slot: Slot,
        number: u32,
        (sequence, ok): (u64, bool),
        actions: &mut Vec<Action>,
    ) {
        let since = self.now;
        let gpus = self
            .session_at(slot, number)
            .map_or(GpuSet::EMPTY, |session| session.gpus);
        self.account(gpus);
        self.split_changed(gpus);
        let Some(vm) = self.vm_mut(slot) else { return };
        let id = vm.id(number);
        let Some(session) = vm.session_mut(number) else {
            return;
        };
        if !ok && session.slice.is_some_and(|(_, order)| order == sequence) {
            session.slices_work = false;
        }
        let Place::Seated(seat) = &mut session.place else {
            return;
        };
        let Some((_, repeat_at)) = seat.stopping.filter(|(order, _)| *order == sequence) else {
            return;
        };
        if ok {
            let after = Place::Stopped {
                since,
                repeat_at,
                wants_again: seat.wants_again,
            };
            self.stand_up(slot, number, End::Stopped, after, actions);
        } else {
            seat.stopping = None;
            session.can_stop = false;
            // It may have taken effect in part; nobody may stay stopped without anyone knowing.
            self.order_resume(id, actions);
        }
    }

    /// Where a session goes that gives its turn back.
    fn place_after(&self, slot: Slot, number: u32) -> Place {
        let session = self.session_at(slot, number);
        if session
            .and_then(SessionState::seat)
            .is_some_and(|seat| seat.wants_again)
        {
            Place::Waiting { since: self.now }
        } else {
            Place::Out
        }
    }

    /// Gives a session a seat. The caller knows that it may have it.
    fn sit_down(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        let Some(gpus) = self.session_at(slot, number).map(|session| session.gpus) else {
            return;
        };
        self.account(gpus);
        self.turns += 1;
        let (now, turn) = (self.now, self.turns);
        let look_at = now + self.config.look_us;
        let Some(vm) = self.vm_mut(slot) else { return };
        let (id, level) = (vm.id(number), vm.level);
        let begins = vm.turn_since.is_none();
        vm.turns += 1;
        vm.turn_since.get_or_insert(now);
        let Some(session) = vm.session_mut(number) else {
            return;
        };
        let (waited_us, asked, wants_again) = match session.place {
            Place::Waiting { since } => (now - since, false, false),
            // It is resumed, and still being asked back: it can only finish what it has.
            Place::Stopped {
                since, wants_again, ..
            } => (now - since, true, wants_again),
            Place::Out | Place::Seated(_) => (0, false, false),
        };
        let seat = Seat {
            turn,
            since: now,
            idle_since: None,
            asked,
            taking: false,
            stopping: None,
            unwanted_since: None,
            over: None,
            wants_again,
            look_at,
            charge: Charge::default(),
        };
        self.set_place(slot, number, Place::Seated(seat));
        self.leave_queue(slot);
        self.settle_contender(slot);
        if begins {
            self.note_served(slot);
        }
        self.was_busy(slot);
        actions.push(Action::Began {
            session: id,
            turn,
            level,
            waited_us,
        });
    }

    /// Takes a session's seat, if it has one, in the books and in the queue.
    fn stand_up(&mut self, slot: Slot, number: u32, end: End, after: Place, actions: &mut Vec<Action>) {
        let Some(session) = self.session_at(slot, number) else {
            return;
        };
        let gpus = session.gpus;
        if session.seat().is_none() {
            return;
        }
        self.account(gpus);
        let (now, ticket) = (self.now, self.ticket());
        let Place::Seated(seat) = self.set_place(slot, number, after) else {
            return;
        };
        let Some(vm) = self.vm_mut(slot) else { return };
        vm.charge = vm.charge.plus(seat.charge);
        let id = vm.id(number);
        if let Some(session) = vm.session_mut(number) {
            session.ticket = ticket;
            session.out_since = now;
        }
        actions.push(Action::Ended {
            session: id,
            turn: seat.turn,
            held_us: seat.idle_since.unwrap_or(now) - seat.since,
            charge: seat.charge,
            end,
        });
        if vm.seats == 0 {
            vm.turn_since = None;
            vm.lowered = false;
            vm.level = base_level(vm);
            self.set_slices(slot, actions);
        }
        if !seat.is_idle() {
            self.was_busy(slot);
        }
        self.settle_queue(slot, None);
        // One that was stopped, or that already wants the next turn, has nobody to wait for.
        if self.vm(slot).is_some_and(|vm| !vm.pool.turns) {
            self.seat_all(slot, actions);
        }
    }

    /// Puts a session elsewhere, in the books of its VM and of its GPUs. Returns where it was.
    fn set_place(&mut self, slot: Slot, number: u32, place: Place) -> Place {
        let Some(vm) = self.vms.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Place::Out;
        };
        let Ok(at) = vm
            .sessions
            .binary_search_by_key(&number, |session| session.number)
        else {
            return Place::Out;
        };
        let session = &mut vm.sessions[at];
        let before = (session.seat().is_some(), session.wants());
        let old = std::mem::replace(&mut session.place, place);
        let after = (session.seat().is_some(), session.wants());
        vm.seats = vm.seats + u32::from(after.0) - u32::from(before.0);
        vm.wanting = vm.wanting + u32::from(after.1) - u32::from(before.1);
        if before.0 != after.0 {
            for gpu in session.gpus.iter() {
                let state = &mut self.gpus[gpu as usize];
                state.split_since = self.now;
                if after.0 {
                    state.holders.push((slot, number));
                } else {
                    state.holders.retain(|holder| *holder != (slot, number));
                }
            }
        }
        self.touched.push((slot, number));
        old
    }

    fn order_resume(&mut self, session: Session, actions: &mut Vec<Action>) {
        let sequence = self.next_sequence();
        actions.push(Action::Resume { session, sequence });
    }

    /// Orders what the level and the depth of a VM say for its sessions, where it is not so yet.
    fn set_slices(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        let Self {
            vms,
            gpus,
            config,
            sequence,
            now,
            ..
        } = self;
        let Some(vm) = vms.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let sessions = vm.sessions.len().max(1) as u32;
        let depth = vm.terms.depth.map(|depth| (depth / sessions).max(1));
        let slice_us = config.slice_us.of(vm.level);
        let operations = config.window.of(vm.level);
        for session in &mut vm.sessions {
            let id = Session {
                vm: vm.vm,
                number: session.number,
            };
            if session.slice.is_none_or(|(slice, _)| slice != slice_us) {
                *sequence += 1;
                session.slice = Some((slice_us, *sequence));
                for gpu in session.gpus.iter() {
                    gpus[gpu as usize].split_since = *now;
                }
                actions.push(Action::SetSlice {
                    session: id,
                    sequence: *sequence,
                    slice_us,
                });
            }
            if session.window != Some((operations, depth)) {
                session.window = Some((operations, depth));
                actions.push(Action::SetWindow {
                    session: id,
                    operations,
                    depth,
                });
            }
        }
    }

    fn set_level(&mut self, slot: Slot, level: Level, actions: &mut Vec<Action>) {
        let gang = self.vm(slot).map_or(GpuSet::EMPTY, |vm| vm.gang);
        self.account(gang);
        self.move_in_queue(slot, level);
        self.set_slices(slot, actions);
    }

    /// Has `f` deal with a session that is attached. Returns the GPUs of its VM, before.
    fn with(&mut self, session: Session, f: impl FnOnce(&mut Self, Slot, u32)) -> GpuSet {
        let Some(slot) = self.slot(session.vm) else {
            return GpuSet::EMPTY;
        };
        let Some(gang) = self
            .vm(slot)
            .filter(|vm| vm.session(session.number).is_some())
            .map(|vm| vm.gang)
        else {
            return GpuSet::EMPTY;
        };
        f(self, slot, session.number);
        gang
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn slot(&self, vm: Vm) -> Option<Slot> {
        self.index.get(&vm).copied()
    }

    fn vm(&self, slot: Slot) -> Option<&VmState> {
        self.vms.get(slot as usize)?.as_ref()
    }

    fn vm_mut(&mut self, slot: Slot) -> Option<&mut VmState> {
        self.vms.get_mut(slot as usize)?.as_mut()
    }

    fn session_at(&self, slot: Slot, number: u32) -> Option<&SessionState> {
        self.vm(slot)?.session(number)
    }

    fn session(&self, session: Session) -> Option<&SessionState> {
        self.session_at(self.slot(session.vm)?, session.number)
    }

    fn session_mut(&mut self, session: Session) -> Option<&mut SessionState> {
        let slot = self.slot(session.vm)?;
        self.touched.push((slot, session.number));
        self.vm_mut(slot)?.session_mut(session.number)
    }

    fn seat_mut(&mut self, slot: Slot, number: u32) -> Option<&mut Seat> {
        self.vm_mut(slot)?.session_mut(number)?.seat_mut()
    }

    fn gpus_of(&self, session: Session) -> GpuSet {
        self.session(session)
            .map_or(GpuSet::EMPTY, |session| session.gpus)
    }

    fn works(&self, (slot, number): (Slot, u32)) -> bool {
        self.session_at(slot, number).is_some_and(SessionState::works)
    }

    fn all_gpus(&self) -> GpuSet {
        (0..self.gpus.len() as Gpu).collect()
    }

    fn touch_all(&mut self, slot: Slot) {
        let Self { vms, touched, .. } = self;
        if let Some(vm) = vms.get(slot as usize).and_then(Option::as_ref) {
            touched.extend(vm.sessions.iter().map(|session| (slot, session.number)));
        }
    }
}

/// A VM's level if it neither waits long nor breaks a limit. Without priorities, everybody is of one level.
fn base_level(vm: &VmState) -> Level {
    match vm.pool.policy {
        _ if vm.lowered => Level::Low,
        Policy::Priority => vm.terms.level,
        Policy::Weighted | Policy::Fifo => Level::Medium,
    }
}
