//! The tests.
use crate::executor::{DIE, ECHO, FAILING_LEN, HANGING_LEN, NONSENSE_LEN, REFUSED_LEN, SUM};
use crate::guest::{self, Guest, QUARANTINE_WAIT_S, RING_BUFFER_LEN, refused};
use crate::host::{Backend, ends, has_ended, kill};
use crate::scheduler::{Refuse, Scheduler, speaks};
use crate::vmm::{Buffer, REQUEST_PLACE, Vmm, WINDOW};
use rustix::process::Signal;
use std::sync::atomic::Ordering;
use vgpu_protocol::limits::{
    AREA_LEN, CONTROL_LEN_MAX, MAP_LEN_MAX, PAGE_LEN, RUNS_PER_MESSAGE_MAX, SESSIONS_MAX,
    VM_REGISTERED_LEN_MAX,
};
use vgpu_protocol::virtio::{ControlKind, MAP_REGISTER, Map, RingCreate, Run, Status, Unmap};
use vgpu_protocol::{gpus, result, ring};
use vgpu_sched_api::messages::{Refusal, Request};
use vgpu_sched_api::turn::PAGE_LEN as TURN_PAGE_LEN;
use vgpu_transport::socket::Socket;
use vgpu_transport::{Transport, TransportError};
use vhost::vhost_user::Frontend;

#[test]
fn a_session_from_open_to_close() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut guest = Guest::open(&backend.socket());
    vgpud.wait("a greeting", |asked| {
        matches!(asked.request, Request::Hello { vm: 7, .. }).then_some(())
    });
    vgpud.wait("an opening", |asked| match &asked.request {
        Request::OpenSession {
            session: 1,
            pid,
            program,
            gpus,
        } => {
            assert_eq!(*gpus, [""; 0]);
            assert_eq!(*pid, std::process::id());
            assert!(program.starts_with("backend"), "{program}");
            Some(())
        }
        _ => None,
    });
    let (_, fds) = vgpud.attached(1);
    let [page, socket, pidfd] = &fds[..] else {
        panic!("{fds:?}");
    };
    assert_eq!(rustix::fs::fstat(page).unwrap().st_size, TURN_PAGE_LEN as i64);
    assert!(
        rustix::fs::ftruncate(page, 0).is_err(),
        "the turn page can shrink"
    );
    assert!(speaks(socket), "the executor has no way to vgpud");

    let ring = guest.at(0);
    guest.ring(3, ring);
    for _ in 0..100 {
        guest.command(3, ring, &[ECHO]);
    }
    assert!(refused(
        guest.transport.free(ring, RING_BUFFER_LEN),
        Status::Invalid
    ));
    assert!(refused(guest.transport.ring_create(3, ring), Status::Invalid));
    assert!(refused(guest.transport.ring_destroy(4), Status::NotFound));
    assert!(refused(
        guest.transport.alloc(ring + PAGE_LEN, PAGE_LEN, false),
        Status::Invalid
    ));
    assert_eq!(guest.status(), 0);
    guest.transport.ring_destroy(3).unwrap();
    guest.transport.free(ring, RING_BUFFER_LEN).unwrap();
    // The pages come back as new ones.
    guest.transport.alloc(ring, RING_BUFFER_LEN, true).unwrap();
    assert_eq!(
        guest
            .word(ring + vgpu_protocol::ring::HEAD)
            .load(Ordering::SeqCst),
        0
    );
    assert!(!has_ended(pidfd));
    drop(guest);
    vgpud.closed(1);
    assert!(ends(pidfd));
}

#[test]
fn a_listening_descriptor_will_do() {
    let backend = Backend::start_listening();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    // One front end after the other.
    for session in 1..=3 {
        let mut guest = Guest::open(&backend.socket());
        let ring = guest.at(0);
        guest.ring(0, ring);
        guest.command(0, ring, &[ECHO]);
        drop(guest);
        vgpud.closed(session);
    }
}

#[test]
fn a_connected_descriptor_will_do() {
    let (mut backend, connection) = Backend::start_connected();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::over(Frontend::from_stream(connection, 3));
    open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(1);
    drop(vmm);
    assert!(ends(&fds[2]));
    assert!(backend.ended());
}

