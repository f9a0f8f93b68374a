//! Who may run kernels when.
//!
//! On a device only the kernels of one context run at a time. Contexts of all processes that have work take
//! turns: a turn ends when the context has nothing more to run, or when its time slice is over and another
//! context is waiting. That is what the hardware does with its channel groups. Beside that, a process can
//! stop all its kernels and resume them ([`control`]).
//!
//! Kernels notice either at their safe points ([`Running::pause`]).

use crate::ptx::interp::now;
use softgpu_device::{DeviceShare, Slot};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// The hardware's default time slice, in microseconds.
const DEFAULT_SLICE: u64 = 2000;

/// The time slice of all contexts of this process, in nanoseconds.
static SLICE: AtomicU64 = AtomicU64::new(DEFAULT_SLICE * 1000);

/// Kernels of the whole process.
struct Process {
    /// Stopped by [`control`].
    /// Stops that were not resumed: the driver of real GPUs counts them, too.
    stops: u32,
    /// How many wait for kernels to be parked, or do what needs that.
    parkers: u32,
    /// Kernels running now.
    running: u32,
    /// When the first of them began, in nanoseconds of [`now`].
    since: u64,
    /// Time in which kernels ran, in nanoseconds.
    busy: u64,
}

impl Process {
    fn may_run(&self) -> bool {
        self.stops == 0 && self.parkers == 0
    }

    fn busy(&self) -> u64 {
        self.busy
            + if self.running > 0 {
                now().saturating_sub(self.since)
            } else {
                0
            }
    }
}

static PROCESS: Mutex<Process> = Mutex::new(Process {
    stops: 0,
    parkers: 0,
    running: 0,
    since: 0,
    busy: 0,
});
/// Something in [`PROCESS`] or in a [`Turn`] changed.
static CHANGED: Condvar = Condvar::new();
/// `!PROCESS.may_run()`, for safe points.
static HALTED: AtomicBool = AtomicBool::new(false);

fn process() -> MutexGuard<'static, Process> {
    PROCESS.lock().unwrap_or_else(|e| e.into_inner())
}

