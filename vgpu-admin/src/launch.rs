//! What others need to give the GPU of a VM to it: libvirt, CloudStack, and container engines.
mod cdi;
mod cloudstack;
mod domain;

pub use cdi::{Cdi, VERSIONS, cdi, missing};
pub use cloudstack::{Discovery, discovery, encoded, extra_config};
pub use domain::{QEMU, domain};

use crate::arguments::vm_number;
use crate::services::{self, Service};
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::{Path, PathBuf};

/// A path of a Unix socket has so many bytes at most.
const SOCKET_LEN_MAX: usize = 107;

/// A VM, and where its backend listens.
#[derive(Debug, Args)]
pub struct Backend {
    /// The VM's number
    #[arg(long, value_name = "VM", value_parser = vm_number())]
    pub vm_id: u32,
    /// The socket of its vgpu-backend; unless given, that of the backend that is seen to run for it, or /run/vgpu/vmN/vgpu.sock
    #[arg(long, value_name = "PATH", value_parser = socket)]
    vm_socket: Option<String>,
}

/// What a container is given.
#[derive(Debug, Args)]
pub struct Container {
    #[command(flatten)]
    pub backend: Backend,
    /// The folder with the guest's libcuda.so.1 on this host
    #[arg(long, value_name = "DIR", value_parser = absolute, default_value = "/opt/vgpu-guest/usr/lib/vgpu")]
    pub libraries: String,
    /// The version of the Container Device Interface that the file is to name: engines refuse one that they do not know
    #[arg(long, value_name = "VERSION", value_parser = PossibleValuesParser::new(VERSIONS), default_value = "0.6.0")]
    pub cdi_version: String,
}

impl Backend {
    /// Where it listens; it asks the vgpud at that other socket.
    pub fn socket(&self, vgpud: &Path) -> String {
        let given = self.vm_socket.clone();
        given
            .or_else(|| self.listening(services::backends(vgpud)))
            .unwrap_or_else(|| socket_in(Path::new("/run"), self.vm_id).display().to_string())
    }

    /// Where the VM's backend among these listens.
    fn listening(&self, backends: Vec<Service>) -> Option<String> {
        let mut backends = backends.into_iter();
        let own = backends.find(|backend| backend.vm() == Some(self.vm_id))?;
        let path = own.path("--socket-path")?.into_os_string().into_string().ok()?;
        socket(&path).ok()
    }
}

/// Where the unit of a VM's backend has it listen.
pub fn socket_in(run_dir: &Path, vm: u32) -> PathBuf {
    run_dir.join(format!("vgpu/vm{vm}/vgpu.sock"))
}

/// A path that others take as it is.
fn absolute(text: &str) -> Result<String, String> {
    if !Path::new(text).is_absolute() || text.chars().any(char::is_control) {
        return Err("expected a path from / on, without control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn socket(text: &str) -> Result<String, String> {
    if text.len() > SOCKET_LEN_MAX {
        return Err(format!(
            "expected a path of at most {SOCKET_LEN_MAX} bytes, as sockets have"
        ));
    }
    absolute(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backends_socket_is_where_it_is_said_to_be() {
        let backend = |vm_socket: Option<&str>| Backend {
            vm_id: 9,
            vm_socket: vm_socket.map(str::to_owned),
        };
        let nowhere = Path::new("/no/such/socket");
        assert_eq!(backend(None).socket(nowhere), "/run/vgpu/vm9/vgpu.sock");
        assert_eq!(backend(Some("/s")).socket(nowhere), "/s");
        let runs = |vm: &str, path: &str| Service {
            arguments: ["vgpu-backend", "--vm-id", vm, "--socket-path", path]
                .map(str::to_owned)
                .to_vec(),
            folder: "/srv".into(),
            ..Service::default()
        };
        let all = || vec![runs("8", "/run/8"), runs("9", "nine")];
        assert_eq!(backend(None).listening(all()).as_deref(), Some("/srv/nine"));
        let other = Backend {
            vm_id: 7,
            ..backend(None)
        };
        assert_eq!(other.listening(all()), None);
        assert_eq!(socket("/run/a b.sock").as_deref(), Ok("/run/a b.sock"));
        let longest = format!("/{}", "a".repeat(SOCKET_LEN_MAX - 1));
        assert!(socket(&longest).is_ok());
        for wrong in ["", "vm3.sock", "/run/\n", &(longest + "a")] {
            assert!(
                socket(wrong).unwrap_err().starts_with("expected a path "),
                "{wrong}"
            );
        }
    }
}