#[test]
fn a_dead_executor_is_one_lost_session() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut guest = Guest::open(&backend.socket());
    let ring = guest.at(0);
    guest.ring(0, ring);
    guest.command(0, ring, &[ECHO]);
    guest
        .word(ring + vgpu_protocol::ring::DATA)
        .store(DIE, Ordering::SeqCst);
    guest.transport.doorbell(0).unwrap();
    assert_eq!(guest.wait_lost(), result::UNKNOWN);
    vgpud.closed(1);
    assert!(refused(
        guest.transport.alloc(guest.at(1 << 20), PAGE_LEN, false),
        Status::Lost
    ));
    guest.transport.doorbell(0).unwrap();
    drop(guest);
    let mut guest = Guest::open(&backend.socket());
    let (exec_pid, fds) = vgpud.attached(2);
    // Killed from outside, the same.
    kill(exec_pid);
    assert_eq!(guest.wait_lost(), result::UNKNOWN);
    assert!(ends(&fds[2]));
    assert!(backend.lives());
}

#[test]
fn an_executor_that_speaks_nonsense_is_killed() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut guest = Guest::open(&backend.socket());
    let (_, fds) = vgpud.attached(1);
    let at = guest.at(0);
    assert!(refused(
        guest.transport.alloc(at, NONSENSE_LEN, false),
        Status::Lost
    ));
    assert_eq!(guest.wait_lost(), result::UNKNOWN);
    assert!(ends(&fds[2]));
    assert!(backend.lives());
}

#[test]
fn a_front_end_that_dies_in_a_request_is_cleaned_up() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut child = guest::spawn_hanging(&backend.socket());
    let (_, fds) = vgpud.attached(1);
    // It hangs in its request; another front end is not served in between.
    backend.wait_log("hangs");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ends(&fds[2]));
    vgpud.closed(1);
    let mut guest = Guest::open(&backend.socket());
    let ring = guest.at(0);
    guest.ring(0, ring);
    guest.command(0, ring, &[ECHO]);
    assert!(backend.lives());
}

#[test]
fn what_an_executor_refuses_is_refused() {
    let backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let guest = Guest::open(&backend.socket());
    let at = guest.at(0);
    let result = guest.transport.alloc(at, REFUSED_LEN, false);
    assert!(matches!(result, Err(TransportError::NoMemory)), "{result:?}");
    guest.transport.alloc(at, PAGE_LEN, false).unwrap();
    guest.transport.free(at, PAGE_LEN).unwrap();
    assert!(refused(
        guest.transport.free(guest.window, AREA_LEN),
        Status::Invalid
    ));
    drop(guest);

    // In the middle of a mapping: what came before is undone when the guest asks for that, also when the executor has
    // nothing of it any more.
    let mut vmm = Vmm::connect(&backend.socket());
    let session = open(&mut vmm, WINDOW);
    let addr = WINDOW + (1 << 20);
    let run = Run {
        gpa: vmm.high(0),
        len: PAGE_LEN,
    };
    for len in [FAILING_LEN, 5 * PAGE_LEN] {
        let map = Map {
            addr,
            len,
            offset: 0,
            flags: 0,
            runs_len: 1,
        };
        let second = Map {
            offset: PAGE_LEN,
            ..map
        };
        assert_eq!(vmm.map(session, map, &[run]), Status::Ok);
        let outside = Run { gpa: 1 << 50, ..run };
        assert_eq!(vmm.map(session, second, &[outside]), Status::Invalid);
        if len == FAILING_LEN {
            assert_eq!(vmm.map(session, second, &[run]), Status::HostError);
        }
        assert_eq!(vmm.request(ControlKind::Unmap, session, &addr), Status::Ok);
        assert_eq!(vmm.request(ControlKind::Unmap, session, &addr), Status::NotFound);
    }
}

#[test]
fn vgpud_decides_who_may_open() {
    let quarantined = Refusal::Quarantined {
        wait_s: Some(u64::from(QUARANTINE_WAIT_S)),
    };
    let cases = [
        (Some(Refusal::NotMapped), None, None, Status::NoPool),
        (None, Some(quarantined), None, Status::Quarantined),
        (None, Some(Refusal::NoGpu), None, Status::NoGpu),
        (None, Some(Refusal::NotFound), None, Status::NotFound),
        (None, None, Some(quarantined), Status::Quarantined),
    ];
    for (hello, open, attach, expected) in cases {
        let backend = Backend::start();
        let vgpud = Scheduler::start(
            &backend.scheduler(),
            Refuse {
                hello,
                open,
                attach,
                ..Refuse::default()
            },
        );
        let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
        let result = transport.open(&[WINDOW], &[]);
        assert!(refused(result, expected), "{hello:?} {open:?} {attach:?}");
        if attach.is_none() {
            assert_eq!(
                vgpud.count(|request| matches!(request, Request::AttachSession { .. })),
                0
            );
        }
    }
}

