//! Limits on how long something runs, and what is done about those that break them, rung by rung; and bursts, for which
//! those below make room.
use crate::state::{Seat, SessionState, Slot, VmState};
use crate::{Action, Core, GpuSet, Level, Limit, Policy, Rung};

/// At which part of the limit each rung is reached, in quarters.
const RUNGS: [(Rung, u64); 4] = [
    (Rung::Warn, 2),
    (Rung::Deprioritise, 3),
    (Rung::Stop, 4),
    (Rung::End, 5),
];

/// That many quarters of a limit.
fn quarters(limit_us: u64, quarters: u64) -> u64 {
    (limit_us / 4).saturating_mul(quarters).max(1)
}

impl Core {
    /// Sees which limits are reached on these GPUs, whose time is accounted for.
    pub(crate) fn climb(&mut self, island: GpuSet, actions: &mut Vec<Action>) {
        for gpu in island.iter() {
            for at in 0..self.gpus[gpu as usize].holders.len() {
                let (slot, number) = self.gpus[gpu as usize].holders[at];
                let Some(vm) = self.vm(slot) else { continue };
                let limited = vm.terms.kernel_max_us.is_some() || vm.terms.turn_max_us.is_some();
                let has_budget = vm.budget.is_some();
                let first = vm.session(number).and_then(|session| session.gpus.iter().next());
                if limited && first == Some(gpu) {
                    self.climb_kernel(slot, number, actions);
                    self.climb_turn(slot, number, actions);
                }
                if has_budget {
                    self.refill(slot);
                }
            }
        }
    }

    fn climb_kernel(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        for (rung, part) in RUNGS {
            let Some(vm) = self.vm_mut(slot) else { return };
            let (Some(limit), rungs, id) = (vm.terms.kernel_max_us, vm.pool.rungs, vm.id(number)) else {
                return;
            };
            let Some(session) = vm.session_mut(number) else {
                return;
            };
            if session.reached >= Some(rung) {
                continue;
            }
            if session.stuck_ns / 1000 < quarters(limit, part) {
                return;
            }
            session.reached = Some(rung);
            let can = rung != Rung::Stop || session.can_stop;
            let climbed = rungs.has(rung) && can;
            actions.push(Action::Reached {
                session: id,
                limit: Limit::Kernel,
                rung,
                climbed,
            });
            if !climbed {
                continue;
            }
            match rung {
                Rung::Warn => {}
                Rung::Deprioritise => {
                    vm.lowered = true;
                    self.set_level(slot, Level::Low, actions);
                }
                Rung::Stop => self.stop_now(slot, number, actions),
                Rung::End => actions.push(Action::EndSession {
                    session: id,
                    limit: Limit::Kernel,
                }),
            }
        }
    }

    /// Stops a session that is seated, whoever waits.
    fn stop_now(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        let (now, sequence, deadman_us) = (self.now, self.sequence + 1, self.config.deadman_us);
        let Some(vm) = self.vm_mut(slot) else { return };
        let id = vm.id(number);
        let Some(seat) = vm.session_mut(number).and_then(SessionState::seat_mut) else {
            return;
        };
        if !seat.asked {
            // When it is resumed it can only finish what it has, and comes back for more as everybody does.
            seat.asked = true;
            seat.taking = true;
            actions.push(Action::AskBack { session: id });
        }
        if seat.stopping.is_none() {
            seat.stopping = Some((sequence, now + (deadman_us / 2).max(1)));
            self.sequence = sequence;
            actions.push(Action::Stop {
                session: id,
                sequence,
                deadman_us,
            });
        }
    }

    fn climb_turn(&mut self, slot: Slot, number: u32, actions: &mut Vec<Action>) {
        let now = self.now;
        let Some(vm) = self.vm(slot) else { return };
        let Some(session) = vm.session(number) else { return };
        let Some(seat) = session.seat() else { return };
        let [late, too_late] = self.turn_limits(vm, seat);
        let (rungs, id, can_stop) = (vm.pool.rungs, vm.id(number), session.can_stop);
        let Some(seat) = self.seat_mut(slot, number) else {
            return;
        };
        let over = seat.over;
        let mut reach = |rung: Rung, climbed: bool| {
            seat.over = Some((Limit::Turn, rung == Rung::End));
            actions.push(Action::Reached {
                session: id,
                limit: Limit::Turn,
                rung,
                climbed,
            });
            climbed
        };
        if late.is_some_and(|at| now >= at) && over.is_none() {
            reach(Rung::Stop, rungs.has(Rung::Stop) && can_stop);
        } else if too_late.is_some_and(|at| now >= at)
            && over == Some((Limit::Turn, false))
            && reach(Rung::End, rungs.has(Rung::End))
        {
            actions.push(Action::EndSession {
                session: id,
                limit: Limit::Turn,
            });
        }
    }

