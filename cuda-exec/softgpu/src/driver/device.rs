//! Devices: how many there are, and what they say about themselves.

use super::abi::{CUdevice, In, Out, Text, api};
use super::array::element;
use super::context::Context;
use super::error::{self, Result};
use super::runtime::initialised;
use softgpu_device::{DeviceShare, Part, pci_address};
use std::ffi::c_char;
use std::sync::{Arc, Mutex};

/// Most shared memory a block may have, with the function attribute that asks for it.
pub const SHARED_OPTIN: i32 = 227 * 1024;
/// Most shared memory a block may have otherwise.
pub const SHARED_DEFAULT: i32 = 48 * 1024;

/// Multiprocessors.
pub const MULTIPROCESSORS: i32 = 1;

/// Operations that a CUatomicOperation names.
const ATOMIC_OPERATIONS: u32 = 13;
/// Most elements of a texture of linear memory.
const TEXTURE_1D_LINEAR_MAX: usize = 1 << 28;

/// One device.
pub struct Device {
    /// Which of all software GPUs it is; `CUDA_VISIBLE_DEVICES` may hide some.
    pub part: Part,
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
pub(crate) fn discover() -> Result<Vec<Device>> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let device = |part| Device {
        part,
        share: DeviceShare::open(part),
        primary: Mutex::default(),
    };
    let parts = visible_parts(&Part::all(), visible.as_deref())?;
    Ok(parts.into_iter().map(device).collect())
}

/// Applies `CUDA_VISIBLE_DEVICES`: a list of numbers, or of UUIDs (or their beginnings) if the first entry is one, which ends at the
/// first entry that names no device; none may be named twice. Of a device that is divided only one instance can be seen, the first
/// unless another is named; one that is named stands alone.
fn visible_parts(all: &[Part], visible: Option<&str>) -> Result<Vec<Part>> {
    let mut devices = all.to_vec();
    devices.dedup_by_key(|part| part.device);
    let Some(visible) = visible else {
        return Ok(devices);
    };
    let by_uuid = visible.starts_with("GPU-") || visible.starts_with("MIG-");
    let mut parts: Vec<Part> = Vec::new();
    for entry in visible.split(',') {
        let named = if !by_uuid {
            ordinal(entry).and_then(|number| devices.get(number).copied())
        } else if entry.starts_with("MIG-") {
            parts.extend(named_by_uuid(entry, all, |part| part).filter(|_| parts.is_empty()));
            None
        } else {
            named_by_uuid(entry, &devices, |part| Part::whole(part.device))
        };
        let Some(part) = named else { break };
        if parts.contains(&part) {
            return Err(error::INVALID_DEVICE);
        }
        parts.push(part);
    }
    Ok(parts)
}

/// The one whose UUID begins as an entry does, whatever comes behind.
fn named_by_uuid(entry: &str, parts: &[Part], of: impl Fn(Part) -> Part) -> Option<Part> {
    let (kind, digits) = entry.split_at_checked(4)?;
    let end = digits
        .find(|c: char| !c.is_ascii_hexdigit() && c != '-')
        .unwrap_or(digits.len());
    let start = format!("{kind}{}", digits[..end].to_ascii_lowercase());
    let mut fitting = parts
        .iter()
        .filter(|part| end > 0 && of(**part).uuid_text().starts_with(&start));
    fitting.next().filter(|_| fitting.next().is_none()).copied()
}

