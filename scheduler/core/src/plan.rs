//! Who is to be seated, and the steps from who is to who shall be. All of it on an island: GPUs on which nothing depends
//! on what happens elsewhere.
use crate::state::{Holder, Place, Seat, Slot, VmState};
use crate::{Action, Core, GpuSet, LOOK_LASTS_US, Level, PerLevel, Policy};
use smallvec::SmallVec;

/// A list that is short as a rule: few are seated at a time.
pub(crate) type Few<T> = SmallVec<[T; 4]>;

/// Who is to be seated.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    run: Few<Holder>,
    /// The GPUs on which a level above is active.
    below_active: PerLevel<GpuSet>,
}

/// A VM that has or wants a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Contender {
    rank: Rank,
    slot: Slot,
    gpus: GpuSet,
    seated: bool,
}

/// Who comes first: the pool that had less time for its weight, and then as the pool's policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Nothing to do: only if nobody else can have the place.
    idle: bool,
    pool: u64,
    /// Its virtual time, where it counts.
    vtime: u64,
    /// It had its turn.
    again: bool,
    ticket: u64,
}

/// What is taken on the way from the highest level to the lowest.
#[derive(Default)]
struct Taken {
    /// The GPUs on which a level above is active.
    active: GpuSet,
    /// Those on which somebody is a guest below an active level.
    guests: GpuSet,
    /// Those of everybody who is to be seated.
    occupied: GpuSet,
    /// Those on which nobody else may be seated.
    full: GpuSet,
    /// Sessions that are idle and in the way of others: they stay if nobody wants their places.
    idle: Few<Choice>,
}

/// A session that may be seated: as whose guest, and whether nobody may be beside it.
#[derive(Clone, Copy)]
struct Choice {
    holder: Holder,
    gpus: GpuSet,
    as_guest: GpuSet,
    alone: bool,
}

impl Taken {
    /// Takes the session's places if they are free.
    fn take(&mut self, choice: Choice) -> bool {
        let gpus = choice.gpus;
        let taken = choice.as_guest.meets(self.guests)
            || gpus.meets(self.full)
            || choice.alone && gpus.meets(self.occupied);
        if !taken {
            self.guests = self.guests.or(choice.as_guest);
            self.occupied = self.occupied.or(gpus);
            if choice.alone {
                self.full = self.full.or(gpus);
            }
        }
        !taken
    }
}

impl Core {
    pub(crate) fn plan(&self, island: GpuSet) -> Plan {
        let mut plan = Plan::default();
        let mut holders: Few<Slot> = Few::new();
        for (slot, number) in self.holders_on(island) {
            let Some(vm) = self.vm(slot) else { continue };
            if !vm.pool.turns {
                plan.run.push((slot, number));
            } else if !holders.contains(&slot) {
                holders.push(slot);
            }
        }
        let mut taken = Taken::default();
        for level in Level::DESCENDING {
            *plan.below_active.get_mut(level) = taken.active;
            taken.full = taken.full.or(self.burst_above(level, island));
            let before = plan.run.len();
            for slot in self.turns_of(level, island, &holders) {
                self.choose_sessions(slot, &mut taken, &mut plan.run);
            }
            let chosen = &plan.run[before..];
            taken.active = taken.active.or(self.active_gpus(level, island, &holders, chosen));
        }
        for choice in std::mem::take(&mut taken.idle) {
            if taken.take(choice) {
                plan.run.push(choice.holder);
            }
        }
        plan
    }

    /// The sessions seated on these GPUs, each once.
    fn holders_on(&self, island: GpuSet) -> impl Iterator<Item = Holder> {
        island.iter().flat_map(move |gpu| {
            let holders = self
                .gpus
                .get(gpu as usize)
                .into_iter()
                .flat_map(|state| &state.holders);
            holders.copied().filter(move |(slot, number)| {
                let session = self.session_at(*slot, *number);
                session.and_then(|session| session.gpus.iter().next()) == Some(gpu)
            })
        })
    }

