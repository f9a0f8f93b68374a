//! A backend under test.
use crate::executor;
use crate::scheduler::PATIENCE;
use rustix::process::{Pid, Signal};
use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A running `vgpu-backend`; dropping it ends it.
pub struct Backend {
    pub dir: tempfile::TempDir,
    child: Child,
    log: Receiver<String>,
    seen: RefCell<Vec<String>>,
}

impl Backend {
    /// Starts one that listens at a path.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command(&dir);
        command.arg("--socket-path").arg(dir.path().join("vhost"));
        let backend = Self::spawn(dir, command);
        backend.wait_log("listening");
        backend
    }

    /// Starts one that is handed a listening socket.
    pub fn start_listening() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("vhost")).unwrap();
        Self::start_with_descriptor(dir, listener.as_raw_fd())
    }

    /// Starts one that is handed one end of a connection; the other end.
    pub fn start_connected() -> (Self, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Self::start_with_descriptor(dir, theirs.as_raw_fd()), ours)
    }

    fn start_with_descriptor(dir: tempfile::TempDir, number: i32) -> Self {
        let mut command = command(&dir);
        // Far from any that this process may have.
        const NUMBER: i32 = 900;
        command.arg("--fd").arg(NUMBER.to_string());
        // SAFETY: one system call, in the child.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(number, NUMBER) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Self::spawn(dir, command)
    }

    fn spawn(dir: tempfile::TempDir, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            dir,
            child,
            log,
            seen: RefCell::default(),
        }
    }

    /// Where front ends connect.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("vhost")
    }

    /// Where it expects `vgpud`.
    pub fn scheduler(&self) -> PathBuf {
        self.dir.path().join("vgpud")
    }

    /// Where it expects MPS.
    pub fn mps_pipe_dir(&self) -> PathBuf {
        self.dir.path().join("mps")
    }

    /// Waits for a line in the log that contains `text`, and returns it.
    pub fn wait_log(&self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) => {
                    self.seen.borrow_mut().push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("the backend never wrote {text:?}"),
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end: whether it ended well.
    pub fn ended(&mut self) -> bool {
        self.ended_with() == Some(0)
    }

    /// Waits for its end: its exit code.
    pub fn ended_with(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Everything that it wrote up to its end, or up to a line that was waited for.
    pub fn log(&mut self) -> Vec<String> {
        if !self.lives() {
            self.seen.borrow_mut().extend(self.log.iter());
        }
        self.seen.borrow().clone()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let later: Vec<String> = self.log.iter().collect();
            for line in self.seen.borrow().iter().chain(&later) {
                eprintln!("{line}");
            }
        }
    }
}

fn command(dir: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-backend"));
    command
        .args(["--vm-id", "7", "--vgpud"])
        .arg(dir.path().join("vgpud"))
        .arg("--exec")
        .arg(std::env::current_exe().unwrap())
        .arg("--mps-pipe-dir")
        .arg(dir.path().join("mps"))
        .arg("--exec-env")
        .arg(format!("{}=1", executor::MARK))
        .env("RUST_LOG", "debug")
        .stderr(Stdio::piped());
    command
}

/// Whether the process behind a pidfd ends in time.
pub fn ends(pidfd: &OwnedFd) -> bool {
    let patience = rustix::event::Timespec {
        tv_sec: PATIENCE.as_secs() as _,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        pidfd.as_fd(),
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, Some(&patience)).unwrap() > 0
}

/// Whether the process behind a pidfd has ended.
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        pidfd.as_fd(),
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0
}

/// A point in time at which a test gives up, for waits that take one.
pub fn deadline_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
    (now + PATIENCE).as_nanos() as u64
}

/// A process that is not gone when it has been killed, until this is dropped: a thread of it is traced by one of ours, which
/// does not look at how it ended.
pub struct Held {
    _tracer: Sender<()>,
}

impl Held {
    /// The process has a thread besides its first.
    pub fn new(pid: u32) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut threads = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let thread = threads.find(|&thread| thread != pid).unwrap();
        let (tracer, released) = channel();
        let (held, is_held) = channel();
        std::thread::spawn(move || {
            // SAFETY: a system call on plain numbers.
            let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) };
            let error = (traced < 0).then(std::io::Error::last_os_error);
            held.send(error).unwrap();
            // What a thread traces is let go at its end.
            let _ = released.recv();
        });
        let error = is_held.recv().unwrap();
        assert!(error.is_none(), "{error:?}");
        Self { _tracer: tracer }
    }
}

/// Kills an executor.
pub fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}
