//! Everything that is done with this repository, as `cargo xtask COMMAND`. Each command does the set-up it
//! needs by itself.

mod bench;
mod booted;
mod browser;
mod build;
mod bundle;
mod deb;
mod debian;
mod demo;
mod dist;
mod fetch;
mod glibc;
mod guest_package;
mod host_package;
mod initramfs;
mod kernel;
mod nvcc;
mod qemu;
mod setup;
mod test;
mod util;
mod vm;
mod wheels;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::build::Profile;
use crate::kernel::Version;
use crate::util::Layout;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, demo, test and bundle vgpu")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that building needs (also done by the other commands)
    Setup,
    /// Build everything that runs: host services, libraries, kernel module, guest programs, initramfs
    Build {
        /// Optimised
        #[arg(long)]
        release: bool,
    },
    /// Build vgpu.ko
    Module {
        /// The guest kernel to build against
        #[arg(long, value_enum, default_value_t = Version::V6_1)]
        kernel: Version,
    },
    /// Pack what a guest needs into one Debian package
    GuestPackage(guest_package::Args),
    /// Pack what a host needs into one Debian package, and put the guests' beside it
    Dist(dist::Args),
    /// Boot one virtual machine and hand its shell to this terminal
    Vm(vm::Args),
    /// Boot three virtual machines in two pools and run CUDA programs in them
    Demo(demo::Args),
    /// Run every test
    Test(test::Args),
    /// Measure how long an operator waits for the command line and the control panel on a large host
    Bench,
    /// Pack everything that runs into one archive for a host with an NVIDIA GPU
    Bundle,
}

fn run(task: Task) -> Result<()> {
    let layout = Layout::find()?;
    setup::install_missing(&setup::ALWAYS)?;
    match task {
        Task::Setup => Ok(()),
        Task::Build { release } => {
            let artifacts = build::everything(&layout, Profile::of(release))?;
            initramfs::newer_guest(&layout, &artifacts)?;
            println!("{}", artifacts.root().display());
            Ok(())
        }
        Task::Module { kernel } => {
            println!("{}", kernel::module(&layout, kernel)?.display());
            Ok(())
        }
        Task::GuestPackage(args) => guest_package::run(&layout, &args),
        Task::Dist(args) => dist::run(&layout, &args),
        Task::Vm(args) => vm::run(&layout, &args),
        Task::Demo(args) => demo::run(&layout, &args),
        Task::Test(args) => test::run(&layout, &args),
        Task::Bench => bench::run(&layout),
        Task::Bundle => bundle::run(&layout),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