    /// The VMs that are to have the turn of a level: on no GPU more than one.
    fn turns_of(&self, level: Level, island: GpuSet, holders: &[Slot]) -> Few<Slot> {
        let mut chosen = Few::new();
        let mut taken = GpuSet::EMPTY;
        let mut rest: Few<Contender> = Few::new();
        // In the order of their turns, or two found with a turn would change places.
        let mut seated: Few<(u64, Slot)> = Few::new();
        for slot in holders {
            let Some(vm) = self.vm(*slot).filter(|vm| vm.level == level && !vm.is_spent()) else {
                continue;
            };
            seated.push((vm.ticket, *slot));
        }
        seated.sort_unstable();
        for (_, slot) in seated {
            let Some(vm) = self.vm(slot) else { continue };
            match self.done(vm) {
                None if !vm.gang.meets(taken) => {
                    taken = taken.or(vm.gang);
                    chosen.push(slot);
                }
                None => {}
                Some(rank) => rest.push(Contender {
                    rank,
                    slot,
                    gpus: vm.gang,
                    seated: true,
                }),
            }
        }
        for class in self.classes_on(island) {
            let Some((key, ticket, slot)) = class.waiting.get(level).first() else {
                continue;
            };
            let Some(vm) = self.vm(*slot) else { continue };
            rest.push(Contender {
                rank: Rank {
                    idle: false,
                    pool: self.pool_vtime(vm),
                    vtime: if vm.pool.policy == Policy::Weighted {
                        *key
                    } else {
                        0
                    },
                    again: false,
                    ticket: *ticket,
                },
                slot: *slot,
                gpus: class.gpus,
                seated: false,
            });
        }
        rest.sort_unstable();
        let mut reserved = GpuSet::EMPTY;
        for contender in rest {
            let in_the_way = if contender.seated {
                taken
            } else {
                taken.or(reserved)
            };
            if !contender.gpus.meets(in_the_way) {
                taken = taken.or(contender.gpus);
                chosen.push(contender.slot);
            } else if !contender.seated {
                reserved = reserved.or(contender.gpus);
            }
        }
        chosen
    }

    /// Whether a VM that is seated has had its turn, or has nothing to do: it stays only as long as nobody who comes
    /// before it can have its place.
    fn done(&self, vm: &VmState) -> Option<Rank> {
        let over = vm
            .turn_since
            .is_some_and(|since| self.now >= since.saturating_add(self.turn_us(vm)));
        let idle = vm.wanting == 0 && !vm.sessions.iter().any(|session| session.works());
        if !over && !idle && !self.is_far_ahead(vm) {
            return None;
        }
        Some(Rank {
            idle,
            pool: self.pool_vtime(vm),
            vtime: match vm.pool.policy {
                // However far behind it is, a turn ends at its limit.
                Policy::Weighted if self.turn_is_too_long(vm) => u64::MAX,
                Policy::Weighted => vm.vtime,
                Policy::Priority | Policy::Fifo => 0,
            },
            again: true,
            ticket: vm.ticket,
        })
    }

    /// Whether somebody of its pool waits who is further behind than a turn can leave him: the VM got its turn while he was
    /// away for a moment.
    fn is_far_ahead(&self, vm: &VmState) -> bool {
        if vm.pool.policy != Policy::Weighted {
            return false;
        }
        let turn_ns = self.config.quantum_us.of(vm.level).saturating_mul(1000);
        let turn = turn_ns / u64::from(vm.terms.weight.max(1)) / u64::from(vm.gang.len().max(1));
        let classes = self.classes_on(vm.gang);
        let rivals = classes.filter(|class| class.pool == vm.terms.pool);
        let heads = rivals.filter_map(|class| class.waiting.get(vm.level).first());
        let least = heads.map(|(vtime, ..)| *vtime).min();
        least.is_some_and(|least| vm.vtime > least.saturating_add(turn))
    }

    /// How long a VM's turn lasts while another one of its level waits.
    pub(crate) fn turn_us(&self, vm: &VmState) -> u64 {
        let quantum = self.config.quantum_us.of(vm.level);
        let policy = match vm.pool.policy {
            Policy::Priority => quantum.saturating_mul(vm.terms.weight.max(1).into()),
            Policy::Weighted => quantum,
            Policy::Fifo => u64::MAX,
        };
        policy.min(vm.terms.turn_max_us.unwrap_or(u64::MAX))
    }

    fn turn_is_too_long(&self, vm: &VmState) -> bool {
        let (Some(since), Some(limit)) = (vm.turn_since, vm.terms.turn_max_us) else {
            return false;
        };
        self.now >= since.saturating_add(limit)
    }

