//! What a VM may know of its GPUs: the reply to [`crate::virtio::ControlKind::Gpus`], from which the guest's
//! `libnvidia-ml.so.1` answers. No session is needed for it, and none is started.
//!
//! A reply's body is [`Gpus`], then [`Gpus::gpus_len`] times [`Gpu`], then [`Gpus::processes_len`] times [`Process`].
use crate::limits::{GPUS_LEN_MAX, GPUS_MAX, PROCESSES_MAX};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Stands for a number that the host does not know.
pub const UNKNOWN: u32 = u32::MAX;

/// A GPU's name on the wire: "GPU-" or "MIG-" and a UUID, zero-padded.
pub type GpuName = [u8; 64];

/// Starts the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gpus {
    /// The VM's GPUs, in the order in which CUDA numbers them; 0 if it is in no pool, or its pool has none.
    pub gpus_len: u32,
    /// The entries of processes.
    pub processes_len: u32,
    /// The driver's CUDA version, such as 13000, or [`UNKNOWN`].
    pub cuda_version: u32,
    /// Zero.
    pub reserved: u32,
    /// The driver's version as text ("580.159.04"), zero-padded; empty if it is not known.
    pub driver: [u8; 32],
}

/// A GPU. Numbers that the host does not know are [`UNKNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gpu {
    /// Its model, zero-padded.
    pub name: [u8; 92],
    /// Bit n: it can read and write the memory of the reply's n-th GPU, as `cuDeviceCanAccessPeer` says.
    pub peers: u32,
    /// Which one it is.
    pub uuid: GpuName,
    /// PCI address as text ("00000000:17:00.0"), zero-padded.
    pub pci: [u8; 32],
    /// Bytes of memory, no more than the VM's quota.
    pub memory: u64,
    /// Bytes of it that the VM uses.
    pub used: u64,
    /// Percent of the last second in which the VM had its turn and worked.
    pub utilisation: u32,
    /// Vendor and model on the PCI bus, as NVML has them in one word.
    pub pci_device: u32,
    /// The same of the board.
    pub pci_subsystem: u32,
    /// Compute capability.
    pub compute: [u32; 2],
    /// NVML's number of the architecture.
    pub architecture: u32,
    /// NVML's number of the brand.
    pub brand: u32,
    /// CUDA cores.
    pub cores: u32,
    /// Bits of the memory's bus.
    pub bus_width: u32,
    /// 1 if memory is protected by ECC, 0 if not.
    pub ecc: u32,
    /// MHz at most: graphics, SM, memory, video.
    pub clocks_max: [u32; 4],
    /// Generation and lanes of its PCI Express link at most.
    pub pcie_max: [u32; 2],
    /// MHz now: graphics, SM, memory, video.
    pub clocks: [u32; 4],
    /// Degrees Celsius.
    pub temperature: u32,
    /// Milliwatts that the whole GPU takes now, whoever uses it.
    pub power: u32,
    /// Milliwatts that it may take.
    pub power_limit: u32,
    /// Its performance state, from 0.
    pub performance: u32,
}

/// A process of the VM on one of its GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Process {
    /// Its id in the guest.
    pub pid: u32,
    /// The GPU's place in the reply.
    pub gpu: u32,
    /// Bytes of GPU memory that it has there.
    pub memory: u64,
}

/// A reply, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its start.
    pub head: Gpus,
    /// The VM's GPUs.
    pub gpus: Vec<Gpu>,
    /// Their processes.
    pub processes: Vec<Process>,
}

impl Reply {
    /// The body's bytes; of what is more than a reply may hold, the last are left out.
    pub fn encode(&self) -> Vec<u8> {
        let gpus = &self.gpus[..self.gpus.len().min(GPUS_MAX as usize)];
        let processes = &self.processes[..self.processes.len().min(PROCESSES_MAX as usize)];
        let head = Gpus {
            gpus_len: gpus.len() as u32,
            processes_len: processes.len() as u32,
            ..self.head
        };
        [head.as_bytes(), gpus.as_bytes(), processes.as_bytes()].concat()
    }

    /// Takes a body apart; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = Gpus::read_from_prefix(bytes).ok()?;
        if head.gpus_len > GPUS_MAX || head.processes_len > PROCESSES_MAX {
            return None;
        }
        let (gpus, rest) = rest.split_at_checked(head.gpus_len as usize * size_of::<Gpu>())?;
        let (processes, rest) = rest.split_at_checked(head.processes_len as usize * size_of::<Process>())?;
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            head,
            gpus: each(gpus)?,
            processes: each(processes)?,
        })
    }
}

/// The values that lie one after the other, aligned or not.
fn each<T: FromBytes>(bytes: &[u8]) -> Option<Vec<T>> {
    let chunks = bytes.chunks_exact(size_of::<T>());
    chunks.map(|chunk| T::read_from_bytes(chunk).ok()).collect()
}

/// A text in an array that is padded with zeros, cut where the array ends less one.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let len = text.floor_char_boundary(N - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

/// The text in such an array; what is not UTF-8 is replaced.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

const _: () = assert!(size_of::<Gpus>() == 48);
const _: () = assert!(size_of::<Gpu>() == 304);
const _: () = assert!(size_of::<Process>() == 16);
const _: () = assert!(
    size_of::<Gpus>() + GPUS_MAX as usize * size_of::<Gpu>() + PROCESSES_MAX as usize * size_of::<Process>()
        == GPUS_LEN_MAX
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    fn reply(gpus: usize, processes: usize) -> Reply {
        let mut head = Gpus::new_zeroed();
        head.cuda_version = 13_000;
        head.driver = padded("580.159.04");
        let mut gpu = Gpu::new_zeroed();
        gpu.name = padded("a model");
        let process = |pid| Process {
            pid,
            gpu: 0,
            memory: 1 << 20,
        };
        Reply {
            head,
            gpus: vec![gpu; gpus],
            processes: (0..processes as u32).map(process).collect(),
        }
    }

    #[test]
    fn a_reply_comes_back_as_it_went() {
        let mut before = reply(2, 3);
        let after = Reply::decode(&before.encode()).unwrap();
        (before.head.gpus_len, before.head.processes_len) = (2, 3);
        assert_eq!(after, before);
        assert_eq!(
            (text(&after.head.driver), text(&after.gpus[1].name)),
            ("580.159.04".into(), "a model".into())
        );
    }

    #[test]
    fn the_largest_reply_fits_and_more_is_left_out() {
        let bytes = reply(GPUS_MAX as usize + 1, PROCESSES_MAX as usize + 1).encode();
        assert_eq!(bytes.len(), GPUS_LEN_MAX);
        assert!(Reply::decode(&bytes).is_some());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(padded::<4>("abcdef"), *b"abc\0");
        assert_eq!(padded::<4>("aéé"), *b"a\xc3\xa9\0");
        assert_eq!(padded::<3>("aéé"), *b"a\0\0");
        assert_eq!(text(b"full"), "full");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), small: bool) {
            if small && bytes.len() >= 8 {
                bytes[1..4].fill(0);
                bytes[5..8].fill(0);
            }
            if let Some(reply) = Reply::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes);
            }
        }
    }
}
