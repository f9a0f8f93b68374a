//! Builds everything that runs, and lays it out as [`Artifacts`] describes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use vgpu_vm::Artifacts;

use crate::initramfs::{self, Ours};
use crate::kernel::{self, Version};
use crate::qemu;
use crate::util::{Layout, capture, copy_if_changed, files_below, is_newer, place, progress, run};

/// The host programs.
const BINARIES: [&str; 5] = ["vgpud", "vgpu-admin", "vgpu-backend", "vgpu-exec", "vgpu-harness"];

/// The file name of the initial file system without our software.
pub const BARE_INITRAMFS: &str = "initramfs-bare.cpio";

/// How Rust code is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Dev,
    Release,
}

impl Profile {
    pub fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    /// The folder below `target` that cargo uses for it.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }

    fn artifacts(self) -> &'static str {
        match self {
            Self::Dev => "artifacts",
            Self::Release => "artifacts-release",
        }
    }
}

/// The command to run cargo in this workspace.
pub fn cargo(layout: &Layout) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&layout.root);
    command
}

/// Everything, ready to run.
pub fn everything(layout: &Layout, profile: Profile) -> Result<Artifacts> {
    let artifacts = system(layout, profile)?;
    progress("building the workspace", || {
        let mut build = cargo(layout);
        // Not quiet: this takes minutes the first time.
        build.args(["build", "--workspace"]);
        if profile == Profile::Release {
            build.arg("--release");
        }
        run(&mut build)
    })?;
    let built = layout.target.join(profile.folder());
    for name in BINARIES {
        place(&built.join(name), &artifacts.bin(name))?;
    }
    let libcuda = artifacts.guest_lib_dir().join("libcuda.so.1");
    place(&built.join("libvgpu_cuda.so"), &libcuda)?;
    place(
        &built.join("libsoftgpu_cuda.so"),
        &artifacts.softgpu_lib_dir().join("libcuda.so.1"),
    )?;
    place(
        &built.join("libsoftgpu_nvml.so"),
        &artifacts.softgpu_lib_dir().join("libnvidia-ml.so.1"),
    )?;
    let programs = guest_programs(layout, &artifacts)?;
    let module = kernel::module(layout, Version::V6_1)?;
    let kernel = kernel::fetch(layout, Version::V6_1)?;
    let ours = Ours {
        module: &module,
        libcuda: &libcuda,
        programs: &programs,
    };
    initramfs::write(&artifacts.initramfs(), &kernel, Some(&ours))?;
    Ok(artifacts)
}

/// The parts that are not ours: QEMU, the guest kernel, and a guest without our software in
/// `boot/initramfs-bare.cpio`.
pub fn system(layout: &Layout, profile: Profile) -> Result<Artifacts> {
    let qemu = qemu::fetch(layout)?;
    let kernel = kernel::fetch(layout, Version::V6_1)?;
    let artifacts = Artifacts::new(layout.target.join(profile.artifacts()));
    fs::create_dir_all(artifacts.root().join("boot"))?;
    let link = artifacts.qemu_dir();
    if !fs::read_link(&link).is_ok_and(|target| target == qemu) {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&qemu, &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
    }
    copy_if_changed(&kernel.vmlinux(), &artifacts.vmlinux())?;
    initramfs::write(&bare_initramfs(&artifacts), &kernel, None)?;
    Ok(artifacts)
}

/// The initial file system without our software.
pub fn bare_initramfs(artifacts: &Artifacts) -> PathBuf {
    artifacts.initramfs().with_file_name(BARE_INITRAMFS)
}

/// Compiles the C programs of a guest: those that use CUDA, and the tests of the driver's own interface.
fn guest_programs(layout: &Layout, artifacts: &Artifacts) -> Result<Vec<PathBuf>> {
    let library = artifacts.guest_lib_dir().join("libcuda.so.1");
    let mut programs = Vec::new();
    let mut outdated = Vec::new();
    for (sources, headers) in [
        ("tests/programs", "tests/programs"),
        ("guest-driver/kernel/tests", "guest-driver/kernel/uapi"),
    ] {
        let headers = layout.root.join(headers);
        let is = |wanted: &'static str| move |path: &Path| path.extension().is_some_and(|end| end == wanted);
        let mut inputs = files_below(&headers, &is("h"))?;
        inputs.extend(files_below(&layout.root.join(sources), &is("h"))?);
        inputs.extend(files_below(&layout.root.join("tests/kernels"), &is("ptx"))?);
        inputs.push(library.clone());
        for source in files_below(&layout.root.join(sources), &is("c"))? {
            let name = source.file_stem().expect("a source has a name");
            let program = artifacts.program(&name.to_string_lossy());
            if !is_newer(&program, inputs.iter().chain([&source])) {
                outdated.push((source, headers.clone(), program.clone()));
            }
            programs.push(program);
        }
    }
    if !outdated.is_empty() {
        progress("compiling the guest programs", || {
            let compile = |(source, headers, program): &(PathBuf, PathBuf, PathBuf)| {
                compile(source, headers, &library, program)
            };
            outdated.iter().try_for_each(compile)
        })?;
    }
    Ok(programs)
}

/// Compiles a C program. It is linked to `libcuda.so.1` as any CUDA program is: which one it gets is decided
/// where it runs.
fn compile(source: &Path, headers: &Path, library: &Path, program: &Path) -> Result<()> {
    if let Some(folder) = program.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-std=gnu11",
        "-O2",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        "-o",
    ]);
    gcc.arg(program)
        .arg(source)
        .arg("-I")
        .arg(headers)
        .args(["-Wl,--as-needed"])
        .arg(library);
    // What libcuda itself needs is found where the program runs.
    capture(gcc.args(["-ldl", "-lm", "-Wl,--allow-shlib-undefined"])).map(drop)
}
