//! Who waits, in which order, and who of them has waited so long that it counts for more.
use crate::plan::Few;
use crate::state::{Class, Slot};
use crate::{Action, Core, Gpu, GpuSet, Level, Policy, Pool, base_level};

/// How often a turn that goes on because its holder is behind its share is reconsidered, in microseconds.
pub(crate) const RECONSIDER_US: u64 = 1_000;

impl Core {
    /// The class of the VMs of a pool that use these GPUs.
    pub(crate) fn class(&mut self, gpus: GpuSet, pool: Pool) -> usize {
        let found = self
            .classes
            .iter()
            .position(|class| class.members > 0 && class.gpus == gpus && class.pool == pool);
        let at = found.unwrap_or_else(|| {
            let new = Class {
                gpus,
                pool,
                members: 0,
                waiting: Default::default(),
                aging: Default::default(),
            };
            let at = match self.classes.iter().position(|class| class.members == 0) {
                Some(at) => {
                    self.classes[at] = new;
                    at
                }
                None => {
                    self.classes.push(new);
                    self.classes.len() - 1
                }
            };
            for gpu in gpus.iter() {
                let gpu = gpu as usize;
                if self.gpus.len() <= gpu {
                    self.gpus.resize_with(gpu + 1, Default::default);
                    // Nothing was there to be charged before.
                    for state in &mut self.gpus {
                        if state.holders.is_empty() {
                            state.accounted = self.now;
                        }
                    }
                }
                self.gpus[gpu].classes.push(at);
            }
            at
        });
        self.classes[at].members += 1;
        at
    }

    /// Its VM is in a class no longer. It does not wait.
    pub(crate) fn leave_class(&mut self, slot: Slot) {
        self.end_contending(slot);
        let Some(class) = self.vm(slot).map(|vm| vm.class) else {
            return;
        };
        let state = &mut self.classes[class];
        state.members -= 1;
        if state.members == 0 {
            let gpus = state.gpus;
            for gpu in gpus.iter() {
                self.gpus[gpu as usize].classes.retain(|other| *other != class);
            }
        }
    }

    /// It is in the class that its GPUs and its pool say.
    pub(crate) fn join_class(&mut self, slot: Slot) {
        let Some((gang, pool)) = self.vm(slot).map(|vm| (vm.gang, vm.terms.pool)) else {
            return;
        };
        let class = self.class(gang, pool);
        if let Some(vm) = self.vm_mut(slot) {
            vm.class = class;
        }
        self.settle_contender(slot);
    }

    /// Its sessions, and so its GPUs, are others. If it waits it keeps its place, or has the one it had with that ticket.
    pub(crate) fn gang_changed(&mut self, slot: Slot, ticket: Option<u64>) {
        let Some(vm) = self.vm(slot) else { return };
        let gang = vm
            .sessions
            .iter()
            .fold(GpuSet::EMPTY, |set, session| set.or(session.gpus));
        if gang == vm.gang {
            return;
        }
        let ticket = self.leave_queue(slot).or(ticket);
        self.leave_class(slot);
        if let Some(vm) = self.vm_mut(slot) {
            vm.gang = gang;
        }
        self.join_class(slot);
        self.settle_queue(slot, ticket);
    }

    /// Puts a VM at the end of the queue if it just began to wait (or at its old place, with the ticket it had), and
    /// takes it out if it does not wait any longer.
    pub(crate) fn settle_queue(&mut self, slot: Slot, ticket: Option<u64>) {
        let Some(vm) = self.vm(slot) else { return };
        let waits = vm.waits() && !vm.is_spent();
        match (waits, vm.queued.is_some()) {
            (true, false) => {
                self.settle_contender(slot);
                let ticket = ticket.unwrap_or_else(|| self.ticket());
                if let Some(vm) = self.vm_mut(slot) {
                    vm.ticket = ticket;
                }
                self.enter_queue(slot);
            }
            (false, true) => {
                self.leave_queue(slot);
                let Some(vm) = self.vm_mut(slot) else { return };
                if vm.turn_since.is_none() {
                    vm.level = base_level(vm);
                }
            }
            _ => {}
        }
        self.settle_contender(slot);
    }

    fn enter_queue(&mut self, slot: Slot) {
        let Some(vm) = self.vms.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let key = match vm.pool.policy {
            Policy::Weighted => vm.vtime,
            Policy::Priority | Policy::Fifo => vm.ticket,
        };
        vm.queued = Some((vm.level, key));
        let class = &mut self.classes[vm.class];
        class.waiting.get_mut(vm.level).insert((key, vm.ticket, slot));
        if vm.pool.policy == Policy::Priority {
            class.aging.get_mut(vm.terms.level).insert((vm.ticket, slot));
        }
    }

    /// Takes a VM out of the queue. Its ticket, if it was there.
    pub(crate) fn leave_queue(&mut self, slot: Slot) -> Option<u64> {
        let vm = self.vms.get_mut(slot as usize)?.as_mut()?;
        let (level, key) = vm.queued.take()?;
        vm.first_since = None;
        let class = &mut self.classes[vm.class];
        class.waiting.get_mut(level).remove(&(key, vm.ticket, slot));
        class.aging.get_mut(vm.terms.level).remove(&(vm.ticket, slot));
        Some(vm.ticket)
    }

