//! How GPUs are connected: a VM has no PCI bus with them on it, so of what lies between them nothing is promised.
use crate::told::{Device, Handle};
use crate::{api, code, get, put};
use std::ffi::{c_uint, c_ulong};

/// `nvmlGpuFabricInfo_t`, up to its padding: of a GPU that is in no fabric all of it is zero.
const FABRIC_INFO_LEN: usize = 25;
/// The versions of `nvmlGpuFabricInfoV_t`, which start with their size.
const FABRIC_INFO_VERSIONS: [c_uint; 2] = [0x0200_0024, 0x0300_0028];
/// A GPU and itself.
const TOPOLOGY_INTERNAL: c_uint = 0;
/// The farthest there is.
const TOPOLOGY_SYSTEM: c_uint = 50;
const P2P_OK: c_uint = 0;
const P2P_NOT_SUPPORTED: c_uint = 5;
/// Kinds of peer-to-peer access: read, write, NVLink, atomics, PCI. The first two are what CUDA means by it; of the others the
/// host does not tell.
const P2P_KINDS: c_uint = 5;
const P2P_READ_AND_WRITE: std::ops::Range<c_uint> = 0..2;

api! {
    fn nvmlDeviceGetTopologyCommonAncestor(one: Handle, other: Handle, out: *mut c_uint) {
        let same = Device::of(one)?.index == Device::of(other)?.index;
        put(out, if same { TOPOLOGY_INTERNAL } else { TOPOLOGY_SYSTEM })
    }

    // As cuDeviceCanAccessPeer says.
    fn nvmlDeviceGetP2PStatus(one: Handle, other: Handle, kind: c_uint, out: *mut c_uint) {
        let (one, other) = (Device::of(one)?, Device::of(other)?);
        if kind >= P2P_KINDS {
            return Err(code::INVALID_ARGUMENT);
        }
        let reaches = one.gpu().peers & 1 << other.index != 0;
        let can = reaches && P2P_READ_AND_WRITE.contains(&kind);
        put(out, if can { P2P_OK } else { P2P_NOT_SUPPORTED })
    }

    // To the VM all of its CPUs are as near.
    fn nvmlDeviceGetCpuAffinity(device: Handle, len: c_uint, out: *mut c_ulong) {
        Device::of(device)?;
        // SAFETY: takes no pointer.
        let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
        let mut left = u32::try_from(cpus).map_err(|_| code::UNKNOWN)?;
        for at in 0..len as usize {
            let here = left.min(c_ulong::BITS);
            left -= here;
            put(out.wrapping_add(at), c_ulong::MAX.checked_shr(c_ulong::BITS - here).unwrap_or(0))?;
        }
        if left > 0 { Err(code::INSUFFICIENT_SIZE) } else { Ok(()) }
    }

    fn nvmlDeviceGetGpuFabricInfo(device: Handle, out: *mut [u8; FABRIC_INFO_LEN]) {
        Device::of(device)?;
        put(out, [0; FABRIC_INFO_LEN])
    }

    fn nvmlDeviceGetGpuFabricInfoV(device: Handle, out: *mut u8) {
        Device::of(device)?;
        let version: c_uint = get(out.cast())?;
        if !FABRIC_INFO_VERSIONS.contains(&version) {
            return Err(code::ARGUMENT_VERSION_MISMATCH);
        }
        let len = (version & 0xff_ffff) as usize;
        (size_of::<c_uint>()..len).try_for_each(|at| put(out.wrapping_add(at), 0))
    }
}
