//! What outlives a front end: who the VM is, the connection to `vgpud`, and what went wrong for good.
use crate::budget::Budget;
use crate::front_ends::FrontEnds;
use crate::quiet::Quiet;
use crate::scheduler::Scheduler;
use crate::shares::Shares;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;

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
    written_off: AtomicBool,
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
            written_off: AtomicBool::new(false),
        }))
    }

    /// A session number that was never used; `None` when there are no more.
    pub fn session_number(&self) -> Option<u32> {
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1))
            .ok()
            .map(|n| n + 1)
    }

    /// An executor could not be reaped: it may still use guest memory. No session is opened any more.
    pub fn write_off(&self, session: u32) {
        self.written_off.store(true, Ordering::SeqCst);
        log::error!(
            "vm {} session {session}: its executor could not be reaped and is written off; \
             this device opens no more sessions until the backend is replaced",
            self.vm
        );
    }

    /// Whether an executor was written off.
    pub fn is_written_off(&self) -> bool {
        self.written_off.load(Ordering::SeqCst)
    }
}
