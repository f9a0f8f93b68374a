//! Executors as processes: how one is started and confined, asked, and reaped.
use crate::host::ExecOptions;
use crate::scheduler::Gpus;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use vgpu_protocol::host::{EXEC_SOCKET_FD, ExecHeader, ExecKind, ExecReply};
use vgpu_sched_api::packet::{self, PacketError};
use zerocopy::{FromBytes, IntoBytes};

/// How long a killed executor may take to disappear: a process that holds a GPU takes 0.1 s, and longer if it has
/// much memory registered, whose pages are released one by one.
pub const REAP_WAIT: Duration = Duration::from_secs(20);

/// How long an executor may take to end by itself before it is killed: it tells vgpud what it has measured last.
const END_WAIT: Duration = Duration::from_millis(100);

/// The most of its addresses that the executor's stack may take, which moves its libraries and its other threads' stacks down:
/// Linux puts them below the stack's room, a TiB at most by chance. Programs in a guest have theirs, and what they allocate, at
/// the very top, so that what they register has its addresses free in the executor. All windows lie below.
const STACK_ROOM: u64 = 6 << 40;

/// A running executor. Dropping it kills it.
#[derive(Debug)]
pub struct Executor {
    child: Child,
    pidfd: OwnedFd,
    socket: OwnedFd,
    sequence: u32,
    reaped: bool,
}

/// An executor that was killed and is not gone yet.
#[derive(Debug)]
pub struct Stuck(Executor);

impl Stuck {
    /// Whether it is gone by now.
    pub fn is_gone(&mut self) -> bool {
        self.0.gone(Duration::ZERO).is_some()
    }
}

impl Executor {
    /// Starts one that sees only these GPUs.
    pub fn start(options: &ExecOptions, gpus: &Gpus) -> io::Result<Self> {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = rustix::net::socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
        // Only this end: a reply that does not come must not hold the session's thread.
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new(&options.path);
        command
            .env_clear()
            .env("CUDA_VISIBLE_DEVICES", gpus.uuids.join(","))
            .env("CUDA_MPS_PIPE_DIRECTORY", mps_pipe_dir(options, gpus.mps))
            // No files of what guests had compiled: there is no place for them in the jail.
            .env("CUDA_CACHE_DISABLE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if !options.jail {
            command.arg("--no-jail");
        }
        if gpus.mps {
            command.arg("--mps");
        }
        if let Some(dir) = &options.libcuda_dir {
            command.env("LD_LIBRARY_PATH", dir);
        }
        if let Some(level) = std::env::var_os("RUST_LOG") {
            command.env("RUST_LOG", level);
        }
        command.envs(options.env.iter().map(|(key, value)| (key, value)));
        let socket = theirs.as_raw_fd();
        // SAFETY: `confine` makes nothing but system calls, which a forked child of a process with several
        // threads may do; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || confine(socket)) };
        let child = command.spawn()?;
        drop(theirs);
        // The child is not reaped yet, so its id is still its own.
        let pid = rustix::process::Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                child,
                pidfd,
                socket: ours,
                sequence: 0,
                reaped: false,
            }),
            Err(error) => {
                let mut child = child;
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when it answers, or closed its end.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a request; the number that its reply must carry.
    pub fn ask(&mut self, kind: ExecKind, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u32, PacketError> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = ExecHeader {
            kind: kind as u32,
            sequence: self.sequence,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        packet::send_bytes(&self.socket, &bytes, fds)?;
        Ok(self.sequence)
    }

    /// The reply that lies ready in the socket; `None` if what lies there is none.
    pub fn reply(&self) -> Result<Option<ExecReply>, PacketError> {
        // Descriptors that an executor sends are received and closed again.
        let (bytes, _fds) = packet::receive_bytes(&self.socket, size_of::<ExecReply>())?;
        Ok(ExecReply::read_from_bytes(&bytes).ok())
    }

    /// Has it end, kills it if it does not, and waits until it is gone.
    pub fn end(mut self) -> Result<ExitStatus, Stuck> {
        self.reap().ok_or_else(|| Stuck(self))
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        self.reaped = true;
        // Either may find that it has ended already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        wait_readable(self.pidfd.as_fd(), END_WAIT);
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.gone(REAP_WAIT)
    }

    /// Waits until it is gone, and removes what is left of it.
    fn gone(&mut self, timeout: Duration) -> Option<ExitStatus> {
        if !wait_readable(self.pidfd.as_fd(), timeout) {
            return None;
        }
        let status = self.child.wait().ok();
        remove_shared_files(Path::new("/dev/shm"), self.child.id());
        status
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if !self.reaped && self.reap().is_none() {
            log::error!("executor {} could not be reaped", self.child.id());
        }
    }
}

/// Removes what libcuda has left of a process that is gone: files through which it shared events, which nobody finds any more.
fn remove_shared_files(folder: &Path, pid: u32) {
    let user = rustix::process::geteuid().as_raw();
    let start = format!("cuda.shm.{user:x}.{pid:x}.");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(start.as_bytes())) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            log::warn!("{} stays: {error}", entry.path().display());
        }
    }
}

/// Where libcuda looks for MPS. It uses one that it finds, asked or not, so other sessions are to look where none is.
fn mps_pipe_dir(options: &ExecOptions, mps: bool) -> &Path {
    if !mps {
        return Path::new("/nonexistent");
    }
    let dir = options.mps_pipe_dir.as_path();
    if !dir.join("control").exists() {
        log::warn!(
            "there is no MPS control daemon at {}: work of this session is in a GPU context of its own",
            dir.display()
        );
    }
    dir
}

/// In the child, before it becomes the executor: its socket is descriptor 3 and all others but the standard three are
/// closed, it leads a session of its own, gains no privileges, leaves no core, and dies with the backend.
fn confine(socket: i32) -> io::Result<()> {
    // SAFETY: system calls on plain numbers.
    unsafe {
        let done = if socket == EXEC_SOCKET_FD {
            libc::fcntl(socket, libc::F_SETFD, 0)
        } else {
            libc::dup2(socket, EXEC_SOCKET_FD)
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        // Not closed but marked: the standard library still needs its own until exec.
        let (first, last) = ((EXEC_SOCKET_FD + 1) as libc::c_uint, libc::c_uint::MAX);
        if libc::close_range(first, last, libc::CLOSE_RANGE_CLOEXEC as i32) < 0
            || libc::setsid() < 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
            || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0
        {
            return Err(io::Error::last_os_error());
        }
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        if libc::setrlimit(libc::RLIMIT_CORE, &none) < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut stack = none;
        if libc::getrlimit(libc::RLIMIT_STACK, &mut stack) < 0 {
            return Err(io::Error::last_os_error());
        }
        // The executor itself takes it back. Where it may not be had, more addresses are in the way of each other.
        if stack.rlim_max >= STACK_ROOM {
            stack.rlim_cur = STACK_ROOM;
            if libc::setrlimit(libc::RLIMIT_STACK, &stack) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: i64::from(left.subsec_nanos()) as _,
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_shared_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let name = |pid: u32, number: u32| folder.path().join(format!("cuda.shm.{user:x}.{pid:x}.{number}"));
        for (pid, number) in [(0x1f0, 1), (0x1f0, 2), (0x1f, 1), (0x1f01, 1)] {
            std::fs::write(name(pid, number), b"").unwrap();
        }
        remove_shared_files(folder.path(), 0x1f0);
        let left =
            [(0x1f0, 1), (0x1f0, 2), (0x1f, 1), (0x1f01, 1)].map(|(pid, number)| name(pid, number).exists());
        assert_eq!(left, [false, false, true, true]);
    }
}
