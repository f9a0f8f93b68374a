//! The policies other than turns by priority, limits, and what is done about those that break them.

use crate::story::{A, B, C, Story, session};
use proptest::prelude::*;
use std::collections::BTreeMap;
use vgpu_sched_core::{
    Action, Config, Core, End, Event, Found, Gpu, GpuSet, Level, Limit, Policy, PoolTerms, Rung, Rungs,
    Session, Standing, Terms, Vm,
};

const MS: u64 = 1_000;
const S: u64 = 1_000_000;

fn pool(policy: Policy) -> PoolTerms {
    PoolTerms {
        policy,
        ..PoolTerms::default()
    }
}

/// VMs with their terms, a session each on GPU 0, in pools with these terms.
fn story(config: Config, pools: &[PoolTerms], vms: &[Terms]) -> Story {
    let mut story = Story::empty(config);
    for (pool, terms) in (0..).zip(pools) {
        story.event(Event::PoolSet { pool, terms: *terms });
    }
    for (vm, terms) in (1..).zip(vms) {
        story.set(vm, *terms);
        story.attach(session(vm, 1), &[0]);
        story.event(Event::Proved {
            session: session(vm, 1),
            slices: true,
            stop: true,
        });
    }
    story.actions.clear();
    story
}

/// Sessions that always have work, each giving back so long after it was asked to.
struct Busy {
    core: Core,
    now: u64,
    coming: BTreeMap<(u64, Session), ()>,
    drain_us: u64,
    /// By session: when its turn began.
    held: BTreeMap<Session, u64>,
    longest_wait: BTreeMap<Vm, u64>,
}

impl Busy {
    fn new(config: Config, drain_us: u64) -> Self {
        Self {
            core: Core::new(config),
            now: 0,
            coming: BTreeMap::new(),
            drain_us,
            held: BTreeMap::new(),
            longest_wait: BTreeMap::new(),
        }
    }

    fn pool(&mut self, pool: u32, terms: PoolTerms) {
        self.event(Event::PoolSet { pool, terms });
    }

    fn vm(&mut self, vm: Vm, terms: Terms, gpus: &[Gpu]) {
        self.event(Event::VmSet { vm, terms });
        let session = session(vm, 1);
        self.event(Event::Attached {
            session,
            gpus: gpus.iter().copied().collect(),
            found: Found::Nothing,
        });
        self.event(Event::Proved {
            session,
            slices: true,
            stop: false,
        });
        self.event(Event::Want { session });
    }

    fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut actions = Vec::new();
            self.core.step(self.now, event, &mut actions);
            for action in actions {
                match action {
                    Action::AskBack { session } => {
                        self.coming.insert((self.now + self.drain_us, session), ());
                        events.push(Event::TakeResult {
                            session,
                            taken: false,
                        });
                    }
                    Action::TakeIfIdle { session } => events.push(Event::TakeResult {
                        session,
                        taken: false,
                    }),
                    Action::Began {
                        session, waited_us, ..
                    } => {
                        self.held.insert(session, self.now);
                        let longest = self.longest_wait.entry(session.vm).or_default();
                        *longest = (*longest).max(waited_us);
                    }
                    Action::Ended { session, .. } => {
                        self.held.remove(&session);
                    }
                    _ => {}
                }
            }
        }
    }

    fn until(&mut self, end: u64) {
        loop {
            let drained = self.coming.keys().next().map(|(at, _)| *at);
            let next = drained.into_iter().chain(self.core.deadline()).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = at;
            match drained {
                Some(drained) if drained == at => {
                    let ((_, session), ()) = self.coming.pop_first().unwrap();
                    self.event(Event::Released { session });
                    self.event(Event::Want { session });
                }
                _ => self.event(Event::Tick),
            }
        }
        self.now = end;
        self.event(Event::Tick);
    }

    fn used_us(&self, vm: Vm) -> u64 {
        self.core.usage(vm).unwrap().1.ns / 1000
    }
}

