//! What streams and graphs carry out.

use super::context::Context;
use super::error::{self, CuError};
use super::event::{Event, Record};
use super::graph::Step;
use super::launch::KernelLaunch;
use super::pool::GraphAllocation;
use super::runtime::{Runtime, initialised};
use crate::arbiter::Running;
use crate::ptx::interp::{self, Aborted, FaultKind, Stop};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A host function with its argument.
#[derive(Clone, Copy)]
pub struct HostFunction {
    pub function: extern "C" fn(*mut c_void),
    pub data: *mut c_void,
}

// SAFETY: the argument is only handed to the function; what it points to is the program's business, as the
// interface says that the function runs on another thread.
unsafe impl Send for HostFunction {}
// SAFETY: as above.
unsafe impl Sync for HostFunction {}

/// Size of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Four,
    Eight,
}

impl Width {
    pub fn bytes(self) -> u64 {
        match self {
            Width::Four => 4,
            Width::Eight => 8,
        }
    }
}

/// What a stream waits for in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In cyclic order.
    GreaterOrEqual,
    Equal,
    And,
    Nor,
}

impl Condition {
    fn holds(self, found: u64, value: u64, width: Width) -> bool {
        match (self, width) {
            (Condition::GreaterOrEqual, Width::Four) => (found as u32).wrapping_sub(value as u32) as i32 >= 0,
            (Condition::GreaterOrEqual, Width::Eight) => found.wrapping_sub(value) as i64 >= 0,
            (Condition::Equal, _) => found == value,
            (Condition::And, _) => found & value != 0,
            (Condition::Nor, Width::Four) => !(found | value) as u32 != 0,
            (Condition::Nor, Width::Eight) => !(found | value) != 0,
        }
    }
}

/// One operation. Addresses were checked when it was made.
#[derive(Clone)]
pub enum Work {
    Kernel(Arc<KernelLaunch>),
    Copy {
        to: u64,
        from: u64,
        len: usize,
    },
    /// Host memory that was copied when the operation was made.
    Upload {
        to: u64,
        data: Arc<[u8]>,
    },
    /// `count` elements of `size` bytes.
    Fill {
        to: u64,
        value: u32,
        size: u8,
        count: usize,
    },
    CopyRows {
        to: Rows,
        from: Rows,
        /// Bytes of a row, rows of a slice, slices.
        size: [usize; 3],
    },
    /// `height` rows of `count` elements of `size` bytes, `pitch` bytes apart.
    FillRows {
        to: u64,
        pitch: usize,
        value: u32,
        size: u8,
        count: usize,
        height: usize,
    },
    /// Frees an allocation of a pool.
    Free(u64),
    /// An allocation of a graph, which has it as long as it lives.
    Keep(Arc<GraphAllocation>),
    Host(HostFunction),
    Write {
        address: u64,
        value: u64,
        width: Width,
    },
    WaitValue {
        address: u64,
        value: u64,
        width: Width,
        condition: Condition,
    },
    Record(Arc<Record>),
    /// Records or waits for an event as it stands when this is run; nodes of graphs only.
    RecordEvent(Arc<Event>),
    WaitEvent(Arc<Event>),
    Graph(Arc<Vec<Step>>),
    /// Only waits for what it comes after.
    Nothing,
}

/// Rows of one side of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    pub address: u64,
    /// Bytes from row to row, and from slice to slice.
    pub pitch: usize,
    pub slice: usize,
}

impl Rows {
    fn copy(&self, from: &Rows, [width, height, depth]: [usize; 3]) {
        let at = |rows: &Rows, z: usize, y: usize| rows.address + (z * rows.slice + y * rows.pitch) as u64;
        for (z, y) in (0..depth).flat_map(|z| (0..height).map(move |y| (z, y))) {
            // SAFETY: as for `Work::Copy`.
            unsafe { std::ptr::copy(at(from, z, y) as *const u8, at(self, z, y) as *mut u8, width) }
        }
    }
}

impl Work {
    pub fn is_kernel(&self) -> bool {
        matches!(self, Work::Kernel(_))
    }
}

/// The compute engine while kernels of one stream have it.
pub type Engine = Option<Running>;

/// Runs an operation; a panic loses the process, and no more than that.
pub(crate) fn run_guarded(context: &Arc<Context>, work: &Work, engine: &mut Engine) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(context, work, engine)));
    if let (Err(_), Ok(runtime)) = (result, initialised()) {
        runtime.lose(error::LAUNCH_FAILED);
    }
}

