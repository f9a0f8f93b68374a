//! `vgpu-exec`: replays the CUDA calls of one guest process on the real libcuda.
//!
//! It is started by a backend, finds a socket to the backend on descriptor 3 ([`vgpu_protocol::host`]), and ends when that
//! socket does. See [`session`] for how else it ends. Its arguments: `--mps` if its GPUs are shared through [`mps`], and for
//! debugging `--no-jail`, which leaves out the restrictions of [`jail`].
mod area;
mod calls;
mod clock;
mod completion;
mod confine;
mod control;
mod cuda;
mod device_memory;
mod dispatch;
mod graphs;
mod handles;
mod image;
mod jail;
mod journal;
mod latency;
mod limits;
mod memory;
mod mps;
mod orders;
mod output;
mod preempt;
mod recording;
mod reserved;
mod ring;
mod sealed;
mod session;
mod shared;
mod spin;
mod suspend;
mod turn;
mod window;

use session::Exit;
use std::os::fd::{FromRawFd, OwnedFd};
use vgpu_protocol::host::EXEC_SOCKET_FD;

/// The argument that leaves the jail out.
const NO_JAIL: &str = "--no-jail";

fn main() {
    // Before anything else: who opens a file later must not get the numbers of the standard ones.
    let captured = output::capture();
    let failed = captured.as_ref().err().copied();
    journal::start(captured.ok());
    if let Some(error) = failed {
        log::error!("capturing standard output: {error}");
        session::exit(Exit::Start);
    }
    std::panic::set_hook(Box::new(|panic| {
        log::error!(target: journal::END, "{panic}");
        match session::current() {
            Some(session) => session.panicked(),
            None => session::exit(Exit::Panic),
        }
    }));
    if let Err(error) = harden() {
        log::error!("giving up privileges: {error}");
        session::exit(Exit::Start);
    }
    if let Err(error) = usual_stacks() {
        log::error!("the size of threads' stacks: {error}");
        session::exit(Exit::Start);
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if !arguments
        .iter()
        .all(|argument| argument == NO_JAIL || argument == mps::ARGUMENT)
    {
        log::error!(
            "unknown arguments {arguments:?}: expected {NO_JAIL}, {}, or none",
            mps::ARGUMENT
        );
        session::exit(Exit::Start);
    }
    let jailed = !arguments.iter().any(|argument| argument == NO_JAIL);
    let Some(socket) = take_socket() else {
        log::error!("vgpu-exec is started by vgpu-backend: descriptor {EXEC_SOCKET_FD} is not a socket");
        session::exit(Exit::Start);
    };
    let jailed = jailed.then(|| {
        jail::close_files(mps::pipe_dir().as_deref()).unwrap_or_else(|error| {
            log::error!("jail: {error}");
            session::exit(Exit::Start)
        })
    });
    session::exit(control::Control::new(socket, jailed).run())
}

/// The part of the jail that is this process' own: no privileges by exec, no look at its memory by others of its user, no
/// core file, no life without its backend, the first to go where memory is short.
fn harden() -> rustix::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
    // What a guest makes this process hold must cost itself first, when the host runs out of memory.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        log::warn!("/proc/self/oom_score_adj: {error}");
    }
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )
}

/// The limit on stacks was set high to have this process' addresses where they are (see vgpu-backend, which starts it). Threads
/// that libcuda makes would get as much.
fn usual_stacks() -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const USUAL: u64 = 8 << 20;
    // SAFETY: declared as glibc does.
    unsafe extern "C" {
        fn pthread_setattr_default_np(attributes: *const libc::pthread_attr_t) -> libc::c_int;
    }
    let mut limit = getrlimit(Resource::Stack);
    if limit.current.is_some_and(|current| current <= USUAL) {
        return Ok(());
    }
    limit.current = Some(USUAL);
    setrlimit(Resource::Stack, limit)?;
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: attributes that are initialised, used and destroyed here.
    let failed = unsafe {
        match libc::pthread_attr_init(attributes.as_mut_ptr()) {
            0 => {
                let set = match libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), USUAL as usize) {
                    0 => pthread_setattr_default_np(attributes.as_ptr()),
                    error => error,
                };
                libc::pthread_attr_destroy(attributes.as_mut_ptr());
                set
            }
            error => error,
        }
    };
    match failed {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

fn take_socket() -> Option<OwnedFd> {
    // SAFETY: a number is looked up; nothing is taken over yet.
    let found = unsafe { std::os::fd::BorrowedFd::borrow_raw(EXEC_SOCKET_FD) };
    rustix::net::sockopt::socket_type(found).ok()?;
    rustix::io::fcntl_setfd(found, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: the backend left the socket there for this process, and nothing else here uses the number.
    Some(unsafe { OwnedFd::from_raw_fd(EXEC_SOCKET_FD) })
}