/// What the program wants is `vgpud`'s to grant, and what was granted is all that its executor sees, in that order.
#[test]
fn an_executor_sees_the_gpus_of_its_session() {
    for (wish, expected) in [(&["GPU-7", "GPU-3"][..], "GPU-7,GPU-3"), (&[], "GPU-0,GPU-1")] {
        let backend = Backend::start();
        let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
        let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
        let names: Vec<gpus::GpuName> = wish.iter().map(|gpu| gpus::padded(gpu)).collect();
        transport.open(&[guest::window()], &names).unwrap();
        vgpud.wait("an opening", |asked| match &asked.request {
            Request::OpenSession { gpus, .. } => {
                assert_eq!(gpus, wish);
                Some(())
            }
            _ => None,
        });
        vgpud.wait("an attachment", |asked| match &asked.request {
            Request::AttachSession { gpus, .. } => {
                assert_eq!(gpus.join(","), expected);
                Some(())
            }
            _ => None,
        });
        let (exec_pid, _) = vgpud.attached(1);
        let environment = std::fs::read_to_string(format!("/proc/{exec_pid}/environ")).unwrap();
        let variable = format!("CUDA_VISIBLE_DEVICES={expected}");
        assert!(
            environment.split('\0').any(|one| one == variable),
            "{environment}"
        );
    }
}

/// libcuda uses an MPS that it finds, so only sessions that are to use it are shown where it is.
#[test]
fn only_sessions_of_such_pools_are_led_to_mps() {
    for mps in [true, false] {
        let backend = Backend::start();
        let refuse = Refuse {
            mps,
            ..Refuse::default()
        };
        let vgpud = Scheduler::start(&backend.scheduler(), refuse);
        let _guest = Guest::open(&backend.socket());
        let (exec_pid, _) = vgpud.attached(1);
        let read = |file| std::fs::read_to_string(format!("/proc/{exec_pid}/{file}")).unwrap();
        let environment = read("environ");
        let dir = environment
            .split('\0')
            .find_map(|variable| variable.strip_prefix("CUDA_MPS_PIPE_DIRECTORY="));
        let expected = if mps {
            backend.mps_pipe_dir()
        } else {
            "/nonexistent".into()
        };
        assert_eq!(dir.map(std::path::PathBuf::from), Some(expected));
        assert_eq!(
            read("cmdline").split('\0').any(|argument| argument == "--mps"),
            mps
        );
        if mps {
            backend.wait_log("there is no MPS control daemon");
        }
    }
}

/// No session is opened for the question, and `vgpud` is asked once however often the guest asks at a time.
#[test]
fn a_vm_is_told_of_its_gpus_without_a_session() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let told = transport.gpus().unwrap();
                    assert_eq!(told.gpus.len(), 1);
                    assert_eq!(gpus::text(&told.gpus[0].uuid), "GPU-0");
                    assert_eq!(told.gpus[0].memory, 5 << 30);
                }
            });
        }
    });
    let asked = vgpud.count(|request| *request == Request::VmGpus);
    assert!((1..200).contains(&asked), "{asked}");
    let opened = vgpud.count(|request| matches!(request, Request::OpenSession { .. }));
    assert_eq!(opened, 0);
}

#[test]
fn a_vm_that_may_not_have_gpus_is_told_so() {
    let cases = [
        (Some(Refusal::NotMapped), None, None),
        (None, Some(Refusal::NoGpu), None),
        (
            None,
            Some(Refusal::Quarantined {
                wait_s: Some(u64::from(QUARANTINE_WAIT_S)),
            }),
            Some(Status::Quarantined),
        ),
    ];
    for (hello, gpus, expected) in cases {
        let backend = Backend::start();
        let refuse = Refuse {
            hello,
            gpus,
            ..Refuse::default()
        };
        let _vgpud = Scheduler::start(&backend.scheduler(), refuse);
        let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
        match expected {
            Some(status) => assert!(refused(transport.gpus(), status)),
            None => assert!(transport.gpus().unwrap().gpus.is_empty()),
        }
    }
    // Without a vgpud nobody knows, and nobody waits.
    let backend = Backend::start();
    let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
    assert!(refused(transport.gpus(), Status::NoScheduler));
}