#[test]
fn weights_of_one_two_and_four_get_their_time_within_one_percent_over_ten_seconds() {
    let mut busy = Busy::new(Config::default(), 200);
    busy.pool(0, pool(Policy::Weighted));
    for (vm, weight) in [(1, 1), (2, 2), (3, 4)] {
        // Whatever their levels.
        let level = Level::DESCENDING[vm as usize % 3];
        busy.vm(
            vm,
            Terms {
                weight,
                ..Terms::at(level)
            },
            &[0],
        );
    }
    busy.until(10 * S);
    let all: u64 = (1..=3).map(|vm| busy.used_us(vm)).sum();
    for (vm, weight) in [(1, 1), (2, 2), (3, 4)] {
        let (used, fair) = (busy.used_us(vm), all * weight / 7);
        assert!(
            used.abs_diff(fair) <= fair / 100 + 20 * MS,
            "VM {vm}: {used} of {all}, fair {fair}"
        );
    }
    assert!(all > 9_900 * MS, "the GPU was idle: {all}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    /// However the weights are, and however long giving back takes: nobody is behind its share by more than a turn and a
    /// drain of every VM.
    #[test]
    fn shares_are_held_within_a_turn_and_a_drain(
        weights in proptest::collection::vec(1..20u32, 2..6), drain_us in 0..30_000u64
    ) {
        let mut busy = Busy::new(Config::default(), drain_us);
        busy.pool(0, pool(Policy::Weighted));
        for (vm, weight) in (1..).zip(&weights) {
            busy.vm(vm, Terms { weight: *weight, ..Terms::at(Level::Low) }, &[0]);
        }
        busy.until(20 * S);
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let all: u64 = (1..=weights.len() as u32).map(|vm| busy.used_us(vm)).sum();
        let turn = 20 * MS + drain_us + 1_000;
        for (vm, weight) in (1..).zip(&weights) {
            let fair = all * u64::from(*weight) / sum;
            // A turn of everybody's, by weight against its own.
            let error = turn * (weights.len() as u64 + u64::from(*weight));
            let used = busy.used_us(vm);
            prop_assert!(used.abs_diff(fair) <= error, "VM {vm} of {weights:?}: {used}, fair {fair}, error {error}");
        }
    }

    /// Pools that share a GPU share it by weight, however many VMs each has.
    #[test]
    fn pools_share_a_gpu_by_weight(
        pools in proptest::collection::vec((1..8u32, 1..4u32, prop_oneof![
            Just(Policy::Priority), Just(Policy::Weighted), Just(Policy::Fifo)
        ]), 2..4)
    ) {
        let mut busy = Busy::new(Config::default(), 500);
        let mut vm = 0;
        for (number, (weight, vms, policy)) in (0..).zip(&pools) {
            // Turns end although nobody is idle: under FIFO only by the limit.
            busy.pool(number, PoolTerms { weight: *weight, ..pool(*policy) });
            for _ in 0..*vms {
                vm += 1;
                let terms = Terms {
                    pool: number, aging_us: u64::MAX, turn_max_us: Some(20 * MS), ..Terms::at(Level::Medium)
                };
                busy.vm(vm, terms, &[0]);
            }
        }
        busy.until(20 * S);
        let sum: u64 = pools.iter().map(|(weight, ..)| u64::from(*weight)).sum();
        let mut first = 1;
        for (weight, vms, _) in &pools {
            let used: u64 = (first..first + vms).map(|vm| busy.used_us(vm)).sum();
            first += vms;
            let fair = 20 * S * u64::from(*weight) / sum;
            prop_assert!(used.abs_diff(fair) <= fair / 20 + 100 * MS, "{pools:?}: {used}, fair {fair}");
        }
    }

    /// A VM's cap is never exceeded by more than its window, a turn, and a drain; and it gets what it may have.
    #[test]
    fn a_cap_on_gpu_time_holds(cap in 10..900u32, drain_us in 0..20_000u64, others in 0..3u32) {
        let config = Config::default();
        let mut busy = Busy::new(config, drain_us);
        busy.vm(1, Terms { share_max: Some(cap), aging_us: u64::MAX, ..Terms::at(Level::Medium) }, &[0]);
        for vm in 2..2 + others {
            busy.vm(vm, Terms { aging_us: u64::MAX, ..Terms::at(Level::Low) }, &[0]);
        }
        let (mut last, mut used_before) = (0, 0);
        for second in 1..=20 {
            busy.until(second * S);
            let used = busy.used_us(1);
            let may = S * u64::from(cap) / 1000;
            let slack = 20 * MS + 20 * MS + drain_us;
            prop_assert!(used - used_before <= may + slack, "{used} - {used_before} in a second of {may}");
            last = used;
            used_before = used;
        }
        let may = 20 * S * u64::from(cap) / 1000;
        // It has none of the low ones beside it whose slices it shares, but for what they are charged.
        let least = may.saturating_sub(may / 10 + 40 * MS);
        prop_assert!(last >= least || cap > 800, "only {last} of {may}");
        prop_assert!(last <= may + 20 * MS + 20 * MS + drain_us, "{last} of {may}");
    }
}

#[test]
fn a_vm_that_comes_late_has_no_claim_to_what_it_did_not_use() {
    let mut busy = Busy::new(Config::default(), 0);
    busy.pool(0, pool(Policy::Weighted));
    busy.vm(1, Terms::at(Level::Low), &[0]);
    busy.until(10 * S);
    busy.vm(2, Terms::at(Level::Low), &[0]);
    busy.until(12 * S);
    let late = busy.used_us(2);
    assert!((980 * MS..=1_040 * MS).contains(&late), "{late}");
}

#[test]
fn what_one_had_while_nobody_else_was_there_is_no_debt() {
    let mut busy = Busy::new(Config::default(), 0);
    busy.pool(0, pool(Policy::Weighted));
    busy.vm(1, Terms::at(Level::Low), &[0]);
    busy.until(10 * S);
    busy.event(Event::Released { session: A });
    busy.until(11 * S);
    busy.vm(2, Terms::at(Level::Low), &[0]);
    busy.event(Event::Want { session: A });
    let before = busy.used_us(1);
    busy.until(13 * S);
    let then = busy.used_us(1) - before;
    assert!((960 * MS..=1_040 * MS).contains(&then), "{then}");
}

/// One that gives its turn back now and then, and wants the next a moment later, as programs do whose kernels have all
/// run: it loses nothing of its share.
#[test]
fn a_moment_without_a_wish_costs_no_share() {
    let weighing = |weight| Terms {
        weight,
        ..Terms::at(Level::Low)
    };
    let vms = [weighing(1), weighing(4)];
    let mut story = story(Config::default(), &[pool(Policy::Weighted)], &vms);
    story.want(A);
    story.want(B);
    let mut held_since = 0;
    while story.now < 10 * S {
        story.until(story.now + 5 * MS);
        let running = story.standing(B) == Standing::Running;
        held_since = if running { held_since } else { story.now };
        // B's work is done after 30 ms of a turn; otherwise both give back when they are asked.
        let done = running && story.now >= held_since + 30 * MS;
        for session in [A, B] {
            if story.standing(session) == Standing::Asked || done && session == B {
                story.refuse_taking(session);
                story.release(session);
                story.until(story.now + 50);
                story.want(session);
            }
        }
    }
    story.event(Event::Tick);
    let [a, b] = [1, 2].map(|vm| story.core.usage(vm).unwrap().1.ns / 1_000);
    assert!(
        (a + b) / 5 > a - 100 * MS && a + 100 * MS > (a + b) / 5,
        "{a} and {b}"
    );
}

#[test]
fn first_in_first_out_lasts_until_the_work_is_done() {
    let low = Terms::at(Level::Low);
    let high = Terms::at(Level::High);
    let mut story = story(Config::default(), &[pool(Policy::Fifo)], &[low, low, high]);
    story.want(A);
    assert_eq!(story.done(), [Action::Grant { session: A }]);
    story.want(B);
    story.want(C);
    story.until(60 * S);
    let asked = story.done();
    assert!(
        !asked
            .iter()
            .any(|action| matches!(action, Action::AskBack { .. } | Action::Stop { .. })),
        "{asked:?}"
    );
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 0,
    });
    assert_eq!(story.done(), [Action::TakeIfIdle { session: A }]);
    story.event(Event::TakeResult {
        session: A,
        taken: true,
    });
    assert_eq!(
        story.done(),
        [Action::Grant { session: B }],
        "the order of asking, not of levels"
    );
}

