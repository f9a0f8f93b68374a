//! What ends all sessions: resets, pauses, other memory; and that nothing which happens meanwhile holds a stop up.
use crate::guest::RING_BUFFER_LEN;
use crate::host::{Backend, Held, has_ended, kill};
use crate::scheduler::{Refuse, Scheduler};
use crate::tests::{hang, open, piece};
use crate::vmm::{Vmm, WINDOW};
use vgpu_protocol::result;
use vgpu_protocol::virtio::{ControlKind, RingCreate, Status};
use vgpu_sched_api::messages::Request;

#[test]
fn a_reset_reaps_before_it_is_answered() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    for round in 0..3 {
        let sessions = [open(&mut vmm, WINDOW), open(&mut vmm, WINDOW)];
        let before = sessions.map(|session| vmm.status_word(session));
        vmm.stop();
        for session in sessions {
            let (_, fds) = vgpud.attached(session);
            assert!(has_ended(&fds[2]), "round {round}");
        }
        // A new driver may own that memory by now.
        assert_eq!(sessions.map(|session| vmm.status_word(session)), before);
        vmm.start([0; 3]);
        assert_eq!(
            vmm.request(ControlKind::SessionClose, sessions[0], &()),
            Status::NotFound
        );
    }
}

#[test]
fn what_cannot_be_reaped_is_written_off_until_it_is_gone() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let (session, held) = open_held(&mut vmm, &vgpud);
    let (_, fds) = vgpud.attached(session);
    let bases = vmm.stop();
    backend.wait_log("could not be reaped and is written off");
    assert!(!has_ended(&fds[2]));
    vmm.start(bases);
    let close = |vmm: &mut Vmm| vmm.request(ControlKind::SessionClose, session, &());
    assert_eq!(close(&mut vmm), Status::HostError);
    assert_eq!(vmm.open(WINDOW), Err(Status::HostError));
    drop(held);
    while !has_ended(&fds[2]) {
        std::thread::yield_now();
    }
    open(&mut vmm, WINDOW);
    vgpud.closed(session);
}

/// Opens a session whose executor is not gone when it has been killed, until what comes with it is dropped.
fn open_held(vmm: &mut Vmm, vgpud: &Scheduler) -> (u32, Held) {
    let session = open(vmm, WINDOW);
    let (exec_pid, _) = vgpud.attached(session);
    let (map, run) = piece(vmm, RING_BUFFER_LEN);
    assert_eq!(vmm.map(session, map, &[run]), Status::Ok);
    let ring = RingCreate {
        ring: 0,
        reserved: 0,
        addr: map.addr,
    };
    // For a second thread.
    assert_eq!(vmm.request(ControlKind::RingCreate, session, &ring), Status::Ok);
    (session, Held::new(exec_pid))
}

#[test]
fn a_paused_guest_gets_its_answers() {
    let backend = Backend::start();
    let silent = Refuse {
        silent_gpus: true,
        ..Refuse::default()
    };
    let vgpud = Scheduler::start(&backend.scheduler(), silent);
    let mut vmm = Vmm::connect(&backend.socket());
    let (hangs, closes) = (open(&mut vmm, WINDOW), open(&mut vmm, WINDOW));
    let hanging = hang(&backend, &mut vmm, hangs);
    let gpus = vmm.begin(ControlKind::Gpus, 0, &());
    vgpud.wait("its GPUs", |asked| {
        (asked.request == Request::VmGpus).then_some(())
    });
    let closing = vmm.begin(ControlKind::SessionClose, closes, &());
    let bases = vmm.stop();
    vmm.start(bases);
    assert_eq!(vmm.finish(hanging), Status::Lost);
    assert_eq!(vmm.finish(closing), Status::Ok);
    assert_eq!(vmm.finish(gpus), Status::HostError);
    assert_eq!(vmm.request(ControlKind::SessionClose, hangs, &()), Status::Ok);
}

