//! When something changes by time alone.
use crate::state::{Place, Slot, Suspend};
use crate::{Action, Core, Gpu, GpuSet, LOOK_LASTS_US, Level, Policy, queue};
use std::collections::BTreeSet;

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Gpu(Gpu),
    Vm(Slot),
    Session(Slot, u32),
}

/// Each once, at the earliest time at which something about it changes.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    all: BTreeSet<(u64, Who)>,
}

impl Timers {
    pub(crate) fn first(&self) -> Option<u64> {
        self.all.first().map(|(at, _)| *at)
    }

    /// Has something looked at at another time than before, or never.
    pub(crate) fn set(&mut self, who: Who, before: Option<u64>, at: Option<u64>) {
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.all.remove(&(before, who));
        }
        if let Some(at) = at {
            self.all.insert((at, who));
        }
    }

    fn pop(&mut self, now: u64) -> Option<Who> {
        let (at, _) = self.all.first()?;
        if *at > now {
            return None;
        }
        self.all.pop_first().map(|(_, who)| who)
    }
}

impl Core {
    /// Takes what is due. Returns the GPUs on which it matters.
    pub(crate) fn due(&mut self) -> GpuSet {
        let mut dirty = GpuSet::EMPTY;
        while let Some(who) = self.timers.pop(self.now) {
            match who {
                Who::Gpu(gpu) => {
                    self.gpus[gpu as usize].due = None;
                    dirty = dirty.or(GpuSet::from_iter([gpu]));
                }
                Who::Vm(slot) => {
                    if let Some(vm) = self.vm_mut(slot) {
                        vm.due = None;
                        dirty = dirty.or(vm.gang);
                    }
                    self.refill(slot);
                    self.touch_all(slot);
                }
                Who::Session(slot, number) => {
                    let Some(session) = self.vm_mut(slot).and_then(|vm| vm.session_mut(number)) else {
                        continue;
                    };
                    session.due = None;
                    if session.seat().is_some() {
                        dirty = dirty.or(session.gpus);
                    }
                    self.touched.push((slot, number));
                }
            }
        }
        dirty
    }

    /// Does what is due for sessions without a turn: repeats the order to those that are to stay stopped, suspends those
    /// that have been out for long.
    pub(crate) fn serve_due(&mut self, actions: &mut Vec<Action>) {
        let deadman_us = self.config.deadman_us;
        let now = self.now;
        for at in 0..self.touched.len() {
            let (slot, number) = self.touched[at];
            let sequence = self.sequence + 1;
            let Some(vm) = self.vm_mut(slot) else { continue };
            let (id, suspend_after) = (vm.id(number), vm.terms.suspend_after_us);
            let Some(session) = vm.session_mut(number) else {
                continue;
            };
            match &mut session.place {
                Place::Stopped { repeat_at, .. } if now >= *repeat_at => {
                    *repeat_at = now + (deadman_us / 2).max(1);
                    self.sequence = sequence;
                    actions.push(Action::Stop {
                        session: id,
                        sequence,
                        deadman_us,
                    });
                }
                Place::Out
                    if session.suspend == Suspend::No
                        && suspend_after.is_some_and(|after| now >= session.out_since + after) =>
                {
                    session.suspend = Suspend::Asked;
                    actions.push(Action::Suspend { session: id });
                }
                _ => {}
            }
        }
    }

