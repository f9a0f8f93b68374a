//! Short stories, to the microsecond.

use crate::story::{A, B, C, Story, session};
use vgpu_sched_core::{Action, Charge, Config, End, Event, GpuSet, Level, Session, Standing, Terms};

#[test]
fn a_turn_ends_with_its_quantum_and_only_if_somebody_waits() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
    story.want(A);
    assert_eq!(story.done(), [Action::Grant { session: A }]);
    story.until(500_000);
    assert_eq!(story.done(), []);
    // The quantum is long over.
    story.want(B);
    assert_eq!(story.done(), [Action::AskBack { session: A }]);
    story.refuse_taking(A);
    story.release(A);
    assert_eq!(story.done(), [Action::Grant { session: B }]);
    story.want(A);
    story.until(519_999);
    assert_eq!(story.done(), []);
    story.until(520_000);
    assert_eq!(story.done(), [Action::AskBack { session: B }]);
}

#[test]
fn a_turn_lasts_as_many_quanta_as_the_vm_weighs() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
    let weighing = |weight| Terms {
        weight,
        ..Terms::at(Level::Low)
    };
    story.set(1, weighing(3));
    story.want(A);
    story.want(B);
    story.done();
    story.until(59_999);
    assert_eq!(story.done(), []);
    story.until(60_000);
    assert_eq!(story.done(), [Action::AskBack { session: A }]);
    story.refuse_taking(A);
    story.release(A);
    assert_eq!(story.done(), [Action::Grant { session: B }]);
    story.want(A);
    story.until(80_000);
    assert_eq!(story.done(), [Action::AskBack { session: B }]);
    story.refuse_taking(B);
    story.release(B);
    story.want(B);
    assert_eq!(story.done(), [Action::Grant { session: A }]);
    // It counts from when it is changed, also for a turn that has begun.
    story.until(90_000);
    story.set(1, weighing(1));
    story.until(99_999);
    assert_eq!(story.done(), []);
    story.until(100_000);
    assert_eq!(story.done(), [Action::AskBack { session: A }]);
}

#[test]
fn each_vm_ages_by_its_own_time() {
    let mut story = Story::empty(Config::default());
    // Two that hold a GPU each, and one that waits behind each of them.
    for (vm, gpu, aging_us) in [(1, 0, 1), (2, 1, 1), (3, 0, 10_000), (4, 1, 15_000)] {
        story.add(vm, Level::Low, &[gpu]);
        let terms = Terms {
            aging_us,
            ..Terms::at(Level::Low)
        };
        story.set(vm, terms);
        story.want(session(vm, 1));
    }
    for (at, first, second) in [
        (9_999, Level::Low, Level::Low),
        (10_000, Level::Medium, Level::Low),
        (14_999, Level::Medium, Level::Low),
        (15_000, Level::Medium, Level::Medium),
    ] {
        story.until(at);
        let levels = (story.core.level(3).unwrap(), story.core.level(4).unwrap());
        assert_eq!(levels, (first, second), "at {at} us");
    }
}

#[test]
fn the_sessions_of_a_vm_share_its_depth() {
    let mut story = Story::empty(Config::default());
    let deep = |depth| Terms {
        depth,
        ..Terms::at(Level::Low)
    };
    let windows = |story: &mut Story| -> Vec<(u32, Option<u32>)> {
        let actions = std::mem::take(&mut story.actions);
        actions
            .into_iter()
            .filter_map(|action| match action {
                Action::SetWindow { session, depth, .. } => Some((session.number, depth)),
                _ => None,
            })
            .collect()
    };
    story.set(1, deep(Some(10)));
    story.attach(A, &[0]);
    assert_eq!(windows(&mut story), [(1, Some(10))]);
    story.attach(session(1, 2), &[0]);
    story.attach(session(1, 3), &[0]);
    assert_eq!(
        windows(&mut story),
        [
            (1, Some(5)),
            (2, Some(5)),
            (1, Some(3)),
            (2, Some(3)),
            (3, Some(3))
        ]
    );
    story.event(Event::Gone { session: A });
    assert_eq!(windows(&mut story), [(2, Some(5)), (3, Some(5))]);
    story.set(1, deep(Some(1)));
    assert_eq!(windows(&mut story), [(2, Some(1)), (3, Some(1))]);
    story.set(1, deep(None));
    assert_eq!(windows(&mut story), [(2, None), (3, None)]);
    story.set(1, deep(None));
    assert_eq!(windows(&mut story), []);
}

