//! A Debian that boots in a virtual machine, to see the host's package under the systemd that it is for.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use vgpu_vm::initrd::Initrd;
use vgpu_vm::{Accel, Artifacts, Vm};

/// What is run in it, as a service, once all others are there.
const SCRIPT: &str = include_str!("booted.sh");
const UNIT: &str = "[Unit]\nAfter=multi-user.target\n\n[Service]\nType=oneshot\nExecStart=/bin/sh /opt/booted.sh\n\
                    StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n";
/// What it says last, and what if all was right.
const ENDED: &str = "ended with ";
const RIGHT: &str = "ended with 0";
/// How long that may take: processors are emulated.
const LIMIT: Duration = Duration::from_secs(900);

/// Folders of the Debian that nothing here reads.
const LEFT_OUT: [&str; 6] = [
    "boot",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
];
/// What would wait for a terminal or a network.
const MASKED: [&str; 3] = [
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service",
];

/// Boots `debian`, which has systemd and not the package, with the package and the software GPU in it, and runs the script.
pub fn check(artifacts: &Artifacts, debian: &Path, package: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let initrd = scratch.path().join("initrd");
    let mut archive = Initrd::new(BufWriter::new(File::create(&initrd)?));
    add_folder(&mut archive, debian, debian)?;
    for name in MASKED {
        archive.symlink(&format!("/etc/systemd/system/{name}"), "/dev/null")?;
    }
    archive.file("/etc/systemd/system/booted.service", 0o644, UNIT.as_bytes())?;
    archive.symlink(
        "/etc/systemd/system/multi-user.target.wants/booted.service",
        "../booted.service",
    )?;
    archive.file("/opt/booted.sh", 0o644, SCRIPT.as_bytes())?;
    archive.copy("/opt/vgpu.deb", 0o644, package)?;
    archive.copy("/opt/vadd", 0o755, &artifacts.program("vadd"))?;
    for (folder, libraries) in [
        ("/opt/softgpu", artifacts.softgpu_lib_dir()),
        ("/opt/guest", artifacts.guest_lib_dir()),
    ] {
        for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
            archive.copy(&format!("{folder}/{name}"), 0o755, &libraries.join(name))?;
        }
    }
    archive.finish()?.flush()?;
    let mut vm = Vm::builder(artifacts, "booted")
        .accel(Accel::Tcg)
        .memory_mib(2048)
        .initrd(&initrd)
        .kernel_word("rdinit=/sbin/init")
        .kernel_word("loglevel=4")
        .kernel_word("systemd.show_status=no")
        .spawn()?;
    let ended = vm.wait_for_line(ENDED, LIMIT);
    let right = matches!(&ended, Ok(line) if line == RIGHT);
    ensure!(
        right,
        "in the Debian that booted, {}:\n{}",
        ended.unwrap_or_else(|error| error.to_string()),
        vm.console().join("\n")
    );
    Ok(())
}

fn add_folder<W: Write>(archive: &mut Initrd<W>, root: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.strip_prefix(root)?;
        if LEFT_OUT.iter().any(|left_out| name == Path::new(left_out)) {
            continue;
        }
        let name = name.display().to_string();
        let meta = fs::symlink_metadata(&path)?;
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            archive.symlink(&name, &fs::read_link(&path)?.to_string_lossy())?;
        } else if meta.is_dir() {
            archive.folder(&name, mode)?;
            add_folder(archive, root, &path)?;
        } else if meta.is_file() {
            archive.copy(&name, mode, &path)?;
        }
    }
    Ok(())
}
