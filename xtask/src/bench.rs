//! How long an operator waits on a large host.

use anyhow::Result;
use vgpu_vm::ARTIFACTS_ENV;

use crate::browser;
use crate::build::{self, Profile, cargo};
use crate::util::{Layout, run as run_command};

pub fn run(layout: &Layout) -> Result<()> {
    let artifacts = build::everything(layout, Profile::Release)?;
    browser::fetch(layout, &artifacts)?;
    let mut bench = cargo(layout);
    bench.env(ARTIFACTS_ENV, artifacts.root());
    run_command(bench.args(["bench", "--package", "vgpu-tests", "--bench", "panel"]))
}
