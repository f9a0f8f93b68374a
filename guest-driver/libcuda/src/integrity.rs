//! What NVIDIA's runtime asks of a driver to see that it is in the process that it thinks: a keyed hash (HMAC with MD2) over
//! the process, the thread, addresses of the driver's tables, the time that it names, and the devices.
use hmac::{Hmac, Mac};
use md2::Md2;

/// The key.
const KEY: [u8; 16] = [
    0x14, 0x6a, 0xdd, 0xae, 0x53, 0xa9, 0xa7, 0x52, 0xaa, 0x08, 0x41, 0x36, 0x0b, 0xf5, 0x5a, 0x9f,
];
/// What is answered for versions that end in 0 and in 1, whatever the rest.
const FIXED: [[u64; 2]; 2] = [
    [0x3341_181c_03cb_675c, 0x8ed3_83aa_1f4c_d1e8],
    [0x1841_181c_03cb_675c, 0x8ed3_83aa_1f4c_d1e8],
];

/// What is hashed, beside the devices.
pub struct Claim {
    /// The driver's version.
    pub driver_version: u32,
    /// The version that the caller names.
    pub version: u32,
    /// The process' number.
    pub process: u32,
    /// The low half of the thread's handle.
    pub thread: u32,
    /// Where the runtime's interface table lies.
    pub interface: u64,
    /// Where the table with this function lies.
    pub table: u64,
    /// Where the function lies.
    pub function: u64,
    /// The time that the caller names, in seconds since 1970.
    pub seconds: u64,
}

/// A device in the hash.
pub struct Device {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its place: PCI domain, bus and device.
    pub pci: [u32; 3],
}

/// The answer.
pub fn answer(claim: &Claim, devices: impl Iterator<Item = Device>) -> [u64; 2] {
    if let Some(&fixed) = FIXED.get((claim.version % 10) as usize) {
        return fixed;
    }
    let mut hash = Hmac::<Md2>::new_from_slice(&KEY).expect("HMAC takes keys of any length");
    for number in [claim.driver_version, claim.version, claim.process, claim.thread] {
        hash.update(&number.to_le_bytes());
    }
    for number in [claim.interface, claim.table, claim.function, claim.seconds] {
        hash.update(&number.to_le_bytes());
    }
    for device in devices {
        hash.update(&device.uuid);
        for number in device.pci {
            hash.update(&number.to_le_bytes());
        }
    }
    let bytes: [u8; 16] = hash.finalize().into_bytes().into();
    let (low, high) = bytes.split_at(8);
    [low, high].map(|half| {
        half.iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(version: u32) -> Claim {
        Claim {
            driver_version: 12080,
            version,
            process: 1,
            thread: 2,
            interface: 3,
            table: 4,
            function: 5,
            seconds: 6,
        }
    }

    #[test]
    fn versions_that_end_in_0_and_1_have_fixed_answers() {
        let none = || std::iter::empty();
        assert_eq!(answer(&claim(13000), none()), FIXED[0]);
        assert_eq!(answer(&claim(13001), none()), FIXED[1]);
        assert_ne!(answer(&claim(13002), none()), FIXED[0]);
    }

    #[test]
    fn everything_is_in_the_hash() {
        let device = |bus| Device {
            uuid: [7; 16],
            pci: [0, bus, 0],
        };
        let one = answer(&claim(13002), [device(1)].into_iter());
        assert_eq!(one, answer(&claim(13002), [device(1)].into_iter()));
        assert_ne!(one, answer(&claim(13002), [device(2)].into_iter()));
        assert_ne!(one, answer(&claim(13003), [device(1)].into_iter()));
        assert_ne!(one, answer(&claim(13002), [device(1), device(1)].into_iter()));
        let other = Claim {
            thread: 3,
            ..claim(13002)
        };
        assert_ne!(one, answer(&other, [device(1)].into_iter()));
    }
}
