//! A stand-in for `vgpud`: it answers as it is told, and remembers what it was asked.
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{Answer, Priority, Refusal, Request, VmGpu, VmGpus};
use vgpu_sched_api::packet;

/// Nothing that a test waits for takes that long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What it refuses, and why; and what it says where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refuse {
    pub hello: Option<Refusal>,
    pub open: Option<Refusal>,
    pub attach: Option<Refusal>,
    pub gpus: Option<Refusal>,
    /// It never says which GPUs a VM has.
    pub silent_gpus: bool,
    /// The VM's pool shares its GPUs through MPS.
    pub mps: bool,
}

/// A request with its descriptors.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub fds: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    connection: Option<Arc<OwnedFd>>,
    /// Sent before the next answer.
    before_answer: Vec<Answer>,
    ended: bool,
}

/// The daemon's stand-in, until it is dropped.
#[derive(Debug)]
pub struct Scheduler {
    path: PathBuf,
    shared: Arc<(Mutex<State>, Condvar)>,
    listener: Arc<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Scheduler {
    pub fn start(path: &Path, refuse: Refuse) -> Self {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let listener = rustix::net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
        // It may be the successor of one that was there.
        let _ = std::fs::remove_file(path);
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let listener = Arc::new(listener);
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let (for_thread, listening) = (shared.clone(), listener.clone());
        let thread = std::thread::spawn(move || serve(&listening, &for_thread, refuse));
        Self {
            path: path.into(),
            shared,
            listener,
            thread: Some(thread),
        }
    }

    /// Waits until a request comes, or came, for which `pick` has something to say.
    pub fn wait<T>(&self, what: &str, mut pick: impl FnMut(&Asked) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        let mut state = self.shared.0.lock().unwrap();
        loop {
            if let Some(found) = state.asked.iter().find_map(&mut pick) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "vgpud was never asked for {what}: {:?}",
                state.asked
            );
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits until a session is attached: its executor's process id, and copies of the descriptors: page, socket, pidfd.
    pub fn attached(&self, number: u32) -> (u32, Vec<OwnedFd>) {
        self.wait("an attachment", |asked| match &asked.request {
            Request::AttachSession {
                session, exec_pid, ..
            } if *session == number => {
                let fds = asked.fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
                Some((*exec_pid, fds))
            }
            _ => None,
        })
    }

    /// Waits until a session is closed.
    pub fn closed(&self, number: u32) {
        self.wait("a close", |asked| {
            (asked.request == Request::CloseSession { session: number }).then_some(())
        });
    }

    /// Says unasked that a session is to end.
    pub fn end(&self, session: u32, code: i32) {
        let state = self.shared.0.lock().unwrap();
        let connection = state.connection.as_ref().unwrap();
        packet::send(connection, &Answer::End { session, code }, &[]).unwrap();
    }

    /// Says so while the backend waits for the answer to its next request.
    pub fn end_before_answer(&self, session: u32, code: i32) {
        let end = Answer::End { session, code };
        self.shared.0.lock().unwrap().before_answer.push(end);
    }

    /// How many requests of some kind came.
    pub fn count(&self, of: impl Fn(&Request) -> bool) -> usize {
        let state = self.shared.0.lock().unwrap();
        state.asked.iter().filter(|asked| of(&asked.request)).count()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let mut state = self.shared.0.lock().unwrap();
        state.ended = true;
        if let Some(connection) = &state.connection {
            let _ = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
        }
        drop(state);
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.thread.take().unwrap().join();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(listener: &OwnedFd, shared: &(Mutex<State>, Condvar), refuse: Refuse) {
    while let Ok(connection) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        let connection = Arc::new(connection);
        {
            let mut state = shared.0.lock().unwrap();
            if state.ended {
                return;
            }
            state.connection = Some(connection.clone());
        }
        while let Ok((request, fds)) = packet::receive::<Request>(&connection) {
            let answer = match &request {
                Request::Hello { .. } => refuse.hello.map_or_else(
                    || Answer::Welcome {
                        pool: "test".into(),
                        priority: Priority::High,
                    },
                    refused,
                ),
                Request::OpenSession { gpus, .. } => refuse.open.map_or_else(
                    || Answer::Gpus {
                        uuids: match gpus[..] {
                            [] => vec!["GPU-0".into(), "GPU-1".into()],
                            _ => gpus.clone(),
                        },
                        mps: refuse.mps,
                    },
                    refused,
                ),
                Request::VmGpus => refuse.gpus.map_or_else(
                    || Answer::VmGpus {
                        gpus: Box::new(VmGpus {
                            gpus: vec![VmGpu {
                                uuid: "GPU-0".into(),
                                memory: 5 << 30,
                                ..VmGpu::default()
                            }],
                            ..VmGpus::default()
                        }),
                    },
                    refused,
                ),
                Request::AttachSession { .. } => refuse.attach.map_or(Answer::Ok, refused),
                _ => Answer::Ok,
            };
            let silent = refuse.silent_gpus && request == Request::VmGpus;
            let mut answers = {
                let mut state = shared.0.lock().unwrap();
                state.asked.push(Asked { request, fds });
                std::mem::take(&mut state.before_answer)
            };
            shared.1.notify_all();
            if silent {
                continue;
            }
            answers.push(answer);
            let mut answers = answers.iter();
            if answers.any(|answer| packet::send(&connection, answer, &[]).is_err()) {
                break;
            }
        }
    }
}

fn refused(why: Refusal) -> Answer {
    Answer::Refused {
        why,
        message: "as the test says".into(),
    }
}

/// Whether something comes over a session's socket within the test's patience.
pub fn speaks(socket: &OwnedFd) -> bool {
    let patience = rustix::event::Timespec {
        tv_sec: PATIENCE.as_secs() as _,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&patience)).unwrap() > 0
        && rustix::net::recv(socket, &mut [0u8; 64][..], RecvFlags::PEEK).is_ok_and(|(n, _)| n > 0)
}
