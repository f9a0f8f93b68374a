//! What CloudStack needs for hosts with GPUs that VMs share, and for such a VM. Its formats are those of 4.21 and 4.22: the output
//! of its KVM agent's `gpudiscovery.sh`, and the parameter `extraconfig` of its API.
use super::domain;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use std::fs;
use std::path::Path;
use vgpu_sched_api::messages::GpuStatus;

/// What stays as it is in the part of a URL.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// The name of the configuration's section. CloudStack keeps it among the VM's settings, as "extraconfig-vgpu".
const TITLE: &str = "vgpu:";

/// What is added to a VM's domain for its GPU, as CloudStack takes it: a title, then XML without blank lines and with double
/// quotes. It says the namespace itself, since CloudStack's domains do not, and is for machines with PCI and PCI Express alike.
pub fn extra_config(socket: &str) -> String {
    let arguments: String = domain::arguments_without_root_port(socket)
        .iter()
        .map(|argument| format!("<qemu:arg value=\"{}\"/>\n", domain::escaped(argument)))
        .collect();
    format!(
        "{TITLE}\n<memoryBacking><source type=\"memfd\"/><access mode=\"shared\"/></memoryBacking>\n\
         <qemu:commandline xmlns:qemu=\"{}\">\n{arguments}</qemu:commandline>",
        domain::QEMU
    )
}

/// The same as the API's parameter has it.
pub fn encoded(extra_config: &str) -> String {
    utf8_percent_encode(extra_config, ENCODED).to_string()
}

/// What `gpudiscovery.sh` prints.
#[derive(Debug, Serialize)]
pub struct Discovery {
    gpus: Vec<Gpu>,
}

#[derive(Debug, Serialize)]
struct Gpu {
    pci_address: String,
    vendor_id: String,
    device_id: String,
    vendor: String,
    device: String,
    driver: String,
    pci_class: String,
    iommu_group: String,
    pci_root: String,
    numa_node: i64,
    sriov_totalvfs: u32,
    sriov_numvfs: u32,
    max_instances: Option<u32>,
    /// MiB.
    video_ram: u64,
    max_heads: Option<u32>,
    max_resolution_x: Option<u32>,
    max_resolution_y: Option<u32>,
    full_passthrough: Passthrough,
    /// None: CloudStack would give one to a VM as a device of VFIO's, which it is not.
    vgpu_instances: [(); 0],
    vf_instances: [(); 0],
}

#[derive(Debug, Serialize)]
struct Passthrough {
    /// 0 or 1. Its driver is the host's, which CloudStack would take it from.
    enabled: u8,
    libvirt_address: Address,
    used_by_vm: Option<String>,
}

#[derive(Debug, Serialize)]
struct Address {
    domain: String,
    bus: String,
    slot: String,
    function: String,
}

/// The GPUs that vgpud knows and that are there, none of which CloudStack is to hand out. `sys` is /sys.
pub fn discovery(gpus: &[GpuStatus], sys: &Path) -> Discovery {
    let whole = gpus
        .iter()
        .filter(|gpu| gpu.index.is_some() && !gpu.uuid.starts_with("MIG-"));
    Discovery {
        gpus: whole.filter_map(|gpu| look(gpu, sys)).collect(),
    }
}

