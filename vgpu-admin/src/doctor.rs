//! Looks at this host, and says what is not as the services need it. What is seen is gathered in one place and judged in another,
//! which knows nothing but that.
mod facts;
mod findings;

use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What to look at.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The QEMU that is to run VMs
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// NVML, which tells of the GPUs; unless given, that of the vgpud that runs, or libnvidia-ml.so.1
    #[arg(long, value_name = "PATH")]
    libnvidia_ml: Option<PathBuf>,
    /// vgpud's state folder; unless given, that of the vgpud that runs, or /var/lib/vgpu
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The pool map's file; unless given, that of the vgpud that runs, or /etc/vgpu/pools.toml
    #[arg(long, value_name = "FILE")]
    pool_map: Option<PathBuf>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It could not be seen.
    Unseen,
    /// It works, but is weaker, slower, or not what was tried.
    Warning,
    /// Programs in VMs do not work with it, or tenants are not kept apart.
    Wrong,
}

/// What was found of a thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Looks at everything.
pub fn run(wanted: &Doctor, socket: &Path) -> Vec<Finding> {
    findings::examine(&facts::gather(wanted, socket))
}

/// Whether anything is wrong.
pub fn is_wrong(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Wrong)
}
