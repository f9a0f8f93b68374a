//! What is seen of this host. Nothing is changed, and nothing here needs root: what may not be seen is said to be unseen.
use super::Doctor;
use crate::services::{self, Limits, Service};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::ComputeMode;
use rustix::fs::{Access, MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use vgpu_client::client::Client;
use vgpu_client::failure::Failure;
use vgpu_sched_api::messages::Status;

/// How long NVML may take: a driver whose GPU fell off the bus may never answer.
const NVML_LIMIT: Duration = Duration::from_secs(20);

/// What was seen. An error says why something was not.
#[derive(Debug)]
pub struct Facts {
    /// The version of NVIDIA's driver; `None` if it is not loaded.
    pub driver: Option<String>,
    /// The driver's device nodes.
    pub nodes: Vec<Node>,
    pub uvm: Uvm,
    /// NVML's library, and what it lists.
    pub nvml: PathBuf,
    pub gpus: Result<Vec<Gpu>, String>,
    /// Those of this user, who may not be the services'.
    pub limits: Option<Limits>,
    pub memfd: Result<(), String>,
    /// The version of Landlock that the kernel has.
    pub landlock: Result<u32, String>,
    pub seccomp: bool,
    pub kvm: Kvm,
    pub qemu: Qemu,
    pub vgpud: Result<Status, Failure>,
    /// Whether this user may ask vgpud at all.
    pub may_ask: bool,
    /// The vgpud that listens at the socket, if it was found among the processes.
    pub scheduler: Option<Service>,
    /// Those that ask it.
    pub backends: Vec<Service>,
    pub state: (PathBuf, Result<u64, String>),
    /// The pool map's file and its folder.
    pub pool_map: Result<[Place; 2], String>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The module nvidia-uvm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uvm {
    Missing,
    Loaded {
        /// `None` if it does not say.
        hmm_disabled: Option<bool>,
    },
}

/// A GPU, as NVML tells; `None` is what it does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub index: u32,
    pub persistent: Option<bool>,
    /// If it can be divided at all.
    pub mig: Option<Mig>,
    pub compute: Option<Compute>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mig {
    pub on: bool,
    /// After the next reset.
    pub will_be_on: bool,
    pub instances: u32,
}

/// Who may have contexts on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// Any number of processes.
    Shared,
    /// One process.
    Exclusive,
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    Missing,
    /// It can be opened by this user.
    Usable {
        mode: u32,
        gid: u32,
    },
    Refused {
        why: String,
        mode: u32,
        gid: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    pub program: PathBuf,
    /// Its version's line, and the devices that a user may create.
    pub told: Result<(String, String), String>,
}

/// A file or folder, and who may change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Looks.
pub fn gather(wanted: &Doctor, socket: &Path) -> Facts {
    let vgpud = Client::connect(socket).and_then(|client| client.status());
    let scheduler = services::schedulers(socket).pop();
    let of_scheduler = |name| scheduler.as_ref().and_then(|vgpud: &Service| vgpud.path(name));
    let nvml = wanted.libnvidia_ml.clone();
    let nvml = nvml
        .or_else(|| of_scheduler("--libnvidia-ml"))
        .unwrap_or("libnvidia-ml.so.1".into());
    let state = wanted.state_dir.clone();
    let state = state
        .or_else(|| of_scheduler("--state-dir"))
        .unwrap_or("/var/lib/vgpu".into());
    let pool_map = wanted.pool_map.clone();
    let pool_map = pool_map
        .or_else(|| of_scheduler("--config"))
        .unwrap_or("/etc/vgpu/pools.toml".into());
    Facts {
        driver: driver(),
        nodes: nodes(),
        uvm: uvm(),
        gpus: gpus(nvml.clone()),
        nvml,
        limits: services::limits(Path::new("/proc/self")),
        memfd: memfd().map_err(|error| error.to_string()),
        landlock: landlock(),
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        kvm: kvm(Path::new("/dev/kvm")),
        qemu: Qemu {
            program: wanted.qemu.clone(),
            told: qemu(&wanted.qemu),
        },
        vgpud,
        may_ask: rustix::fs::access(socket, Access::WRITE_OK) != Err(Errno::ACCESS),
        backends: services::backends(socket),
        state: (
            state.clone(),
            rustix::fs::statvfs(&state)
                .map(|found| found.f_bavail.saturating_mul(found.f_frsize))
                .map_err(|error| error.to_string()),
        ),
        pool_map: places(&pool_map),
        scheduler,
    }
}

fn driver() -> Option<String> {
    driver_version(&fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The version in the driver's own words, which are others for the open modules; all of them if there is none.
fn driver_version(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let is_version = |word: &&str| {
        let mut numbers = word.split('.');
        word.contains('.')
            && numbers.all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Some(
        line.split_whitespace()
            .find(is_version)
            .unwrap_or(line)
            .to_owned(),
    )
}

fn uvm() -> Uvm {
    if !Path::new("/sys/module/nvidia_uvm").exists() {
        return Uvm::Missing;
    }
    let parameter = fs::read_to_string("/sys/module/nvidia_uvm/parameters/uvm_disable_hmm");
    Uvm::Loaded {
        hmm_disabled: parameter.ok().map(|value| value.trim() == "Y"),
    }
}

fn nodes() -> Vec<Node> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut nodes: Vec<Node> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            let found = entry.metadata().ok()?;
            let is_node = name.starts_with("nvidia") && found.file_type().is_char_device();
            is_node.then(|| Node {
                name,
                mode: found.mode() & 0o777,
                uid: found.uid(),
                gid: found.gid(),
            })
        })
        .collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    nodes
}

/// Asks NVML, for a while.
fn gpus(library: PathBuf) -> Result<Vec<Gpu>, String> {
    let (sender, told) = channel();
    std::thread::spawn(move || {
        let listed = list(&library).map_err(|error| format!("NVML, {}: {error}", library.display()));
        // Nobody may be waiting any longer.
        let _ = sender.send(listed);
    });
    told.recv_timeout(NVML_LIMIT)
        .unwrap_or_else(|_| Err(format!("NVML did not answer within {} s", NVML_LIMIT.as_secs())))
}

fn list(library: &Path) -> Result<Vec<Gpu>, nvml_wrapper::error::NvmlError> {
    let nvml = Nvml::builder().lib_path(library.as_ref()).init()?;
    let one = |index| {
        let device = nvml.device_by_index(index)?;
        let mig = device.mig_mode().ok().map(|mode| {
            let places = (0..device.mig_device_count().unwrap_or(0))
                .filter(|place| device.mig_device_by_index(*place).is_ok());
            Mig {
                on: mode.current == 1,
                will_be_on: mode.pending == 1,
                instances: places.count() as u32,
            }
        });
        Ok(Gpu {
            index,
            persistent: device.is_in_persistent_mode().ok(),
            mig,
            compute: device.compute_mode().ok().map(|mode| match mode {
                ComputeMode::Default => Compute::Shared,
                ComputeMode::ExclusiveThread | ComputeMode::ExclusiveProcess => Compute::Exclusive,
                ComputeMode::Prohibited => Compute::Nobody,
            }),
        })
    };
    (0..nvml.device_count()?).map(one).collect()
}

/// Whether a file without a name can be made and kept from shrinking, as VMs' memory is.
fn memfd() -> rustix::io::Result<()> {
    let file = rustix::fs::memfd_create("vgpu-admin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, 4096)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK)
}

fn landlock() -> Result<u32, String> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no attributes and makes nothing: it returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error().to_string())
}

fn kvm(path: &Path) -> Kvm {
    let Ok(found) = fs::metadata(path) else {
        return Kvm::Missing;
    };
    let (mode, gid) = (found.mode() & 0o777, found.gid());
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Kvm::Usable { mode, gid },
        Err(error) => Kvm::Refused {
            why: error.to_string(),
            mode,
            gid,
        },
    }
}

