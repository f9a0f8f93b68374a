//! What a software GPU is: how many there are, how each is called, and what all processes on one share. Both
//! libraries that show it are made from this, its `libcuda.so.1` and its `libnvidia-ml.so.1`.
//!
//! # Environment
//! | variable | meaning |
//! | --- | --- |
//! | `VGPU_SOFTGPU_DEVICES` | number of devices, 1 to 64; 1 unless given |
//! | `VGPU_SOFTGPU_MEMORY` | memory of each device in bytes, 4 GiB unless given; the first process on a device decides |
//! | `VGPU_SOFTGPU_DIR` | directory of the files through which processes share the devices; `/dev/shm/vgpu-softgpu-<uid>` unless given |
//!
//! For NVML a device is lost while there is a file `lost-<number>` in that directory.

mod share;

pub use share::{DeviceShare, Slot, Usage, is_lost, usage};

/// Most devices there can be.
pub const MAX_DEVICES: u32 = 64;
/// The name of every device.
pub const NAME: &str = "vgpu software GPU";
/// The version of CUDA whose driver API the devices have: 1000 * major + 10 * minor.
pub const CUDA_VERSION: i32 = 13000;
/// The version of their driver.
pub const DRIVER_VERSION: &str = concat!("softgpu-", env!("CARGO_PKG_VERSION"));
/// The compute capability of every device: major and minor number.
pub const COMPUTE_CAPABILITY: (i32, i32) = (9, 0);

/// Memory of a device unless `VGPU_SOFTGPU_MEMORY` says otherwise, in bytes.
const DEFAULT_MEMORY: u64 = 4 << 30;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many devices there are.
pub fn count() -> u32 {
    variable("VGPU_SOFTGPU_DEVICES").unwrap_or(1).min(MAX_DEVICES)
}

/// Memory of a device that no process uses yet, in bytes.
pub fn configured_memory() -> u64 {
    variable("VGPU_SOFTGPU_MEMORY").unwrap_or(DEFAULT_MEMORY)
}

/// The UUID of device `number`: the same on every machine and at every start.
pub fn uuid(number: u32) -> [u8; 16] {
    let mut uuid = *b"vgpusoft\x80\0\0\0\xbad\x67\x70";
    uuid[8..12].copy_from_slice(&(0x8000_0000 | number).to_be_bytes());
    uuid
}

/// The UUID as tools print it, `GPU-...`.
pub fn uuid_text(number: u32) -> String {
    let hex: String = uuid(number).iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "GPU-{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Where device `number` would be on a PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
}

/// The PCI address of device `number`. No such device is on the bus: it tells the devices apart.
pub fn pci_address(number: u32) -> PciAddress {
    PciAddress {
        domain: 0,
        bus: number + 1,
        device: 0,
    }
}

impl PciAddress {
    /// As CUDA writes it, `0000:01:00.0`.
    pub fn text(self) -> String {
        format!("{:04X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device)
    }

    /// Whether `text` names it: with or without a domain of any length, with or without a function.
    pub fn is_named(self, text: &str) -> bool {
        let text = text.strip_suffix(".0").unwrap_or(text);
        let mut numbers = text.rsplit(':').map(|part| u32::from_str_radix(part, 16));
        let mut next = || numbers.next().unwrap_or(Ok(0));
        let named = next() == Ok(self.device) && next() == Ok(self.bus) && next() == Ok(self.domain);
        named && text.contains(':') && numbers.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_distinct_and_printed_as_usual() {
        assert_eq!(uuid_text(0), "GPU-76677075-736f-6674-8000-0000ba646770");
        assert_eq!(uuid_text(10), "GPU-76677075-736f-6674-8000-000aba646770");
    }

    #[test]
    fn a_pci_address_is_found_in_all_its_forms() {
        let address = pci_address(15);
        for text in [
            "0000:10:00.0",
            "00000000:10:00.0",
            "10:00.0",
            "0000:10:00",
            "0:10:0",
        ] {
            assert!(address.is_named(text), "{text}");
        }
        for text in [
            "",
            "0",
            "0000:11:00.0",
            "0001:10:00.0",
            "0000:10:01.0",
            "0:0:10:00.0",
            "0000:10:00.1",
        ] {
            assert!(!address.is_named(text), "{text}");
        }
        assert!(address.is_named(&address.text()));
    }
}