#[test]
fn a_turn_is_the_vms_whichever_of_its_sessions_hold_it() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
    let later = session(1, 2);
    story.attach(later, &[0]);
    story.want(A);
    story.want(B);
    story.until(10_000);
    story.want(later);
    story.until(15_000);
    story.release(A);
    assert_eq!(story.standing(later), Standing::Running);
    story.done();
    story.until(20_000);
    assert_eq!(story.done(), [Action::AskBack { session: later }]);
}

#[test]
fn an_idle_holder_is_taken_off_at_once_if_somebody_waits() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
    story.want(A);
    story.want(B);
    story.done();
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 0,
    });
    assert_eq!(story.done(), [Action::TakeIfIdle { session: A }]);
    // It was quicker, and goes on.
    story.refuse_taking(A);
    assert_eq!((story.done(), story.standing(A)), (vec![], Standing::Running));
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
        [Action::TakeIfIdle { session: A }, Action::Grant { session: B }]
    );
}

#[test]
fn a_wish_that_comes_before_the_release_is_not_lost() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
    story.want(A);
    story.want(B);
    story.until(20_000);
    story.refuse_taking(A);
    story.want(A);
    story.release(A);
    assert_eq!(
        (story.standing(A), story.standing(B)),
        (Standing::Waiting, Standing::Running)
    );
    // The same for one that was idle and is taken.
    story.event(Event::IdleSeen {
        session: B,
        idle_us: 0,
    });
    story.want(B);
    story.event(Event::TakeResult {
        session: B,
        taken: true,
    });
    assert_eq!(
        (story.standing(A), story.standing(B)),
        (Standing::Running, Standing::Waiting)
    );
}

#[test]
fn a_high_vm_that_works_now_and_then_does_not_throw_the_low_ones_about() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::High)]);
    story.attach(session(1, 2), &[0]);
    story.want(A);
    story.want(session(1, 2));
    story.want(B);
    let asked = session(1, 2);
    assert!(story.done().contains(&Action::AskBack { session: asked }));
    story.refuse_taking(asked);
    story.release(asked);
    for round in 1..=50 {
        story.until(round * 10_000);
        story.event(Event::BusySeen { session: B });
        story.now += 50;
        story.event(Event::IdleSeen {
            session: B,
            idle_us: 0,
        });
    }
    assert_eq!(
        story.done(),
        [],
        "one of them runs all the time, and nothing was said"
    );
    // The other one comes; the high VM has been idle since 500,050.
    story.want(asked);
    story.until(500_051);
    story.until(600_049);
    let granted = story
        .done()
        .iter()
        .any(|action| matches!(action, Action::Grant { .. }));
    assert!(!granted, "the high one is still active");
    // The first, whose quantum as the guest is over, has not given back yet, but need not have any more.
    story.until(600_050);
    assert_eq!(
        (story.standing(A), story.standing(asked)),
        (Standing::Asked, Standing::Running)
    );
}

#[test]
fn the_first_that_waits_rises_with_its_slice_and_falls_back() {
    let vms = [
        (1, Level::High),
        (2, Level::Medium),
        (3, Level::Low),
        (4, Level::Low),
    ];
    let mut story = Story::new(Config::default(), &vms);
    for vm in [3, 4] {
        story.set(
            vm,
            Terms {
                aging_us: 50_000,
                ..Terms::at(Level::Low)
            },
        );
    }
    let late = session(4, 1);
    story.want(A);
    story.want(B);
    story.now += 1;
    story.want(C);
    story.want(late);
    assert_eq!(
        story.done(),
        [Action::Grant { session: A }, Action::Grant { session: B }]
    );
    story.until(50_000);
    assert_eq!(story.core.level(3), Some(Level::Low));
    story.until(50_001);
    assert_eq!(story.core.level(3), Some(Level::Medium));
    let actions = story.done();
    assert!(
        matches!(
            actions[0],
            Action::SetSlice {
                session: C,
                slice_us: 2_000,
                ..
            }
        ),
        "{actions:?}"
    );
    assert_eq!(actions[1..], [Action::AskBack { session: B }]);
    // Medium does not give back; it rises further. The one behind it stays.
    story.refuse_taking(B);
    story.until(100_001);
    assert_eq!(
        (story.core.level(3), story.core.level(4)),
        (Some(Level::High), Some(Level::Low))
    );
    let actions = story.done();
    assert!(
        matches!(
            actions[0],
            Action::SetSlice {
                session: C,
                slice_us: 20_000,
                ..
            }
        ),
        "{actions:?}"
    );
    assert_eq!(actions[1..], [Action::AskBack { session: A }]);
    story.refuse_taking(A);
    story.release(A);
    assert_eq!(story.done(), [Action::Grant { session: C }]);
    story.now += 10;
    story.release(C);
    assert_eq!(story.core.level(3), Some(Level::Low));
    assert!(matches!(
        story.done()[0],
        Action::SetSlice {
            session: C,
            slice_us: 200,
            ..
        }
    ));
    // Now the one behind it is first, from when it was seated.
    story.until(150_000);
    assert_eq!(story.core.level(4), Some(Level::Low));
    story.until(150_001);
    assert_eq!(story.core.level(4), Some(Level::Medium));
}