/// It is waited for, since it may be about to be there again, but not for ever.
#[test]
fn without_vgpud_no_session_is_opened_and_the_guest_is_told_why() {
    let backend = Backend::start();
    let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
    assert!(refused(transport.open(&[WINDOW], &[]), Status::NoScheduler));
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    assert_eq!(transport.open(&[WINDOW], &[]).unwrap(), WINDOW);
}

/// Without a VM each process is a front end, and their sessions are one VM's.
#[test]
fn processes_on_the_host_use_the_device_side_by_side() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut guests: Vec<Guest> = (0..2).map(|_| Guest::open(&backend.socket())).collect();
    for (number, guest) in (0..).zip(&mut guests) {
        let ring = guest.at(0);
        guest.ring(number, ring);
        guest.command(number, ring, &[ECHO]);
    }
    let pidfds = [1, 2].map(|session| vgpud.attached(session).1.remove(2));
    // The end of one is no other's.
    drop(guests.remove(1));
    vgpud.closed(2);
    assert!(ends(&pidfds[1]));
    let ring = guests[0].at(0);
    guests[0].command(0, ring, &[ECHO]);
    assert!(!has_ended(&pidfds[0]));
    // Nor may they have more sessions together than one may.
    let open = || {
        let transport = Socket::connect_with(&backend.socket(), 64 << 20).unwrap();
        transport.open(&[WINDOW], &[]).map(|_| transport)
    };
    let mut more: Vec<_> = (1..SESSIONS_MAX).map(|_| open().unwrap()).collect();
    assert!(refused(open(), Status::Limit));
    more.pop();
    vgpud.closed(SESSIONS_MAX + 1);
    open().unwrap();
}

#[test]
fn sessions_outlive_vgpud() {
    let backend = Backend::start();
    let first = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut guest = Guest::open(&backend.socket());
    let ring = guest.at(0);
    guest.ring(0, ring);
    let (exec_pid, _) = first.attached(1);
    drop(first);
    guest.command(0, ring, &[ECHO]);
    let second = Scheduler::start(&backend.scheduler(), Refuse::default());
    let (again, fds) = second.attached(1);
    assert_eq!(exec_pid, again);
    assert!(speaks(&fds[1]), "the executor has no way to the new vgpud");
    guest.command(0, ring, &[ECHO]);
    drop(guest);
    second.closed(1);
    assert!(ends(&fds[2]));
}

#[test]
fn vgpud_ends_a_session_whenever_it_says_so() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    // While nothing is asked.
    let mut guest = Guest::open(&backend.socket());
    let (_, fds) = vgpud.attached(1);
    vgpud.end(1, result::LAUNCH_TIMEOUT);
    assert_eq!(guest.wait_lost(), result::LAUNCH_TIMEOUT);
    assert!(ends(&fds[2]));
    vgpud.closed(1);
    assert!(refused(
        guest.transport.alloc(guest.at(0), PAGE_LEN, false),
        Status::Lost
    ));

    assert!(backend.lives());
}

#[test]
fn vgpud_ends_a_session_while_it_is_asked_for_another() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    vmm.give_event_buffer();
    let first = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(first);
    // What is not an error is one all the same, and a session that is not there does no harm.
    vgpud.end_before_answer(first, result::SUCCESS);
    vgpud.end_before_answer(77, result::LAUNCH_TIMEOUT);
    let other = open(&mut vmm, WINDOW);
    assert!(ends(&fds[2]));
    assert_eq!(vmm.wait_event(), first);
    assert_eq!(vmm.status_word(first), result::UNKNOWN);
    assert_eq!(vmm.request(ControlKind::Unmap, first, &0u64), Status::Lost);
    assert_eq!(vmm.request(ControlKind::Unmap, other, &0u64), Status::NotFound);
}

#[test]
fn vgpud_ends_a_session_whose_executor_does_not_answer() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let session = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(session);
    let hanging = hang(&backend, &mut vmm, session);
    vgpud.end(session, result::LAUNCH_TIMEOUT);
    assert_eq!(vmm.finish(hanging), Status::Lost);
    assert!(ends(&fds[2]));
}

