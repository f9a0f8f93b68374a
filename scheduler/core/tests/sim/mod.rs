//! A host played in the test: sessions with their turn pages, and checks of everything the scheduler does to them.
use std::collections::{BTreeMap, BTreeSet};
use vgpu_sched_core::{Action, Config, Core, Event, Found, Gpu, GpuSet, Level, Session, Standing, Terms, Vm};

/// The state in a turn page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    None,
    Held,
    Idle,
    Yield,
}

/// A session as it really is.
#[derive(Debug)]
pub struct Real {
    pub gpus: GpuSet,
    pub page: Page,
    /// Since when its page says idle, while the scheduler has not seen it.
    pub unseen_since: Option<u64>,
    /// It said that it wants a turn and has none since.
    pub wants: bool,
    /// It said so before it said that its last turn is over.
    pub wants_early: bool,
    pub contended: bool,
    /// Orders to stop that it has not answered.
    pub stops: Vec<u64>,
    /// When it resumes by itself, while it is stopped.
    pub stopped_until: Option<u64>,
    /// The turn that the books say it has.
    pub turn: Option<u64>,
    /// When it was asked back.
    pub asked_at: u64,
}

/// The scheduler and the host around it.
pub struct Sim {
    pub core: Core,
    /// Gets the same events and must say the same.
    twin: Core,
    pub config: Config,
    pub now: u64,
    pub vms: BTreeMap<Vm, (Terms, GpuSet)>,
    pub sessions: BTreeMap<Session, Real>,
    /// VMs that wait and have no seat: their place in the queue and since when.
    pub queue: BTreeMap<Vm, (u64, u64)>,
    queued: u64,
    turns: u64,
    charged_ns: u64,
    /// Sessions found with a turn; until they are gone the limits may be exceeded.
    adopted: BTreeSet<Session>,
    /// The longest that each VM waited.
    longest_wait: BTreeMap<Vm, u64>,
    /// When a session of a level was last seen to work again on a GPU.
    at_work: BTreeMap<(Gpu, Level), u64>,
}

impl Sim {
    pub fn new(config: Config, vms: &[(Terms, GpuSet)]) -> Self {
        let mut sim = Self {
            core: Core::new(config),
            twin: Core::new(config),
            config,
            now: 0,
            vms: (1..).zip(vms.iter().copied()).collect(),
            sessions: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            turns: 0,
            charged_ns: 0,
            adopted: BTreeSet::new(),
            longest_wait: BTreeMap::new(),
            at_work: BTreeMap::new(),
        };
        for (vm, (terms, _)) in sim.vms.clone() {
            sim.step(Event::VmSet { vm, terms });
        }
        sim
    }

    /// The longest that a VM waited for a turn, up to now.
    pub fn longest_wait_of(&self, vm: Vm) -> u64 {
        let waiting = self.queue.get(&vm).map_or(0, |(_, since)| self.now - since);
        self.longest_wait.get(&vm).copied().unwrap_or(0).max(waiting)
    }