fn qemu(program: &Path) -> Result<(String, String), String> {
    let ask = |arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "{}: {}",
                output.status,
                said.lines().next().unwrap_or("")
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = ask(&["--version"])?;
    Ok((
        version.lines().next().unwrap_or_default().to_owned(),
        ask(&["-machine", "none", "-device", "help"])?,
    ))
}

fn places(file: &Path) -> Result<[Place; 2], String> {
    // vgpud replaces the file that a link leads to. One that is not there is told of by its name.
    let real = file.canonicalize();
    let file = real.as_deref().unwrap_or(file);
    let place = |path: &Path| -> Result<Place, String> {
        let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Place {
            path: path.to_owned(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        })
    };
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Ok([place(file)?, place(folder)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Whatever machine this runs on has these.
    #[test]
    fn what_each_machine_has_is_seen() {
        assert_eq!(memfd(), Ok(()));
        assert!(nodes().iter().all(|node| node.name.starts_with("nvidia")));
        assert_eq!(kvm(Path::new("/no/such/file")), Kvm::Missing);
        let dir = tempfile::tempdir().unwrap();
        let map = dir.path().join("pools.toml");
        assert!(places(&map).unwrap_err().starts_with(map.to_str().unwrap()));
        fs::write(&map, "").unwrap();
        fs::set_permissions(&map, fs::Permissions::from_mode(0o640)).unwrap();
        let [file, folder] = places(&map).unwrap();
        assert_eq!((file.mode, folder.path.as_path()), (0o640, dir.path()));
        assert!(matches!(kvm(&map), Kvm::Usable { mode: 0o640, .. }));
        assert!(
            gpus("/no/such/library".into())
                .unwrap_err()
                .starts_with("NVML, /no/such/library: ")
        );
    }

    #[test]
    fn the_drivers_words_have_its_version() {
        for line in [
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jan  1 00:00:00 UTC 2026\nGCC version:  gcc 12.2.0\n",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@host)\n",
        ] {
            assert_eq!(driver_version(line).as_deref(), Some("580.159.04"));
        }
        assert_eq!(
            driver_version("something else\n").as_deref(),
            Some("something else")
        );
        assert_eq!(driver_version(""), None);
    }

    #[test]
    fn a_qemu_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let good = script("good", "#!/bin/sh\necho \"QEMU $1\"\necho more\n");
        assert_eq!(
            qemu(&good),
            Ok(("QEMU --version".to_owned(), "QEMU -machine\nmore\n".to_owned()))
        );
        let bad = script("bad", "#!/bin/sh\necho no >&2\nexit 3\n");
        assert_eq!(qemu(&bad), Err("exit status: 3: no".to_owned()));
        assert!(qemu(Path::new("/no/such/qemu")).is_err());
    }
}
