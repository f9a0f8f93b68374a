//! The guest's kernel: Debian's cloud kernel, its headers, and our module built against them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::fetch::Apt;
use crate::util::{Layout, capture, copy_if_changed, file_name, files_below, is_newer, progress};

/// The guest kernels that the module is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Version {
    /// Debian 12's
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's, as Debian 12 has it in its backports
    #[value(name = "6.12")]
    V6_12,
}

impl Version {
    /// Its first two numbers.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["bookworm"],
            Self::V6_12 => &["bookworm", "bookworm-backports"],
        }
    }
}

/// An unpacked guest kernel.
pub struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// The ELF image, which QEMU starts through its PVH entry: faster than the compressed one.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The folder that modules are built in (`KDIR`).
    fn headers(&self) -> Result<PathBuf> {
        only_folder(&self.folder.join("usr/src"), &|name| {
            name.starts_with("linux-headers-") && name.ends_with("-cloud-amd64")
        })
    }

    /// The kernel's own module of this name, if it is not built in; may be compressed (`.ko.xz`).
    pub fn module(&self, name: &str) -> Result<Option<PathBuf>> {
        let names = [format!("{name}.ko"), format!("{name}.ko.xz")];
        let found = files_below(&self.folder.join("lib/modules"), &|path| {
            names.iter().any(|name| file_name(path) == name.as_str())
        })?;
        Ok(found.into_iter().next())
    }
}

fn only_folder(above: &Path, wanted: &impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(above).with_context(|| format!("cannot list {}", above.display()))?;
    let found = entries
        .flatten()
        .find(|entry| entry.file_name().to_str().is_some_and(wanted));
    Ok(found
        .with_context(|| format!("{} holds no such folder", above.display()))?
        .path())
}

/// Downloads and unpacks a guest kernel with its headers.
pub fn fetch(layout: &Layout, version: Version) -> Result<Kernel> {
    let name = format!("linux-{}-1", version.name());
    let what = format!(
        "fetching the guest kernel {} and its headers (about 40 MB)",
        version.name()
    );
    let folder = layout.cached(&name, &what, |folder| {
        let scratch = tempfile::tempdir_in(&layout.cache)?;
        let apt = Apt::open(&scratch.path().join("apt"), version.suites())?;
        let mut packages = apt.depends("linux-image-cloud-amd64")?;
        let headers = apt.depends("linux-headers-cloud-amd64")?;
        for package in &headers {
            // The compiler it also depends on is this machine's.
            let of_headers = apt.depends(package)?;
            packages.extend(
                of_headers
                    .into_iter()
                    .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-")),
            );
        }
        packages.extend(headers);
        apt.unpack(&packages, folder)?;
        let boot = folder.join("boot");
        let image = files_below(&boot, &|path| {
            file_name(path).to_string_lossy().starts_with("vmlinuz-")
        })?;
        let image = image.first().context("the package holds no kernel image")?;
        fs::write(folder.join("vmlinux"), elf_of_image(&fs::read(image)?)?)?;
        make_headers_relocatable(
            &Kernel {
                folder: folder.to_owned(),
            },
            folder,
        )
    })?;
    Ok(Kernel { folder })
}

/// The headers' Makefile includes another by its path when installed; they lie side by side here, too.
fn make_headers_relocatable(kernel: &Kernel, folder: &Path) -> Result<()> {
    let makefile = kernel.headers()?.join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    let changed = text.replace(
        "include /usr/src/",
        "include $(dir $(lastword $(MAKEFILE_LIST)))../",
    );
    if text == changed {
        bail!("{} is not as expected", makefile.strip_prefix(folder)?.display());
    }
    Ok(fs::write(makefile, changed)?)
}

/// How the compressors that Debian uses for kernels begin their output, and the programs that undo it.
const DECOMPRESSORS: [(&[u8], &str); 3] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
];

