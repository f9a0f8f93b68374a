//! The demo; its logic is in `vgpu-harness`, which the bundle has, too.

use std::process::Command;

use anyhow::Result;
use vgpu_vm::ARTIFACTS_ENV;

use crate::build::{self, Profile};
use crate::util::{Layout, run as run_command};

#[derive(clap::Args)]
pub struct Args {
    /// Arguments for `vgpu-harness demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    let artifacts = build::everything(layout, Profile::Dev)?;
    let mut demo = Command::new(artifacts.bin("vgpu-harness"));
    demo.env(ARTIFACTS_ENV, artifacts.root())
        .arg("demo")
        .args(&args.arguments);
    run_command(&mut demo)
}