/// A session drains just when the stop takes effect; a thread of it asks for the next turn before the last one is said to be
/// given back, before or after the stop is confirmed. It gets that turn.
#[test]
fn a_wish_that_comes_while_it_is_stopped_is_not_lost() {
    for (confirmed_first, resumed_first) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
        story.event(Event::Proved {
            session: A,
            slices: true,
            stop: true,
        });
        story.want(A);
        story.want(B);
        story.until(29_999);
        story.refuse_taking(A);
        story.done();
        story.until(30_000);
        let [Action::Stop { sequence, .. }] = story.done()[..] else {
            panic!()
        };
        let done = Event::OrderDone {
            session: A,
            sequence,
            ok: true,
        };
        if confirmed_first {
            story.event(done);
            story.want(A);
        } else {
            story.want(A);
            story.event(done);
        }
        assert_eq!(story.standing(A), Standing::Stopped);
        if resumed_first {
            // B is through, so A is to go on with what it had.
            story.release(B);
            assert_eq!(story.standing(A), Standing::Asked);
        }
        story.release(A);
        if !resumed_first {
            assert_eq!(story.standing(A), Standing::Waiting);
            story.release(B);
        }
        assert_eq!(
            story.standing(A),
            Standing::Running,
            "{confirmed_first} {resumed_first}"
        );
    }
}

#[test]
fn one_that_does_not_give_back_is_stopped_kept_stopped_and_resumed() {
    let config = Config {
        deadman_us: 100_000,
        ..Config::default()
    };
    let mut story = Story::new(config, &[(1, Level::Low), (2, Level::Low)]);
    story.event(Event::Proved {
        session: A,
        slices: true,
        stop: true,
    });
    story.want(A);
    story.want(B);
    story.until(29_999);
    story.refuse_taking(A);
    story.done();
    story.until(30_000);
    let [
        Action::Stop {
            session: A,
            sequence,
            deadman_us: 100_000,
        },
    ] = story.done()[..]
    else {
        panic!()
    };
    assert_eq!(story.standing(B), Standing::Waiting);
    story.actions.clear();
    story.now = 31_000;
    story.event(Event::OrderDone {
        session: A,
        sequence,
        ok: true,
    });
    // A second of B's follows; A's 31 ms were charged.
    assert_eq!(
        story.ended(),
        (
            End::Stopped,
            Charge {
                ns: 31_000_000,
                estimated_ns: 0
            }
        )
    );
    story.until(79_999);
    story.done();
    story.until(80_000);
    assert!(
        matches!(story.done()[..], [Action::Stop { session: A, .. }]),
        "before the dead-man ends"
    );
    story.refuse_taking(B);
    story.release(B);
    assert!(matches!(story.done()[..], [Action::Resume { session: A, .. }]));
    assert_eq!(story.standing(A), Standing::Asked);
    story.now += 5_000;
    story.release(A);
    let ended = story.ended();
    assert_eq!(
        ended,
        (
            End::Yielded,
            Charge {
                ns: 5_000_000,
                estimated_ns: 0
            }
        ),
        "nothing while stopped"
    );
}

#[test]
fn a_stop_that_failed_is_undone_and_not_tried_again() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::Low)]);
    story.event(Event::Proved {
        session: A,
        slices: true,
        stop: true,
    });
    story.want(A);
    story.want(B);
    story.until(30_000);
    story.refuse_taking(A);
    let Some(Action::Stop { sequence, .. }) = story.done().pop() else {
        panic!()
    };
    story.event(Event::OrderDone {
        session: A,
        sequence,
        ok: false,
    });
    assert!(matches!(story.done()[..], [Action::Resume { session: A, .. }]));
    story.until(10_000_000);
    assert!(
        !story
            .done()
            .iter()
            .any(|action| matches!(action, Action::Stop { .. }))
    );
}

