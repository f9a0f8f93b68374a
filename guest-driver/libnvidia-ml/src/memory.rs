//! Memory, and the processes that have it.
use crate::told::{Device, Handle};
use crate::{Result, api, check_version, put, put_list};
use std::ffi::{c_uint, c_ulonglong};
use vgpu_protocol::gpus::Process;

/// `nvmlMemory_t`, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlMemory_v2_t`, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlProcessInfo_v1_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessV1 {
    pid: c_uint,
    /// In bytes.
    used: c_ulonglong,
}

/// `nvmlProcessInfo_v2_t`, and the third version's, which is the same.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessV2 {
    pid: c_uint,
    /// In bytes.
    used: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Stands for the number of an instance where there is none.
const NO_INSTANCE: c_uint = c_uint::MAX;

impl ProcessV1 {
    fn of(process: &Process) -> Self {
        Self {
            pid: process.pid,
            used: process.memory,
        }
    }
}

impl ProcessV2 {
    fn of(process: &Process) -> Self {
        Self {
            pid: process.pid,
            used: process.memory,
            gpu_instance: NO_INSTANCE,
            compute_instance: NO_INSTANCE,
        }
    }
}

/// Total, free and used. What executors count may for a moment be more than the VM may have.
fn memory(device: Handle) -> Result<[u64; 3]> {
    let device = Device::of(device)?;
    let (total, used) = (device.gpu().memory, device.gpu().used);
    Ok([total, total.saturating_sub(used), used.min(total)])
}

fn put_processes<T: Copy>(
    device: Handle,
    of: impl Fn(&Process) -> T,
    count: *mut c_uint,
    out: *mut T,
) -> Result {
    let device = Device::of(device)?;
    let found: Vec<T> = device.processes().map(of).collect();
    put_list(&found, count, out)
}

/// Of those kinds a VM has no processes.
fn put_none<T: Copy>(device: Handle, count: *mut c_uint, out: *mut T) -> Result {
    Device::of(device)?;
    put_list(&[], count, out)
}

api! {
    fn nvmlDeviceGetMemoryInfo(device: Handle, out: *mut Memory) {
        let [total, free, used] = memory(device)?;
        put(out, Memory { total, free, used })
    }

    fn nvmlDeviceGetMemoryInfo_v2(device: Handle, out: *mut MemoryV2) {
        let [total, free, used] = memory(device)?;
        let version = check_version(out, 2)?;
        put(out, MemoryV2 { version, total, reserved: 0, free, used })
    }

    fn nvmlDeviceGetComputeRunningProcesses(device: Handle, count: *mut c_uint, out: *mut ProcessV1) {
        put_processes(device, ProcessV1::of, count, out)
    }

    fn nvmlDeviceGetComputeRunningProcesses_v2 | nvmlDeviceGetComputeRunningProcesses_v3(
        device: Handle, count: *mut c_uint, out: *mut ProcessV2,
    ) {
        put_processes(device, ProcessV2::of, count, out)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses | nvmlDeviceGetMPSComputeRunningProcesses(
        device: Handle, count: *mut c_uint, out: *mut ProcessV1,
    ) {
        put_none(device, count, out)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses_v2 | nvmlDeviceGetGraphicsRunningProcesses_v3
        | nvmlDeviceGetMPSComputeRunningProcesses_v2 | nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: Handle, count: *mut c_uint, out: *mut ProcessV2,
    ) {
        put_none(device, count, out)
    }
}
