//! Debian packages of ours: a tree of files, and texts for dpkg.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::util::{capture, files_below};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What dpkg runs, of the texts.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// What dpkg reads and runs.
pub struct Texts<'a> {
    /// Where they are.
    pub folder: PathBuf,
    pub names: &'a [&'a str],
    /// What is put in the place of names in them, besides `@VERSION@` and `@SIZE@`.
    pub values: Vec<(&'a str, String)>,
}

/// What a package's file is called where it is handed out.
pub fn file_name(package: &str) -> String {
    format!("{package}_{VERSION}_amd64.deb")
}

/// Packs what lies below `root`; what of it lies in `/etc` is the operator's to change.
pub fn pack(root: &Path, texts: &Texts<'_>, package: &Path) -> Result<()> {
    add_control(root, texts)?;
    open_folders(root)?;
    let new = package.with_extension("new");
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--build", "--root-owner-group", "-Zxz"]);
    capture(pack.arg(root).arg(&new))?;
    Ok(fs::rename(new, package)?)
}

fn add_control(root: &Path, texts: &Texts<'_>) -> Result<()> {
    let installed = files_below(root, &|_| true)?;
    let bytes = installed
        .iter()
        .map(|path| fs::symlink_metadata(path).map(|meta| meta.len()))
        .sum::<std::io::Result<u64>>()?;
    let own = [
        ("@VERSION@", VERSION.to_owned()),
        ("@SIZE@", bytes.div_ceil(1024).to_string()),
    ];
    let control = root.join("DEBIAN");
    fs::create_dir(&control)?;
    for name in texts.names {
        let mut text = fs::read_to_string(texts.folder.join(name))?;
        for (key, value) in own.iter().chain(&texts.values) {
            text = text.replace(key, value);
        }
        // A name of a value, not that of an instance of a unit.
        if text.split('@').skip(1).any(is_name) {
            bail!("{name} asks for a value that is not known:\n{text}");
        }
        let path = control.join(name);
        fs::write(&path, text)?;
        set_mode(&path, if SCRIPTS.contains(name) { 0o755 } else { 0o644 })?;
    }
    let mut conffiles = String::new();
    for path in installed.iter().filter_map(|path| path.strip_prefix(root).ok()) {
        if path.starts_with("etc") {
            conffiles += &format!("/{}\n", path.display());
        }
    }
    fs::write(control.join("conffiles"), conffiles)?;
    set_mode(&control.join("conffiles"), 0o644)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase())
}

/// A copy that every user can read, whatever the original's mode.
pub fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    set_mode(to, 0o644)
}

/// The same of a script that is run.
pub fn put_script(from: &Path, to: &Path) -> Result<()> {
    put(from, to)?;
    set_mode(to, 0o755)
}

/// The same of a program, without what only a debugger reads.
pub fn put_program(from: &Path, to: &Path) -> Result<()> {
    put_script(from, to)?;
    capture(Command::new("strip").arg("--strip-unneeded").arg(to)).map(drop)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Lets every user look into all folders, whatever the mask of who builds.
fn open_folders(folder: &Path) -> Result<()> {
    set_mode(folder, 0o755)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}
