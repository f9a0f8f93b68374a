//! Builds everything that runs, and lays it out as [`Artifacts`] describes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use vgpu_vm::Artifacts;

use crate::glibc::{self, Glibc};
use crate::initramfs::{self, Ours};
use crate::kernel::{self, Version};
use crate::nvcc::Nvcc;
use crate::util::{Layout, capture, copy_if_changed, files_below, is_newer, link, place, progress, run};
use crate::{guest_package, qemu};

/// The host programs.
const BINARIES: [&str; 6] = [
    "vgpud",
    "vgpu-admin",
    "vgpu-panel",
    "vgpu-backend",
    "vgpu-exec",
    "vgpu-harness",
];

/// What runs in guests: cargo's package, the file it makes, and the name that programs look for.
const GUEST_LIBRARIES: [(&str, &str, &str); 2] = [
    ("vgpu-libcuda", "libvgpu_cuda.so", "libcuda.so.1"),
    ("vgpu-nvml", "libvgpu_nvml.so", "libnvidia-ml.so.1"),
];

/// Where guests' libraries are built; with its name said, cargo keeps them apart from what is linked to this machine's
/// C library.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The file name of the initial file system without our software.
pub const BARE_INITRAMFS: &str = "initramfs-bare.cpio";

/// Of the programs in `tests/compat/cuda`, those that also run in a guest on the software GPU, as `rt_NAME`.
const RUNTIME_PROGRAMS: [&str; 7] = [
    "vadd",
    "reduce",
    "pinned",
    "registered",
    "symbols",
    "managed",
    "virtual_memory",
];

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

    /// What cargo is told of it.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
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
        build.args(["build", "--workspace"]).args(profile.arguments());
        for (package, ..) in GUEST_LIBRARIES {
            build.args(["--exclude", package]);
        }
        run(&mut build)
    })?;
    let glibc = glibc::fetch(layout)?;
    link(&glibc.libraries(), &artifacts.oldest_glibc_dir())?;
    link(&layout.root.join("tests/compat"), &artifacts.compat_dir())?;
    guest_libraries(layout, profile, &glibc, &artifacts)?;
    let built = layout.target.join(profile.folder());
    for name in BINARIES {
        place(&built.join(name), &artifacts.bin(name))?;
    }
    place(
        &built.join("libsoftgpu_cuda.so"),
        &artifacts.softgpu_lib_dir().join("libcuda.so.1"),
    )?;
    place(
        &built.join("libsoftgpu_nvml.so"),
        &artifacts.softgpu_lib_dir().join("libnvidia-ml.so.1"),
    )?;
    guest_package::make(layout, &artifacts)?;
    let mut programs = guest_programs(layout, &glibc, &artifacts)?;
    programs.extend(runtime_programs(layout, &glibc, &artifacts)?);
    let module = kernel::module(layout, Version::V6_1)?;
    let kernel = kernel::fetch(layout, Version::V6_1)?;
    let ours = Ours {
        module: &module,
        package: &artifacts.guest_package(),
        programs: &programs,
    };
    initramfs::write(&artifacts.initramfs(), &kernel, Some(&ours))?;
    Ok(artifacts)
}

/// Builds the guest's libraries, which also load with the oldest C library that a guest may have.
fn guest_libraries(layout: &Layout, profile: Profile, glibc: &Glibc, artifacts: &Artifacts) -> Result<()> {
    progress("building the guest's libraries", || {
        let mut build = cargo(layout);
        // Goes before whatever else may set flags, since it must not be lost; flags are parted by this character.
        build.env("CARGO_ENCODED_RUSTFLAGS", glibc.rustc_arguments().join("\x1f"));
        build
            .args(["build", "--target", GUEST_TARGET])
            .args(profile.arguments());
        for (package, ..) in GUEST_LIBRARIES {
            build.args(["--package", package]);
        }
        run(&mut build)
    })?;
    let built = layout.target.join(GUEST_TARGET).join(profile.folder());
    for (_, file, name) in GUEST_LIBRARIES {
        let library = artifacts.guest_lib_dir().join(name);
        place(&built.join(file), &library)?;
        link(Path::new(name), &guest_package::unversioned(&library))?;
    }
    Ok(())
}

/// The parts that are not ours: QEMU, the guest kernel, and a guest without our software in
/// `boot/initramfs-bare.cpio`.
pub fn system(layout: &Layout, profile: Profile) -> Result<Artifacts> {
    let qemu = qemu::fetch(layout)?;
    let kernel = kernel::fetch(layout, Version::V6_1)?;
    let artifacts = Artifacts::new(layout.target.join(profile.artifacts()));
    fs::create_dir_all(artifacts.root().join("boot"))?;
    link(&qemu, &artifacts.qemu_dir())?;
    copy_if_changed(&kernel.vmlinux(), &artifacts.vmlinux())?;
    initramfs::write(&bare_initramfs(&artifacts), &kernel, None)?;
    Ok(artifacts)
}

/// The initial file system without our software.
pub fn bare_initramfs(artifacts: &Artifacts) -> PathBuf {
    artifacts.initramfs().with_file_name(BARE_INITRAMFS)
}

/// Compiles the C programs of a guest: those that use CUDA, and the tests of the driver's own interface.
fn guest_programs(layout: &Layout, glibc: &Glibc, artifacts: &Artifacts) -> Result<Vec<PathBuf>> {
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
                compile(glibc, source, headers, &library, program)
            };
            outdated.iter().try_for_each(compile)
        })?;
    }
    Ok(programs)
}

/// Compiles the programs that use CUDA's runtime, with NVIDIA's compiler, as anybody's are.
fn runtime_programs(layout: &Layout, glibc: &Glibc, artifacts: &Artifacts) -> Result<Vec<PathBuf>> {
    let sources = layout.root.join("tests/compat/cuda");
    let header = sources.join("compat.h");
    let source = |name: &str| sources.join(name).with_extension("cu");
    let program = |name: &str| artifacts.program(&format!("rt_{name}"));
    let mut outdated = RUNTIME_PROGRAMS.to_vec();
    outdated.retain(|name| !is_newer(&program(name), [&source(name), &header].into_iter()));
    if !outdated.is_empty() {
        let nvcc = Nvcc::fetch(layout)?;
        progress("compiling the programs that use the CUDA runtime", || {
            outdated
                .iter()
                .try_for_each(|name| nvcc.compile(glibc, &source(name), &program(name)))
        })?;
    }
    Ok(RUNTIME_PROGRAMS.iter().map(|name| program(name)).collect())
}

/// Compiles a C program. It is linked to `libcuda.so.1` as any CUDA program is: which one it gets is decided
/// where it runs.
fn compile(glibc: &Glibc, source: &Path, headers: &Path, library: &Path, program: &Path) -> Result<()> {
    if let Some(folder) = program.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut gcc = Command::new("gcc");
    gcc.args(glibc.gcc_arguments());
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