#[test]
fn one_that_works_again_when_it_is_to_be_taken_keeps_its_turn() {
    let exclusive = PoolTerms {
        exclusive: true,
        ..pool(Policy::Fifo)
    };
    let mut story = story(Config::default(), &[exclusive], &[Terms::at(Level::Low)]);
    let other = session(1, 2);
    story.attach(other, &[0]);
    story.want(A);
    story.want(other);
    story.done();
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 0,
    });
    assert_eq!(story.done(), [Action::TakeIfIdle { session: A }]);
    story.refuse_taking(A);
    story.until(S);
    assert_eq!(story.done(), [], "its work is not done");
    assert_eq!(story.standing(A), Standing::Running);
}

#[test]
fn a_turn_on_several_gpus_is_followed_when_the_last_seat_is_given_back() {
    let low = Terms::at(Level::Low);
    let mut story = story(Config::default(), &[pool(Policy::Fifo)], &[low, low]);
    // Both VMs have a session on each of two GPUs; those that work are on different ones.
    story.attach(session(1, 2), &[1]);
    let elsewhere = session(2, 2);
    story.attach(elsewhere, &[1]);
    story.want(A);
    story.want(elsewhere);
    story.done();
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 0,
    });
    assert_eq!(story.done(), [Action::TakeIfIdle { session: A }]);
    story.refuse_taking(A);
    assert_eq!(story.done(), [], "the turn goes on");
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 0,
    });
    story.event(Event::TakeResult {
        session: A,
        taken: true,
    });
    assert_eq!(
        story.done(),
        [
            Action::TakeIfIdle { session: A },
            Action::Grant { session: elsewhere }
        ]
    );
}

