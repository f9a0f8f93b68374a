//! The whole path with virtual machines: QEMU, the guest kernel's driver, the guest library, and the host's
//! services with the software GPU. The checks are those of `socket.rs`, and what only a VM can show.
use vgpu_tests::vm_checks::{self, Pair};
use vgpu_tests::{Gpu, Stack, VmSpec, boot, builder, checks};
use vgpu_vm::Artifacts;

fn stack(vms: &[VmSpec]) -> Stack {
    Stack::start(&Artifacts::from_env(), Gpu::Software, vms).unwrap()
}

#[test]
fn one_vm() {
    let stack = stack(&[VmSpec::LOW]);
    let mut vm = boot(&stack, 1, 768).unwrap();
    let result = checks::results_are_right(&mut vm)
        .and_then(|()| checks::runs_in_a_row(&stack, 1, &mut vm, 10))
        .and_then(|()| vm_checks::eight_processes_at_once_and_a_fault_beside_them(&stack, 1, &mut vm))
        .and_then(|()| vm_checks::the_drivers_interface_holds(&stack, 1, &mut vm))
        .and_then(|()| vm_checks::the_module_can_be_reloaded(&mut vm))
        .and_then(|()| vm_checks::no_complaints(&vm));
    vm_checks::hold(&stack, &[&vm], result);
}

/// The driver works with the newer guest kernel, too.
#[test]
fn a_newer_kernel() {
    let stack = stack(&[VmSpec::LOW]);
    let (kernel, initrd) = (
        stack.artifacts().newer_vmlinux(),
        stack.artifacts().newer_initramfs(),
    );
    let mut vm = builder(&stack, 1, 512)
        .kernel(kernel)
        .initrd(initrd)
        .boot()
        .unwrap();
    let result = vm_checks::the_drivers_interface_holds(&stack, 1, &mut vm)
        .and_then(|()| vm_checks::the_module_can_be_reloaded(&mut vm))
        .and_then(|()| vm_checks::no_complaints(&vm));
    vm_checks::hold(&stack, &[&vm], result);
}

#[test]
fn two_vms() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let mut pair = Pair::boot(&stack, (1, 2), 768).unwrap();
    let result = pair.all_checks(&stack);
    vm_checks::hold(&stack, &[&pair.one, &pair.other], result);
}

/// A quarter of a guest's memory; `gpu-tests` does it with a GiB.
#[test]
fn much_pinned_memory() {
    let stack = stack(&[VmSpec::LOW]);
    let mut vm = boot(&stack, 1, 768).unwrap();
    let result = vm_checks::pinned_memory_in_a_fresh_and_a_broken_up_guest(&stack, 1, &mut vm, 192)
        .and_then(|()| vm_checks::no_complaints(&vm));
    vm_checks::hold(&stack, &[&vm], result);
}

#[test]
fn a_dead_backend() {
    let mut stack = stack(&[VmSpec::LOW]);
    let builder = builder(&stack, 1, 512).kernel_word(vm_checks::SHORT_WATCH);
    let mut vm = builder.boot().unwrap();
    let result = vm_checks::a_dead_backend_is_replaced(&mut stack, 1, &mut vm)
        .and_then(|()| vm_checks::no_complaints(&vm));
    vm_checks::hold(&stack, &[&vm], result);
}