#[test]
fn the_end_of_the_backend_is_the_end_of_its_executors() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let guest = Guest::open(&backend.socket());
    let (_, fds) = vgpud.attached(1);
    drop(backend);
    assert!(ends(&fds[2]));
    let result = guest.transport.alloc(guest.at(0), PAGE_LEN, false);
    assert!(matches!(result, Err(TransportError::Gone)), "{result:?}");
    assert!(matches!(guest.transport.wait(0, 0), Err(TransportError::Gone)));
}

/// Nothing that an operator has to look at.
#[track_caller]
fn no_complaints(log: &[String]) {
    let is_complaint = |line: &&String| ["WARN", "ERROR", "failed"].iter().any(|word| line.contains(word));
    let complaints: Vec<_> = log.iter().filter(is_complaint).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_programs_end_is_nothing_to_complain_of() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    vgpud.wait("a greeting", |asked| {
        matches!(asked.request, Request::Hello { .. }).then_some(())
    });
    let mut guest = Guest::open(&backend.socket());
    let ring = guest.at(0);
    guest.ring(0, ring);
    guest.command(0, ring, &[ECHO]);
    drop(guest);
    vgpud.closed(1);
    backend.wait_log("front end disconnected");
    // Before vgpud listened there was none.
    let log: Vec<String> = backend
        .log()
        .into_iter()
        .filter(|line| !line.contains("no vgpud"))
        .collect();
    assert!(
        log.iter().any(|line| line.contains("session 1: closed")),
        "{log:?}"
    );
    no_complaints(&log);
}

#[test]
fn a_signal_ends_the_backend_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut backend = Backend::start();
        let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
        let guests: Vec<Guest> = (0..2).map(|_| Guest::open(&backend.socket())).collect();
        let pidfds = [1, 2].map(|session| vgpud.attached(session).1.remove(2));
        backend.signal(signal);
        assert_eq!(backend.ended_with(), Some(0));
        assert!(!backend.socket().exists());
        // Not when somebody gets round to it, but before the backend is gone.
        assert!(pidfds.iter().all(has_ended));
        // What it said is read beside it.
        backend.wait_log("vm 7: ended");
        let log: Vec<String> = backend
            .log()
            .into_iter()
            .filter(|line| !line.contains("no vgpud"))
            .collect();
        for session in [1, 2] {
            let closed = format!("session {session}: closed");
            assert!(log.iter().any(|line| line.contains(&closed)), "{log:?}");
        }
        // But for what another thread is told meanwhile, and says to who debugs it.
        let last = log.iter().rfind(|line| !line.contains("DEBUG")).unwrap();
        assert!(last.contains("ended"), "{log:?}");
        no_complaints(&log);
        drop(guests);
    }
}

/// Without anybody connected there is nothing to end.
#[test]
fn a_signal_ends_a_backend_that_nobody_uses() {
    let mut backend = Backend::start();
    backend.signal(Signal::TERM);
    assert_eq!(backend.ended_with(), Some(0));
    assert!(!backend.socket().exists());
    let mut listening = Backend::start_listening();
    listening.wait_log("listening");
    listening.signal(Signal::TERM);
    assert_eq!(listening.ended_with(), Some(0));
    // It was made by somebody else.
    assert!(listening.socket().exists());
}

#[test]
fn a_vm_has_one_backend() {
    let taken = Refuse {
        hello: Some(Refusal::Duplicate),
        ..Refuse::default()
    };
    let mut second = Backend::start();
    let _vgpud = Scheduler::start(&second.scheduler(), taken);
    assert_eq!(second.ended_with(), Some(1));
    assert!(!second.socket().exists());
    let log = second.log();
    let last = log.last().unwrap();
    assert!(last.starts_with("error: VM 7 has a backend already"), "{last}");

    // The one that serves it goes on, whoever comes first to a new vgpud.
    let mut first = Backend::start();
    let vgpud = Scheduler::start(&first.scheduler(), Refuse::default());
    let guest = Guest::open(&first.socket());
    drop(vgpud);
    let _vgpud = Scheduler::start(&first.scheduler(), taken);
    first.wait_log("vgpud refuses this VM");
    assert!(first.lives());
    drop(guest);
}