/// A number as `strtol` reads it and an `int` keeps it; `None` for one below 0, or none at all.
fn ordinal(entry: &str) -> Option<usize> {
    let entry = entry.trim_ascii_start();
    let digits = entry.strip_prefix(['+', '-']).unwrap_or(entry);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = digits[..end].parse::<i128>().ok()?;
    let number = if entry.starts_with('-') { -number } else { number };
    let number = number.clamp(i64::MIN.into(), i64::MAX.into()) as i32;
    usize::try_from(number).ok()
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
        1 => 1024,                                        // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                                    // MAX_BLOCK_DIM_X, _Y
        4 => 64,                                          // MAX_BLOCK_DIM_Z
        5 => i32::MAX,                                    // MAX_GRID_DIM_X
        6 | 7 => 65535,                                   // MAX_GRID_DIM_Y, _Z
        8 => SHARED_DEFAULT,                              // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                                       // TOTAL_CONSTANT_MEMORY
        10 => 32,                                         // WARP_SIZE
        11 => i32::MAX,                                   // MAX_PITCH
        12 | 82 => 65536,                                 // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
        13 => 2_000_000,                                  // CLOCK_RATE, kHz
        14 | 30 => 512,                                   // TEXTURE_ALIGNMENT, SURFACE_ALIGNMENT
        15 => 1,                                          // GPU_OVERLAP
        16 => MULTIPROCESSORS,                            // MULTIPROCESSOR_COUNT
        19 => 1,                                          // CAN_MAP_HOST_MEMORY
        31 => 1,                                          // CONCURRENT_KERNELS
        33 => pci_address(device.part.device).bus as i32, // PCI_BUS_ID
        36 => 1_000_000,                                  // MEMORY_CLOCK_RATE, kHz
        37 => 128,                                        // GLOBAL_MEMORY_BUS_WIDTH, bits
        38 => 1 << 20,                                    // L2_CACHE_SIZE
        39 => 2048,                                       // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 2,                                          // ASYNC_ENGINE_COUNT
        41 => 1,                                          // UNIFIED_ADDRESSING
        51 => 32,                                         // TEXTURE_PITCH_ALIGNMENT
        75 => 9,                                          // COMPUTE_CAPABILITY_MAJOR
        76 => 0,                                          // COMPUTE_CAPABILITY_MINOR
        78 => 1,                                          // STREAM_PRIORITIES_SUPPORTED
        79 | 80 => 1,                                     // GLOBAL_, LOCAL_L1_CACHE_SUPPORTED
        81 => 228 * 1024,                                 // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        87 => 2,                                          // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        90 => 1,                                          // COMPUTE_PREEMPTION_SUPPORTED
        91 => 1,                                          // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        97 => SHARED_OPTIN,                               // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        99 => 1,                                          // HOST_REGISTER_SUPPORTED
        102 => 1,                                         // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        106 => 32,                                        // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => 1024,                                      // RESERVED_SHARED_MEMORY_PER_BLOCK
        113 => 1,                                         // READ_ONLY_HOST_REGISTER_SUPPORTED
        103 => 1,                                         // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
        115 => 1,                                         // MEMORY_POOLS_SUPPORTED
        119 => 1,                                         // MEMPOOL_SUPPORTED_HANDLE_TYPES: files
        122 | 123 => 1,                                   // the stream memory operations, second version
        133 => -1,                                        // NUMA_ID
        id if (1..=150).contains(&id) => 0,
        _ => return Err(error::INVALID_VALUE),
    })
}

