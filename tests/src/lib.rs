//! What the whole-system tests, the demo and the GPU tests share: the host's services, started together and
//! ended together.
pub mod browser;
pub mod checks;
pub mod compat;
pub mod crowd;
pub mod gpu_tests;
pub mod hostile;
pub mod lifecycle;
pub mod machine;
pub mod reasons;
pub mod same;
pub mod sched_bench;
pub mod stack;
pub mod visible;
pub mod vm_checks;

pub use machine::{Host, Machine};
pub use stack::{Gpu, Stack, VmSpec};

/// Boots a VM whose GPU is that of the stack's VM with this number.
pub fn boot(stack: &Stack, vm: u32, memory_mib: u32) -> anyhow::Result<vgpu_vm::Vm> {
    Ok(builder(stack, vm, memory_mib).boot()?)
}

/// What [`boot`] boots, for more to be said of it.
pub fn builder(stack: &Stack, vm: u32, memory_mib: u32) -> vgpu_vm::Builder {
    let mut builder = vgpu_vm::Vm::builder(stack.artifacts(), format!("vm{vm}"))
        .memory_mib(memory_mib)
        .vhost_socket(stack.socket(vm));
    if rustix::process::geteuid().is_root() {
        let (user, group) = stack.vm_user(vm);
        builder = builder.user(user, group);
    }
    builder
}
