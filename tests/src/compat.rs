//! The programs of `tests/compat` beside the native library: in processes of this machine that reach the device directly,
//! or in a VM that has this machine's folders as its disks, so that what is installed here runs there as it is.
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vgpu_vm::Artifacts;

use crate::{Gpu, Stack, VmSpec, builder};

/// The VM whose GPU the programs use.
const VM: u32 = VmSpec::LOW.id;
/// What a VM gets of this machine unless told: where programs and Python's packages usually are.
pub const FOLDERS: [&str; 3] = ["/usr", "/etc", "/opt"];
/// How many times longer than natively a program may take in a VM, whose processor is emulated.
const LIMIT_FACTOR: &str = "60";
/// What the VM has beyond the programs' own time: to boot, to mount, and to tell.
const REST: Duration = Duration::from_secs(240);
/// As many disks as have names of one letter.
const DISKS_MAX: usize = 26;
/// Where the guest mounts this machine's folders.
const GUEST_ROOT: &str = "/host";

/// How the programs run in a VM.
#[derive(Clone, Debug)]
pub struct InVm {
    /// Folders of this machine that the VM gets, read-only, at the same paths.
    pub folders: Vec<PathBuf>,
    /// Its memory.
    pub memory_mib: u32,
    /// Its virtual CPUs.
    pub cpus: u32,
    /// How long all programs together may take in it.
    pub within: Duration,
}

/// Runs `run.py` with these arguments for a VM of `stack`, which has [`VmSpec::LOW`]; whether no program failed.
pub fn over_the_socket(stack: &Stack, arguments: &[String]) -> Result<bool> {
    let library = stack.artifacts().guest_lib_dir();
    let mut run = runner(&python()?, &stack.artifacts().compat_dir());
    run.arg("--vgpu-env")
        .arg(setting("VGPU_SOCKET", &stack.socket(VM)));
    run.arg("--vgpu-env").arg(setting("LD_LIBRARY_PATH", &library));
    native(stack, &mut run);
    Ok(run
        .args(arguments)
        .status()
        .context("cannot run python3")?
        .success())
}

/// Runs `run.py` with these arguments natively here, and over vgpu in a VM: what it printed there, and whether no program failed.
pub fn in_a_vm(stack: &Stack, how: &InVm, arguments: &[String]) -> Result<(String, bool)> {
    ensure!(
        how.folders.len() < DISKS_MAX,
        "{} folders: at most {} are expected",
        how.folders.len(),
        DISKS_MAX - 1
    );
    let own = stack.dir().join("compat");
    fs::create_dir(&own)?;
    // What the guest needs of ours, where the results are.
    copy(&stack.artifacts().compat_dir(), &own.join("programs"))?;
    copy(&stack.artifacts().guest_lib_dir(), &own.join("lib"))?;
    let python = python()?;
    let mut run = runner(&python, &own.join("programs"));
    run.arg("--only-native").arg("--keep").arg(own.join("native"));
    run.arg("--build").arg(own.join("built"));
    native(stack, &mut run);
    let status = run.args(arguments).status().context("cannot run python3")?;
    ensure!(status.success(), "the native runs: run.py ended with {status}");

    let images = stack.dir().join("images");
    fs::create_dir(&images)?;
    let mut folders = outermost(&how.folders)?;
    folders.push(own.clone());
    let mut booting = builder(stack, VM, how.memory_mib).smp(how.cpus);
    for (number, folder) in folders.iter().enumerate() {
        let image = images.join(number.to_string());
        make_image(folder, &image)?;
        booting = booting.disk(image);
    }
    let script = stack.dir().join("run-compat");
    fs::write(&script, guest_script(&python, &folders, &own, how, arguments)?)?;
    let mut vm = booting.file("/usr/libexec/run-compat", &script).boot()?;
    let job = vm.start_as("root", "/usr/libexec/run-compat")?;
    let output = vm.wait_for(job, how.within + REST)?;
    let right = output.success();
    Ok((output.text, right))
}

