//! What there is to know of the devices: all of it was fetched when the session was opened.
use super::cuda;
use crate::abi::{CUdevice, CUdevprop, CUuuid, Out, Text};
use crate::session::Call;
use std::ffi::{c_char, c_int, c_uint};
use vgpu_protocol::calls::{self, Mode};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{GPU_ATTRIBUTES, GpuInfo};
use vgpu_protocol::structs::HANDLE_TYPE_FILE;
use vgpu_protocol::words::handle;

/// Attributes that say whether a call works, each with such a call: while the call table does not offer it, the
/// attribute is 0 whatever the device can do, and programs take their other way.
const NEEDS: &[(usize, &str)] = &[
    (83, "cuMemAllocManaged"),                    // MANAGED_MEMORY
    (95, "cuLaunchCooperativeKernel"),            // COOPERATIVE_LAUNCH
    (96, "cuLaunchCooperativeKernelMultiDevice"), // COOPERATIVE_MULTI_DEVICE_LAUNCH
    (92, "cuStreamWaitValue32"),                  // CAN_USE_STREAM_MEM_OPS_V1
    (93, "cuStreamWaitValue64"),                  // CAN_USE_64_BIT_STREAM_MEM_OPS_V1
    (121, "cuMemMapArrayAsync"),                  // DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
    (122, "cuStreamWaitValue64"),                 // CAN_USE_64_BIT_STREAM_MEM_OPS
    (98, "cuFlushGPUDirectRDMAWrites"),           // CAN_FLUSH_REMOTE_WRITES
    (99, "cuMemHostRegister"),                    // HOST_REGISTER_SUPPORTED
    (102, "cuMemAddressReserve"),                 // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (103, "cuMemExportToShareableHandle"),        // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    (112, "cuMemMapArrayAsync"),                  // SPARSE_CUDA_ARRAY_SUPPORTED
    (113, "cuMemHostRegister"),                   // READ_ONLY_HOST_REGISTER_SUPPORTED
    (114, "cuImportExternalSemaphore"),           // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
    (115, "cuMemAllocAsync"),                     // MEMORY_POOLS_SUPPORTED
    (116, "cuFlushGPUDirectRDMAWrites"),          // GPU_DIRECT_RDMA_SUPPORTED
    (124, "cuMemGetHandleForAddressRange"),       // DMA_BUF_SUPPORTED
    (125, "cuIpcGetEventHandle"),                 // IPC_EVENT_SUPPORTED
    (127, "cuTensorMapEncodeTiled"),              // TENSOR_MAP_ACCESS_SUPPORTED
    (129, "cuLibraryGetUnifiedFunction"),         // UNIFIED_FUNCTION_POINTERS
    (132, "cuMulticastCreate"),                   // MULTICAST_SUPPORTED
    (136, "cuMemBatchDecompressAsync"),           // MEM_DECOMPRESS_ALGORITHM_MASK
    (137, "cuMemBatchDecompressAsync"),           // MEM_DECOMPRESS_MAXIMUM_LENGTH
];

/// MANAGED_MEMORY: it is the guest's memory, whatever the device can do.
const MANAGED: usize = 83;
/// PAGEABLE_MEMORY_ACCESS and CONCURRENT_MANAGED_ACCESS: no memory moves when it is accessed. HANDLE_TYPE_FABRIC_SUPPORTED:
/// memory is exported as files alone. HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED to HOST_ALLOC_DMA_BUF_SUPPORTED: neither
/// handles nor pools are of the host's memory.
const NEVER: [usize; 9] = [88, 89, 128, 141, 142, 143, 144, 145, 146];

/// MEMPOOL_SUPPORTED_HANDLE_TYPES: of a pool's, files alone.
const POOLS_HANDLE_TYPES: usize = 119;

fn is_offered(attribute: usize) -> bool {
    let needed = NEEDS.iter().find(|(number, _)| *number == attribute);
    needed.is_none_or(|(_, call)| calls::find_name(call).is_some_and(|row| row.mode != Mode::None))
}

/// A device's description; `device` is its ordinal.
pub fn gpu(call: &Call, device: CUdevice) -> Result<&'static GpuInfo, Code> {
    usize::try_from(device)
        .ok()
        .and_then(|device| call.session.gpus.get(device))
        .ok_or(result::INVALID_DEVICE)
}

fn attribute(info: &GpuInfo, attribute: c_int) -> Result<c_int, Code> {
    let number = usize::try_from(attribute)
        .ok()
        .filter(|&number| (1..GPU_ATTRIBUTES).contains(&number))
        .ok_or(result::INVALID_VALUE)?;
    match info.attributes[number] {
        i32::MIN => Err(result::INVALID_VALUE),
        _ if number == MANAGED && is_offered(number) => Ok(1),
        types if number == POOLS_HANDLE_TYPES => Ok(types & HANDLE_TYPE_FILE as c_int),
        value if is_offered(number) && !NEVER.contains(&number) => Ok(value),
        _ => Ok(0),
    }
}

/// Text up to its first zero.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// A PCI address, from domain to function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub function: u32,
}

/// A device's place on the bus.
pub fn pci(info: &GpuInfo) -> Result<PciAddress, Code> {
    PciAddress::parse(text(&info.pci)).ok_or(result::UNKNOWN)
}

