//! The demo and the GPU tests. `cargo xtask demo` runs the one; the bundle brings both to a host that has an
//! NVIDIA driver and nothing else.

mod demo;
mod gpu_tests;
mod report;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use vgpu_tests::Stack;
use vgpu_vm::{ARTIFACTS_ENV, Artifacts, Vm};

#[derive(Parser)]
#[command(name = "vgpu-harness", version, about = "Demo and GPU tests of vgpu")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot two virtual machines of different priority and run CUDA programs in both
    Demo,
    /// Check everything that must hold on this machine's GPU
    GpuTests(gpu_tests::Args),
}

/// Where this program lies among the artifacts (`bin/`), unless the environment says otherwise.
fn artifacts() -> Result<Artifacts> {
    if std::env::var_os(ARTIFACTS_ENV).is_some() {
        return Ok(Artifacts::from_env());
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let root = program
        .ancestors()
        .nth(2)
        .context("this program lies in no artifacts folder")?;
    Ok(Artifacts::new(root))
}

/// Boots the VM that a backend of these services waits for, as the user the backend runs as.
fn boot(stack: &Stack, vm: u32, memory_mib: u32) -> Result<Vm> {
    let mut builder = Vm::builder(stack.artifacts(), format!("vm{vm}"))
        .memory_mib(memory_mib)
        .vhost_socket(stack.socket(vm));
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = stack.vm_user(vm);
        builder = builder.user(uid, gid);
    }
    builder
        .boot()
        .with_context(|| format!("VM {vm}\n{}", stack.logs()))
}

fn main() -> ExitCode {
    env_logger::init();
    let outcome = artifacts().and_then(|artifacts| match Cli::parse().command {
        Task::Demo => demo::run(&artifacts),
        Task::GpuTests(args) => gpu_tests::run(&artifacts, &args),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