    /// Lets time pass, with a tick at every deadline.
    pub fn pass(&mut self, us: u64) {
        let end = self.now + us;
        while let Some(at) = self.core.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.step(Event::Tick);
        }
        self.now = end;
    }

    /// One event, all that follows from it, and the checks.
    pub fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            let event = events.remove(0);
            if let Event::BusySeen { session }
            | Event::TakeResult {
                session,
                taken: false,
            } = event
            {
                let level = self.level(session.vm);
                let gpus = self.sessions[&session].gpus;
                self.at_work
                    .extend(gpus.iter().map(|gpu| ((gpu, level), self.now)));
            }
            let (mut actions, mut again) = (Vec::new(), Vec::new());
            self.core.step(self.now, event.clone(), &mut actions);
            self.twin.step(self.now, event.clone(), &mut again);
            assert_eq!(actions, again, "not deterministic");
            assert!(
                self.core.deadline().is_none_or(|at| at > self.now),
                "a deadline in the past"
            );
            for action in actions {
                self.act(action, &mut events);
            }
            if let Event::Gone { session } = event {
                let real = self.sessions.remove(&session).unwrap();
                assert_eq!(real.turn, None, "{session:?} is gone and has a turn");
                self.adopted.remove(&session);
            }
            self.follow_queue();
        }
        self.check();
    }

    pub fn attach(&mut self, session: Session, page: Page) {
        let gpus = self.vms[&session.vm].1;
        let found = match page {
            Page::None => Found::Nothing,
            Page::Held => Found::Held,
            Page::Idle => Found::Idle,
            Page::Yield => Found::Asked,
        };
        self.sessions.insert(
            session,
            Real {
                gpus,
                page,
                unseen_since: None,
                wants: false,
                wants_early: false,
                contended: false,
                stops: Vec::new(),
                stopped_until: None,
                turn: None,
                asked_at: self.now,
            },
        );
        if page != Page::None {
            self.adopted.insert(session);
        }
        self.step(Event::Attached { session, gpus, found });
    }

    pub fn gone(&mut self, session: Session) {
        if self.sessions.contains_key(&session) {
            for other in self.sessions.keys().copied().collect::<Vec<_>>() {
                if let Some(event) = self.see_idle(other) {
                    self.step(event);
                }
            }
            self.step(Event::Gone { session });
        }
    }

    /// It has work: it wants a turn, or goes on with the one it has.
    pub fn work(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        match real.page {
            Page::None if !real.wants => {
                real.wants = true;
                self.step(Event::Want { session });
            }
            Page::Idle => {
                real.page = Page::Held;
                if real.unseen_since.take().is_none() {
                    self.step(Event::BusySeen { session });
                }
            }
            _ => {}
        }
    }

    /// It runs dry, and says so; it is seen if somebody cares.
    pub fn rest(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.page == Page::Held {
            real.page = Page::Idle;
            real.unseen_since = Some(self.now);
            if real.contended
                && let Some(event) = self.see_idle(session)
            {
                self.step(event);
            }
        }
    }

    /// What the scheduler is told when it looks at a page.
    fn see_idle(&mut self, session: Session) -> Option<Event> {
        let since = self.sessions.get_mut(&session)?.unseen_since.take()?;
        let idle_us = self.now - since;
        Some(Event::IdleSeen { session, idle_us })
    }

    /// It gives its turn back, if it was asked to; if it is stopped, it had drained just then.
    pub fn give_back(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.page == Page::Yield {
            real.page = Page::None;
            self.adopted.remove(&session);
            self.step(Event::Released { session });
        }
    }

    /// It gives its turn back, and another of its threads has asked for the next one before that was said.
    pub fn give_back_late(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.page == Page::Yield {
            real.page = Page::None;
            real.wants = true;
            real.wants_early = true;
            self.adopted.remove(&session);
            self.step(Event::Want { session });
            if let Some(real) = self.sessions.get_mut(&session) {
                real.wants_early = false;
            }
            self.step(Event::Released { session });
        }
    }

    /// It gives its turn back although nobody asked.
    pub fn release(&mut self, session: Session) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.page == Page::Held {
            real.page = Page::None;
            self.adopted.remove(&session);
            self.step(Event::Released { session });
        }
    }

    /// It answers the oldest order to stop.
    pub fn answer_stop(&mut self, session: Session, ok: bool) {
        let Some(real) = self.sessions.get_mut(&session) else {
            return;
        };
        if real.stops.is_empty() {
            return;
        }
        let sequence = real.stops.remove(0);
        if ok {
            real.stopped_until = Some(self.now + self.config.deadman_us);
            self.adopted.remove(&session);
        }
        self.step(Event::OrderDone {
            session,
            sequence,
            ok,
        });
    }

    fn act(&mut self, action: Action, events: &mut Vec<Event>) {
        match action {
            Action::Grant { session } => {
                self.check_admission(session);
                let real = self.sessions.get_mut(&session).unwrap();
                assert!(real.wants, "{session:?} did not want");
                assert_eq!(real.page, Page::None);
                assert!(real.turn.is_some());
                real.wants = false;
                real.page = Page::Held;
            }
            Action::TakeIfIdle { session } => {
                events.extend(self.see_idle(session));
                let taken = self.take(session);
                events.push(Event::TakeResult { session, taken });
            }
            Action::AskBack { session } => {
                events.extend(self.see_idle(session));
                let taken = self.take(session);
                let real = self.sessions.get_mut(&session).unwrap();
                if real.page == Page::Held {
                    real.page = Page::Yield;
                    real.asked_at = self.now;
                }
                events.push(Event::TakeResult { session, taken });
            }
            Action::SetContended { session, contended } => {
                self.sessions.get_mut(&session).unwrap().contended = contended;
                if contended {
                    events.extend(self.see_idle(session));
                }
            }
            Action::Stop {
                session,
                sequence,
                deadman_us,
            } => {
                assert_eq!(deadman_us, self.config.deadman_us);
                let real = self.sessions.get_mut(&session).unwrap();
                assert_eq!(real.page, Page::Yield, "stopped without being asked");
                real.stops.push(sequence);
                if let Some(until) = &mut real.stopped_until {
                    assert!(*until >= self.now, "the dead-man resumed it");
                    *until = self.now + deadman_us;
                }
            }
            Action::Resume { session, .. } => {
                // Not if a stop that failed is only undone.
                let was_stopped = self.sessions[&session].stopped_until.is_some();
                if was_stopped && self.core.standing(session) == Some(Standing::Asked) {
                    self.check_admission(session);
                }
                let real = self.sessions.get_mut(&session).unwrap();
                // Orders are executed in order: what it has not answered yet is undone by this one.
                real.stops.clear();
                real.stopped_until = None;
            }
            Action::Began { session, turn, .. } => {
                self.turns += 1;
                assert_eq!(turn, self.turns);
                let real = self.sessions.get_mut(&session).unwrap();
                assert_eq!(real.turn.replace(turn), None);
                // A turn that was found goes on, whoever waits.
                if !self.adopted.contains(&session) {
                    self.check_order(session.vm);
                }
                if let Some((_, since)) = self.queue.remove(&session.vm) {
                    let longest = self.longest_wait.entry(session.vm).or_default();
                    *longest = (*longest).max(self.now - since);
                }
            }
            Action::Ended {
                session,
                turn,
                charge,
                held_us,
                ..
            } => {
                let real = self.sessions.get_mut(&session).unwrap();
                assert_eq!(real.turn.take(), Some(turn));
                self.charged_ns += charge.ns;
                let gpus = real.gpus.iter().count() as u64;
                assert!(charge.ns <= held_us * 1000 * gpus);
            }
            Action::SetSlice { .. } | Action::SetWindow { .. } => {}
            Action::Suspend { .. } | Action::Reached { .. } | Action::EndSession { .. } => {
                panic!("no limit is set here: {action:?}")
            }
        }
    }

    fn take(&mut self, session: Session) -> bool {
        let real = self.sessions.get_mut(&session).unwrap();
        let idle = real.page == Page::Idle;
        if idle {
            real.page = Page::None;
            self.adopted.remove(&session);
        }
        idle
    }

    fn level(&self, vm: Vm) -> Level {
        self.core.level(vm).unwrap()
    }

    fn others_seated(&self, session: Session) -> impl Iterator<Item = (Session, &Real)> {
        let gpus = self.sessions[&session].gpus;
        self.sessions
            .iter()
            .filter(move |(id, real)| **id != session && real.turn.is_some() && real.gpus.meets(gpus))
            .map(|(id, real)| (*id, real))
    }

    /// The GPUs on which a session above that level works: not one whose turn is over, though that was not said yet.
    fn busy_above(&self, level: Level) -> GpuSet {
        let works = |real: &Real| real.turn.is_some() && matches!(real.page, Page::Held | Page::Yield);
        self.sessions
            .iter()
            .filter(|(id, real)| self.level(id.vm) > level && works(real))
            .fold(GpuSet::EMPTY, |set, (_, real)| set.or(real.gpus))
    }

    /// Nobody is in the way of a session that gets a seat.
    fn check_admission(&self, session: Session) {
        let level = self.level(session.vm);
        let gpus = self.sessions[&session].gpus;
        for (other, real) in self.others_seated(session) {
            let other_level = self.level(other.vm);
            assert!(
                other.vm == session.vm || level != other_level,
                "{session:?} is seated beside {other:?} of its level"
            );
            let guests = gpus
                .and(real.gpus)
                .and(self.busy_above(level))
                .and(self.busy_above(other_level));
            assert!(guests.is_empty(), "{session:?} is a guest beside {other:?}");
        }
    }

    /// A VM that begins a turn has overtaken nobody of its level.
    fn check_order(&self, vm: Vm) {
        let Some((place, _)) = self.queue.get(&vm) else {
            return;
        };
        let gpus = self.gang(vm);
        for (other, (other_place, _)) in &self.queue {
            // It may have been seated in the same step, or be gone.
            if !self.sessions.keys().any(|id| id.vm == *other && self.waits(*id)) {
                continue;
            }
            let overtaken = other_place < place && self.gang(*other).meets(gpus);
            assert!(
                !(overtaken && self.level(*other) == self.level(vm)),
                "VM {vm} overtook VM {other}"
            );
        }
    }

    fn gang(&self, vm: Vm) -> GpuSet {
        let mine = self.sessions.iter().filter(|(id, _)| id.vm == vm);
        mine.fold(GpuSet::EMPTY, |set, (_, real)| set.or(real.gpus))
    }

    fn waits(&self, id: Session) -> bool {
        matches!(
            self.core.standing(id),
            Some(Standing::Waiting | Standing::Stopped)
        )
    }

    fn follow_queue(&mut self) {
        for vm in self.vms.keys().copied().collect::<Vec<_>>() {
            let mine: Vec<_> = self.sessions.iter().filter(|(id, _)| id.vm == vm).collect();
            let seated = mine.iter().any(|(_, real)| real.turn.is_some());
            let waits = mine.iter().any(|(id, _)| self.waits(**id));
            if seated || !waits {
                self.queue.remove(&vm);
            } else if !self.queue.contains_key(&vm) {
                self.queued += 1;
                self.queue.insert(vm, (self.queued, self.now));
            }
        }
    }

    /// What must hold at all times.
    fn check(&self) {
        for (id, real) in &self.sessions {
            let standing = self.core.standing(*id).unwrap();
            let seated = matches!(standing, Standing::Running | Standing::Idle | Standing::Asked);
            assert_eq!(real.turn.is_some(), seated, "{id:?}");
            assert_eq!(
                real.wants && !real.wants_early,
                standing == Standing::Waiting,
                "{id:?}: a wish was lost or made up"
            );
            if standing == Standing::Stopped {
                let until = real.stopped_until.expect("counted as stopped");
                assert!(self.now <= until, "the dead-man resumed {id:?}");
            } else if real.stopped_until.is_some() {
                assert!(!real.stops.is_empty(), "{id:?} stays stopped and nobody knows");
            }
        }
        if !self.adopted.is_empty() {
            return;
        }
        for (id, real) in &self.sessions {
            // Nobody waits whom nobody keeps from running: a holder, a VM that came earlier or is more
            // urgent (a gang that still lacks one of its GPUs), or what may be a burst above it.
            if self.waits(*id) && self.others_seated(*id).next().is_none() {
                let mine = self.queue.get(&id.vm).map(|(place, _)| *place);
                let earlier = self.queue.iter().any(|(vm, (place, _))| {
                    (Some(*place) < mine || self.level(*vm) > self.level(id.vm))
                        && self.gang(*vm).meets(self.gang(id.vm))
                });
                let burst = self.at_work.iter().any(|((gpu, level), at)| {
                    let lasts = self.now < at + self.config.burst_gap_us;
                    lasts && *level > self.level(id.vm) && real.gpus.iter().any(|own| own == *gpu)
                });
                assert!(earlier || burst, "{id:?} waits for nothing, {real:?}");
            }
            // At most one guest that is to stay below one that works.
            if real.turn.is_some() && matches!(real.page, Page::Held | Page::Idle) {
                let above = self.busy_above(self.level(id.vm));
                for (other, o) in self.others_seated(*id) {
                    let both = real
                        .gpus
                        .and(o.gpus)
                        .and(above)
                        .and(self.busy_above(self.level(other.vm)));
                    assert!(
                        both.is_empty() || !matches!(o.page, Page::Held | Page::Idle),
                        "{id:?} and {other:?} are both guests"
                    );
                }
            }
        }
        let used: u64 = self
            .vms
            .keys()
            .filter_map(|vm| self.core.usage(*vm))
            .map(|(_, charge)| charge.ns)
            .sum();
        assert!(used >= self.charged_ns);
        let gpus = self
            .vms
            .values()
            .fold(GpuSet::EMPTY, |set, (_, gpus)| set.or(*gpus))
            .iter()
            .count() as u64;
        assert!(used <= self.now * 1000 * gpus, "more was charged than there was");
    }
}
