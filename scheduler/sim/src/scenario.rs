//! Seeded scenarios: a host with VMs, programs and faults made from a number.
use crate::check::{Checker, Rules};
use crate::host::{Fault, Finished, Host, Member, RESUME_US, Real, STOP_US};
use crate::percentiles::Percentiles;
use crate::program::{Program, Work};
use oorandom::Rand64;
use std::collections::{BTreeMap, BTreeSet};
use vgpu_sched_core::{
    Config, Gpu, GpuSet, Level, PerLevel, Policy, Pool, PoolTerms, Rung, Rungs, Session, Terms, Vm,
};

/// The core decides by policy and holds VMs to their limits. Where it does not, pools are checked as those under
/// [`Policy::Priority`] are, and VMs get no limits.
pub const POLICIES: bool = true;

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
/// How much heavier than another a VM can be.
const WEIGHT_MAX: u32 = 4;
/// The longest that a VM waits before it rises.
const AGING_MAX_US: u64 = 500 * MS;
const QUANTUM_MAX_US: u64 = 30 * MS;
const LAG_MAX_US: u64 = 60;
/// How long a spell of work lasts about.
const SPELL_US: u64 = S / 2;
/// What sessions that cannot be stopped may take to give a turn back, each: 50 ms of work in the shortest of slices.
const DRAIN_UNSTOPPED_US: u64 = 8 * S;

/// What is simulated. Equal scenarios run equally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    pub vms: u32,
    /// At most [`GpuSet::MAX`].
    pub gpus: u32,
    /// Virtual time in microseconds.
    pub length_us: u64,
    /// Of all pools; `None`: each has another one, and they change.
    pub policy: Option<Policy>,
    pub exclusive: bool,
    /// Sessions take turns; else they run at once.
    pub turns: bool,
    /// Programs of a VM at most.
    pub sessions: u32,
    /// How many programs work at once, about.
    pub active: u32,
    /// Some sessions have two GPUs.
    pub gangs: bool,
    /// The first VMs, this many, work all the time on the first GPU.
    pub steady: u32,
    /// Executors do not give back, die, lie, and cannot be stopped.
    pub faults: bool,
    /// The scheduler dies and is started anew.
    pub restarts: bool,
    /// Terms and tuning change, VMs come and go, GPUs vanish.
    pub changes: bool,
    /// VMs have limits.
    pub limits: bool,
}

impl Scenario {
    /// A host of moderate size with everything that can go wrong, for a minute.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            vms: 24,
            gpus: 4,
            length_us: 60 * S,
            policy: None,
            exclusive: false,
            turns: true,
            sessions: 3,
            active: 8,
            gangs: true,
            steady: 0,
            faults: true,
            restarts: true,
            changes: true,
            limits: true,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Equal for runs in which the scheduler did the same at the same times.
    pub digest: u64,
    /// Steps of the core.
    pub events: u64,
    pub grants: u64,
    pub stops: u64,
    /// Schedulers that died.
    pub restarts: u64,
    /// Programs that died, of themselves or as their VM or GPU did.
    pub deaths: u64,
    /// By GPU: the part of the time for which it had work.
    pub busy: Vec<f64>,
    /// By level, the highest first: how long pieces of work waited until they first ran, in microseconds.
    pub waits: Vec<(Level, Percentiles)>,
}

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Virtual time in microseconds.
    pub at_us: u64,
    pub what: String,
    /// What happened last, a line each.
    pub last: Vec<String>,
}

/// Runs a scenario with all checks.
pub fn run(scenario: &Scenario) -> Result<Summary, Box<Violation>> {
    let mut run = Run::new(scenario);
    run.populate();
    run.go_on();
    run.finish()
}

struct Run {
    scenario: Scenario,
    random: Rand64,
    host: Host,
    /// Where each VM is placed, and the programs that it runs when nothing goes wrong.
    members: BTreeMap<Session, Member>,
    pools: BTreeMap<Pool, Vec<Gpu>>,
    restarts: u64,
    deaths: u64,
}

