//! The connection to `vgpud`, kept by a thread of its own.
//!
//! Sessions ask and get their answer later, through [`Waiting`]. When `vgpud` goes away the thread connects again,
//! with growing pauses, and attaches every live session anew, each with a new socket whose other end
//! goes to its executor; what was asked in between waits, as long as the one who asks is patient.
use crate::fd::Bell;
use crate::gpus::{self, Known, Told};
use crate::host::End;
use crate::worker;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::messages::{Answer, Refusal, Request, VERSION};
use vgpu_sched_api::packet::{self, PacketError};

/// How long `vgpud` may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// The pause before the second attempt to connect; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause between attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a session does with what comes from `vgpud`.
pub trait Client: Send + Sync + std::fmt::Debug {
    /// An answer to what it asked has come: look.
    fn wake(&self);
    /// This end of a new session socket, and the turn page, are for its executor.
    fn attached(&self, socket: OwnedFd, page: OwnedFd);
    /// `vgpud` no longer wants the session.
    fn refused(&self);
    /// `vgpud` wants its executor killed, and its program told this CUDA error.
    fn end(&self, code: i32);
}

/// The GPUs of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// By UUID.
    pub uuids: Vec<String>,
    /// They are shared through MPS.
    pub mps: bool,
}

/// An answer that may not have come yet.
#[derive(Debug)]
pub struct Waiting<T> {
    place: Arc<Mutex<Option<Result<T, Status>>>>,
}

impl<T> Waiting<T> {
    /// The answer, if it has come; to be called again after each [`Client::wake`].
    pub fn take(&self) -> Option<Result<T, Status>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The one who answers.
#[derive(Debug)]
struct Answers<T> {
    place: Arc<Mutex<Option<Result<T, Status>>>>,
    client: Arc<dyn Client>,
}

impl<T> Answers<T> {
    fn pair(client: Arc<dyn Client>) -> (Self, Waiting<T>) {
        let place = Arc::new(Mutex::new(None));
        let waiting = Waiting { place: place.clone() };
        (Self { place, client }, waiting)
    }

    /// Nobody waits any more.
    fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.place) == 1
    }

    fn give(self, answer: Result<T, Status>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.client.wake();
    }
}

/// A session that is to start, as `vgpud` is told of it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The session's number.
    pub session: u32,
    /// The guest's process id.
    pub pid: u32,
    /// The program's name.
    pub program: String,
    /// The GPUs that it is to have; all of the VM's if none is named.
    pub gpus: Vec<String>,
}

/// A session that runs, as `vgpud` is told of it.
#[derive(Debug)]
pub struct Attachment {
    /// The session's number.
    pub session: u32,
    /// The guest's process id.
    pub pid: u32,
    /// The program's name.
    pub program: String,
    /// The GPUs that it has.
    pub gpus: Vec<String>,
    /// The executor's process id.
    pub exec_pid: u32,
    /// The executor.
    pub pidfd: OwnedFd,
    /// The turn page.
    pub page: OwnedFd,
}

#[derive(Debug)]
enum Ask {
    Open {
        asked: Asked,
        answers: Answers<Gpus>,
    },
    Attach {
        attachment: Attachment,
        answers: Answers<()>,
    },
    Close {
        session: u32,
    },
    /// For [`Shared::gpus`].
    Gpus,
}

/// The connection to `vgpud`.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    asks: Mutex<VecDeque<Ask>>,
    wake: Bell,
    gpus: Known,
    /// Seconds that the VM's quarantine lasted yet when `vgpud` last refused something because of it; 0: without an end.
    quarantine_wait_s: AtomicU32,
}

