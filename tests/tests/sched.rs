//! The measurements of the scheduler on the software GPU, in small: every program runs and finds its results right, and
//! what is stopped is exact. How fast anything is, is not looked at.
use vgpu_tests::Gpu;
use vgpu_tests::gpu_tests::{self, Part};
use vgpu_tests::sched_bench::Sub;
use vgpu_vm::Artifacts;

fn measure(sub: Sub) {
    let held = gpu_tests::run(&Artifacts::from_env(), Gpu::Software, &[Part::Sched(sub)], None).unwrap();
    assert!(held, "see what was printed");
}

#[test]
fn a_high_vm_beside_kernels_of_every_length() {
    measure(Sub::Levels);
}

#[test]
fn the_same_programs_without_services() {
    measure(Sub::Native);
}

#[test]
fn a_high_vm_calls_many_times_at_once() {
    measure(Sub::Burst);
}

#[test]
fn high_and_low_programs_in_vms() {
    measure(Sub::InVms);
}

#[test]
fn a_high_vm_beside_many_low_ones() {
    measure(Sub::Many);
}

#[test]
fn a_high_vm_beside_many_programs_of_one() {
    measure(Sub::OneVm);
}

#[test]
fn a_high_vm_beside_tenants_that_keep_the_driver_busy() {
    measure(Sub::Heavy);
}

#[test]
fn the_same_with_their_driver_calls_rationed() {
    measure(Sub::Rationed);
}

#[test]
fn three_busy_vms_in_a_weighted_pool() {
    measure(Sub::Weights);
}

#[test]
fn a_vm_that_calls_without_end_has_its_rate() {
    measure(Sub::Calls);
}

#[test]
fn a_vm_that_allocates_without_end_has_its_quota() {
    measure(Sub::Memory);
}

#[test]
fn a_kernel_without_end_is_ended_and_the_vm_goes_on() {
    measure(Sub::Endless);
}

#[test]
fn a_vm_that_queues_without_end_has_its_depth_in_flight() {
    measure(Sub::Queue);
}

#[test]
fn what_is_stopped_and_resumed_is_exact() {
    measure(Sub::Exact);
}
