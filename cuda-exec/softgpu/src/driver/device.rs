//! Devices: how many there are, and what they say about themselves.

use super::abi::{CUdevice, Out, Text, api};
use super::context::Context;
use super::error::{self, Result};
use super::runtime::initialised;
use softgpu_device::{DeviceShare, NAME, pci_address, uuid, uuid_text};
use std::ffi::c_char;
use std::sync::{Arc, Mutex};

/// Most shared memory a block may have, with the function attribute that asks for it.
pub const SHARED_OPTIN: i32 = 227 * 1024;
/// Most shared memory a block may have otherwise.
pub const SHARED_DEFAULT: i32 = 48 * 1024;

/// One device.
pub struct Device {
    /// Its number among all software GPUs; `CUDA_VISIBLE_DEVICES` may hide some.
    pub number: u32,
    /// What the processes that use it share.
    pub share: Arc<DeviceShare>,
    pub primary: Mutex<Primary>,
}

/// The primary context.
#[derive(Default)]
pub struct Primary {
    pub context: Option<Arc<Context>>,
    pub retained: u32,
    pub flags: u32,
}

/// The devices which this process may see.
pub(crate) fn discover() -> Vec<Device> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    visible_numbers(softgpu_device::count(), visible.as_deref())
        .into_iter()
        .map(|number| Device {
            number,
            share: DeviceShare::open(number),
            primary: Mutex::default(),
        })
        .collect()
}

/// Applies `CUDA_VISIBLE_DEVICES`: a list of numbers or UUIDs (or their beginnings), which ends at the
/// first entry that names no device or one that came before.
fn visible_numbers(count: u32, visible: Option<&str>) -> Vec<u32> {
    let Some(visible) = visible else {
        return (0..count).collect();
    };
    let mut numbers = Vec::new();
    for entry in visible.split(',').map(str::trim) {
        let named = if let Ok(number) = entry.parse::<u32>() {
            (number < count).then_some(number)
        } else if entry.starts_with("GPU-") {
            let mut matching = (0..count).filter(|n| uuid_text(*n).starts_with(entry));
            matching.next().filter(|_| matching.next().is_none())
        } else {
            None
        };
        match named {
            Some(number) if !numbers.contains(&number) => numbers.push(number),
            _ => break,
        }
    }
    numbers
}

/// The device of an ordinal.
pub(crate) fn device(ordinal: CUdevice) -> Result<&'static Device> {
    let devices = &initialised()?.devices;
    usize::try_from(ordinal)
        .ok()
        .and_then(|n| devices.get(n))
        .ok_or(error::INVALID_DEVICE)
}

fn put_text(text: &str, out: *mut c_char, len: i32) -> Result {
    if out.is_null() || len < 1 {
        return Err(error::INVALID_VALUE);
    }
    let kept = text.len().min(len as usize - 1);
    for (at, byte) in text.bytes().take(kept).chain([0]).enumerate() {
        Out(out.wrapping_add(at)).set(byte as c_char)?;
    }
    Ok(())
}

