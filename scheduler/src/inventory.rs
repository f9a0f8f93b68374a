//! The host's GPUs: those that are there, and those that were.
use anyhow::{Context, Result};
use nvml_wrapper::Nvml;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use vgpu_pool_map::PoolGpus;
use vgpu_sched_core::GpuSet;

/// A GPU as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its place in NVML's list; `None` for one that was there in an earlier run of this program.
    pub index: Option<u32>,
    /// "GPU-" and a UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// What the vendor calls it.
    pub model: String,
    /// Its PCI address.
    pub pci: String,
    /// Bytes.
    pub memory: u64,
    /// The driver's version, if it is known.
    #[serde(default)]
    pub driver: Option<String>,
}

/// Every GPU that matters, each with a number of its own for as long as this program runs: the core knows it by that.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By number.
    uuids: Vec<String>,
    /// By UUID: what is there.
    present: BTreeMap<String, Gpu>,
    /// By UUID: whatever was ever there.
    known: BTreeMap<String, Gpu>,
}

/// What a look at the GPUs found new, as UUIDs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub appeared: Vec<String>,
    pub vanished: Vec<String>,
}

impl Inventory {
    /// None is there; those were once.
    pub fn new(known: impl IntoIterator<Item = Gpu>) -> Self {
        Self {
            known: known.into_iter().map(|gpu| (gpu.uuid.clone(), gpu)).collect(),
            ..Self::default()
        }
    }

    /// These are there now.
    pub fn update(&mut self, found: Vec<Gpu>) -> News {
        let mut present = BTreeMap::new();
        for gpu in found {
            if self.number(&gpu.uuid).is_none() {
                log::error!("GPU {} is left out: there are {} already", gpu.uuid, GpuSet::MAX);
                continue;
            }
            self.known.insert(gpu.uuid.clone(), gpu.clone());
            present.insert(gpu.uuid.clone(), gpu);
        }
        let before = std::mem::replace(&mut self.present, present);
        let missing_from = |from: &BTreeMap<String, Gpu>, of: &BTreeMap<String, Gpu>| {
            of.keys()
                .filter(|uuid| !from.contains_key(*uuid))
                .cloned()
                .collect()
        };
        News {
            appeared: missing_from(&before, &self.present),
            vanished: missing_from(&self.present, &before),
        }
    }

    /// The number of a GPU, which it gets with the first question; `None` if there are too many.
    pub fn number(&mut self, uuid: &str) -> Option<u32> {
        let number = match self.uuids.iter().position(|other| other == uuid) {
            Some(number) => number as u32,
            None if self.uuids.len() == GpuSet::MAX as usize => return None,
            None => {
                self.uuids.push(uuid.to_owned());
                self.uuids.len() as u32 - 1
            }
        };
        Some(number)
    }

    /// What is there, in NVML's order.
    pub fn present(&self) -> Vec<&Gpu> {
        let mut gpus: Vec<_> = self.present.values().collect();
        gpus.sort_by_key(|gpu| gpu.index);
        gpus
    }

    /// Whether that GPU is there.
    pub fn is_present(&self, uuid: &str) -> bool {
        self.present.contains_key(uuid)
    }

    /// A GPU that is there or was.
    pub fn known(&self, uuid: &str) -> Option<&Gpu> {
        self.known.get(uuid)
    }

    /// The version of the driver of a GPU; empty if it is not known.
    pub fn driver(&self, uuid: &str) -> &str {
        let gpu = self.present.get(uuid);
        gpu.and_then(|gpu| gpu.driver.as_deref()).unwrap_or_default()
    }

    /// Whether any was ever there.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The UUIDs of a pool's GPUs. "all" are those that were seen since this program started.
    pub fn of_pool(&self, gpus: &PoolGpus) -> Vec<String> {
        match gpus {
            PoolGpus::All => {
                let seen = self.uuids.iter().filter(|uuid| self.known.contains_key(*uuid));
                seen.cloned().collect()
            }
            PoolGpus::Uuids(uuids) => uuids.clone(),
        }
    }

    /// The UUIDs of those of a pool's GPUs that are there, in NVML's order: as a program counts them.
    pub fn usable(&self, gpus: &PoolGpus) -> Vec<String> {
        let mine = self.of_pool(gpus);
        let usable = self.present().into_iter().filter(|gpu| mine.contains(&gpu.uuid));
        usable.map(|gpu| gpu.uuid.clone()).collect()
    }

    /// The UUIDs of GPUs by number.
    pub fn uuids(&self, gpus: GpuSet) -> Vec<String> {
        gpus.iter()
            .filter_map(|gpu| self.uuids.get(gpu as usize))
            .cloned()
            .collect()
    }

    /// The UUID of a GPU that is there, by its index, UUID or PCI address.
    pub fn resolve(&self, name: &str) -> Option<String> {
        let named = |gpu: &&Gpu| {
            name.parse().is_ok_and(|index| gpu.index == Some(index))
                || name.eq_ignore_ascii_case(&gpu.uuid)
                || pci(name).is_some_and(|named| pci(&gpu.pci) == Some(named))
        };
        self.present.values().find(named).map(|gpu| gpu.uuid.clone())
    }
}

