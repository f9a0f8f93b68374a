//! A session: a thread of its own that does what the guest asks of it, one request after the other, by asking
//! its executor, and that watches the executor. Nothing it waits for is unbounded, but for the guest's own work when
//! the guest wants memory back; and that wait, as all others, is over when the session is to end.
use super::area;
use super::control::{Opening, SessionRequest, program_name};
use super::events::Events;
use super::maps::Maps;
use super::memory::Memory;
use super::queues::{GuestMemory, Reply};
use super::spawn::{Executor, REAP_WAIT, Stuck};
use crate::budget::{Account, Use};
use crate::fd::{Bell, sealed_memory};
use crate::host::Host;
use crate::scheduler::{Asked, Attachment, Client, Waiting};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::host::{ExecKind, ExecMap, ExecReply, Start};
use vgpu_protocol::limits::RUNS_PER_MESSAGE_MAX;
use vgpu_protocol::result;
use vgpu_protocol::virtio::{Map, RingCreate, RingDestroy, Run, SessionOpened, Status, Unmap};
use vgpu_sched_api::packet::PacketError;
use vgpu_sched_api::turn::PAGE_LEN;
use vm_memory::GuestAddress;
use zerocopy::IntoBytes;

/// How long a session waits for `vgpud`, which may be restarting.
const SCHEDULER_WAIT: Duration = Duration::from_secs(10);
/// How long an executor may take to answer. Starting libcuda takes 0.3 s; registering 128 GiB takes tens of seconds.
const EXECUTOR_WAIT: Duration = Duration::from_secs(120);

/// What a ring uses.
const ONE_RING: Use = Use {
    mapped: 0,
    registered: 0,
    runs: 0,
    rings: 1,
    sessions: 0,
};

/// What a session uses by being there.
const ONE_SESSION: Use = Use {
    mapped: 0,
    registered: 0,
    runs: 0,
    rings: 0,
    sessions: 1,
};

/// What a session's thread is told.
#[derive(Debug)]
enum Command {
    Request(SessionRequest, Reply),
    Scheduler { socket: OwnedFd, page: OwnedFd },
    Refused,
}

/// A session as the rest of the device sees it.
#[derive(Debug)]
pub struct Handle {
    number: u32,
    commands: Mutex<VecDeque<Command>>,
    wake: Bell,
    /// The guest asked for its end: what is under way is not waited for.
    closing: AtomicBool,
    /// The device stops: as above.
    stopping: AtomicBool,
    /// The error with which `vgpud` wants it to end; [`result::SUCCESS`] before.
    end: AtomicI32,
    doorbells: Mutex<BTreeMap<u32, Bell>>,
    area: OnceLock<GuestAddress>,
    /// See [`Self::has_left`].
    left: AtomicBool,
    ended: Mutex<bool>,
    ended_changed: Condvar,
}

/// All sessions of a device, by number.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Those whose threads run.
    pub running: BTreeMap<u32, Arc<Handle>>,
    /// Those that were ended because the rings stopped or the memory changed, and where their areas lie: the driver may still know
    /// them, until they are closed.
    pub lost: BTreeMap<u32, Option<GuestAddress>>,
    /// The rings stopped and have not started again.
    pub stopped: bool,
    /// The front end is gone: none is opened any more.
    pub over: bool,
}

impl Sessions {
    /// The driver no longer knows a session.
    fn forget(&mut self, number: u32) {
        self.running.remove(&number);
        self.lost.remove(&number);
    }

    /// Forgets a session that has ended, and tells the driver that it is closed: from then on its pages are the guest's again, unless it
    /// was written off. Both at once, so that who finds none running any more knows that all are answered.
    pub fn close(&mut self, number: u32, host: &Host, reply: Reply) {
        self.forget(number);
        let status = if host.written_off().contains(&number) {
            Status::HostError
        } else {
            Status::Ok
        };
        reply.send(status, &[]);
    }
}