/// The value of a device attribute; those that only describe absent features are 0.
fn attribute(device: &Device, id: i32) -> Result<i32> {
    Ok(match id {
        1 => 1024,                                   // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                               // MAX_BLOCK_DIM_X, _Y
        4 => 64,                                     // MAX_BLOCK_DIM_Z
        5 => i32::MAX,                               // MAX_GRID_DIM_X
        6 | 7 => 65535,                              // MAX_GRID_DIM_Y, _Z
        8 => SHARED_DEFAULT,                         // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                                  // TOTAL_CONSTANT_MEMORY
        10 => 32,                                    // WARP_SIZE
        11 => i32::MAX,                              // MAX_PITCH
        12 | 82 => 65536,                            // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
        13 => 2_000_000,                             // CLOCK_RATE, kHz
        14 | 30 => 512,                              // TEXTURE_ALIGNMENT, SURFACE_ALIGNMENT
        15 => 1,                                     // GPU_OVERLAP
        16 => 1,                                     // MULTIPROCESSOR_COUNT
        19 => 1,                                     // CAN_MAP_HOST_MEMORY
        31 => 1,                                     // CONCURRENT_KERNELS
        33 => pci_address(device.number).bus as i32, // PCI_BUS_ID
        36 => 1_000_000,                             // MEMORY_CLOCK_RATE, kHz
        37 => 128,                                   // GLOBAL_MEMORY_BUS_WIDTH, bits
        38 => 1 << 20,                               // L2_CACHE_SIZE
        39 => 2048,                                  // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 2,                                     // ASYNC_ENGINE_COUNT
        41 => 1,                                     // UNIFIED_ADDRESSING
        51 => 32,                                    // TEXTURE_PITCH_ALIGNMENT
        75 => 9,                                     // COMPUTE_CAPABILITY_MAJOR
        76 => 0,                                     // COMPUTE_CAPABILITY_MINOR
        78 => 1,                                     // STREAM_PRIORITIES_SUPPORTED
        79 | 80 => 1,                                // GLOBAL_, LOCAL_L1_CACHE_SUPPORTED
        81 => 228 * 1024,                            // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        87 => 2,                                     // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        90 => 1,                                     // COMPUTE_PREEMPTION_SUPPORTED
        91 => 1,                                     // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        92..=94 => 1,                                // the stream memory operations, first version
        97 => SHARED_OPTIN,                          // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        99 => 1,                                     // HOST_REGISTER_SUPPORTED
        106 => 32,                                   // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => 1024,                                 // RESERVED_SHARED_MEMORY_PER_BLOCK
        113 => 1,                                    // READ_ONLY_HOST_REGISTER_SUPPORTED
        122 | 123 => 1,                              // the stream memory operations, second version
        133 => -1,                                   // NUMA_ID
        id if (1..=150).contains(&id) => 0,
        _ => return Err(error::INVALID_VALUE),
    })
}

api! { SYMBOLS;
    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(initialised()?.devices.len() as i32)
    }

    fn cuDeviceGet(out: Out<CUdevice>, ordinal: i32) {
        device(ordinal)?;
        out.set(ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, len: i32, ordinal: CUdevice) {
        device(ordinal)?;
        put_text(NAME, name, len)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, id: i32, ordinal: CUdevice) {
        value.set(attribute(device(ordinal)?, id)?)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, ordinal: CUdevice) {
        bytes.set(device(ordinal)?.share.total_memory() as usize)
    }

    fn cuDeviceGetUuid(out: Out<[u8; 16]>, ordinal: CUdevice) {
        out.set(uuid(device(ordinal)?.number))
    }

    fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, ordinal: CUdevice) {
        out.set(uuid(device(ordinal)?.number))
    }

    fn cuDeviceGetPCIBusId(id: *mut c_char, len: i32, ordinal: CUdevice) {
        put_text(&pci_address(device(ordinal)?.number).text(), id, len)
    }

    fn cuDeviceGetByPCIBusId(out: Out<CUdevice>, id: Text) {
        let id = id.get()?;
        let devices = &initialised()?.devices;
        let found = devices.iter().position(|d| pci_address(d.number).is_named(&id));
        out.set(found.ok_or(error::INVALID_DEVICE)? as CUdevice)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, ordinal: CUdevice) {
        device(ordinal)?;
        major.set(9)?;
        minor.set(0)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, ordinal: CUdevice, peer: CUdevice) {
        device(ordinal)?;
        device(peer)?;
        can.set(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_follow_the_environment() {
        assert_eq!(visible_numbers(3, None), [0, 1, 2]);
        assert_eq!(visible_numbers(3, Some("2,0")), [2, 0]);
        assert_eq!(visible_numbers(3, Some("1,7,0")), [1]);
        assert_eq!(visible_numbers(3, Some("1,1")), [1]);
        assert_eq!(visible_numbers(3, Some("")), [0; 0]);
        assert_eq!(visible_numbers(3, Some(&uuid_text(1))), [1]);
        // A beginning that fits several devices names none.
        assert_eq!(visible_numbers(3, Some("GPU-76")), [0; 0]);
    }
}