api! { SYMBOLS;
    fn cuDeviceGetP2PAttribute(out: Out<i32>, attribute: i32, ordinal: CUdevice, peer: CUdevice) {
        device(ordinal)?;
        device(peer)?;
        if ordinal == peer {
            return Err(error::INVALID_DEVICE);
        }
        if !(1..=4).contains(&attribute) {
            return Err(error::INVALID_VALUE);
        }
        out.set(0)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(initialised()?.devices.len() as i32)
    }

    fn cuDeviceGet(out: Out<CUdevice>, ordinal: i32) {
        device(ordinal)?;
        out.set(ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, len: i32, ordinal: CUdevice) {
        put_text(&device(ordinal)?.part.name(), name, len)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, id: i32, ordinal: CUdevice) {
        value.set(attribute(device(ordinal)?, id)?)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<usize>, format: u32, channels: u32, ordinal: CUdevice) {
        device(ordinal)?;
        element(format, channels).ok_or(error::INVALID_VALUE)?;
        width.set(TEXTURE_1D_LINEAR_MAX)
    }

    fn cuDeviceGetHostAtomicCapabilities(can: Out<u32>, operations: In<u32>, len: u32, ordinal: CUdevice) {
        device(ordinal)?;
        if len == 0 {
            return Err(error::INVALID_VALUE);
        }
        for at in 0..len as usize {
            if operations.at(at)? >= ATOMIC_OPERATIONS {
                return Err(error::INVALID_VALUE);
            }
            // HOST_NATIVE_ATOMIC_SUPPORTED is 0.
            Out(can.0.wrapping_add(at)).set(0)?;
        }
        Ok(())
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, ordinal: CUdevice) {
        bytes.set(device(ordinal)?.share.total_memory() as usize)
    }

    fn cuDeviceGetUuid(out: Out<[u8; 16]>, ordinal: CUdevice) {
        out.set(device(ordinal)?.part.uuid())
    }

    fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, ordinal: CUdevice) {
        out.set(device(ordinal)?.part.uuid())
    }

    fn cuDeviceGetPCIBusId(id: *mut c_char, len: i32, ordinal: CUdevice) {
        put_text(&pci_address(device(ordinal)?.part.device).text(), id, len)
    }

    fn cuDeviceGetByPCIBusId(out: Out<CUdevice>, id: Text) {
        let id = id.get()?;
        let devices = &initialised()?.devices;
        let found = devices.iter().position(|d| pci_address(d.part.device).is_named(&id));
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
        let all: Vec<Part> = (0..3).map(Part::whole).collect();
        let visible = |text: Option<&str>| visible_parts(&all, text).unwrap();
        let numbers =
            |text: Option<&str>| -> Vec<u32> { visible(text).iter().map(|part| part.device).collect() };
        assert_eq!(visible(None), all);
        assert_eq!(numbers(Some("2,0")), [2, 0]);
        assert_eq!(numbers(Some("1,7,0")), [1]);
        assert!(visible_parts(&all, Some("1,1")).is_err());
        assert_eq!(numbers(Some(" 1, +2x,-0")), [1, 2, 0]);
        assert_eq!(numbers(Some("1,-2,0")), [1]);
        assert_eq!(numbers(Some("")), [0; 0]);
        assert_eq!(numbers(Some("4294967297,99999999999999999999,0")), [1]);
        let (first, second) = (all[0].uuid_text(), all[1].uuid_text());
        assert_eq!(numbers(Some(&second)), [1]);
        assert_eq!(numbers(Some(&format!("{second}x,{first} ,2"))), [1, 0]);
        assert_eq!(numbers(Some(&format!("1,{first}"))), [1]);
        assert_eq!(numbers(Some(&format!(" {second}"))), [0; 0]);
        assert_eq!(numbers(Some(&second.replace("ba", "BA"))), [1]);
        // A beginning that fits several devices names none.
        assert_eq!(numbers(Some("GPU-76")), [0; 0]);
    }

    #[test]
    fn one_instance_is_visible_of_a_divided_device() {
        let (whole, first, second) = (Part::whole(0), Part::instance(1, 0), Part::instance(1, 1));
        let all = [whole, first, second];
        let visible = |text: &str| visible_parts(&all, Some(text)).unwrap();
        assert_eq!(
            visible_parts(&all, None).unwrap(),
            [whole, first],
            "the first, where none is named"
        );
        assert_eq!(visible("1,0"), [first, whole]);
        assert_eq!(visible(&second.uuid_text()), [second]);
        // It stands alone.
        let two = format!("{},{}", second.uuid_text(), first.uuid_text());
        assert_eq!(visible(&two), [second]);
        assert_eq!(
            visible(&format!("{},{}", whole.uuid_text(), second.uuid_text())),
            [whole]
        );
        assert_eq!(visible("MIG-76"), []);
        assert_eq!(visible("MIG-0"), []);
    }
}
