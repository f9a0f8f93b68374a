//! The Debian packages that building and testing need.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::util::{capture, progress};

/// A file that a package brings, and the package.
type Needed = (&'static str, &'static str);

/// What everything needs. What only the kernel's own build needs (bc, flex, …) is
/// not among them: the headers come with their tools built.
pub const ALWAYS: [Needed; 13] = [
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/g++", "g++"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/bin/make", "make"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/lz4", "lz4"),
    ("/usr/bin/pip3", "python3-pip"),
    ("/usr/bin/dpkg-shlibdeps", "dpkg-dev"),
    ("/sbin/mke2fs", "e2fsprogs"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// What tests of the panel's page need besides.
pub const FOR_BROWSER: [Needed; 1] = [("/usr/bin/chromium-headless-shell", "chromium-headless-shell")];

fn is_missing(file: &str, package: &str) -> bool {
    // The ordinary busybox package has the same file, but needs libraries.
    let wrong_busybox = package == "busybox-static" && !Path::new("/usr/share/doc/busybox-static").exists();
    wrong_busybox || !Path::new(file).exists()
}

/// Installs what is missing. Costs nothing when nothing is.
pub fn install_missing(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(file, package)| is_missing(file, package))
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if capture(Command::new("id").arg("-u"))? != b"0\n" {
        bail!("missing packages; install them first: apt-get install {packages}");
    }
    progress(&format!("installing {packages}"), || {
        capture(Command::new("apt-get").arg("update"))?;
        let mut install = Command::new("apt-get");
        install
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "--no-install-recommends"]);
        capture(install.args(&missing)).map(drop)
    })
}
