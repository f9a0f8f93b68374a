//! What `vgpud` enforces and what it remembers: VM pages, quarantine, the end of sessions, events, statistics, arrivals,
//! probes; and executors that say anything.
#[allow(dead_code)]
mod common;

use common::{Daemon, Exec, map, wanted};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use vgpu_protocol::result;
use vgpu_sched_api::messages::{
    Answer, Change, Edit, EventKind, FromExec, GpuRungs, Priority, Refusal, Request, ToExec,
};
use vgpu_sched_api::turn::State;
use vgpu_sched_api::vm_page::{SLOTS, UNLIMITED};

/// A quantum that ends at once, and one that does not end during a test.
const SHORT: &str = "quantum_ms = { low = 1, medium = 1, high = 1 }";
const LONG: &str = "quantum_ms = { low = 3600000, medium = 3600000, high = 3600000 }";

fn refusal(answer: Answer) -> (Refusal, String) {
    match answer {
        Answer::Refused { why, message } => (why, message),
        other => panic!("{other:?}"),
    }
}

fn quarantine(vms: &str, seconds: Option<u64>) -> Request {
    wanted(Change::Quarantine {
        vms: vms.to_owned(),
        why: "it floods".to_owned(),
        seconds,
    })
}

/// What was changed.
fn lines(answer: Answer) -> Vec<String> {
    match answer {
        Answer::Changed(changed) => changed.changes,
        other => panic!("{other:?}"),
    }
}

fn open(session: u32) -> Request {
    Request::OpenSession {
        session,
        pid: 1,
        program: "test".to_owned(),
        gpus: Vec::new(),
    }
}

/// The kinds of what happened to a VM.
fn kinds(daemon: &Daemon, vm: u32) -> Vec<EventKind> {
    daemon
        .events(Some(vm))
        .into_iter()
        .map(|event| event.kind)
        .collect()
}

/// Waits until the daemon has something to say.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_executors_of_a_vm_share_a_page_and_have_a_slot_each() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (mut first, second, other) = (one.session(1), one.session(2), two.session(1));
    let ((page, a), (same, b), (others, _)) = (first.vm_page(), second.vm_page(), other.vm_page());
    assert_ne!(a, b);
    assert_eq!(page.quota(), UNLIMITED);
    page.add_memory(a, 0, 100);
    same.add_memory(b, 1, 20);
    others.add_memory(0, 0, 7);
    let memory = |daemon: &Daemon| {
        let sessions = daemon.vm(1).sessions;
        let of: Vec<u64> = sessions.iter().map(|session| session.memory).collect();
        (of, daemon.vm_stats(1).memory)
    };
    assert_eq!(memory(&daemon), (vec![100, 20], 120));
    assert_eq!(daemon.vm_stats(2).memory, 7);
    // What a session had is nobody's after its end.
    assert_eq!(one.ask(&Request::CloseSession { session: 2 }), Answer::Ok);
    assert_eq!(memory(&daemon), (vec![100], 100));
    assert_eq!(page.used(1), 0);
    // What executors write need not make sense.
    page.add_memory(a, 1, u64::MAX);
    assert_eq!(memory(&daemon), (vec![u64::MAX], u64::MAX));

    // With a new vgpud comes a new page.
    daemon.end(Signal::KILL);
    daemon.restart();
    let one = daemon.backend(1);
    one.attach(1, &mut first);
    let (page, slot) = first.vm_page();
    assert_eq!((page.used(0), page.used(1)), (0, 0));
    page.add_memory(slot, 0, 5);
    assert_eq!(memory(&daemon), (vec![5], 5));
}

#[test]
fn a_vm_has_as_many_sessions_as_its_page_has_slots() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let backend = daemon.backend(1);
    let sessions: Vec<Exec> = (0..SLOTS as u32).map(|number| backend.session(number)).collect();
    let mut slots: Vec<usize> = sessions.iter().map(|exec| exec.vm_page().1).collect();
    slots.sort_unstable();
    assert!(slots.into_iter().eq(0..SLOTS));
    backend.open(100);
    let exec = Exec::new();
    let (page, (socket, _theirs)) = (common::page_memfd(), common::socket_pair());
    let (why, message) = refusal(backend.attach_with(100, &[&page, &socket, &exec.pidfd]));
    assert_eq!(why, Refusal::Invalid);
    assert!(message.contains("64 sessions"), "{message}");
    assert_eq!(backend.ask(&Request::CloseSession { session: 7 }), Answer::Ok);
    assert_eq!(
        backend.attach_with(100, &[&page, &socket, &exec.pidfd]),
        Answer::Ok
    );
}