#[test]
fn of_two_that_come_to_have_a_gpu_in_common_the_first_keeps_its_turn() {
    let low = Terms::at(Level::Low);
    let mut story = story(Config::default(), &[pool(Policy::Fifo)], &[low]);
    story.set(2, low);
    story.attach(B, &[1]);
    story.want(A);
    story.want(B);
    story.done();
    story.attach(session(2, 2), &[0]);
    let asked = |action: &Action| matches!(action, Action::AskBack { session: B });
    assert!(story.done().iter().any(asked));
    story.release(B);
    story.want(B);
    story.until(S);
    assert_eq!(story.standing(B), Standing::Waiting);
    story.release(A);
    assert_eq!(story.standing(B), Standing::Running);
}

#[test]
fn an_exclusive_gpu_has_one_session_at_a_time_and_the_higher_level_first() {
    let exclusive = PoolTerms {
        exclusive: true,
        ..PoolTerms::default()
    };
    let vms = [Terms::at(Level::Low), Terms::at(Level::High)];
    let mut story = story(Config::default(), &[exclusive], &vms);
    story.attach(session(1, 2), &[0]);
    story.actions.clear();
    story.want(A);
    story.want(session(1, 2));
    assert_eq!(story.done(), [Action::Grant { session: A }], "not both of one VM");
    story.want(B);
    assert_eq!(story.done(), [Action::AskBack { session: A }]);
    story.refuse_taking(A);
    story.until(10 * MS);
    assert!(matches!(story.done()[..], [Action::Stop { session: A, .. }]));
    story.release(A);
    let done = story.done();
    assert!(done.contains(&Action::Grant { session: B }), "{done:?}");
    assert_eq!(story.standing(session(1, 2)), Standing::Waiting);
}

