//! What there is to ask of a GPU.
use crate::told::{Device, Handle, known, pci_of};
use crate::{Result, api, check_version, code, put, put_text};
use std::ffi::{c_char, c_int, c_uint};
use vgpu_protocol::gpus::{Gpu, padded, text};

/// `nvmlPciInfo_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PciInfo {
    /// With a domain of four digits.
    bus_id_legacy: [u8; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    /// With a domain of eight.
    bus_id: [u8; 32],
}

/// The part of it that programs of older versions have room for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PciInfoOld {
    bus_id: [u8; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
}

/// `nvmlTemperature_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Temperature {
    version: c_uint,
    sensor: c_uint,
    temperature: c_int,
}

const _: () = assert!(size_of::<PciInfo>() == 68);

/// The GPU's own sensor.
const SENSOR_GPU: c_uint = 0;
/// The clock as it is now.
const CLOCK_NOW: c_uint = 0;
/// Any number of processes may use a GPU.
const COMPUTE_MODE_DEFAULT: c_uint = 0;
const DISABLED: c_uint = 0;

fn pci_info(gpu: &Gpu) -> Result<PciInfo> {
    let [domain, bus, device, function] = pci_of(gpu)?;
    Ok(PciInfo {
        bus_id_legacy: padded(&format!("{domain:04X}:{bus:02X}:{device:02X}.{function:X}")),
        domain,
        bus,
        device,
        // 0 where there is nothing on the bus.
        pci_device_id: known(gpu.pci_device).unwrap_or(0),
        pci_subsystem_id: known(gpu.pci_subsystem).unwrap_or(0),
        bus_id: padded(&format!("{domain:08X}:{bus:02X}:{device:02X}.{function:X}")),
    })
}

/// The clock of a kind: graphics, SM, memory, video.
fn clock(clocks: &[u32; 4], kind: c_uint) -> Result<c_uint> {
    known(*clocks.get(kind as usize).ok_or(code::INVALID_ARGUMENT)?)
}

fn temperature(device: Handle, sensor: c_uint) -> Result<c_uint> {
    let device = Device::of(device)?;
    match sensor {
        SENSOR_GPU => known(device.gpu().temperature),
        _ => Err(code::INVALID_ARGUMENT),
    }
}

api! {
    fn nvmlDeviceGetName(device: Handle, name: *mut c_char, len: c_uint) {
        put_text(&text(&Device::of(device)?.gpu().name), name, len)
    }

    fn nvmlDeviceGetUUID(device: Handle, uuid: *mut c_char, len: c_uint) {
        put_text(&text(&Device::of(device)?.gpu().uuid), uuid, len)
    }

    fn nvmlDeviceGetIndex(device: Handle, index: *mut c_uint) {
        put(index, Device::of(device)?.index as c_uint)
    }

    fn nvmlDeviceGetPciInfo_v3(device: Handle, info: *mut PciInfo) {
        put(info, pci_info(Device::of(device)?.gpu())?)
    }

    fn nvmlDeviceGetPciInfo | nvmlDeviceGetPciInfo_v2(device: Handle, info: *mut PciInfoOld) {
        let now = pci_info(Device::of(device)?.gpu())?;
        let old = PciInfoOld {
            bus_id: now.bus_id_legacy,
            domain: now.domain,
            bus: now.bus,
            device: now.device,
            pci_device_id: now.pci_device_id,
        };
        put(info, old)
    }

    fn nvmlDeviceGetUtilizationRates(device: Handle, out: *mut [c_uint; 2]) {
        // How much of it the memory was busy nobody counts for a VM.
        put(out, [known(Device::of(device)?.gpu().utilisation)?, 0])
    }

    fn nvmlDeviceGetCudaComputeCapability(device: Handle, major: *mut c_int, minor: *mut c_int) {
        let [is_major, is_minor] = Device::of(device)?.gpu().compute;
        let number = |number| known(number)?.try_into().map_err(|_| code::UNKNOWN);
        put(major, number(is_major)?)?;
        put(minor, number(is_minor)?)
    }

    fn nvmlDeviceGetArchitecture(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().architecture)?)
    }

    fn nvmlDeviceGetBrand(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().brand)?)
    }

    fn nvmlDeviceGetNumGpuCores(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().cores)?)
    }

    fn nvmlDeviceGetMemoryBusWidth(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().bus_width)?)
    }

    fn nvmlDeviceGetMaxPcieLinkGeneration(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().pcie_max[0])?)
    }

    fn nvmlDeviceGetMaxPcieLinkWidth(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().pcie_max[1])?)
    }

    // What the link does now follows how busy the GPU is: a program that asks to learn how fast it can be is told that.
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().pcie_max[0])?)
    }

    fn nvmlDeviceGetCurrPcieLinkWidth(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().pcie_max[1])?)
    }

    fn nvmlDeviceGetClockInfo(device: Handle, kind: c_uint, out: *mut c_uint) {
        put(out, clock(&Device::of(device)?.gpu().clocks, kind)?)
    }

    fn nvmlDeviceGetClock(device: Handle, kind: c_uint, which: c_uint, out: *mut c_uint) {
        let device = Device::of(device)?;
        match which {
            CLOCK_NOW => put(out, clock(&device.gpu().clocks, kind)?),
            _ => Err(code::NOT_SUPPORTED),
        }
    }

    fn nvmlDeviceGetMaxClockInfo(device: Handle, kind: c_uint, out: *mut c_uint) {
        put(out, clock(&Device::of(device)?.gpu().clocks_max, kind)?)
    }

    fn nvmlDeviceGetTemperature(device: Handle, sensor: c_uint, out: *mut c_uint) {
        put(out, temperature(device, sensor)?)
    }

    fn nvmlDeviceGetTemperatureV(device: Handle, out: *mut Temperature) {
        let version = check_version(out, 1)?;
        let sensor = crate::get(out)?.sensor;
        let temperature = temperature(device, sensor)?.try_into().map_err(|_| code::UNKNOWN)?;
        put(out, Temperature { version, sensor, temperature })
    }

    fn nvmlDeviceGetPowerUsage(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().power)?)
    }

    fn nvmlDeviceGetEnforcedPowerLimit(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().power_limit)?)
    }

    fn nvmlDeviceGetPerformanceState | nvmlDeviceGetPowerState(device: Handle, out: *mut c_uint) {
        put(out, known(Device::of(device)?.gpu().performance)?)
    }

    fn nvmlDeviceGetEccMode(device: Handle, current: *mut c_uint, pending: *mut c_uint) {
        let ecc = known(Device::of(device)?.gpu().ecc)?;
        put(current, ecc)?;
        put(pending, ecc)
    }

    fn nvmlDeviceGetComputeMode(device: Handle, out: *mut c_uint) {
        Device::of(device)?;
        put(out, COMPUTE_MODE_DEFAULT)
    }

    // A VM sees a MIG instance that it has as a GPU, and divides none.
    fn nvmlDeviceGetMigMode(device: Handle, current: *mut c_uint, pending: *mut c_uint) {
        Device::of(device)?;
        put(current, DISABLED)?;
        put(pending, DISABLED)
    }

    fn nvmlDeviceGetMaxMigDeviceCount(device: Handle, count: *mut c_uint) {
        Device::of(device)?;
        put(count, 0)
    }

    fn nvmlDeviceIsMigDeviceHandle(device: Handle, is: *mut c_uint) {
        Device::of(device)?;
        put(is, 0)
    }

    fn nvmlDeviceGetDisplayMode | nvmlDeviceGetDisplayActive(device: Handle, out: *mut c_uint) {
        Device::of(device)?;
        put(out, DISABLED)
    }
}
