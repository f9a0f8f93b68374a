//! `vgpud` over its real sockets and pages, with backends and executors played by the test.
#[allow(dead_code)]
mod common;

use common::{Daemon, Exec, ask, map, page_memfd, socket_pair, wanted};
use rustix::process::Signal;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{Answer, Change, FromExec, Priority, Refusal, Request, ToExec, VERSION};
use vgpu_sched_api::turn::{State, Word};

fn refusal(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

/// A quantum that ends at once, and one that does not end during a test.
const SHORT: &str = "quantum_ms = { low = 1, medium = 1, high = 1 }";
const LONG: &str = "quantum_ms = { low = 3600000, medium = 3600000, high = 3600000 }";

#[test]
fn a_session_gets_its_turn_and_keeps_it_while_nobody_waits() {
    let daemon = Daemon::with_gpus(2, &map(&[(1, "low")], ""));
    let status = daemon.status();
    assert_eq!(status.gpus.len(), 2);
    assert_eq!(status.gpus[1].pools, ["A"]);
    let backend = daemon.backend(1);
    let Answer::Gpus { uuids, mps: false } = backend.ask(&Request::OpenSession {
        session: 3,
        pid: 1,
        program: "a".to_owned(),
        gpus: Vec::new(),
    }) else {
        panic!()
    };
    assert_eq!(
        uuids,
        status.gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>()
    );

    let exec = backend.session(3);
    assert_eq!(exec.slice(), 200);
    exec.take_turn();
    assert_eq!(
        exec.word(),
        Word {
            generation: 1,
            state: State::Held
        }
    );
    assert_eq!(daemon.vm(1).sessions[0].state, "running");
    assert!(exec.change(State::Held, State::None));
    exec.say(&FromExec::Released);
    exec.take_turn();
    assert_eq!(exec.word().generation, 2);
    let turns = daemon.turns();
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[0].end.as_deref(), Some("released"));
    assert_eq!(
        (turns[1].number, turns[1].held_us, turns[1].vm, turns[1].session),
        (2, None, 1, 3)
    );
    assert_eq!(turns[1].gpu, uuids.join(","));
    assert_eq!(backend.ask(&Request::CloseSession { session: 3 }), Answer::Ok);
    assert_eq!(exec.state(), State::None);
    assert_eq!(daemon.vm(1).turns, 2);
    assert!(daemon.vm(1).gpu_microseconds > 0);
}

/// Nobody waits for it, so nobody watches it; at its end its page says since when it had nothing to do.
#[test]
fn a_session_that_ends_is_not_charged_for_having_been_idle_before() {
    const PART: Duration = Duration::from_millis(300);
    let daemon = Daemon::start(&map(&[(1, "low")], SHORT));
    let backend = daemon.backend(1);
    let exec = backend.session(1);
    exec.take_turn();
    let taken = Instant::now();
    std::thread::sleep(PART);
    exec.rest();
    let worked_us = taken.elapsed().as_micros() as u64;
    std::thread::sleep(2 * PART);
    assert_eq!(backend.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    let part_us = PART.as_micros() as u64;
    for us in [daemon.turns()[0].held_us.unwrap(), daemon.vm(1).gpu_microseconds] {
        assert!(
            (part_us..worked_us + part_us).contains(&us),
            "{us} us of {worked_us} us"
        );
    }
}

#[test]
fn within_a_level_the_turn_goes_round() {
    let vms = [(1, "low"), (2, "low")];
    let daemon = Daemon::start(&map(&vms, SHORT));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second) = (one.session(1), two.session(1));
    first.take_turn();
    second.want();
    first.until_contended();
    // Its quantum ends, and it gives back; only then the other one has it.
    first.until(State::Yield);
    assert_eq!(second.state(), State::None);
    daemon.load(&map(&vms, LONG));
    first.give_back();
    second.until(State::Held);
    // An idle holder loses it before its quantum ends, without a word.
    first.want();
    second.until_contended();
    assert!(second.change(State::Held, State::Idle));
    first.until(State::Held);
    assert_eq!(second.state(), State::None);
    let ends: Vec<_> = daemon.turns().into_iter().map(|turn| turn.end).collect();
    assert_eq!(ends, [Some("yielded".to_owned()), Some("taken".to_owned()), None]);
}

#[test]
fn a_high_vm_is_let_in_beside_a_low_one_and_leaves_it_one_guest() {
    let vms = [(1, "low"), (2, "high")];
    let daemon = Daemon::start(&map(&vms, LONG));
    let (low, high) = (daemon.backend(1), daemon.backend(2));
    let (a, b, h) = (low.session(1), low.session(2), high.session(1));
    assert_eq!((a.slice(), h.slice()), (200, 20_000));
    a.take_turn();
    b.take_turn();
    h.take_turn();
    // Two busy low sessions below an active high one: one of them must go, the later one.
    b.until(State::Yield);
    assert_eq!((a.state(), h.state()), (State::Held, State::Held));
    b.give_back();
    b.want();
    // They take turns at being the guest.
    daemon.load(&map(&vms, SHORT));
    a.until(State::Yield);
    daemon.load(&map(&vms, LONG));
    a.give_back();
    b.until(State::Held);
    a.want();
    // The high one is idle for long enough: both are admitted.
    h.until_contended();
    assert!(h.change(State::Held, State::Idle));
    a.until(State::Held);
    assert_eq!(b.state(), State::Held);
    // It works again, without asking, and one of them must go again.
    assert!(h.change(State::Idle, State::Held));
    a.until_either(&b, State::Yield);
    assert_eq!(h.state(), State::Held);
}

