//! What outlives a front end: who the VM is, the connection to `vgpud`, and what went wrong for good.
use crate::budget::Budget;
use crate::front_ends::FrontEnds;
use crate::quiet::Quiet;
use crate::scheduler::Scheduler;
use crate::shares::Shares;
use std::fmt::{Debug, Formatter};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How executors are started.
#[derive(Debug)]
pub struct ExecOptions {
    /// The program.
    pub path: PathBuf,
    /// Where it looks for `libcuda.so.1` first.
    pub libcuda_dir: Option<PathBuf>,
    /// Its environment, besides what the backend sets itself.
    pub env: Vec<(String, String)>,
    /// Whether it closes its jail.
    pub jail: bool,
    /// The folder of MPS' sockets, for sessions that share their GPUs through it.
    pub mps_pipe_dir: PathBuf,
}

/// Why this program is to end: it was asked to, or something is wrong.
pub type End = Result<(), String>;

/// The lasting part of the device.
#[derive(Debug)]
pub struct Host {
    /// The VM's number.
    pub vm: u32,
    /// How executors are started.
    pub exec: ExecOptions,
    /// Turns, limits, GPUs.
    pub scheduler: Scheduler,
    /// Warnings that a guest may cause.
    pub quiet: Quiet,
    /// What the VM's sessions use together.
    pub budget: Arc<Budget>,
    /// What its sessions share with each other.
    pub shares: Shares,
    /// Who uses the device.
    pub front_ends: FrontEnds,
    sessions: AtomicU32,
    written_off: Mutex<Vec<WrittenOff>>,
}

/// A session that did not end in time, and whether it has ended since.
struct WrittenOff {
    session: u32,
    has_ended: Box<dyn FnMut(&Host) -> bool + Send>,
}

impl Debug for WrittenOff {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrittenOff({})", self.session)
    }
}

impl Host {
    /// Starts what runs in the background. `end` is told if there is no use in going on.
    pub fn start(vm: u32, vgpud: PathBuf, exec: ExecOptions, end: Sender<End>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            vm,
            exec,
            scheduler: Scheduler::start(vm, vgpud, end)?,
            quiet: Quiet::default(),
            budget: Arc::default(),
            shares: Shares::default(),
            front_ends: FrontEnds::default(),
            sessions: AtomicU32::new(0),
            written_off: Mutex::default(),
        }))
    }

    /// A session number that was never used; `None` when there are no more.
    pub fn session_number(&self) -> Option<u32> {
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1))
            .ok()
            .map(|n| n + 1)
    }

    /// A session does not end: its executor may still use guest memory. No session is opened until `has_ended` says that it
    /// has, after giving back what the session still had; it is asked when somebody opens or closes one.
    pub fn write_off(&self, session: u32, why: &str, has_ended: impl FnMut(&Self) -> bool + Send + 'static) {
        let has_ended = Box::new(has_ended);
        self.all_written_off().push(WrittenOff { session, has_ended });
        log::error!(
            "vm {} session {session}: {why} and is written off; no session is opened until that has ended or the backend \
             is replaced. A guest that was told so opens none before its driver is bound anew or it boots",
            self.vm
        );
    }

    /// The sessions that were written off and have still not ended.
    pub fn written_off(&self) -> Vec<u32> {
        let mut written_off = self.all_written_off();
        written_off.retain_mut(|left| {
            let ended = (left.has_ended)(self);
            if ended {
                log::warn!(
                    "vm {} session {}: what was written off has ended",
                    self.vm,
                    left.session
                );
            }
            !ended
        });
        written_off.iter().map(|left| left.session).collect()
    }

    fn all_written_off(&self) -> MutexGuard<'_, Vec<WrittenOff>> {
        self.written_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
