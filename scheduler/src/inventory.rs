//! The host's GPUs.
use anyhow::{Context, Result, bail};
use nvml_wrapper::Nvml;
use vgpu_pool_map::{PoolGpus, PoolMap};
use vgpu_sched_core::GpuSet;

/// Bytes of memory a software GPU has.
const SOFTGPU_MEMORY: u64 = 4 << 30;

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// "GPU-" and a UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// What the vendor calls it.
    pub model: String,
    /// Its PCI address; empty if it has none.
    pub pci: String,
    /// Bytes.
    pub memory: u64,
}

/// The host's NVIDIA GPUs, or as many software GPUs.
pub fn discover(softgpu: Option<u32>) -> Result<Vec<Gpu>> {
    let gpus = match softgpu {
        Some(count) => (0..count).map(software_gpu).collect(),
        None => nvidia_gpus().context(
            "cannot list the host's NVIDIA GPUs; for software GPUs set `softgpu` in [inventory] or use --softgpu",
        )?,
    };
    if gpus.is_empty() || gpus.len() > GpuSet::MAX as usize {
        bail!(
            "{} GPUs found; from 1 to {} are supported",
            gpus.len(),
            GpuSet::MAX
        );
    }
    Ok(gpus)
}

/// The indices of a pool's GPUs that are there.
pub fn gpus_of(pool: &PoolGpus, inventory: &[Gpu]) -> GpuSet {
    let in_pool = |gpu: &Gpu| match pool {
        PoolGpus::All => true,
        PoolGpus::Uuids(uuids) => uuids.contains(&gpu.uuid),
    };
    (0..)
        .zip(inventory)
        .filter(|(_, gpu)| in_pool(gpu))
        .map(|(index, _)| index)
        .collect()
}

/// The GPUs that a map names and that are not there.
pub fn missing<'a>(map: &'a PoolMap, inventory: &[Gpu]) -> Vec<(&'a str, &'a str)> {
    let mut missing = Vec::new();
    for pool in &map.pools {
        if let PoolGpus::Uuids(uuids) = &pool.gpus {
            let absent = uuids
                .iter()
                .filter(|uuid| !inventory.iter().any(|gpu| gpu.uuid == **uuid));
            missing.extend(absent.map(|uuid| (pool.name.as_str(), uuid.as_str())));
        }
    }
    missing
}

/// A software GPU as its `libcuda.so.1` describes it. The UUID of device `number` is, byte by byte: "vgpusoft", then
/// 0x80000000 + number (big endian), then 0xba646770.
fn software_gpu(number: u32) -> Gpu {
    let mut uuid = *b"vgpusoft\0\0\0\0\xba\x64\x67\x70";
    uuid[8..12].copy_from_slice(&(0x8000_0000 | number).to_be_bytes());
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    Gpu {
        uuid: format!(
            "GPU-{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        ),
        model: "vgpu software GPU".to_owned(),
        pci: format!("0000:{:02X}:00.0", number + 1),
        memory: SOFTGPU_MEMORY,
    }
}

fn nvidia_gpus() -> Result<Vec<Gpu>> {
    // The name that the driver installs; the one without a version belongs to development packages.
    let nvml = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init()?;
    let mut gpus = Vec::new();
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        gpus.push(Gpu {
            uuid: device.uuid()?,
            model: device.name()?,
            pci: device.pci_info()?.bus_id,
            memory: device.memory_info()?.total,
        });
    }
    Ok(gpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_gpus_have_the_uuids_their_library_reports() {
        // Spelled out: this and the library's own are kept equal by this text alone.
        assert_eq!(software_gpu(0).uuid, "GPU-76677075-736f-6674-8000-0000ba646770");
        assert_eq!(software_gpu(10).uuid, "GPU-76677075-736f-6674-8000-000aba646770");
    }

    #[test]
    fn a_pool_has_the_gpus_that_are_there() {
        let gpus = discover(Some(3)).unwrap();
        assert_eq!(gpus_of(&PoolGpus::All, &gpus), GpuSet::from_iter([0, 1, 2]));
        let named = PoolGpus::Uuids(vec![gpus[2].uuid.clone(), "GPU-0".to_owned()]);
        assert_eq!(gpus_of(&named, &gpus), GpuSet::from_iter([2]));
    }
}
