//! Who is to be seated, and the steps from who is to who shall be.
use crate::{
    Action, Core, Gpu, GpuSet, LOOK_LASTS_US, Level, PerLevel, Place, Seat, Session, SessionState, Vm,
    VmState,
};
use std::collections::{BTreeMap, BTreeSet};

/// Who is to be seated.
#[derive(Debug)]
pub(crate) struct Plan {
    run: BTreeSet<Session>,
    /// The GPUs on which a level above is active.
    below_active: PerLevel<GpuSet>,
}

/// A VM that has or wants a seat.
struct Contender {
    vm: Vm,
    ticket: u64,
    gpus: GpuSet,
    seated: bool,
    /// Its quantum is over or it is idle: it stays only as long as nobody else can have its place.
    done: bool,
}

impl Core {
    pub(crate) fn plan(&self) -> Plan {
        let mut plan = Plan {
            run: BTreeSet::new(),
            below_active: PerLevel {
                low: GpuSet::EMPTY,
                medium: GpuSet::EMPTY,
                high: GpuSet::EMPTY,
            },
        };
        let mut active = GpuSet::EMPTY;
        let mut guests = GpuSet::EMPTY;
        for level in Level::DESCENDING {
            *plan.below_active.of_mut(level) = active;
            for vm in self.turns_of(level) {
                guests = guests.or(self.choose_sessions(vm, active, guests, &mut plan.run));
            }
            active = active.or(self.active_gpus(level, &plan.run));
        }
        plan
    }

    /// The VMs that are to have the turn of a level: on no GPU more than one.
    fn turns_of(&self, level: Level) -> Vec<Vm> {
        let mut contenders: Vec<Contender> = self
            .vms
            .iter()
            .filter(|(_, state)| state.level == level)
            .filter_map(|(vm, state)| self.contender(*vm, state))
            .collect();
        contenders.sort_by_key(|contender| contender.ticket);

        let mut chosen = Vec::new();
        let mut taken = GpuSet::EMPTY;
        let mut choose = |contender: &Contender, taken: &mut GpuSet| {
            *taken = taken.or(contender.gpus);
            chosen.push(contender.vm);
        };
        for holder in contenders.iter().filter(|c| c.seated && !c.done) {
            if !holder.gpus.meets(taken) {
                choose(holder, &mut taken);
            }
        }
        let mut reserved = GpuSet::EMPTY;
        for waiting in contenders.iter().filter(|c| !c.seated) {
            if waiting.gpus.meets(taken.or(reserved)) {
                reserved = reserved.or(waiting.gpus);
            } else {
                choose(waiting, &mut taken);
            }
        }
        for holder in contenders.iter().filter(|c| c.seated && c.done) {
            if !holder.gpus.meets(taken) {
                choose(holder, &mut taken);
            }
        }
        chosen
    }

    fn contender(&self, vm: Vm, state: &VmState) -> Option<Contender> {
        let mut gpus = GpuSet::EMPTY;
        let (mut seated, mut busy, mut waiting) = (false, false, false);
        for (_, session) in self.sessions_of(vm) {
            gpus = gpus.or(session.gpus);
            waiting |= session.wants();
            if let Some(seat) = session.seat() {
                seated = true;
                busy |= !seat.idle;
            }
        }
        let over = state
            .turn_since
            .is_some_and(|since| self.now >= since + self.turn_us(state));
        (seated || waiting).then_some(Contender {
            vm,
            ticket: state.ticket,
            gpus,
            seated,
            done: over || !(busy || waiting),
        })
    }

    /// Which sessions of a VM that has its level's turn are to be seated. Returns the GPUs on which one of them is
    /// the guest below an active level.
    fn choose_sessions(&self, vm: Vm, active: GpuSet, guests: GpuSet, run: &mut BTreeSet<Session>) -> GpuSet {
        let quantum = self
            .vms
            .get(&vm)
            .map_or(0, |state| self.config.quantum_us.of(state.level));
        let mut candidates: Vec<_> = self
            .sessions_of(vm)
            .filter_map(|(id, session)| {
                let order = match &session.place {
                    Place::Out => return None,
                    // One that is on its way out comes last, or two could be sent away at once.
                    Place::Seated(seat) if seat.idle || seat.unwanted_since.is_some() => 3,
                    Place::Seated(seat) if self.now >= seat.since + quantum => 2,
                    Place::Seated(_) => 0,
                    Place::Waiting { .. } | Place::Stopped { .. } => 1,
                };
                Some((order, session.ticket, id, session.gpus))
            })
            .collect();
        candidates.sort_by_key(|(order, ticket, ..)| (*order, *ticket));
        let mut mine = GpuSet::EMPTY;
        for (_, _, session, gpus) in candidates {
            let as_guest = gpus.and(active);
            if !as_guest.meets(guests.or(mine)) {
                mine = mine.or(as_guest);
                run.insert(session);
            }
        }
        mine
    }

