//! Where the things that a virtual machine and the host services are made of lie.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};

/// The environment variable that names the artifacts folder.
pub const ARTIFACTS_ENV: &str = "VGPU_TEST_ARTIFACTS";

/// A folder with everything that runs: the same layout is built by `cargo xtask build`, used by the tests
/// and the demo, and packed into the bundle.
///
/// ```text
/// bin/       vgpud, vgpu-admin, vgpu-backend, vgpu-exec, vgpu-harness
/// lib/guest/     libcuda.so.1 and libnvidia-ml.so.1 of a guest (on the host: for VGPU_SOCKET)
/// lib/softgpu/   libcuda.so.1 and libnvidia-ml.so.1 of the software GPU
/// vgpu-guest.deb     the guest's package, for Debian and what is made of it
/// programs/  C programs that use CUDA; the initramfs has them in /usr/bin
/// compat/    programs that are compared with the native library, and what compares them
/// boot/      vmlinux, initramfs.cpio
/// boot-newer/    the same with a newer kernel, for tests
/// glibc/     the oldest C library that a guest may have, and its loader, for tests
/// qemu/      QEMU with its libraries and firmware
/// ```
#[derive(Clone, Debug)]
pub struct Artifacts {
    root: PathBuf,
}

impl Artifacts {
    /// The artifacts below `root`, which must be an absolute path.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that `VGPU_TEST_ARTIFACTS` names, or else `target/artifacts` of this workspace.
    pub fn from_env() -> Self {
        let root = std::env::var_os(ARTIFACTS_ENV).map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/artifacts"),
            PathBuf::from,
        );
        Self::new(root)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A host program such as `vgpud`.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// A C program that uses CUDA, built for host and guest alike.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs_dir().join(name)
    }

    pub fn programs_dir(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// The folder with `run.py`, which compares programs with the native library.
    pub fn compat_dir(&self) -> PathBuf {
        self.root.join("compat")
    }

    /// The folder with the guest's `libcuda.so.1` and `libnvidia-ml.so.1`.
    pub fn guest_lib_dir(&self) -> PathBuf {
        self.root.join("lib/guest")
    }

    /// The Debian package that makes a virtual machine a guest.
    pub fn guest_package(&self) -> PathBuf {
        self.root.join("vgpu-guest.deb")
    }

    /// The folder with the software GPU's `libcuda.so.1`.
    pub fn softgpu_lib_dir(&self) -> PathBuf {
        self.root.join("lib/softgpu")
    }

    pub fn vmlinux(&self) -> PathBuf {
        self.root.join("boot/vmlinux")
    }

    pub fn initramfs(&self) -> PathBuf {
        self.root.join("boot/initramfs.cpio")
    }

    /// A newer guest kernel, for tests.
    pub fn newer_vmlinux(&self) -> PathBuf {
        self.root.join("boot-newer/vmlinux")
    }

    /// The initial file system for [`Artifacts::newer_vmlinux`].
    pub fn newer_initramfs(&self) -> PathBuf {
        self.root.join("boot-newer/initramfs.cpio")
    }

    /// The folder with the oldest C library that a guest may have.
    pub fn oldest_glibc_dir(&self) -> PathBuf {
        self.root.join("glibc")
    }

    pub fn qemu_dir(&self) -> PathBuf {
        self.root.join("qemu")
    }

    /// What drives a browser in tests: beside these artifacts, since no service reads it.
    pub fn playwright_dir(&self) -> PathBuf {
        self.root.with_file_name("playwright")
    }

    /// `path`, or an error that says how to build it.
    pub fn existing(path: PathBuf) -> Result<PathBuf> {
        if path.exists() {
            Ok(path)
        } else {
            Err(Error::MissingArtifact(path))
        }
    }

    /// These artifacts where a user without privileges can read them: in place if every folder above lets
    /// others in (a checkout below `/root` does not), else a copy in `scratch`, which must do so.
    pub fn readable_by_others(&self, scratch: &Path) -> Result<Self> {
        let root = self
            .root
            .canonicalize()
            .context(|| format!("cannot open {}", self.root.display()))?;
        let reachable = |dir: &Path| {
            dir.metadata()
                .is_ok_and(|meta| !meta.is_dir() || meta.permissions().mode() & 0o005 == 0o005)
        };
        // The parts may be links to elsewhere, so each is looked at where it really is.
        let parts = std::fs::read_dir(&root).context(|| format!("cannot list {}", root.display()))?;
        let open = parts.flatten().all(|entry| {
            entry
                .path()
                .canonicalize()
                .is_ok_and(|real| real.ancestors().all(reachable))
        });
        if open {
            return Ok(Self { root });
        }
        let copy = scratch.join("artifacts");
        let status = Command::new("cp")
            .arg("-rL")
            .args([&root, &copy])
            .status()
            .context(|| "cannot run cp".to_owned())?;
        if !status.success() {
            let source = std::io::Error::other(status.to_string());
            return Err(Error::Io {
                what: format!("cannot copy {}", root.display()),
                source,
            });
        }
        Ok(Self { root: copy })
    }

    /// QEMU as a command. It runs through its own loader and libraries, whatever the host's are.
    pub fn qemu_command(&self) -> Result<Command> {
        let qemu = Self::existing(self.qemu_dir())?;
        let mut command = Command::new(qemu.join("lib/ld-linux-x86-64.so.2"));
        let mut program = OsString::from(qemu.join("bin"));
        program.push("/qemu-system-x86_64");
        command
            .arg("--library-path")
            .arg(qemu.join("lib"))
            .args(["--argv0", "qemu-system-x86_64"]);
        command.arg(program).arg("-L").arg(qemu.join("share"));
        // Without this QEMU would look for its modules in the host's own folder, of another version.
        command.env("QEMU_MODULE_DIR", qemu.join("lib"));
        Ok(command)
    }
}