/// A session's place among those that run, which it has until this is dropped.
pub struct Entered {
    pub handle: Arc<Handle>,
    pub around: Surroundings,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let number = self.handle.number;
        let mut sessions = lock(&self.around.sessions);
        sessions.running.remove(&number);
        // No more come: who passes requests on looks there first.
        let late = std::mem::take(&mut *lock(&self.handle.commands));
        for command in late {
            match command {
                Command::Request(SessionRequest::Close, reply) => {
                    sessions.close(number, &self.around.host, reply)
                }
                Command::Request(_, reply) => reply.send(Status::Lost, &[]),
                Command::Scheduler { .. } | Command::Refused => {}
            }
        }
        drop(sessions);
        *lock(&self.handle.ended) = true;
        self.handle.ended_changed.notify_all();
    }
}

/// Locks; a thread that panicked left nothing half-done behind these locks.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// A session that is about to open.
    pub fn new(number: u32) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            number,
            commands: Mutex::new(VecDeque::new()),
            wake: Bell::new()?,
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            end: AtomicI32::new(result::SUCCESS),
            doorbells: Mutex::new(BTreeMap::new()),
            area: OnceLock::new(),
            left: AtomicBool::new(false),
            ended: Mutex::new(false),
            ended_changed: Condvar::new(),
        }))
    }

    /// Passes a request on.
    pub fn request(&self, what: SessionRequest, reply: Reply) {
        if what == SessionRequest::Close {
            self.closing.store(true, Ordering::SeqCst);
        }
        self.push(Command::Request(what, reply));
    }

    /// Rings a ring's doorbell, if there is one.
    pub fn doorbell(&self, ring: u32) {
        if let Some(doorbell) = lock(&self.doorbells).get(&ring) {
            doorbell.ring();
        }
    }

    /// Ends the session. Whether it was told so before.
    pub fn stop(&self) -> bool {
        let before = self.stopping.swap(true, Ordering::SeqCst);
        self.wake.ring();
        before
    }

    /// Waits until the session's thread is done; whether it was in time.
    pub fn wait_ended(&self, until: Instant) -> bool {
        let mut ended = lock(&self.ended);
        while !*ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            ended = self
                .ended_changed
                .wait_timeout(ended, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Whether it has ended in order: nothing of it uses guest memory any more.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// Where the session area's first page lies, once it is mapped.
    pub fn area(&self) -> Option<GuestAddress> {
        self.area.get().copied()
    }

    fn push(&self, command: Command) {
        lock(&self.commands).push_back(command);
        self.wake.ring();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The error with which `vgpud` wants it to end.
    fn end_code(&self) -> Option<result::Code> {
        Some(self.end.load(Ordering::SeqCst)).filter(|code| *code != result::SUCCESS)
    }

    fn is_ending(&self) -> bool {
        self.closing.load(Ordering::SeqCst) || self.is_stopping()
    }
}

impl Client for Handle {
    fn wake(&self) {
        self.wake.ring();
    }

    fn attached(&self, socket: OwnedFd, page: OwnedFd) {
        self.push(Command::Scheduler { socket, page });
    }

    fn refused(&self) {
        self.push(Command::Refused);
    }

    fn end(&self, code: i32) {
        // Without an error nobody would be told.
        let code = if code == result::SUCCESS {
            result::UNKNOWN
        } else {
            code
        };
        self.end.store(code, Ordering::SeqCst);
        self.wake.ring();
    }
}

/// What a session uses of its device.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// What outlives the device.
    pub host: Arc<Host>,
    /// The guest's memory, for the session area's words.
    pub guest: GuestMemory,
    /// The same, as executors get it.
    pub memory: Arc<Memory>,
    /// Events for the guest.
    pub events: Arc<Events>,
    /// Where the session is entered until it ends.
    pub sessions: Arc<Mutex<Sessions>>,
}

/// Runs a session from its opening to its end. Whatever happens, also a panic, `entered` tells who waits for its end.
pub fn run(entered: &Entered, opening: &Opening, reply: Reply) {
    let (handle, around) = (entered.handle.clone(), entered.around.clone());
    let look = match Bell::new() {
        Ok(look) => look,
        Err(error) => {
            log::error!("vm {} session {}: {error}", around.host.vm, handle.number);
            return reply.send(Status::HostError, &[]);
        }
    };
    let mut session = Session {
        account: Account::new(around.host.budget.clone()),
        around,
        handle,
        look,
        shares: None,
        exec: None,
        maps: Maps::new(0),
        area_page: None,
        stuck: false,
    };
    match session.open(opening) {
        Ok(window) => {
            let opened = SessionOpened {
                session: session.handle.number,
                reserved: 0,
                window,
            };
            reply.send(Status::Ok, opened.as_bytes());
            session.serve();
        }
        Err(status) => {
            session.end();
            // Before the guest is answered: then it may open another one in its place.
            lock(&session.around.sessions).forget(session.handle.number);
            // To be lost before it was open is the host's failure.
            let status = if status == Status::Lost {
                Status::HostError
            } else {
                status
            };
            reply.refuse(status, session.around.host.scheduler.wait_s(status));
        }
    }
}

/// What a session's thread woke up for.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    /// The executor sent something or closed its socket.
    Socket,
    /// The executor is gone.
    Death,
    /// Look at the handle.
    Handle,
    /// The time is over.
    Timeout,
}

