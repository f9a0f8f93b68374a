//! Who may run kernels when: stopping and resuming those of this process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// What the processes which use a device share.
pub struct DeviceShare {
    total: u64,
    used: AtomicU64,
}

impl DeviceShare {
    /// The share of device `number`.
    pub fn open(_number: u32) -> Arc<DeviceShare> {
        let total = std::env::var("VGPU_SOFTGPU_MEMORY")
            .ok()
            .and_then(|v| v.parse().ok());
        Arc::new(DeviceShare {
            total: total.unwrap_or(4 << 30),
            used: AtomicU64::new(0),
        })
    }

    /// Memory of the device, in bytes.
    pub fn total_memory(&self) -> u64 {
        self.total
    }

    /// Memory that nobody has, in bytes.
    pub fn free_memory(&self) -> u64 {
        self.total - self.used.load(Ordering::Relaxed)
    }

    /// Takes memory; false if there is not enough.
    pub fn reserve(&self, _gate: &Gate, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.total);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Gives memory back.
    pub fn unreserve(&self, _gate: &Gate, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Kernels of the whole process.
#[derive(Default)]
struct Process {
    /// Reasons why no kernel may run.
    stops: u32,
    /// Kernels running now.
    running: u32,
    /// When the first of them began, while there are any.
    since: Option<Instant>,
    busy_micros: u64,
}

static PROCESS: Mutex<Process> = Mutex::new(Process {
    stops: 0,
    running: 0,
    since: None,
    busy_micros: 0,
});
static CHANGED: Condvar = Condvar::new();
static STOPPED: AtomicBool = AtomicBool::new(false);

fn process() -> MutexGuard<'static, Process> {
    PROCESS.lock().unwrap_or_else(|e| e.into_inner())
}

fn wait(guard: MutexGuard<'static, Process>) -> MutexGuard<'static, Process> {
    CHANGED.wait(guard).unwrap_or_else(|e| e.into_inner())
}

/// A context's place on the compute engine.
pub struct Gate {}

impl Gate {
    pub fn new(_share: &Arc<DeviceShare>) -> Option<Arc<Gate>> {
        Some(Arc::new(Gate {}))
    }

    /// Waits until a kernel of the context may run.
    pub fn enter(self: &Arc<Self>) -> Running {
        start();
        Running {}
    }

    /// The context is gone.
    pub fn close(&self) {}
}

fn start() {
    let mut process = process();
    while process.stops > 0 {
        process = wait(process);
    }
    process.running += 1;
    process.since.get_or_insert_with(Instant::now);
}

fn finish() {
    let mut process = process();
    process.running -= 1;
    if process.running == 0 {
        if let Some(since) = process.since.take() {
            process.busy_micros += since.elapsed().as_micros() as u64;
        }
        CHANGED.notify_all();
    }
}

/// Kernels of one stream run while this exists.
pub struct Running {}

impl Running {
    /// A safe point: stays here while kernels are stopped.
    pub fn pause(&self) {
        if STOPPED.load(Ordering::Relaxed) {
            finish();
            start();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        finish();
    }
}

fn stop() {
    let mut process = process();
    process.stops += 1;
    STOPPED.store(true, Ordering::Relaxed);
    while process.running > 0 {
        process = wait(process);
    }
}

fn resume() {
    let mut process = process();
    process.stops -= 1;
    STOPPED.store(process.stops > 0, Ordering::Relaxed);
    CHANGED.notify_all();
}

/// Runs `f` while no kernel of the process runs, each being at a safe point.
pub fn with_kernels_parked<T>(f: impl FnOnce() -> T) -> T {
    stop();
    let result = f();
    resume();
    result
}
