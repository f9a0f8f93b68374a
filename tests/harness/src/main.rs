//! The demo and the GPU tests. `cargo xtask demo` runs the one; the bundle brings both to a host that has an
//! NVIDIA driver and nothing else.

mod demo;
mod report;
mod supervise;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use vgpu_tests::compat::{self, FOLDERS, InVm};
use vgpu_tests::{Gpu, gpu_tests};
use vgpu_vm::{ARTIFACTS_ENV, Artifacts};

#[derive(Parser)]
#[command(name = "vgpu-harness", version, about = "Demo and GPU tests of vgpu")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Map GPUs and VMs to pools, boot three virtual machines and run CUDA programs in all of them
    Demo,
    /// Check everything that must hold on this machine's GPU, and measure it
    GpuTests {
        /// Only these: socket, figures, latency, vm, answers or one of its programs, such as answers:t0_graph, sched or one of
        /// its parts, such as sched:levels; without one all but answers and sched
        parts: Vec<String>,
    },
    /// Compare this machine's CUDA programs with the native library: PyTorch, JAX, CuPy, NVIDIA's libraries, and what
    /// `--extra` names
    Compat(Compat),
}

#[derive(Args)]
struct Compat {
    /// Run them in a virtual machine, which has this machine's folders as its disks
    #[arg(long)]
    in_vm: bool,
    /// Folders that the virtual machine gets
    #[arg(long = "folder", value_name = "DIR", requires = "in_vm", default_values = FOLDERS)]
    folders: Vec<PathBuf>,
    /// The virtual machine's memory
    #[arg(long, value_name = "MIB", requires = "in_vm", default_value_t = 8192)]
    memory_mib: u32,
    /// Its processors
    #[arg(long, value_name = "COUNT", requires = "in_vm", default_value_t = 4)]
    cpus: u32,
    /// How long the programs may take in it
    #[arg(long, value_name = "SECONDS", requires = "in_vm", default_value_t = 1800)]
    within: u64,
    /// What run.py is told: see compat/README.md
    #[arg(last = true)]
    arguments: Vec<String>,
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

/// Checks everything on this machine's GPU; the parts are named as in [`gpu_tests::parts`]. Figures go to the folder that
/// `OUT` names, if there is one.
fn test_gpu(artifacts: &Artifacts, parts: &[String]) -> Result<()> {
    let folder = std::env::var_os("OUT").map(PathBuf::from);
    if !gpu_tests::run(artifacts, Gpu::detect()?, &gpu_tests::parts(parts)?, folder)? {
        bail!("not everything that must hold does");
    }
    Ok(())
}

/// Runs programs natively and over vgpu, here or in a virtual machine.
fn compare(artifacts: &Artifacts, options: Compat) -> Result<()> {
    let stack = compat::services(artifacts, Gpu::detect()?)?;
    let right = if options.in_vm {
        let how = InVm {
            folders: options.folders,
            memory_mib: options.memory_mib,
            cpus: options.cpus,
            within: Duration::from_secs(options.within),
        };
        let (text, right) = compat::in_a_vm(&stack, &how, &options.arguments)?;
        println!("{text}");
        right
    } else {
        compat::over_the_socket(&stack, &options.arguments)?
    };
    if !right {
        bail!("not every program found what it finds natively");
    }
    Ok(())
}

fn main() -> ExitCode {
    env_logger::init();
    let task = Cli::parse().command;
    if !supervise::is_supervised() {
        return supervise::run().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        });
    }
    let outcome = artifacts().and_then(|artifacts| match task {
        Task::Demo => demo::run(&artifacts),
        Task::GpuTests { parts } => test_gpu(&artifacts, &parts),
        Task::Compat(options) => compare(&artifacts, options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
