//! The host's GPUs: those that are there, and those that were.
use anyhow::Result;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, P2pCapabilitiesIndex, P2pStatus, TemperatureSensor,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vgpu_pool_map::{Assignable, Named, PoolGpus};
use vgpu_sched_api::messages::{GpuFacts, GpuMeasured, GpuReadings};
use vgpu_sched_core::GpuSet;

/// What the UUID of a MIG instance begins with.
const INSTANCE: &str = "MIG-";

/// A GPU, or a MIG instance of one, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its place in NVML's list, and an instance's behind all GPUs; `None` for one that was gone when it was last looked at.
    pub index: Option<u32>,
    /// "GPU-" or "MIG-" and a UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// What the vendor calls it, with an instance's profile: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
    pub model: String,
    /// Its PCI address; an instance has that of its GPU.
    pub pci: String,
    /// It is in MIG mode: its instances serve pools, itself cannot.
    pub divided: bool,
    /// Bytes.
    pub memory: u64,
    /// The driver's version, if it is known.
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub facts: GpuFacts,
    /// UUIDs of the GPUs whose memory it can read and write.
    #[serde(default)]
    pub peers: Vec<String>,
}

/// Every GPU that matters, each with a number of its own for as long as this program runs: the core knows it by that.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By number.
    uuids: Vec<String>,
    /// By UUID: what is there.
    present: BTreeMap<String, Gpu>,
    /// The UUIDs of what was there at the last look, which an earlier run of this program may have made.
    seen: BTreeSet<String>,
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
    /// None is there; those were once, and at the last look those of them that have an index.
    pub fn new(known: impl IntoIterator<Item = Gpu>) -> Self {
        let known: BTreeMap<_, _> = known.into_iter().map(|gpu| (gpu.uuid.clone(), gpu)).collect();
        let seen = known.values().filter(|gpu| gpu.index.is_some());
        Self {
            seen: seen.map(|gpu| gpu.uuid.clone()).collect(),
            known,
            ..Self::default()
        }
    }

    /// Nobody looks for now: those that were there once are the host's, and missing.
    pub fn expect_known(&mut self) {
        for uuid in self.known.keys().cloned().collect::<Vec<_>>() {
            // Where there are more than can be told apart, the rest is unknown until it is there.
            self.number(&uuid);
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
        self.present = present;
        let now = self.present.keys().cloned().collect();
        let before = std::mem::replace(&mut self.seen, now);
        News {
            appeared: self.seen.difference(&before).cloned().collect(),
            vanished: before.difference(&self.seen).cloned().collect(),
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

    /// The UUIDs of all that matter, each with its number.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(self.uuids.iter().map(String::as_str))
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

    /// Whether those are the GPUs that are there.
    pub fn are_present(&self, uuids: &BTreeSet<String>) -> bool {
        self.present.keys().eq(uuids)
    }

    /// A GPU that is there or was.
    pub fn known(&self, uuid: &str) -> Option<&Gpu> {
        self.known.get(uuid)
    }

    /// Whether a pool map may name that GPU.
    pub fn assignable(&self, uuid: &str) -> Assignable {
        match self.known(uuid) {
            None => Assignable::Unknown,
            Some(gpu) if gpu.divided => Assignable::Divided,
            Some(_) => Assignable::Yes,
        }
    }

    /// The GPU, be it divided or not, at a PCI address: domain, bus and device.
    pub fn at_address(&self, address: [u32; 3]) -> Option<&Gpu> {
        let is_there = |gpu: &&Gpu| !is_instance(&gpu.uuid) && gpu_address(gpu) == Some(address);
        self.known.values().find(is_there)
    }

    /// The PCI address of a GPU that is there or was: domain, bus and device.
    pub fn address_of(&self, uuid: &str) -> Option<[u32; 3]> {
        gpu_address(self.known(uuid)?)
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

    /// The UUIDs of a pool's GPUs. "all" are those that can be assigned and were seen since this program started.
    pub fn of_pool(&self, gpus: &PoolGpus) -> Vec<String> {
        match gpus {
            PoolGpus::All => {
                // An instance that is not there was given up, and is not missing.
                let is_gone = |uuid: &str| is_instance(uuid) && !self.is_present(uuid);
                let serves = |uuid: &&String| self.assignable(uuid) == Assignable::Yes && !is_gone(uuid);
                self.uuids.iter().filter(serves).cloned().collect()
            }
            PoolGpus::Uuids(uuids) => uuids.clone(),
        }
    }

    /// The UUIDs of those of a pool's GPUs that are there, in NVML's order: as a program counts them.
    pub fn usable(&self, gpus: &PoolGpus) -> Vec<String> {
        let mine = self.of_pool(gpus);
        let serves = |gpu: &&Gpu| !gpu.divided && mine.contains(&gpu.uuid);
        let usable = self.present().into_iter().filter(serves);
        usable.map(|gpu| gpu.uuid.clone()).collect()
    }

    /// The UUIDs of GPUs by number.
    pub fn uuids(&self, gpus: GpuSet) -> Vec<String> {
        gpus.iter()
            .filter_map(|gpu| self.uuids.get(gpu as usize))
            .cloned()
            .collect()
    }

    /// The GPUs that are meant by an index, a UUID or a PCI address. The address means the GPU, and none of its instances; one
    /// that is missing has no index.
    pub fn resolve(&self, name: &str) -> Named {
        let named = |gpu: &&Gpu| {
            name.eq_ignore_ascii_case(&gpu.uuid)
                || !is_instance(&gpu.uuid) && pci(name).is_some_and(|named| pci(&gpu.pci) == Some(named))
        };
        let has_index = |gpu: &&Gpu| name.parse().is_ok_and(|index| gpu.index == Some(index));
        let present = self.present.values().find(|gpu| has_index(gpu) || named(gpu));
        let missing = self.known.values().filter(|gpu| !self.is_present(&gpu.uuid));
        Named {
            present: present.map(|gpu| gpu.uuid.clone()),
            missing: missing.filter(named).map(|gpu| gpu.uuid.clone()).collect(),
        }
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

fn gpu_address(gpu: &Gpu) -> Option<[u32; 3]> {
    pci(&gpu.pci).map(|[domain, bus, device, _]| [domain, bus, device])
}

/// Whether that is the UUID of a MIG instance.
pub fn is_instance(uuid: &str) -> bool {
    uuid.starts_with(INSTANCE)
}

/// Starts NVML.
pub fn open(library: &Path) -> Result<Nvml> {
    Nvml::builder()
        .lib_path(library.as_ref())
        .init()
        .map_err(|error| {
            // It names its cause itself.
            anyhow::anyhow!(
                "NVML, {}: {error}: is the NVIDIA driver installed? --libnvidia-ml names another library",
                library.display()
            )
        })
}

/// Asks NVML for the GPUs that are there and their MIG instances. One that cannot be asked, since it fell off the bus, is
/// not.
pub fn list(library: &Path) -> Result<Vec<Gpu>> {
    let nvml = open(library)?;
    let driver = nvml
        .sys_driver_version()
        .inspect_err(|error| log::warn!("NVML does not tell the driver's version: {error}"))
        .ok();
    let cuda_version = nvml.sys_cuda_driver_version();
    let cuda_version = cuda_version.ok().and_then(|version| version.try_into().ok());
    let left_out = |index, error| log::warn!("GPU {index} is left out: {error}");
    let found = devices(&nvml, left_out)?;
    let gpus = found.iter().filter_map(|of| {
        let gpu = describe(of, driver.clone(), cuda_version);
        let gpu = gpu.map_err(|error| left_out(of.index, error)).ok()?;
        Some(Gpu {
            peers: peers(of, &found),
            ..gpu
        })
    });
    Ok(gpus.collect())
}

/// A GPU that NVML lists, or a MIG instance of one.
pub struct Found<'nvml> {
    /// Its place in the list, an instance's behind all GPUs.
    pub index: u32,
    pub device: Device<'nvml>,
    /// It is in MIG mode.
    pub divided: bool,
    /// It is a MIG instance.
    pub instance: bool,
}

/// The GPUs that NVML lists, then the MIG instances of those in MIG mode. GPUs that do not answer are told to `left_out`,
/// by index.
pub fn devices(nvml: &Nvml, mut left_out: impl FnMut(u32, NvmlError)) -> Result<Vec<Found<'_>>, NvmlError> {
    let count = nvml.device_count()?;
    let (mut gpus, mut instances) = (Vec::new(), Vec::new());
    for index in 0..count {
        let device = match nvml.device_by_index(index) {
            Ok(device) => device,
            Err(error) => {
                left_out(index, error);
                continue;
            }
        };
        // Most GPUs do not know such a mode, which is an error.
        let divided = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        let places = if divided { device.mig_device_count()? } else { 0 };
        // Places may be free.
        instances.extend((0..places).filter_map(|place| device.mig_device_by_index(place).ok()));
        gpus.push(Found {
            index,
            device,
            divided,
            instance: false,
        });
    }
    let instance = |(index, device)| Found {
        index,
        device,
        divided: false,
        instance: true,
    };
    gpus.extend((count..).zip(instances).map(instance));
    Ok(gpus)
}

fn describe(found: &Found<'_>, driver: Option<String>, cuda_version: Option<u32>) -> Result<Gpu, NvmlError> {
    let device = &found.device;
    let name = device.name()?;
    let (model, pci) = match found.instance {
        false => (name, device.pci_info()?),
        true => {
            let parent = device.mig_parent_device()?;
            (instance_model(&parent.name()?, &name), parent.pci_info()?)
        }
    };
    let facts = GpuFacts {
        cuda_version,
        // None has the number 0: it stands for what is not on the bus.
        pci_device: Some(pci.pci_device_id).filter(|id| *id != 0),
        pci_subsystem: pci.pci_sub_system_id.filter(|id| *id != 0),
        ..facts(device)
    };
    Ok(Gpu {
        index: Some(found.index),
        uuid: device.uuid()?,
        model,
        pci: pci.bus_id,
        divided: found.divided,
        memory: device.memory_info()?.total,
        driver,
        facts,
        peers: Vec::new(),
    })
}

/// The UUIDs of the GPUs whose memory one can read and write, which is what `cuDeviceCanAccessPeer` means. MIG instances reach
/// nobody.
fn peers(of: &Found<'_>, all: &[Found<'_>]) -> Vec<String> {
    let reaches = |other: &Device<'_>| {
        let mut kinds = [P2pCapabilitiesIndex::Read, P2pCapabilitiesIndex::Write].into_iter();
        kinds.all(|kind| matches!(of.device.p2p_status(other, kind), Ok(P2pStatus::Ok)))
    };
    let whole = |found: &Found<'_>| !found.divided && !found.instance;
    let others = all.iter().filter(|other| other.index != of.index && whole(other));
    let peers = others.filter(|other| whole(of) && reaches(&other.device));
    peers.filter_map(|other| other.device.uuid().ok()).collect()
}

/// What a clock is called, in the order of the messages.
const CLOCKS: [Clock; 4] = [Clock::Graphics, Clock::SM, Clock::Memory, Clock::Video];

/// What a device tells of itself, but for its address; what it does not tell is left out.
fn facts(device: &Device<'_>) -> GpuFacts {
    let compute = device.cuda_compute_capability().ok();
    GpuFacts {
        compute: compute.and_then(|is| Some([is.major.try_into().ok()?, is.minor.try_into().ok()?])),
        architecture: device.architecture().ok().map(|is| is.as_c()),
        brand: device.brand().ok().map(|is| is.as_c()),
        cores: device.num_cores().ok(),
        bus_width: device.memory_bus_width().ok(),
        ecc: device.is_ecc_enabled().ok().map(|is| is.currently_enabled),
        clocks_max: CLOCKS.map(|clock| device.max_clock_info(clock).ok()),
        pcie_max: [device.max_pcie_link_gen().ok(), device.max_pcie_link_width().ok()],
        ..GpuFacts::default()
    }
}

/// What a device measures now, as VMs may know it.
pub fn readings(device: &Device<'_>) -> GpuReadings {
    GpuReadings {
        clocks: CLOCKS.map(|clock| device.clock_info(clock).ok()),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        power: device.power_usage().ok(),
        power_limit: device.enforced_power_limit().ok(),
        performance: device.performance_state().ok().map(|is| is.as_c()),
    }
}

/// What a device measures now, as operators may know it: with what was read for VMs.
pub fn measured(device: &Device<'_>, readings: &GpuReadings) -> GpuMeasured {
    let [_, sm_clock_mhz, memory_clock_mhz, _] = readings.clocks;
    let utilisation = device.utilization_rates().ok();
    let memory = device.memory_info().ok();
    let lost = |since| device.total_ecc_errors(MemoryError::Uncorrected, since).ok();
    GpuMeasured {
        temperature: readings.temperature,
        power_mw: readings.power,
        power_limit_mw: readings.power_limit,
        utilisation: utilisation.as_ref().map(|is| is.gpu),
        memory_utilisation: utilisation.as_ref().map(|is| is.memory),
        memory_used: memory.as_ref().map(|is| is.used),
        memory_total: memory.as_ref().map(|is| is.total),
        sm_clock_mhz,
        memory_clock_mhz,
        ecc: device.is_ecc_enabled().ok().map(|is| is.currently_enabled),
        ecc_volatile: lost(EccCounter::Volatile),
        ecc_aggregate: lost(EccCounter::Aggregate),
        mig: device.mig_mode().ok().map(|is| is.current == 1),
    }
}

/// A MIG instance's model. Some drivers leave the GPU's out of its name.
fn instance_model(gpu: &str, instance: &str) -> String {
    match instance.starts_with(gpu) {
        true => instance.to_owned(),
        false => format!("{gpu} {instance}"),
    }
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
            divided: false,
            memory: 1 << 30,
            driver: None,
            facts: GpuFacts::default(),
            peers: Vec::new(),
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
        assert_eq!(inventory.resolve("0").present.as_deref(), Some("GPU-b"));
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
            assert_eq!(
                inventory.resolve(name).present.as_deref(),
                Some("GPU-1b"),
                "{name}"
            );
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
            assert_eq!(inventory.resolve(name), Named::default(), "{name}");
        }
        // One that is missing has its address still, also beside the one that took its place.
        inventory.update(vec![gpu(0, "GPU-0a"), gpu(1, "GPU-1c")]);
        for (name, present) in [("3c:00.0", Some("GPU-1c")), ("GPU-1b", None)] {
            let expected = Named {
                present: present.map(str::to_owned),
                missing: vec!["GPU-1b".to_owned()],
            };
            assert_eq!(inventory.resolve(name), expected, "{name}");
        }
        assert_eq!(inventory.resolve("1").missing, [""; 0]);
    }

    #[test]
    fn a_divided_gpu_serves_no_pool_and_its_instances_do() {
        let divided = Gpu {
            divided: true,
            ..gpu(0, "GPU-a")
        };
        let instance = |index, uuid: &str| Gpu {
            index: Some(index),
            ..gpu(0, uuid)
        };
        let mut inventory = Inventory::default();
        inventory.update(vec![
            divided.clone(),
            gpu(1, "GPU-b"),
            instance(2, "MIG-d"),
            instance(3, "MIG-c"),
        ]);
        let all = PoolGpus::All;
        assert_eq!(inventory.of_pool(&all), ["GPU-b", "MIG-d", "MIG-c"]);
        assert_eq!(inventory.usable(&all), ["GPU-b", "MIG-d", "MIG-c"]);
        // A map that named it before it was divided.
        let named = PoolGpus::Uuids(vec!["GPU-a".to_owned(), "MIG-c".to_owned()]);
        assert_eq!(inventory.usable(&named), ["MIG-c"]);
        let assignable = ["GPU-a", "GPU-b", "MIG-c", "MIG-e"].map(|uuid| inventory.assignable(uuid));
        use Assignable::{Divided, Unknown, Yes};
        assert_eq!(assignable, [Divided, Yes, Yes, Unknown]);
        assert_eq!(inventory.resolve("3").present.as_deref(), Some("MIG-c"));
        assert_eq!(inventory.resolve("mig-d").present.as_deref(), Some("MIG-d"));
        assert_eq!(inventory.resolve("3b:00.0").present.as_deref(), Some("GPU-a"));
        let address = inventory.address_of("MIG-c").unwrap();
        assert_eq!(inventory.at_address(address), Some(&divided));
        // It is whole again.
        inventory.update(vec![gpu(0, "GPU-a"), gpu(1, "GPU-b")]);
        assert_eq!(inventory.usable(&all), ["GPU-a", "GPU-b"]);
        assert_eq!(inventory.of_pool(&all), ["GPU-a", "GPU-b"]);
    }

    #[test]
    fn an_instance_is_called_by_its_gpus_model_and_its_profile() {
        let gpu = "NVIDIA H100 80GB HBM3";
        let whole = "NVIDIA H100 80GB HBM3 MIG 1g.10gb";
        assert_eq!(instance_model(gpu, whole), whole);
        assert_eq!(instance_model(gpu, "MIG 1g.10gb"), whole);
    }
}