    /// It waits, or has its turn, at another level.
    pub(crate) fn move_in_queue(&mut self, slot: Slot, level: Level) {
        let since = self.vm(slot).and_then(|vm| vm.first_since);
        let queued = self.leave_queue(slot).is_some();
        if let Some(vm) = self.vm_mut(slot) {
            vm.level = level;
            vm.first_since = since;
        }
        if queued {
            self.enter_queue(slot);
        }
    }

    /// Its pool takes part on its GPUs as long as it waits there or holds a turn.
    pub(crate) fn settle_contender(&mut self, slot: Slot) {
        let Some(vm) = self.vm(slot) else { return };
        let contends = vm.seats > 0 || vm.queued.is_some() || (vm.waits() && !vm.is_spent());
        if contends == vm.contends {
            return;
        }
        if !contends {
            self.end_contending(slot);
            return;
        }
        let (gang, pool, weighted) = (vm.gang, vm.terms.pool, vm.pool.policy == Policy::Weighted);
        // What was not used while there was nothing to do is nobody's debt. But one that gives its turn back and wants the
        // next a moment later keeps its place, unless that is further behind than turns alone can leave it.
        let (now, hold_us) = (self.now, self.config.active_hold_us);
        let most_ns = self
            .config
            .quantum_us
            .of(vm.level)
            .saturating_add(hold_us)
            .saturating_mul(1000);
        let claim = |left_at: Option<u64>| match left_at {
            Some(at) if now < at.saturating_add(hold_us) => most_ns,
            _ => 0,
        };
        self.account(gang);
        let mut served = u64::MAX;
        for gpu in gang.iter() {
            self.gpus[gpu as usize].pool_begins(pool, claim);
            served = served.min(self.served(gpu, pool));
        }
        if let Some(vm) = self.vm_mut(slot) {
            vm.contends = true;
            if weighted && served != u64::MAX {
                vm.vtime = vm.vtime.max(served.saturating_sub(claim(vm.left_at)));
            }
        }
    }

    /// The virtual time at which a VM of a pool begins that comes to a GPU now: that of whoever has its turn there, or had
    /// it last.
    fn served(&self, gpu: Gpu, pool: Pool) -> u64 {
        let state = &self.gpus[gpu as usize];
        let holders = state.holders.iter().filter_map(|(slot, _)| self.vm(*slot));
        let holders = holders.filter(|vm| vm.terms.pool == pool).map(|vm| vm.vtime);
        let last = state.share(pool).map_or(0, |share| share.served);
        holders.min().unwrap_or(0).max(last)
    }

    fn end_contending(&mut self, slot: Slot) {
        let now = self.now;
        let Some(vm) = self.vm_mut(slot) else { return };
        if !std::mem::take(&mut vm.contends) {
            return;
        }
        vm.left_at = Some(now);
        let (gang, class, vtime) = (vm.gang, vm.class, vm.vtime);
        // The class has the pool under which it began.
        let pool = self.classes[class].pool;
        for gpu in gang.iter() {
            self.gpus[gpu as usize].pool_ends(pool, now, vtime);
        }
    }

    /// A VM's turn began: those of its pool that come from now on begin at its virtual time.
    pub(crate) fn note_served(&mut self, slot: Slot) {
        let Some(vm) = self.vm(slot) else { return };
        let (gang, pool, vtime) = (vm.gang, vm.terms.pool, vm.vtime);
        for gpu in gang.iter() {
            let shares = &mut self.gpus[gpu as usize].pools;
            if let Some(share) = shares.iter_mut().find(|share| share.pool == pool) {
                share.served = share.served.max(vtime);
            }
        }
    }

    /// The waiting VMs of a configured level that have nobody of it before them, on these GPUs.
    pub(crate) fn first_waiting(&self, level: Level, island: GpuSet) -> Few<Slot> {
        let mut heads: Few<(u64, Slot, GpuSet)> = self
            .classes_on(island)
            .filter_map(|class| {
                let (ticket, slot) = class.aging.get(level).first()?;
                Some((*ticket, *slot, class.gpus))
            })
            .collect();
        if heads.len() < 2 {
            return heads.into_iter().map(|(_, slot, _)| slot).collect();
        }
        heads.sort_unstable();
        let mut queued = GpuSet::EMPTY;
        heads
            .into_iter()
            .filter_map(|(_, slot, gpus)| {
                let first = !gpus.meets(queued);
                queued = queued.or(gpus);
                first.then_some(slot)
            })
            .collect()
    }

    /// The classes on these GPUs, each once.
    pub(crate) fn classes_on(&self, island: GpuSet) -> impl Iterator<Item = &Class> {
        island.iter().flat_map(move |gpu| {
            let state = self.gpus.get(gpu as usize);
            let classes = state.into_iter().flat_map(|state| &state.classes);
            let classes = classes.map(|class| &self.classes[*class]);
            classes.filter(move |class| class.gpus.iter().next() == Some(gpu))
        })
    }

    /// Raises those that have waited long.
    pub(crate) fn age(&mut self, island: GpuSet, actions: &mut Vec<Action>) {
        for level in Level::DESCENDING {
            for slot in self.first_waiting(level, island) {
                let now = self.now;
                let Some(vm) = self.vm(slot) else { continue };
                let Some(since) = vm.first_since else { continue };
                let steps = (now - since) / vm.terms.aging_us.max(1);
                let raised = vm.terms.level.raised(steps);
                if raised > vm.level {
                    self.set_level(slot, raised, actions);
                }
            }
        }
    }
}