#[test]
fn a_quarantined_vm_starts_nothing_until_it_is_released() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second, mut other) = (one.session(1), one.session(2), two.session(1));
    one.open(3);
    first.take_turn();
    lines(daemon.ask(&quarantine("1", None)));
    assert_eq!(first.until_ended(), result::UNKNOWN);
    assert_eq!(second.until_ended(), result::UNKNOWN);
    let is_refused = |answer: Answer| {
        let (why, message) = refusal(answer);
        assert_eq!(why, Refusal::Quarantined { wait_s: None });
        assert!(message.contains("it floods"), "{message}");
    };
    is_refused(one.ask(&open(4)));
    let (page, (socket, _theirs)) = (common::page_memfd(), common::socket_pair());
    is_refused(one.attach_with(3, &[&page, &socket, &other.pidfd]));
    two.open(2);
    let status = daemon.vm(1).quarantine.unwrap();
    assert_eq!((status.why.as_str(), status.until_s), ("it floods", None));
    assert!(status.since_s > 1_700_000_000);

    // It survives vgpud, and so do the numbers of what happened.
    daemon.end(Signal::TERM);
    daemon.restart();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    is_refused(one.ask(&open(4)));
    is_refused(one.attach_with(1, &[&page, &socket, &other.pidfd]));
    two.attach(1, &mut other);
    assert_eq!(daemon.vm(1).quarantine, Some(status));
    let release = |vms: &str| daemon.ask(&wanted(Change::Release { vms: vms.to_owned() }));
    assert_eq!(refusal(release("3-7")).0, Refusal::NotFound);
    assert_eq!(lines(release("2-7")), [""; 0]);
    assert_eq!(lines(release("1-7")), ["VM 1: released"]);
    assert_eq!(daemon.vm(1).quarantine, None);
    one.session(4);
    assert_eq!(kinds(&daemon, 1), [EventKind::Quarantined, EventKind::Released]);
    let events = daemon.events(None);
    assert_eq!(
        events.iter().map(|event| event.number).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(events[0].message, "quarantined until it is released: it floods");
}

#[test]
fn a_vm_stays_quarantined_when_it_is_unregistered_and_is_shown() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "low"), (3, "low")], ""));
    let two = daemon.backend(2);
    let _session = two.session(7);
    lines(daemon.ask(&quarantine("1", None)));
    let edits = vec![Edit::UnregisterVms {
        vms: "1-2".to_owned(),
    }];
    let changes = lines(daemon.ask(&wanted(Change::Edit { edits })));
    for line in [
        "VM 1: stays in quarantine: vgpu-admin release --vm-id 1 ends that",
        "VM 2: its session stays on its GPUs until it ends",
    ] {
        assert!(changes.iter().any(|change| change == line), "{changes:?}");
    }
    assert!(!changes.iter().any(|change| change.contains("VM 2: stays")));
    let shown = || {
        let vms = daemon.status().in_no_pool.into_iter();
        vms.map(|vm| (vm.vm, vm.quarantine.is_some(), vm.sessions.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(), [(1, true, 0), (2, false, 1)]);
    let release = wanted(Change::Release { vms: "1".to_owned() });
    assert_eq!(lines(daemon.ask(&release)), ["VM 1: released"]);
    assert_eq!(shown(), [(2, false, 1)]);
    assert_eq!(two.ask(&Request::CloseSession { session: 7 }), Answer::Ok);
    assert_eq!(shown(), []);
}

/// As where the disk is full. Whoever wants a VM stopped wants that all the same, and is to know what may become of it.
#[test]
fn a_quarantine_that_cannot_be_stored_is_in_force_and_that_is_said() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let database = rusqlite::Connection::open(daemon.state_dir().join("vgpu.db")).unwrap();
    database
        .execute_batch("ALTER TABLE quarantine RENAME TO away")
        .unwrap();
    let told = lines(daemon.ask(&quarantine("1", None)));
    assert_eq!(told[0], "VM 1: quarantined until it is released");
    assert!(
        told[1].starts_with("WARNING: this is in force, but not stored: ")
            && told[1].contains("vgpu.db cannot be written: "),
        "{told:?}"
    );
    assert!(daemon.vm(1).quarantine.is_some());
    let told = lines(daemon.ask(&wanted(Change::Edit {
        edits: vec![Edit::UnregisterVms { vms: "1".to_owned() }],
    })));
    assert!(
        told.last().unwrap().contains("who did it is not stored"),
        "{told:?}"
    );
    database
        .execute_batch("ALTER TABLE away RENAME TO quarantine")
        .unwrap();
    let told = lines(daemon.ask(&wanted(Change::Release { vms: "1".to_owned() })));
    assert_eq!(told, ["VM 1: released"]);
}

