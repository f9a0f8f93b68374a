//! Where things lie, and how commands are run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The environment variable that moves the cache of downloads elsewhere.
const CACHE_ENV: &str = "VGPU_CACHE";

/// The folders this program works with.
pub struct Layout {
    /// The repository's root.
    pub root: PathBuf,
    /// Downloads, unpacked: kept when `target` is cleaned.
    pub cache: PathBuf,
    /// What cargo and this program build.
    pub target: PathBuf,
}

impl Layout {
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let from_env = |name: &str, default: &str| {
            std::env::var_os(name).map_or_else(|| root.join(default), |path| root.join(path))
        };
        let cache = from_env(CACHE_ENV, ".cache");
        let target = from_env("CARGO_TARGET_DIR", "target");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
        Ok(Self { root, cache, target })
    }

    /// `name` in the cache, made by `make` in a folder that gets its name only once it is complete. `what`
    /// is shown while it is made.
    pub fn cached(&self, name: &str, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.cache.join(name);
        if path.exists() {
            return Ok(path);
        }
        progress(what, || {
            let temporary = tempfile::Builder::new()
                .prefix("making-")
                .tempdir_in(&self.cache)?;
            make(temporary.path())?;
            open_to_all(temporary.path())?;
            match fs::rename(temporary.path(), &path) {
                // Somebody else made the same thing meanwhile.
                Err(_) if path.exists() => Ok(()),
                other => other.with_context(|| format!("cannot create {}", path.display())),
            }
        })?;
        Ok(path)
    }
}

/// Lets every user look into a folder.
fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Says what is being done, once it is done with the time it took.
pub fn progress<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what} ...");
    let start = Instant::now();
    let result = work().with_context(|| format!("{what} failed"))?;
    eprintln!("    done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// Runs a command with its output shown; an exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output; what it wrote is shown only when it fails.
pub fn capture(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&text)
        );
    }
    Ok(output.stdout)
}

/// The same for text.
pub fn capture_text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(capture(command)?)?)
}

/// Files below `root` (not folders; links as what they point to) for whose path `wanted` holds, sorted.
pub fn files_below(root: &Path, wanted: &impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(&path, wanted)?);
        } else if path.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Links below `root`.
pub fn links_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))? {
        let path = entry?.path();
        if path.is_symlink() {
            found.push(path);
        } else if path.is_dir() {
            found.extend(links_below(&path)?);
        }
    }
    Ok(found)
}

/// Has `link` point to `target`.
pub fn link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    // There may be none.
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(target, link).with_context(|| format!("cannot link {}", link.display()))
}

/// Copies a file, unless the copy already has its content (so that its date stays, and `make` does nothing).
pub fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, content).with_context(|| format!("cannot write {}", to.display()))
}

/// Puts a file into a folder that is being assembled, as a second name where that is possible.
pub fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::symlink_metadata(to).is_ok() {
        fs::remove_file(to)?;
    }
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot place {} at {}", from.display(), to.display()))
}

/// The file name of a path that has one.
pub fn file_name(path: &Path) -> &OsStr {
    path.file_name().expect("a path with a file name")
}

/// Whether `output` exists and was made after all `inputs`.
pub fn is_newer<'a>(output: &Path, mut inputs: impl Iterator<Item = &'a PathBuf>) -> bool {
    let date = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let made = date(output);
    made.is_some() && inputs.all(|input| date(input).is_some_and(|date| Some(date) <= made))
}
