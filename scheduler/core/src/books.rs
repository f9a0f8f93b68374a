//! GPU time: who is charged for it, and what that means for shares.
use crate::state::{Budget, SessionState, Slot, VmState};
use crate::{Charge, Core, Gpu, GpuSet, Level};

/// The time slice of contexts for which none was set, in microseconds.
const DEFAULT_SLICE_US: u64 = 2_000;

impl Charge {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            ns: self.ns + other.ns,
            estimated: self.estimated || other.estimated,
        }
    }
}

/// A part of some time, by slice.
fn part(ns: u64, slice: u64, all: u64) -> u64 {
    if slice == all {
        return ns;
    }
    (u128::from(ns) * u128::from(slice) / u128::from(all.max(1))) as u64
}

impl Core {
    /// Charges the time since these GPUs were accounted for last to those who were seated and not idle, before anything
    /// changes there.
    pub(crate) fn account(&mut self, gpus: GpuSet) {
        for gpu in gpus.iter() {
            self.account_gpu(gpu);
        }
    }

    fn account_gpu(&mut self, gpu: Gpu) {
        let Self { gpus, vms, now, .. } = self;
        let Some(state) = gpus.get_mut(gpu as usize) else {
            return;
        };
        let passed_ns = (*now - state.accounted) * 1000;
        state.accounted = *now;
        if passed_ns == 0 {
            return;
        }
        let slice = |(slot, number): (Slot, u32)| {
            let vm = vms.get(slot as usize)?.as_ref()?;
            let session = vm.session(number)?;
            session.works().then(|| session.slice_in_force())
        };
        let all: u64 = state.holders.iter().filter_map(|holder| slice(*holder)).sum();
        if all == 0 {
            return;
        }
        state.busy_ns += passed_ns;
        for (slot, number) in &state.holders {
            let Some(vm) = vms.get_mut(*slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let gang = u64::from(vm.gang.len().max(1));
            let weight = u64::from(vm.terms.weight.max(1));
            let pool_weight = u64::from(vm.pool.weight.max(1));
            let pool = vm.terms.pool;
            let Some(session) = vm.session_mut(*number).filter(|session| session.works()) else {
                continue;
            };
            let slice = session.slice_in_force();
            let ns = part(passed_ns, slice, all);
            if session.gpus.iter().next() == Some(gpu) {
                session.stuck_ns += ns;
            }
            if let Some(seat) = session.seat_mut() {
                seat.charge.ns += ns;
                seat.charge.estimated |= all != slice;
            }
            vm.vtime += ns / (gang * weight);
            if let Some(budget) = &mut vm.budget {
                budget.left_ns -= (ns / gang) as i64;
            }
            if let Some(share) = state.pools.iter_mut().find(|share| share.pool == pool) {
                share.vtime += ns / pool_weight;
            }
        }
    }

    /// What a seated session will be charged for the time up to the last step that is not accounted for yet.
    pub(crate) fn pending(&self, slot: Slot, session: &SessionState) -> Charge {
        let mut charge = Charge::default();
        if !session.works() {
            return charge;
        }
        debug_assert!(self.session_at(slot, session.number).is_some());
        let slice = session.slice_in_force();
        for gpu in session.gpus.iter() {
            let state = &self.gpus[gpu as usize];
            let passed_ns = (self.now - state.accounted) * 1000;
            let works = state.holders.iter().filter(|holder| self.works(**holder));
            let slices = works.filter_map(|(slot, number)| self.session_at(*slot, *number));
            let all: u64 = slices.map(SessionState::slice_in_force).sum();
            charge.ns += part(passed_ns, slice, all);
            charge.estimated |= passed_ns > 0 && all != slice;
        }
        charge
    }

    /// A VM's level counts as active on its GPUs for a while, since it was busy just now.
    pub(crate) fn was_busy(&mut self, slot: Slot) {
        let now = self.now;
        let Some(vm) = self.vm(slot).filter(|vm| vm.pool.turns) else {
            return;
        };
        let (gang, level) = (vm.gang, vm.level);
        for gpu in gang.iter() {
            *self.gpus[gpu as usize].busy_at.get_mut(level) = Some(now);
        }
    }

    /// Until when a level counts as active on a GPU because it was busy lately, if it does.
    pub(crate) fn active_until(&self, gpu: Gpu, level: Level) -> Option<u64> {
        let busy_at = *self.gpus[gpu as usize].busy_at.get(level);
        let until = busy_at.map(|at| at.saturating_add(self.config.active_hold_us));
        until.filter(|until| *until > self.now)
    }

    /// A full budget for a VM that has a cap.
    pub(crate) fn new_budget(&self, vm: &VmState) -> Option<Budget> {
        let share = vm.terms.share_max?;
        Some(Budget {
            left_ns: self.budget_ns(vm, share),
            at: self.now,
            spent: false,
        })
    }

    /// A full budget, which is also what must be there before its VM may have a turn again: a quantum, or less if the cap's
    /// part of its window is less. A thousandth of a microsecond is a nanosecond.
    fn budget_ns(&self, vm: &VmState, share: u32) -> i64 {
        let part_ns = self.config.share_window_us.saturating_mul(share.into());
        let quantum_ns = self.config.quantum_us.of(vm.level).saturating_mul(1000);
        i64::try_from(part_ns.min(quantum_ns)).unwrap_or(i64::MAX)
    }

    /// Adds to a VM's budget what has come since, and sees whether it may have a turn.
    pub(crate) fn refill(&mut self, slot: Slot) {
        let now = self.now;
        let Some(vm) = self.vm(slot) else { return };
        if vm.budget.is_none() {
            return;
        }
        // First what was used: a full budget takes nothing.
        self.account(vm.gang);
        let Some(vm) = self.vm(slot) else { return };
        let (Some(share), Some(mut budget)) = (vm.terms.share_max, vm.budget) else {
            return;
        };
        let full = self.budget_ns(vm, share);
        let more = (now - budget.at).saturating_mul(share.into());
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        budget.left_ns = budget.left_ns.saturating_add(more).min(full);
        budget.at = now;
        budget.spent = match budget.spent {
            true => budget.left_ns < full,
            false => budget.left_ns <= 0,
        };
        if let Some(vm) = self.vm_mut(slot) {
            vm.budget = Some(budget);
        }
        self.settle_queue(slot, None);
    }

    /// When a budget is spent, or full enough again, if nothing changes.
    pub(crate) fn budget_time(&self, vm: &VmState) -> Option<u64> {
        let (share, budget) = (vm.terms.share_max?, vm.budget?);
        if budget.spent {
            let missing = (self.budget_ns(vm, share) - budget.left_ns).max(0) as u64;
            let at = budget.at + missing.div_ceil(u64::from(share.max(1)));
            // Less may be needed than when it was last looked at.
            return Some(at.max(self.now + 1));
        }
        let loss = u64::from(1000u32.checked_sub(share).filter(|loss| *loss > 0)?);
        let left = budget.left_ns.max(0) as u64;
        let works = vm.sessions.iter().any(SessionState::works);
        works.then(|| (budget.at + left.div_ceil(loss)).max(self.now + 1))
    }
}

impl SessionState {
    pub(crate) fn slice_in_force(&self) -> u64 {
        match self.slice {
            Some((slice, _)) if self.slices_work => slice.max(1),
            _ => DEFAULT_SLICE_US,
        }
    }
}