#[test]
fn a_mistake_is_told_in_one_line() {
    let backend = Backend::start();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vgpu-backend"))
        .args(["--vm-id", "8", "--vgpud", "/nonexistent", "--exec"])
        .arg(std::env::current_exe().unwrap())
        .arg("--socket-path")
        .arg(backend.socket())
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let expected = format!(
        "error: {}: somebody listens there already\n",
        backend.socket().display()
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(1));
    assert!(backend.socket().exists());
}

/// Opens a session with its area.
pub fn open(vmm: &mut Vmm, window: u64) -> u32 {
    let session = vmm.open(window).unwrap();
    let map = Map {
        addr: window,
        len: AREA_LEN,
        offset: 0,
        flags: MAP_REGISTER,
        runs_len: 1,
    };
    let run = Run {
        gpa: vmm.area(session),
        len: AREA_LEN,
    };
    assert_eq!(vmm.map(session, map, &[run]), Status::Ok);
    session
}

/// A mapping of one piece of memory, behind the area.
pub fn piece(vmm: &Vmm, len: u64) -> (Map, Run) {
    let map = Map {
        addr: WINDOW + (1 << 20),
        len,
        offset: 0,
        flags: 0,
        runs_len: 1,
    };
    let gpa = vmm.high(0);
    (map, Run { gpa, len })
}

/// Makes a request that the session's executor does not answer.
pub fn hang(backend: &Backend, vmm: &mut Vmm, session: u32) -> u64 {
    let (map, run) = piece(vmm, HANGING_LEN);
    let hanging = vmm.begin_map(session, map, &[run]);
    backend.wait_log("hangs");
    hanging
}

#[test]
fn memory_in_many_pieces_is_mapped_in_order() {
    let backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    vmm.give_event_buffer();
    let window = WINDOW;
    let session = open(&mut vmm, window);
    let ring_addr = window + (1 << 20);
    let map = Map {
        addr: ring_addr,
        len: RING_BUFFER_LEN,
        offset: 0,
        flags: 0,
        runs_len: 1,
    };
    let ring_gpa = vmm.high(0);
    let run = Run {
        gpa: ring_gpa,
        len: RING_BUFFER_LEN,
    };
    assert_eq!(vmm.map(session, map, &[run]), Status::Ok);
    let create = RingCreate {
        ring: 0,
        reserved: 0,
        addr: ring_addr,
    };
    assert_eq!(vmm.request(ControlKind::RingCreate, session, &create), Status::Ok);

    // Single pages, from the last to the first, and at the end a run that crosses from one region to the next.
    let count = RUNS_PER_MESSAGE_MAX + 500;
    let crossing = Run {
        gpa: vmm.high(0) - PAGE_LEN,
        len: 2 * PAGE_LEN,
    };
    let mut runs: Vec<Run> = (0..count as u64)
        .rev()
        .map(|page| Run {
            gpa: vmm.high(1 << 20) + 2 * page * PAGE_LEN,
            len: PAGE_LEN,
        })
        .collect();
    let mut expected = 0u64;
    let mut place = 1u64;
    runs.push(crossing);
    for run in &runs {
        // One word in each page.
        for page in 0..run.len / PAGE_LEN {
            let gpa = run.gpa + page * PAGE_LEN;
            let value = if gpa == ring_gpa { 64 } else { gpa ^ 0x5bd1_e995 };
            vmm.word(gpa).store(value, Ordering::SeqCst);
            expected = expected.wrapping_add(value.wrapping_mul(place));
            place += PAGE_LEN / 8;
        }
    }
    let addr = window + (2 << 20);
    let len: u64 = runs.iter().map(|run| run.len).sum();
    let mut offset = 0;
    for part in runs.chunks(RUNS_PER_MESSAGE_MAX) {
        let map = Map {
            addr,
            len,
            offset,
            flags: 0,
            runs_len: part.len() as u32,
        };
        assert_eq!(vmm.map(session, map, part), Status::Ok);
        offset += part.iter().map(|run| run.len).sum::<u64>();
    }
    for (index, word) in [SUM, addr, len].into_iter().enumerate() {
        vmm.word(ring_gpa + ring::DATA + 8 * index as u64)
            .store(word, Ordering::SeqCst);
    }
    vmm.doorbell(session, 0);
    assert_eq!(vmm.wait_event(), session);
    assert_eq!(
        vmm.word(ring_gpa + ring::DATA + 24).load(Ordering::SeqCst),
        expected
    );
}

