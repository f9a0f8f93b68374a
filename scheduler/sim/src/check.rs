//! What must hold, checked after every step against a model that is as simple as can be.
use crate::host::{Fault, Host, Page};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use vgpu_sched_core::{
    Action, End, Event, Found, GpuSet, Level, Limit, Policy, PoolTerms, Rung, Session, Standing, Terms, Vm,
};

/// Everything is looked at once in so many steps, and what a step touched after each.
const ALL_EVERY: u64 = 512;
/// How long a hand-over may take while a GPU does nothing: messages, and a stop and a resume. One that was active lately is
/// waited for besides.
const HAND_OVER_US: u64 = 3_000;

/// What the checks take as given. Times in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The core decides by policy and holds VMs to their limits; else it takes every pool for one under
    /// [`Policy::Priority`] whose VMs have none.
    pub(crate) policies: bool,
    /// The longest turn that terms and tuning allow at any time of the run.
    pub(crate) turn_us: u64,
    /// What a session takes at most to give its turn back.
    pub(crate) drain_us: u64,
    pub(crate) aging_us: u64,
    /// How much heavier than another a VM can be.
    pub(crate) weight: u32,
    /// Some sessions have several GPUs.
    pub(crate) gangs: bool,
    /// VMs that have as much work as the GPU can do, all the time.
    pub(crate) steady: BTreeSet<Vm>,
}

/// What the scheduler was told of a session, and what follows from that.
#[derive(Clone, Copy, Debug)]
struct Model {
    gpus: GpuSet,
    /// It wants a turn and has none; since when.
    wish: Option<u64>,
    /// It wants the next turn and is giving this one back.
    early: bool,
    stopped: bool,
    /// It was found with a turn, which need not follow the rules.
    adopted: bool,
    suspended: bool,
    /// When it last said that its work gets on, or was attached.
    progress_at: u64,
    /// For how long its kernel had run when it was attached: a scheduler knows nothing of what was before it.
    ran_before_us: u64,
    /// Somebody who never says that he is idle was seated beside it since: he has his part of the time in the books.
    beside_hoarder: bool,
}

#[derive(Clone, Debug)]
struct Seat {
    gpus: GpuSet,
    turn: u64,
    since: u64,
    idle: bool,
    asked: bool,
    reached: Vec<(Limit, Rung)>,
}

/// A VM that waits and has no seat.
#[derive(Clone, Copy, Debug)]
struct Queued {
    place: u64,
    since: u64,
    /// VMs that were before it.
    before: u64,
    /// It has had a cap since: while its share is used up it has no place.
    capped: bool,
}

/// The model and what was found.
#[derive(Debug)]
pub(crate) struct Checker {
    rules: Rules,
    violation: Option<(u64, String)>,
    models: BTreeMap<Session, Model>,
    /// By VM: all GPUs of its sessions, and when the last of them were added.
    gangs: BTreeMap<Vm, (GpuSet, u64)>,
    seats: BTreeMap<Session, Seat>,
    /// Sessions that wait for a seat.
    waiting: BTreeSet<Session>,
    queue: BTreeMap<Vm, Queued>,
    queued: u64,
    turns: u64,
    steps: u64,
    touched: BTreeSet<Session>,
    /// By GPU: when a session there was last seen to get on. It may have a burst, for which others wait.
    progress_on: [Option<u64>; GpuSet::MAX as usize],
    /// When sessions last waited for GPUs that did nothing for a good reason, and those that do since the last step.
    excused_at: BTreeMap<Session, u64>,
    excused: Vec<Session>,
    /// When terms or tuning changed last: what was decided before need not follow them.
    changed_at: u64,
    /// Up to when time was added up.
    at: u64,
    /// GPU time for which somebody was seated and not idle.
    used_us: u64,
    /// What was charged for turns that ended: in all, and by VM.
    charged_ns: u64,
    charged_by_vm: BTreeMap<Vm, u64>,
    /// By GPU: VMs that have sessions there, by level.
    rivals: Vec<[u64; 3]>,
    rivals_known: bool,
    /// By VM with a cap: how many GPUs it has, and what it had used when.
    shares: BTreeMap<Vm, (u64, VecDeque<(u64, u64)>)>,
    /// What each steady VM had been charged when its terms, or its rivals', were last changed.
    fair_from: BTreeMap<Vm, u64>,
}