/// Of one that nobody knows it is not said that nothing happened.
#[test]
fn events_of_a_vm_that_there_is_not_are_refused() {
    let daemon = Daemon::start(&map(&[(1, "low"), (3, "low")], ""));
    assert_eq!(daemon.events(Some(3)), []);
    let asked = Request::Events { from: 0, vm: Some(2) };
    let (why, message) = refusal(daemon.ask(&asked));
    assert_eq!(why, Refusal::NotFound);
    assert_eq!(
        message,
        "VM 2: in no pool, and never was started: in pools is 1, 3"
    );
    // One that was is known.
    daemon.change(Change::Quarantine {
        vms: "3".to_owned(),
        why: "a test".to_owned(),
        seconds: None,
    });
    for change in [
        Change::Edit {
            edits: vec![Edit::UnregisterVms { vms: "3".to_owned() }],
        },
        Change::Release { vms: "3".to_owned() },
    ] {
        daemon.change(change);
    }
    assert_eq!(daemon.events(Some(3)).len(), 2);
}

#[test]
fn a_quarantine_ends_by_itself() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    lines(daemon.ask(&quarantine("1", Some(1))));
    lines(daemon.ask(&quarantine("2", Some(3600))));
    let one = daemon.backend(1);
    until("released", || (kinds(&daemon, 1).len() == 2).then_some(()));
    assert_eq!(kinds(&daemon, 1), [EventKind::Quarantined, EventKind::Released]);
    one.open(1);
    // Also while vgpud is not there.
    lines(daemon.ask(&quarantine("1", Some(1))));
    daemon.end(Signal::TERM);
    daemon.restart();
    let one = daemon.backend(1);
    until("released", || {
        matches!(one.ask(&open(2)), Answer::Gpus { .. }).then_some(())
    });
    let two = daemon.backend(2);
    let (why, _) = refusal(two.ask(&open(1)));
    let Refusal::Quarantined { wait_s: Some(wait_s) } = why else {
        panic!("{why:?}")
    };
    assert!((3000..=3600).contains(&wait_s), "{wait_s}");
    let status = daemon.vm(2).quarantine.unwrap();
    assert_eq!(status.until_s, Some(status.since_s + 3600));
}

#[test]
fn a_quarantine_that_makes_no_sense_is_refused() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let long = "a".repeat(501);
    for (vms, why, seconds) in [
        ("", "a", 60),
        ("7-1", "a", 60),
        ("0-4294967295", "a", 60),
        ("1", "", 60),
        ("1", "\n", 60),
        ("1", &long, 60),
        ("1", "a", 0),
        ("1", "a", 31_536_001),
        ("1", "a", u64::MAX),
    ] {
        let request = wanted(Change::Quarantine {
            vms: vms.to_owned(),
            why: why.to_owned(),
            seconds: Some(seconds),
        });
        let (refused, message) = refusal(daemon.ask(&request));
        assert_eq!(refused, Refusal::Invalid, "{vms}: {message}");
        assert!(message.contains("expected"), "{message}");
    }
    assert!(daemon.vm(1).quarantine.is_none());
    lines(daemon.ask(&quarantine("1", Some(31_536_000))));
    assert!(daemon.vm(1).quarantine.is_some());
}

#[test]
fn one_that_does_not_end_is_killed() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (mut ends, mut hangs, mut orphan) = (one.session(1), one.session(2), two.session(1));
    drop(two);
    hangs.show(1, 1);
    lines(daemon.ask(&quarantine("1-2", None)));
    assert_eq!(ends.until_ended(), result::UNKNOWN);
    ends.kill();
    // First its backend is told to, which tells the guest.
    let told = Answer::End {
        session: 2,
        code: result::UNKNOWN,
    };
    assert_eq!(one.unasked(), told);
    hangs.until_killed();
    // Without a backend there is nobody to tell.
    orphan.until_killed();
    until("gone", || daemon.vm(1).sessions.is_empty().then_some(()));
    // They did not end by themselves.
    assert_eq!(kinds(&daemon, 1), [EventKind::Quarantined]);
}

