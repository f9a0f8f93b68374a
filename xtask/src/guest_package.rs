//! The Debian package that makes a virtual machine a guest: libraries, the driver's source for DKMS, and what has both
//! found. Its texts are in `guest-driver/package`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use vgpu_vm::Artifacts;

use crate::build::{self, Profile};
use crate::deb::{self, Texts, put};
use crate::util::{Layout, capture, file_name, files_below, progress};
use crate::{debian, glibc, kernel};

const NAME: &str = "vgpu-guest";

/// Where the libraries lie: a folder of their own, which a container can be given as a whole.
const LIBRARIES: &str = "usr/lib/vgpu";
/// Where compilers look, too, which know nothing of that folder.
const TO_LINK: &str = "usr/lib/x86_64-linux-gnu";
/// The libraries, and Debian's packages of NVIDIA's, whose place they take. (Ubuntu's provide those names.)
const TAKES_PLACE_OF: [(&str, &str); 2] = [
    ("libcuda.so.1", "libcuda1"),
    ("libnvidia-ml.so.1", "libnvidia-ml1"),
];
/// Files as they are, from the folder of the package's texts or that of the driver, to where they are installed.
const FILES: [(&str, &str); 4] = [
    ("package/00-vgpu.conf", "etc/ld.so.conf.d/00-vgpu.conf"),
    ("package/modules-load.conf", "usr/lib/modules-load.d/vgpu.conf"),
    ("kernel/70-vgpu.rules", "usr/lib/udev/rules.d/70-vgpu.rules"),
    ("package/copyright", "usr/share/doc/vgpu-guest/copyright"),
];
/// Licences that Debian has no copy of, for beside the copyright.
const LICENCES: [&str; 2] = ["MIT.txt", "BSD-3-Clause.txt"];
#[derive(clap::Args)]
pub struct Args {
    /// Also install it in a fresh Debian, use it there, and remove it
    #[arg(long)]
    check: bool,
}

/// What the package's file is called where it is handed out.
pub fn file_name_in_full() -> String {
    deb::file_name(NAME)
}

pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    let artifacts = build::everything(layout, Profile::Release)?;
    let package = hand_out(layout, &artifacts)?;
    if args.check {
        check(layout, &artifacts)?;
    }
    println!("{}", package.display());
    Ok(())
}

/// Puts the artifacts' package where it is handed out.
pub fn hand_out(layout: &Layout, artifacts: &Artifacts) -> Result<PathBuf> {
    let dist = layout.root.join("dist");
    fs::create_dir_all(&dist)?;
    let package = dist.join(file_name_in_full());
    fs::copy(artifacts.guest_package(), &package)
        .with_context(|| format!("cannot write {}", package.display()))?;
    Ok(package)
}

/// Installs the artifacts' package in a fresh Debian and removes it again.
pub fn check(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    progress("installing the guest's package in a fresh Debian", || {
        debian::check_guest_package(layout, &artifacts.guest_package(), &artifacts.program("vadd"))
    })
}

/// Makes the package among the artifacts, whose libraries are built.
pub fn make(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    let scratch = tempfile::tempdir_in(&layout.target)?;
    let root = scratch.path().join("root");
    lay_out(layout, artifacts, &root)?;
    let provides: Vec<&str> = libraries(artifacts)?
        .iter()
        .map(|(_, package)| *package)
        .collect();
    let texts = Texts {
        folder: layout.root.join("guest-driver/package"),
        names: &["control", "triggers", "postinst", "prerm", "postrm"],
        values: vec![
            ("@MODULE@", kernel::module_version(layout)?),
            ("@GLIBC@", glibc::VERSION.to_owned()),
            ("@PROVIDES@", provides.join(", ")),
        ],
    };
    deb::pack(&root, &texts, &artifacts.guest_package())
}

/// The files that it installs, below `root`.
pub fn lay_out(layout: &Layout, artifacts: &Artifacts, root: &Path) -> Result<()> {
    let guest_driver = layout.root.join("guest-driver");
    for (from, to) in FILES {
        put(&guest_driver.join(from), &root.join(to))?;
    }
    for name in LICENCES {
        let to = root.join("usr/share/doc").join(NAME).join(name);
        put(&layout.root.join("LICENSES").join(name), &to)?;
    }
    for (name, _) in libraries(artifacts)? {
        let library = root.join(LIBRARIES).join(name);
        put(&artifacts.guest_lib_dir().join(name), &library)?;
        capture(Command::new("strip").arg("--strip-unneeded").arg(&library))?;
        symlink(name, unversioned(&library))?;
        let to_link = unversioned(&root.join(TO_LINK).join(name));
        fs::create_dir_all(to_link.with_file_name(""))?;
        symlink(Path::new("../vgpu").join(name), to_link)?;
    }
    let source = root.join(format!("usr/src/vgpu-{}", kernel::module_version(layout)?));
    let driver = kernel::driver_folder(layout);
    put(&driver.join("dkms.conf"), &source.join("dkms.conf"))?;
    for path in kernel::sources(layout)? {
        put(&path, &source.join(path.strip_prefix(&driver)?))?;
    }
    Ok(())
}

/// Beside a library its name without a version: what some programs load (cuDNN 8), as NVIDIA's driver has it.
pub fn unversioned(library: &Path) -> PathBuf {
    library.with_extension("")
}

/// The artifacts' libraries for guests, and what each takes the place of.
fn libraries(artifacts: &Artifacts) -> Result<Vec<(&'static str, &'static str)>> {
    let built = files_below(&artifacts.guest_lib_dir(), &|path| !path.is_symlink())?;
    let known = |path: &PathBuf| {
        let known = TAKES_PLACE_OF.iter().find(|(name, _)| file_name(path) == *name);
        known
            .copied()
            .with_context(|| format!("{} is no library that a guest has", path.display()))
    };
    built.iter().map(known).collect()
}