impl Checker {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            violation: None,
            models: BTreeMap::new(),
            gangs: BTreeMap::new(),
            seats: BTreeMap::new(),
            waiting: BTreeSet::new(),
            queue: BTreeMap::new(),
            queued: 0,
            turns: 0,
            steps: 0,
            touched: BTreeSet::new(),
            progress_on: [None; GpuSet::MAX as usize],
            excused_at: BTreeMap::new(),
            excused: Vec::new(),
            changed_at: 0,
            at: 0,
            used_us: 0,
            charged_ns: 0,
            charged_by_vm: BTreeMap::new(),
            rivals: Vec::new(),
            rivals_known: false,
            shares: BTreeMap::new(),
            fair_from: BTreeMap::new(),
        }
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_ref().map(|(_, what)| what.as_str())
    }

    /// When that was, in microseconds.
    pub(crate) fn violated_at(&self) -> Option<u64> {
        self.violation.as_ref().map(|(at, _)| *at)
    }

    /// The scheduler forgot everything.
    pub(crate) fn restart(&mut self, now: u64) {
        let violation = self.violation.take();
        *self = Self {
            violation,
            at: now,
            ..Self::new(self.rules.clone())
        };
    }

    /// A session is no more; the scheduler is about to be told.
    pub(crate) fn gone(&mut self, session: Session) {
        self.rivals_known = false;
        self.models.remove(&session);
        self.regang(session.vm);
        self.waiting.remove(&session);
    }

    fn ensure(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some((self.at, what()));
        }
    }

    /// An event is about to be taken to the scheduler.
    pub(crate) fn before(&mut self, host: &Host, event: &Event) {
        let now = host.now;
        let busy = self.seats.values().filter(|seat| !seat.idle);
        let busy = busy.fold(GpuSet::EMPTY, |all, seat| all.or(seat.gpus));
        self.used_us += (now - self.at) * u64::from(busy.len());
        self.at = now;
        self.touched.clear();
        match event {
            Event::Attached { session, gpus, found } => {
                self.rivals_known = false;
                self.fair_from.clear();
                let ran_ns = host
                    .sessions
                    .get(session)
                    .map_or(0, |real| real.kernel_ran_ns(host.hardware.left_ns(*session, now)));
                let model = Model {
                    gpus: *gpus,
                    wish: None,
                    early: false,
                    stopped: false,
                    adopted: *found != Found::Nothing,
                    suspended: false,
                    progress_at: now,
                    ran_before_us: ran_ns / 1000,
                    beside_hoarder: false,
                };
                self.models.insert(*session, model);
                self.regang(session.vm);
                self.touched.insert(*session);
            }
            Event::Want { session } => {
                let asked = self.seats.get(session).map(|seat| seat.asked);
                if let Some(model) = self.models.get_mut(session) {
                    match asked {
                        Some(asked) => model.early |= asked,
                        None if model.stopped => model.early = true,
                        None => {
                            model.wish.get_or_insert(now);
                        }
                    }
                }
                self.touched.insert(*session);
            }
            Event::Released { session } => {
                if let Some(model) = self.models.get_mut(session)
                    && model.stopped
                {
                    model.stopped = false;
                    if std::mem::take(&mut model.early) {
                        model.wish = Some(now);
                    }
                }
                self.touched.insert(*session);
            }
            Event::IdleSeen { session, .. } => self.set_idle(*session, true),
            Event::BusySeen { session } => self.set_idle(*session, false),
            Event::TakeResult { session, taken } => {
                if !taken {
                    self.set_idle(*session, false);
                }
                self.touched.insert(*session);
            }
            Event::Progress { session } => {
                self.kernel_done(*session);
                if let Some(model) = self.models.get_mut(session) {
                    model.progress_at = now;
                    let gpus = model.gpus;
                    self.got_on(gpus);
                }
            }
            Event::Suspended { session, suspended } => {
                if let Some(model) = self.models.get_mut(session) {
                    model.suspended = *suspended;
                }
                self.touched.insert(*session);
            }
            Event::Gone { session } => {
                self.touched.insert(*session);
            }
            Event::VmSet { .. } | Event::PoolSet { .. } | Event::Configured(_) => {
                if let Event::VmSet { vm, terms } = event
                    && let Some(queued) = self.queue.get_mut(vm)
                {
                    queued.capped |= terms.share_max.is_some();
                }
                let changed = |id: &Session| match event {
                    Event::VmSet { vm, .. } => id.vm == *vm,
                    Event::PoolSet { pool, .. } => {
                        host.vms.get(&id.vm).is_some_and(|terms| terms.pool == *pool)
                    }
                    _ => false,
                };
                // What is beyond a limit already may climb anew.
                for (_, seat) in self.seats.iter_mut().filter(|(id, _)| changed(id)) {
                    seat.reached.clear();
                }
                self.rivals_known = false;
                self.changed_at = now;
                self.shares.clear();
                self.fair_from.clear();
            }
            Event::VmRemoved { .. } | Event::Proved { .. } | Event::OrderDone { .. } | Event::Tick => {}
        }
    }

    /// The scheduler says what is to be done; it is not done yet.
    pub(crate) fn action(&mut self, host: &Host, action: &Action) {
        let now = host.now;
        match action {
            Action::Began { session, turn, .. } => self.began(host, *session, *turn),
            Action::Ended {
                session,
                turn,
                held_us,
                charge,
                end,
            } => {
                self.touched.insert(*session);
                let Some(seat) = self.seats.remove(session) else {
                    self.ensure(false, || format!("{session:?} ended a turn that it did not have"));
                    return;
                };
                self.ensure(seat.turn == *turn, || {
                    format!("{session:?} ended turn {turn}, and had turn {}", seat.turn)
                });
                let most = held_us * 1000 * u64::from(seat.gpus.len());
                self.ensure(charge.ns <= most, || {
                    format!("{session:?} was charged {} ns of {most} ns", charge.ns)
                });
                self.charged_ns += charge.ns;
                *self.charged_by_vm.entry(session.vm).or_default() += charge.ns;
                if let Some(model) = self.models.get_mut(session) {
                    model.adopted = false;
                    model.stopped = *end == End::Stopped;
                    if *end != End::Stopped && std::mem::take(&mut model.early) {
                        model.wish = Some(now);
                    }
                }
            }
            Action::Grant { session } => {
                self.touched.insert(*session);
                let real = host.sessions.get(session);
                let seated = self.seats.contains_key(session);
                let Some(model) = self.models.get_mut(session) else {
                    self.ensure(false, || {
                        format!("{session:?} is granted a turn and is not there")
                    });
                    return;
                };
                let wished = model.wish.take();
                let babbles = real.is_some_and(|real| real.member.fault == Fault::Babbles);
                let free = real.is_some_and(|real| real.page == Page::None);
                let suspended = model.suspended;
                let gpus = model.gpus;
                self.ensure(wished.is_some() || babbles, || {
                    format!("{session:?} is granted a turn and did not want one")
                });
                self.ensure(free && seated && !suspended, || {
                    format!("{session:?} is granted a turn as {real:?}")
                });
                if let Some(since) = wished {
                    self.check_wish(host, *session, gpus, since);
                }
            }
            Action::AskBack { session } | Action::TakeIfIdle { session } => {
                let ask = matches!(action, Action::AskBack { .. });
                let pool = self.pool(host, session.vm);
                let terms = host.vms.get(&session.vm);
                let unlimited = terms
                    .is_none_or(|t| t.turn_max_us.or(t.kernel_max_us).is_none() && t.share_max.is_none());
                // Whoever was seated by other rules, or found, goes when these want it. And of two VMs the later one goes
                // if a new session of either has GPUs of both.
                let gang = self.gang(session.vm);
                let settled = self.seats.iter().all(|(id, seat)| {
                    let adopted = self.models.get(id).is_some_and(|model| model.adopted);
                    let grew = |(other, at): &(GpuSet, u64)| other.meets(gang) && *at >= seat.since;
                    let grew = self.gangs.get(&id.vm).is_some_and(grew);
                    seat.since > self.changed_at && !adopted && !grew
                });
                if let Some(seat) = self.seats.get_mut(session) {
                    seat.asked |= ask;
                }
                let to_its_end = pool.turns && pool.policy == Policy::Fifo;
                self.ensure(!(to_its_end && ask && unlimited && settled), || {
                    format!("{session:?} is asked back, and its turn is to last until its work is done")
                });
                self.ensure(!(ask && !pool.turns && unlimited && settled), || {
                    format!("{session:?} is asked back in a pool without turns")
                });
            }
            Action::Stop { session, .. } => {
                let may = match self.seats.get(session) {
                    Some(seat) => seat.asked,
                    None => self.models.get(session).is_some_and(|model| model.stopped),
                };
                self.ensure(may, || format!("{session:?} is stopped and was not asked back"));
            }
            Action::Reached {
                session,
                limit,
                rung,
                climbed,
            } => self.reached(host, *session, *limit, *rung, *climbed),
            Action::EndSession { session, limit } => {
                let rungs = self.pool(host, session.vm).rungs;
                let limits = host.vms.get(&session.vm).map(|terms| match limit {
                    Limit::Kernel => terms.kernel_max_us,
                    Limit::Turn => terms.turn_max_us,
                });
                self.ensure(rungs.has(Rung::End) && limits.flatten().is_some(), || {
                    format!("{session:?} is ended for {limit:?}, and that is not configured")
                });
            }
            Action::Suspend { session } => {
                let real = host.sessions.get(session);
                let may = host
                    .vms
                    .get(&session.vm)
                    .is_some_and(|t| t.suspend_after_us.is_some());
                self.ensure(may && real.is_some_and(|real| real.page == Page::None), || {
                    format!("{session:?} is to be suspended as {real:?}")
                });
            }
            Action::Resume { .. }
            | Action::SetContended { .. }
            | Action::SetSlice { .. }
            | Action::SetWindow { .. } => {}
        }
    }

    /// The step is over.
    pub(crate) fn after(&mut self, host: &Host, event: &Event) {
        let gone = |id: &Session| match event {
            Event::Gone { session } => id == session,
            Event::VmRemoved { vm } => id.vm == *vm,
            _ => false,
        };
        let kept = self.seats.keys().copied().find(gone);
        self.ensure(kept.is_none(), || {
            format!("{kept:?} is gone, and its turn did not end")
        });
        if let Event::VmRemoved { vm } = event {
            self.charged_by_vm.remove(vm);
            self.shares.remove(vm);
            self.fair_from.remove(vm);
            self.queue.remove(vm);
        }
        let touched = std::mem::take(&mut self.touched);
        for session in &touched {
            self.check_standing(host, *session);
        }
        for session in &touched {
            self.follow_queue(host, session.vm);
        }
        self.touched = touched;
        self.ensure(host.core.deadline().is_none_or(|at| at > host.now), || {
            "the deadline is in the past".to_owned()
        });
        self.check_work_conservation(host);
        self.check_shares(host);
        self.steps += 1;
        if self.steps.is_multiple_of(ALL_EVERY) {
            self.all(host, false);
        }
    }

    /// What is checked only now and then, and what only holds in the end, when nobody has new work.
    pub(crate) fn all(&mut self, host: &Host, is_end: bool) {
        if !host.up {
            return;
        }
        for session in self.models.keys().copied().collect::<Vec<_>>() {
            self.check_standing(host, session);
        }
        for session in self.waiting.clone() {
            let Some(model) = self.models.get(&session).copied() else {
                continue;
            };
            if let Some(since) = model.wish {
                self.check_wish(host, session, model.gpus, since);
            }
            if is_end {
                let (real, seats) = (host.sessions.get(&session), &self.seats);
                let (terms, pool) = (host.vms.get(&session.vm), self.pool(host, session.vm));
                let what = format!(
                    "{session:?} waits in the end, its share used up: {}; {terms:?}; {pool:?}; seated: {seats:?}; it is {real:?}",
                    host.core.is_spent(session.vm)
                );
                self.ensure(false, || what);
            }
        }
        for vm in self.queue.keys().copied().collect::<Vec<_>>() {
            self.check_wait(host, vm);
        }
        if is_end {
            let stopped = host
                .sessions
                .iter()
                .find(|(_, real)| real.stopped_until.is_some());
            self.ensure(stopped.is_none(), || format!("{stopped:?} is stopped in the end"));
        }
        self.check_kernels(host);
        self.check_charges(host);
        self.check_weights(host);
    }

    fn set_idle(&mut self, session: Session, idle: bool) {
        if let Some(seat) = self.seats.get_mut(&session)
            && seat.idle != idle
        {
            seat.idle = idle;
            let gpus = seat.gpus;
            self.kernel_done(session);
            if !idle {
                self.got_on(gpus);
            }
        }
        self.touched.insert(session);
    }

    /// A session there is seen to have new work, or to get on with what it has.
    fn got_on(&mut self, gpus: GpuSet) {
        for gpu in gpus.iter() {
            self.progress_on[gpu as usize] = Some(self.at);
        }
    }

    /// What it ran is done: the next kernel has its time anew.
    fn kernel_done(&mut self, session: Session) {
        if let Some(seat) = self.seats.get_mut(&session) {
            seat.reached.retain(|(limit, _)| *limit != Limit::Kernel);
        }
        if let Some(model) = self.models.get_mut(&session) {
            model.ran_before_us = 0;
            model.beside_hoarder = false;
        }
    }

    /// Takes note of who is seated beside one that never says that it is idle.
    fn note_hoarders(&mut self, host: &Host, gpus: GpuSet) {
        let real = |id: &Session| host.sessions.get(id);
        let there = self.seats.iter().filter(|(_, seat)| seat.gpus.meets(gpus));
        let there: Vec<Session> = there.map(|(id, _)| *id).collect();
        let hoards = |id: &Session| real(id).is_some_and(|real| real.member.fault == Fault::Hoards);
        if there.iter().any(hoards) {
            for id in there {
                if let Some(model) = self.models.get_mut(&id) {
                    model.beside_hoarder = true;
                }
            }
        }
    }

    fn sessions_of(&self, vm: Vm) -> impl Iterator<Item = (Session, &Model)> {
        let all = Session { vm, number: 0 }..=Session { vm, number: u32::MAX };
        self.models.range(all).map(|(id, model)| (*id, model))
    }

    fn gang(&self, vm: Vm) -> GpuSet {
        self.gangs.get(&vm).map_or(GpuSet::EMPTY, |(gang, _)| *gang)
    }

    fn regang(&mut self, vm: Vm) {
        let gang = self
            .sessions_of(vm)
            .fold(GpuSet::EMPTY, |all, (_, model)| all.or(model.gpus));
        let (had, grew_at) = self.gangs.get(&vm).copied().unwrap_or_default();
        let grew_at = if had.has_all(gang) { grew_at } else { self.at };
        self.gangs.insert(vm, (gang, grew_at));
    }

    /// How the VM's pool is treated, as far as the core treats pools.
    fn pool(&self, host: &Host, vm: Vm) -> PoolTerms {
        let terms = host.vms.get(&vm).filter(|_| self.rules.policies);
        let pool = terms.and_then(|terms| host.pools.get(&terms.pool));
        pool.copied().unwrap_or_default()
    }

    /// The VM's terms, as far as the core holds it to its limits.
    fn terms(&self, host: &Host, vm: Vm) -> Option<Terms> {
        let terms = host.vms.get(&vm).copied()?;
        Some(match self.rules.policies {
            true => terms,
            false => Terms {
                share_max: None,
                turn_max_us: None,
                kernel_max_us: None,
                suspend_after_us: None,
                ..terms
            },
        })
    }

    /// Where a VM stands.
    fn level(&self, host: &Host, vm: Vm) -> Level {
        host.core.level(vm).unwrap_or(Level::Low)
    }

    fn began(&mut self, host: &Host, session: Session, turn: u64) {
        self.touched.insert(session);
        self.turns += 1;
        let expected = self.turns;
        self.ensure(turn == expected, || {
            format!("turn {turn} follows turn {}", expected - 1)
        });
        let Some(model) = self.models.get_mut(&session) else {
            self.ensure(false, || format!("{session:?} begins a turn and is not there"));
            return;
        };
        let asked = std::mem::take(&mut model.stopped);
        let (gpus, adopted) = (model.gpus, model.adopted);
        let found = host.sessions.get(&session).map(|real| real.page);
        let seat = Seat {
            gpus,
            turn,
            since: host.now,
            idle: adopted && found == Some(Page::Idle),
            asked: asked || adopted && found == Some(Page::Yield),
            reached: Vec::new(),
        };
        if !adopted {
            self.check_admission(host, session, gpus);
            self.check_order(host, session.vm);
        }
        let had = self.seats.insert(session, seat);
        self.ensure(had.is_none(), || format!("{session:?} has two turns"));
        self.note_hoarders(host, gpus);
        if self.queue.contains_key(&session.vm) {
            self.check_wait(host, session.vm);
            self.queue.remove(&session.vm);
        }
    }

    /// Nobody is in the way of a session that gets a seat.
    fn check_admission(&mut self, host: &Host, session: Session, gpus: GpuSet) {
        let pool = self.pool(host, session.vm);
        if !pool.turns {
            return;
        }
        let level = self.level(host, session.vm);
        let others: Vec<(Session, GpuSet)> = self
            .seats
            .iter()
            .filter(|(other, seat)| **other != session && seat.gpus.meets(gpus))
            .map(|(other, seat)| (*other, seat.gpus))
            .collect();
        for (other, other_gpus) in others {
            let other_level = self.level(host, other.vm);
            self.ensure(!pool.exclusive, || {
                format!("{session:?} is seated beside {other:?} where only one may be")
            });
            self.ensure(other.vm == session.vm || level != other_level, || {
                format!("{session:?} is seated beside {other:?} of its level {level:?}")
            });
            let guests = gpus
                .and(other_gpus)
                .and(self.busy_above(host, level))
                .and(self.busy_above(host, other_level));
            self.ensure(guests.is_empty(), || {
                format!("{session:?} is a guest beside {other:?} below a level that works")
            });
        }
    }

    /// The GPUs on which a session above that level works.
    fn busy_above(&self, host: &Host, level: Level) -> GpuSet {
        self.seats
            .iter()
            .filter(|(id, seat)| !seat.idle && self.level(host, id.vm) > level)
            .fold(GpuSet::EMPTY, |all, (_, seat)| all.or(seat.gpus))
    }

    /// A VM that begins a turn has overtaken nobody of its level.
    fn check_order(&mut self, host: &Host, vm: Vm) {
        let Some(mine) = self.queue.get(&vm).copied() else {
            return;
        };
        let pool = self.pool(host, vm);
        if pool.policy == Policy::Weighted || !pool.turns {
            return;
        }
        let (gpus, level) = (self.gang(vm), self.level(host, vm));
        let overtaken = self.queue.iter().find(|(other, queued)| {
            queued.place < mine.place
                && queued.since > self.changed_at
                && self
                    .sessions_of(**other)
                    .any(|(id, _)| self.waiting.contains(&id))
                && self.gang(**other).meets(gpus)
                && self.level(host, **other) == level
                && !queued.capped
        });
        let overtaken = overtaken.map(|(other, _)| *other);
        self.ensure(overtaken.is_none(), || {
            format!("VM {vm} overtook VM {overtaken:?} of its level {level:?}")
        });
    }

    /// The scheduler knows what it was told, and a wish is neither lost nor made up.
    fn check_standing(&mut self, host: &Host, session: Session) {
        let Some(model) = self.models.get(&session).copied() else {
            return;
        };
        let seated = self.seats.contains_key(&session);
        if model.wish.is_some() || model.stopped {
            self.waiting.insert(session);
        } else {
            self.waiting.remove(&session);
        }
        let standing = host.core.standing(session);
        let real = host.sessions.get(&session);
        let babbles = real.is_some_and(|real| real.member.fault == Fault::Babbles);
        let right = match standing {
            None => false,
            Some(Standing::Running | Standing::Idle | Standing::Asked) => seated,
            Some(Standing::Stopped) => model.stopped && !seated,
            Some(Standing::Waiting) => !seated && (model.wish.is_some() || babbles),
            Some(Standing::Suspended) => model.suspended,
            Some(Standing::Out) => !seated && model.wish.is_none() && !model.stopped,
        };
        self.ensure(right, || {
            format!("{session:?} stands as {standing:?}, was told to be {model:?}, seated: {seated}")
        });
        if model.stopped {
            let stopped = real.is_some_and(|real| real.stopped_until.is_some() || real.page == Page::None);
            self.ensure(stopped, || format!("the dead-man resumed {session:?}"));
        }
    }

    fn follow_queue(&mut self, host: &Host, vm: Vm) {
        let seated = self.sessions_of(vm).any(|(id, _)| self.seats.contains_key(&id));
        let waits = self.sessions_of(vm).any(|(id, _)| self.waiting.contains(&id));
        if seated || !waits {
            self.queue.remove(&vm);
        } else if !self.queue.contains_key(&vm) {
            self.queued += 1;
            let gpus = self.gang(vm);
            let level = host.vms.get(&vm).map(|terms| terms.level);
            let meets = |other: &Vm| self.rules.gangs || self.gang(*other).meets(gpus);
            let same = |other: &Vm| {
                self.pool(host, vm).policy != Policy::Priority
                    || host.vms.get(other).map(|terms| terms.level) == level
            };
            let before = self
                .queue
                .keys()
                .filter(|other| same(other) && meets(other))
                .count();
            let terms = self.terms(host, vm);
            let queued = Queued {
                place: self.queued,
                since: host.now,
                before: before as u64,
                capped: terms.is_none_or(|terms| terms.share_max.is_some()),
            };
            self.queue.insert(vm, queued);
        }
    }

    /// Nobody waits whom nobody keeps from running: a holder, or a VM that came earlier or is more urgent and
    /// still lacks one of its GPUs. And no GPU does nothing for longer than a hand-over takes.
    fn check_work_conservation(&mut self, host: &Host) {
        let seated = self
            .seats
            .values()
            .fold(GpuSet::EMPTY, |all, seat| all.or(seat.gpus));
        let (mut found, mut excused) = (None, Vec::new());
        // What was a good reason has been one until now.
        let until_now = std::mem::take(&mut self.excused).into_iter();
        self.excused_at
            .extend(until_now.map(|session| (session, host.now)));
        for session in &self.waiting {
            let Some(model) = self.models.get(session) else {
                continue;
            };
            let capped = self
                .terms(host, session.vm)
                .is_none_or(|terms| terms.share_max.is_some());
            if capped || model.suspended {
                continue;
            }
            let level = self.level(host, session.vm);
            let mine = self.queue.get(&session.vm).filter(|queued| !queued.capped);
            let pool = self.pool(host, session.vm);
            // A VM's turn is one on all its GPUs.
            let gang = self.gang(session.vm);
            let others = self
                .seats
                .keys()
                .any(|other| other.vm != session.vm && self.gang(other.vm).meets(gang));
            let burst = gang.iter().any(|gpu| {
                let last = self.progress_on[gpu as usize];
                last.is_some_and(|at| host.now < at + host.config.burst_gap_us)
            });
            // One of its VM that has several GPUs keeps it from those that it has to wait for.
            let sibling = self.sessions_of(session.vm).any(|(id, other)| {
                let kept = other.gpus.meets(model.gpus) && other.gpus.meets(seated);
                kept && id != *session && self.waiting.contains(&id)
            });
            if !others && !burst && !sibling && !model.gpus.meets(seated) {
                let earlier = self.queue.iter().any(|(vm, queued)| {
                    *vm != session.vm
                        && (mine.is_none_or(|mine| queued.capped || queued.place < mine.place)
                            || self.level(host, *vm) > level
                            || pool.policy == Policy::Weighted)
                        && self.gang(*vm).meets(gang)
                });
                if !earlier {
                    found = Some(format!(
                        "{session:?} waits, and nobody is on its GPUs; its VM's are {gang:?}, those that wait are {:?}",
                        self.queue
                    ));
                    break;
                }
            }
            if !pool.turns && model.wish.is_some() {
                found = Some(format!("{session:?} waits in a pool without turns"));
                break;
            }
            let long_idle = |since: u64| host.now > since + HAND_OVER_US + host.config.active_hold_us;
            let idle = |long: &dyn Fn(u64) -> bool| {
                let mut gpus = model.gpus.iter();
                gpus.all(|gpu| host.hardware.idle_since(gpu).is_some_and(long))
            };
            let really = host
                .sessions
                .get(session)
                .is_some_and(|real| real.wants && real.member.fault == Fault::None);
            let somebody = model.gpus.meets(seated);
            if !(somebody && idle(&|_| true) && really && model.wish.is_some()) {
                continue;
            }
            let long = idle(&long_idle) && model.wish.is_some_and(long_idle);
            if self.excused(host, *session, model) {
                excused.push(*session);
            } else if long && self.excused_at.get(session).is_none_or(|at| long_idle(*at)) {
                let seats: Vec<_> = self
                    .seats
                    .iter()
                    .filter(|(_, seat)| seat.gpus.meets(model.gpus))
                    .map(|(id, seat)| (id, seat, host.sessions.get(id)))
                    .collect();
                found = Some(format!(
                    "{session:?} waits, and its GPUs do nothing; seated there: {seats:?}"
                ));
                break;
            }
        }
        self.excused = excused;
        self.ensure(found.is_none(), || found.unwrap_or_default());
    }

    /// Whether GPUs may do nothing while a session waits for them: somebody faulty holds them, or they are kept for
    /// a gang.
    fn excused(&self, host: &Host, session: Session, model: &Model) -> bool {
        let faulty = self.seats.iter().any(|(other, seat)| {
            seat.gpus.meets(model.gpus)
                && host.sessions.get(other).is_none_or(|real| {
                    real.member.fault != Fault::None || real.stopped_until.is_some() || real.ending
                })
        });
        // Of a VM that waits or is seated, all GPUs count, as its turn is one on all of them.
        let gang = self.gang(session.vm);
        let other = |vm: Vm| self.gang(vm) != gang && self.gang(vm).meets(gang);
        let split =
            |(id, seat): (&Session, &Seat)| seat.gpus != self.gang(id.vm) && self.gang(id.vm).meets(gang);
        let apart = self.queue.keys().any(|vm| other(*vm))
            || self.seats.keys().any(|id| other(id.vm))
            || self.seats.iter().any(split);
        // Without policies, the core keeps the seat of an idle guest for it below a level that was active lately.
        let guest = !self.rules.policies
            && self
                .seats
                .iter()
                .any(|(other, seat)| seat.idle && other.vm != session.vm && seat.gpus.meets(model.gpus));
        faulty || apart || guest
    }

    /// The bound of the core's documentation on how long a VM waits with that many of its level before it.
    fn bound(&mut self, host: &Host, vm: Vm, gpus: GpuSet, before: u64) -> Option<u64> {
        self.count_rivals(host);
        let pool = self.pool(host, vm);
        let capped = self.terms(host, vm).is_none_or(|terms| terms.share_max.is_some());
        // A turn that lasts until its work is done has no bound of ours, nor has a VM's time by weight where one has more
        // GPUs than another.
        let by_weight = pool.policy == Policy::Weighted;
        if capped || !pool.turns || pool.policy == Policy::Fifo || by_weight && self.rules.gangs {
            return None;
        }
        let most = |levels: &[usize]| {
            let here = self.rivals.iter().enumerate();
            let here = here.filter(|(gpu, _)| self.rules.gangs || gpus.iter().any(|g| g as usize == *gpu));
            let counts = here.map(|(_, count)| levels.iter().map(|level| count[*level]).sum::<u64>());
            if self.rules.gangs {
                counts.sum()
            } else {
                counts.max().unwrap_or(0)
            }
        };
        let turn = self.rules.turn_us + self.rules.drain_us;
        let all = most(&[0, 1, 2]);
        let high = most(&[2]);
        Some(if by_weight {
            // Everybody else as often as its weight is that of the least, and the turn that was begun; and whoever was
            // away for a moment keeps its claim.
            (all + 2) * u64::from(self.rules.weight) * (turn + host.config.active_hold_us)
        } else if pool.exclusive {
            (before + 1) * (2 * self.rules.aging_us + (all + 2) * turn)
        } else {
            (before + 1) * (2 * self.rules.aging_us + (high + 2) * turn)
        })
    }

    fn check_wait(&mut self, host: &Host, vm: Vm) {
        let Some(queued) = self.queue.get(&vm).copied() else {
            return;
        };
        let gpus = self.gang(vm);
        let Some(bound) = self.bound(host, vm, gpus, queued.before) else {
            return;
        };
        let waited = host.now - queued.since;
        self.ensure(waited <= bound, || {
            format!(
                "VM {vm} waited {waited} us with {} before it; the bound is {bound} us",
                queued.before
            )
        });
    }

    /// A session takes its turn among those of its VM, so it may wait for as many of its turns.
    fn check_wish(&mut self, host: &Host, session: Session, gpus: GpuSet, since: u64) {
        self.count_rivals(host);
        let mine = self.sessions_of(session.vm).count() as u64;
        let before = gpus
            .iter()
            .filter_map(|gpu| self.rivals.get(gpu as usize))
            .map(|count| count.iter().sum::<u64>())
            .sum();
        let Some(bound) = self.bound(host, session.vm, gpus, before) else {
            return;
        };
        let waited = host.now - since;
        let bound = (mine + 1) * bound;
        self.ensure(waited <= bound, || {
            format!("{session:?} waited {waited} us; the bound is {bound} us")
        });
    }

    fn count_rivals(&mut self, host: &Host) {
        if std::mem::replace(&mut self.rivals_known, true) {
            return;
        }
        let mut rivals = vec![[0; 3]; 64];
        let vms: BTreeSet<Vm> = self.models.keys().map(|session| session.vm).collect();
        for vm in vms {
            let level = host.vms.get(&vm).map_or(Level::Low, |terms| terms.level);
            for gpu in self.gang(vm).iter() {
                rivals[gpu as usize][level as usize] += 1;
            }
        }
        self.rivals = rivals;
    }

    /// No VM has more in any window than a full budget, what is added to it meanwhile, one turn, and what giving that back
    /// takes.
    fn check_shares(&mut self, host: &Host) {
        if !self.rules.policies {
            return;
        }
        let window = host.config.share_window_us;
        let touched = self.touched.iter().map(|session| session.vm);
        let vms: BTreeSet<Vm> = self.seats.keys().map(|id| id.vm).chain(touched).collect();
        for vm in vms {
            // Where there are no turns nobody can lose one.
            let pool = self.pool(host, vm);
            let share = host.vms.get(&vm).and_then(|terms| terms.share_max);
            let Some(share) = share.filter(|_| pool.turns) else {
                continue;
            };
            let used = host.core.usage(vm).map_or(0, |(_, charge)| charge.ns);
            let here = u64::from(self.gang(vm).len());
            let (gpus, points) = self.shares.entry(vm).or_default();
            *gpus = here.max(*gpus);
            points.push_back((host.now, used));
            let from = host.now.saturating_sub(window);
            while points.get(1).is_some_and(|(at, _)| *at <= from) {
                points.pop_front();
            }
            let before = match (points.front(), points.get(1)) {
                (Some((a, x)), Some((b, y))) if *a < from => {
                    x + (u128::from(y - x) * u128::from(from - a) / u128::from(b - a)) as u64
                }
                (Some((_, x)), _) => *x,
                _ => used,
            };
            let turn_ns = (self.rules.turn_us + self.rules.drain_us) * 1000;
            let most = *gpus * (u64::from(share) * window + turn_ns);
            let had = used - before;
            self.ensure(had <= most, || {
                format!(
                    "VM {vm} had {had} ns in {window} us; its budget, its share and one turn are {most} ns"
                )
            });
        }
    }

    /// A rung is reached once per kernel, or turn, and not before its part of the limit has passed.
    fn reached(&mut self, host: &Host, session: Session, limit: Limit, rung: Rung, climbed: bool) {
        let rungs = self.pool(host, session.vm).rungs;
        self.ensure(!climbed || rungs.has(rung), || {
            format!("{session:?}: {rung:?} is climbed, and the pool has {rungs:?}")
        });
        if let Some(seat) = self.seats.get_mut(&session) {
            let again = seat.reached.contains(&(limit, rung));
            seat.reached.push((limit, rung));
            self.ensure(!again, || {
                format!("{session:?} reached {rung:?} of {limit:?} twice")
            });
        }
        let quarters = match rung {
            Rung::Warn => 2,
            Rung::Deprioritise => 3,
            Rung::Stop => 4,
            Rung::End => 5,
        };
        let most = host.vms.get(&session.vm).and_then(|terms| terms.kernel_max_us);
        if let (Limit::Kernel, Some(most), Some(model)) = (limit, most, self.models.get(&session)) {
            let stalled = host.now - model.progress_at;
            self.ensure(stalled >= most / 4 * quarters, || {
                format!("{session:?} reached {rung:?} of {most} us, and got on {stalled} us ago")
            });
        }
    }

    /// No kernel runs for much longer than its limit where such sessions are ended, as far as can be told: a liar's pages say
    /// that nothing runs, and whoever hoards his turn beside has a part of the time that he does not use.
    fn check_kernels(&mut self, host: &Host) {
        for (session, real) in &host.sessions {
            let limit = self.terms(host, session.vm).and_then(|terms| terms.kernel_max_us);
            let ends = self.pool(host, session.vm).rungs.has(Rung::End);
            let Some(model) = self.models.get(session).copied() else {
                continue;
            };
            if real.member.fault == Fault::Lies || model.beside_hoarder {
                continue;
            }
            if let (Some(limit), true, false) = (limit, ends, real.ending) {
                let ran_us = real.kernel_ran_ns(host.hardware.left_ns(*session, host.now)) / 1000;
                let ran_us = ran_us.saturating_sub(model.ran_before_us);
                self.ensure(ran_us <= 2 * limit + 1_000_000, || {
                    format!("a kernel of {session:?} ran for {ran_us} us; the limit is {limit} us")
                });
            }
        }
    }

    /// What was charged is the time for which somebody was seated and not idle, on each GPU.
    fn check_charges(&mut self, host: &Host) {
        let vms: BTreeSet<Vm> = self.seats.keys().map(|id| id.vm).collect();
        let held: u64 = vms
            .iter()
            .map(|vm| {
                let all = host.core.usage(*vm).map_or(0, |(_, charge)| charge.ns);
                all - self.charged_by_vm.get(vm).copied().unwrap_or(0)
            })
            .sum();
        let charged = self.charged_ns + held;
        let used = self.used_us * 1000;
        // Each step rounds each charge down by less than a nanosecond.
        let rounding = 64 * (self.steps + 1);
        self.ensure(charged <= used + rounding && used <= charged + rounding, || {
            format!("{charged} ns were charged, and GPUs were in use for {used} ns")
        });
    }

    /// VMs that always have work get time by weight, but for one turn each and what giving it back takes.
    fn check_weights(&mut self, host: &Host) {
        let steady = std::mem::take(&mut self.rules.steady);
        let mut fair: Vec<(Vm, GpuSet, u32, u64, u64)> = Vec::new();
        for vm in &steady {
            let (Some(terms), Some((_, charge))) = (self.terms(host, *vm), host.core.usage(*vm)) else {
                continue;
            };
            let gpus = self.gang(*vm);
            let pool = self.pool(host, *vm);
            if pool.policy != Policy::Weighted || !pool.turns || terms.share_max.is_some() || gpus.is_empty()
            {
                continue;
            }
            let from = *self.fair_from.entry(*vm).or_insert(charge.ns);
            let weight = terms.weight.max(1);
            let part = (charge.ns - from) / u64::from(weight);
            let slack = (self.rules.turn_us + self.rules.drain_us) * 1000 / u64::from(weight);
            for (other, other_gpus, other_weight, other_part, other_slack) in &fair {
                let apart = part.abs_diff(*other_part);
                self.ensure(*other_gpus != gpus || apart <= slack + other_slack, || {
                    format!(
                        "VM {vm} of weight {weight} had {part} ns for each, VM {other} of weight \
                         {other_weight} {other_part} ns"
                    )
                });
            }
            fair.push((*vm, gpus, weight, part, slack));
        }
        self.rules.steady = steady;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched_core::Config;

    const GPU: u32 = 0;

    fn session(vm: Vm) -> Session {
        Session { vm, number: 1 }
    }

    fn checker() -> (Host, Checker) {
        let mut host = Host::new(Config::default(), 1, 0, None);
        let rules = Rules {
            policies: true,
            turn_us: 20_000,
            drain_us: 10_000,
            aging_us: 1_000_000,
            weight: 1,
            gangs: false,
            steady: BTreeSet::new(),
        };
        let mut checker = Checker::new(rules);
        for vm in [1, 2] {
            host.set_vm(vm, Terms::at(Level::Low));
            let attached = Event::Attached {
                session: session(vm),
                gpus: GpuSet::from_iter([GPU]),
                found: Found::Nothing,
            };
            checker.before(&host, &attached);
        }
        (host, checker)
    }

    fn began(vm: Vm, turn: u64) -> Action {
        Action::Began {
            session: session(vm),
            turn,
            level: Level::Low,
            waited_us: 0,
        }
    }

    fn found(checker: &Checker, part: &str) {
        let violation = checker.violation().unwrap_or_default();
        assert!(violation.contains(part), "{violation:?}");
    }

    #[test]
    fn a_grant_that_nobody_wished_for_is_found() {
        let (host, mut checker) = checker();
        checker.action(&host, &began(1, 1));
        assert_eq!(checker.violation(), None);
        checker.action(&host, &Action::Grant { session: session(1) });
        found(&checker, "did not want one");
    }

    #[test]
    fn two_of_a_level_at_once_and_a_gap_in_the_turns_are_found() {
        let (host, mut both) = checker();
        both.action(&host, &began(1, 1));
        both.action(&host, &began(2, 2));
        found(&both, "of its level");
        let (host, mut gap) = checker();
        gap.action(&host, &began(1, 2));
        found(&gap, "follows turn 0");
    }

    #[test]
    fn a_wish_that_the_scheduler_does_not_know_is_found() {
        let (host, mut checker) = checker();
        let want = Event::Want { session: session(1) };
        checker.before(&host, &want);
        checker.after(&host, &want);
        found(&checker, "stands as None");
    }

    #[test]
    fn a_stop_of_one_that_was_not_asked_is_found() {
        let (host, mut checker) = checker();
        checker.action(&host, &began(1, 1));
        let stop = Action::Stop {
            session: session(1),
            sequence: 1,
            deadman_us: 1,
        };
        checker.action(&host, &stop);
        found(&checker, "was not asked back");
    }
}