#[test]
fn a_session_that_is_lost_with_work_is_told_with_its_last_calls() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let backend = daemon.backend(1);
    let (mut quiet, mut lost) = (backend.session(1), backend.session(2));
    let mut leaving = backend.session(3);
    leaving.take_turn();
    leaving.show(2, 1);
    leaving.say(&FromExec::Leaving);
    leaving.kill();
    quiet.take_turn();
    quiet.record("cuMemAlloc");
    quiet.kill();
    lost.record("cuMemAlloc");
    lost.record("cuLaunchKernel");
    lost.show(2, 1);
    lost.kill();
    until("gone", || daemon.vm(1).sessions.is_empty().then_some(()));
    let check = |daemon: &Daemon| {
        let [event] = &daemon.events(Some(1))[..] else {
            panic!("{:?}", daemon.events(None))
        };
        assert_eq!(
            (event.kind, event.vm, event.session),
            (EventKind::Lost, Some(1), Some(2))
        );
        assert_eq!(event.gpu.as_deref(), Some(&*daemon.gpus()[0]));
        assert!(
            event.message.contains("operations in flight: 1"),
            "{}",
            event.message
        );
        let names: Vec<&str> = event.calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["cuMemAlloc", "cuLaunchKernel"]);
        assert_eq!((event.calls[1].ring, event.calls[1].took_us), (3, None));
        assert!(event.calls[0].before_us >= event.calls[1].before_us);
    };
    check(&daemon);
    daemon.end(Signal::TERM);
    daemon.restart();
    check(&daemon);
    assert!(daemon.events(Some(2)).is_empty());
    let after = daemon.ask(&Request::Events { from: 2, vm: None });
    assert_eq!(
        after,
        Answer::Events {
            events: vec![],
            next: 2
        }
    );
}

#[test]
fn statistics_are_what_executors_and_turns_say() {
    let vms = [(1, "low"), (2, "low")];
    let daemon = Daemon::start(&map(&vms, LONG));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second) = (one.session(1), two.session(1));
    let latencies = |wait: Vec<(u64, u64)>| FromExec::Latencies {
        wait: wait.clone(),
        service: vec![(1000, 1)],
        total: wait,
        throttled_us: 11,
        refused: 2,
    };
    first.say(&latencies((1..=100).map(|us| (us, 10)).collect()));
    first.say(&latencies(vec![(2_000_000, 1)]));
    // Whatever an executor says, it is its own VM's.
    second.say(&latencies(vec![(u64::MAX, u64::MAX); 2000]));
    first.take_turn();
    first.show(3, 2);
    second.want();
    first.until_contended();
    daemon.load(&map(&vms, SHORT));
    first.until(State::Yield);
    assert_eq!(daemon.stats().gpus[0].waiting, 1);
    daemon.load(&map(&vms, LONG));
    first.give_back();
    second.until(State::Held);
    let stats = daemon.stats();
    let of = |vm: u32| stats.vms.iter().find(|other| other.vm == vm).unwrap();
    let (a, b) = (of(1), of(2));
    assert_eq!(
        (a.pool.as_str(), a.wait.count, a.wait.p50, a.wait.p99),
        ("A", 1001, 51, 100)
    );
    assert!(a.wait.max.abs_diff(2_000_000) < 2000 && a.wait.sum == 5050 * 10 + 2_000_000);
    assert_eq!(
        (a.service.count, a.service.sum, a.throttled_us, a.refused),
        (2, 2000, 22, 4)
    );
    assert_eq!((a.turn_wait.count, a.turns, a.calls, a.queued), (1, 1, 3, 2));
    assert_eq!((a.preemptions, a.preemption.count, a.stops), (1, 1, 0));
    assert_eq!((b.preemptions, b.turn_wait.count), (0, 1));
    assert!(b.wait.max < 3_700_000_000 && b.wait.count > 0);
    let gpu = &stats.gpus[0];
    assert_eq!((&gpu.uuid, gpu.switches, gpu.waiting), (&daemon.gpus()[0], 1, 0));
    assert!(gpu.busy_us > 0 && gpu.busy_us >= a.gpu_microseconds);
}

