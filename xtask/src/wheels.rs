//! Packages of Python's registry, downloaded and unpacked for what is in them: nothing of Python's own is used but `pip`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::util::{Layout, capture, files_below};

/// The system's Python, for which setup installs pip.
const PYTHON: &str = "/usr/bin/python3";

/// A package: its name, its version, and the SHA-256 of its x86-64 file.
pub type Wheel = (&'static str, &'static str, &'static str);

/// Downloads packages, which must be the very ones that are named, and unpacks them into a folder. Archives of Python's do
/// not keep which files are programs.
pub fn unpack(layout: &Layout, wheels: &[Wheel], into: &Path) -> Result<()> {
    let scratch = tempfile::tempdir_in(&layout.cache)?;
    let line = |&(name, version, hash): &Wheel| format!("{name}=={version} --hash=sha256:{hash}\n");
    let wanted = scratch.path().join("packages.txt");
    fs::write(&wanted, wheels.iter().map(line).collect::<String>())?;
    let mut pip = Command::new(PYTHON);
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]);
    capture(
        pip.arg("--dest")
            .arg(scratch.path())
            .arg("--requirement")
            .arg(&wanted),
    )?;
    let is_package = |path: &Path| path.extension().is_some_and(|end| end == "whl");
    for package in files_below(scratch.path(), &is_package)? {
        let mut unpack = Command::new(PYTHON);
        capture(unpack.args(["-m", "zipfile", "-e"]).arg(&package).arg(into))?;
    }
    Ok(())
}

/// Lets a file be run.
pub fn make_program(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
