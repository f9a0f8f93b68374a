//! A `libnvidia-ml.so.1` for the software GPUs: their number, names, UUIDs, PCI addresses, memory, processes, MIG instances
//! and Xids, as NVIDIA's management library tells them of real ones. What a device has no sensor for is answered with
//! NOT_SUPPORTED: it has those that a test gives it.
//!
//! # Use
//! With crate nvml-wrapper, name the file; it lies beside the software GPU's `libcuda.so.1`:
//!
//! ```no_run
//! let library = "lib/softgpu/libnvidia-ml.so.1";
//! let nvml = nvml_wrapper::Nvml::builder().lib_path(library.as_ref()).init()?;
//! # Ok::<(), nvml_wrapper::error::NvmlError>(())
//! ```
//!
//! The environment is that of `softgpu_device`, read in every call: `VGPU_SOFTGPU_DEVICES` devices, their memory
//! `VGPU_SOFTGPU_MEMORY`, their MIG instances `VGPU_SOFTGPU_MIG`, and `VGPU_SOFTGPU_DIR` to see how much memory the
//! processes that use the same directory have, and the Xids and sensors that were put there. As with NVIDIA's, `CUDA_VISIBLE_DEVICES` hides nothing here.

#![allow(non_snake_case)]

mod events;

use softgpu_device::{self as device, Part};
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong};
use std::sync::atomic::{AtomicU32, Ordering};

/// A `nvmlReturn_t`.
pub type Return = c_uint;
/// A `nvmlDevice_t`: a device's number, plus 1; for a MIG instance, its number plus 1 [`INSTANCE`] bits further up.
pub type Device = usize;

/// Where the number of a MIG instance begins in its handle.
const INSTANCE: u32 = 16;

const SUCCESS: Return = 0;
const UNINITIALIZED: Return = 1;
const INVALID_ARGUMENT: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const INSUFFICIENT_SIZE: Return = 7;
const TIMEOUT: Return = 10;
const GPU_IS_LOST: Return = 15;
const ARGUMENT_VERSION_MISMATCH: Return = 25;

/// The codes that this library returns, as text.
const TEXTS: [(Return, &CStr); 9] = [
    (SUCCESS, c"Success"),
    (UNINITIALIZED, c"Uninitialized"),
    (INVALID_ARGUMENT, c"Invalid Argument"),
    (NOT_SUPPORTED, c"Not Supported"),
    (NOT_FOUND, c"Not Found"),
    (INSUFFICIENT_SIZE, c"Insufficient Size"),
    (TIMEOUT, c"Timeout"),
    (GPU_IS_LOST, c"GPU is lost"),
    (ARGUMENT_VERSION_MISMATCH, c"Argument version mismatch"),
];