/// The Python that is called so here. What a shell finds may be a script that looks for it.
fn python() -> Result<String> {
    let ask = ["-c", "import sys; print(sys.executable)"];
    let output = Command::new("python3").args(ask).output();
    let output = output.context("cannot run python3")?;
    ensure!(output.status.success(), "python3 ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// `python3 run.py`.
fn runner(python: &str, programs: &Path) -> Command {
    let mut command = Command::new(python);
    // Where it lies others may not be able to write.
    command.arg("-B").arg(programs.join("run.py"));
    command
}

fn native(stack: &Stack, run: &mut Command) {
    if stack.gpu() == Gpu::Software {
        for (name, value) in stack.native_environment() {
            run.arg("--native-env").arg(format!("{name}={value}"));
        }
    }
}

fn setting(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-rH").args([from, to]).status()?;
    ensure!(status.success(), "cannot copy {}: {status}", from.display());
    Ok(())
}

/// The folders, resolved, without those within others of them.
fn outermost(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = BTreeSet::new();
    for folder in folders {
        let real = folder
            .canonicalize()
            .with_context(|| format!("cannot open {}", folder.display()))?;
        ensure!(real.is_dir(), "{}: a folder is expected", folder.display());
        all.insert(real);
    }
    let mut outer: Vec<PathBuf> = Vec::new();
    // In order, a folder comes before what is in it.
    for folder in all {
        if !outer.iter().any(|above| folder.starts_with(above)) {
            outer.push(folder);
        }
    }
    Ok(outer)
}

/// A file system with what is in a folder.
fn make_image(folder: &Path, image: &Path) -> Result<()> {
    let used = |how: &str| -> Result<u64> {
        let output = Command::new("du").args(["-s", how]).arg(folder).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
        number.with_context(|| format!("du does not say how much {} is", folder.display()))
    };
    let (kib, files) = (used("-k")?, used("--inodes")?);
    // The file is sparse: what is too much of it costs nothing.
    let kib = kib + kib / 4 + 4 * files + (64 << 10);
    let files = files + files / 8 + 1024;
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"])
        .args(["-N", &files.to_string(), "-d"])
        .args([folder, image])
        .arg(format!("{kib}k"))
        .output()
        .context("cannot run mke2fs, which Debian's and Ubuntu's e2fsprogs has")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("no image of {}: {said}", folder.display());
    }
    Ok(fs::set_permissions(image, fs::Permissions::from_mode(0o644))?)
}

/// What the guest does: this machine's folders and top-level links below one folder, and `run.py` in there.
fn guest_script(
    python: &str,
    folders: &[PathBuf],
    own: &Path,
    how: &InVm,
    arguments: &[String],
) -> Result<String> {
    let mut script =
        format!("#!/bin/sh\nset -e\nmkdir {GUEST_ROOT}\nmount -t tmpfs -o mode=755 tmpfs {GUEST_ROOT}\n");
    for folder in ["proc", "sys", "dev", "tmp"] {
        script += &format!("mkdir {GUEST_ROOT}/{folder}\nmount --bind /{folder} {GUEST_ROOT}/{folder}\n");
    }
    // As the rule of the guest's package has it.
    script += "ln -s vgpu /dev/nvidiactl\n";
    script += &format!("mount --bind /dev/shm {GUEST_ROOT}/dev/shm\n");
    for entry in fs::read_dir("/")?.flatten() {
        // Such as lib, which leads to usr/lib.
        if let Ok(target) = fs::read_link(entry.path()) {
            let link = entry.file_name();
            let link = Path::new(GUEST_ROOT).join(link);
            script += &format!("ln -s {} {}\n", quoted(&target)?, quoted(&link)?);
        }
    }
    for (folder, letter) in folders.iter().zip('a'..='z') {
        let at = quoted(Path::new(&format!("{GUEST_ROOT}{}", folder.display())))?;
        script += &format!("mkdir -p {at}\nmount -t ext4 -o ro /dev/vd{letter} {at}\n");
    }
    let mut words: Vec<String> = ["exec", "chroot", GUEST_ROOT, "/usr/bin/env", "-i", "HOME=/tmp"]
        .map(str::to_owned)
        .to_vec();
    for (name, default) in [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LD_LIBRARY_PATH", "")] {
        let value = std::env::var(name).unwrap_or_else(|_| default.to_owned());
        words.push(quoted(&format!("{name}={value}"))?);
    }
    words.extend([
        quoted(python)?,
        "-B".into(),
        quoted(&own.join("programs/run.py"))?,
    ]);
    words.extend([
        "--only-vgpu".into(),
        "--no-build".into(),
        "--keep".into(),
        "/tmp/over-vgpu".into(),
    ]);
    for (option, value) in [("--expected", own.join("native")), ("--build", own.join("built"))] {
        words.extend([option.into(), quoted(&value)?]);
    }
    let library = setting("LD_LIBRARY_PATH", &own.join("lib"));
    words.extend(["--vgpu-env".into(), quoted(&library)?]);
    words.extend(["--limit-factor".into(), LIMIT_FACTOR.into()]);
    words.extend(["--within".into(), how.within.as_secs().to_string()]);
    for argument in arguments {
        words.push(quoted(argument)?);
    }
    Ok(format!("{script}{}\n", words.join(" ")))
}

/// A word for a shell.
fn quoted(word: &(impl AsRef<OsStr> + ?Sized)) -> Result<String> {
    let word = word.as_ref();
    let text = word
        .to_str()
        .with_context(|| format!("{}: UTF-8 is expected", word.display()))?;
    Ok(shlex::try_quote(text)?.into_owned())
}

/// The services for the programs: one VM that has all of the machine's GPUs.
pub fn services(artifacts: &Artifacts, gpu: Gpu) -> Result<Stack> {
    Stack::start(artifacts, gpu, &[VmSpec::LOW])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_within_others_are_left_out() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        for folder in ["a/b", "ab"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let folders = ["a/b", "ab", "a", "a/../ab"].map(|name| root.join(name));
        assert_eq!(outermost(&folders).unwrap(), [root.join("a"), root.join("ab")]);
        assert!(
            outermost(&[root.join("c")])
                .unwrap_err()
                .to_string()
                .contains("/c")
        );
    }
}
