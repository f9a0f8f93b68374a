//! Sessions that wish for some of their VM's GPUs, as a program with `CUDA_VISIBLE_DEVICES` does.
#[allow(dead_code)]
mod common;

use common::{Backend, Daemon, map, opening};
use rustix::process::Signal;
use vgpu_sched_api::messages::{Answer, Refusal, Request};
use vgpu_sched_api::turn::State;

const MIB: u64 = 1 << 20;
/// A quantum that does not end during a test.
const LONG: &str = "quantum_ms = { low = 3600000, medium = 3600000, high = 3600000 }";

fn refusal(backend: &Backend, gpus: &[&String]) -> Refusal {
    let gpus: Vec<String> = gpus.iter().map(|gpu| (*gpu).clone()).collect();
    match backend.ask(&opening(77, &gpus)) {
        Answer::Refused { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_gets_what_it_wishes_for_among_its_vms_gpus() {
    let daemon = Daemon::with_gpus(3, &map(&[(1, "low")], ""));
    let gpus = daemon.gpus();
    let pool =
        |name, gpus: &[String], vm| format!("[[pool]]\nname = \"{name}\"\ngpus = {gpus:?}\nvms = [{vm}]\n");
    daemon.load(&(pool("A", &gpus[..2], 1) + &pool("B", &gpus[2..], 2)));
    let backend = daemon.backend(1);
    let swapped = [gpus[1].clone(), gpus[0].clone()];
    assert_eq!(backend.open_with(1, &swapped), swapped);
    let _exec = backend.session_with(2, &gpus[1..2]);
    assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[1..2]);
    // What is told, and what others get, is what the VM has.
    assert_eq!(backend.open(3), gpus[..2]);
    let Answer::VmGpus { gpus: told } = backend.ask(&Request::VmGpus) else {
        panic!()
    };
    let told: Vec<&String> = told.gpus.iter().map(|gpu| &gpu.uuid).collect();
    assert_eq!(told, [&gpus[0], &gpus[1]]);

    let nonsense = "GPU-\n".to_owned();
    for wish in [
        &[&gpus[2]][..],
        &[&gpus[0], &gpus[2]],
        &[&gpus[0], &gpus[0]],
        &[&nonsense],
        &[&String::new()],
    ] {
        assert_eq!(refusal(&backend, wish), Refusal::NotFound, "{wish:?}");
    }
    // A refused one has taken nothing: its number is free.
    assert_eq!(backend.open(77), gpus[..2]);
}

#[test]
fn a_wish_leaves_its_vm_the_gpus_that_it_has() {
    let text = "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"1-9\"]\ngpus_per_vm = 2\n";
    let mut daemon = Daemon::with_gpus(4, text);
    let gpus = daemon.gpus();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let mut exec = one.session_with(1, &gpus[1..2]);
    assert_eq!(
        refusal(&one, &[&gpus[2]]),
        Refusal::NotFound,
        "another VM's, as yet"
    );
    // The first GPU is idle, but the first VM's.
    assert_eq!(two.open(1), gpus[2..]);
    assert_eq!(one.open(2), gpus[..2]);
    assert_eq!(one.ask(&Request::CloseSession { session: 2 }), Answer::Ok);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    daemon.restart();
    let one = daemon.backend(1);
    one.attach(1, &mut exec);
    assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[1..2]);
    assert_eq!(one.open(3), gpus[..2]);
}

/// Nothing is known any more but what the executors have.
#[test]
fn a_session_keeps_its_gpus_if_the_books_are_lost() {
    let mut daemon = Daemon::with_gpus(2, &map(&[(1, "low")], ""));
    let gpus = daemon.gpus();
    let mut exec = daemon.backend(1).session_with(1, &gpus[1..]);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    for file in ["vgpu.db", "vgpu.db-wal", "vgpu.db-shm"] {
        let removed = std::fs::remove_file(daemon.state_dir().join(file));
        assert!(removed.is_ok() || file != "vgpu.db");
    }
    daemon.restart();
    let backend = daemon.backend(1);
    let others = ["GPU-of-another-host".to_owned()];
    let refused = backend.attach_having(1, &mut exec, &others);
    assert!(matches!(
        refused,
        Answer::Refused {
            why: Refusal::NotFound,
            ..
        }
    ));
    assert_eq!(backend.attach_having(1, &mut exec, &gpus[1..]), Answer::Ok);
    assert_eq!(daemon.vm(1).sessions[0].gpus, gpus[1..]);
}

/// Also where a GPU has one session at a time.
#[test]
fn sessions_of_a_vm_on_different_gpus_do_not_wait_for_each_other() {
    for exclusive in [false, true] {
        let text = format!("{}\n", map(&[(1, "low"), (2, "low")], LONG));
        let text = text.replace("vms =", &format!("exclusive = {exclusive}\nvms ="));
        let daemon = Daemon::with_gpus(2, &text);
        let gpus = daemon.gpus();
        let backend = daemon.backend(1);
        let (first, second) = (
            backend.session_with(1, &gpus[..1]),
            backend.session_with(2, &gpus[1..]),
        );
        first.take_turn();
        second.take_turn();
        assert_eq!((first.state(), second.state()), (State::Held, State::Held));
        let turns = daemon.turns();
        let on: Vec<&String> = turns.iter().map(|turn| &turn.gpu).collect();
        assert_eq!(on, [&gpus[0], &gpus[1]]);
        assert!(turns.iter().all(|turn| turn.end.is_none()), "{turns:?}");
        // Nobody who waits is to be seen.
        assert!(!first.contended() && !second.contended());
    }
}

/// Another VM's session on one of two GPUs, while this VM's is on the other one.
#[test]
fn vms_on_different_gpus_of_a_pool_do_not_wait_for_each_other() {
    let daemon = Daemon::with_gpus(2, &map(&[(1, "low"), (2, "low")], LONG));
    let gpus = daemon.gpus();
    let (one, two) = (daemon.backend(1), daemon.backend(2));
    let (first, second) = (one.session_with(1, &gpus[1..]), two.session_with(1, &gpus[..1]));
    first.take_turn();
    second.take_turn();
    assert_eq!((first.state(), second.state()), (State::Held, State::Held));
}

/// A VM's memory on a GPU is what all its sessions have there, whatever they call that GPU.
#[test]
fn memory_is_counted_by_the_vms_gpus() {
    let daemon = Daemon::with_gpus(2, &(map(&[(1, "low")], "") + "gpu_memory_mib = 512\n"));
    let gpus = daemon.gpus();
    let backend = daemon.backend(1);
    let swapped = [gpus[1].clone(), gpus[0].clone()];
    let execs = [
        backend.session(1),
        backend.session_with(2, &gpus[1..]),
        backend.session_with(3, &swapped),
    ];
    let pages = execs.each_ref().map(|exec| exec.vm_page_and_columns());
    let [(_, _, all), (_, _, second), (_, _, reversed)] = &pages;
    assert_eq!((&all[..1], &all[1..]), (&reversed[1..], &reversed[..1]));
    assert_eq!(&all[1..], &second[..]);
    for (n, (page, slot, columns)) in pages.iter().enumerate() {
        page.add_memory(*slot, columns[0] as usize, (n as u64 + 1) * MIB);
    }
    let (page, slot, columns) = &pages[1];
    assert_eq!(page.used(columns[0] as usize), 5 * MIB);
    assert!(!page.take_memory(*slot, columns[0] as usize, 508 * MIB));
    let Answer::VmGpus { gpus: told } = backend.ask(&Request::VmGpus) else {
        panic!()
    };
    assert_eq!((told.gpus[0].used, told.gpus[1].used), (MIB, 5 * MIB));
    let processes = told.processes.iter();
    let processes: Vec<_> = processes.map(|of| (of.pid, of.gpu, of.memory)).collect();
    assert_eq!(processes, [(101, 0, MIB), (102, 1, 2 * MIB), (103, 1, 3 * MIB)]);
    let memory: Vec<u64> = daemon
        .vm(1)
        .sessions
        .iter()
        .map(|session| session.memory)
        .collect();
    assert_eq!(memory, [MIB, 2 * MIB, 3 * MIB]);
}