struct Session {
    around: Surroundings,
    handle: Arc<Handle>,
    /// Rung by the executor when the guest should look at its area.
    look: Bell,
    /// Where the executor asks for what sessions share; `None` once it must not any more.
    shares: Option<OwnedFd>,
    /// `None` before it is started, and once the session is lost.
    exec: Option<Executor>,
    maps: Maps,
    /// What its executor uses of what the VM may.
    account: Account,
    /// Where the session area's first page will lie when it is mapped as a whole.
    area_page: Option<GuestAddress>,
    /// The executor could not be reaped.
    stuck: bool,
}

impl Session {
    fn open(&mut self, opening: &Opening) -> Result<u64, Status> {
        let open = &opening.open;
        let (vm, number) = (self.around.host.vm, self.handle.number);
        let host = self.around.host.clone();
        // Another front end's sessions are the VM's as well.
        self.account.take(ONE_SESSION)?;
        let until = Instant::now() + REAP_WAIT;
        host.front_ends.settle(until, || self.handle.is_ending());
        let program = program_name(&open.name);
        let asked = Asked {
            session: number,
            pid: open.pid,
            program: program.clone(),
            gpus: opening.gpus.clone(),
        };
        let waiting = host.scheduler.open(asked, self.handle.clone());
        let gpus = self.wait_scheduler(&waiting)?;
        let exec = Executor::start(&host.exec, &gpus)
            .map_err(|error| self.host_error("start its executor", &error))?;
        let exec_pid = exec.pid();
        let pidfd = exec.pidfd().try_clone_to_owned();
        self.exec = Some(exec);
        let pidfd = pidfd.map_err(|error| self.host_error("descriptor", &error))?;
        let start = Start {
            vm,
            session: number,
            windows_len: open.windows_len,
            reserved: 0,
            windows: open.windows,
        };
        let look = crate::fd::duplicate(&self.look).map_err(|error| self.host_error("descriptor", &error))?;
        let shares = self
            .share_socket()
            .map_err(|error| self.host_error("socket", &error))?;
        let window = self
            .ask(ExecKind::Start, start.as_bytes(), &[look.as_fd(), shares.as_fd()])?
            .value;
        if !open.windows[..open.windows_len as usize].contains(&window) {
            return Err(self.lose("its executor chose a window that was not proposed"));
        }
        self.maps = Maps::new(window);
        let memory = self.around.memory.clone();
        let (files, lens): (Vec<_>, Vec<u64>) = memory.files().map(|(file, len)| (file.as_fd(), len)).unzip();
        self.ask(ExecKind::Memory, lens.as_bytes(), &files)?;
        let page = sealed_memory("vgpu-turn", PAGE_LEN as u64)
            .map_err(|error| self.host_error("turn page", &error))?;
        let attachment = Attachment {
            session: number,
            pid: open.pid,
            program: program.clone(),
            gpus: gpus.uuids.clone(),
            exec_pid,
            pidfd,
            page,
        };
        let waiting = host.scheduler.attach(attachment, self.handle.clone());
        self.wait_scheduler(&waiting)?;
        log::info!(
            "vm {vm} session {number}: opened for {program:?}, guest process {}, executor {exec_pid}, GPUs {}",
            open.pid,
            gpus.uuids.join(",")
        );
        Ok(window)
    }