    /// The GPUs on which a level is active.
    fn active_gpus(&self, level: Level, run: &BTreeSet<Session>) -> GpuSet {
        let mut active = GpuSet::EMPTY;
        for (vm, _) in self.vms.iter().filter(|(_, state)| state.level == level) {
            if self.lately_active(*vm) {
                active = active.or(self.gang(*vm));
            }
            for (id, session) in self.sessions_of(*vm) {
                let works = session.seat().is_some_and(|seat| !seat.idle);
                if works || session.wants() && run.contains(&id) {
                    active = active.or(session.gpus);
                }
            }
        }
        active
    }

    fn lately_active(&self, vm: Vm) -> bool {
        self.vms
            .get(&vm)
            .and_then(|state| state.busy_at)
            .is_some_and(|at| self.now < at + self.config.active_hold_us)
    }

    /// Takes the seats of those who are not in the plan, one rung after the other.
    pub(crate) fn unseat(&mut self, plan: &Plan, actions: &mut Vec<Action>) {
        let now = self.now;
        for id in self.seated.iter().copied().collect::<Vec<_>>() {
            let sequence = self.sequence + 1;
            let deadman_us = self.config.deadman_us;
            let grace_us = self.config.grace_us;
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let can_stop = session.can_stop;
            let Place::Seated(seat) = &mut session.place else {
                continue;
            };
            if plan.run.contains(&id) {
                seat.unwanted_since = None;
                continue;
            }
            let since = *seat.unwanted_since.get_or_insert(now);
            if seat.asked {
                if can_stop && seat.stopping.is_none() && now >= since + grace_us {
                    seat.stopping = Some(sequence);
                    self.sequence = sequence;
                    actions.push(Action::Stop {
                        session: id,
                        sequence,
                        deadman_us,
                    });
                }
            } else if seat.idle {
                if !seat.taking {
                    seat.taking = true;
                    actions.push(Action::TakeIfIdle { session: id });
                }
            } else {
                seat.asked = true;
                seat.taking = true;
                actions.push(Action::AskBack { session: id });
            }
        }
    }

    /// Seats those who are in the plan and in nobody's way.
    pub(crate) fn seat(&mut self, plan: &Plan, actions: &mut Vec<Action>) {
        for id in &plan.run {
            let Some(session) = self.sessions.get(id) else {
                continue;
            };
            let stopped = matches!(session.place, Place::Stopped { .. });
            if !session.wants() || self.is_blocked(*id, session, plan) {
                continue;
            }
            self.sit_down(*id, actions);
            if stopped {
                self.order_resume(*id, actions);
            } else {
                actions.push(Action::Grant { session: *id });
            }
        }
    }

    /// Whether somebody who must leave first is still seated.
    fn is_blocked(&self, id: Session, session: &SessionState, plan: &Plan) -> bool {
        let Some(level) = self.level(id.vm) else {
            return true;
        };
        self.seated.iter().any(|other_id| {
            let (Some(other), Some(other_level)) = (self.sessions.get(other_id), self.level(other_id.vm))
            else {
                return false;
            };
            let common = session.gpus.and(other.gpus);
            let same_turn = other_id.vm != id.vm && level == other_level && !common.is_empty();
            let both_guests = common
                .and(plan.below_active.of(level))
                .meets(plan.below_active.of(other_level));
            same_turn || both_guests
        })
    }

    /// Repeats the order to those that are to stay stopped.
    pub(crate) fn keep_stopped(&mut self, actions: &mut Vec<Action>) {
        let deadman_us = self.config.deadman_us;
        for (id, session) in &mut self.sessions {
            if let Place::Stopped { repeat_at, .. } = &mut session.place
                && self.now >= *repeat_at
            {
                *repeat_at = self.now + (deadman_us / 2).max(1);
                self.sequence += 1;
                actions.push(Action::Stop {
                    session: *id,
                    sequence: self.sequence,
                    deadman_us,
                });
            }
        }
    }

