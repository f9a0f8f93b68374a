//! Starting and ending, and what is not one GPU's.
use crate::told::{self, Handle, known, pci, pci_of};
use crate::{Result, Return, api, code, get_text, put, put_text};
use std::ffi::{CStr, c_char, c_int, c_uint};
use vgpu_protocol::gpus::text;

/// What a code means, by its number.
const TEXTS: [(Return, &CStr); 15] = [
    (code::SUCCESS, c"Success"),
    (code::UNINITIALIZED, c"Uninitialized"),
    (code::INVALID_ARGUMENT, c"Invalid Argument"),
    (code::NOT_SUPPORTED, c"Not Supported"),
    (code::NO_PERMISSION, c"Insufficient Permissions"),
    (code::NOT_FOUND, c"Not Found"),
    (code::INSUFFICIENT_SIZE, c"Insufficient Size"),
    (code::DRIVER_NOT_LOADED, c"Driver Not Loaded"),
    (code::TIMEOUT, c"Timeout"),
    (code::GPU_IS_LOST, c"GPU is lost"),
    (code::MEMORY, c"Insufficient Memory"),
    (code::INSUFFICIENT_RESOURCES, c"Insufficient Resources"),
    (code::ARGUMENT_VERSION_MISMATCH, c"Argument version mismatch"),
    (13, c"Function Not Found"),
    (code::UNKNOWN, c"Unknown Error"),
];

/// What a code means; of those that this library never returns, that they are unknown.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: Return) -> *const c_char {
    let text = TEXTS.iter().find(|(known, _)| *known == code);
    text.map_or(c"Unknown Error", |(_, text)| text).as_ptr()
}

/// The driver's version.
fn driver() -> Result<String> {
    let driver = text(&told::told()?.head.driver);
    // A VM without GPUs is not told.
    (!driver.is_empty()).then_some(driver).ok_or(code::UNKNOWN)
}

fn cuda_version() -> Result<c_int> {
    known(told::told()?.head.cuda_version)
        .ok()
        .and_then(|version| version.try_into().ok())
        .ok_or(code::UNKNOWN)
}

/// Stores the handle of a GPU that was looked for.
fn put_found(out: *mut Handle, found: Option<Result<Handle>>, missing: Return) -> Result {
    put(out, found.unwrap_or(Err(missing))?)
}

api! {
    fn nvmlInit | nvmlInit_v2() {
        told::start()
    }

    fn nvmlInitWithFlags(_flags: c_uint) {
        told::start()
    }

    fn nvmlShutdown() {
        told::stop()
    }

    fn nvmlSystemGetDriverVersion(version: *mut c_char, len: c_uint) {
        put_text(&driver()?, version, len)
    }

    // The interface's version: that of CUDA, then the driver's, as NVIDIA's library writes it.
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, len: c_uint) {
        put_text(&format!("{}.{}", cuda_version()? / 1000, driver()?), version, len)
    }

    fn nvmlSystemGetCudaDriverVersion | nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) {
        put(version, cuda_version()?)
    }

    // The program that a process of the VM runs, as it was started.
    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, len: c_uint) {
        told::started()?;
        let read = |file| std::fs::read(format!("/proc/{pid}/{file}")).map_err(|_| code::NOT_FOUND);
        let command = read("cmdline")?;
        let mut program = command.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        if program.is_empty() {
            program = read("comm")?.trim_ascii_end().to_vec();
        }
        let program = String::from_utf8_lossy(&program);
        let room = (len as usize).checked_sub(1).ok_or(code::INSUFFICIENT_SIZE)?;
        put_text(&program[..program.floor_char_boundary(room)], name, len)
    }

    fn nvmlDeviceGetCount | nvmlDeviceGetCount_v2(count: *mut c_uint) {
        put(count, told::told()?.gpus.len() as c_uint)
    }

    fn nvmlDeviceGetHandleByIndex | nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: *mut Handle) {
        put_found(out, told::find(|at, _| at == index as usize), code::INVALID_ARGUMENT)
    }

    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, out: *mut Handle) {
        let uuid = get_text(uuid)?;
        put_found(out, told::find(|_, gpu| text(&gpu.uuid) == uuid), code::NOT_FOUND)
    }

    fn nvmlDeviceGetHandleByPciBusId | nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, out: *mut Handle) {
        let id = pci(&get_text(id)?).ok_or(code::INVALID_ARGUMENT)?;
        put_found(out, told::find(|_, gpu| pci_of(gpu) == Ok(id)), code::NOT_FOUND)
    }

    // Serial numbers are the operator's, and no tenant's.
    fn nvmlDeviceGetHandleBySerial(serial: *const c_char, out: *mut Handle) {
        get_text(serial)?;
        put_found(out, told::find(|_, _| false), code::NOT_FOUND)
    }

    fn nvmlUnitGetCount(count: *mut c_uint) {
        told::started()?;
        put(count, 0)
    }

    fn nvmlGetExcludedDeviceCount(count: *mut c_uint) {
        told::started()?;
        put(count, 0)
    }
}
