//! Boots QEMU virtual machines with a virtio-vgpu device, and talks to their guests.
//!
//! ```no_run
//! use vgpu_vm::{Artifacts, Vm};
//!
//! # fn main() -> vgpu_vm::Result<()> {
//! let artifacts = Artifacts::from_env();
//! let mut vm = Vm::builder(&artifacts, "low")
//!     .memory_mib(512)
//!     .vhost_socket("/run/vgpu/low.sock")
//!     .boot()?;
//! let output = vm.run("uname -a")?;
//! assert!(output.success());
//!
//! let job = vm.start("sleep 1000")?;      // in the background
//! vm.run_as_root("killall sleep")?;
//! assert!(!vm.wait(job)?.success());
//!
//! vm.reset()?;                            // the guest boots again
//! # Ok(())
//! # }
//! ```
//!
//! A guest has two serial ports. The first is its console: the kernel's messages and what `/init` says
//! ([`Vm::console`], [`Vm::wait_for_line`], [`Vm::kernel_complaints`]). On the second, a small agent runs
//! one-line shell commands, several at a time, as the user `guest` or as root, and sends back their output
//! (standard output and error together) and exit status. Every wait has a limit and fails when it is
//! reached, when the guest's kernel panics and when QEMU ends.
//!
//! Nothing here needs privileges; [`Builder::user`] drops them for QEMU where this process has them.
//! The software that runs is named by [`Artifacts`].

mod artifacts;
mod error;
pub mod guest;
pub mod initrd;
pub mod process;
mod vm;
mod wire;

pub use artifacts::{ARTIFACTS_ENV, Artifacts};
pub use error::{Error, Result};
pub use vm::{ACCEL_ENV, Accel, Builder, COMMAND_BYTES_MAX, COMMAND_LIMIT, Job, Vm};
pub use wire::Output;