impl Scheduler {
    /// Starts to connect, and to stay connected, to the socket at `path`. `end` is told if another backend serves the VM.
    pub fn start(vm: u32, path: PathBuf, end: Sender<End>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            asks: Mutex::new(VecDeque::new()),
            wake: Bell::new()?,
            gpus: Known::default(),
            quarantine_wait_s: AtomicU32::new(0),
        });
        let link = Link {
            vm,
            path,
            shared: shared.clone(),
            end,
            welcomed: false,
            live: BTreeMap::new(),
            ends: Vec::new(),
        };
        worker::spawn(format!("vgpud-{vm}"), move || link.run())?;
        Ok(Self { shared })
    }

    /// For how many seconds a refusal lasts: if it is for a quarantine, as `vgpud` said with the last such one, where 0 means
    /// without an end. Of others nobody knows, which is 0, too.
    pub fn wait_s(&self, status: Status) -> u32 {
        match status {
            Status::Quarantined => self.shared.quarantine_wait_s.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Asks which GPUs a new session may see.
    pub fn open(&self, asked: Asked, client: Arc<dyn Client>) -> Waiting<Gpus> {
        let (answers, waiting) = Answers::pair(client);
        self.ask(Ask::Open { asked, answers });
        waiting
    }

    /// Says that a session's executor runs. The executor's socket comes to [`Client::attached`], now and again.
    pub fn attach(&self, attachment: Attachment, client: Arc<dyn Client>) -> Waiting<()> {
        let (answers, waiting) = Answers::pair(client);
        self.ask(Ask::Attach { attachment, answers });
        waiting
    }

    /// Says that a session is over. Harmless if it was never attached.
    pub fn close(&self, session: u32) {
        self.ask(Ask::Close { session });
    }

    /// Has `answer` called, now or later, with what the VM may know of its GPUs.
    pub fn gpus(&self, answer: impl FnOnce(Told) + Send + 'static) {
        if self.shared.gpus.want(Instant::now(), Box::new(answer)) {
            self.ask(Ask::Gpus);
        }
    }

    fn ask(&self, ask: Ask) {
        self.shared
            .asks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(ask);
        self.shared.wake.ring();
    }
}

/// The connection failed; connect again.
#[derive(Debug)]
struct Lost(String);

impl From<PacketError> for Lost {
    fn from(error: PacketError) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustix::io::Errno> for Lost {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.to_string())
    }
}

/// A live session, as the thread keeps it.
#[derive(Debug)]
struct Live {
    attachment: Attachment,
    client: Arc<dyn Client>,
    /// Set until the first attachment is answered.
    answers: Option<Answers<()>>,
}

/// What the thread owns.
struct Link {
    vm: u32,
    path: PathBuf,
    shared: Arc<Shared>,
    end: Sender<End>,
    /// `vgpud` has taken this backend for the VM's once.
    welcomed: bool,
    live: BTreeMap<u32, Live>,
    /// Sessions that `vgpud` said are to end while something else was asked of it, and with which error.
    ends: Vec<(u32, i32)>,
}

