//! What the scheduler can do to work that is already on the GPU: a time slice set ahead, stop and resume. Which libcuda is
//! loaded is known here alone.
//!
//! A rung counts as proved by its effect, not by a status code: before the session's first work for the compute engine, a
//! kernel of our own counts in memory, is stopped, must stand still, and must go on after the resume. Whether a slice has its
//! effect shows only beside another program; here it must have been accepted, and read back where the driver can say it.
mod nvidia;
mod proof;
mod softgpu;

use crate::cuda::Cuda;
use crate::session::{Session, spawn};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::{FromExec, ToExec};
use vgpu_sched_api::packet::{self, PacketError};

/// A control failed, with the driver's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("status {0:#x}")]
pub struct ControlError(pub u32);

/// What a driver can do to this process' own work.
pub trait Controls: Send {
    /// Sets the time slice of everything, present and future, in microseconds.
    fn set_slice(&mut self, microseconds: u64) -> Result<(), ControlError>;
    /// Stops what runs, and what starts from now on.
    fn stop(&mut self) -> Result<(), ControlError>;
    /// Resumes it.
    fn resume(&mut self) -> Result<(), ControlError>;
    /// Sees that what libcuda has made since has the slice that was set.
    fn refresh(&mut self) -> Result<(), ControlError>;
    /// Tries whether a slice that is set is then in force, and leaves the one that was.
    fn try_slice(&mut self) -> Result<(), ControlError>;
}

/// The session's controls.
pub struct Preempt {
    controls: Mutex<Box<dyn Controls>>,
    /// When what is stopped is resumed without an order.
    deadman: Mutex<Option<Instant>>,
    proof: Once,
    proved: OnceLock<FromExec>,
}

/// A stop that nobody ends is ended after this time, whatever was asked for.
const DEADMAN_MAX: Duration = Duration::from_secs(60);

impl Preempt {
    /// For the libcuda that is loaded.
    pub fn new(cuda: &Cuda) -> Self {
        let controls: Box<dyn Controls> = match softgpu::SoftGpu::find(cuda) {
            Some(controls) => Box::new(controls),
            None => Box::new(nvidia::Nvidia),
        };
        Self {
            controls: Mutex::new(controls),
            deadman: Mutex::new(None),
            proof: Once::new(),
            proved: OnceLock::new(),
        }
    }

    fn controls(&self) -> MutexGuard<'_, Box<dyn Controls>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// libcuda has made a context.
    pub fn refresh(&self) {
        if let Err(error) = self.controls().refresh() {
            log::warn!("the time slice of a new context: {error}");
        }
    }

    /// Tries the controls, once, and tells `vgpud`. The turn is held, and none of the guest's kernels has run: they could
    /// write the memory that the proof looks at.
    pub fn prove_once(&self, session: &'static Session) {
        // Its channels are the MPS server's, so nothing can be done to them from here.
        if crate::mps::is_used() {
            let nothing = || FromExec::Proved {
                slices: false,
                stop: false,
                stop_us: 0,
                resume_us: 0,
                suspend: false,
            };
            self.proof
                .call_once(|| session.turn.tell(self.proved.get_or_init(nothing)));
            return;
        }
        self.proof.call_once(|| {
            let stop = session.relaxed(|| proof::stop(session, &mut **self.controls()));
            let stop = stop.unwrap_or_else(|error| {
                log::warn!("stop and resume cannot be tried: {error:#}");
                false
            });
            let slices = self.controls().try_slice();
            let slices = slices
                .inspect_err(|error| log::warn!("a time slice cannot be set: {error}"))
                .is_ok();
            log::info!("slices {}, stop {}", works(slices), works(stop));
            session.turn.tell(self.proved.get_or_init(|| FromExec::Proved {
                slices,
                stop,
                stop_us: 0,
                resume_us: 0,
                suspend: false,
            }));
        });
    }

    /// Carries out what `vgpud` orders over one connection, in a thread of its own.
    pub fn serve(&'static self, session: &'static Session, socket: OwnedFd) {
        if let Some(proved) = self.proved.get() {
            session.turn.tell(proved);
        }
        spawn("orders", move || {
            crate::completion::wake_precisely();
            while self.order(session, &socket) {}
            // Without the connection, what was stopped goes on when its time is over.
            while let Some(left) = self.time_stopped() {
                std::thread::sleep(left);
            }
        });
    }

    fn deadman(&self) -> MutexGuard<'_, Option<Instant>> {
        self.deadman.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long what is stopped stays so without an order; resumes it when that time is over.
    fn time_stopped(&self) -> Option<Duration> {
        let mut deadman = self.deadman();
        let left = deadman.as_ref()?.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        log::warn!("nobody resumed what was stopped: it goes on");
        *deadman = None;
        if let Err(error) = self.controls().resume() {
            log::error!("what was stopped cannot be resumed: {error}");
        }
        None
    }

    /// Waits for one order, or for the end of a stop; whether there may be more.
    fn order(&self, session: &Session, socket: &OwnedFd) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = self.time_stopped().map(|left| Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        });
        let ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref());
        if !matches!(ready, Ok(n) if n > 0) {
            return true;
        }
        let order = match packet::receive::<ToExec>(socket) {
            Ok((order, _)) => order,
            Err(PacketError::Io(rustix::io::Errno::AGAIN)) => return true,
            Err(error) => {
                log::info!("vgpud is gone: {error}");
                return false;
            }
        };
        let start = Instant::now();
        let (sequence, done) = match order {
            ToExec::Window { operations, depth } => {
                session.set_window(operations);
                session.load.set_depth(depth);
                return true;
            }
            ToExec::Slice {
                sequence,
                microseconds,
            } => {
                session.set_slice(microseconds);
                (sequence, self.controls().set_slice(microseconds))
            }
            ToExec::Stop { sequence, deadman_ms } => {
                let time = Duration::from_millis(deadman_ms).min(DEADMAN_MAX);
                let mut deadman = self.deadman();
                *deadman = Some(start + time);
                (sequence, self.controls().stop())
            }
            ToExec::VmPage { .. } | ToExec::End { .. } | ToExec::Suspend | ToExec::MemoryInUse { .. } => {
                return true;
            }
            ToExec::Resume { sequence } => {
                let mut deadman = self.deadman();
                *deadman = None;
                (sequence, self.controls().resume())
            }
        };
        let microseconds = start.elapsed().as_micros() as u64;
        if let Err(error) = done {
            log::warn!("order {sequence} failed: {error}");
        }
        session.turn.tell(&FromExec::Done {
            sequence,
            ok: done.is_ok(),
            microseconds,
        });
        true
    }
}

fn works(proved: bool) -> &'static str {
    if proved { "works" } else { "does not work" }
}