    /// A VM's pool's time by weight where it shares a GPU with others. Of a gang's the least counts, or it would never have
    /// its turn behind VMs of one GPU.
    fn pool_vtime(&self, vm: &VmState) -> u64 {
        let states = vm.gang.iter().map(|gpu| &self.gpus[gpu as usize]);
        let shared = states.filter(|state| state.is_shared());
        let vtimes = shared.filter_map(|state| state.share(vm.terms.pool).map(|share| share.vtime));
        vtimes.min().unwrap_or(0)
    }

    /// Which sessions of a VM that has its level's turn are to be seated.
    fn choose_sessions(&self, slot: Slot, taken: &mut Taken, run: &mut Few<Holder>) {
        let Some(vm) = self.vm(slot) else { return };
        let quantum = match vm.pool.policy {
            Policy::Priority | Policy::Weighted => self.config.quantum_us.of(vm.level),
            Policy::Fifo => u64::MAX,
        };
        let candidates = vm.sessions.iter().filter_map(|session| {
            let order = match &session.place {
                Place::Out => return None,
                // One that is on its way out comes last, or two could be sent away at once.
                Place::Seated(seat) if seat.is_idle() || seat.unwanted_since.is_some() => 3,
                Place::Seated(seat) if self.now >= seat.since.saturating_add(quantum) => 2,
                Place::Seated(_) => 0,
                Place::Waiting { .. } | Place::Stopped { .. } => 1,
            };
            let idle = session.seat().is_some_and(Seat::is_idle);
            Some((order, session.ticket, session.number, session.gpus, idle))
        });
        let mut candidates: Few<_> = candidates.collect();
        candidates.sort_unstable();
        for (_, _, number, gpus, idle) in candidates {
            let choice = Choice {
                holder: (slot, number),
                gpus,
                as_guest: gpus.and(taken.active),
                alone: vm.pool.exclusive,
            };
            let lately = gpus.iter().any(|gpu| self.active_until(gpu, vm.level).is_some());
            if idle && (choice.alone || !choice.as_guest.is_empty() && !lately) {
                taken.idle.push(choice);
            } else if taken.take(choice) {
                run.push(choice.holder);
            }
        }
    }

    /// The GPUs on which a level is active.
    fn active_gpus(&self, level: Level, island: GpuSet, holders: &[Slot], chosen: &[Holder]) -> GpuSet {
        let lately = island
            .iter()
            .filter(|gpu| self.active_until(*gpu, level).is_some());
        let mut active: GpuSet = lately.collect();
        for vm in holders.iter().filter_map(|slot| self.vm(*slot)) {
            if vm.level == level {
                for session in vm.sessions.iter().filter(|session| session.works()) {
                    active = active.or(session.gpus);
                }
            }
        }
        for (slot, number) in chosen {
            if let Some(session) = self.session_at(*slot, *number).filter(|session| session.wants()) {
                active = active.or(session.gpus);
            }
        }
        active
    }

    /// Takes the seats of those who are not in the plan, one rung after the other.
    pub(crate) fn unseat(&mut self, island: GpuSet, plan: &Plan, actions: &mut Vec<Action>) {
        let holders: Few<_> = self.holders_on(island).collect();
        let (now, deadman_us) = (self.now, self.config.deadman_us);
        for (slot, number) in holders {
            let sequence = self.sequence + 1;
            let Some(vm) = self.vm(slot) else { continue };
            let Some(session) = vm.session(number) else {
                continue;
            };
            let (id, can_stop, grace) = (vm.id(number), session.can_stop, self.grace_us(vm, session));
            let Some(seat) = self.seat_mut(slot, number) else {
                continue;
            };
            if plan.run.contains(&(slot, number)) {
                seat.unwanted_since = None;
                continue;
            }
            let since = *seat.unwanted_since.get_or_insert(now);
            if !seat.asked && seat.is_idle() {
                if !seat.taking {
                    seat.taking = true;
                    actions.push(Action::TakeIfIdle { session: id });
                }
                continue;
            }
            if !seat.asked {
                seat.asked = true;
                seat.taking = true;
                actions.push(Action::AskBack { session: id });
            }
            // Not at once: it may be seen to be idle when it is asked.
            if can_stop && seat.stopping.is_none() && !seat.taking && now >= since + grace {
                seat.stopping = Some((sequence, now + (deadman_us / 2).max(1)));
                self.sequence = sequence;
                actions.push(Action::Stop {
                    session: id,
                    sequence,
                    deadman_us,
                });
            }
        }
    }

