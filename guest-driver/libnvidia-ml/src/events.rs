//! Event sets. A VM is told of no event of a GPU: what it has to know of its own work, CUDA tells it.
use crate::told::{Device, Handle, started};
use crate::{Result, api, code, put};
use std::collections::BTreeSet;
use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Sets at a time.
const SETS_MAX: usize = 1024;

struct Sets {
    open: BTreeSet<usize>,
    last: usize,
}

static SETS: Mutex<Sets> = Mutex::new(Sets {
    open: BTreeSet::new(),
    last: 0,
});

fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(set: usize) -> Result {
    started()?;
    match sets().open.contains(&set) {
        true => Ok(()),
        false => Err(code::INVALID_ARGUMENT),
    }
}

api! {
    fn nvmlEventSetCreate(out: *mut usize) {
        started()?;
        let mut sets = sets();
        if sets.open.len() >= SETS_MAX {
            return Err(code::INSUFFICIENT_RESOURCES);
        }
        let set = sets.last + 1;
        put(out, set)?;
        sets.last = set;
        sets.open.insert(set);
        Ok(())
    }

    fn nvmlEventSetFree(set: usize) {
        check(set)?;
        sets().open.remove(&set);
        Ok(())
    }

    fn nvmlDeviceGetSupportedEventTypes(device: Handle, out: *mut c_ulonglong) {
        Device::of(device)?;
        put(out, 0)
    }

    fn nvmlDeviceRegisterEvents(device: Handle, types: c_ulonglong, set: usize) {
        Device::of(device)?;
        check(set)?;
        match types {
            0 => Ok(()),
            _ => Err(code::NOT_SUPPORTED),
        }
    }

    fn nvmlEventSetWait | nvmlEventSetWait_v2(set: usize, _data: *mut c_void, milliseconds: c_uint) {
        check(set)?;
        std::thread::sleep(Duration::from_millis(milliseconds.into()));
        Err(code::TIMEOUT)
    }
}