/// `nvmlPciInfo_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PciInfo {
    bus_id_legacy: [u8; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    /// Vendor and model: none, since there is no such device on the bus.
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [u8; 32],
}

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
    /// The size of the structure, and in the highest byte 2.
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlProcessInfo_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessInfo {
    pid: c_uint,
    /// In bytes.
    used: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// A `nvmlGpuP2PStatus_t`.
const P2P_NOT_SUPPORTED: c_uint = 5;

/// Stands for the number of an instance where there is none.
const NO_INSTANCE: c_uint = c_uint::MAX;

/// How often the library was initialised and not shut down.
static INITIALISED: AtomicU32 = AtomicU32::new(0);

type Result<T = ()> = std::result::Result<T, Return>;

fn initialised() -> Result {
    match INITIALISED.load(Ordering::Acquire) {
        0 => Err(UNINITIALIZED),
        _ => Ok(()),
    }
}

/// The handle of a device, or of an instance of one.
fn handle(part: Part) -> Device {
    let instance = part.instance.map_or(0, |instance| instance as usize + 1);
    (part.device as usize + 1) | instance << INSTANCE
}

/// The device, or the instance of one, that a handle means.
fn part(device: Device) -> Result<Part> {
    initialised()?;
    let known = |part: &Part| match part.instance {
        None => part.device < device::count(),
        Some(instance) => part.device < device::count() && instance < device::instances(part.device),
    };
    let number = (device & ((1 << INSTANCE) - 1)).checked_sub(1);
    let part = number.map(|number| Part {
        device: number as u32,
        instance: u32::try_from(device >> INSTANCE)
            .unwrap_or(u32::MAX)
            .checked_sub(1),
    });
    let part = part.filter(known).ok_or(INVALID_ARGUMENT)?;
    if device::is_lost(part.device) {
        return Err(GPU_IS_LOST);
    }
    Ok(part)
}

/// The number of a device that is no instance of one.
fn number(device: Device) -> Result<u32> {
    let part = part(device)?;
    match part.instance {
        None => Ok(part.device),
        Some(_) => Err(INVALID_ARGUMENT),
    }
}

/// Stores a result.
fn put<T>(out: *mut T, value: T) -> Result {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: as part of the C interface the caller passes null or a pointer valid for this write.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// What the caller has stored.
fn get<T: Copy>(from: *const T) -> Result<T> {
    if from.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: as part of the C interface the caller passes null or a pointer valid for this read.
    Ok(unsafe { from.read_unaligned() })
}

/// Stores a text with its end.
fn put_text(text: &str, out: *mut c_char, len: c_uint) -> Result {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= len as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    for (at, byte) in text.bytes().chain([0]).enumerate() {
        put(out.wrapping_add(at), byte as c_char)?;
    }
    Ok(())
}

/// A text argument.
fn get_text(text: *const c_char) -> Result<String> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: as part of the C interface the caller passes null or a terminated string.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(str::to_owned).map_err(|_| INVALID_ARGUMENT)
}

/// A text in an array of its own, cut where the array ends.
fn array<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = byte;
    }
    bytes
}

/// The handle of the first device, or instance of one, that fits.
fn find(out: *mut Device, fits: impl Fn(Part) -> bool) -> Result {
    initialised()?;
    let instances = |number| {
        let instance = move |instance| Part::instance(number, instance);
        (0..device::instances(number)).map(instance)
    };
    let all =
        (0..device::count()).flat_map(|number| [Part::whole(number)].into_iter().chain(instances(number)));
    let found = all.into_iter().find(|part| fits(*part)).ok_or(NOT_FOUND)?;
    put(out, handle(found))
}

/// The instance that a handle means, with its device's number.
fn instance(device: Device) -> Result<(u32, u32)> {
    let part = part(device)?;
    Ok((part.device, part.instance.ok_or(INVALID_ARGUMENT)?))
}

/// What a sensor of a device says, as the type that its caller takes.
fn sensor<T: TryFrom<u64>>(device: Device, name: &str) -> Result<T> {
    let value = device::sensor(number(device)?, name).ok_or(NOT_SUPPORTED)?;
    value.try_into().map_err(|_| NOT_SUPPORTED)
}

/// The processes on a device and its instances, or on one instance.
fn processes(device: Device) -> Result<Vec<ProcessInfo>> {
    let part = part(device)?;
    let instances = device::instances(part.device);
    let parts = match part.instance {
        None if instances > 0 => (0..instances)
            .map(|instance| Part::instance(part.device, instance))
            .collect(),
        _ => vec![part],
    };
    let on = |part: Part| {
        let number = part.instance.unwrap_or(NO_INSTANCE);
        device::processes(part)
            .into_iter()
            .map(move |process| ProcessInfo {
                pid: process.pid,
                used: process.memory,
                gpu_instance: number,
                compute_instance: if number == NO_INSTANCE { NO_INSTANCE } else { 0 },
            })
    };
    Ok(parts.into_iter().flat_map(on).collect())
}

fn pci_info(device: Device) -> Result<PciInfo> {
    let address = device::pci_address(part(device)?.device);
    let text = address.text();
    Ok(PciInfo {
        bus_id_legacy: array(&text),
        domain: address.domain,
        bus: address.bus,
        device: address.device,
        pci_device_id: 0,
        pci_subsystem_id: 0,
        // Here the domain has eight digits.
        bus_id: array(&format!("0000{text}")),
    })
}