fn wait(guard: MutexGuard<'static, Process>) -> MutexGuard<'static, Process> {
    CHANGED.wait(guard).unwrap_or_else(|e| e.into_inner())
}

/// A context's place on the compute engine of its device.
pub struct Gate {
    share: Arc<DeviceShare>,
    slot: Slot,
    /// Changed only while [`PROCESS`] is locked.
    turn: Mutex<Turn>,
    /// When the turn began, in nanoseconds of [`now`].
    since: AtomicU64,
    /// `turn.ending`, for safe points.
    ending: AtomicBool,
}

/// What a context has of its device. It holds the turn only while kernels run.
#[derive(Default)]
struct Turn {
    held: bool,
    /// A thread is waiting for the turn on behalf of all.
    asked: bool,
    /// The slice is over: kernels stay at their next safe point.
    ending: bool,
    /// Kernels of the context that run.
    active: u32,
}

impl Gate {
    /// A place for a new context; none if there are too many.
    pub fn new(share: &Arc<DeviceShare>) -> Option<Arc<Gate>> {
        let slot = share.claim()?;
        Some(Arc::new(Gate {
            share: share.clone(),
            slot,
            turn: Mutex::default(),
            since: AtomicU64::new(0),
            ending: AtomicBool::new(false),
        }))
    }

    /// The context is gone, and nothing of it runs any more.
    pub fn close(&self) {
        self.share.abandon(self.slot);
    }

    /// Its context's number on the device.
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until a kernel of the context may run.
    pub fn enter(self: &Arc<Self>) -> Running {
        self.begin();
        Running { gate: self.clone() }
    }

    fn begin(&self) {
        let mut process = process();
        loop {
            let mut turn = self.turn();
            if !process.may_run() || turn.ending || turn.asked {
                drop(turn);
                process = wait(process);
            } else if turn.held {
                turn.active += 1;
                break;
            } else {
                turn.asked = true;
                drop(turn);
                drop(process);
                self.share.acquire(self.slot);
                process = self::process();
                let mut turn = self.turn();
                turn.asked = false;
                CHANGED.notify_all();
                if process.may_run() {
                    self.since.store(now(), Ordering::Relaxed);
                    turn.held = true;
                    turn.active += 1;
                    break;
                }
                // Stopped while it waited: others may run.
                self.share.release(self.slot);
            }
        }
        if process.running == 0 {
            process.since = now();
        }
        process.running += 1;
    }

    fn end(&self, mut process: MutexGuard<'_, Process>) {
        if process.running == 1 {
            process.busy = process.busy();
        }
        process.running -= 1;
        let mut turn = self.turn();
        turn.active -= 1;
        if turn.active == 0 {
            turn.held = false;
            turn.ending = false;
            self.ending.store(false, Ordering::Relaxed);
            self.share.release(self.slot);
        }
        CHANGED.notify_all();
    }

    #[cold]
    fn yield_turn(&self) {
        let process = process();
        let mut turn = self.turn();
        if process.may_run() && !turn.ending {
            if !self.share.others_wait(self.slot) {
                self.since.store(now(), Ordering::Relaxed);
                return;
            }
            turn.ending = true;
            self.ending.store(true, Ordering::Relaxed);
        }
        drop(turn);
        self.end(process);
        self.begin();
    }
}

/// Kernels of one stream run while this exists.
pub struct Running {
    gate: Arc<Gate>,
}

impl Running {
    /// A safe point: stays here while kernels are stopped or it is another context's turn.
    pub fn pause(&self) {
        let gate = &self.gate;
        // Another thread may have begun a turn since this one looked at the clock.
        let over = now().saturating_sub(gate.since.load(Ordering::Relaxed)) >= SLICE.load(Ordering::Relaxed);
        if over || HALTED.load(Ordering::Relaxed) || gate.ending.load(Ordering::Relaxed) {
            gate.yield_turn();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gate.end(process());
    }
}

fn update(mut process: MutexGuard<'static, Process>, change: impl FnOnce(&mut Process)) {
    change(&mut process);
    HALTED.store(!process.may_run(), Ordering::Relaxed);
    if process.may_run() {
        CHANGED.notify_all();
        return;
    }
    while process.running > 0 && !process.may_run() {
        process = wait(process);
    }
}

/// Runs `f` while no kernel of the process runs, each being at a safe point.
pub fn with_kernels_parked<T>(f: impl FnOnce() -> T) -> T {
    update(process(), |p| p.parkers += 1);
    let result = f();
    update(process(), |p| p.parkers -= 1);
    result
}

/// The operations of [`vgpu_softgpu_control`].
const STOP: u32 = 1;
const RESUME: u32 = 2;
const SET_SLICE: u32 = 3;
const BUSY: u32 = 4;

/// Controls the compute engine for this process, as an owner of channels does through the driver of real
/// hardware. May be called from any thread, also before `cuInit`.
///
/// | `op` | meaning |
/// | --- | --- |
/// | 1 | stop: returns 0 once none of the process' kernels runs. Copies, fills and stream memory operations go on |
/// | 2 | resume: kernels go on where they were. Returns 0 |
/// | 3 | time slice of the process' contexts, present and future, := `arg` microseconds (at least 1). Returns 0 |
/// | 4 | time during which kernels of the process ran, in microseconds. With `arg` 0 it is returned, at most `i32::MAX`; otherwise it is stored in the `u64` at address `arg`, and 0 is returned |
///
/// Stops are counted: what was stopped twice is resumed by the second resume. Resuming what runs changes nothing. Anything
/// else returns -1.
#[unsafe(no_mangle)]
pub extern "C" fn vgpu_softgpu_control(op: u32, arg: u64) -> i32 {
    match op {
        STOP => update(process(), |p| p.stops += 1),
        RESUME => update(process(), |p| p.stops = p.stops.saturating_sub(1)),
        SET_SLICE if (1..=u64::MAX / 1000).contains(&arg) => SLICE.store(arg * 1000, Ordering::Relaxed),
        BUSY => {
            let micros = process().busy() / 1000;
            if arg == 0 {
                return micros.min(i32::MAX as u64) as i32;
            }
            if !arg.is_multiple_of(8) {
                return -1;
            }
            // SAFETY: the interface asks for 0 or the address of a u64.
            unsafe { *(arg as *mut u64) = micros };
        }
        _ => return -1,
    }
    0
}
