//! GPU time: who is charged for it, and what that means for shares.
use crate::plan::Few;
use crate::state::{Budget, Holder, SessionState, Slot, VmState};
use crate::{Charge, Core, Gpu, GpuSet, Level};

/// The time slice of contexts for which none was set, in microseconds.
const DEFAULT_SLICE_US: u64 = 2_000;

impl Charge {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            ns: self.ns + other.ns,
            estimated_ns: self.estimated_ns + other.estimated_ns,
        }
    }
}

/// A part of some time, by slice, rounded down.
fn part(ns: u64, slice: u64, all: u64) -> u64 {
    if slice == all {
        return ns;
    }
    (u128::from(ns) * u128::from(slice) / u128::from(all.max(1))) as u64
}

/// The same, rounded up.
fn part_or_more(ns: u64, slice: u64, all: u64) -> u64 {
    ns - part(ns, all - slice, all)
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
        let Some(state) = self.gpus.get_mut(gpu as usize) else {
            return;
        };
        let passed_ns = (self.now - state.accounted) * 1000;
        state.accounted = self.now;
        if passed_ns == 0 {
            return;
        }
        for ((slot, number), ns, split) in self.parts(gpu, passed_ns, part) {
            self.charge(slot, number, ns as i64, split);
            let Self { gpus, vms, .. } = self;
            let Some(vm) = vms.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let gang = u64::from(vm.gang.len().max(1));
            let weight = u64::from(vm.terms.weight.max(1));
            let pool_weight = u64::from(vm.pool.weight.max(1));
            let pool = vm.terms.pool;
            vm.vtime += ns / (gang * weight);
            if let Some(session) = vm.session_mut(number)
                && session.gpus.iter().next() == Some(gpu)
            {
                session.stuck_ns += ns;
            }
            let state = &mut gpus[gpu as usize];
            if let Some(share) = state.pools.iter_mut().find(|share| share.pool == pool) {
                share.vtime += ns / pool_weight;
            }
        }
        self.count_busy(gpu, passed_ns as i64);
    }

    /// Who works on a GPU, with the part of some time there that each is charged for, and whether that is less than all.
    fn parts(&self, gpu: Gpu, ns: u64, part: fn(u64, u64, u64) -> u64) -> Few<(Holder, u64, bool)> {
        let holders = self.gpus[gpu as usize].holders.iter();
        let slices = holders.filter_map(|holder| {
            let session = self.session_at(holder.0, holder.1)?;
            session.works().then(|| (*holder, session.slice_in_force()))
        });
        let slices: Few<_> = slices.collect();
        let all: u64 = slices.iter().map(|(_, slice)| slice).sum();
        let parts = slices.into_iter();
        parts
            .map(|(holder, slice)| (holder, part(ns, slice, all), all != slice))
            .collect()
    }

    /// Adds to what a seated session is charged, and takes it from its VM's budget.
    fn charge(&mut self, slot: Slot, number: u32, ns: i64, split: bool) {
        let Some(vm) = self.vm_mut(slot) else { return };
        let gang = i64::from(vm.gang.len().max(1));
        if let Some(budget) = &mut vm.budget {
            budget.left_ns -= ns / gang;
        }
        if let Some(seat) = vm.session_mut(number).and_then(SessionState::seat_mut) {
            seat.charge.ns = seat.charge.ns.saturating_add_signed(ns);
            if split {
                seat.charge.estimated_ns = seat.charge.estimated_ns.saturating_add_signed(ns);
            }
        }
    }

    /// Counts time as busy if somebody works on the GPU.
    fn count_busy(&mut self, gpu: Gpu, ns: i64) {
        let state = &self.gpus[gpu as usize];
        if state.holders.iter().any(|holder| self.works(*holder)) {
            let busy_ns = &mut self.gpus[gpu as usize].busy_ns;
            *busy_ns = busy_ns.saturating_add_signed(ns);
        }
    }

    /// Charges the time since then anew, after a change that should have been made then; nothing else changed since. Virtual
    /// times stay: whoever came meanwhile began at what they were.
    pub(crate) fn recount(&mut self, gpus: GpuSet, since: u64, change: impl FnOnce(&mut Self)) {
        let passed_ns = (self.now - since) * 1000;
        for gpu in gpus.iter() {
            self.count_busy(gpu, -(passed_ns as i64));
            // Rounded up, so that no more is charged in the end than there was.
            for ((slot, number), ns, split) in self.parts(gpu, passed_ns, part_or_more) {
                self.charge(slot, number, -(ns as i64), split);
            }
        }
        change(self);
        for gpu in gpus.iter() {
            for ((slot, number), ns, split) in self.parts(gpu, passed_ns, part) {
                self.charge(slot, number, ns as i64, split);
            }
            self.count_busy(gpu, passed_ns as i64);
            self.gpus[gpu as usize].split_since = since;
        }
    }

    /// Who works on these GPUs, or for which slices, is another from now on.
    pub(crate) fn split_changed(&mut self, gpus: GpuSet) {
        for gpu in gpus.iter() {
            self.gpus[gpu as usize].split_since = self.now;
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
            let ns = part(passed_ns, slice, all);
            charge.ns += ns;
            if all != slice {
                charge.estimated_ns += ns;
            }
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