#[test]
fn malformed_requests_are_answered() {
    let mut backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    // A fixed sequence of numbers that look random (Knuth's multiplier).
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u32
    };
    for _ in 0..1000 {
        let len = random() as usize % 160;
        let mut bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        if let Some(kind) = bytes.get_mut(..8) {
            kind.copy_from_slice(&u64::from(random() % 8).to_le_bytes());
        }
        let (status, body) = vmm.exchange(&bytes);
        assert_ne!(status, Status::Ok, "{bytes:?}");
        assert!(body.is_empty());
    }
    let session = open(&mut vmm, WINDOW);
    assert_eq!(
        vmm.request(ControlKind::SessionClose, session + 1, &()),
        Status::NotFound
    );
    assert_eq!(vmm.request(ControlKind::SessionClose, session, &()), Status::Ok);
    assert_eq!(
        vmm.request(ControlKind::SessionClose, session, &()),
        Status::NotFound
    );
    assert!(backend.lives());
}

#[test]
fn malformed_chains_are_given_back() {
    let mut backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let buffer = |gpa, len, writable| Buffer { gpa, len, writable };
    let reply = buffer(vmm.reply_place(), 64, true);
    let request = buffer(REQUEST_PLACE, 8, false);
    let nowhere = 1 << 50;
    // Whether there is room for an answer, and so one.
    let cases = [
        (vec![request], false),
        (vec![request, Buffer { len: 7, ..reply }], false),
        (vec![reply, request], true),
        (vec![buffer(nowhere, 8, false), reply], true),
        (vec![buffer(u64::MAX - 3, 8, false), reply], true),
        (
            vec![buffer(REQUEST_PLACE, CONTROL_LEN_MAX as u32 + 1, false), reply],
            true,
        ),
        (
            vec![
                buffer(REQUEST_PLACE, u32::MAX, false),
                buffer(REQUEST_PLACE, u32::MAX, false),
                reply,
            ],
            false,
        ),
        (vec![request, buffer(nowhere, 64, true)], false),
        (vec![request; 200], false),
    ];
    for (chain, answered) in cases {
        let written = vmm.chain(&chain);
        assert_eq!(written > 0, answered, "{chain:?}");
        if answered {
            assert_eq!(vmm.last_status(), Status::Invalid, "{chain:?}");
        }
    }
    vmm.looping_chain();
    vmm.head_outside();
    let session = open(&mut vmm, WINDOW);
    assert_eq!(vmm.request(ControlKind::SessionClose, session, &()), Status::Ok);
    assert!(backend.lives());
}

#[test]
fn a_ring_that_makes_no_sense_ends_nothing_else() {
    let mut backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let session = open(&mut vmm, WINDOW);
    let (_, fds) = vgpud.attached(session);
    // The doorbell queue claims to hold more than it can; the control queue goes on.
    vmm.jump(1, 1000);
    backend.wait_log("queue 1 is broken");
    assert_eq!(vmm.request(ControlKind::Unmap, session, &0u64), Status::NotFound);
    assert!(!has_ended(&fds[2]));
    vmm.stop();
    vmm.start([0; 3]);
    open(&mut vmm, WINDOW);
    assert!(backend.lives());
}

#[test]
fn answers_that_nobody_takes_do_no_harm() {
    let mut backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    // Sessions that do not open, as fast as they can be asked for, with one and the same buffer.
    for _ in 0..20 {
        vmm.publish_same_request(200);
        vmm.wait_used(200);
    }
    let session = open(&mut vmm, WINDOW);
    assert_eq!(vmm.request(ControlKind::SessionClose, session, &()), Status::Ok);
    assert!(backend.lives());
}

#[test]
fn an_event_waits_for_a_buffer() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let window = WINDOW;
    let (first, second) = (open(&mut vmm, window), open(&mut vmm, window));
    for session in [first, second] {
        let (exec_pid, _) = vgpud.attached(session);
        kill(exec_pid);
        vgpud.closed(session);
        // Answered after the session is lost, and so after its event.
        assert_eq!(vmm.request(ControlKind::Unmap, session, &0u64), Status::Lost);
        assert_eq!(vmm.status_word(session), result::UNKNOWN);
    }
    assert!(!vmm.has_event());
    let mut told = Vec::new();
    for _ in 0..2 {
        vmm.give_event_buffer();
        told.push(vmm.wait_event());
    }
    assert_eq!(told, [first, second]);
    assert_eq!(vmm.request(ControlKind::SessionClose, first, &()), Status::Ok);
    assert_eq!(vmm.request(ControlKind::SessionClose, second, &()), Status::Ok);
}