    /// Makes the socket on which the executor asks for what sessions share; its end of it.
    fn share_socket(&mut self) -> std::io::Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Only this end: who does not take an answer must not hold the session's thread.
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.shares = Some(ours);
        Ok(theirs)
    }

    /// Does what the guest asks until the session ends.
    fn serve(&mut self) {
        loop {
            if self.handle.is_stopping() {
                return self.end();
            }
            if self.handle.end_code().is_some() {
                self.lose("vgpud ends it");
            }
            let command = lock(&self.handle.commands).pop_front();
            match command {
                Some(Command::Request(SessionRequest::Close, reply)) => {
                    self.end();
                    let around = &self.around;
                    return lock(&around.sessions).close(self.handle.number, &around.host, reply);
                }
                Some(Command::Request(what, reply)) => match self.request(what) {
                    Ok(()) => reply.send(Status::Ok, &[]),
                    Err(status) => {
                        self.warn(format_args!("a request fails: {status:?}"));
                        reply.send(status, &[]);
                    }
                },
                Some(Command::Scheduler { socket, page }) => {
                    let sent = self.ask(ExecKind::Scheduler, &[], &[socket.as_fd(), page.as_fd()]);
                    if sent.is_err_and(|status| status != Status::Lost) {
                        self.lose("its executor refuses the connection to vgpud");
                    }
                }
                Some(Command::Refused) => {
                    self.lose("vgpud no longer accepts it");
                }
                None => match self.wait(None) {
                    Woken::Handle | Woken::Timeout => {}
                    Woken::Death => {
                        self.lose("its executor ended");
                    }
                    Woken::Socket => {
                        self.lose("its executor closed its socket or spoke unasked");
                    }
                },
            }
        }
    }

    fn request(&mut self, what: SessionRequest) -> Result<(), Status> {
        if self.exec.is_none() {
            return Err(Status::Lost);
        }
        match what {
            SessionRequest::Map { map, runs } => self.map(&map, &runs),
            SessionRequest::Unmap(unmap) => self.unmap(&unmap),
            SessionRequest::RingCreate(ring) => self.ring_create(&ring),
            SessionRequest::RingDestroy(ring) => self.ring_destroy(&ring),
            // Handled by who calls this.
            SessionRequest::Close => Err(Status::Invalid),
        }
    }

    fn map(&mut self, map: &Map, runs: &[Run]) -> Result<(), Status> {
        let places = self.around.memory.translate(runs).ok_or(Status::Invalid)?;
        if places.len() > RUNS_PER_MESSAGE_MAX {
            return Err(Status::Limit);
        }
        let step = self.maps.check(map, runs, places.len())?;
        let cost = step.cost;
        if !self.maps.has_area() && map.offset == 0 {
            self.area_page = runs.first().map(|run| GuestAddress(run.gpa));
        }
        let header = ExecMap {
            addr: map.addr,
            len: map.len,
            offset: map.offset,
            flags: map.flags,
            runs_len: places.len() as u32,
        };
        let mut body = header.as_bytes().to_vec();
        body.extend_from_slice(places.as_bytes());
        self.spend(cost, ExecKind::Map, &body, &[])?;
        if self.maps.done(step)
            && let Some(page) = self.area_page.take()
        {
            self.handle.area.get_or_init(|| page);
        }
        Ok(())
    }

    fn unmap(&mut self, unmap: &Unmap) -> Result<(), Status> {
        let whole = self.maps.check_unmap(unmap.addr)?;
        match self.ask(ExecKind::Unmap, unmap.as_bytes(), &[]) {
            Ok(_) => {}
            // It has undone a mapping itself that it could not complete.
            Err(Status::NotFound) if !whole => {}
            Err(status) => return Err(status),
        }
        self.account.give(self.maps.unmapped(unmap.addr));
        Ok(())
    }

    fn ring_create(&mut self, ring: &RingCreate) -> Result<(), Status> {
        self.maps.check_ring(ring)?;
        let doorbell = Bell::new().map_err(|error| self.host_error("doorbell", &error))?;
        self.spend(
            ONE_RING,
            ExecKind::RingCreate,
            ring.as_bytes(),
            &[doorbell.as_fd()],
        )?;
        self.maps.ring_created(ring);
        lock(&self.handle.doorbells).insert(ring.ring, doorbell);
        Ok(())
    }

    fn ring_destroy(&mut self, ring: &RingDestroy) -> Result<(), Status> {
        if !self.maps.has_ring(ring.ring) {
            return Err(Status::NotFound);
        }
        self.ask(ExecKind::RingDestroy, ring.as_bytes(), &[])?;
        self.maps.ring_destroyed(ring.ring);
        self.account.give(ONE_RING);
        lock(&self.handle.doorbells).remove(&ring.ring);
        Ok(())
    }

    /// Asks the executor for something that uses what the VM may use only so much of.
    fn spend(
        &mut self,
        cost: Use,
        kind: ExecKind,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Status> {
        self.account.take(cost)?;
        match self.ask(kind, body, fds) {
            Ok(_) => Ok(()),
            // Everything was given back when its executor was reaped.
            Err(Status::Lost) if self.exec.is_none() => Err(Status::Lost),
            Err(status) => {
                self.account.give(cost);
                Err(status)
            }
        }
    }

    /// Asks the executor and waits for its reply, unless the session is to end.
    fn ask(&mut self, kind: ExecKind, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<ExecReply, Status> {
        let exec = self.exec.as_mut().ok_or(Status::Lost)?;
        let sequence = match exec.ask(kind, body, fds) {
            Ok(sequence) => sequence,
            Err(error) => return Err(self.lose(&format!("its executor takes no request: {error}"))),
        };
        // Memory is taken back once no work uses it, and work may take as long as it likes, also to get its turn.
        let until = (kind != ExecKind::Unmap).then(|| Instant::now() + EXECUTOR_WAIT);
        loop {
            if self.handle.is_ending() {
                return Err(self.lose("it ends while something is asked of its executor"));
            }
            if self.handle.end_code().is_some() {
                return Err(self.lose("vgpud ends it"));
            }
            match self.wait(until) {
                Woken::Handle => {}
                Woken::Timeout => return Err(self.lose("its executor does not answer")),
                Woken::Death => return Err(self.lose("its executor ended")),
                Woken::Socket => {
                    let exec = self.exec.as_ref().ok_or(Status::Lost)?;
                    match exec.reply() {
                        Ok(Some(reply)) if reply.sequence == sequence => {
                            return match Status::from_u32(reply.status) {
                                Status::Ok => Ok(reply),
                                status => Err(status),
                            };
                        }
                        Err(PacketError::Io(rustix::io::Errno::AGAIN)) => {}
                        Ok(_) | Err(PacketError::TooLong) => {
                            return Err(self.lose("its executor answers nonsense"));
                        }
                        Err(_) => return Err(self.lose("its executor ended")),
                    }
                }
            }
        }
    }

    /// Waits for an answer from `vgpud`, unless the session is to end.
    fn wait_scheduler<T>(&mut self, waiting: &Waiting<T>) -> Result<T, Status> {
        let until = Instant::now() + SCHEDULER_WAIT;
        loop {
            if let Some(answer) = waiting.take() {
                return answer;
            }
            if self.handle.is_ending() {
                return Err(Status::Lost);
            }
            match self.wait(Some(until)) {
                Woken::Handle => {}
                Woken::Timeout => {
                    self.warn(format_args!("vgpud does not answer"));
                    return Err(Status::NoScheduler);
                }
                Woken::Death | Woken::Socket => return Err(self.lose("its executor ended")),
            }
        }
    }

    /// Waits for something to do. Passes on what the executor has to tell the guest.
    fn wait(&mut self, until: Option<Instant>) -> Woken {
        loop {
            let timeout = until.map(|until| {
                let left = until.saturating_duration_since(Instant::now());
                Timespec {
                    tv_sec: left.as_secs() as _,
                    tv_nsec: i64::from(left.subsec_nanos()) as _,
                }
            });
            let mut fds = vec![
                PollFd::new(&self.handle.wake, PollFlags::IN),
                PollFd::new(&self.look, PollFlags::IN),
            ];
            if let Some(exec) = &self.exec {
                fds.push(PollFd::from_borrowed_fd(exec.socket(), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(exec.pidfd(), PollFlags::IN));
                if let Some(shares) = &self.shares {
                    fds.push(PollFd::new(shares, PollFlags::IN));
                }
            }
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Woken::Timeout,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    log::error!(
                        "vm {} session {}: poll: {error}",
                        self.around.host.vm,
                        self.handle.number
                    );
                    return Woken::Timeout;
                }
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let is = |index: usize| ready.get(index).copied().unwrap_or(false);
            if is(1) {
                self.look.clear();
                self.around.events.raise([&self.handle.number]);
            }
            if is(4)
                && let Some(shares) = self.shares.take()
                && self.around.host.shares.serve(self.handle.number, &shares)
            {
                self.shares = Some(shares);
            }
            if is(0) {
                self.handle.wake.clear();
                return Woken::Handle;
            }
            // What it still said comes before its end.
            if is(2) {
                return Woken::Socket;
            }
            if is(3) {
                return Woken::Death;
            }
            // Also for an executor that has the guest look without end.
            if until.is_some_and(|until| Instant::now() >= until) {
                return Woken::Timeout;
            }
        }
    }

    /// The session is lost: reaps its executor and tells the guest. Returns what requests are answered from now on.
    fn lose(&mut self, why: &str) -> Status {
        let Some(exec) = self.exec.take() else {
            return Status::Lost;
        };
        match exec.end() {
            Ok(status) if self.handle.is_ending() => {
                log::debug!(
                    "vm {} session {}: {why} ({status})",
                    self.around.host.vm,
                    self.handle.number
                );
            }
            Ok(status) => self.warn(format_args!("lost: {why} ({status})")),
            Err(stuck) => self.write_off(stuck),
        }
        self.leave();
        if !self.handle.is_stopping()
            && let Some(page) = self.handle.area()
        {
            let code = self.handle.end_code().unwrap_or(result::UNKNOWN);
            area::mark_lost(&self.around.guest, page, code);
            self.around.events.raise([&self.handle.number]);
        }
        Status::Lost
    }

    /// Reaps the executor, if there is one still.
    fn end(&mut self) {
        if let Some(exec) = self.exec.take()
            && let Err(stuck) = exec.end()
        {
            self.write_off(stuck);
        }
        self.leave();
        log::info!(
            "vm {} session {}: closed",
            self.around.host.vm,
            self.handle.number
        );
    }

    fn leave(&mut self) {
        lock(&self.handle.doorbells).clear();
        self.shares = None;
        self.around.host.shares.forget(self.handle.number);
        if !self.stuck {
            self.account.give_all();
            self.around.host.scheduler.close(self.handle.number);
            self.handle.left.store(true, Ordering::SeqCst);
        }
    }

    /// A stuck executor goes on holding its GPU, which vgpud sees by its pidfd, and the guest's pages.
    fn write_off(&mut self, mut stuck: Stuck) {
        self.stuck = true;
        let number = self.handle.number;
        let host = &self.around.host;
        let mut account = std::mem::replace(&mut self.account, Account::new(host.budget.clone()));
        host.write_off(number, "its executor could not be reaped", move |host| {
            let gone = stuck.is_gone();
            if gone {
                account.give_all();
                host.scheduler.close(number);
            }
            gone
        });
    }

    fn warn(&self, message: std::fmt::Arguments<'_>) {
        let host = &self.around.host;
        host.quiet.warn(format_args!(
            "vm {} session {}: {message}",
            host.vm, self.handle.number
        ));
    }

    fn host_error(&self, what: &str, error: &std::io::Error) -> Status {
        log::error!(
            "vm {} session {}: {what}: {error}",
            self.around.host.vm,
            self.handle.number
        );
        Status::HostError
    }
}