impl Run {
    fn new(scenario: &Scenario) -> Self {
        let scenario = scenario.clone();
        let mut random = Rand64::new(u128::from(scenario.seed) << 64 | 0x7667_7075);
        let config = config(&mut random);
        let drain_us = if scenario.faults {
            DRAIN_UNSTOPPED_US * u64::from(scenario.sessions)
        } else {
            config.grace_us + STOP_US + RESUME_US + 2 * LAG_MAX_US
        };
        let rules = Rules {
            policies: POLICIES,
            turn_us: QUANTUM_MAX_US * u64::from(WEIGHT_MAX),
            drain_us,
            aging_us: AGING_MAX_US,
            weight: WEIGHT_MAX,
            gangs: scenario.gangs,
            steady: (1..=scenario.steady).collect(),
        };
        let checker = Some(Checker::new(rules));
        Self {
            host: Host::new(config, scenario.gpus, scenario.seed, checker),
            members: BTreeMap::new(),
            pools: BTreeMap::new(),
            restarts: 0,
            deaths: 0,
            random,
            scenario,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.rand_range(0..100) < percent
    }

    fn populate(&mut self) {
        let pools = match self.scenario.policy {
            Some(_) => 1,
            None => self.scenario.gpus.clamp(1, 3),
        };
        for pool in 0..pools {
            let gpus = (0..self.scenario.gpus).filter(|gpu| gpu % pools == pool);
            self.pools.insert(pool, gpus.collect());
            let terms = self.pool_terms();
            self.host.set_pool(pool, terms);
        }
        for vm in 1..=self.scenario.vms {
            self.add_vm(vm);
        }
    }

    fn pool_terms(&mut self) -> PoolTerms {
        let mut terms = PoolTerms {
            exclusive: self.scenario.exclusive,
            turns: self.scenario.turns,
            ..PoolTerms::default()
        };
        if let Some(policy) = self.scenario.policy {
            terms.policy = policy;
            return terms;
        }
        let policies = [Policy::Priority, Policy::Weighted, Policy::Fifo];
        terms.policy = policies[self.random.rand_range(0..3) as usize];
        terms.exclusive |= self.chance(15);
        terms.turns &= !self.chance(10);
        if self.chance(30) {
            let rungs = [Rung::Warn, Rung::Deprioritise, Rung::Stop, Rung::End];
            let chosen: Rungs = rungs.into_iter().filter(|_| self.chance(50)).collect();
            terms.rungs = chosen;
        }
        terms
    }

    fn terms(&mut self, vm: Vm) -> Terms {
        let pool = vm % self.pools.len() as u32;
        let level = match self.random.rand_range(0..10) {
            0..5 => Level::Low,
            5..8 => Level::Medium,
            _ => Level::High,
        };
        let mut terms = Terms {
            pool,
            weight: self.random.rand_range(1..u64::from(WEIGHT_MAX) + 1) as u32,
            aging_us: self.random.rand_range(50 * MS..AGING_MAX_US),
            ..Terms::at(level)
        };
        if self.chance(20) {
            terms.depth = Some(self.random.rand_range(1..64) as u32);
        }
        if vm <= self.scenario.steady {
            terms.level = Level::Low;
            terms.weight = 1 << (vm % 3);
        } else if POLICIES && self.scenario.limits {
            let random = &mut self.random;
            let mut maybe = |percent: u64, from: u64, to: u64| {
                (random.rand_range(0..100) < percent).then(|| random.rand_range(from..to))
            };
            terms.share_max = maybe(10, 100, 900).map(|share| share as u32);
            terms.turn_max_us = maybe(10, 5 * MS, 50 * MS);
            terms.kernel_max_us = maybe(20, 200 * MS, 2 * S);
            terms.suspend_after_us = maybe(10, S, 10 * S);
        }
        terms
    }

    /// A VM starts, and its programs soon after.
    fn add_vm(&mut self, vm: Vm) {
        let terms = self.terms(vm);
        self.host.set_vm(vm, terms);
        let sessions = match vm <= self.scenario.steady {
            true => 1,
            false => self.random.rand_range(1..u64::from(self.scenario.sessions) + 1) as u32,
        };
        let placed = self.place(vm, terms.pool);
        for number in 1..=sessions {
            let session = Session { vm, number };
            // One that was opened before the VM was placed elsewhere.
            let gpus = match self.chance(5) {
                true => self.place(vm, terms.pool),
                false => placed,
            };
            let member = self.member(vm, gpus);
            self.members.insert(session, member.clone());
            let after = self.random.rand_range(0..100 * MS);
            self.host.start_later(session, member, after);
        }
    }

    fn place(&mut self, vm: Vm, pool: Pool) -> GpuSet {
        let gpus = self.pools[&pool].clone();
        let first = match vm <= self.scenario.steady {
            true => gpus[0],
            false => gpus[self.random.rand_range(0..gpus.len() as u64) as usize],
        };
        let gang = self.scenario.gangs && vm > self.scenario.steady && self.chance(10);
        let second = gang.then(|| gpus[self.random.rand_range(0..gpus.len() as u64) as usize]);
        [Some(first), second].into_iter().flatten().collect()
    }

    fn member(&mut self, vm: Vm, gpus: GpuSet) -> Member {
        let mut fault = Fault::None;
        let mut stop = true;
        let mut slices = true;
        if vm > self.scenario.steady && self.scenario.faults {
            fault = match self.random.rand_range(0..30) {
                0 => Fault::Deaf,
                1 => Fault::Hoards,
                2 => Fault::Lies,
                3 => Fault::Babbles,
                4 => Fault::FailsToStop,
                _ => Fault::None,
            };
            stop = !self.chance(10);
            slices = !self.chance(10);
        }
        let program = if vm <= self.scenario.steady {
            Program::Steady(Work {
                ns: 100_000_000,
                kernel_ns: 1_000_000,
            })
        } else {
            let programs = u64::from(self.scenario.vms) * u64::from(self.scenario.sessions + 1) / 2;
            let pause_us = SPELL_US * programs / u64::from(self.scenario.active.max(1));
            Program::spells(pause_us, !stop || fault == Fault::FailsToStop)
        };
        Member {
            gpus,
            lag_us: self.random.rand_range(5..LAG_MAX_US),
            slices,
            stop,
            fault,
            program,
        }
    }

    fn go_on(&mut self) {
        let end = self.scenario.length_us;
        while self.host.now < end {
            let next = self.host.now + self.random.rand_range(20 * MS..(end / 30).clamp(100 * MS, 60 * S));
            self.host.run_until(next.min(end));
            if self.host.violation().is_some() {
                return;
            }
            self.disturb();
        }
    }

    /// Something happens that is no program's doing.
    fn disturb(&mut self) {
        self.bring_back();
        match self.random.rand_range(0..12) {
            0 if self.scenario.restarts => {
                self.restarts += 1;
                self.host.go_down();
                let down_us = self.random.rand_range(MS..2 * S);
                self.host.run_until(self.host.now + down_us);
                self.host.come_up();
            }
            1..=3 if self.scenario.faults => {
                let sessions: Vec<_> = self.host.sessions.keys().copied().collect();
                let mortal = |session: &Session| session.vm > self.scenario.steady;
                let sessions: Vec<_> = sessions.into_iter().filter(mortal).collect();
                if !sessions.is_empty() {
                    let dies = self.random.rand_range(0..sessions.len() as u64);
                    self.deaths += 1;
                    self.host.end(sessions[dies as usize]);
                }
            }
            4 | 5 if self.scenario.changes => {
                let vm = self.any_vm();
                if self.host.vms.contains_key(&vm) {
                    let terms = self.terms(vm);
                    self.host.set_vm(vm, terms);
                }
            }
            6 if self.scenario.changes => {
                let pool = self.random.rand_range(0..self.pools.len() as u64) as Pool;
                let terms = self.pool_terms();
                self.host.set_pool(pool, terms);
            }
            7 if self.scenario.changes => {
                let config = config(&mut self.random);
                self.host.configure(config);
            }
            8 if self.scenario.changes => {
                let vm = self.any_vm();
                if vm > self.scenario.steady {
                    self.deaths += self.host.sessions_of(vm).len() as u64;
                    self.host.remove_vm(vm);
                    self.members.retain(|session, _| session.vm != vm);
                }
            }
            9 if self.scenario.changes => self.vanish(),
            _ => {}
        }
    }

    fn any_vm(&mut self) -> Vm {
        self.random.rand_range(1..u64::from(self.scenario.vms) + 1) as Vm
    }

    /// Programs that died are started anew, and VMs that were shut down.
    fn bring_back(&mut self) {
        if let Some(vm) = (1..=self.scenario.vms).find(|vm| !self.host.vms.contains_key(vm)) {
            self.add_vm(vm);
        }
        let missing: Vec<_> = self
            .members
            .iter()
            .filter(|(session, _)| !self.host.sessions.contains_key(session))
            .map(|(session, member)| (*session, member.clone()))
            .collect();
        for (session, member) in missing {
            self.host.start(session, member);
        }
    }

    /// A GPU falls off: the sessions on it die, and start anew on others; it is back at once.
    fn vanish(&mut self) {
        let gpu = self.random.rand_range(0..u64::from(self.scenario.gpus)) as Gpu;
        let lost: BTreeSet<Session> = self
            .members
            .iter()
            .filter(|(session, member)| {
                session.vm > self.scenario.steady && member.gpus.iter().any(|other| other == gpu)
            })
            .map(|(session, _)| *session)
            .collect();
        for session in lost {
            self.deaths += 1;
            self.host.end(session);
            let Some(terms) = self.host.vms.get(&session.vm).copied() else {
                continue;
            };
            let gpus = self.place(session.vm, terms.pool);
            if let Some(member) = self.members.get_mut(&session) {
                member.gpus = gpus;
            }
        }
    }

    fn finish(mut self) -> Result<Summary, Box<Violation>> {
        let end = self.host.now;
        let waits = waits(&self.host.finished, &self.host.vms);
        let busy_us = (0..self.scenario.gpus).map(|gpu| self.host.hardware.busy_us(gpu, end));
        let busy = busy_us.map(|us| us as f64 / end.max(1) as f64).collect();
        // Nobody has new work: all that was wished for is granted now, or something is stuck.
        self.host.quiet = true;
        // One that never says that its work is done would keep a turn that lasts until then.
        let hoards = self.host.sessions.iter();
        let hoards = hoards.filter(|(_, real)| real.member.fault == Fault::Hoards);
        for session in hoards.map(|(session, _)| *session).collect::<Vec<_>>() {
            self.host.end(session);
        }
        for _ in 0..60 {
            self.host.run_until(self.host.now + 10 * S);
            if self.host.violation().is_some() || !self.host.sessions.values().any(Real::has_work) {
                break;
            }
        }
        self.host.run_until(self.host.now + 10 * S);
        self.host.check_all(true);
        if let Some(what) = self.host.violation() {
            return Err(Box::new(Violation {
                at_us: self.host.violated_at().unwrap_or(self.host.now),
                what: what.to_owned(),
                last: self.host.log.last(),
            }));
        }
        Ok(Summary {
            digest: self.host.log.digest(),
            events: self.host.log.events,
            grants: self.host.log.grants,
            stops: self.host.log.stops,
            restarts: self.restarts,
            deaths: self.deaths,
            busy,
            waits,
        })
    }
}

fn config(random: &mut Rand64) -> Config {
    let mut quantum = || random.rand_range(5 * MS..QUANTUM_MAX_US);
    let quantum_us = PerLevel {
        low: quantum(),
        medium: quantum(),
        high: quantum(),
    };
    Config {
        quantum_us,
        active_hold_us: random.rand_range(10 * MS..100 * MS),
        deadman_us: random.rand_range(200 * MS..2 * S),
        look_us: random.rand_range(S..10 * S),
        ..Config::default()
    }
}

fn waits(finished: &[Finished], vms: &BTreeMap<Vm, Terms>) -> Vec<(Level, Percentiles)> {
    let of = |level: Level| {
        let mine = finished
            .iter()
            .filter(|piece| vms.get(&piece.vm).is_some_and(|terms| terms.level == level));
        Percentiles::of(mine.map(|piece| piece.wait_us).collect())
    };
    let levels = Level::DESCENDING.into_iter();
    levels
        .filter_map(|level| of(level).map(|waits| (level, waits)))
        .collect()
}
