//! What holds whatever happens; the checks are the simulation's.
mod sim;

use proptest::prelude::*;
use sim::{Page, Sim};
use vgpu_sched_core::{Config, Event, GpuSet, Level, Session, Standing};

#[derive(Clone, Debug)]
enum Op {
    Attach(Session, Page),
    Gone(Session),
    Work(Session),
    Rest(Session),
    GiveBack(Session),
    GiveBackLate(Session),
    Release(Session),
    Prove(Session, bool),
    AnswerStop(Session, bool),
    SetLevel(u32, Level),
    Pass(u64),
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Low), Just(Level::Medium), Just(Level::High)]
}

fn vms() -> impl Strategy<Value = Vec<(Level, GpuSet)>> {
    let gpus = prop_oneof![
        4 => Just(GpuSet::from_iter([0])),
        1 => Just(GpuSet::from_iter([1])),
        1 => Just(GpuSet::from_iter([0, 1])),
    ];
    proptest::collection::vec((level(), gpus), 4)
}

fn session() -> impl Strategy<Value = Session> {
    (1..=4u32, 1..=3u32).prop_map(|(vm, number)| Session { vm, number })
}

fn op() -> impl Strategy<Value = Op> {
    let page = prop_oneof![
        20 => Just(Page::None), 1 => Just(Page::Held), 1 => Just(Page::Idle), 1 => Just(Page::Yield)
    ];
    prop_oneof![
        2 => (session(), page).prop_map(|(session, page)| Op::Attach(session, page)),
        1 => session().prop_map(Op::Gone),
        8 => session().prop_map(Op::Work),
        4 => session().prop_map(Op::Rest),
        4 => session().prop_map(Op::GiveBack),
        2 => session().prop_map(Op::GiveBackLate),
        1 => session().prop_map(Op::Release),
        2 => (session(), any::<bool>()).prop_map(|(session, stop)| Op::Prove(session, stop)),
        4 => (session(), prop::bool::weighted(0.9)).prop_map(|(session, ok)| Op::AnswerStop(session, ok)),
        1 => (1..=4u32, level()).prop_map(|(vm, level)| Op::SetLevel(vm, level)),
        4 => (0..60_000u64).prop_map(Op::Pass),
        1 => (0..1_500_000u64).prop_map(Op::Pass),
    ]
}

fn apply(sim: &mut Sim, op: Op) {
    match op {
        Op::Attach(session, page) => {
            if !sim.sessions.contains_key(&session) {
                sim.attach(session, page);
            }
        }
        Op::Gone(session) => sim.gone(session),
        Op::Work(session) => sim.work(session),
        Op::Rest(session) => sim.rest(session),
        Op::GiveBack(session) => sim.give_back(session),
        Op::GiveBackLate(session) => sim.give_back_late(session),
        Op::Release(session) => sim.release(session),
        Op::Prove(session, stop) => sim.step(Event::Proved {
            session,
            slices: stop,
            stop,
        }),
        Op::AnswerStop(session, ok) => sim.answer_stop(session, ok),
        Op::SetLevel(vm, level) => sim.step(Event::VmSet { vm, level }),
        Op::Pass(us) => sim.pass(us),
    }
}

/// Everybody does what is asked of them at once, and has no new work.
fn drain(sim: &mut Sim) {
    for session in sim.sessions.keys().copied().collect::<Vec<_>>() {
        sim.answer_stop(session, true);
        sim.give_back(session);
        sim.release(session);
        if sim.sessions[&session].page == Page::Idle {
            sim.work(session);
            sim.release(session);
        }
    }
    sim.pass(100_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_and_every_wish_is_granted_in_the_end(
        vms in vms(), ops in proptest::collection::vec(op(), 1..300)
    ) {
        let mut sim = Sim::new(Config::default(), &vms);
        for number in 1..=2 {
            for vm in 1..=4 {
                sim.attach(Session { vm, number }, Page::None);
            }
        }
        for op in ops {
            apply(&mut sim, op);
        }
        for _ in 0..100 {
            drain(&mut sim);
        }
        for session in sim.sessions.keys() {
            prop_assert_eq!(sim.core.standing(*session), Some(Standing::Out), "{:?}", session);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// VMs that are always busy and give back late: nobody waits longer than the bound in the core's documentation.
    #[test]
    fn nobody_starves(
        levels in proptest::collection::vec(level(), 2..6),
        sessions in 1..3u32,
        drain_us in 0..5_000u64,
    ) {
        let gpu = GpuSet::from_iter([0]);
        let config = Config { aging_us: 200_000, ..Config::default() };
        let vms: Vec<_> = levels.iter().map(|level| (*level, gpu)).collect();
        let mut sim = Sim::new(config, &vms);
        for vm in 1..=levels.len() as u32 {
            for number in 1..=sessions {
                sim.attach(Session { vm, number }, Page::None);
            }
        }
        while sim.now < 3_000_000 {
            for session in sim.sessions.keys().copied().collect::<Vec<_>>() {
                sim.work(session);
                let real = &sim.sessions[&session];
                if real.page == Page::Yield && sim.now >= real.asked_at + drain_us {
                    sim.give_back(session);
                    sim.work(session);
                }
            }
            sim.pass(2_000);
        }
        let before = levels.len() as u64 - 1;
        let high = levels.iter().filter(|level| **level == Level::High).count() as u64;
        // The sessions of a VM give back one after the other at worst; the host is looked at every 2 ms.
        let turn = config.quantum_us.high + u64::from(sessions) * (drain_us + 2_000);
        let bound = (before + 1) * (2 * config.aging_us + (high + 2) * turn);
        prop_assert!(sim.longest_wait <= bound, "{} > {bound}", sim.longest_wait);
        let waiting = sim.queue.values().map(|(_, since)| sim.now - since).max().unwrap_or(0);
        prop_assert!(waiting <= bound, "{waiting} > {bound}");
    }
}
