//! The whole path with virtual machines: QEMU, the guest kernel's driver, the guest library, and the host's
//! services with the software GPU. The checks are those of `socket.rs`, and what only a VM can show.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vgpu_tests::compat::{self, InVm};
use vgpu_tests::vm_checks::{self, Pair};
use vgpu_tests::{Gpu, Host, Stack, VmSpec, boot, builder, checks, lifecycle, reasons, visible};
use vgpu_vm::Artifacts;

fn stack(vms: &[VmSpec]) -> Stack {
    Stack::start(&Artifacts::from_env(), Gpu::Software, vms).unwrap()
}

#[test]
fn one_vm() {
    let stack = stack(&[VmSpec::LOW]);
    let mut vm = boot(&stack, 1, 768).unwrap();
    let result = checks::results_are_right(&mut vm)
        .and_then(|()| vm_checks::the_library_is_found_where_the_package_puts_it(&mut vm))
        .and_then(|()| checks::runtime_programs_are_right(&mut vm))
        .and_then(|()| checks::runs_in_a_row(&stack, 1, &mut vm, 10))
        .and_then(|()| vm_checks::eight_processes_at_once_and_a_fault_beside_them(&stack, 1, &mut vm))
        .and_then(|()| vm_checks::the_drivers_interface_holds(&stack, 1, &mut vm))
        .and_then(|()| vm_checks::the_module_can_be_reloaded(&mut vm))
        .and_then(|()| vm_checks::no_complaints(&vm));
    vm_checks::hold(&stack, &[&vm], result);
}

/// The host refuses to map memory, or to take it back, or dies of it.
#[test]
fn a_host_that_refuses() {
    let mut stack = stack(&[VmSpec::LOW]);
    let executor = Path::new(env!("CARGO_BIN_EXE_refusing-exec"));
    vm_checks::replace_executor(&mut stack, 1, executor).unwrap();
    let mut vm = boot(&stack, 1, 512).unwrap();
    let result = vm_checks::what_the_host_refuses_is_kept(&stack, 1, &mut vm)
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
fn a_vm_with_two_gpus() {
    let stack = visible::two_gpus(&Artifacts::from_env(), 1).unwrap();
    let mut vm = boot(&stack, 1, 512).unwrap();
    let result = visible::a_program_sees_the_gpus_that_it_asks_for(&stack, &mut vm)
        .and_then(|()| visible::processes_with_a_gpu_each_do_not_wait(&stack, 1, &mut vm))
        .and_then(|()| visible::why_there_is_no_gpu_is_told_to_who_wants_one(&stack, 1, &mut vm))
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

/// What is installed on this machine, Python and programs, runs in a VM as it is, and finds what it finds natively.
#[test]
fn this_machines_programs_run_in_a_vm() {
    let stack = stack(&[VmSpec::LOW]);
    let ask = "import os, sys, sysconfig; print(os.path.dirname(os.path.realpath(sys.executable)), sysconfig.get_path('stdlib'), sep='\\n')";
    let output = Command::new("python3").args(["-c", ask]).output().unwrap();
    let of_python = String::from_utf8(output.stdout).unwrap();
    let programs = stack.artifacts().programs_dir();
    let mut folders: Vec<PathBuf> = of_python.lines().map(PathBuf::from).collect();
    folders.extend(["/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"].map(PathBuf::from));
    folders.push(programs.clone());
    let how = InVm {
        folders,
        memory_mib: 768,
        cpus: 2,
        within: Duration::from_secs(300),
    };
    let programs = programs.to_str().unwrap();
    let arguments = [
        "--only-extra",
        "--extra",
        programs,
        "--only",
        "extra/vadd",
        "--only",
        "extra/saxpy",
    ];
    let (text, right) = compat::in_a_vm(&stack, &how, &arguments.map(str::to_owned)).unwrap();
    assert!(right, "{text}\n{}", stack.logs());
    assert!(text.contains("\n2 passed.\n"), "{text}");
}

/// How processes begin and end, and what they are told; the checks of `socket.rs`.
#[test]
fn processes_of_a_guest() {
    let stack = stack(&[VmSpec::LOW, VmSpec::OTHER_LOW]);
    let mut vm = boot(&stack, 1, 512).unwrap();
    let mut other = Host::new(&stack, 2);
    let result = lifecycle::processes_end_in_any_way(&stack, 1, &mut vm)
        .and_then(|()| lifecycle::the_library_can_be_closed_and_opened_again(&stack, 1, &mut vm))
        .and_then(|()| lifecycle::forked_processes_are_told(&stack, 1, &mut vm))
        .and_then(|()| lifecycle::a_childs_program_works_beside_its_parent(&stack, 1, &mut vm))
        .and_then(|()| lifecycle::a_session_does_not_outlive_its_process(&stack, 1, &mut vm))
        .and_then(|()| lifecycle::a_stopped_program_goes_on(&stack, 1, &mut vm, &mut other))
        .and_then(|()| lifecycle::what_is_short_is_told(&stack, 1, &mut vm))
        .and_then(|()| vm_checks::no_complaints(&vm));
    vm_checks::hold(&stack, &[&vm], result);
}

#[test]
fn why_there_is_no_device() {
    let mut stack = stack(&[VmSpec::LOW]);
    let builder = builder(&stack, 1, 512).kernel_word(vm_checks::SHORT_WATCH);
    let mut vm = builder.boot().unwrap();
    let result = reasons::the_hosts_refusals_are_told(&stack, 1, &mut vm)
        .and_then(|()| reasons::too_many_sessions_are_told(&mut vm))
        .and_then(|()| reasons::a_scheduler_that_is_gone_is_told(&mut stack, &mut vm))
        .and_then(|()| reasons::a_device_that_cannot_be_opened_is_told(&mut vm))
        .and_then(|()| reasons::a_host_that_is_gone_is_told(&mut stack, 1, &mut vm))
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
