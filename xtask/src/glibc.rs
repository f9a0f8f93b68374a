//! The oldest C library that a guest may have: Debian 11's, which is Ubuntu 20.04's as well.
//!
//! A program that is linked to a C library asks for that one's newest versions of its functions, and then does not load
//! with an older one. So what runs in guests is linked to this one, whatever this machine has.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::fetch::Apt;
use crate::util::{Layout, links_below};

/// Its version; the tests hold the guest's libraries to it.
pub const VERSION: &str = "2.31";
/// The suite it comes from; raise the number when the set of packages changes.
const NAME: &str = "glibc-2.31-bullseye-1";
const SUITE: &str = "bullseye";
/// The library to run with and to link to, its headers, and the compiler's part that Rust's code needs to run.
const PACKAGES: [&str; 4] = ["libc6", "libc6-dev", "linux-libc-dev", "libgcc-s1"];

/// It, unpacked: what a compiler calls a sysroot.
pub struct Glibc {
    root: PathBuf,
}

/// Downloads and unpacks it.
pub fn fetch(layout: &Layout) -> Result<Glibc> {
    let what = format!("fetching the C library {VERSION} (about 7 MB)");
    let root = layout.cached(NAME, &what, |folder| {
        let scratch = tempfile::tempdir_in(&layout.cache)?;
        let apt = Apt::open(&scratch.path().join("apt"), &[SUITE])?;
        apt.unpack(&PACKAGES.map(str::to_owned), folder)?;
        fs::remove_dir_all(folder.join("usr/share"))?;
        make_links_relative(folder)?;
        let loader = Glibc::at(folder).libraries().join(format!("ld-{VERSION}.so"));
        if !loader.exists() {
            bail!("{SUITE} has another C library than {VERSION}");
        }
        Ok(())
    })?;
    Ok(Glibc::at(&root))
}

impl Glibc {
    fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The folder with the libraries and the loader.
    pub fn libraries(&self) -> PathBuf {
        self.root.join("lib/x86_64-linux-gnu")
    }

    /// What makes gcc use it. The root alone does not: the machine's own library lies beside the compiler's parts, where
    /// gcc looks first.
    pub fn gcc_arguments(&self) -> [String; 3] {
        let to_link = self.root.join("usr/lib/x86_64-linux-gnu");
        [
            format!("--sysroot={}", self.root.display()),
            format!("-B{}", to_link.display()),
            format!("-L{}", to_link.display()),
        ]
    }

    /// The same for rustc, which has gcc link.
    pub fn rustc_arguments(&self) -> [String; 3] {
        self.gcc_arguments()
            .map(|argument| format!("-Clink-arg={argument}"))
    }
}

/// Packages link to absolute paths, which would be this machine's; those that lead nowhere go.
fn make_links_relative(root: &Path) -> Result<()> {
    for link in links_below(root)? {
        if let Ok(target) = fs::read_link(&link)?.strip_prefix("/") {
            let above = link
                .parent()
                .context("a link is in a folder")?
                .strip_prefix(root)?;
            let up: PathBuf = above.components().map(|_| "..").collect();
            fs::remove_file(&link)?;
            std::os::unix::fs::symlink(up.join(target), &link)?;
        }
        if !link.exists() {
            fs::remove_file(&link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_and_lead_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("usr/lib")).unwrap();
        fs::create_dir(at("lib")).unwrap();
        fs::write(at("lib/libm.so.6"), "").unwrap();
        for (target, link) in [
            ("/lib/libm.so.6", "usr/lib/libm.so"),
            ("libm.so.6", "lib/beside"),
            ("/lib/gone.so", "usr/lib/gone.so"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        make_links_relative(folder.path()).unwrap();
        let target = |link: &str| fs::read_link(at(link)).ok();
        assert_eq!(target("usr/lib/libm.so"), Some("../../lib/libm.so.6".into()));
        assert_eq!(target("lib/beside"), Some("libm.so.6".into()));
        assert_eq!(target("usr/lib/gone.so"), None);
    }
}
