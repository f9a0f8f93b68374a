//! Why a program gets no GPU: one line says so, once in a process, and each cause has its own.
use anyhow::{Context, Result, ensure};
use vgpu_sched_api::messages::{Answer, Change, Request};
use vgpu_vm::Vm;

use crate::{Machine, Stack};

/// Starts CUDA twice in one process: it gives that code both times and says one line, with these words in it.
fn told<M: Machine>(machine: &mut M, code: &str, words: &str) -> Result<()> {
    let output = machine.run("starts")?;
    let (said, codes): (Vec<&str>, Vec<&str>) =
        output.text.lines().partition(|line| line.starts_with("vgpu: "));
    ensure!(
        codes == vec![format!("starts: {code}"); 2] && said.len() == 1 && said[0].contains(words),
        "wanted {code}, {words:?}: {}",
        output.text
    );
    Ok(())
}

const NO_DEVICE: &str = "CUDA_ERROR_NO_DEVICE";

fn asked(stack: &Stack, request: &Request) -> Result<()> {
    let answer = stack.ask(request)?;
    ensure!(
        !matches!(answer, Answer::Refused { .. }),
        "{request:?}: {answer:?}"
    );
    Ok(())
}

fn changed(stack: &Stack, change: Change) -> Result<()> {
    asked(stack, &Request::Change(change.into()))
}

fn map(stack: &Stack, pool: &str) -> Result<()> {
    std::fs::write(stack.pool_map(), pool).context("cannot write the pool map")?;
    changed(stack, Change::Reload {})
}

/// What the host refuses, by its causes; its one GPU is a software GPU.
pub fn the_hosts_refusals_are_told<M: Machine>(stack: &Stack, vm: u32, machine: &mut M) -> Result<()> {
    let before = std::fs::read_to_string(stack.pool_map())?;
    let vms = vm.to_string();
    for (seconds, words) in [
        (None, "in quarantine, until its operator releases it"),
        (Some(3600), "more seconds"),
    ] {
        let quarantine = Change::Quarantine {
            vms: vms.clone(),
            why: "a test".into(),
            seconds,
        };
        changed(stack, quarantine)?;
        told(machine, NO_DEVICE, words)?;
        changed(stack, Change::Release { vms: vms.clone() })?;
    }
    machine.must("vadd")?;
    // The software GPU's own way to fall off its bus.
    let lost = stack.dir().join("softgpu/lost-0");
    std::fs::write(&lost, "").context("cannot lose the GPU")?;
    asked(stack, &Request::Scan)?;
    told(
        machine,
        NO_DEVICE,
        "none of the GPUs that the host has for this VM works",
    )?;
    std::fs::remove_file(lost)?;
    asked(stack, &Request::Scan)?;
    map(
        stack,
        &format!(
            "[[pool]]\nname = \"A\"\ngpus = [\"all\"]\nvms = [\"{}\"]\n",
            vm + 1
        ),
    )?;
    told(machine, NO_DEVICE, "mapped this VM to no GPU")?;
    map(stack, &before)?;
    // A backend whose VM was in no pool asks again from time to time.
    let works = std::cell::RefCell::new(machine);
    stack.until("the VM works again", |_| {
        works
            .borrow_mut()
            .run("vadd 1000")
            .is_ok_and(|output| output.success())
    })
}

/// What is wrong with the device's file, by its causes; the programs run as another user than root.
pub fn a_device_that_cannot_be_opened_is_told(vm: &mut Vm) -> Result<()> {
    let root = |vm: &mut Vm, command: &str| {
        let done = vm.run_as_root(command)?;
        ensure!(done.success(), "{command}: {}", done.text);
        Ok(())
    };
    root(
        vm,
        "echo gpu:x:44: >>/etc/group; chgrp gpu /dev/vgpu; chmod 660 /dev/vgpu",
    )?;
    told(
        vm,
        NO_DEVICE,
        "user 1000 may not open /dev/vgpu, which is for group gpu: add the user to it",
    )?;
    root(vm, "chmod 600 /dev/vgpu")?;
    told(vm, NO_DEVICE, "whose mode 600 is for user 0 alone")?;
    root(vm, "chmod 666 /dev/vgpu; mv /dev/vgpu /dev/elsewhere")?;
    told(vm, NO_DEVICE, "no /dev/vgpu, but its driver is loaded")?;
    root(vm, "mv /dev/elsewhere /dev/vgpu")?;
    vm.must("vadd")?;
    root(vm, "rmmod vgpu")?;
    told(
        vm,
        NO_DEVICE,
        "no /dev/vgpu: the driver vgpu is not loaded; `modprobe vgpu`",
    )?;
    root(vm, "insmod /lib/modules/vgpu.ko")?;
    vm.must("vadd").map(drop)
}

/// A VM that has as many sessions as it may is told so.
pub fn too_many_sessions_are_told(vm: &mut Vm) -> Result<()> {
    let held = vm.start("sessions")?;
    Machine::wait_for_output(vm, &held, "sessions: all that there are")?;
    told(vm, NO_DEVICE, "too many programs of this VM use the GPU")?;
    vm.must("killall sessions")?;
    Machine::wait(vm, held)?;
    vm.must("vadd").map(drop)
}

/// Nobody is at the other end, or nothing is there at all.
pub fn a_host_that_is_gone_is_told(stack: &mut Stack, number: u32, vm: &mut Vm) -> Result<()> {
    stack.kill_backend(number);
    told(vm, NO_DEVICE, "the host's end of the device is gone")?;
    vm.unplug_vgpu()?;
    told(vm, NO_DEVICE, "this VM has no vgpu device")?;
    stack.start_backend(number)?;
    vm.plug_vgpu(&stack.socket(number))?;
    vm.must("until [ -e /dev/vgpu ]; do usleep 10000; done; vadd")
        .map(drop)
}

/// The same for a program on the host itself.
pub fn a_backend_that_is_gone_is_told<M: Machine>(
    stack: &mut Stack,
    number: u32,
    machine: &mut M,
) -> Result<()> {
    stack.kill_backend(number);
    told(machine, NO_DEVICE, "vgpu.sock: ")?;
    stack.start_backend(number)?;
    machine.must("vadd").map(drop)
}

/// The socket that a program is given is the scheduler's.
pub fn another_services_socket_is_told<M: Machine>(machine: &mut M) -> Result<()> {
    told(machine, NO_DEVICE, "vgpud.sock: it is no virtio-vgpu device")
}

/// The scheduler is gone; a program that starts waits for it, and then is told.
pub fn a_scheduler_that_is_gone_is_told<M: Machine>(stack: &mut Stack, machine: &mut M) -> Result<()> {
    stack.kill_vgpud();
    told(machine, NO_DEVICE, "the host's scheduler does not answer")?;
    stack.start_vgpud()?;
    machine.must("vadd").map(drop)
}
