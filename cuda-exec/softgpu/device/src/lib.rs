//! What a software GPU is: how many there are, how each is called, and what all processes on one share. Both
//! libraries that show it are made from this, its `libcuda.so.1` and its `libnvidia-ml.so.1`.
//!
//! # Environment
//! | variable | meaning |
//! | --- | --- |
//! | `VGPU_SOFTGPU_DEVICES` | number of devices, 1 to 64; 1 unless given |
//! | `VGPU_SOFTGPU_MEMORY` | memory of each device in bytes, 4 GiB unless given; the first process on a device decides |
//! | `VGPU_SOFTGPU_MIG` | which devices are divided into how many MIG instances, 1 to 7 each: `0:2,3:7`; none unless given |
//! | `VGPU_SOFTGPU_DIR` | directory of the files through which processes share the devices; `/dev/shm/vgpu-softgpu-<uid>` unless given |
//!
//! For NVML a device is lost while there is a file `lost-<number>` in that directory, and each line that is added to a file
//! `xid-<number>` there, a number, is an Xid of the device. A device has no sensors and counts no errors but those of a
//! file `sensors-<number>` there: each of its lines is what one of them says, such as `temperature 41` ([`sensor`]).

mod share;

pub use share::{DeviceShare, Process, Slot, Usage, is_lost, processes, sensor, usage, xid_after};

/// Most devices there can be.
pub const MAX_DEVICES: u32 = 64;
/// Most MIG instances of a device.
pub const MAX_INSTANCES: u32 = 7;
/// The name of every device.
const NAME: &str = "vgpu software GPU";
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

/// Into how many MIG instances device `number` is divided; 0 if it is not.
pub fn instances(number: u32) -> u32 {
    instances_in(&std::env::var("VGPU_SOFTGPU_MIG").unwrap_or_default(), number)
}

/// What does not read as `device:instances` says nothing.
fn instances_in(text: &str, number: u32) -> u32 {
    let pair = |part: &str| {
        let (device, count) = part.trim().split_once(':')?;
        Some((device.parse::<u32>().ok()?, count.parse::<u32>().ok()?))
    };
    let mut pairs = text.split(',').filter_map(pair);
    let found = pairs.find(|(device, _)| *device == number);
    found.map_or(0, |(_, count)| count.min(MAX_INSTANCES))
}

/// What a program can run on: a device, or one of the MIG instances into which it is divided. Instances share nothing but
/// the device's PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The device's number.
    pub device: u32,
    /// The number of the instance.
    pub instance: Option<u32>,
}

impl Part {
    /// A device as a whole.
    pub fn whole(device: u32) -> Self {
        Self {
            device,
            instance: None,
        }
    }

    /// An instance of a device.
    pub fn instance(device: u32, instance: u32) -> Self {
        Self {
            device,
            instance: Some(instance),
        }
    }

    /// Everything that programs can run on, in order: instances in place of a device that is divided.
    pub fn all() -> Vec<Self> {
        (0..count()).flat_map(Self::of).collect()
    }

    /// A device's instances if it is divided, else itself.
    fn of(device: u32) -> Vec<Self> {
        match instances(device) {
            0 => vec![Self::whole(device)],
            count => (0..count)
                .map(|instance| Self::instance(device, instance))
                .collect(),
        }
    }

    /// Its name; that of an instance ends with its part of the device, as NVIDIA's do.
    pub fn name(self) -> String {
        match self.instance {
            None => NAME.to_owned(),
            Some(_) => format!("{NAME} MIG 1g.{}gb", self.configured_memory() >> 30),
        }
    }

    /// Memory in bytes, where no process uses it yet.
    pub fn configured_memory(self) -> u64 {
        let memory: u64 = variable("VGPU_SOFTGPU_MEMORY").unwrap_or(DEFAULT_MEMORY);
        match self.instance {
            None => memory,
            Some(_) => memory / u64::from(instances(self.device).max(1)),
        }
    }

    /// The UUID: the same on every machine and at every start.
    pub fn uuid(self) -> [u8; 16] {
        let mut uuid = *b"vgpusoft\x80\0\0\0\xbad\x67\x70";
        let instance = self.instance.map_or(0, |instance| instance + 1);
        uuid[8..12].copy_from_slice(&(0x8000_0000 | instance << 16 | self.device).to_be_bytes());
        uuid
    }

    /// The UUID as tools print it, `GPU-...` or `MIG-...`.
    pub fn uuid_text(self) -> String {
        let hex: String = self.uuid().iter().map(|b| format!("{b:02x}")).collect();
        format!(
            "{}-{}-{}-{}-{}-{}",
            if self.instance.is_some() { "MIG" } else { "GPU" },
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
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
        let text = |part: Part| part.uuid_text();
        assert_eq!(text(Part::whole(0)), "GPU-76677075-736f-6674-8000-0000ba646770");
        assert_eq!(text(Part::whole(10)), "GPU-76677075-736f-6674-8000-000aba646770");
        assert_eq!(
            text(Part::instance(10, 1)),
            "MIG-76677075-736f-6674-8002-000aba646770"
        );
    }

    #[test]
    fn devices_are_divided_as_the_variable_says() {
        let instances = |text| [0, 1, 2].map(|number| instances_in(text, number));
        assert_eq!(instances(""), [0; 3]);
        assert_eq!(instances("1:3"), [0, 3, 0]);
        assert_eq!(instances("0:2, 2:99"), [2, 0, MAX_INSTANCES]);
        assert_eq!(instances("0:-1,:,1,2:x,7"), [0; 3]);
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
