//! What holds whatever happens; the checks are the simulation's.
mod sim;

use proptest::prelude::*;
use sim::{Page, Sim};
use vgpu_sched_core::{Config, Event, GpuSet, Level, Session, Standing, Terms};

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
    Set(u32, Terms),
    Pass(u64),
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Low), Just(Level::Medium), Just(Level::High)]
}

fn terms() -> impl Strategy<Value = Terms> {
    let depth = proptest::option::of(1..9u32);
    (level(), 1..5u32, 20_000..1_000_000u64, depth).prop_map(|(level, weight, aging_us, depth)| Terms {
        weight,
        aging_us,
        depth,
        ..Terms::at(level)
    })
}

fn vms() -> impl Strategy<Value = Vec<(Terms, GpuSet)>> {
    let gpus = prop_oneof![
        4 => Just(GpuSet::from_iter([0])),
        1 => Just(GpuSet::from_iter([1])),
        1 => Just(GpuSet::from_iter([0, 1])),
    ];
    proptest::collection::vec((terms(), gpus), 4)
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
        1 => (1..=4u32, terms()).prop_map(|(vm, terms)| Op::Set(vm, terms)),
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
        Op::Set(vm, terms) => sim.step(Event::VmSet { vm, terms }),
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
        vms in proptest::collection::vec((level(), 1..4u32, 50_000..300_000u64), 2..6),
        sessions in 1..3u32,
        drain_us in 0..5_000u64,
    ) {
        let config = Config::default();
        let terms: Vec<_> = vms
            .iter()
            .map(|(level, weight, aging_us)| Terms { weight: *weight, aging_us: *aging_us, ..Terms::at(*level) })
            .collect();
        let sim = busy(config, &terms, sessions, drain_us, 3_000_000);
        let heaviest = u64::from(terms.iter().map(|terms| terms.weight).max().unwrap_or(1));
        let high = terms.iter().filter(|terms| terms.level == Level::High).count() as u64;
        // The sessions of a VM give back one after the other at worst; the host is looked at every 2 ms.
        let turn = config.quantum_us.high * heaviest + u64::from(sessions) * (drain_us + 2_000);
        let bound = |own: &Terms| -> u64 {
            let before = terms.iter().filter(|terms| terms.level == own.level);
            before.map(|terms| 2 * terms.aging_us + (high + 2) * turn).sum()
        };
        for (vm, own) in (1..).zip(&terms) {
            let waited = sim.longest_wait_of(vm);
            prop_assert!(waited <= bound(own), "VM {vm}: {waited} > {}", bound(own));
        }
    }

    /// VMs of one level that are always busy get GPU time in proportion to their weights, whatever else runs.
    #[test]
    fn busy_vms_get_time_by_weight(
        weights in proptest::collection::vec(1..6u32, 2..5), level in level(), sessions in 1..3u32
    ) {
        let terms: Vec<_> = weights
            .iter()
            // So that nobody rises above the others.
            .map(|weight| Terms { weight: *weight, aging_us: u64::MAX, ..Terms::at(level) })
            .collect();
        let config = Config::default();
        let round = config.quantum_us.of(level) * u64::from(weights.iter().sum::<u32>());
        // The host is looked at every 2 ms, so each turn ends up to so much late.
        let sim = busy(config, &terms, sessions, 0, 20 * round);
        let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let times: Vec<u64> = (1..=weights.len() as u32).map(|vm| sim.core.usage(vm).unwrap().1.ns / 1000).collect();
        let total: u64 = times.iter().sum();
        for (time, weight) in times.iter().zip(&weights) {
            let fair = total * u64::from(*weight) / all;
            let late = 2 * 20 * 2_000 + round / all * u64::from(*weight);
            prop_assert!(time.abs_diff(fair) <= fair / 20 + late, "{times:?} for {weights:?}");
        }
    }
}

/// VMs on one GPU that always have work, for so long; each session gives back so long after it was asked to.
fn busy(config: Config, terms: &[Terms], sessions: u32, drain_us: u64, until_us: u64) -> Sim {
    let gpu = GpuSet::from_iter([0]);
    let vms: Vec<_> = terms.iter().map(|terms| (*terms, gpu)).collect();
    let mut sim = Sim::new(config, &vms);
    for vm in 1..=terms.len() as u32 {
        for number in 1..=sessions {
            sim.attach(Session { vm, number }, Page::None);
        }
    }
    while sim.now < until_us {
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
    sim
}