#[test]
fn memory_that_can_shrink_is_refused() {
    let mut backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    Vmm::refused(&backend.socket());
    backend.wait_log("not a memfd sealed against shrinking");
    open(&mut Vmm::connect(&backend.socket()), WINDOW);
    assert!(backend.lives());
}

#[test]
fn requests_to_one_session_do_not_wait_for_another() {
    let backend = Backend::start();
    let vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let window = WINDOW;
    let (slow, quick) = (open(&mut vmm, window), open(&mut vmm, window));
    let (_, fds) = vgpud.attached(slow);
    let hanging = hang(&backend, &mut vmm, slow);
    assert_eq!(vmm.request(ControlKind::Unmap, quick, &0u64), Status::NotFound);
    // Its end does not wait for what is under way.
    let closing = vmm.begin(ControlKind::SessionClose, slow, &());
    assert_eq!(vmm.finish(closing), Status::Ok);
    assert!(has_ended(&fds[2]));
    assert_eq!(vmm.finish(hanging), Status::Lost);
    assert_eq!(vmm.request(ControlKind::SessionClose, quick, &()), Status::Ok);
}

#[test]
fn a_transport_takes_its_thread_along() {
    let backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    assert_eq!(guest::threads_left(&backend.socket()), "2 then 1");
}

#[test]
fn capabilities_are_printed() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vgpu-backend"))
        .arg("--print-capabilities")
        .output()
        .unwrap();
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["type"].is_string() && said["features"].is_array(), "{said}");
}

/// What one session uses another cannot, until it gives it back or ends, however it ends.
#[test]
fn the_sessions_of_a_vm_share_its_limits() {
    let backend = Backend::start();
    let _vgpud = Scheduler::start(&backend.scheduler(), Refuse::default());
    let mut vmm = Vmm::connect(&backend.socket());
    let (one, other) = (open(&mut vmm, WINDOW), open(&mut vmm, WINDOW));
    let page = Run {
        gpa: vmm.high(0),
        len: PAGE_LEN,
    };
    // The whole length counts with the first page.
    let map = |place: u64, len: u64, flags| Map {
        addr: WINDOW + (1 << 30) + place * MAP_LEN_MAX,
        len,
        offset: 0,
        flags,
        runs_len: 1,
    };
    let half = VM_REGISTERED_LEN_MAX / 2 - AREA_LEN;
    assert_eq!(vmm.map(one, map(0, half, MAP_REGISTER), &[page]), Status::Ok);
    assert_eq!(vmm.map(other, map(0, half, MAP_REGISTER), &[page]), Status::Ok);
    let little = map(1, PAGE_LEN, MAP_REGISTER);
    assert_eq!(vmm.map(one, little, &[page]), Status::Limit);
    assert_eq!(vmm.map(other, little, &[page]), Status::Limit);
    // It is not the bytes that are mapped.
    assert_eq!(vmm.map(one, Map { flags: 0, ..little }, &[page]), Status::Ok);
    let first = Unmap {
        addr: map(0, half, 0).addr,
    };
    assert_eq!(vmm.request(ControlKind::Unmap, one, &first), Status::Ok);
    assert_eq!(vmm.map(other, little, &[page]), Status::Ok);
    assert_eq!(vmm.map(one, map(0, half, MAP_REGISTER), &[page]), Status::Limit);
    assert_eq!(vmm.request(ControlKind::SessionClose, other, &()), Status::Ok);
    assert_eq!(vmm.map(one, map(0, half, MAP_REGISTER), &[page]), Status::Ok);

    // A mapping that its executor refuses uses nothing.
    let other = open(&mut vmm, WINDOW);
    for _ in 0..2 {
        let refused = map(0, REFUSED_LEN, MAP_REGISTER);
        assert_eq!(vmm.map(other, refused, &[page]), Status::Limit);
    }
    assert_eq!(vmm.map(other, map(0, half, MAP_REGISTER), &[page]), Status::Ok);
}
