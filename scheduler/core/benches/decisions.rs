//! Decisions per second, a decision being one [`Core::step`], by how many VMs are registered and how many of them are
//! busy. The host around the core is as small as can be, and its cost is included.
//!
//! `cargo bench -p vgpu-sched-core`, or with a filter: `… -- 'priority/8 GPUs/1000 VMs'`. For the goal, look at
//! elements per second.
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};
use vgpu_sched_core::{
    Action, Config, Core, Event, Found, Gpu, GpuSet, Level, Policy, PoolTerms, Session, Terms, Vm,
};

/// How long a burst lasts, and the pause after it.
const BURST_US: u64 = 300;
/// How long a session takes to give its turn back.
const DRAIN_US: u64 = 100;

/// What a session does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has work and no turn.
    Want,
    /// Its burst is over.
    RunDry,
    /// What it had in flight when it was asked back is done.
    Drained,
}

/// A core and the sessions that are busy around it. Half of them always have work; the others work in bursts.
struct Host {
    core: Core,
    now: u64,
    /// When a session does something next. Its turn, by number, tells whether that is still so.
    coming: BinaryHeap<Reverse<(u64, Vm, Doing, u64)>>,
    /// Events of this very moment.
    at_once: VecDeque<Event>,
    /// By VM: how many turns it had, and whether it works in bursts, has a turn, is idle, is to say so.
    sessions: Vec<Busy>,
    actions: Vec<Action>,
}

#[derive(Clone, Debug, Default)]
struct Busy {
    turns: u64,
    bursts: bool,
    seated: bool,
    idle: bool,
    contended: bool,
}

fn of(vm: Vm) -> Session {
    Session { vm, number: 1 }
}

impl Host {
    fn new(policy: Policy, gpus: Gpu, vms: u32, busy: u32) -> Self {
        let mut host = Self {
            core: Core::new(Config::default()),
            now: 0,
            coming: BinaryHeap::new(),
            at_once: VecDeque::new(),
            sessions: vec![Busy::default(); vms as usize],
            actions: Vec::new(),
        };
        let terms = PoolTerms {
            policy,
            ..PoolTerms::default()
        };
        host.at_once.push_back(Event::PoolSet { pool: 0, terms });
        for vm in 0..vms {
            let level = Level::DESCENDING[vm as usize % Level::DESCENDING.len()];
            let terms = Terms {
                weight: 1 + vm % 4,
                ..Terms::at(level)
            };
            let session = of(vm);
            host.sessions[vm as usize].bursts = vm.count_ones() % 2 == 1;
            host.at_once.extend([
                Event::VmSet { vm, terms },
                Event::Attached {
                    session,
                    gpus: GpuSet::from_iter([vm % gpus]),
                    found: Found::Nothing,
                },
                Event::Proved {
                    session,
                    slices: true,
                    stop: true,
                },
            ]);
        }
        while !host.at_once.is_empty() {
            host.decide();
        }
        for vm in 0..busy {
            host.coming.push(Reverse((u64::from(vm), vm, Doing::Want, 0)));
        }
        // Until the queues are what they stay.
        for _ in 0..4 * busy {
            host.decide();
        }
        host
    }

    /// Takes what happens next to the core, and does what it says.
    fn decide(&mut self) {
        let event = self.next();
        self.core.step(self.now, event, &mut self.actions);
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.at_once.pop_front() {
                return event;
            }
            let tick = self.core.deadline();
            let Some(Reverse((at, vm, doing, turn))) = self
                .coming
                .peek()
                .copied()
                .filter(|Reverse((at, ..))| tick.is_none_or(|tick| *at < tick))
            else {
                self.now = tick.expect("somebody is busy");
                return Event::Tick;
            };
            self.coming.pop();
            let session = of(vm);
            let busy = &mut self.sessions[vm as usize];
            if turn != busy.turns {
                continue;
            }
            self.now = self.now.max(at);
            match doing {
                Doing::Want if !busy.seated => return Event::Want { session },
                Doing::Want if busy.idle => {
                    busy.idle = false;
                    let dry = (self.now + BURST_US, vm, Doing::RunDry, turn);
                    self.coming.push(Reverse(dry));
                    return Event::BusySeen { session };
                }
                Doing::RunDry if busy.seated => {
                    let again = (self.now + BURST_US, vm, Doing::Want, turn);
                    self.coming.push(Reverse(again));
                    if busy.contended {
                        busy.idle = true;
                        return Event::IdleSeen { session, idle_us: 0 };
                    }
                    self.release(vm);
                    return Event::Released { session };
                }
                Doing::Drained if busy.seated => {
                    self.release(vm);
                    return Event::Released { session };
                }
                _ => {}
            }
        }
    }

    /// The turn is over, and more work comes: at once, or after the pause.
    fn release(&mut self, vm: Vm) {
        let busy = &mut self.sessions[vm as usize];
        busy.seated = false;
        busy.idle = false;
        busy.turns += 1;
        let pause = if busy.bursts { BURST_US } else { 1 };
        self.coming
            .push(Reverse((self.now + pause, vm, Doing::Want, busy.turns)));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Grant { session } => {
                let busy = &mut self.sessions[session.vm as usize];
                busy.seated = true;
                if busy.bursts {
                    let dry = (self.now + BURST_US, session.vm, Doing::RunDry, busy.turns);
                    self.coming.push(Reverse(dry));
                }
            }
            Action::TakeIfIdle { session } | Action::AskBack { session } => {
                let busy = &mut self.sessions[session.vm as usize];
                let taken = busy.idle;
                if taken {
                    self.release(session.vm);
                } else if matches!(action, Action::AskBack { .. }) {
                    let drained = (self.now + DRAIN_US, session.vm, Doing::Drained, busy.turns);
                    self.coming.push(Reverse(drained));
                }
                self.at_once.push_back(Event::TakeResult { session, taken });
            }
            Action::SetContended { session, contended } => {
                self.sessions[session.vm as usize].contended = contended;
            }
            // Nobody takes so long to give back that he is stopped, and nothing else is asked for.
            _ => {}
        }
    }
}

fn time(host: &mut Host, decisions: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..decisions {
        host.decide();
    }
    start.elapsed()
}

fn measure(c: &mut Criterion, policy: Policy, gpus: Gpu, all_vms: &[u32]) {
    let mut group = c.benchmark_group(format!("{policy:?}/{gpus} GPUs").to_lowercase());
    group
        .throughput(Throughput::Elements(1))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    for &vms in all_vms {
        for busy in [2, 16, vms] {
            if busy > vms {
                continue;
            }
            let mut host = None;
            let id = BenchmarkId::new(format!("{vms} VMs"), format!("{busy} busy"));
            group.bench_function(id, |bencher| {
                // Only if this one is not filtered out.
                let host = host.get_or_insert_with(|| Host::new(policy, gpus, vms, busy));
                bencher.iter_custom(|decisions| time(host, decisions));
            });
        }
    }
    group.finish();
}

fn decisions(c: &mut Criterion) {
    for gpus in [8, 1] {
        measure(c, Policy::Priority, gpus, &[10, 100, 1_000, 10_000]);
    }
    for policy in [Policy::Weighted, Policy::Fifo] {
        measure(c, policy, 8, &[1_000]);
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
