//! What a container on the host needs for the GPU of a VM's number, as the Container Device Interface says it: container engines
//! read such files from /etc/cdi.
use serde::Serialize;
use std::path::Path;

/// The versions of the specification that a file may name. What is said here is the same in all of them.
pub const VERSIONS: [&str; 2] = ["0.5.0", "0.6.0"];
/// Vendor and class of the devices.
const KIND: &str = "vgpu/gpu";
/// Where a container has what is the host's.
const SOCKET: &str = "/run/vgpu/gpu.sock";
const LIBRARIES: &str = "/usr/lib/vgpu";
/// JAX looks whether there is NVIDIA's device, and no further.
const NVIDIAS: &str = "/dev/nvidiactl";
const NOTHING: &str = "/dev/null";
/// What programs load of it.
const LIBCUDA: &str = "libcuda.so.1";

/// A specification with one device.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cdi {
    cdi_version: String,
    kind: &'static str,
    devices: [Device; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Serialize)]
struct Edits {
    env: [String; 2],
    mounts: [Mount; 3],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: &'static str,
    options: Vec<&'static str>,
}

/// The device "vm3", for VM 3.
pub fn cdi(version: &str, vm: u32, socket: &str, libraries: &str) -> Cdi {
    let mount = |host_path: &str, container_path, own: &[&'static str]| Mount {
        host_path: host_path.to_owned(),
        container_path,
        options: [own, &["nosuid", "nodev", "rbind", "rprivate"]].concat(),
    };
    Cdi {
        cdi_version: version.to_owned(),
        kind: KIND,
        devices: [Device {
            name: format!("vm{vm}"),
            container_edits: Edits {
                env: [
                    format!("VGPU_SOCKET={SOCKET}"),
                    format!("LD_LIBRARY_PATH={LIBRARIES}"),
                ],
                mounts: [
                    // Whoever connects must be able to write to it.
                    mount(socket, SOCKET, &["rw"]),
                    mount(libraries, LIBRARIES, &["ro"]),
                    mount(NOTHING, NVIDIAS, &["ro"]),
                ],
            },
        }],
    }
}

/// A warning for each thing of the host that a container is to be given and that is not there: it would not start.
pub fn missing(socket: &Path, libraries: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    if !socket.exists() {
        warnings.push(format!(
            "warning: there is no socket {}, so a container does not start\nhint: start the backend of the VM's number first, or \
             name its socket with --vm-socket",
            socket.display()
        ));
    }
    if !libraries.join(LIBCUDA).exists() {
        warnings.push(format!(
            "warning: {} has no {LIBCUDA}, so programs in the container find no GPU\nhint: unpack the guest's package on this \
             host, or name the folder with --libraries",
            libraries.display()
        ));
    }
    warnings
}

impl Cdi {
    /// As a file of /etc/cdi has it.
    pub fn file(&self) -> String {
        // All keys are strings, so there is nothing that JSON cannot say.
        serde_json::to_string_pretty(self).expect("JSON") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn text(value: &Value) -> &str {
        value.as_str().unwrap_or_else(|| panic!("{value}"))
    }

    /// What the specification demands of a name: letters, digits and some signs, none of them at its ends.
    fn is_name(name: &str, signs: &str) -> bool {
        let inside = |char: char| char.is_ascii_alphanumeric() || signs.contains(char);
        let end = |char: Option<char>| char.is_some_and(|char| char.is_ascii_alphanumeric());
        name.chars().all(inside) && end(name.chars().next()) && end(name.chars().last()) && name.len() <= 63
    }

    #[test]
    fn what_a_container_is_to_be_given_and_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, libraries) = (dir.path().join("gpu.sock"), dir.path().join("lib"));
        let warnings = missing(&socket, &libraries);
        assert!(
            warnings[0].contains("gpu.sock, so a container does not start"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("lib has no libcuda.so.1"), "{warnings:?}");
        std::fs::write(&socket, "").unwrap();
        std::fs::create_dir(&libraries).unwrap();
        assert_eq!(missing(&socket, &libraries), warnings[1..]);
        std::fs::write(libraries.join(LIBCUDA), "").unwrap();
        assert_eq!(missing(&socket, &libraries), [""; 0]);
    }

    /// Container engines refuse a file that has other keys, or lacks one.
    #[test]
    fn it_has_what_the_specification_demands_and_nothing_else() {
        let file = cdi(
            "0.6.0",
            3,
            "/run/vgpu/vm3/vgpu.sock",
            "/opt/vgpu-guest/usr/lib/vgpu",
        )
        .file();
        let spec: Value = serde_json::from_str(&file).unwrap();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&spec), ["cdiVersion", "devices", "kind"]);
        assert_eq!(spec["cdiVersion"], "0.6.0");
        let (vendor, class) = text(&spec["kind"]).split_once('/').unwrap();
        assert!(is_name(vendor, "-.") && is_name(class, "-_"), "{vendor} {class}");
        let devices = spec["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!(keys(&devices[0]), ["containerEdits", "name"]);
        assert!(is_name(text(&devices[0]["name"]), "-_.:"));
        assert_eq!(devices[0]["name"], "vm3");
        let edits = &devices[0]["containerEdits"];
        assert_eq!(keys(edits), ["env", "mounts"]);
        let mounts = edits["mounts"].as_array().unwrap();
        for mount in mounts {
            assert_eq!(keys(mount), ["containerPath", "hostPath", "options"]);
            for path in ["containerPath", "hostPath"] {
                assert!(text(&mount[path]).starts_with('/'), "{mount}");
            }
            assert!(mount["options"].as_array().unwrap().iter().all(Value::is_string));
        }
        assert_eq!(mounts[0]["hostPath"], "/run/vgpu/vm3/vgpu.sock");
        assert_eq!(mounts[1]["hostPath"], "/opt/vgpu-guest/usr/lib/vgpu");
        assert_eq!(mounts[1]["options"][0], "ro");
        // Each variable names what is mounted.
        let env = edits["env"].as_array().unwrap();
        for (one, (name, mount)) in env.iter().zip([("VGPU_SOCKET", 0), ("LD_LIBRARY_PATH", 1)]) {
            let named = format!("{name}={}", text(&mounts[mount]["containerPath"]));
            assert_eq!(text(one), named);
        }
        assert_eq!(env.len(), 2);
    }
}
