//! Starting host programs so that none outlives its test.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

struct Request {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// The kernel sends a parent-death signal when the *thread* that forked ends, so one thread that lives as
/// long as this process does all the forking.
static SPAWNER: LazyLock<Sender<Request>> = LazyLock::new(|| {
    let (sender, requests) = channel::<Request>();
    thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || {
            for mut request in requests {
                let child = request.command.spawn();
                drop(request.command);
                // A requester that is gone is a panicked test; its child must not stay.
                if let Err(unsent) = request.answer.send(child)
                    && let Ok(mut child) = unsent.0
                {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })
        .expect("a thread can be started");
    sender
});

/// Starts `command`, which is killed when this process ends in whatever way. A user and group to run as may
/// be set on it.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid), and no memory
    // is allocated or lock taken.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the signal was asked for.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    let (answer, reply) = channel();
    SPAWNER
        .send(Request { command, answer })
        .expect("the spawner thread never ends");
    reply.recv().expect("the spawner answers every request")
}

/// A running host program, killed and reaped when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn spawn(command: Command) -> io::Result<Self> {
        spawn(command).map(Self)
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills the program and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
