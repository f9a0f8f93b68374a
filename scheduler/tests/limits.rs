//! Limits of the pool map, as `vgpud` and its core hold VMs to them, with executors played by the test.
#[allow(dead_code)]
mod common;

use common::{Daemon, map};
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use vgpu_protocol::result;
use vgpu_sched_api::messages::{
    Answer, Change, Edit, EventKind, EventRecord, FromExec, PoolSettings, Refusal, Request, ToExec,
};
use vgpu_sched_api::turn::State;
use vgpu_sched_api::vm_page::UNLIMITED;

const PROVED: FromExec = FromExec::Proved {
    slices: true,
    stop: true,
    stop_us: 600,
    resume_us: 300,
    suspend: true,
};

/// A pool of all GPUs with one VM, and these keys.
fn pool(keys: &str) -> String {
    format!("[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [1]\n{keys}\n")
}

/// Waits until that has happened to VM 1, and returns what happened until then.
fn until(daemon: &Daemon, last: EventKind) -> Vec<EventRecord> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let events = daemon.events(Some(1));
        if events.iter().any(|event| event.kind == last) {
            return events;
        }
        assert!(Instant::now() < end, "not {last:?} in time: {events:?}");
        std::thread::yield_now();
    }
}

fn kinds(events: &[EventRecord]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}

#[test]
fn a_kernel_that_lasts_too_long_climbs_the_ladder_to_its_end() {
    let mut daemon = Daemon::start(&pool("kernel_ms_max = 200"));
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.say(&PROVED);
    exec.take_turn();
    exec.record("cuLaunchKernel");
    exec.show(1, 1);
    let ToExec::Stop { sequence, .. } = exec.stop_or_resume() else {
        panic!()
    };
    exec.say(&FromExec::Done {
        sequence,
        ok: true,
        microseconds: 600,
    });
    // Nobody else wants the GPU, so it goes on, but not for long.
    assert!(matches!(exec.stop_or_resume(), ToExec::Resume { .. }));
    assert_eq!(exec.until_ended(), result::LAUNCH_TIMEOUT);
    let events = until(&daemon, EventKind::Ended);
    let expected = [
        EventKind::Warned,
        EventKind::Deprioritised,
        EventKind::Stopped,
        EventKind::Ended,
    ];
    assert_eq!(kinds(&events), expected);
    for event in &events {
        assert_eq!((event.vm, event.session), (Some(1), Some(1)));
        assert_eq!(event.gpu.as_deref(), Some(&*daemon.gpus()[0]));
        assert!(event.message.contains("kernel_ms_max = 200"), "{}", event.message);
        assert!(!event.message.contains("only logged"), "{}", event.message);
        let names: Vec<&str> = event.calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["cuLaunchKernel"]);
    }
    // It is one violation, and the VM's for good.
    assert_eq!(daemon.vm(1).violations, 1);
    assert_eq!(daemon.vm_stats(1).stops, 1);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let _backend = daemon.backend(1);
    assert_eq!(daemon.vm(1).violations, 1);
    assert_eq!(kinds(&daemon.events(None)), expected);
}

#[test]
fn what_the_ladder_leaves_out_is_only_logged() {
    let daemon = Daemon::start(&pool("kernel_ms_max = 100\nladder = []\nviolations_max = 1"));
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.say(&PROVED);
    exec.take_turn();
    exec.show(1, 1);
    let events = until(&daemon, EventKind::Ended);
    let expected = [
        EventKind::Warned,
        EventKind::Deprioritised,
        EventKind::Stopped,
        // The quarantine that it would be.
        EventKind::Warned,
        EventKind::Ended,
    ];
    assert_eq!(kinds(&events), expected);
    assert!(
        events.iter().all(|event| event.message.contains("only logged")),
        "{events:?}"
    );
    assert_eq!(exec.state(), State::Held);
    let vm = daemon.vm(1);
    assert_eq!((vm.violations, vm.quarantine), (1, None));
    assert_eq!(vm.sessions[0].state, "running");
}

#[test]
fn what_cannot_be_stopped_is_ended() {
    let daemon = Daemon::start(&pool("kernel_ms_max = 100"));
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.take_turn();
    exec.show(1, 1);
    assert_eq!(exec.until_ended(), result::LAUNCH_TIMEOUT);
    let events = until(&daemon, EventKind::Ended);
    assert!(
        events[2].message.ends_with("only logged: it cannot be stopped"),
        "{events:?}"
    );
}

/// Whose work gets on, and who has none in flight, may go on for longer than the limit.
#[test]
fn work_that_gets_on_is_not_limited() {
    let daemon = Daemon::with_gpus(2, &pool(""));
    let gpus = daemon.gpus();
    let pool = |n: usize| {
        let (name, gpu, vm) = (["A", "B"][n], &gpus[n], n + 1);
        format!("[[pool]]\nname = \"{name}\"\ngpus = [\"{gpu}\"]\nvms = [{vm}]\nkernel_ms_max = 2000\n")
    };
    daemon.load(&(pool(0) + &pool(1)));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (works, rests) = (one.session(1), two.session(1));
    works.take_turn();
    rests.take_turn();
    works.show(1, 1);
    let end = Instant::now() + Duration::from_millis(2600);
    while Instant::now() < end {
        works.progressed();
        std::thread::yield_now();
    }
    assert_eq!((works.state(), rests.state()), (State::Held, State::Held));
    assert_eq!(daemon.events(None), []);
}