#[test]
fn a_pool_without_turns_seats_everybody_at_once() {
    let mps = PoolTerms {
        turns: false,
        ..PoolTerms::default()
    };
    let vms = [
        Terms::at(Level::Low),
        Terms::at(Level::High),
        Terms::at(Level::Low),
    ];
    let mut story = story(Config::default(), &[mps], &vms);
    for session in [A, B, C] {
        story.want(session);
        assert_eq!(story.done(), [Action::Grant { session }]);
    }
    story.until(5 * S);
    assert_eq!(story.done(), []);
    // With turns again there is one of a level, and a guest below the other.
    story.event(Event::PoolSet {
        pool: 0,
        terms: PoolTerms::default(),
    });
    assert_eq!(story.done(), [Action::AskBack { session: C }]);
}

fn reached(actions: &[Action]) -> Vec<(Limit, Rung, bool)> {
    let reached = actions.iter().filter_map(|action| match action {
        Action::Reached {
            limit, rung, climbed, ..
        } => Some((*limit, *rung, *climbed)),
        _ => None,
    });
    reached.collect()
}

#[test]
fn a_kernel_without_end_is_warned_about_lowered_stopped_and_ended() {
    let limited = Terms {
        kernel_max_us: Some(2 * S),
        ..Terms::at(Level::High)
    };
    let mut story = story(Config::default(), &[], &[limited]);
    story.want(A);
    story.done();
    story.until(S - 1);
    assert_eq!(reached(&story.done()), []);
    story.until(S);
    assert_eq!(reached(&story.done()), [(Limit::Kernel, Rung::Warn, true)]);
    // A kernel that ends begins anew.
    story.event(Event::Progress { session: A });
    story.until(2 * S - 1);
    assert_eq!(reached(&story.done()), []);
    story.until(2 * S + 500 * MS);
    assert_eq!(
        reached(&story.done()),
        [
            (Limit::Kernel, Rung::Warn, true),
            (Limit::Kernel, Rung::Deprioritise, true)
        ]
    );
    assert_eq!(story.core.level(1), Some(Level::Low));
    story.until(3 * S);
    let actions = story.done();
    assert_eq!(reached(&actions), [(Limit::Kernel, Rung::Stop, true)]);
    let [.., Action::AskBack { session: A }, Action::Stop { sequence, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    story.refuse_taking(A);
    story.event(Event::OrderDone {
        session: A,
        sequence,
        ok: true,
    });
    // Nobody else is there, so it goes on at once, for a quarter of the limit.
    let actions = story.done();
    assert!(
        matches!(actions[..], [.., Action::Resume { session: A, .. }]),
        "{actions:?}"
    );
    story.until(3 * S + 500 * MS);
    let actions = story.done();
    assert_eq!(reached(&actions), [(Limit::Kernel, Rung::End, true)]);
    assert!(actions.contains(&Action::EndSession {
        session: A,
        limit: Limit::Kernel
    }));
}

#[test]
fn what_a_pool_leaves_out_of_its_ladder_is_only_reported() {
    let limited = Terms {
        kernel_max_us: Some(S),
        ..Terms::at(Level::Low)
    };
    let quiet = PoolTerms {
        rungs: Rungs::default(),
        ..PoolTerms::default()
    };
    let mut story = story(Config::default(), &[quiet], &[limited]);
    story.want(A);
    story.done();
    story.until(10 * S);
    let actions = story.done();
    let rungs = [Rung::Warn, Rung::Deprioritise, Rung::Stop, Rung::End];
    assert_eq!(reached(&actions), rungs.map(|rung| (Limit::Kernel, rung, false)));
    let only = |action: &Action| matches!(action, Action::Reached { .. } | Action::TakeIfIdle { .. });
    assert!(actions.iter().all(only), "{actions:?}");
    assert_eq!(story.standing(A), Standing::Running);
}

#[test]
fn a_turn_by_weight_ends_at_its_limit_however_far_behind_others_it_is() {
    let limited = Terms {
        turn_max_us: Some(100 * MS),
        ..Terms::at(Level::Medium)
    };
    let vms = [limited, Terms::at(Level::Medium)];
    let mut story = story(Config::default(), &[pool(Policy::Weighted)], &vms);
    story.want(A);
    story.until(S);
    story.done();
    story.want(B);
    assert_eq!(story.done(), [Action::AskBack { session: A }]);
    story.release(A);
    assert_eq!(story.done(), [Action::Grant { session: B }]);
}

#[test]
fn one_that_works_a_little_all_the_time_saves_up_no_claim() {
    let vms = [Terms::at(Level::Medium); 2];
    let mut story = story(Config::default(), &[pool(Policy::Weighted)], &vms);
    story.want(B);
    for round in 1..=100 {
        story.until(round * 50 * MS);
        story.want(A);
        story.release(B);
        story.want(B);
        story.until(round * 50 * MS + 100);
        story.release(A);
        assert_eq!(story.standing(B), Standing::Running);
    }
    story.until(5_050 * MS);
    story.want(A);
    story.release(B);
    story.want(B);
    story.done();
    story.until(5_250 * MS);
    assert_eq!(story.done().first(), Some(&Action::AskBack { session: A }));
}

#[test]
fn a_rung_that_a_pool_gets_is_climbed_by_what_is_beyond_it_already() {
    let limited = Terms {
        kernel_max_us: Some(S),
        ..Terms::at(Level::Low)
    };
    let quiet = PoolTerms {
        rungs: Rungs::default(),
        ..PoolTerms::default()
    };
    let mut story = story(Config::default(), &[quiet], &[limited]);
    story.want(A);
    story.until(2 * S);
    story.done();
    let terms = PoolTerms {
        rungs: Rungs::from_iter([Rung::End]),
        ..quiet
    };
    story.event(Event::PoolSet { pool: 0, terms });
    let limit = Limit::Kernel;
    assert!(story.done().contains(&Action::EndSession { session: A, limit }));
    story.event(Event::PoolSet { pool: 0, terms });
    assert_eq!(reached(&story.done()), [], "nothing changed");
}

#[test]
fn time_in_which_it_is_stopped_is_not_a_kernels() {
    let limited = Terms {
        kernel_max_us: Some(S),
        aging_us: u64::MAX,
        ..Terms::at(Level::Low)
    };
    let mut story = story(Config::default(), &[], &[limited, Terms::at(Level::Low)]);
    story.want(A);
    story.want(B);
    story.until(20 * MS);
    story.refuse_taking(A);
    story.until(30 * MS);
    let actions = story.done();
    let Some(Action::Stop { sequence, .. }) = actions.last() else {
        panic!("{actions:?}")
    };
    let sequence = *sequence;
    story.event(Event::OrderDone {
        session: A,
        sequence,
        ok: true,
    });
    story.until(40 * S);
    assert_eq!(reached(&story.actions), []);
    assert_eq!(story.standing(B), Standing::Asked);
}

#[test]
fn a_turn_that_is_not_given_back_within_its_limit_is_a_violation() {
    let limited = Terms {
        turn_max_us: Some(100 * MS),
        ..Terms::at(Level::Low)
    };
    let mut story = story(Config::default(), &[pool(Policy::Fifo)], &[limited, limited]);
    story.want(A);
    story.done();
    story.until(S);
    assert_eq!(story.done(), [], "nobody waits");
    story.want(B);
    assert_eq!(story.done(), [Action::AskBack { session: A }]);
    story.refuse_taking(A);
    story.until(S + 10 * MS);
    let actions = story.done();
    assert_eq!(reached(&actions), [(Limit::Turn, Rung::Stop, true)]);
    assert!(
        matches!(actions[..], [.., Action::Stop { session: A, .. }]),
        "{actions:?}"
    );
}

#[test]
fn one_that_cannot_be_stopped_is_ended_when_its_turn_is_much_too_long() {
    let limited = Terms {
        turn_max_us: Some(100 * MS),
        ..Terms::at(Level::Low)
    };
    let mut story = story(Config::default(), &[], &[limited, limited]);
    story.event(Event::Proved {
        session: A,
        slices: false,
        stop: false,
    });
    story.want(A);
    story.want(B);
    story.until(20 * MS);
    story.refuse_taking(A);
    story.until(200 * MS);
    let actions = story.done();
    assert_eq!(
        reached(&actions),
        [(Limit::Turn, Rung::Stop, false), (Limit::Turn, Rung::End, true)]
    );
    assert!(actions.contains(&Action::EndSession {
        session: A,
        limit: Limit::Turn
    }));
}

#[test]
fn a_session_without_work_is_suspended_once_and_comes_back_with_its_next_wish() {
    let terms = Terms {
        suspend_after_us: Some(S),
        ..Terms::at(Level::Low)
    };
    let mut story = story(Config::default(), &[], &[terms]);
    story.until(S - 1);
    assert_eq!(story.done(), []);
    story.until(5 * S);
    assert_eq!(story.done(), [Action::Suspend { session: A }]);
    story.event(Event::Suspended {
        session: A,
        suspended: true,
    });
    assert_eq!(story.standing(A), Standing::Suspended);
    story.until(9 * S);
    assert_eq!(story.done(), []);
    story.want(A);
    assert_eq!(story.done(), [Action::Grant { session: A }]);
    story.until(20 * S);
    assert!(
        !story.done().contains(&Action::Suspend { session: A }),
        "it works"
    );
    story.release(A);
    story.until(22 * S);
    assert_eq!(story.done(), [Action::Suspend { session: A }]);
    // It refuses: it is asked again after the same time.
    story.event(Event::Suspended {
        session: A,
        suspended: false,
    });
    story.until(24 * S);
    assert_eq!(story.done(), [Action::Suspend { session: A }]);
}

/// A low VM works, and a high one makes calls so long apart, over and over.
fn calls(story: &mut Story, calls: u32, apart_us: u64) {
    for _ in 0..calls {
        story.event(Event::BusySeen { session: B });
        story.until(story.now + 100);
        story.event(Event::Progress { session: B });
        story.event(Event::IdleSeen {
            session: B,
            idle_us: 0,
        });
        story.until(story.now + apart_us);
    }
}

#[test]
fn a_burst_of_short_calls_stops_those_below_until_it_is_over() {
    let vms = [Terms::at(Level::Low), Terms::at(Level::High)];
    let mut story = story(Config::default(), &[], &vms);
    story.want(A);
    story.want(B);
    story.event(Event::IdleSeen {
        session: B,
        idle_us: 0,
    });
    story.done();
    // Now and then is no burst.
    calls(&mut story, 20, 10 * MS);
    assert_eq!(story.done(), []);
    calls(&mut story, 8, 200);
    let actions = story.done();
    assert!(
        matches!(actions[..], [Action::AskBack { session: A }]),
        "{actions:?}"
    );
    story.refuse_taking(A);
    let actions = story.done();
    let [Action::Stop { sequence, .. }] = actions[..] else {
        panic!("at once: {actions:?}")
    };
    story.event(Event::OrderDone {
        session: A,
        sequence,
        ok: true,
    });
    calls(&mut story, 20, 200);
    assert_eq!(story.done(), []);
    // Over.
    story.until(story.now + 2 * MS);
    let actions = story.done();
    assert!(
        matches!(actions[..], [Action::Resume { session: A, .. }]),
        "{actions:?}"
    );
    // The next time it is known from its first call.
    story.until(story.now + 50 * MS);
    story.event(Event::BusySeen { session: B });
    let actions = story.done();
    assert!(
        matches!(actions[..], [Action::Stop { session: A, .. }]),
        "{actions:?}"
    );
}

#[test]
fn a_burst_without_end_lets_those_below_in_again() {
    let vms = [Terms::at(Level::Low), Terms::at(Level::High)];
    let mut story = story(Config::default(), &[], &vms);
    story.want(A);
    story.want(B);
    story.event(Event::IdleSeen {
        session: B,
        idle_us: 0,
    });
    calls(&mut story, 8, 200);
    story.refuse_taking(A);
    let stop = story.actions.iter().find_map(|action| match action {
        Action::Stop { sequence, .. } => Some(*sequence),
        _ => None,
    });
    story.event(Event::OrderDone {
        session: A,
        sequence: stop.unwrap(),
        ok: true,
    });
    story.done();
    calls(&mut story, 300, 200);
    let actions = story.done();
    assert!(
        matches!(actions[..], [Action::Resume { session: A, .. }, ..]),
        "{actions:?}"
    );
}

#[test]
fn a_capped_vm_waits_for_its_share_and_its_gpu_is_not_idle_for_it() {
    let capped = Terms {
        share_max: Some(100),
        ..Terms::at(Level::High)
    };
    let mut story = story(Config::default(), &[], &[capped, Terms::at(Level::Low)]);
    story.want(A);
    story.until(23 * MS);
    assert_eq!(
        story.done(),
        [Action::Grant { session: A }, Action::AskBack { session: A }]
    );
    story.refuse_taking(A);
    story.release(A);
    story.want(A);
    assert_eq!(story.standing(A), Standing::Waiting);
    assert!(story.core.is_spent(1));
    story.want(B);
    assert_eq!(story.done(), [Action::Grant { session: B }]);
    story.until(S);
    let actions = story.done();
    assert!(actions.contains(&Action::Grant { session: A }), "{actions:?}");
    story.event(Event::Tick);
    assert_eq!(story.core.busy_ns(0), S * 1_000);
}

#[test]
fn a_gang_of_a_shared_pool_is_not_starved_by_vms_of_one_gpu() {
    let mut busy = Busy::new(Config::default(), 100);
    busy.pool(0, PoolTerms::default());
    busy.pool(1, PoolTerms::default());
    let of = |pool| Terms {
        pool,
        aging_us: u64::MAX,
        ..Terms::at(Level::Medium)
    };
    busy.vm(1, of(0), &[0]);
    busy.vm(2, of(0), &[1]);
    busy.vm(3, of(1), &[0]);
    busy.vm(4, of(1), &[0, 1]);
    busy.until(10 * S);
    for vm in 1..=4 {
        assert!(busy.used_us(vm) > S, "VM {vm}: {}", busy.used_us(vm));
        assert!(
            busy.longest_wait[&vm] < 500 * MS,
            "VM {vm}: {:?}",
            busy.longest_wait
        );
    }
}

#[test]
fn a_turn_found_after_a_restart_goes_on_under_every_policy() {
    for policy in [Policy::Priority, Policy::Weighted, Policy::Fifo] {
        let mut story = Story::empty(Config::default());
        story.event(Event::PoolSet {
            pool: 0,
            terms: pool(policy),
        });
        story.set(1, Terms::at(Level::Low));
        story.event(Event::Attached {
            session: A,
            gpus: GpuSet::from_iter([0]),
            found: Found::Held,
        });
        story.actions.clear();
        story.until(10 * MS);
        assert_eq!(story.standing(A), Standing::Running, "{policy:?}");
        story.release(A);
        assert_eq!(story.ended().0, End::Released);
    }
}
