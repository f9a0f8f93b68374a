//! What VMs used: counters that never fall, and hours that add up to them.
#[allow(dead_code)]
mod common;

use common::{Daemon, Exec, map};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{
    Answer, Change, Edit, FromExec, Period, Refusal, Request, UsageRecord, Used, VmSettings, WantedUsage,
};
use vgpu_sched_api::turn::State;

fn wanted(by: Period) -> WantedUsage {
    WantedUsage {
        vms: None,
        pool: None,
        from_s: 0,
        to_s: u64::MAX,
        by,
        next: None,
    }
}

/// All parts.
fn usage(daemon: &Daemon, wanted: WantedUsage) -> Vec<UsageRecord> {
    let (mut all, mut wanted) = (Vec::new(), wanted);
    loop {
        match daemon.ask(&Request::Usage(wanted.clone())) {
            Answer::Usage { usage, next } => {
                all.extend(usage);
                if next.is_none() {
                    return all;
                }
                wanted.next = next;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// GPU time, turns, calls, violations and refused allocations.
type Sum = (u64, u64, u64, u64, u64);

/// What the hours of a VM add up to, by pool.
fn sums(daemon: &Daemon, vm: u32) -> BTreeMap<String, Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let records = usage(daemon, wanted(Period::Hour));
    for record in records.into_iter().filter(|record| record.vm == vm) {
        let sum = sums.entry(record.pool).or_default();
        sum.0 += record.used.gpu_microseconds;
        sum.1 += record.used.turns;
        sum.2 += record.used.calls;
        sum.3 += record.used.violations;
        sum.4 += record.used.refused;
    }
    sums
}

fn sum(daemon: &Daemon, vm: u32) -> Sum {
    let sums = sums(daemon, vm).into_values();
    sums.fold(Sum::default(), |a, b| {
        (a.0 + b.0, a.1 + b.1, a.2 + b.2, a.3 + b.3, a.4 + b.4)
    })
}

fn told(daemon: &Daemon, vm: u32) -> Sum {
    let stats = daemon.vm_stats(vm);
    (
        stats.gpu_microseconds,
        stats.turns,
        stats.calls,
        stats.violations,
        stats.refused,
    )
}

fn edit(daemon: &Daemon, edit: Edit) {
    daemon.change(Change::Edit { edits: vec![edit] });
}

fn register(daemon: &Daemon, vm: u32, pool: &str) {
    edit(
        daemon,
        Edit::RegisterVms {
            vms: vm.to_string(),
            pool: pool.to_owned(),
            settings: VmSettings::default(),
            move_from_other: true,
        },
    );
}

/// Gives its turn back unasked.
fn leave(exec: &Exec) {
    assert!(exec.change(State::Held, State::None));
    exec.say(&FromExec::Released);
}

/// Waits until a VM has more GPU time than it had.
fn until_more(daemon: &Daemon, vm: u32, than_us: u64) -> u64 {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let now_us = daemon.vm(vm).gpu_microseconds;
        if now_us > than_us {
            return now_us;
        }
        assert!(Instant::now() < limit, "no more than {than_us} us");
    }
}

#[test]
fn what_was_told_is_never_less_later() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let mut exec = daemon.backend(1).session(1);
    exec.take_turn();
    let mut before = Sum::default();
    for calls in 1..=5 {
        exec.show(calls, 0);
        // Told by a status, and at once after it by a statistic, which is the last before the end.
        let status = until_more(&daemon, 1, before.0);
        let last = told(&daemon, 1);
        assert!(last.0 >= status);
        daemon.end(Signal::KILL);
        daemon.restart();
        let after = told(&daemon, 1);
        assert!(
            after.0 >= last.0 && after.1 >= last.1 && after.2 >= last.2,
            "{after:?} after {last:?}"
        );
        assert_eq!(sum(&daemon, 1).0, after.0);
        before = after;
        daemon.next_backend(1).attach(1, &mut exec);
    }
    assert_eq!(told(&daemon, 1).2, 5);
}

/// What was charged and turns out to have been idle time is not taken back from what was told.
#[test]
fn a_counter_does_not_fall() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.take_turn();
    let before = until_more(&daemon, 1, 0);
    // Idle for as long as it has had its turn, by its word.
    exec.rest_since(1);
    assert_eq!(daemon.vm(1).gpu_microseconds, before);
    assert_eq!(sum(&daemon, 1).0, before);
    assert_eq!(backend.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    assert_eq!(daemon.vm(1).gpu_microseconds, before);
}

#[test]
fn hours_are_what_the_counters_have_grown_by() {
    let mut daemon = Daemon::with_gpus(1, "");
    let gpu = daemon.gpus().remove(0);
    for pool in ["A", "B"] {
        edit(
            &daemon,
            Edit::AssignGpu {
                gpu: gpu.clone(),
                pool: pool.to_owned(),
            },
        );
    }
    register(&daemon, 1, "A");
    let backend = daemon.backend(1);
    let mut exec = backend.session(1);
    exec.take_turn();
    exec.show(7, 0);
    exec.say(&FromExec::Latencies {
        wait: vec![],
        service: vec![],
        total: vec![],
        throttled_us: 0,
        refused: 3,
    });
    let in_a = until_more(&daemon, 1, 0);
    // It goes on there while it is registered elsewhere, and while it is in no pool.
    register(&daemon, 1, "B");
    let in_b = until_more(&daemon, 1, in_a);
    edit(&daemon, Edit::UnregisterVms { vms: "1".to_owned() });
    exec.show(9, 0);
    let limit = Instant::now() + Duration::from_secs(20);
    while sums(&daemon, 1).get("").is_none_or(|sum| sum.0 == 0) {
        assert!(Instant::now() < limit);
    }
    register(&daemon, 1, "A");
    exec.show(20, 0);
    leave(&exec);
    let ended = |daemon: &Daemon| {
        let limit = Instant::now() + Duration::from_secs(20);
        while daemon.vm(1).sessions.iter().any(|session| session.state != "out") {
            assert!(Instant::now() < limit);
        }
    };
    ended(&daemon);
    let all = told(&daemon, 1);
    assert_eq!((all.1, all.2, all.4), (1, 20, 3));
    assert_eq!(sum(&daemon, 1), all);
    let by_pool = sums(&daemon, 1);
    assert_eq!(
        by_pool.keys().map(String::as_str).collect::<Vec<_>>(),
        ["", "A", "B"]
    );
    assert!(by_pool["A"].0 >= in_a && by_pool["B"].0 > 0 && by_pool["A"].0 + by_pool["B"].0 >= in_b);
    assert_eq!((by_pool["A"].1, by_pool["B"].1), (1, 0));

    // It ends in order, and comes again; then it is killed.
    for signal in [Signal::TERM, Signal::KILL] {
        daemon.end(signal);
        daemon.restart();
        assert_eq!(sums(&daemon, 1), by_pool);
        let days = usage(&daemon, wanted(Period::Day));
        assert_eq!(
            days.iter().map(|day| day.used.gpu_microseconds).sum::<u64>(),
            all.0
        );
    }
    daemon.next_backend(1).attach(1, &mut exec);
    exec.take_turn();
    until_more(&daemon, 1, all.0);
    leave(&exec);
    ended(&daemon);
    // Refused allocations are counted since it started.
    let (sum, told) = (sum(&daemon, 1), told(&daemon, 1));
    assert_eq!((sum.0, sum.1, sum.2, sum.4), (told.0, told.1, told.2, 3));

    let of = |wanted: WantedUsage| usage(&daemon, wanted).len();
    let all = usage(&daemon, wanted(Period::Hour)).len();
    let in_b = WantedUsage {
        pool: Some("B".to_owned()),
        ..wanted(Period::Hour)
    };
    assert!(all >= 3 && of(in_b) < all);
    // What nobody knows of has not used nothing: whoever asks has mistaken a name.
    let unknown = |vms: Option<&str>, pool: Option<&str>| {
        let asked = WantedUsage {
            vms: vms.map(str::to_owned),
            pool: pool.map(str::to_owned),
            ..wanted(Period::Hour)
        };
        match daemon.ask(&Request::Usage(asked)) {
            Answer::Refused { why, message } => {
                assert_eq!(why, Refusal::NotFound);
                message
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        unknown(Some("2-7"), None),
        "VMs 2-7: in no pool, and never was started: in pools is 1"
    );
    assert!(unknown(Some("0"), None).starts_with("VM 0: in no pool"));
    assert_eq!(
        unknown(None, Some("nine")),
        "there is no pool nine: there is A, B"
    );
    let gpus = WantedUsage {
        pool: Some("A".to_owned()),
        ..wanted(Period::Hour)
    };
    match daemon.ask(&Request::GpuUsage(gpus)) {
        Answer::Refused { why, .. } => assert_eq!(why, Refusal::Invalid),
        other => panic!("{other:?}"),
    }
    let backwards = WantedUsage {
        to_s: 0,
        ..wanted(Period::Hour)
    };
    match daemon.ask(&Request::Usage(backwards)) {
        Answer::Refused { why, message } => {
            assert_eq!(why, Refusal::Invalid);
            assert!(message.contains("expected"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

/// What waits for the database is told all the same when that takes too long, and what is then written is counted once.
#[test]
fn a_database_that_hangs_holds_no_answer_up() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let exec = daemon.backend(1).session(1);
    exec.take_turn();
    until_more(&daemon, 1, 0);
    let database = rusqlite::Connection::open(daemon.state_dir().join("vgpu.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (mut log, mut before) = (0, 0);
    for _ in 0..2 {
        before = until_more(&daemon, 1, before);
        log = daemon.until_logged("vgpu.db is slow", log).1;
    }
    match daemon.ask(&Request::Usage(wanted(Period::Hour))) {
        Answer::Refused { why, message } => {
            assert_eq!(why, Refusal::Failed);
            assert!(
                message.contains("vgpu.db does not answer within 4 s"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    database.execute_batch("ROLLBACK").unwrap();
    leave(&exec);
    let limit = Instant::now() + Duration::from_secs(20);
    while daemon.vm(1).sessions[0].state != "out" {
        assert!(Instant::now() < limit);
    }
    assert_eq!(sum(&daemon, 1), told(&daemon, 1));
}

/// Memory counts for as long as it is there, also while nobody has a turn.
#[test]
fn memory_is_counted_while_it_is_held() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let exec = daemon.backend(1).session(1);
    let (page, slot) = exec.vm_page();
    page.add_memory(slot, 0, 1 << 30);
    let limit = Instant::now() + Duration::from_secs(20);
    let held = |daemon: &Daemon| -> u64 {
        let records = usage(daemon, wanted(Period::Hour));
        records.iter().map(|record| record.used.memory_byte_seconds).sum()
    };
    // It is entered with what else is.
    exec.show(1, 0);
    while held(&daemon) == 0 {
        assert!(Instant::now() < limit);
        exec.show(daemon.vm(1).calls + 1, 0);
    }
    let seconds = held(&daemon) as f64 / f64::from(1 << 30);
    assert!(seconds <= daemon.stats().uptime_s as f64 + 1.0, "{seconds}");
}

/// What is told of waits and of GPUs is there when it is told, and stays when vgpud is killed.
#[test]
fn waits_and_gpus_are_told_by_hour() {
    let mut daemon = Daemon::with_gpus(2, &map(&[(1, "low"), (2, "low")], ""));
    let exec = daemon.backend(1).session(1);
    exec.take_turn();
    until_more(&daemon, 1, 2_000);
    let before = daemon.stats().gpus;
    exec.say(&FromExec::Latencies {
        wait: vec![(10, 980), (5_000, 20), (7_003, 1)],
        service: vec![],
        total: vec![],
        throttled_us: 0,
        refused: 0,
    });
    leave(&exec);
    let limit = Instant::now() + Duration::from_secs(20);
    while daemon.vm_stats(1).wait.count == 0 || daemon.vm(1).sessions[0].state != "out" {
        assert!(Instant::now() < limit);
    }
    // Of all hours there were meanwhile.
    let told = |daemon: &Daemon| {
        let records = usage(daemon, wanted(Period::Day)).into_iter();
        records.map(|record| record.used).reduce(Used::plus).unwrap()
    };
    let busy = |daemon: &Daemon| match daemon.ask(&Request::GpuUsage(wanted(Period::Hour))) {
        Answer::GpuUsage { gpus, next: None } => {
            let mut busy: BTreeMap<String, u64> = BTreeMap::new();
            for gpu in gpus {
                *busy.entry(gpu.uuid).or_default() += gpu.busy_us;
            }
            busy
        }
        other => panic!("{other:?}"),
    };
    let used = told(&daemon);
    assert_eq!(
        (used.call_waits, used.call_wait_p50_us, used.call_wait_max_us),
        (1_001, 10, 7_003)
    );
    assert!(used.call_wait_p99_us.abs_diff(5_000) <= 50, "{used:?}");
    assert_eq!((used.turns, used.turn_wait_p99_us), (1, used.turn_wait_max_us));
    let stats = daemon.stats().gpus;
    let expected: BTreeMap<String, u64> = stats.into_iter().map(|gpu| (gpu.uuid, gpu.busy_us)).collect();
    assert!(before.iter().all(|gpu| gpu.busy_us > 0), "{before:?}");
    assert_eq!(busy(&daemon), expected);
    daemon.end(Signal::KILL);
    daemon.restart();
    assert_eq!((told(&daemon), busy(&daemon)), (used, expected));
}