#[test]
fn idle_time_is_not_charged_and_shared_time_is_split_by_slices() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low), (2, Level::High)]);
    for session in [A, B] {
        story.event(Event::Proved {
            session,
            slices: true,
            stop: false,
        });
    }
    story.want(A);
    story.now = 1_000;
    story.want(B);
    // 1 ms alone; 1.01 ms with B: 10 us by 200 : 20,000; then B is idle for 1 ms.
    story.now = 2_010;
    story.event(Event::IdleSeen {
        session: B,
        idle_us: 0,
    });
    story.now = 3_010;
    story.done();
    story.release(A);
    assert_eq!(
        story.ended(),
        (
            End::Released,
            Charge {
                ns: 2_010_000,
                estimated_ns: 10_000
            }
        )
    );
    story.now = 4_010;
    story.event(Event::BusySeen { session: B });
    story.now = 4_110;
    assert_eq!(
        story.core.usage(2),
        Some((
            1,
            Charge {
                ns: 1_000_000,
                estimated_ns: 1_000_000
            }
        ))
    );
    story.release(B);
    assert_eq!(
        story.ended(),
        (
            End::Released,
            Charge {
                ns: 1_100_000,
                estimated_ns: 1_000_000
            }
        )
    );
}

/// Turns that ended: who held them for how long, and what was charged.
fn ends(story: &mut Story) -> Vec<(Session, End, u64, Charge)> {
    let actions = std::mem::take(&mut story.actions);
    let ends = actions.into_iter().filter_map(|action| match action {
        Action::Ended {
            session,
            end,
            held_us,
            charge,
            ..
        } => Some((session, end, held_us, charge)),
        _ => None,
    });
    ends.collect()
}

/// Nobody looks at a session that has the GPU for itself. When it ends, or is looked at, it says since when it was idle.
#[test]
fn idle_time_that_nobody_saw_is_not_charged_either() {
    let charge = |ns| Charge { ns, estimated_ns: 0 };
    let mut story = Story::new(Config::default(), &[(1, Level::Low)]);
    let second = session(1, 2);
    story.attach(second, &[0]);
    story.want(A);
    story.until(5_000_000);
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 4_000_000,
    });
    assert_eq!(story.core.usage(1), Some((1, charge(1_000_000_000))));
    assert_eq!(story.core.busy_ns(0), 1_000_000_000);
    // It was a look: it is not watched for longer.
    assert!(story.actions.contains(&Action::TakeIfIdle { session: A }));
    story.event(Event::Gone { session: A });
    assert_eq!(
        ends(&mut story),
        [(A, End::Gone, 1_000_000, charge(1_000_000_000))]
    );

    // It is no more than it was charged for this turn, whatever the executor says.
    story.want(second);
    story.until(6_000_000);
    story.event(Event::IdleSeen {
        session: second,
        idle_us: u64::MAX,
    });
    story.until(6_500_000);
    story.event(Event::Gone { session: second });
    assert_eq!(ends(&mut story), [(second, End::Gone, 0, charge(0))]);
    assert_eq!(story.core.usage(1), Some((2, charge(1_000_000_000))));
}

/// Two sessions of a VM share a GPU, and neither is watched: the time in which one of them was idle is the other's.
#[test]
fn idle_time_that_nobody_saw_is_charged_to_who_worked_meanwhile() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low)]);
    let second = session(1, 2);
    story.attach(second, &[0]);
    story.want(A);
    story.want(second);
    story.until(10_000_000);
    // A worked for 4 s, the other one for 7 s.
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 6_000_000,
    });
    story.event(Event::IdleSeen {
        session: second,
        idle_us: 3_000_000,
    });
    assert_eq!(story.core.busy_ns(0), 7_000_000_000);
    story.event(Event::Gone { session: A });
    story.event(Event::Gone { session: second });
    let charge = |ns, estimated_ns| Charge { ns, estimated_ns };
    assert_eq!(
        ends(&mut story),
        [
            (A, End::Gone, 4_000_000, charge(2_000_000_000, 2_000_000_000)),
            (second, End::Gone, 7_000_000, charge(5_000_000_000, 2_000_000_000))
        ]
    );
}

/// Thirds of microseconds are no whole nanoseconds.
#[test]
fn no_more_is_charged_anew_than_there_was() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low)]);
    story.want(A);
    for number in 2..=3 {
        story.attach(session(1, number), &[0]);
        story.want(session(1, number));
    }
    story.until(15_216);
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 15_203,
    });
    let charged_ns = story.core.usage(1).unwrap().1.ns;
    assert!((15_215_990..=15_216_000).contains(&charged_ns), "{charged_ns}");
}