    /// Seats those who are in the plan and in nobody's way.
    pub(crate) fn seat(&mut self, island: GpuSet, plan: &Plan, actions: &mut Vec<Action>) {
        for (slot, number) in &plan.run {
            let wants = self
                .session_at(*slot, *number)
                .is_some_and(|session| session.wants());
            if wants && !self.is_blocked((*slot, *number), island, plan) {
                self.give_seat(*slot, *number, actions);
            }
        }
    }

    /// Whether somebody who must leave first is still seated.
    fn is_blocked(&self, (slot, number): Holder, island: GpuSet, plan: &Plan) -> bool {
        let Some(vm) = self.vm(slot) else { return true };
        let Some(session) = vm.session(number) else {
            return true;
        };
        self.holders_on(island).any(|(other_slot, other_number)| {
            let Some(other_vm) = self.vm(other_slot) else {
                return false;
            };
            let Some(other) = other_vm.session(other_number) else {
                return false;
            };
            let common = session.gpus.and(other.gpus);
            let alone = vm.pool.exclusive || other_vm.pool.exclusive || vm.pool.turns != other_vm.pool.turns;
            // A VM's turn is one on all its GPUs.
            let same_turn = slot != other_slot && vm.level == other_vm.level && vm.gang.meets(other_vm.gang);
            let both_guests = common
                .and(*plan.below_active.get(vm.level))
                .meets(*plan.below_active.get(other_vm.level));
            alone && !common.is_empty() || same_turn || both_guests
        })
    }

    /// Tells the seated whether somebody cares if they are idle: because somebody waits for their GPU, because
    /// several VMs share it and are charged by who is busy, or because it is time for a look.
    pub(crate) fn mark_contended(&mut self, island: GpuSet, actions: &mut Vec<Action>) {
        let mut contended = self.waited_for(island);
        for gpu in island.iter() {
            let holders = &self.gpus[gpu as usize].holders;
            if let [(first, _), rest @ ..] = &holders[..]
                && rest.iter().any(|(slot, _)| slot != first)
            {
                contended = contended.or(GpuSet::from_iter([gpu]));
            }
        }
        let look_us = self.config.look_us.max(2 * LOOK_LASTS_US);
        let now = self.now;
        let holders: Few<_> = self.holders_on(island).collect();
        for (slot, number) in holders {
            let Some(vm) = self.vm_mut(slot) else { continue };
            let id = vm.id(number);
            let Some(session) = vm.session_mut(number) else {
                continue;
            };
            let (gpus, marked) = (session.gpus, session.contended);
            let Some(seat) = session.seat_mut() else { continue };
            if now >= seat.look_at + LOOK_LASTS_US {
                seat.look_at = now + look_us;
            }
            let look = now >= seat.look_at;
            // One that was seen idle stays watched, or nobody would see it work again.
            let wanted = gpus.meets(contended) || look || seat.is_idle();
            if look && seat.is_idle() && !seat.asked && !seat.taking && !contended.meets(gpus) {
                seat.taking = true;
                actions.push(Action::TakeIfIdle { session: id });
            }
            if marked != wanted {
                session.contended = wanted;
                actions.push(Action::SetContended {
                    session: id,
                    contended: wanted,
                });
            }
        }
    }

    /// The GPUs of an island that somebody waits for.
    pub(crate) fn waited_for(&self, island: GpuSet) -> GpuSet {
        let mut waited = GpuSet::EMPTY;
        for class in self.classes_on(island) {
            if Level::DESCENDING
                .iter()
                .any(|level| !class.waiting.get(*level).is_empty())
            {
                waited = waited.or(class.gpus);
            }
        }
        for (slot, _) in self.holders_on(island) {
            let Some(vm) = self.vm(slot).filter(|vm| vm.wanting > 0 && !vm.is_spent()) else {
                continue;
            };
            for session in vm.sessions.iter().filter(|session| session.wants()) {
                waited = waited.or(session.gpus);
            }
        }
        waited
    }
}
