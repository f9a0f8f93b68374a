//! One archive with everything that runs, for a host that has an NVIDIA driver and no network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use vgpu_vm::Artifacts;

use crate::build::{self, Profile};
use crate::guest_package;
use crate::util::{Layout, capture, files_below, progress};

const NAME: &str = "vgpu-bundle";
/// What the archive may have at most.
const BYTES_MAX: u64 = 64 << 20;

/// The bundle's only command: the harness, which finds the rest beside itself.
const RUN: &str = r#"#!/bin/sh
# ./run demo        two virtual machines of different priority on this machine's GPU
# ./run gpu-tests   everything that must hold, in at most eight minutes
# ./run gpu-tests sched   what the scheduler is measured by; sched:levels and the like are its parts
# ./run compat      this machine's CUDA programs beside the native library; compat/README.md
# Run as root, so that each service gets a user of its own.
# Virtual machines of your own get vgpu-guest_*.deb, which lies beside this.
exec "$(dirname "$(readlink -f "$0")")/bin/vgpu-harness" "$@"
"#;

/// Folders of the artifacts whose files are programs or libraries of ours, which go without debug data.
const OURS: [&str; 3] = ["bin", "lib", "programs"];

pub fn run(layout: &Layout) -> Result<()> {
    let artifacts = build::everything(layout, Profile::Release)?;
    let dist = layout.root.join("dist");
    fs::create_dir_all(&dist)?;
    let archive = dist.join(format!("{NAME}.tar.xz"));
    progress("packing the bundle", || {
        let scratch = tempfile::tempdir_in(&dist)?;
        let folder = scratch.path().join(NAME);
        fill(&folder, &artifacts)?;
        let packed = scratch.path().join("archive");
        let mut tar = Command::new("tar");
        tar.env("XZ_OPT", "-6 -T0")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
        capture(
            tar.arg("-cJf")
                .arg(&packed)
                .arg("-C")
                .arg(scratch.path())
                .arg(NAME),
        )?;
        Ok(fs::rename(packed, &archive)?)
    })?;
    let bytes = fs::metadata(&archive)?.len();
    println!(
        "{} ({:.1} MiB)",
        archive.display(),
        bytes as f64 / f64::from(1 << 20)
    );
    if bytes > BYTES_MAX {
        bail!("the bundle is larger than {} MiB", BYTES_MAX >> 20);
    }
    Ok(())
}

/// Lays out what the archive holds.
fn fill(folder: &Path, artifacts: &Artifacts) -> Result<()> {
    fs::create_dir(folder)?;
    // Ours have links beside what they lead to, the others may lead anywhere.
    let parts = ["boot", "compat", "qemu"].map(|name| ("-rL", name));
    for (how, name) in parts.into_iter().chain(OURS.map(|name| ("-rH", name))) {
        capture(
            Command::new("cp")
                .arg(how)
                .arg(artifacts.root().join(name))
                .arg(folder),
        )?;
    }
    fs::remove_file(folder.join("boot").join(build::BARE_INITRAMFS))?;
    fs::copy(
        artifacts.guest_package(),
        folder.join(guest_package::file_name_in_full()),
    )?;
    for name in OURS {
        for file in files_below(&folder.join(name), &|path| !path.is_symlink())? {
            capture(Command::new("strip").arg("--strip-unneeded").arg(file))?;
        }
    }
    write_script(&folder.join("run"))
}

fn write_script(path: &Path) -> Result<()> {
    fs::write(path, RUN)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
