//! A `vgpud` of the test's own, and what plays its backends and executors.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, MemfdFlags, Mode, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{
    Answer, Arrival, Change, ChangeRecord, Changed, EventRecord, FromExec, GpuRungs, Request, Stats, Status,
    ToExec, TurnRecord, VERSION, VmStats, VmStatus,
};
use vgpu_sched_api::turn::{PAGE_LEN, Page, State, Word};
use vgpu_sched_api::vm_page::VmPage;
use vgpu_sched_api::{packet, vm_page};

/// After this long a test that waits has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// A pool map: these VMs in a pool of all GPUs.
pub fn map(vms: &[(u32, &str)], scheduler: &str) -> String {
    let numbers: Vec<String> = vms.iter().map(|(vm, _)| vm.to_string()).collect();
    let mut map = format!(
        "[scheduler]\n{scheduler}\n[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [{}]\n",
        numbers.join(", ")
    );
    for (vm, priority) in vms {
        map += &format!("[vm.{vm}]\npriority = \"{priority}\"\n");
    }
    map
}

/// A change that is to be made.
pub fn wanted(change: Change) -> Request {
    Request::Change(change.into())
}

/// The software GPU's NVML, which Cargo builds beside this test.
fn nvml() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .with_file_name("libsoftgpu_nvml.so")
}

/// A running `vgpud` in a folder of its own.
pub struct Daemon {
    dir: tempfile::TempDir,
    gpus: u32,
    /// `VGPU_SOFTGPU_MIG`.
    divided: &'static str,
    /// `--scan-on`.
    pub scan_on: &'static str,
    /// What plays the kernel's log, if anything does; open for writing, so that it does not end.
    kmsg: Option<File>,
    child: Option<Child>,
    log: Arc<Log>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// What it has written to its log.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grown: Condvar,
}

impl Daemon {
    /// Starts one with a software GPU and waits until it is ready.
    pub fn start(map: &str) -> Self {
        Self::with_gpus(1, map)
    }

    /// Starts one with so many software GPUs.
    pub fn with_gpus(gpus: u32, map: &str) -> Self {
        let mut daemon = Self::stopped(gpus, map);
        daemon.restart();
        daemon
    }

    /// Starts one with so many software GPUs, of which these are divided into MIG instances.
    pub fn with_instances(gpus: u32, divided: &'static str, map: &str) -> Self {
        let mut daemon = Self::stopped(gpus, map);
        daemon.divided = divided;
        daemon.restart();
        daemon
    }

    /// The same with a kernel's log of the test's.
    pub fn with_kmsg(gpus: u32, divided: &'static str, map: &str) -> Self {
        let mut daemon = Self::stopped(gpus, map);
        daemon.divided = divided;
        let path = daemon.kmsg_path();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        daemon.kmsg = Some(File::options().read(true).write(true).open(path).unwrap());
        daemon.restart();
        daemon
    }

    fn stopped(gpus: u32, map: &str) -> Self {
        let daemon = Self {
            dir: tempfile::tempdir().unwrap(),
            gpus,
            divided: "",
            scan_on: "start,change,view",
            kmsg: None,
            child: None,
            log: Arc::default(),
            reader: None,
        };
        std::fs::create_dir(daemon.softgpu_dir()).unwrap();
        std::os::unix::fs::symlink(nvml(), daemon.dir.path().join("nvml.so")).unwrap();
        daemon.write_map(map);
        daemon
    }

    pub fn write_map(&self, map: &str) {
        std::fs::write(self.dir.path().join("pools.toml"), map).unwrap();
    }

    pub fn map_path(&self) -> PathBuf {
        self.dir.path().join("pools.toml")
    }

    pub fn read_map(&self) -> String {
        std::fs::read_to_string(self.map_path()).unwrap()
    }

    pub fn softgpu_dir(&self) -> PathBuf {
        self.dir.path().join("softgpu")
    }

