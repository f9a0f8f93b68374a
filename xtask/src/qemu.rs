//! A QEMU with the generic vhost-user device, which Debian 12's own does not have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::fetch::Apt;
use crate::util::{Layout, capture_text, file_name, files_below};

/// The suites it comes from; raise the number when the set of kept files changes.
const NAME: &str = "qemu-trixie-backports-1";
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// Firmware that a q35 machine started from an ELF kernel reads.
const FIRMWARE: [&str; 4] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"];

/// The folder with `bin/qemu-system-x86_64`, `lib/` (all its libraries, and the loader) and `share/`.
pub fn fetch(layout: &Layout) -> Result<PathBuf> {
    layout.cached(NAME, "fetching QEMU (about 40 MB)", |folder| {
        let scratch = tempfile::tempdir_in(&layout.cache)?;
        let unpacked = scratch.path().join("root");
        Apt::open(&scratch.path().join("apt"), &SUITES)?
            .unpack_with_dependencies("qemu-system-x86", &unpacked)?;
        keep_what_is_needed(&unpacked, folder)
    })
}

fn keep_what_is_needed(unpacked: &Path, folder: &Path) -> Result<()> {
    for name in ["bin", "lib", "share"] {
        fs::create_dir(folder.join(name))?;
    }
    let program = unpacked.join("usr/bin/qemu-system-x86_64");
    let libraries = unpacked.join("usr/lib/x86_64-linux-gnu");
    let loader = libraries.join("ld-linux-x86-64.so.2");
    fs::copy(&program, folder.join("bin/qemu-system-x86_64"))?;
    fs::copy(&loader, folder.join("lib/ld-linux-x86-64.so.2"))?;

    let listed = capture_text(
        Command::new(&loader)
            .arg("--library-path")
            .arg(&libraries)
            .arg("--list")
            .arg(&program),
    )?;
    for line in listed.lines() {
        // `name => path (address)`; the loader itself and the kernel's vdso have no arrow.
        let Some((name, rest)) = line.split_once(" => ") else {
            continue;
        };
        let path = Path::new(rest.split(" (").next().unwrap_or(rest));
        if !path.starts_with(unpacked) {
            bail!("QEMU would use {} of this machine", path.display());
        }
        let name = Path::new(name.trim());
        fs::copy(path, folder.join("lib").join(file_name(name)))
            .with_context(|| format!("cannot copy {}", path.display()))?;
    }
    let share = unpacked.join("usr/share");
    for name in FIRMWARE {
        let found = files_below(&share, &|path| file_name(path) == name)?;
        let path = found
            .first()
            .with_context(|| format!("the packages hold no {name}"))?;
        fs::copy(path, folder.join("share").join(name))?;
    }
    Ok(())
}