    /// Tells the seated whether somebody cares if they are idle: because somebody waits for their GPU, because
    /// several VMs share it and are charged by who is busy, or because it is time for a look.
    pub(crate) fn mark_contended(&mut self, actions: &mut Vec<Action>) {
        let mut contended = self.waited_for();
        let mut holders: BTreeMap<Gpu, Vm> = BTreeMap::new();
        for id in &self.seated {
            for gpu in self
                .sessions
                .get(id)
                .map_or(GpuSet::EMPTY, |session| session.gpus)
                .iter()
            {
                if *holders.entry(gpu).or_insert(id.vm) != id.vm {
                    contended = contended.or(GpuSet::from_iter([gpu]));
                }
            }
        }
        let look_us = self.config.look_us.max(2 * LOOK_LASTS_US);
        for id in self.seated.iter().copied().collect::<Vec<_>>() {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let Place::Seated(seat) = &mut session.place else {
                continue;
            };
            if self.now >= seat.look_at + LOOK_LASTS_US {
                seat.look_at = self.now + look_us;
            }
            let look = self.now >= seat.look_at;
            // One that was seen idle stays watched, or nobody would see it work again.
            let wanted = session.gpus.meets(contended) || look || seat.idle;
            if look && seat.idle && !seat.asked && !seat.taking && !contended.meets(session.gpus) {
                seat.taking = true;
                actions.push(Action::TakeIfIdle { session: id });
            }
            if session.contended != wanted {
                session.contended = wanted;
                actions.push(Action::SetContended {
                    session: id,
                    contended: wanted,
                });
            }
        }
    }

    /// The GPUs that somebody waits for.
    fn waited_for(&self) -> GpuSet {
        let waiting = self.sessions.values().filter(|session| session.wants());
        waiting.fold(GpuSet::EMPTY, |set, session| set.or(session.gpus))
    }

    /// The waiting VMs that have nobody of their configured level before them.
    pub(crate) fn first_waiting(&self) -> Vec<Vm> {
        let mut waiting: Vec<_> = self
            .vms
            .iter()
            .filter(|(_, state)| state.aging_since.is_some())
            .collect();
        waiting.sort_by_key(|(_, state)| state.ticket);
        let mut queued = PerLevel {
            low: GpuSet::EMPTY,
            medium: GpuSet::EMPTY,
            high: GpuSet::EMPTY,
        };
        let mut first = Vec::new();
        for (vm, state) in waiting {
            let gpus = self.gang(*vm);
            if !gpus.meets(queued.of(state.terms.level)) {
                first.push(*vm);
            }
            let queue = queued.of_mut(state.terms.level);
            *queue = queue.or(gpus);
        }
        first
    }

    /// When something changes by time alone.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let mut times = Vec::new();
        let waited_for = self.waited_for();
        for (vm, state) in &self.vms {
            let quantum = self.config.quantum_us.of(state.level);
            if let Some(since) = state.turn_since
                && self.gang(*vm).meets(waited_for)
            {
                times.push(since + self.turn_us(state));
                let seats = self.sessions_of(*vm).filter_map(|(_, session)| session.seat());
                times.extend(seats.map(|seat| seat.since + quantum));
            }
            if let Some(busy_at) = state.busy_at
                && self.gang(*vm).meets(waited_for)
            {
                times.push(busy_at + self.config.active_hold_us);
            }
        }
        for vm in self.first_waiting() {
            if let Some(state) = self.vms.get(&vm)
                && let Some(since) = state.aging_since
                && state.level < Level::High
            {
                let aging = state.terms.aging_us.max(1);
                times.push(since.saturating_add(((self.now - since) / aging + 1).saturating_mul(aging)));
            }
        }
        for session in self.sessions.values() {
            match &session.place {
                Place::Seated(seat) => times.extend(self.seat_times(session, seat)),
                Place::Stopped { repeat_at, .. } => times.push(*repeat_at),
                Place::Out | Place::Waiting { .. } => {}
            }
        }
        times.into_iter().filter(|time| *time > self.now).min()
    }

    fn seat_times(&self, session: &SessionState, seat: &Seat) -> impl Iterator<Item = u64> {
        let stop = seat
            .unwanted_since
            .filter(|_| session.can_stop && seat.asked && seat.stopping.is_none())
            .map(|since| since + self.config.grace_us);
        [Some(seat.look_at), Some(seat.look_at + LOOK_LASTS_US), stop]
            .into_iter()
            .flatten()
    }
}

impl<T> PerLevel<T> {
    fn of_mut(&mut self, level: Level) -> &mut T {
        match level {
            Level::Low => &mut self.low,
            Level::Medium => &mut self.medium,
            Level::High => &mut self.high,
        }
    }
}