    /// Finds out anew when to look at everything that this step may have changed.
    pub(crate) fn reschedule(&mut self, island: GpuSet) {
        let waited = self.waited_for(island);
        for gpu in island.iter() {
            for at in 0..self.gpus[gpu as usize].holders.len() {
                let (slot, number) = self.gpus[gpu as usize].holders[at];
                self.touched.push((slot, number));
            }
            self.reschedule_gpu(gpu, waited);
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let mut last = None;
        for (slot, number) in &touched {
            if last != Some(*slot) {
                self.reschedule_vm(*slot, waited);
                last = Some(*slot);
            }
            self.reschedule_session(*slot, *number, waited);
        }
        touched.clear();
        self.touched = touched;
        for level in Level::DESCENDING {
            for slot in self.first_waiting(level, island) {
                // Who is first now ages from now on.
                let now = self.now;
                if let Some(vm) = self.vm_mut(slot) {
                    vm.first_since.get_or_insert(now);
                }
                self.reschedule_vm(slot, waited);
            }
        }
    }

    fn reschedule_gpu(&mut self, gpu: Gpu, waited: GpuSet) {
        let now = self.now;
        let is_waited_for = waited.meets(GpuSet::from_iter([gpu]));
        let active = Level::DESCENDING.map(|level| self.active_until(gpu, level).filter(|_| is_waited_for));
        let state = &mut self.gpus[gpu as usize];
        let burst = state.burst.map(|(_, until)| until).filter(|at| *at > now);
        let at = active.into_iter().flatten().chain(burst).min();
        self.timers.set(Who::Gpu(gpu), state.due, at);
        state.due = at;
    }

    fn reschedule_vm(&mut self, slot: Slot, waited: GpuSet) {
        let at = self.vm_time(slot, waited);
        let Self { vms, timers, .. } = self;
        if let Some(vm) = vms.get_mut(slot as usize).and_then(Option::as_mut) {
            timers.set(Who::Vm(slot), vm.due, at);
            vm.due = at;
        }
    }

    fn vm_time(&self, slot: Slot, waited: GpuSet) -> Option<u64> {
        let vm = self.vm(slot)?;
        let now = self.now;
        let mut times = [None; 3];
        if let Some(since) = vm.turn_since
            && vm.gang.meets(waited)
        {
            let end = since.saturating_add(self.turn_us(vm));
            times[0] = if end > now {
                Some(end)
            } else if vm.pool.policy == Policy::Weighted
                || vm.gang.iter().any(|gpu| self.gpus[gpu as usize].is_shared())
            {
                // It stays while its share is behind those of the others.
                Some(now + queue::RECONSIDER_US)
            } else {
                None
            };
        }
        if let (Some(since), Some((level, _))) = (vm.first_since, vm.queued)
            && level < Level::High
            && vm.pool.policy == Policy::Priority
        {
            let aging = vm.terms.aging_us.max(1);
            times[1] = Some(since.saturating_add(((now - since) / aging + 1).saturating_mul(aging)));
        }
        times[2] = self.budget_time(vm);
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    fn reschedule_session(&mut self, slot: Slot, number: u32, waited: GpuSet) {
        let at = self.session_time(slot, number, waited);
        let Self { vms, timers, .. } = self;
        let vm = vms.get_mut(slot as usize).and_then(Option::as_mut);
        if let Some(session) = vm.and_then(|vm| vm.session_mut(number)) {
            timers.set(Who::Session(slot, number), session.due, at);
            session.due = at;
        }
    }

    fn session_time(&self, slot: Slot, number: u32, waited: GpuSet) -> Option<u64> {
        let vm = self.vm(slot)?;
        let session = vm.session(number)?;
        let mut times = [None; 7];
        match &session.place {
            Place::Seated(seat) => {
                times[0] = Some(seat.look_at);
                times[1] = Some(seat.look_at + LOOK_LASTS_US);
                if session.can_stop && seat.asked && seat.stopping.is_none() {
                    let grace = self.grace_us(vm, session);
                    times[2] = seat.unwanted_since.map(|since| since + grace);
                }
                if session.gpus.meets(waited) {
                    let quantum = self.config.quantum_us.of(vm.level);
                    times[3] = Some(seat.since.saturating_add(quantum));
                }
                times[4] = self.kernel_time(vm, session);
                let limits = self.turn_limits(vm, seat);
                [times[5], times[6]] = limits.map(|at| at.filter(|at| *at > self.now));
            }
            Place::Stopped { repeat_at, .. } => times[0] = Some(*repeat_at),
            Place::Out if session.suspend == Suspend::No => {
                times[0] = vm.terms.suspend_after_us.map(|after| session.out_since + after);
            }
            Place::Out | Place::Waiting { .. } => {}
        }
        times.into_iter().flatten().filter(|at| *at > self.now).min()
    }
}