#[test]
fn sessions_are_closed_while_all_end() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let other = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(other);
    let (session, held) = open_held(&mut vmm, &vgpud);
    let moving = vmm.move_memory();
    while !has_ended(&fds[2]) {
        std::thread::yield_now();
    }
    assert_eq!(vmm.request(ControlKind::SessionClose, other, &()), Status::Ok);
    assert!(!moving.is_finished());
    drop(held);
    moving.join().unwrap().unwrap();
    // By then its pages may be somebody else's.
    assert_eq!(vmm.status_word(other), 0);
    assert_eq!(vmm.status_word(session), result::UNKNOWN);
    assert_eq!(vmm.request(ControlKind::SessionClose, session, &()), Status::Ok);
    open(&mut vmm, WINDOW);
}

#[test]
fn useless_buffers_for_events_hold_nothing_up() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let (lost, other) = (open(&mut vmm, WINDOW), open(&mut vmm, WINDOW));
    let (exec_pid, _) = vgpud.attached(lost);
    let (_, fds) = vgpud.attached(other);
    vmm.give_event_buffer_of(4);
    let flood = vmm.flood(2);
    kill(exec_pid);
    while vmm.events_used() < 1000 {
        std::thread::yield_now();
    }
    vmm.set_memory(true).unwrap();
    assert!(has_ended(&fds[2]));
    flood.end();
    assert_eq!(vmm.request(ControlKind::SessionClose, lost, &()), Status::Ok);
    open(&mut vmm, WINDOW);
}

#[test]
fn a_paused_guest_finds_its_sessions_lost() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    vmm.give_event_buffer();
    let session = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(session);
    let bases = vmm.stop();
    assert!(has_ended(&fds[2]));
    vmm.start(bases);
    assert_eq!(vmm.wait_event(), session);
    assert_eq!(vmm.status_word(session), result::UNKNOWN);
    assert_eq!(vmm.request(ControlKind::Unmap, session, &0u64), Status::Lost);
    assert_eq!(vmm.request(ControlKind::SessionClose, session, &()), Status::Ok);
    assert_eq!(
        vmm.request(ControlKind::SessionClose, session, &()),
        Status::NotFound
    );
    open(&mut vmm, WINDOW);
}

#[test]
fn an_event_in_the_middle_of_a_stop_holds_nothing_up() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    vmm.give_event_buffer();
    let (lost, other) = (open(&mut vmm, WINDOW), open(&mut vmm, WINDOW));
    let (exec_pid, _) = vgpud.attached(lost);
    let (_, fds) = vgpud.attached(other);
    vmm.disable();
    kill(exec_pid);
    vgpud.closed(lost);
    let bases = vmm.bases();
    assert!(has_ended(&fds[2]));
    assert!(!vmm.has_event());
    vmm.start(bases);
    assert_eq!(vmm.wait_event(), lost);
    open(&mut vmm, WINDOW);
}

#[test]
fn other_memory_ends_the_sessions() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    vmm.give_event_buffer();
    let session = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(session);
    // The same again is no change.
    vmm.set_memory(false).unwrap();
    assert!(!has_ended(&fds[2]));
    vmm.set_memory(true).unwrap();
    assert!(has_ended(&fds[2]));
    assert_eq!(vmm.wait_event(), session);
    assert_eq!(vmm.status_word(session), result::UNKNOWN);
    assert_eq!(vmm.request(ControlKind::SessionClose, session, &()), Status::Ok);
    open(&mut vmm, WINDOW);
}

#[test]
fn a_flood_of_doorbells_does_not_hold_up_a_stop() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let session = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(session);
    // As a guest's other processors would: they go on while one resets the device.
    let flood = vmm.flood(1);
    for _ in 0..3 {
        assert_eq!(vmm.request(ControlKind::Unmap, session, &0u64), Status::NotFound);
    }
    vmm.stop();
    assert!(has_ended(&fds[2]));
    flood.end();
    vmm.start([0; 3]);
    open(&mut vmm, WINDOW);
    assert!(backend.lives());
}