impl PciAddress {
    /// Reads `[domain:]bus:device[.function]`, all hexadecimal.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let number = |part: &str| u32::from_str_radix(part, 16).ok();
        let (place, function) = match text.split_once('.') {
            Some((place, function)) => (place, number(function)?),
            None => (text, 0),
        };
        let parts = place.split(':').map(number).collect::<Option<Vec<_>>>()?;
        let (domain, bus, device) = match parts[..] {
            [domain, bus, device] => (domain, bus, device),
            [bus, device] => (0, bus, device),
            _ => return None,
        };
        Some(Self {
            domain,
            bus,
            device,
            function,
        })
    }
}

cuda! {
    fn cuDeviceGet(device: Out<CUdevice>, ordinal: c_int) {
        let call = Call::local()?;
        device.check()?;
        gpu(&call, ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<c_int>) {
        count.set(Call::local()?.session.gpus.len() as c_int)
    }

    fn cuDeviceGetName(name: Out<c_char>, len: c_int, device: CUdevice) {
        name.set_text(text(&gpu(&Call::local()?, device)?.name), len)
    }

    fn cuDeviceGetUuid(uuid: Out<CUuuid>, device: CUdevice) {
        uuid.set(CUuuid(gpu(&Call::local()?, device)?.uuid))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<CUuuid>, device: CUdevice) {
        uuid.set(CUuuid(gpu(&Call::local()?, device)?.uuid))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: CUdevice) {
        bytes.set(gpu(&Call::local()?, device)?.memory as usize)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, number: c_int, device: CUdevice) {
        let info = gpu(&Call::local()?, device)?;
        value.check()?.set(attribute(info, number)?)
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: CUdevice) {
        let info = gpu(&Call::local()?, device)?;
        major.check()?;
        minor.set(attribute(info, 76)?)?;
        major.set(attribute(info, 75)?)
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<c_int>, affinity: c_int, device: CUdevice) {
        let call = Call::local()?;
        gpu(&call, device)?;
        supported.check()?;
        // CU_EXEC_AFFINITY_TYPE_SM_COUNT is all there is, and only clients of NVIDIA's MPS have it.
        if affinity != 0 {
            return Err(result::INVALID_VALUE);
        }
        supported.set(0)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(
        width: Out<usize>, format: c_int, channels: c_uint, device: CUdevice,
    ) {
        let call = Call::enter()?;
        gpu(&call, device)?;
        width.check()?;
        let current = call.context().map_or(handle::CONTEXT_NONE, |context| context.id);
        let arguments =
            calls::cuDeviceGetTexture1DLinearMaxWidth::In { format, channels, device: device as u32 };
        let out = call.ask::<calls::cuDeviceGetTexture1DLinearMaxWidth::Call>(current, arguments)?;
        width.set(out.width as usize)
    }

    fn cuDeviceGetProperties(properties: Out<CUdevprop>, device: CUdevice) {
        let info = gpu(&Call::local()?, device)?;
        let get = |number| attribute(info, number);
        properties.set(CUdevprop {
            max_threads_per_block: get(1)?,
            max_threads_dim: [get(2)?, get(3)?, get(4)?],
            max_grid_size: [get(5)?, get(6)?, get(7)?],
            shared_mem_per_block: get(8)?,
            total_constant_memory: get(9)?,
            simd_width: get(10)?,
            mem_pitch: get(11)?,
            regs_per_block: get(12)?,
            clock_rate: get(13)?,
            texture_align: get(14)?,
        })
    }

    fn cuDeviceGetPCIBusId(id: Out<c_char>, len: c_int, device: CUdevice) {
        let info = gpu(&Call::local()?, device)?;
        let PciAddress { domain, bus, device, function } = pci(info)?;
        let address = format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}");
        id.set_text(address.as_bytes(), len)?;
        // As much as fits is there, and the caller is told that it is not all.
        if address.len() < len as usize { Ok(()) } else { Err(result::INVALID_VALUE) }
    }

    fn cuDeviceGetByPCIBusId(device: Out<CUdevice>, id: Text) {
        let call = Call::local()?;
        let wanted = PciAddress::parse(id.get()?.to_bytes()).ok_or(result::INVALID_VALUE)?;
        let found = call.session.gpus.iter().position(|gpu| PciAddress::parse(text(&gpu.pci)) == Some(wanted));
        device.set(found.ok_or(result::INVALID_DEVICE)? as CUdevice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_come_in_three_forms() {
        let full = PciAddress {
            domain: 0,
            bus: 0x17,
            device: 0,
            function: 0,
        };
        assert_eq!(PciAddress::parse(b"00000000:17:00.0"), Some(full));
        assert_eq!(PciAddress::parse(b"0000:17:00"), Some(full));
        assert_eq!(PciAddress::parse(b"17:00.0"), Some(full));
        assert_eq!(PciAddress::parse(b"17"), None);
        assert_eq!(PciAddress::parse(b"0:0:0:0"), None);
        assert_eq!(PciAddress::parse(b"xy:00.0"), None);
    }

    #[test]
    fn attributes_name_calls_of_the_table() {
        for (number, call) in NEEDS {
            assert!(calls::find_name(call).is_some(), "{call}");
            assert!(*number < GPU_ATTRIBUTES);
        }
    }
}