    /// Has a GPU fall off its bus, or come back.
    pub fn lose_gpu(&self, number: u32, lost: bool) {
        let mark = self.softgpu_dir().join(format!("lost-{number}"));
        if lost {
            std::fs::write(mark, "").unwrap();
        } else {
            std::fs::remove_file(mark).unwrap();
        }
    }

    /// What a GPU's sensors say from now on: a line `name value` each.
    pub fn set_sensors(&self, gpu: u32, sensors: &str) {
        let folder = self.softgpu_dir();
        // At once, so that nobody reads a part of it.
        std::fs::write(folder.join("sensors"), sensors).unwrap();
        std::fs::rename(folder.join("sensors"), folder.join(format!("sensors-{gpu}"))).unwrap();
    }

    fn kmsg_path(&self) -> PathBuf {
        self.dir.path().join("kmsg")
    }

    /// Adds a line to the kernel's log.
    pub fn write_kmsg(&self, line: &str) {
        writeln!(self.kmsg.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Ends the kernel's log.
    pub fn end_kmsg(&mut self) {
        self.kmsg = None;
    }

    /// Has NVML tell of an Xid of a GPU.
    pub fn inject_xid(&self, gpu: u32, number: u64) {
        let path = self.softgpu_dir().join(format!("xid-{gpu}"));
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{number}").unwrap();
    }

    /// Waits until the log has a line with this in it, from that place on, and returns the line and the place behind it.
    pub fn until_logged(&self, text: &str, from: usize) -> (String, usize) {
        let end = Instant::now() + LIMIT;
        let mut log = self.log.text.lock().unwrap();
        loop {
            if let Some(at) = log[from..].find(text).map(|at| from + at)
                && let Some(line_end) = log[at..].find('\n').map(|len| at + len)
            {
                let line_start = log[..at].rfind('\n').map_or(0, |before| before + 1);
                return (log[line_start..line_end].to_owned(), line_end);
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not logged in time: {text}\n{log}");
            log = self.log.grown.wait_timeout(log, left).unwrap().0;
        }
    }

    /// All of the log so far.
    pub fn logged(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Takes NVML away, or puts another file in its place, or brings it back.
    pub fn replace_nvml(&self, by: Option<&str>) {
        let library = self.dir.path().join("nvml.so");
        // It may be gone already.
        let _ = std::fs::remove_file(&library);
        match by {
            Some("nvml") => std::os::unix::fs::symlink(nvml(), library).unwrap(),
            Some(text) => std::fs::write(library, text).unwrap(),
            None => {}
        }
    }

    /// Has something changed.
    pub fn change(&self, change: Change) -> Changed {
        match self.ask(&wanted(change)) {
            Answer::Changed(changed) => changed,
            other => panic!("{other:?}"),
        }
    }

    /// Who changed what.
    pub fn changes(&self) -> Vec<ChangeRecord> {
        match self.ask(&Request::Changes { from: 0 }) {
            Answer::Changes { changes, .. } => changes,
            other => panic!("{other:?}"),
        }
    }

    /// Has it use another map.
    pub fn load(&self, map: &str) {
        self.write_map(map);
        self.change(Change::Reload {});
    }

    pub fn socket_path(&self) -> PathBuf {
        self.dir.path().join("vgpud.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Lets every user connect.
    pub fn open_to_all(&self) {
        for (path, mode) in [(self.dir.path(), 0o755), (&*self.socket_path(), 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vgpud"));
        command.arg("--config").arg(self.dir.path().join("pools.toml"));
        command.arg("--socket").arg(self.socket_path());
        command.arg("--state-dir").arg(self.state_dir());
        command.arg("--libnvidia-ml").arg(self.dir.path().join("nvml.so"));
        command.args(["--admin-group", "4242", "--scan-on", self.scan_on]);
        command.env("VGPU_SOFTGPU_DEVICES", self.gpus.to_string());
        command.env("VGPU_SOFTGPU_DIR", self.softgpu_dir());
        command.env("VGPU_SOFTGPU_MIG", self.divided);
        if self.kmsg_path().exists() {
            command.arg("--kmsg").arg(self.kmsg_path());
        }
        command.env("RUST_LOG", "debug").stderr(Stdio::piped());
        command
    }

    /// Starts it after it was ended.
    pub fn restart(&mut self) {
        assert!(self.child.is_none());
        let mut child = self.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        while !log.ends_with("ready\n") {
            assert_ne!(lines.read_line(&mut log).unwrap(), 0, "vgpud ended: {log}");
        }
        self.child = Some(child);
        self.log = Arc::default();
        *self.log.text.lock().unwrap() = log;
        let log = self.log.clone();
        self.reader = Some(std::thread::spawn(move || {
            let mut line = String::new();
            // A line that is cut off by its end matters to nobody.
            while matches!(lines.read_line(&mut line), Ok(read) if read > 0) {
                log.text.lock().unwrap().push_str(&line);
                log.grown.notify_all();
                line.clear();
            }
        }));
    }

    /// Ends it with a signal and returns its exit code, if it has one.
    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        let code = child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        if std::thread::panicking() {
            // Another thread may have panicked over it.
            let log = self.log.text.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("{log}");
        }
        code
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    pub fn connect(&self) -> OwnedFd {
        let family = AddressFamily::UNIX;
        let socket =
            rustix::net::socket_with(family, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(self.socket_path()).unwrap()).unwrap();
        socket
    }

    pub fn ask(&self, request: &Request) -> Answer {
        ask(&self.connect(), request, &[])
    }

    pub fn status(&self) -> Status {
        match self.ask(&Request::Status { from_vm: 0 }) {
            Answer::Status { status, .. } => *status,
            other => panic!("{other:?}"),
        }
    }

    pub fn vm(&self, vm: u32) -> VmStatus {
        let pools = self.status().pools;
        pools
            .into_iter()
            .flat_map(|pool| pool.vms)
            .find(|other| other.vm == vm)
            .unwrap()
    }

    /// The UUIDs of the GPUs that are listed.
    pub fn gpus(&self) -> Vec<String> {
        self.status().gpus.into_iter().map(|gpu| gpu.uuid).collect()
    }

    pub fn turns(&self) -> Vec<TurnRecord> {
        match self.ask(&Request::Turns { from: 0 }) {
            Answer::Turns { turns, .. } => turns,
            other => panic!("{other:?}"),
        }
    }

    pub fn stats(&self) -> Stats {
        match self.ask(&Request::Stats { from_vm: 0 }) {
            Answer::Stats { stats, .. } => *stats,
            other => panic!("{other:?}"),
        }
    }

    pub fn vm_stats(&self, vm: u32) -> VmStats {
        let vms = self.stats().vms;
        vms.into_iter().find(|other| other.vm == vm).unwrap()
    }

    /// What happened to a VM, or at all.
    pub fn events(&self, vm: Option<u32>) -> Vec<EventRecord> {
        match self.ask(&Request::Events { from: 0, vm }) {
            Answer::Events { events, .. } => events,
            other => panic!("{other:?}"),
        }
    }

    pub fn arrivals(&self, from: u64) -> (Vec<Arrival>, u64) {
        match self.ask(&Request::Arrivals { from }) {
            Answer::Arrivals { arrivals, next } => (arrivals, next),
            other => panic!("{other:?}"),
        }
    }

    pub fn probe(&self) -> Vec<GpuRungs> {
        match self.ask(&Request::Probe) {
            Answer::Probe { gpus } => gpus,
            other => panic!("{other:?}"),
        }
    }

    /// A backend for a VM.
    pub fn backend(&self, vm: u32) -> Backend {
        let backend = Backend {
            socket: self.connect(),
        };
        let answer = backend.ask(&Request::Hello { version: VERSION, vm });
        assert!(matches!(answer, Answer::Welcome { .. }), "{answer:?}");
        backend
    }

    /// A backend for a VM whose last one is gone. (A child that another test is about to start may share its
    /// socket for a moment.)
    pub fn next_backend(&self, vm: u32) -> Backend {
        let limit = Instant::now() + LIMIT;
        loop {
            let backend = Backend {
                socket: self.connect(),
            };
            let answer = backend.ask(&Request::Hello { version: VERSION, vm });
            if matches!(answer, Answer::Welcome { .. }) {
                return backend;
            }
            assert!(Instant::now() < limit, "{answer:?}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end(Signal::KILL);
        }
    }
}

/// Sends a request and waits for its answer.
pub fn ask(socket: &OwnedFd, request: &Request, fds: &[&OwnedFd]) -> Answer {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    packet::send(socket, request, &fds).unwrap();
    packet::receive(socket).unwrap().0
}

/// The opening of a session that wishes for these GPUs.
pub fn opening(session: u32, gpus: &[String]) -> Request {
    Request::OpenSession {
        session,
        pid: 100 + session,
        program: "test".to_owned(),
        gpus: gpus.to_vec(),
    }
}

/// A VM's backend.
pub struct Backend {
    socket: OwnedFd,
}

impl Backend {
    pub fn ask(&self, request: &Request) -> Answer {
        ask(&self.socket, request, &[])
    }

    /// What it is told unasked.
    pub fn unasked(&self) -> Answer {
        packet::receive(&self.socket).unwrap().0
    }

    /// Opens a session; its GPUs.
    pub fn open(&self, session: u32) -> Vec<String> {
        self.open_with(session, &[])
    }

    /// Opens one that wishes for these GPUs; those that it gets.
    pub fn open_with(&self, session: u32, gpus: &[String]) -> Vec<String> {
        match self.ask(&opening(session, gpus)) {
            Answer::Gpus { uuids, .. } => uuids,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a session and attaches an executor to it.
    pub fn session(&self, session: u32) -> Exec {
        self.session_with(session, &[])
    }

    /// One that wishes for these GPUs.
    pub fn session_with(&self, session: u32, gpus: &[String]) -> Exec {
        self.open_with(session, gpus);
        let mut exec = Exec::new();
        self.attach(session, &mut exec);
        exec
    }

    /// Attaches an executor, over a new socket.
    pub fn attach(&self, session: u32, exec: &mut Exec) {
        assert_eq!(self.attach_having(session, exec, &[]), Answer::Ok);
    }

    /// Attaches an executor that has these GPUs.
    pub fn attach_having(&self, session: u32, exec: &mut Exec, gpus: &[String]) -> Answer {
        let (ours, theirs) = socket_pair();
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(LIMIT)).unwrap();
        exec.socket = ours;
        self.attach_as(session, gpus, &[&exec.memfd, &theirs, &exec.pidfd])
    }

    pub fn attach_with(&self, session: u32, fds: &[&OwnedFd]) -> Answer {
        self.attach_as(session, &[], fds)
    }

    fn attach_as(&self, session: u32, gpus: &[String], fds: &[&OwnedFd]) -> Answer {
        let program = "test".to_owned();
        let request = Request::AttachSession {
            session,
            pid: 100 + session,
            program,
            gpus: gpus.to_vec(),
            exec_pid: 1,
        };
        ask(&self.socket, &request, fds)
    }
}

pub fn socket_pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

/// Microseconds of the clock by which executors tell times.
fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// A sealed memfd of a turn page's length.
pub fn page_memfd() -> OwnedFd {
    let memfd = rustix::fs::memfd_create("turn", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memfd, PAGE_LEN as u64).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    memfd
}

/// An executor: a child process that only lives, and this side's view of its turn page and socket.
pub struct Exec {
    child: Child,
    memfd: OwnedFd,
    page: &'static Page,
    pub pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Exec {
    pub fn new() -> Self {
        // Lives until its input is closed.
        Self::of(Command::new("cat").stdin(Stdio::piped()).spawn().unwrap())
    }

    /// One whose process is that child, which is killed with it.
    pub fn of(child: Child) -> Self {
        let memfd = page_memfd();
        // SAFETY: a new mapping at an address of the kernel's choice. It is never unmapped, so it is good for
        // 'static; a `Page` is atomics and padding.
        let page = unsafe {
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            let page = rustix::mm::mmap(std::ptr::null_mut(), PAGE_LEN, flags, MapFlags::SHARED, &memfd, 0);
            &*page.unwrap().cast::<Page>()
        };
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        Self {
            child,
            memfd,
            page,
            pidfd,
            socket: socket_pair().0,
        }
    }

    pub fn say(&self, message: &FromExec) {
        self.say_with(message, &[]);
    }

    /// Says something with descriptors.
    pub fn say_with(&self, message: &FromExec, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        packet::send(&self.socket, message, &fds).unwrap();
    }

    /// Waits for its VM's page: that, and its slot in it.
    pub fn vm_page(&self) -> (&'static VmPage, usize) {
        let (page, slot, _) = self.vm_page_and_columns();
        (page, slot)
    }

    /// The same, with the columns of its GPUs.
    pub fn vm_page_and_columns(&self) -> (&'static VmPage, usize, Vec<u32>) {
        loop {
            let (order, fds) = packet::receive::<ToExec>(&self.socket).unwrap();
            let ToExec::VmPage { slot, columns } = order else {
                continue;
            };
            let [memfd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
            let seals = rustix::fs::fcntl_get_seals(&memfd).unwrap();
            assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
            // SAFETY: a new mapping at an address of the kernel's choice. It is never unmapped, so it is good for
            // 'static; a `VmPage` is atomics and padding.
            let page = unsafe {
                let flags = ProtFlags::READ | ProtFlags::WRITE;
                let len = vm_page::PAGE_LEN;
                let page = rustix::mm::mmap(std::ptr::null_mut(), len, flags, MapFlags::SHARED, &memfd, 0);
                &*page.unwrap().cast::<VmPage>()
            };
            return (page, slot as usize, columns);
        }
    }

    /// Waits until it is told to end: the CUDA error.
    pub fn until_ended(&self) -> i32 {
        loop {
            if let ToExec::End { code, .. } = self.order() {
                return code;
            }
        }
    }

    /// Some of its work for the compute engine is done.
    pub fn progressed(&self) {
        self.page.progressed();
    }

    /// Notes a call in its page, as one that has not returned.
    pub fn record(&self, call: &str) {
        let op = vgpu_protocol::calls::find_name(call).unwrap().op;
        self.page.record(monotonic_us(), op, 3);
    }

    /// Says that it is idle from now on.
    pub fn rest(&self) {
        self.rest_since(monotonic_us());
    }

    /// Says that it is idle since then, in microseconds of the monotonic clock.
    pub fn rest_since(&self, at_us: u64) {
        self.page.set_idle_since(at_us);
        assert!(self.change(State::Held, State::Idle));
    }

    pub fn want(&self) {
        self.say(&FromExec::Want);
    }

    /// Wants a turn and waits for it.
    pub fn take_turn(&self) {
        self.want();
        self.until(State::Held);
    }

    /// Says how many calls it has done and how many operations are in flight.
    pub fn show(&self, calls: u64, queued: u64) {
        self.page.show(calls, queued);
    }

    pub fn word(&self) -> Word {
        self.page.word()
    }

    pub fn state(&self) -> State {
        self.word().state
    }

    /// Waits for a state.
    pub fn until(&self, state: State) {
        self.until_page(&format!("{state:?}"), |page| page.word().state == state);
    }

    /// Waits until one of both has a state.
    pub fn until_either(&self, other: &Self, state: State) {
        let end = Instant::now() + LIMIT;
        while self.state() != state && other.state() != state {
            assert!(Instant::now() < end, "{:?}, {:?}", self.word(), other.word());
            // Woken by the one, and looking at the other now and then.
            self.page
                .sleep(self.page.bell().load(Ordering::SeqCst), Duration::from_millis(1));
        }
    }

    pub fn contended(&self) -> bool {
        self.page.contended()
    }

    pub fn until_contended(&self) {
        self.until_page("contended", Page::contended);
    }

    fn until_page(&self, what: &str, done: impl Fn(&Page) -> bool) {
        let end = Instant::now() + LIMIT;
        loop {
            let bell = self.page.bell().load(Ordering::SeqCst);
            if done(self.page) {
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not {what} in time: {:?}", self.page.word());
            self.page.sleep(bell, left);
        }
    }

    /// Changes the state as an executor does; false if it was not `from` any longer.
    pub fn change(&self, from: State, to: State) -> bool {
        let word = self.page.word();
        word.state == from && self.page.change(word, Word { state: to, ..word }).is_ok()
    }

    /// Does so many pieces of work as an executor does: only while its page says Held, giving back when asked,
    /// saying that it is idle now and then.
    pub fn work(&self, pieces: u32, piece: impl Fn()) {
        let mut asked = None;
        let mut done = 0;
        while done < pieces {
            let bell = self.page.bell().load(Ordering::SeqCst);
            let word = self.word();
            match word.state {
                State::Held => {
                    piece();
                    done += 1;
                    if self.page.contended() && done % 3 == 0 {
                        self.change(State::Held, State::Idle);
                    }
                }
                State::Idle => {
                    self.change(State::Idle, State::Held);
                }
                State::None => {
                    if asked != Some(word.generation) {
                        self.want();
                        asked = Some(word.generation);
                    }
                    self.page.sleep(bell, LIMIT);
                }
                State::Yield => {
                    assert!(self.change(State::Yield, State::None));
                    self.say(&FromExec::Released);
                }
            }
        }
        // What it was asked before it was through must not stay unanswered.
        while self.state() != State::None {
            self.change(State::Idle, State::Held);
            self.change(State::Held, State::None);
            self.change(State::Yield, State::None);
        }
        self.say(&FromExec::Released);
    }

    /// Gives back as asked.
    pub fn give_back(&self) {
        self.until(State::Yield);
        assert!(self.change(State::Yield, State::None));
        self.say(&FromExec::Released);
    }

    /// The next order.
    pub fn order(&self) -> ToExec {
        packet::receive(&self.socket).unwrap().0
    }

    /// Waits for the next order that stops or resumes.
    pub fn stop_or_resume(&self) -> ToExec {
        loop {
            let order = self.order();
            if matches!(order, ToExec::Stop { .. } | ToExec::Resume { .. }) {
                return order;
            }
        }
    }

    /// Waits until so many operations may be in flight over all its streams.
    pub fn until_depth(&self, wanted: Option<u32>) {
        loop {
            if let ToExec::Window { depth, .. } = self.order()
                && depth == wanted
            {
                return;
            }
        }
    }

    /// Waits for the next slice that is ordered, in microseconds.
    pub fn slice(&self) -> u64 {
        loop {
            if let ToExec::Slice { microseconds, .. } = self.order() {
                return microseconds;
            }
        }
    }

    /// The process' id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is told of this memory in use, in bytes by GPU; whether because it asked.
    pub fn until_memory(&self, wanted: &[u64]) -> bool {
        loop {
            if let ToExec::MemoryInUse { bytes, asked } = self.order()
                && bytes == wanted
            {
                return asked;
            }
        }
    }

    /// Waits until the process was ended by a signal.
    pub fn until_killed(&mut self) {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: LIMIT.as_secs() as _,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "it was not killed in time");
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Ends the process.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether vgpud has closed the socket.
    pub fn wait_hung_up(&self) {
        loop {
            match packet::receive::<ToExec>(&self.socket) {
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.kill();
    }
}