/// The ELF file inside a bootable image (x86 boot protocol: `setup_sects`, `payload_offset`,
/// `payload_length`). After the compressed data stands the size of what was compressed.
fn elf_of_image(image: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel image is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a bootable kernel image");
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload = image
        .get(start..start + word(0x24c)?)
        .context("the kernel image is cut off")?;
    let compressed = &payload[..payload.len().saturating_sub(4)];
    let known = |(magic, _): &&(&[u8], _)| compressed.starts_with(magic);
    let (_, program) = DECOMPRESSORS
        .iter()
        .find(known)
        .context("the kernel is compressed in an unknown way")?;
    let elf = decompress(program, compressed)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the kernel image holds no ELF file");
    }
    Ok(elf)
}

/// Decompresses with a program such as `xz`.
pub fn decompress(program: &str, compressed: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    std::thread::scope(|scope| {
        // A write that fails shows in the program's own exit status.
        scope.spawn(move || stdin.write_all(compressed));
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{program}: {}", output.status);
        }
        Ok(output.stdout)
    })
}

/// The driver's folder.
pub fn driver_folder(layout: &Layout) -> PathBuf {
    layout.root.join("guest-driver/kernel")
}

/// The files that the driver is built of.
pub fn sources(layout: &Layout) -> Result<Vec<PathBuf>> {
    let folder = driver_folder(layout);
    let is_source = |path: &Path| {
        let name = file_name(path).to_string_lossy();
        let is_named = ["Makefile", "Kbuild"].contains(&&*name);
        let is_code = name.ends_with(".c") || name.ends_with(".h");
        (is_named || is_code) && !path.starts_with(folder.join("tests"))
    };
    files_below(&folder, &is_source)
}

/// The driver's version, as `dkms.conf` has it.
pub fn module_version(layout: &Layout) -> Result<String> {
    let conf = fs::read_to_string(driver_folder(layout).join("dkms.conf"))?;
    let line = conf
        .lines()
        .find_map(|line| line.strip_prefix("PACKAGE_VERSION="));
    let version = line.context("dkms.conf names no PACKAGE_VERSION")?;
    Ok(version.trim_matches('"').to_owned())
}

/// Builds `vgpu.ko` for a guest kernel, in a copy of its sources: so several versions can be kept.
pub fn module(layout: &Layout, version: Version) -> Result<PathBuf> {
    let kernel = fetch(layout, version)?;
    let headers = kernel.headers()?;
    let folder = layout.target.join("module").join(version.name());
    let mut copies = Vec::new();
    for path in sources(layout)? {
        let copy = folder.join(path.strip_prefix(driver_folder(layout))?);
        copy_if_changed(&path, &copy)?;
        copies.push(copy);
    }
    let module = folder.join("vgpu.ko");
    if is_newer(&module, copies.iter().chain([&kernel.vmlinux()])) {
        return Ok(module);
    }
    progress(&format!("building vgpu.ko for Linux {}", version.name()), || {
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(&folder)
            .arg(format!("KDIR={}", headers.display()));
        // All warnings that the kernel's own build knows of for new code, and none of them is let through.
        make.args(["W=1", "KCFLAGS=-Werror", "KDOCFLAGS=-Werror"]);
        // Type information for the module would need the uncompressed kernel and another tool.
        capture(make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=")).map(drop)
    })?;
    if !module.exists() {
        bail!("make left no {}", module.display());
    }
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-driver/kernel")
    }

    /// Compiling the assertions is the test; a 32-bit compiler's own headers need not be there for it.
    #[test]
    fn the_interface_has_one_layout_for_32_and_64_bits() {
        for bits in ["-m32", "-m64"] {
            let mut gcc = Command::new("gcc");
            gcc.args([bits, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
                .args(["-isystem", "/usr/include/x86_64-linux-gnu", "-I"])
                .arg(driver().join("uapi"))
                .args(["-x", "c"])
                .arg(driver().join("tests/uapi_layout.h"));
            capture(&mut gcc).unwrap();
        }
    }

    #[test]
    fn dkms_and_the_module_have_one_version() {
        let version = module_version(&Layout::find().unwrap()).unwrap();
        let main = fs::read_to_string(driver().join("vgpu_main.c")).unwrap();
        assert!(
            main.contains(&format!("MODULE_VERSION(\"{version}\");")),
            "{version}"
        );
        let readme = fs::read_to_string(driver().join("README.md")).unwrap();
        let folder = format!("vgpu-{version}");
        assert!(readme.contains(&folder), "the README does not say {folder}");
    }
}