#[test]
fn an_arrival_is_all_that_a_session_did_until_it_had_no_more_work() {
    let vms = [(1, "high"), (2, "high")];
    let daemon = Daemon::start(&map(&vms, LONG));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second) = (one.session(1), two.session(1));
    assert_eq!(daemon.arrivals(0), (vec![], 1));
    first.take_turn();
    second.want();
    first.until_contended();
    daemon.load(&map(&vms, SHORT));
    first.until(State::Yield);
    daemon.load(&map(&vms, LONG));
    // It has more work.
    first.want();
    first.give_back();
    second.until(State::Held);
    second.until_contended();
    assert!(second.change(State::Held, State::Idle));
    first.until(State::Held);
    assert!(first.change(State::Held, State::None));
    first.say(&FromExec::Released);
    let (arrivals, next) = until("two arrivals", || {
        Some(daemon.arrivals(0)).filter(|(arrivals, _)| arrivals.len() == 2)
    });
    assert_eq!(next, 3);
    let [b, a] = &arrivals[..] else { panic!() };
    assert_eq!((b.number, b.vm, b.session), (1, 2, 1));
    assert_eq!((a.number, a.vm, a.session, a.pool.as_str()), (2, 1, 1, "A"));
    assert_eq!(
        (a.priority, a.weight, &a.gpus),
        (Priority::High, 1, &daemon.gpus())
    );
    // Two turns of the one, and one of the other, which waited for the first of these.
    assert_eq!(daemon.turns().len(), 3);
    assert!(a.at_us < b.at_us && b.waited_us > 0 && a.waited_us < b.waited_us);
    let used: u64 = daemon
        .turns()
        .iter()
        .filter(|turn| turn.vm == 1)
        .filter_map(|turn| turn.held_us)
        .sum();
    assert!(a.used_us > 0 && a.used_us <= used, "{a:?}, {used}");
    assert_eq!(daemon.arrivals(2), (vec![a.clone()], 3));
}

fn proved(stop: bool) -> FromExec {
    FromExec::Proved {
        slices: true,
        stop,
        stop_us: 600,
        resume_us: 300,
        suspend: true,
    }
}

#[test]
fn what_was_proved_holds_until_the_driver_is_another_one() {
    let mut daemon = Daemon::with_gpus(2, &map(&[(1, "low")], ""));
    let gpus = daemon.gpus();
    daemon.load(&format!(
        "[[pool]]\nname = \"A\"\ngpus = [\"{}\"]\nvms = [1]\n",
        gpus[0]
    ));
    let unproved = daemon.probe();
    let driver = unproved[0].driver.clone();
    let nothing = |uuid: &str| GpuRungs {
        uuid: uuid.to_owned(),
        driver: driver.clone(),
        ..GpuRungs::default()
    };
    assert_eq!(unproved, [nothing(&gpus[0]), nothing(&gpus[1])]);
    assert!(!driver.is_empty());
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.say(&proved(true));
    let found = until("proved", || {
        Some(daemon.probe()).filter(|gpus| gpus[0].proved_s.is_some())
    });
    let expected = GpuRungs {
        proved_s: found[0].proved_s,
        slices: true,
        stop: true,
        stop_us: 600,
        resume_us: 300,
        suspend: true,
        ..nothing(&gpus[0])
    };
    assert_eq!(found, [expected, nothing(&gpus[1])]);
    daemon.end(Signal::TERM);
    daemon.restart();
    assert_eq!(daemon.probe(), found);
    daemon.end(Signal::TERM);
    let db = rusqlite::Connection::open(daemon.state_dir().join("vgpu.db")).unwrap();
    db.execute("UPDATE rungs SET driver = 'an older one'", [])
        .unwrap();
    drop(db);
    daemon.restart();
    assert_eq!(daemon.probe(), unproved);
}

/// Without channels nothing is done in an executor's place, and a stop that it does not carry out has failed.
#[test]
fn a_stop_that_is_not_carried_out_has_failed() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], "deadman_ms = 60000"));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second) = (one.session(1), two.session(1));
    first.say(&proved(true));
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let channels = |channels: Vec<u32>| FromExec::Channels {
        client: 1,
        subdevices: vec![2],
        channels,
    };
    // None of these is the driver's control node.
    first.say_with(&channels(vec![3]), &[&null]);
    first.say_with(&channels(vec![3; 100]), &[]);
    first.say_with(&channels(vec![3]), &[&first.pidfd, &null]);
    first.take_turn();
    second.want();
    first.until(State::Yield);
    assert!(matches!(first.stop_or_resume(), ToExec::Stop { .. }));
    assert!(matches!(first.stop_or_resume(), ToExec::Resume { .. }));
    assert_eq!(daemon.vm(1).sessions[0].state, "asked");
    assert!(!daemon.probe()[0].stop_by_vgpud);
    first.give_back();
    second.until(State::Held);
}