impl Link {
    fn run(mut self) {
        let vm = self.vm;
        let mut pause = PAUSE_MIN;
        let mut failed = false;
        loop {
            match self.connect() {
                Ok(Ok(socket)) => {
                    self.welcomed = true;
                    pause = PAUSE_MIN;
                    failed = false;
                    let Err(Lost(why)) = self.serve(&socket);
                    log::warn!(
                        "vm {vm}: lost vgpud: {why}; sessions that go on: {}",
                        self.live.len()
                    );
                }
                Ok(Err((Refusal::Duplicate, _))) if !self.welcomed => {
                    let path = self.path.display();
                    let message = format!(
                        "VM {vm} has a backend already, which vgpud at {path} knows: end that one first"
                    );
                    // Nobody hears it if this program ends anyhow.
                    let _ = self.end.send(Err(message));
                    return;
                }
                Ok(Err((why, message))) => {
                    let status = self.status_of(why);
                    if !failed {
                        log::warn!("vm {vm}: vgpud refuses this VM: {message}");
                    }
                    failed = true;
                    self.fail_all(status);
                }
                Err(Lost(why)) => {
                    if !failed {
                        log::warn!("vm {vm}: no vgpud at {}: {why}", self.path.display());
                    }
                    failed = true;
                    self.forget_gpus();
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Connects and says who we are; a refusal is the inner error.
    fn connect(&mut self) -> Result<Result<OwnedFd, (Refusal, String)>, Lost> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Before it connects, which also waits: for room among those whom a vgpud that hangs has not accepted.
        for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, timeout, Some(ANSWER_WAIT))?;
        }
        rustix::net::connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        let hello = Request::Hello {
            version: VERSION,
            vm: self.vm,
        };
        match call(&socket, &hello, &[], &mut self.ends)? {
            Answer::Welcome { pool, priority } => {
                log::info!(
                    "vm {}: vgpud maps it to pool {pool}, priority {priority}",
                    self.vm
                );
                Ok(Ok(socket))
            }
            Answer::Refused { why, message } => Ok(Err((why, message))),
            other => Err(Lost(format!("unexpected answer to a greeting: {other:?}"))),
        }
    }

    /// Serves what is asked until the connection fails.
    fn serve(&mut self, socket: &OwnedFd) -> Result<std::convert::Infallible, Lost> {
        for session in self.live.keys().copied().collect::<Vec<_>>() {
            self.attach(socket, session)?;
        }
        loop {
            while let Some(ask) = self.next() {
                self.serve_one(socket, ask)?;
                self.end_sessions();
            }
            self.end_sessions();
            let mut fds = [
                PollFd::new(&self.shared.wake, PollFlags::IN),
                PollFd::new(socket, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None::<&Timespec>) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [wake, answer] = fds.map(|fd| fd.revents());
            if !answer.is_empty() {
                // Nothing was asked, so nothing can be answered.
                match packet::receive(socket)?.0 {
                    Answer::End { session, code } => self.ends.push((session, code)),
                    other => return Err(Lost(format!("unexpected message: {other:?}"))),
                }
            }
            if !wake.is_empty() {
                self.shared.wake.clear();
            }
        }
    }

    /// Ends the sessions that `vgpud` wants ended. One that it does not know any longer has ended already.
    fn end_sessions(&mut self) {
        for (session, code) in self.ends.drain(..) {
            if let Some(live) = self.live.get(&session) {
                log::warn!(
                    "vm {} session {session}: vgpud ends it, with CUDA error {code}",
                    self.vm
                );
                live.client.end(code);
            }
        }
    }

    fn next(&self) -> Option<Ask> {
        self.shared
            .asks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    fn serve_one(&mut self, socket: &OwnedFd, ask: Ask) -> Result<(), Lost> {
        match ask {
            Ask::Open { answers, .. } if answers.is_abandoned() => Ok(()),
            Ask::Open { asked, answers } => {
                let session = asked.session;
                let request = Request::OpenSession {
                    session,
                    pid: asked.pid,
                    program: asked.program.clone(),
                    gpus: asked.gpus.clone(),
                };
                match call(socket, &request, &[], &mut self.ends) {
                    Ok(Answer::Gpus { uuids, mps }) => answers.give(Ok(Gpus { uuids, mps })),
                    Ok(Answer::Refused { why, message }) => {
                        log::warn!("vm {} session {session}: vgpud refuses it: {message}", self.vm);
                        answers.give(Err(self.status_of(why)));
                    }
                    Ok(other) => return Err(Lost(format!("unexpected answer: {other:?}"))),
                    Err(lost) => {
                        // Asked again once there is a connection.
                        let again = Ask::Open { asked, answers };
                        let mut asks = self.shared.asks.lock().unwrap_or_else(PoisonError::into_inner);
                        asks.push_front(again);
                        return Err(lost);
                    }
                }
                Ok(())
            }
            Ask::Attach { attachment, answers } => {
                let session = attachment.session;
                let live = Live {
                    attachment,
                    client: answers.client.clone(),
                    answers: Some(answers),
                };
                self.live.insert(session, live);
                self.attach(socket, session)
            }
            Ask::Gpus => {
                let answer = call(socket, &Request::VmGpus, &[], &mut self.ends);
                let told = match &answer {
                    Ok(Answer::VmGpus { gpus }) => Ok(gpus::encode(gpus).into()),
                    Ok(Answer::Refused { why, .. }) => gpus::refused(self.status_of(*why)),
                    Ok(_) => Err(Status::HostError),
                    Err(_) => Err(Status::NoScheduler),
                };
                self.shared.gpus.tell(Instant::now(), told);
                match answer? {
                    Answer::VmGpus { .. } | Answer::Refused { .. } => Ok(()),
                    other => Err(Lost(format!("unexpected answer: {other:?}"))),
                }
            }
            Ask::Close { session } => {
                self.live.remove(&session);
                // `NotFound` is a fine answer: it may have been lost with a former vgpud.
                call(socket, &Request::CloseSession { session }, &[], &mut self.ends).map(drop)
            }
        }
    }

    /// Attaches a live session, with a new socket.
    fn attach(&mut self, socket: &OwnedFd, session: u32) -> Result<(), Lost> {
        let Some(live) = self.live.get_mut(&session) else {
            return Ok(());
        };
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (theirs, executors) = rustix::net::socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
        let Attachment {
            pid,
            program,
            gpus,
            exec_pid,
            pidfd,
            page,
            ..
        } = &live.attachment;
        let request = Request::AttachSession {
            session,
            pid: *pid,
            program: program.clone(),
            gpus: gpus.clone(),
            exec_pid: *exec_pid,
        };
        let fds = [page.as_fd(), theirs.as_fd(), pidfd.as_fd()];
        match call(socket, &request, &fds, &mut self.ends)? {
            Answer::Ok => {
                // First the socket, then the answer: so the executor knows its scheduler before the guest's next request.
                live.client.attached(executors, crate::fd::duplicate(page)?);
                if let Some(answers) = live.answers.take() {
                    answers.give(Ok(()));
                }
                Ok(())
            }
            Answer::Refused { why, message } => {
                log::warn!("vm {} session {session}: vgpud refuses it: {message}", self.vm);
                let status = self.status_of(why);
                if let Some(live) = self.live.remove(&session) {
                    match live.answers {
                        Some(answers) => answers.give(Err(status)),
                        None => live.client.refused(),
                    }
                }
                Ok(())
            }
            other => Err(Lost(format!("unexpected answer: {other:?}"))),
        }
    }

    /// What the guest is told of a refusal.
    fn status_of(&self, why: Refusal) -> Status {
        match why {
            Refusal::NotMapped => Status::NoPool,
            Refusal::NoGpu => Status::NoGpu,
            Refusal::Quarantined { wait_s } => {
                // One that ends within this second takes a second all the same: 0 stands for one without an end.
                let wait_s = wait_s.map_or(0, |wait_s| u32::try_from(wait_s.max(1)).unwrap_or(u32::MAX));
                self.shared.quarantine_wait_s.store(wait_s, Ordering::Relaxed);
                Status::Quarantined
            }
            // Of a session that is opened or attached: a GPU.
            Refusal::NotFound => Status::NotFound,
            Refusal::Invalid
            | Refusal::Duplicate
            | Refusal::BadConfig
            | Refusal::NotAllowed
            | Refusal::Conflict
            | Refusal::Failed => Status::HostError,
        }
    }

    /// The VM is refused: so is what its sessions ask, and those that live end, unless it is a passing disorder.
    fn fail_all(&mut self, status: Status) {
        if matches!(status, Status::NoPool | Status::NoGpu | Status::Quarantined) {
            for live in std::mem::take(&mut self.live).into_values() {
                match live.answers {
                    Some(answers) => answers.give(Err(status)),
                    None => live.client.refused(),
                }
            }
        }
        while let Some(ask) = self.next() {
            match ask {
                Ask::Open { answers, .. } => answers.give(Err(status)),
                Ask::Attach { answers, .. } => answers.give(Err(status)),
                Ask::Close { session } => drop(self.live.remove(&session)),
                Ask::Gpus => self.shared.gpus.tell(Instant::now(), gpus::refused(status)),
            }
        }
    }

    /// Nobody is there to ask: who waits for word of the GPUs does not wait any longer.
    fn forget_gpus(&self) {
        let mut asks = self.shared.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asks.len();
        asks.retain(|ask| !matches!(ask, Ask::Gpus));
        let was_asked = asks.len() != before;
        drop(asks);
        if was_asked {
            self.shared.gpus.tell(Instant::now(), Err(Status::NoScheduler));
        }
    }
}

/// Asks, and waits for the answer. What `vgpud` says unasked meanwhile is added to `ends`.
fn call(
    socket: &OwnedFd,
    request: &Request,
    fds: &[BorrowedFd<'_>],
    ends: &mut Vec<(u32, i32)>,
) -> Result<Answer, Lost> {
    let started = Instant::now();
    packet::send(socket, request, fds)?;
    loop {
        match packet::receive(socket)?.0 {
            Answer::End { session, code } => ends.push((session, code)),
            answer => {
                log::debug!("vgpud answered {request:?} after {:?}", started.elapsed());
                return Ok(answer);
            }
        }
    }
}
