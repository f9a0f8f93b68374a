//! Every test: first those that need nothing built, then the whole path with virtual machines.

use anyhow::Result;
use vgpu_vm::ARTIFACTS_ENV;

use crate::build::{self, Profile, cargo};
use crate::util::{Layout, run as run_command};
use crate::{browser, dist, guest_package, initramfs};

/// The package whose tests boot virtual machines.
const WHOLE_SYSTEM: &str = "vgpu-tests";

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the whole-system tests
    #[arg(long)]
    fast: bool,
    /// Arguments for the whole-system tests, such as a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    let artifacts = build::everything(layout, Profile::Dev)?;
    initramfs::newer_guest(layout, &artifacts)?;
    guest_package::check(layout, &artifacts)?;
    dist::check(layout, &artifacts)?;
    let test = || {
        let mut command = cargo(layout);
        command.env(ARTIFACTS_ENV, artifacts.root()).arg("test");
        command
    };
    // All of them, so that one failure does not hide the next.
    let fast = run_command(test().args(["--workspace", "--exclude", WHOLE_SYSTEM, "--no-fail-fast"]));
    if args.fast {
        return fast;
    }
    browser::fetch(layout, &artifacts)?;
    let whole = run_command(
        test()
            .args(["--package", WHOLE_SYSTEM, "--no-fail-fast", "--"])
            .args(&args.arguments),
    );
    fast.and(whole)
}