/// Exports functions whose bodies give a [`Result`].
macro_rules! api {
    ($(fn $($name:ident)|+ ($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        api!(@one [$($name)+] ($($arg: $ty),*) $body);
    )*};
    (@one [$($name:ident)+] $args:tt $body:block) => {
        $(api!(@export $name $args $body);)+
    };
    (@export $name:ident ($($arg:ident: $ty:ty),*) $body:block) => {
        #[unsafe(no_mangle)]
        #[allow(missing_docs)]
        pub extern "C" fn $name($($arg: $ty),*) -> $crate::Return {
            let body = move || -> Result { $body };
            body().err().unwrap_or($crate::SUCCESS)
        }
    };
}
pub(crate) use api;

api! {
    fn nvmlInit | nvmlInit_v2() {
        INITIALISED.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn nvmlInitWithFlags(_flags: c_uint) {
        INITIALISED.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn nvmlShutdown() {
        let less = |count: u32| count.checked_sub(1);
        let result = INITIALISED.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        result.map(drop).map_err(|_| UNINITIALIZED)
    }

    fn nvmlSystemGetDriverVersion(version: *mut c_char, len: c_uint) {
        initialised()?;
        put_text(device::DRIVER_VERSION, version, len)
    }

    fn nvmlSystemGetNVMLVersion(version: *mut c_char, len: c_uint) {
        initialised()?;
        put_text(device::DRIVER_VERSION, version, len)
    }

    fn nvmlSystemGetCudaDriverVersion | nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) {
        initialised()?;
        put(version, device::CUDA_VERSION)
    }

    fn nvmlDeviceGetCount | nvmlDeviceGetCount_v2(count: *mut c_uint) {
        initialised()?;
        put(count, device::count())
    }

    fn nvmlDeviceGetHandleByIndex | nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: *mut Device) {
        let device = (index as Device).saturating_add(1);
        number(device)?;
        put(out, device)
    }

    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, out: *mut Device) {
        let uuid = get_text(uuid)?;
        find(out, |part| part.uuid_text() == uuid)
    }

    fn nvmlDeviceGetHandleByPciBusId | nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, out: *mut Device) {
        let id = get_text(id)?;
        find(out, |part| device::pci_address(part.device).is_named(&id))
    }

    fn nvmlDeviceGetIndex(device: Device, index: *mut c_uint) {
        let part = part(device)?;
        put(index, part.instance.unwrap_or(part.device))
    }

    fn nvmlDeviceGetName(device: Device, name: *mut c_char, len: c_uint) {
        put_text(&part(device)?.name(), name, len)
    }

    fn nvmlDeviceGetUUID(device: Device, uuid: *mut c_char, len: c_uint) {
        put_text(&part(device)?.uuid_text(), uuid, len)
    }

    fn nvmlDeviceGetPciInfo | nvmlDeviceGetPciInfo_v2 | nvmlDeviceGetPciInfo_v3(
        device: Device, info: *mut PciInfo,
    ) {
        put(info, pci_info(device)?)
    }

    fn nvmlDeviceGetMemoryInfo(device: Device, info: *mut Memory) {
        let device::Usage { total, used } = device::usage(part(device)?);
        put(info, Memory { total, free: total.saturating_sub(used), used })
    }

    fn nvmlDeviceGetMemoryInfo_v2(device: Device, info: *mut MemoryV2) {
        let device::Usage { total, used } = device::usage(part(device)?);
        let version: c_uint = get(info.cast())?;
        if version != size_of::<MemoryV2>() as c_uint | 2 << 24 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        put(info, MemoryV2 { version, total, reserved: 0, free: total.saturating_sub(used), used })
    }

    fn nvmlDeviceGetCudaComputeCapability(device: Device, major: *mut c_int, minor: *mut c_int) {
        part(device)?;
        put(major, device::COMPUTE_CAPABILITY.0)?;
        put(minor, device::COMPUTE_CAPABILITY.1)
    }

    fn nvmlDeviceGetTemperature(device: Device, which: c_uint, temperature: *mut c_uint) {
        match which {
            // Of the chip.
            0 => put(temperature, sensor(device, "temperature")?),
            _ => Err(INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetPowerUsage(device: Device, milliwatts: *mut c_uint) {
        put(milliwatts, sensor(device, "power")?)
    }

    fn nvmlDeviceGetEnforcedPowerLimit | nvmlDeviceGetPowerManagementLimit(
        device: Device, milliwatts: *mut c_uint,
    ) {
        put(milliwatts, sensor(device, "power_limit")?)
    }

    fn nvmlDeviceGetUtilizationRates(device: Device, utilization: *mut [c_uint; 2]) {
        put(utilization, [sensor(device, "utilization")?, sensor(device, "memory_utilization")?])
    }

    fn nvmlDeviceGetClockInfo(device: Device, clock: c_uint, mhz: *mut c_uint) {
        let clocks = ["graphics_clock", "sm_clock", "memory_clock", "video_clock"];
        let name = clocks.get(clock as usize).ok_or(INVALID_ARGUMENT)?;
        put(mhz, sensor(device, name)?)
    }

    fn nvmlDeviceGetEccMode(device: Device, current: *mut c_uint, pending: *mut c_uint) {
        let mode: c_uint = sensor(device, "ecc")?;
        put(current, mode)?;
        put(pending, mode)
    }

    fn nvmlDeviceGetTotalEccErrors(
        device: Device, kind: c_uint, counter: c_uint, count: *mut c_ulonglong,
    ) {
        match (kind, counter) {
            // Those that could not be corrected: since the driver was loaded, and ever.
            (1, 0) => put(count, sensor(device, "ecc_volatile")?),
            (1, 1) => put(count, sensor(device, "ecc_aggregate")?),
            (0, 0 | 1) => Err(NOT_SUPPORTED),
            _ => Err(INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetMinorNumber | nvmlDeviceGetPersistenceMode | nvmlDeviceGetComputeMode(
        device: Device, _value: *mut c_uint,
    ) {
        number(device)?;
        Err(NOT_SUPPORTED)
    }

    fn nvmlDeviceGetMigMode(device: Device, current: *mut c_uint, pending: *mut c_uint) {
        match device::instances(number(device)?) {
            0 => Err(NOT_SUPPORTED),
            _ => put(current, 1).and_then(|()| put(pending, 1)),
        }
    }

    fn nvmlDeviceGetMaxMigDeviceCount(device: Device, count: *mut c_uint) {
        put(count, device::instances(number(device)?))
    }

    fn nvmlDeviceGetMigDeviceHandleByIndex(device: Device, index: c_uint, out: *mut Device) {
        let number = number(device)?;
        if index >= device::instances(number) {
            return Err(NOT_FOUND);
        }
        put(out, handle(Part::instance(number, index)))
    }

    fn nvmlDeviceIsMigDeviceHandle(device: Device, is: *mut c_uint) {
        put(is, part(device)?.instance.is_some().into())
    }

    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: Device, out: *mut Device) {
        let (number, _) = instance(device)?;
        put(out, handle(Part::whole(number)))
    }

    fn nvmlDeviceGetGpuInstanceId(device: Device, id: *mut c_uint) {
        put(id, instance(device)?.1)
    }

    fn nvmlDeviceGetComputeInstanceId(device: Device, id: *mut c_uint) {
        instance(device)?;
        put(id, 0)
    }

    // As cuDeviceCanAccessPeer says.
    fn nvmlDeviceGetP2PStatus(one: Device, other: Device, _kind: c_uint, out: *mut c_uint) {
        number(one)?;
        number(other)?;
        put(out, P2P_NOT_SUPPORTED)
    }

    fn nvmlDeviceGetComputeRunningProcesses_v3(device: Device, count: *mut c_uint, out: *mut ProcessInfo) {
        let found = processes(device)?;
        let room = get(count)? as usize;
        put(count, found.len() as c_uint)?;
        if found.len() > room {
            return Err(INSUFFICIENT_SIZE);
        }
        for (at, process) in found.into_iter().enumerate() {
            put(out.wrapping_add(at), process)?;
        }
        Ok(())
    }
}

/// What a code means; for one that this library never returns, that it is unknown.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: Return) -> *const c_char {
    let text = TEXTS.iter().find(|(known, _)| *known == code);
    text.map_or(c"Unknown Error", |(_, text)| text).as_ptr()
}