/// The books are right back to when somebody else began or ceased to be charged.
#[test]
fn what_was_charged_is_counted_anew_back_to_the_last_change() {
    let mut story = Story::new(Config::default(), &[(1, Level::Low)]);
    let second = session(1, 2);
    story.attach(second, &[0]);
    story.want(A);
    story.until(1_000_000);
    story.want(second);
    story.until(2_000_000);
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 1_500_000,
    });
    story.event(Event::Gone { session: A });
    story.event(Event::Gone { session: second });
    let ends = ends(&mut story);
    let charged: Vec<_> = ends
        .iter()
        .map(|(_, _, held_us, charge)| (*held_us, charge.ns))
        .collect();
    assert_eq!(charged, [(1_000_000, 1_000_000_000), (1_000_000, 1_000_000_000)]);
}

#[test]
fn a_turn_that_nobody_waits_for_is_looked_at_and_taken_when_idle() {
    let config = Config {
        look_us: 1_000_000,
        ..Config::default()
    };
    let mut story = Story::new(config, &[(1, Level::Low)]);
    story.want(A);
    story.until(999_999);
    let said = |story: &mut Story| {
        let actions = std::mem::take(&mut story.actions);
        let contended = actions.into_iter().filter_map(|action| match action {
            Action::SetContended { contended, .. } => Some(contended),
            _ => None,
        });
        contended.collect::<Vec<_>>()
    };
    assert_eq!(said(&mut story), []);
    story.until(1_500_000);
    assert_eq!(said(&mut story), [true, false], "it works, and is left alone");
    story.until(2_100_000);
    story.event(Event::IdleSeen {
        session: A,
        idle_us: 0,
    });
    let looked = story.core.deadline().unwrap();
    story.until(looked + 2_000_000);
    assert!(story.actions.contains(&Action::TakeIfIdle { session: A }));
}

#[test]
fn a_gang_is_not_overtaken_and_its_gpus_do_not_lie_idle_for_it() {
    let mut story = Story::empty(Config::default());
    for (vm, gpus) in [(1, &[0][..]), (2, &[1][..]), (3, &[0, 1][..]), (4, &[0][..])] {
        story.add(vm, Level::Low, gpus);
    }
    story.done();
    let late = session(4, 1);
    story.want(A);
    story.now = 10_000;
    story.want(B);
    story.want(C);
    story.want(late);
    assert_eq!(
        story.done(),
        [Action::Grant { session: A }, Action::Grant { session: B }]
    );
    // A's quantum is over, but the gang cannot have B's GPU yet: A goes on, and nobody overtakes the gang.
    story.until(29_999);
    assert_eq!(story.done(), []);
    story.until(30_000);
    assert_eq!(
        story.done(),
        [Action::AskBack { session: A }, Action::AskBack { session: B }]
    );
    for holder in [A, B] {
        story.refuse_taking(holder);
    }
    story.release(A);
    assert_eq!(story.done(), []);
    story.release(B);
    assert_eq!(story.done(), [Action::Grant { session: C }]);
    story.now += 1;
    story.release(C);
    assert_eq!(story.done(), [Action::Grant { session: late }]);
    assert_eq!(GpuSet::from_iter([0, 1]).iter().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_shorter_hold_counts_for_what_was_active_before_it_was_set() {
    let config = Config::default();
    let vms = [(1, Level::High), (2, Level::Medium), (3, Level::Low)];
    let mut story = Story::new(config, &vms);
    for session in [A, B, C] {
        story.want(session);
    }
    story.release(A);
    story.until(config.active_hold_us / 2);
    assert_eq!(
        story.standing(C),
        Standing::Waiting,
        "a second guest below the high one"
    );
    story.event(Event::Configured(Config {
        active_hold_us: config.active_hold_us / 4,
        ..config
    }));
    assert_eq!(story.standing(C), Standing::Running);
}

#[test]
fn a_stop_is_repeated_by_the_time_with_which_it_was_ordered() {
    let config = Config::default();
    let mut story = Story::new(config, &[(1, Level::Low), (2, Level::Low)]);
    story.event(Event::Proved {
        session: A,
        slices: true,
        stop: true,
    });
    story.want(A);
    story.want(B);
    story.until(20_000);
    story.refuse_taking(A);
    story.until(30_000);
    let actions = story.done();
    let Some(Action::Stop { sequence, .. }) = actions.last() else {
        panic!("{actions:?}")
    };
    story.event(Event::Configured(Config {
        deadman_us: 10 * config.deadman_us,
        ..config
    }));
    story.event(Event::OrderDone {
        session: A,
        sequence: *sequence,
        ok: true,
    });
    story.done();
    story.until(30_000 + config.deadman_us / 2);
    let again = |action: &Action| matches!(action, Action::Stop { session: A, .. });
    assert!(story.done().iter().any(again));
}
