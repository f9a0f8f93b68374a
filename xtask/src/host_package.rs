//! The Debian package that makes a machine a host: the programs, their units, users and folders. Its texts are in
//! `host-package`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use vgpu_vm::Artifacts;

use crate::deb::{self, Texts, put, put_program, put_script};
use crate::util::{Layout, capture, capture_text, file_name, files_below};

const NAME: &str = "vgpu";

/// Programs for people and units.
const PROGRAMS: [&str; 4] = ["vgpud", "vgpu-backend", "vgpu-admin", "vgpu-panel"];
/// Started by a backend alone.
const EXECUTOR: &str = "vgpu-exec";
/// Files as they are, from the folder of the package's texts to where they are installed.
const FILES: [(&str, &str); 8] = [
    ("vgpud.service", "usr/lib/systemd/system/vgpud.service"),
    (
        "vgpu-backend@.service",
        "usr/lib/systemd/system/vgpu-backend@.service",
    ),
    ("vgpu-panel.service", "usr/lib/systemd/system/vgpu-panel.service"),
    ("sysusers.conf", "usr/lib/sysusers.d/vgpu.conf"),
    ("tmpfiles.conf", "usr/lib/tmpfiles.d/vgpu.conf"),
    ("modprobe.conf", "usr/lib/modprobe.d/vgpu.conf"),
    ("mps.conf", "usr/share/doc/vgpu/examples/mps.conf"),
    ("copyright", "usr/share/doc/vgpu/copyright"),
];
/// What libvirt runs, in its folder for such.
const HOOK: (&str, &str) = ("libvirt-hook", "etc/libvirt/hooks/qemu.d/vgpu");
/// The folder, in the tree, of what is handed out for Prometheus and Grafana, and where it is installed.
const MONITORING: (&str, &str) = ("monitoring", "usr/share/vgpu/monitoring");
/// A licence that Debian has no copy of, for beside the copyright.
const LICENCE: &str = "MIT.txt";

/// What the package's file is called where it is handed out.
pub fn file_name_in_full() -> String {
    deb::file_name(NAME)
}

/// Makes the package of the artifacts.
pub fn make(layout: &Layout, artifacts: &Artifacts, package: &Path) -> Result<()> {
    let scratch = tempfile::tempdir_in(&layout.target)?;
    let root = scratch.path().join("root");
    lay_out(layout, artifacts, &root)?;
    let texts = Texts {
        folder: layout.root.join("host-package"),
        names: &["control", "postinst", "prerm", "postrm"],
        values: vec![("@LIBRARIES@", needed_libraries(&root, scratch.path())?)],
    };
    deb::pack(&root, &texts, package)
}

/// The files that it installs, below `root`.
fn lay_out(layout: &Layout, artifacts: &Artifacts, root: &Path) -> Result<()> {
    let texts = layout.root.join("host-package");
    for (from, to) in FILES {
        put(&texts.join(from), &root.join(to))?;
    }
    let (from, to) = HOOK;
    put_script(&texts.join(from), &root.join(to))?;
    let (from, to) = MONITORING;
    for file in files_below(&layout.root.join(from), &|_| true)? {
        put(&file, &root.join(to).join(file_name(&file)))?;
    }
    put(
        &layout.root.join("LICENSES").join(LICENCE),
        &root.join("usr/share/doc").join(NAME).join(LICENCE),
    )?;
    for name in PROGRAMS {
        put_program(&artifacts.bin(name), &root.join("usr/bin").join(name))?;
        add_manual(&artifacts.bin(name), root)?;
    }
    let executor = root.join("usr/libexec/vgpu").join(EXECUTOR);
    put_program(&artifacts.bin(EXECUTOR), &executor)
}

/// The program's manual pages, and its completions for shells, as it writes them itself.
fn add_manual(program: &Path, root: &Path) -> Result<()> {
    let written = tempfile::tempdir()?;
    capture(Command::new(program).arg("--write-manual").arg(written.path()))?;
    for file in files_below(written.path(), &|_| true)? {
        let name = file_name(&file).to_str().context("a name that is no text")?;
        let extension = file.extension().and_then(|end| end.to_str());
        match extension {
            Some("1") => {
                capture(Command::new("gzip").arg("-9n").arg(&file))?;
                let page = format!("{name}.gz");
                put(
                    &file.with_file_name(&page),
                    &root.join("usr/share/man/man1").join(&page),
                )?;
            }
            Some("bash") => {
                let folder = root.join("usr/share/bash-completion/completions");
                put(&file, &folder.join(name.trim_end_matches(".bash")))?;
            }
            Some("fish") => put(
                &file,
                &root.join("usr/share/fish/vendor_completions.d").join(name),
            )?,
            _ => put(&file, &root.join("usr/share/zsh/vendor-completions").join(name))?,
        }
    }
    Ok(())
}

/// Debian's packages of the libraries that the programs below `root` are linked to, as `Depends` has them.
fn needed_libraries(root: &Path, scratch: &Path) -> Result<String> {
    // It reads nothing of this, but wants it to be there.
    fs::create_dir(scratch.join("debian"))?;
    fs::write(scratch.join("debian/control"), format!("Source: {NAME}\n"))?;
    let mut find = Command::new("dpkg-shlibdeps");
    find.current_dir(scratch).arg("-O");
    for folder in ["usr/bin", "usr/libexec"] {
        find.args(files_below(&root.join(folder), &|_| true)?);
    }
    let found = capture_text(&mut find)?;
    let needed = found.trim().strip_prefix("shlibs:Depends=");
    Ok(needed.context("dpkg-shlibdeps names no libraries")?.to_owned())
}