    /// When a turn that is asked back breaks the limit, and when it is to be ended for that: it has the usual grace, and a
    /// quarter of the limit more.
    pub(crate) fn turn_limits(&self, vm: &VmState, seat: &Seat) -> [Option<u64>; 2] {
        let limits = || {
            let limit = vm.terms.turn_max_us?;
            let over = vm.turn_since?.saturating_add(limit).max(seat.unwanted_since?);
            let late = over.saturating_add(self.config.grace_us);
            Some([late, late.saturating_add(quarters(limit, 1))])
        };
        match limits().filter(|_| seat.asked) {
            Some(limits) => limits.map(Some),
            None => [None; 2],
        }
    }

    /// When a seated session reaches its next rung, if it goes on working without progress.
    pub(crate) fn kernel_time(&self, vm: &VmState, session: &SessionState) -> Option<u64> {
        let limit = vm.terms.kernel_max_us?;
        if !session.works() {
            return None;
        }
        let (_, part) = RUNGS
            .into_iter()
            .find(|(rung, _)| session.reached < Some(*rung))?;
        let left = quarters(limit, part).saturating_sub(session.stuck_ns / 1000);
        Some(self.now + left.max(1))
    }

    /// What it had on the GPU is done.
    pub(crate) fn work_done(&mut self, slot: Slot, number: u32) {
        let Some(gpus) = self.session_at(slot, number).map(|session| session.gpus) else {
            return;
        };
        self.account(gpus);
        if let Some(session) = self.vm_mut(slot).and_then(|vm| vm.session_mut(number)) {
            session.stuck_ns = 0;
            session.reached = None;
        }
    }

    /// Some of a session's work was done, or it has new work. One that is seen so again and again has a burst of short
    /// calls: each would wait for the time slice of whoever is below, so those are stopped until it is over.
    pub(crate) fn progress(&mut self, slot: Slot, number: u32) {
        self.work_done(slot, number);
        let (now, config) = (self.now, self.config);
        let Some(vm) = self.vm_mut(slot) else { return };
        let level = vm.level;
        let bursts =
            config.burst_us > 0 && level > Level::Low && vm.pool.policy == Policy::Priority && vm.pool.turns;
        let Some(session) = vm.session_mut(number).filter(|_| bursts) else {
            return;
        };
        let gpus = session.gpus;
        let (first, was_burst) = match session.burst {
            Some((first, last, was_burst)) if now <= last + config.burst_gap_us => (first, was_burst),
            // What was a burst last time is one this time.
            Some((first, last, _)) => (now, last - first >= config.burst_us),
            None => (now, false),
        };
        session.burst = Some((first, now, was_burst));
        if now - first < config.burst_us && !was_burst {
            return;
        }
        for gpu in gpus.iter() {
            let state = &mut self.gpus[gpu as usize];
            if now - first >= config.burst_us_max {
                state.burst = None;
                state.no_burst_until = now + config.burst_us_max;
            } else if now >= state.no_burst_until {
                state.burst = Some((level, now + config.burst_gap_us));
            }
        }
    }

    /// Whether those of a level must make room for a burst above them, on some of these GPUs.
    pub(crate) fn burst_above(&self, level: Level, gpus: GpuSet) -> GpuSet {
        let bursts = gpus.iter().filter(|gpu| {
            let burst = self.gpus[*gpu as usize].burst;
            burst.is_some_and(|(above, until)| above > level && until > self.now)
        });
        bursts.collect()
    }

    /// How long a session that was asked back may drain before it is stopped.
    pub(crate) fn grace_us(&self, vm: &VmState, session: &SessionState) -> u64 {
        if self.burst_above(vm.level, session.gpus).is_empty() {
            self.config.grace_us
        } else {
            0
        }
    }
}
