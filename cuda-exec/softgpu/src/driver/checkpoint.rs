//! Moving the memory that a process has on the devices to the host, and back: `cuCheckpointProcess*`, for the process that
//! calls them alone. While it is there it counts nowhere on the devices, and every other call fails.

use super::abi::{CUresult, In, Out, Symbol, caught};
use super::error::{self, Result};
use super::memory::{Origin, Range};
use super::runtime::{Runtime, runtime};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};

/// `CUprocessState`
const RUNNING: i32 = 0;
const LOCKED: i32 = 1;
const CHECKPOINTED: i32 = 2;

static STATE: AtomicI32 = AtomicI32::new(RUNNING);
/// What was on the devices. Held while the state changes.
static SAVED: Mutex<Vec<(Range, Vec<u8>)>> = Mutex::new(Vec::new());

fn saved() -> MutexGuard<'static, Vec<(Range, Vec<u8>)>> {
    SAVED.lock().unwrap_or_else(|e| e.into_inner())
}

/// An error unless the process runs.
pub fn allows_calls() -> Result {
    match STATE.load(Ordering::Acquire) {
        RUNNING => Ok(()),
        _ => Err(error::ILLEGAL_STATE),
    }
}

/// The runtime, if `pid` is this process and it is in that state.
fn own(pid: i32, state: i32) -> Result<&'static Runtime> {
    if pid as u32 != std::process::id() {
        return Err(error::NOT_SUPPORTED);
    }
    let runtime = runtime()?;
    if STATE.load(Ordering::Acquire) != state {
        return Err(error::ILLEGAL_STATE);
    }
    Ok(runtime)
}

/// The memory of a device that a range counts for, with its owner's place there.
fn counted<R>(
    runtime: &Runtime,
    range: &Range,
    f: impl FnOnce(&softgpu_device::DeviceShare, softgpu_device::Slot) -> R,
) -> Result<R> {
    let context = runtime.contexts.get(range.context)?;
    Ok(f(&context.device()?.share, context.gate.slot()))
}

fn lock(pid: i32) -> Result {
    let _change = saved();
    let runtime = own(pid, RUNNING)?;
    STATE.store(LOCKED, Ordering::Release);
    for context in runtime.contexts.all() {
        context.drain();
    }
    // A kernel that failed meanwhile has lost the process.
    runtime
        .check()
        .inspect_err(|_| STATE.store(RUNNING, Ordering::Release))
}

fn checkpoint(pid: i32) -> Result {
    let mut saved = saved();
    let runtime = own(pid, LOCKED)?;
    let ranges = runtime.memory.on_devices();
    // What is not a context's, or not this process' alone, stays where it is: then so does everything.
    if runtime.memory.is_shared() || ranges.iter().any(|range| range.origin == Origin::Mapped) {
        return Err(error::NOT_SUPPORTED);
    }
    for range in ranges {
        // SAFETY: a live allocation, which nothing changes while the process is locked.
        let bytes = unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len as usize) };
        saved.push((range, bytes.to_vec()));
    }
    runtime.memory.drop_pages();
    for (range, _) in saved.iter() {
        counted(runtime, range, |share, slot| share.unreserve(slot, range.len))?;
    }
    STATE.store(CHECKPOINTED, Ordering::Release);
    Ok(())
}

fn restore(pid: i32) -> Result {
    let mut saved = saved();
    let runtime = own(pid, CHECKPOINTED)?;
    for (i, (range, _)) in saved.iter().enumerate() {
        if !counted(runtime, range, |share, slot| share.reserve(slot, range.len))? {
            for (range, _) in &saved[..i] {
                counted(runtime, range, |share, slot| share.unreserve(slot, range.len))?;
            }
            return Err(error::OUT_OF_MEMORY);
        }
    }
    for (range, bytes) in saved.drain(..) {
        // SAFETY: the allocation lives still, as no call was let through since, and has as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), range.start as *mut u8, bytes.len()) };
    }
    STATE.store(LOCKED, Ordering::Release);
    Ok(())
}

fn unlock(pid: i32) -> Result {
    let _change = saved();
    own(pid, LOCKED)?;
    STATE.store(RUNNING, Ordering::Release);
    Ok(())
}

macro_rules! functions {
    ($(fn $name:ident($pid:ident: i32, $arg:ident: $ty:ty) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, missing_docs)]
            pub extern "C" fn $name($pid: i32, $arg: $ty) -> CUresult {
                caught(move || $body)
            }
        )*

        pub(crate) const SYMBOLS: &[Symbol] = &[$(Symbol {
            name: stringify!($name),
            address: $name as *const (),
        }),*];
    };
}

functions! {
    fn cuCheckpointProcessLock(pid: i32, _arguments: In<u8>) {
        lock(pid)
    }

    fn cuCheckpointProcessCheckpoint(pid: i32, _arguments: In<u8>) {
        checkpoint(pid)
    }

    fn cuCheckpointProcessRestore(pid: i32, _arguments: In<u8>) {
        restore(pid)
    }

    fn cuCheckpointProcessUnlock(pid: i32, _arguments: In<u8>) {
        unlock(pid)
    }

    fn cuCheckpointProcessGetState(pid: i32, state: Out<i32>) {
        if pid as u32 != std::process::id() {
            return Err(error::NOT_SUPPORTED);
        }
        state.set(STATE.load(Ordering::Acquire))
    }
}