#[test]
fn a_vm_that_breaks_its_limits_again_and_again_is_quarantined() {
    let mut daemon = Daemon::start(&pool(
        "kernel_ms_max = 100\nviolations_max = 2\nviolation_window_s = 3600\nquarantine_s = 0",
    ));
    let backend = daemon.backend(1);
    let break_limit = |session: u32| {
        let exec = backend.session(session);
        exec.take_turn();
        exec.show(1, 1);
        exec
    };
    let first = break_limit(1);
    assert_eq!(first.until_ended(), result::LAUNCH_TIMEOUT);
    assert_eq!(backend.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    let bystander = backend.session(2);
    let second = break_limit(3);
    assert_eq!(second.until_ended(), result::UNKNOWN);
    assert_eq!(bystander.until_ended(), result::UNKNOWN);
    let events = until(&daemon, EventKind::Quarantined);
    let message = &events
        .iter()
        .find(|event| event.kind == EventKind::Quarantined)
        .unwrap()
        .message;
    let expected = "quarantined until it is released: 2 violations of its limits within 3600 s";
    assert_eq!(message, expected);
    let vm = daemon.vm(1);
    assert_eq!((vm.violations, vm.quarantine.unwrap().until_s), (2, None));
    daemon.end(Signal::TERM);
    daemon.restart();
    let backend = daemon.backend(1);
    let open = Request::OpenSession {
        session: 4,
        pid: 1,
        program: String::new(),
        gpus: Vec::new(),
    };
    let refused = backend.ask(&open);
    assert!(
        matches!(
            refused,
            Answer::Refused {
                why: Refusal::Quarantined { wait_s: None },
                ..
            }
        ),
        "{refused:?}"
    );
}

#[test]
fn a_turn_that_is_kept_from_others_for_too_long_ends() {
    let vms = [(1, "low"), (2, "low")];
    let daemon = Daemon::start(&map(&vms, "quantum_ms = { low = 1 }\nturn_ms_max = 50"));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (mut keeps, waits) = (one.session(1), two.session(1));
    keeps.take_turn();
    waits.want();
    assert_eq!(keeps.until_ended(), result::LAUNCH_TIMEOUT);
    let events = until(&daemon, EventKind::Ended);
    assert_eq!(kinds(&events), [EventKind::Stopped, EventKind::Ended]);
    assert!(
        events[1].message.contains("turn_ms_max = 50"),
        "{}",
        events[1].message
    );
    keeps.kill();
    waits.until(State::Held);
    assert_eq!((daemon.vm(1).violations, daemon.vm(2).violations), (1, 0));
}

#[test]
fn rates_and_quotas_hold_live_and_after_a_restart() {
    let mut daemon = Daemon::start(&pool("gpu_memory_mib = 3\ncall_rate = 1\ncall_burst = 2"));
    let backend = daemon.backend(1);
    let mut exec = backend.session(1);
    let (page, _) = exec.vm_page();
    assert_eq!(page.quota(), 3 << 20);
    let now = 1_000_000_000_000;
    let taken = || (0..5).filter(|_| page.calls().take(now).is_ok()).count();
    assert_eq!(taken(), 2);
    assert_eq!(page.driver_calls().take(now), Ok(()));
    daemon.load(&pool(
        "[vm.1]\ngpu_memory_mib = 7\ndriver_call_rate = 1\ndriver_call_burst = 1",
    ));
    assert_eq!(page.quota(), 7 << 20);
    assert_eq!(taken(), 5);
    assert_eq!(page.driver_calls().take(now), Ok(()));
    assert!(page.driver_calls().take(now).is_err());
    assert_eq!(daemon.vm(1).limits.gpu_memory_mib, Some(7));
    daemon.load(&pool(""));
    assert_eq!(page.quota(), UNLIMITED);

    daemon.load(&pool("gpu_memory_mib = 5"));
    daemon.end(Signal::KILL);
    daemon.restart();
    let backend = daemon.backend(1);
    backend.attach(1, &mut exec);
    assert_eq!(exec.vm_page().0.quota(), 5 << 20);
}

#[test]
fn a_session_without_work_is_suspended_until_it_has_some() {
    let daemon = Daemon::start(&pool("suspend_after_s = 1"));
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.say(&PROVED);
    while exec.order() != ToExec::Suspend {}
    let say = |suspended| {
        exec.say(&FromExec::Suspended {
            suspended,
            microseconds: 2_000_000,
        });
    };
    say(true);
    let state = |wanted: &str| {
        let end = Instant::now() + Duration::from_secs(20);
        while daemon.vm(1).sessions[0].state != wanted {
            assert!(Instant::now() < end, "not {wanted} in time");
            std::thread::yield_now();
        }
    };
    state("suspended");
    say(false);
    exec.take_turn();
    state("running");
}

/// What is seen of its page is enough to see that a high VM makes call after call.
#[test]
fn a_burst_of_a_high_vm_stops_a_low_one() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "high")], ""));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (low, high) = (one.session(1), two.session(1));
    low.say(&PROVED);
    low.take_turn();
    high.take_turn();
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(SeqCst) {
                high.progressed();
                std::thread::yield_now();
            }
        });
        let order = low.stop_or_resume();
        stopped.store(true, SeqCst);
        assert!(matches!(order, ToExec::Stop { .. }), "{order:?}");
    });
    assert_eq!(high.state(), State::Held);
}

#[test]
fn a_pool_is_treated_as_it_is_set_while_its_vms_work() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "high")], ""));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (low, high) = (one.session(1), two.session(1));
    low.take_turn();
    high.take_turn();
    assert_eq!(low.state(), State::Held, "beside a higher one");
    let edit = Edit::SetPool {
        pool: "A".to_owned(),
        settings: PoolSettings {
            exclusive: Some(true),
            ..PoolSettings::default()
        },
    };
    daemon.change(Change::Edit { edits: vec![edit] });
    low.until(State::Yield);
    assert_eq!(high.state(), State::Held);
}