fn look(gpu: &GpuStatus, sys: &Path) -> Option<Gpu> {
    // NVML writes eight digits for the domain, the kernel four.
    let pci = gpu.pci.to_ascii_lowercase();
    let (domain, rest) = pci.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let (bus, slot_and_function) = rest.split_once(':')?;
    let (slot, function) = slot_and_function.split_once('.')?;
    let device = sys.join(format!("bus/pci/devices/{domain:04x}:{rest}"));
    let read = |name: &str| {
        let text = fs::read_to_string(device.join(name)).ok()?;
        Some(text.trim().trim_start_matches("0x").to_owned())
    };
    let link = |name: &str| {
        let target = fs::read_link(device.join(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    };
    const UNKNOWN: &str = "unknown";
    let unless_known = |known: Option<String>| known.unwrap_or_else(|| UNKNOWN.to_owned());
    let vendor_id = unless_known(read("vendor"));
    let class = read("class").unwrap_or_default();
    Some(Gpu {
        // As lspci writes it, which leaves the first domain out.
        pci_address: match domain {
            0 => rest.to_owned(),
            other => format!("{other:04x}:{rest}"),
        },
        vendor: match vendor_id.as_str() {
            "10de" => "NVIDIA Corporation".to_owned(),
            _ => UNKNOWN.to_owned(),
        },
        vendor_id,
        device_id: unless_known(read("device")),
        device: gpu.model.clone(),
        driver: unless_known(link("driver")),
        pci_class: match class.get(..4) {
            Some("0300") => "VGA compatible controller",
            Some("0380") => "Display controller",
            _ => "3D controller",
        }
        .to_owned(),
        iommu_group: link("iommu_group").unwrap_or_else(|| "null".to_owned()),
        pci_root: root(&device).unwrap_or_else(|| format!("{domain:04x}:{rest}")),
        numa_node: read("numa_node").and_then(|node| node.parse().ok()).unwrap_or(-1),
        sriov_totalvfs: read("sriov_totalvfs")
            .and_then(|count| count.parse().ok())
            .unwrap_or(0),
        sriov_numvfs: read("sriov_numvfs")
            .and_then(|count| count.parse().ok())
            .unwrap_or(0),
        max_instances: None,
        video_ram: gpu.memory >> 20,
        max_heads: None,
        max_resolution_x: None,
        max_resolution_y: None,
        full_passthrough: Passthrough {
            enabled: 0,
            libvirt_address: Address {
                domain: format!("0x{domain:04x}"),
                bus: format!("0x{bus}"),
                slot: format!("0x{slot}"),
                function: format!("0x{function}"),
            },
            used_by_vm: None,
        },
        vgpu_instances: [],
        vf_instances: [],
    })
}

/// The port that a device hangs on, however far below: the first device in its path behind that of the bus.
fn root(device: &Path) -> Option<String> {
    let real = device.canonicalize().ok()?;
    let mut names = real.iter().filter_map(|name| name.to_str());
    names.find(|name| name.starts_with("pci") && name.contains(':'))?;
    names.next().map(str::to_owned)
}

impl Discovery {
    /// As the script prints it.
    pub fn text(&self) -> String {
        // All keys are strings, so there is nothing that JSON cannot say.
        serde_json::to_string_pretty(self).expect("JSON") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use roxmltree::Document;
    use serde_json::{Value, json};
    use std::os::unix::fs::symlink;
    use vgpu_client::fixture;

    /// CloudStack reads it in sections that blank lines part, the first line of each being its title, and puts the XML into a
    /// domain without the namespace.
    #[test]
    fn a_vms_domain_takes_it() {
        let config = extra_config("/run/vgpu/vm9/a, \"b\" & 'c'.sock");
        let (title, xml) = config.split_once('\n').unwrap();
        assert!(
            title.ends_with(':') && !title.contains(' ') && !config.contains("\n\n"),
            "{config}"
        );
        assert!(!xml.contains('\''), "{xml}");
        let whole = format!("<domain type=\"kvm\">{xml}</domain>");
        let document = Document::parse(&whole).unwrap();
        let values: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name((domain::QEMU, "arg")))
            .filter_map(|node| node.attribute("value"))
            .collect();
        let [chardev, socket, device, numbers] = values[..] else {
            panic!("{values:?}")
        };
        assert_eq!((chardev, device), ("-chardev", "-device"));
        assert_eq!(socket, "socket,id=vgpu,path=/run/vgpu/vm9/a,, \"b\" & 'c'.sock");
        // The device of the documented domain, in a place that both machines have.
        assert!(numbers.starts_with("vhost-user-test-device-pci,id=vgpu,chardev=vgpu,virtio-id=21,"));
        assert!(
            numbers.ends_with(",addr=0x1e") && !numbers.contains("bus="),
            "{numbers}"
        );
        let backing = document
            .descendants()
            .find(|node| node.has_tag_name("memoryBacking"));
        let inside: Vec<&str> = backing
            .unwrap()
            .children()
            .map(|node| node.tag_name().name())
            .collect();
        assert_eq!(inside, ["source", "access"]);
    }

    #[test]
    fn the_apis_parameter_is_encoded() {
        let config = extra_config("/run/vgpu/vm9/ä+ .sock");
        let encoded = encoded(&config);
        let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte);
        assert!(encoded.bytes().all(kept), "{encoded}");
        assert!(encoded.starts_with("vgpu%3A%0A%3CmemoryBacking%3E"), "{encoded}");
        assert_eq!(percent_decode_str(&encoded).decode_utf8().unwrap(), config);
    }

    #[test]
    fn gpus_are_shown_and_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        let device = sys.join("devices/pci0000:1a/0000:1a:01.0/0000:1b:00.0");
        fs::create_dir_all(&device).unwrap();
        for (name, text) in [
            ("vendor", "0x10de\n"),
            ("device", "0x2330\n"),
            ("class", "0x030200\n"),
            ("numa_node", "1\n"),
            ("sriov_totalvfs", "16\n"),
        ] {
            fs::write(device.join(name), text).unwrap();
        }
        symlink("../../../../kernel/iommu_groups/42", device.join("iommu_group")).unwrap();
        symlink("../../../../bus/pci/drivers/nvidia", device.join("driver")).unwrap();
        fs::create_dir_all(sys.join("bus/pci/devices")).unwrap();
        symlink(&device, sys.join("bus/pci/devices/0000:1b:00.0")).unwrap();
        // The second one is missing.
        let mut gpus = fixture::host().gpus;
        let mut instance = gpus[0].clone();
        instance.uuid = "MIG-1".to_owned();
        gpus.push(instance);
        let told: Value = serde_json::from_str(&discovery(&gpus, sys).text()).unwrap();
        let expected = json!({"gpus": [{
            "pci_address": "1b:00.0",
            "vendor_id": "10de",
            "device_id": "2330",
            "vendor": "NVIDIA Corporation",
            "device": "NVIDIA H100 80GB HBM3",
            "driver": "nvidia",
            "pci_class": "3D controller",
            "iommu_group": "42",
            "pci_root": "0000:1a:01.0",
            "numa_node": 1,
            "sriov_totalvfs": 16,
            "sriov_numvfs": 0,
            "max_instances": null,
            "video_ram": 81559,
            "max_heads": null,
            "max_resolution_x": null,
            "max_resolution_y": null,
            "full_passthrough": {
                "enabled": 0,
                "libvirt_address": {"domain": "0x0000", "bus": "0x1b", "slot": "0x00", "function": "0x0"},
                "used_by_vm": null
            },
            "vgpu_instances": [],
            "vf_instances": []
        }]});
        assert_eq!(told, expected);
        // What the kernel does not tell is unknown.
        let told: Value = serde_json::from_str(&discovery(&gpus, &sys.join("nowhere")).text()).unwrap();
        let gpu = &told["gpus"][0];
        assert_eq!(
            (&gpu["vendor_id"], &gpu["driver"], &gpu["numa_node"]),
            (&json!("unknown"), &json!("unknown"), &json!(-1))
        );
    }
}