/// The numbers of a PCI address such as "00000000:3B:00.0"; the domain may be left out.
fn pci(text: &str) -> Option<[u32; 4]> {
    let (device, function) = text.rsplit_once('.')?;
    let mut numbers = device.rsplit(':').map(|part| u32::from_str_radix(part, 16).ok());
    let (device, bus) = (numbers.next()??, numbers.next()??);
    let domain = numbers.next().unwrap_or(Some(0))?;
    let whole = numbers.next().is_none();
    whole.then_some([domain, bus, device, u32::from_str_radix(function, 16).ok()?])
}

/// Asks NVML for the GPUs that are there. One that cannot be asked, since it fell off the bus, is not.
pub fn list(library: &Path) -> Result<Vec<Gpu>> {
    let nvml = Nvml::builder()
        .lib_path(library.as_ref())
        .init()
        .with_context(|| format!("NVML, {}", library.display()))?;
    let count = nvml.device_count()?;
    let gpu = |index| {
        let device = nvml.device_by_index(index)?;
        Ok::<_, nvml_wrapper::error::NvmlError>(Gpu {
            index: Some(index),
            uuid: device.uuid()?,
            model: device.name()?,
            pci: device.pci_info()?.bus_id,
            memory: device.memory_info()?.total,
            driver: nvml.sys_driver_version().ok(),
        })
    };
    let gpus = (0..count).filter_map(|index| {
        gpu(index)
            .inspect_err(|error| log::warn!("GPU {index} is left out: {error}"))
            .ok()
    });
    Ok(gpus.collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A GPU for tests.
    pub fn gpu(index: u32, uuid: &str) -> Gpu {
        Gpu {
            index: Some(index),
            uuid: uuid.to_owned(),
            model: "a model".to_owned(),
            pci: format!("00000000:{:02X}:00.0", 0x3b + index),
            memory: 1 << 30,
            driver: None,
        }
    }

    fn of(numbers: &[u32]) -> GpuSet {
        numbers.iter().copied().collect()
    }

    #[test]
    fn a_gpu_keeps_its_number_whatever_comes_and_goes() {
        let mut inventory = Inventory::new([gpu(5, "GPU-old")]);
        let news = inventory.update(vec![gpu(0, "GPU-a"), gpu(1, "GPU-b")]);
        assert_eq!(news.appeared, ["GPU-a", "GPU-b"]);
        let all = PoolGpus::All;
        assert_eq!(inventory.usable(&all), ["GPU-a", "GPU-b"]);
        // The first one falls off, so the second one has another index now; a third one comes.
        let news = inventory.update(vec![gpu(0, "GPU-b"), gpu(1, "GPU-c")]);
        assert_eq!(
            news,
            News {
                appeared: vec!["GPU-c".to_owned()],
                vanished: vec!["GPU-a".to_owned()],
            }
        );
        assert_eq!(inventory.usable(&all), ["GPU-b", "GPU-c"]);
        assert_eq!(inventory.uuids(of(&[0, 1])), ["GPU-a", "GPU-b"]);
        assert_eq!(inventory.of_pool(&all), ["GPU-a", "GPU-b", "GPU-c"]);
        let named = PoolGpus::Uuids(vec!["GPU-a".to_owned(), "GPU-b".to_owned()]);
        assert_eq!(inventory.usable(&named), ["GPU-b"]);
        assert_eq!(inventory.resolve("0").as_deref(), Some("GPU-b"));
        // It is back.
        inventory.update(vec![gpu(0, "GPU-a"), gpu(1, "GPU-b"), gpu(2, "GPU-c")]);
        assert_eq!(inventory.usable(&named), ["GPU-a", "GPU-b"]);
        let numbers = ["GPU-a", "GPU-b", "GPU-c"].map(|uuid| inventory.number(uuid));
        assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
        assert_eq!(inventory.known("GPU-old").map(|gpu| gpu.index), Some(Some(5)));
    }

    #[test]
    fn more_gpus_than_the_core_tells_apart_are_left_out() {
        let mut inventory = Inventory::default();
        let found = (0..GpuSet::MAX + 1).map(|n| gpu(n, &format!("GPU-{n}")));
        inventory.update(found.collect());
        assert_eq!(inventory.present().len(), GpuSet::MAX as usize);
    }

    #[test]
    fn a_gpu_is_named_by_index_uuid_or_address() {
        let mut inventory = Inventory::default();
        inventory.update(vec![gpu(0, "GPU-0a"), gpu(1, "GPU-1b")]);
        for name in [
            "1",
            "GPU-1b",
            "GPU-1B",
            "3c:00.0",
            "0000:3C:00.0",
            "00000000:3c:00.0",
        ] {
            assert_eq!(inventory.resolve(name).as_deref(), Some("GPU-1b"), "{name}");
        }
        for name in [
            "",
            "2",
            "GPU-",
            "3d:00.0",
            "3c:00",
            "1:3c:00.0",
            "0:0:3c:00.0",
            "3c:00.1",
        ] {
            assert_eq!(inventory.resolve(name), None, "{name}");
        }
    }
}