#[test]
fn a_dead_or_closed_holder_makes_room() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], ""));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (mut first, second) = (one.session(1), two.session(1));
    first.take_turn();
    second.want();
    first.kill();
    second.until(State::Held);
    first.wait_hung_up();
    assert_eq!(daemon.vm(1).sessions, []);

    let third = one.session(2);
    third.want();
    assert_eq!(two.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    third.until(State::Held);
    assert_eq!(second.state(), State::None, "its turn was taken back");
}

#[test]
fn a_new_backend_takes_over_what_a_dead_one_left() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let dead = daemon.backend(1);
    let left = dead.session(1);
    left.take_turn();
    drop(dead);
    let new = daemon.next_backend(1);
    let exec = new.session(1);
    left.wait_hung_up();
    assert_eq!(left.state(), State::None, "what is left runs nothing any longer");
    exec.take_turn();
    assert_eq!(daemon.vm(1).sessions.len(), 1);
}

#[test]
fn a_restarted_scheduler_adopts_the_holders() {
    let mut daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], SHORT));
    let (mut first, mut second) = {
        let (one, two) = (daemon.backend(1), daemon.backend(2));
        let (first, second) = (one.session(1), two.session(1));
        first.take_turn();
        (first, second)
    };
    assert_eq!(daemon.end(Signal::KILL), None);
    assert_eq!(first.state(), State::Held);
    daemon.restart();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    one.attach(1, &mut first);
    two.attach(1, &mut second);
    daemon.until_logged(
        &format!(
            "(pid 101 in the VM), executor {}, in a turn that goes on",
            first.pid()
        ),
        0,
    );
    assert_eq!(daemon.vm(1).sessions[0].state, "running");
    second.want();
    first.until(State::Yield);
    assert_eq!(first.word().generation, 1);
    assert_eq!(second.state(), State::None);
    first.give_back();
    second.until(State::Held);
    // One whose executor ended meanwhile has none any longer.
    assert_eq!(daemon.end(Signal::KILL), None);
    second.kill();
    daemon.restart();
    daemon.backend(2).attach(1, &mut second);
    daemon.until_logged("whose executor has ended or cannot be seen from here", 0);
}

#[test]
fn what_a_vm_used_survives_a_clean_end() {
    let mut daemon = Daemon::start(&map(&[(1, "low")], ""));
    {
        let backend = daemon.backend(1);
        backend.session(1).take_turn();
    }
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    assert!(!daemon.socket_path().exists());
    daemon.restart();
    let _backend = daemon.backend(1);
    let vm = daemon.vm(1);
    assert_eq!(vm.turns, 1);
    assert!(vm.gpu_microseconds > 0);
}

#[test]
fn a_bad_map_changes_nothing_and_a_good_one_running_vms() {
    let good = map(&[(1, "low"), (2, "low")], "");
    let daemon = Daemon::start(&good);
    let one = daemon.backend(1);
    let exec = one.session(1);
    assert_eq!(exec.slice(), 200);
    daemon.write_map(&good.replacen("\"low\"", "\"hihg\"", 1));
    let Answer::Refused {
        why: Refusal::BadConfig,
        message,
    } = daemon.ask(&wanted(Change::Reload {}))
    else {
        panic!()
    };
    assert!(
        message.contains("line 8") && message.contains("`high`"),
        "{message}"
    );
    assert_eq!(daemon.vm(1).priority, Priority::Low);
    // A GPU that was never there is no GPU of ours.
    daemon.write_map(&good.replace("\"all\"", "\"GPU-00000000-0000-0000-0000-000000000001\""));
    assert_eq!(
        refusal(daemon.ask(&wanted(Change::Reload {}))),
        Refusal::BadConfig
    );

    daemon.write_map(&map(&[(1, "high")], ""));
    daemon.change(Change::Reload {});
    assert_eq!(exec.slice(), 20_000);
    assert_eq!(daemon.vm(1).priority, Priority::High);
    let two = daemon.connect();
    assert_eq!(
        refusal(ask(
            &two,
            &Request::Hello {
                version: VERSION,
                vm: 2
            },
            &[]
        )),
        Refusal::NotMapped
    );
    // The same by signal.
    daemon.write_map(&map(&[(1, "medium")], ""));
    daemon.signal(Signal::HUP);
    assert_eq!(exec.slice(), 2_000);
}

