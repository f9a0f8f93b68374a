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
use crate::session::Session;
use proof::Stop;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use vgpu_sched_api::messages::FromExec;

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
    /// libcuda has given the GPU up, and makes everything anew when it has it back.
    fn suspended(&mut self) {}
    /// What `vgpud` needs to stop this process' work by itself, as far as it has changed since the last time.
    fn news(&mut self) -> Vec<(FromExec, OwnedFd)> {
        Vec::new()
    }
    /// `vgpud` has not heard the news, or is another one: all of it is news again.
    fn tell_again(&mut self) {}
}

/// The session's controls.
pub struct Preempt {
    controls: Mutex<Box<dyn Controls>>,
    /// When what is stopped is resumed without an order.
    deadman: Mutex<Option<Instant>>,
    proof: Once,
    proved: OnceLock<FromExec>,
    /// Connections to `vgpud` so far.
    connections: AtomicU64,
    /// When the news was last told.
    told: Mutex<Option<Instant>>,
}

/// A stop that nobody ends is ended after this time, whatever was asked for.
const DEADMAN_MAX: Duration = Duration::from_secs(60);
/// Channels come in groups; between two messages about them.
const NEWS: Duration = Duration::from_millis(100);

impl Preempt {
    /// For the libcuda that is loaded.
    pub fn new(cuda: &Cuda) -> Self {
        let controls: Box<dyn Controls> = match softgpu::SoftGpu::find(cuda) {
            Some(controls) => Box::new(controls),
            None => Box::new(nvidia::Nvidia::default()),
        };
        Self {
            controls: Mutex::new(controls),
            deadman: Mutex::new(None),
            proof: Once::new(),
            proved: OnceLock::new(),
            connections: AtomicU64::new(0),
            told: Mutex::new(None),
        }
    }

    fn controls(&self) -> MutexGuard<'_, Box<dyn Controls>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// libcuda has made a context, or all of them anew.
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
            self.proof.call_once(|| {
                session.turn.tell(self.proved.get_or_init(nothing));
            });
            return;
        }
        self.proof.call_once(|| {
            let stop = session.relaxed(|| proof::stop(session, &mut **self.controls()));
            let stop = stop.unwrap_or_else(|error| {
                log::warn!("stop and resume cannot be tried: {error:#}");
                Stop::default()
            });
            let slices = self.controls().try_slice();
            let slices = slices
                .inspect_err(|error| log::warn!("a time slice cannot be set: {error}"))
                .is_ok();
            let suspend = session.cuda.can_suspend();
            log::info!(
                "slices {}, stop {}, suspend {}",
                works(slices),
                works(stop.works),
                works(suspend)
            );
            session.turn.tell(self.proved.get_or_init(|| FromExec::Proved {
                slices,
                stop: stop.works,
                stop_us: stop.stop_us,
                resume_us: stop.resume_us,
                suspend,
            }));
        });
    }

    /// Whether they were tried.
    pub fn is_proved(&self) -> bool {
        self.proved.get().is_some()
    }

    /// There is a new connection to `vgpud`; its number. A `vgpud` that is gone may have stopped this process by itself.
    pub fn connected(&self, session: &Session) -> u64 {
        let connection = self.connections.fetch_add(1, SeqCst) + 1;
        if connection > 1 {
            self.resume_anyway();
        }
        if let Some(proved) = self.proved.get() {
            session.turn.tell(proved);
        }
        self.controls().tell_again();
        connection
    }

    /// The connection with that number is over. What was stopped goes on, unless there is a newer one.
    pub fn disconnected(&self, connection: u64) {
        if self.connections.load(SeqCst) == connection {
            self.resume_anyway();
        }
    }

    /// Twice: the driver counts stops, and there may be one of our own and one of `vgpud`'s. More resumes than stops do no harm.
    fn resume_anyway(&self) {
        if let Err(error) = self.resume().and_then(|()| self.resume()) {
            log::error!("what may be stopped cannot be resumed: {error}");
        }
    }

    /// Tells `vgpud` what it needs to stop this process' work by itself, once the stop is proved.
    pub fn tell_news(&self, session: &Session) {
        let Ok(mut told) = self.told.try_lock() else {
            return;
        };
        let proved = self.proved.get();
        let can_stop = matches!(proved, Some(FromExec::Proved { stop: true, .. }));
        if !can_stop || told.is_some_and(|told| told.elapsed() < NEWS) {
            return;
        }
        *told = Some(Instant::now());
        // Who has them now may take long; there is a next time.
        let Ok(mut controls) = self.controls.try_lock() else {
            return;
        };
        for (message, fd) in controls.news() {
            if !session.turn.tell_with(&message, &[fd.as_fd()]) {
                controls.tell_again();
                break;
            }
        }
    }

    fn deadman(&self) -> MutexGuard<'_, Option<Instant>> {
        self.deadman.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long what is stopped stays so without an order; resumes it when that time is over.
    pub fn time_stopped(&self) -> Option<Duration> {
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

    /// Sets the hardware time slice, in microseconds.
    pub fn set_slice(&self, microseconds: u64) -> Result<(), ControlError> {
        self.controls().set_slice(microseconds)
    }

    /// Stops what runs, for that long at most.
    pub fn stop(&self, at_most: Duration) -> Result<(), ControlError> {
        let mut deadman = self.deadman();
        // The driver counts stops: what was stopped twice would have to be resumed twice. What was made meanwhile is stopped.
        if deadman
            .replace(Instant::now() + at_most.min(DEADMAN_MAX))
            .is_some()
        {
            return Ok(());
        }
        self.controls().stop()
    }

    /// Resumes what was stopped.
    pub fn resume(&self) -> Result<(), ControlError> {
        let mut deadman = self.deadman();
        *deadman = None;
        self.controls().resume()
    }

    /// Whether what runs is stopped.
    pub fn is_stopped(&self) -> bool {
        self.deadman().is_some()
    }

    /// libcuda has given the GPU up.
    pub fn suspended(&self) {
        self.controls().suspended();
    }
}

fn works(proved: bool) -> &'static str {
    if proved { "works" } else { "does not work" }
}
