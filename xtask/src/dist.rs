//! What is handed out for Debian: a package for hosts and one for guests.

use std::fs;
use std::path::Path;

use anyhow::Result;
use vgpu_vm::Artifacts;

use crate::build::{self, Profile};
use crate::util::{Layout, progress};
use crate::{booted, debian, guest_package, host_package};

#[derive(clap::Args)]
pub struct Args {
    /// Also install each in a fresh Debian, use it there, and remove it
    #[arg(long)]
    check: bool,
}

pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    let artifacts = build::everything(layout, Profile::Release)?;
    let dist = layout.root.join("dist");
    fs::create_dir_all(&dist)?;
    let host = dist.join(host_package::file_name_in_full());
    progress("packing the host's package", || {
        host_package::make(layout, &artifacts, &host)
    })?;
    let guest = guest_package::hand_out(layout, &artifacts)?;
    if args.check {
        check_host(layout, &artifacts, &host)?;
        guest_package::check(layout, &artifacts)?;
    }
    println!("{}\n{}", host.display(), guest.display());
    Ok(())
}

/// Makes the host's package of the artifacts and checks it, without handing it out.
pub fn check(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    let scratch = tempfile::tempdir_in(&layout.target)?;
    let package = scratch.path().join(host_package::file_name_in_full());
    progress("packing the host's package", || {
        host_package::make(layout, artifacts, &package)
    })?;
    check_host(layout, artifacts, &package)
}

/// Installs the host's package in a fresh Debian and removes it again, and does the same in one that has booted, where its
/// services run.
fn check_host(layout: &Layout, artifacts: &Artifacts, package: &Path) -> Result<()> {
    progress("installing the host's package in a fresh Debian", || {
        debian::check_host_package(layout, package)
    })?;
    progress("running the host's package in a Debian that boots", || {
        booted::check(artifacts, &debian::with_systemd(layout)?, package)
    })
}