#[test]
fn one_that_does_not_give_back_is_stopped_and_resumed() {
    let daemon = Daemon::start(&map(&[(1, "low"), (2, "low")], "deadman_ms = 60000"));
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second) = (one.session(1), two.session(1));
    first.say(&FromExec::Proved {
        slices: true,
        stop: true,
        stop_us: 600,
        resume_us: 300,
        suspend: true,
    });
    first.take_turn();
    second.want();
    first.until(State::Yield);
    let ToExec::Stop {
        sequence,
        deadman_ms: 60_000,
    } = first.stop_or_resume()
    else {
        panic!()
    };
    assert_eq!(second.state(), State::None);
    first.say(&FromExec::Done {
        sequence,
        ok: true,
        microseconds: 600,
    });
    second.until(State::Held);
    assert_eq!(daemon.vm(1).sessions[0].state, "stopped");
    assert_eq!(first.state(), State::Yield);
    second.give_back();
    assert!(matches!(first.stop_or_resume(), ToExec::Resume { .. }));
    first.give_back();
    first.take_turn();
    let turns = daemon.turns();
    let of_first: Vec<_> = turns
        .iter()
        .filter(|turn| turn.vm == 1)
        .map(|turn| turn.end.as_deref())
        .collect();
    assert_eq!(of_first, [Some("stopped"), Some("yielded"), None]);
}

/// Executors that work, rest and give back as fast as they can: nothing is lost, and two VMs of one level are never
/// at work at the same time.
#[test]
fn no_two_vms_of_a_level_work_at_once() {
    const PIECES: u32 = 300;
    let vms = [(1, "low"), (2, "low"), (3, "low"), (4, "high")];
    let daemon = Daemon::start(&map(&vms, SHORT));
    let backends: Vec<_> = vms.iter().map(|(vm, _)| (*vm, daemon.backend(*vm))).collect();
    let execs: Vec<_> = backends
        .iter()
        .flat_map(|(vm, backend)| [(*vm, backend.session(1)), (*vm, backend.session(2))])
        .collect();
    let at_work = [const { AtomicU32::new(0) }; 5];
    std::thread::scope(|scope| {
        for (vm, exec) in &execs {
            let at_work = &at_work;
            scope.spawn(move || {
                exec.work(PIECES, || {
                    at_work[*vm as usize].fetch_add(1, SeqCst);
                    for low in (1..=3).filter(|low| *vm <= 3 && low != vm) {
                        assert_eq!(at_work[low as usize].load(SeqCst), 0, "VM {low} beside VM {vm}");
                    }
                    at_work[*vm as usize].fetch_sub(1, SeqCst);
                });
            });
        }
    });
    for (vm, _) in vms {
        let status = daemon.vm(vm);
        assert!(status.turns > 0);
        assert!(
            status.sessions.iter().all(|session| session.state == "out"),
            "{status:?}"
        );
    }
    assert!(daemon.turns().iter().all(|turn| turn.end.is_some()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let daemon = Daemon::start(&map(&[(1, "low")], ""));
    let stranger = daemon.connect();
    assert_eq!(
        refusal(ask(
            &stranger,
            &Request::Hello {
                version: VERSION + 1,
                vm: 1
            },
            &[]
        )),
        Refusal::Invalid
    );
    assert_eq!(
        refusal(ask(
            &stranger,
            &Request::Hello {
                version: VERSION,
                vm: 2
            },
            &[]
        )),
        Refusal::NotMapped
    );
    let open = Request::OpenSession {
        session: 1,
        pid: 1,
        program: String::new(),
        gpus: Vec::new(),
    };
    assert_eq!(refusal(ask(&stranger, &open, &[])), Refusal::Invalid);

    let backend = daemon.backend(1);
    assert_eq!(
        refusal(ask(
            &stranger,
            &Request::Hello {
                version: VERSION,
                vm: 1
            },
            &[]
        )),
        Refusal::Duplicate
    );
    // One that is gone may be closed: its end may have been seen first.
    assert_eq!(backend.ask(&Request::CloseSession { session: 1 }), Answer::Ok);
    let _exec = backend.session(1);
    assert_eq!(refusal(backend.ask(&open)), Refusal::Duplicate);

    let other = Exec::new();
    let (socket, _theirs) = socket_pair();
    let page = page_memfd();
    for fds in [
        vec![],
        vec![&page, &socket],
        vec![&socket, &socket, &other.pidfd],
        vec![&page, &page, &other.pidfd],
        vec![&page, &socket, &socket],
    ] {
        assert_eq!(refusal(backend.attach_with(2, &fds)), Refusal::Invalid, "{fds:?}");
    }
    assert_eq!(
        backend.attach_with(2, &[&page, &socket, &other.pidfd]),
        Answer::Ok
    );

    // A backend that is gone makes room for the next.
    drop(backend);
    daemon.next_backend(1);

    let output = daemon.command().output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("listens there already"));
}
