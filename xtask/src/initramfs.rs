//! The guest's initial file system, which is all it has: busybox, the C library, drivers, our software.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use vgpu_vm::initrd::Initrd;
use vgpu_vm::{Artifacts, guest};

use crate::kernel::{self, Kernel, Version, decompress};
use crate::util::{Layout, capture, capture_text, copy_if_changed, file_name, files_below, links_below};

/// Drivers of the kernel that `vgpu.ko` and disks need; what the kernel has built in is skipped.
const DRIVERS: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];

/// The C and C++ libraries' parts; the guest runs programs that this machine builds, so they are this machine's.
const LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
];
const LIBRARY_FOLDER: &str = "/lib/x86_64-linux-gnu";
const LDCONFIG: &str = "/sbin/ldconfig";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

const ACCOUNTS: &str = "root:x:0:0:root:/:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nguest:x:1000:\n";

/// What is ours in a guest.
pub struct Ours<'a> {
    pub module: &'a Path,
    /// The guest's Debian package.
    pub package: &'a Path,
    /// Programs for `/usr/bin`.
    pub programs: &'a [PathBuf],
}

/// Writes the file system at `path`; `ours` may be left out.
pub fn write(path: &Path, kernel: &Kernel, ours: Option<&Ours<'_>>) -> Result<()> {
    let temporary = path.with_extension("new");
    let file = File::create(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    let mut archive = Initrd::new(BufWriter::new(file));
    add_system(&mut archive, kernel)?;
    if let Some(ours) = ours {
        add_ours(&mut archive, ours)?;
    }
    archive.finish()?.flush()?;
    Ok(fs::rename(temporary, path)?)
}

/// Beside the artifacts' own guest, one of the newer kernel with the same software, for a test that the driver
/// works there, too.
pub fn newer_guest(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    let version = Version::V6_12;
    let module = kernel::module(layout, version)?;
    let kernel = kernel::fetch(layout, version)?;
    copy_if_changed(&kernel.vmlinux(), &artifacts.newer_vmlinux())?;
    let ours = Ours {
        module: &module,
        package: &artifacts.guest_package(),
        programs: &files_below(&artifacts.programs_dir(), &|_| true)?,
    };
    write(&artifacts.newer_initramfs(), &kernel, Some(&ours))
}

fn add_system<W: Write>(archive: &mut Initrd<W>, kernel: &Kernel) -> Result<()> {
    for folder in ["dev", "proc", "sys", "run", "tmp", "root"] {
        archive.folder(folder, 0o755)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.char_device("/dev/console", 0o600, 5, 1)?;
    archive.copy("/bin/busybox", 0o755, Path::new("/bin/busybox"))?;
    for applet in capture_text(Command::new("/bin/busybox").arg("--list"))?.lines() {
        if applet != "busybox" {
            archive.symlink(&format!("/bin/{applet}"), "busybox")?;
        }
    }
    archive.file("/etc/passwd", 0o644, ACCOUNTS.as_bytes())?;
    archive.file("/etc/group", 0o644, GROUPS.as_bytes())?;
    archive.file("/init", 0o755, guest::INIT.as_bytes())?;
    archive.file("/usr/libexec/vgpu-agent", 0o755, guest::AGENT.as_bytes())?;
    archive.copy(LOADER, 0o755, Path::new(LOADER))?;
    for name in LIBRARIES {
        let path = format!("{LIBRARY_FOLDER}/{name}");
        archive.copy(&path, 0o755, Path::new(&path))?;
    }
    for name in DRIVERS {
        let Some(path) = kernel.module(name)? else {
            continue;
        };
        let content = fs::read(&path)?;
        let content = if path.extension().is_some_and(|end| end == "xz") {
            decompress("xz", &content)?
        } else {
            content
        };
        archive.file(&format!("/lib/modules/{name}.ko"), 0o644, &content)?;
    }
    Ok(())
}

fn add_ours<W: Write>(archive: &mut Initrd<W>, ours: &Ours<'_>) -> Result<()> {
    archive.file("/lib/modules/vgpu.ko", 0o644, &stripped(ours.module)?)?;
    add_package(archive, ours.package)?;
    for program in ours.programs {
        let name = file_name(program).to_string_lossy();
        archive.copy(&format!("/usr/bin/{name}"), 0o755, program)?;
    }
    Ok(())
}

/// What the package installs, without the driver's source, which needs a compiler, and what is only read by people.
fn add_package<W: Write>(archive: &mut Initrd<W>, package: &Path) -> Result<()> {
    let unpacked = tempfile::tempdir()?;
    let root = unpacked.path();
    capture(Command::new("dpkg-deb").arg("-x").arg(package).arg(root))?;
    for folder in ["usr/src", "usr/share"] {
        fs::remove_dir_all(root.join(folder))?;
    }
    let name = |path: &Path| Ok::<_, anyhow::Error>(path.strip_prefix(root)?.display().to_string());
    for link in links_below(root)? {
        archive.symlink(&name(&link)?, &fs::read_link(&link)?.to_string_lossy())?;
    }
    for file in files_below(root, &|path| !path.is_symlink())? {
        archive.copy(&name(&file)?, 0o644, &file)?;
    }
    // The package's trigger has this run where there is a dpkg.
    archive.copy(LDCONFIG, 0o755, Path::new(LDCONFIG))?;
    archive.file("/etc/ld.so.conf", 0o644, b"include /etc/ld.so.conf.d/*.conf\n")?;
    Ok(())
}

/// A binary without what only a debugger reads: a guest keeps its files in memory.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    let output = tempfile::NamedTempFile::new()?;
    capture(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(output.path())
            .arg(path),
    )?;
    Ok(fs::read(output.path())?)
}
