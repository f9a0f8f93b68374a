//! Sets of events. There is one kind of them, the Xid that was injected into a device.

use crate::{Device, INVALID_ARGUMENT, NOT_SUPPORTED, Result, TIMEOUT, api, initialised, number, put};
use softgpu_device as device;
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_ulonglong};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A `nvmlEventSet_t`: a number that is never used again.
pub type EventSet = usize;

/// `nvmlEventTypeXidCriticalError`
const XID: c_ulonglong = 8;
/// How often a thread that waits looks.
const LOOK: Duration = Duration::from_millis(5);

/// `nvmlEventData_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EventData {
    device: Device,
    event_type: c_ulonglong,
    event_data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// The sets that were made and not freed: the devices of each, with how many of their Xids were seen.
struct Sets {
    made: EventSet,
    sets: BTreeMap<EventSet, BTreeMap<Device, usize>>,
}

static SETS: Mutex<Sets> = Mutex::new(Sets {
    made: 0,
    sets: BTreeMap::new(),
});

fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An Xid of one of a set's devices that was not seen yet.
fn next(set: EventSet) -> Result<Option<EventData>> {
    let mut sets = sets();
    let devices = sets.sets.get_mut(&set).ok_or(INVALID_ARGUMENT)?;
    for (device, seen) in devices {
        // A device that is lost has Xids all the same.
        let (xid, now) = device::xid_after(*device as u32 - 1, Some(*seen));
        *seen = now;
        if let Some(xid) = xid {
            return Ok(Some(EventData {
                device: *device,
                event_type: XID,
                event_data: xid,
                gpu_instance: c_uint::MAX,
                compute_instance: c_uint::MAX,
            }));
        }
    }
    Ok(None)
}

api! {
    fn nvmlEventSetCreate(out: *mut EventSet) {
        initialised()?;
        let mut sets = sets();
        sets.made += 1;
        let set = sets.made;
        sets.sets.insert(set, BTreeMap::new());
        put(out, set)
    }

    fn nvmlEventSetFree(set: EventSet) {
        initialised()?;
        sets().sets.remove(&set).map(drop).ok_or(INVALID_ARGUMENT)
    }

    fn nvmlDeviceGetSupportedEventTypes(device: Device, types: *mut c_ulonglong) {
        number(device)?;
        put(types, XID)
    }

    fn nvmlDeviceRegisterEvents(device: Device, types: c_ulonglong, set: EventSet) {
        let number = number(device)?;
        if types & !XID != 0 {
            return Err(NOT_SUPPORTED);
        }
        let (_, before) = device::xid_after(number, None);
        let mut sets = sets();
        let devices = sets.sets.get_mut(&set).ok_or(INVALID_ARGUMENT)?;
        if types != 0 {
            devices.entry(device).or_insert(before);
        }
        Ok(())
    }

    fn nvmlEventSetWait | nvmlEventSetWait_v2(set: EventSet, out: *mut EventData, timeout_ms: c_uint) {
        initialised()?;
        let end = Instant::now() + Duration::from_millis(timeout_ms.into());
        loop {
            if let Some(event) = next(set)? {
                return put(out, event);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TIMEOUT);
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}