/// Runs an operation on the calling thread. Once the process is lost nothing is done any more.
fn run(context: &Arc<Context>, work: &Work, engine: &mut Engine) {
    let Ok(runtime) = initialised() else { return };
    if runtime.check().is_err() {
        if let Work::Record(record) = work {
            record.done();
        }
        return;
    }
    if !work.is_kernel() {
        *engine = None;
    }
    match work {
        Work::Kernel(launch) => kernel(runtime, context, launch, engine),
        Work::Copy { to, from, len } => {
            // SAFETY: device memory stays mapped, and freeing or unregistering memory waits for this; for
            // pageable memory the caller vouches as with any copy function.
            unsafe { std::ptr::copy(*from as *const u8, *to as *mut u8, *len) }
        }
        Work::Upload { to, data } => {
            // SAFETY: as above.
            unsafe { std::ptr::copy(data.as_ptr(), *to as *mut u8, data.len()) }
        }
        Work::Fill {
            to,
            value,
            size,
            count,
        } => fill(*to, *value, *size, *count),
        Work::CopyRows { to, from, size } => to.copy(from, *size),
        Work::FillRows {
            to,
            pitch,
            value,
            size,
            count,
            height,
        } => {
            for row in 0..*height {
                fill(to + (row * pitch) as u64, *value, *size, *count);
            }
        }
        Work::Free(address) => {
            // Fails only if its context is gone, and all its memory with it.
            let _ = runtime.memory.free(runtime, *address);
        }
        Work::Keep(_) => {}
        Work::Host(host) => (host.function)(host.data),
        Work::Write {
            address,
            value,
            width,
        } => write(*address, *value, *width),
        Work::WaitValue {
            address,
            value,
            width,
            condition,
        } => {
            let mut pause = Duration::from_micros(1);
            while !condition.holds(read(*address, *width), *value, *width)
                && runtime.check().is_ok()
                && !context.is_destroyed()
            {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_micros(100));
            }
        }
        Work::Record(record) => record.done(),
        Work::RecordEvent(event) => event.record_now(),
        Work::WaitEvent(event) => event.wait_now(),
        Work::Graph(steps) => {
            for work in steps.iter().flat_map(Step::work) {
                run(context, &work, engine);
            }
        }
        Work::Nothing => {}
    }
}

/// Lets a kernel go on while its context may run and the process is not lost.
struct SafePoint<'a> {
    runtime: &'a Runtime,
    running: &'a Running,
}

impl interp::Gate for SafePoint<'_> {
    fn pause(&self) -> Result<(), Aborted> {
        self.running.pause();
        self.runtime.check().map_err(|_| Aborted)
    }
}

fn kernel(runtime: &Runtime, context: &Arc<Context>, launch: &KernelLaunch, engine: &mut Engine) {
    let running = match engine {
        Some(running) => {
            running.pause();
            running
        }
        None => engine.insert(context.gate.enter()),
    };
    let memory = runtime.memory.view(context.handle);
    let gate = SafePoint { runtime, running };
    match launch.run(&memory, &gate) {
        Ok(()) | Err(Stop::Aborted) => {}
        Err(Stop::Fault(fault)) => {
            let error: CuError = match fault.kind {
                FaultKind::IllegalAddress => error::ILLEGAL_ADDRESS,
                FaultKind::MisalignedAddress => error::MISALIGNED_ADDRESS,
                FaultKind::InvalidPc => error::INVALID_PC,
                FaultKind::StackOverflow => error::HARDWARE_STACK_ERROR,
                FaultKind::Trap => error::LAUNCH_FAILED,
                FaultKind::Assert => error::ASSERT,
            };
            eprintln!(
                "softgpu: kernel {}, PTX line {}: {:?} at {:#x}",
                launch.name(),
                fault.line,
                fault.kind,
                fault.address
            );
            runtime.lose(error);
        }
    }
}

fn fill(to: u64, value: u32, size: u8, count: usize) {
    // SAFETY: the range and its alignment were checked when the operation was made, and freeing memory
    // waits for this.
    unsafe {
        match size {
            1 => std::ptr::write_bytes(to as *mut u8, value as u8, count),
            2 => std::slice::from_raw_parts_mut(to as *mut u16, count).fill(value as u16),
            _ => std::slice::from_raw_parts_mut(to as *mut u32, count).fill(value),
        }
    }
}

fn write(address: u64, value: u64, width: Width) {
    // SAFETY: the address was checked when the operation was made; unregistering memory waits for this.
    unsafe {
        match width {
            Width::Four => AtomicU32::from_ptr(address as *mut u32).store(value as u32, Ordering::Release),
            Width::Eight => AtomicU64::from_ptr(address as *mut u64).store(value, Ordering::Release),
        }
    }
}

fn read(address: u64, width: Width) -> u64 {
    // SAFETY: as for `write`.
    unsafe {
        match width {
            Width::Four => u64::from(AtomicU32::from_ptr(address as *mut u32).load(Ordering::Acquire)),
            Width::Eight => AtomicU64::from_ptr(address as *mut u64).load(Ordering::Acquire),
        }
    }
}
