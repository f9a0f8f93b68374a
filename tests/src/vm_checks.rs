//! What only a virtual machine can show.
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::Path;
use vgpu_vm::Vm;

use crate::{Gpu, Machine, Stack, boot, checks};

/// Ends a test with all that was said if its checks failed.
pub fn hold(stack: &Stack, vms: &[&Vm], result: Result<()>) {
    if let Err(error) = result {
        let consoles: Vec<_> = vms
            .iter()
            .map(|vm| format!("--- console of {}\n{}", vm.name(), vm.console().join("\n")))
            .collect();
        panic!("{error:?}\n{}\n{}", stack.logs(), consoles.join("\n"));
    }
}

/// The guest's kernel found nothing to complain about.
pub fn no_complaints(vm: &Vm) -> Result<()> {
    let complaints = vm.kernel_complaints();
    ensure!(
        complaints.is_empty(),
        "the guest's kernel complains: {complaints:?}"
    );
    Ok(())
}

/// A program finds the library where the guest's package has put it, without being told in its environment.
pub fn the_library_is_found_where_the_package_puts_it(vm: &mut Vm) -> Result<()> {
    let loaded = vm.must("unset LD_LIBRARY_PATH; /lib64/ld-linux-x86-64.so.2 --list $(command -v vadd)")?;
    ensure!(
        loaded.contains("libcuda.so.1 => /usr/lib/vgpu/libcuda.so.1 "),
        "a program gets another library: {loaded}"
    );
    vm.must("unset LD_LIBRARY_PATH; vadd").map(drop)
}

/// The driver goes and comes back; while a file is open it stays.
pub fn the_module_can_be_reloaded(vm: &mut Vm) -> Result<()> {
    let held = vm.start("exec 3</dev/vgpu; echo open; exec sleep 1000")?;
    Machine::wait_for_output(vm, &held, "open")?;
    let refused = vm.run_as_root("rmmod vgpu")?;
    ensure!(
        !refused.success(),
        "the driver was unloaded while a file was open"
    );
    vm.run_as_root("killall sleep")?;
    Machine::wait(vm, held)?;
    for _ in 0..2 {
        let reloaded = vm.run_as_root("rmmod vgpu && insmod /lib/modules/vgpu.ko")?;
        ensure!(reloaded.success(), "{}", reloaded.text);
        vm.must("vadd")?;
    }
    Ok(())
}

/// Everything that a program may do to the driver, and what the driver refuses; nothing is left of it.
pub fn the_drivers_interface_holds(stack: &Stack, number: u32, vm: &mut Vm) -> Result<()> {
    vm.must("uapi_test")?;
    vm.must("uapi_race")?;
    checks::nothing_left(stack, number)?;
    vm.must("vadd").map(drop)
}

/// Replaces the backend by one with another executor.
pub fn replace_executor(stack: &mut Stack, number: u32, executor: &Path) -> Result<()> {
    // Where the backend's user can run it.
    let copy = stack.dir().join("executor");
    std::fs::copy(executor, &copy)?;
    stack.kill_backend(number);
    stack.start_backend_with(number, &copy)
}

/// What becomes of a program's memory when the host does not do as the driver asks.
pub fn what_the_host_refuses_is_kept(stack: &Stack, number: u32, vm: &mut Vm) -> Result<()> {
    vm.must("uapi_refused")?;
    checks::nothing_left(stack, number)
}

/// Eight processes of one VM have work on the GPU at once. A ninth makes an illegal access there, a tenth is right: the
/// eight never notice, and nothing is left of any.
pub fn eight_processes_at_once_and_a_fault_beside_them(
    stack: &Stack,
    number: u32,
    vm: &mut Vm,
) -> Result<()> {
    let program = match stack.gpu() {
        Gpu::Nvidia => "work 300000 40 2 32",
        Gpu::Software => "work 2000 60 1 32",
    };
    let mut busy = Vec::new();
    for n in 0..8 {
        // Stopped by its own shell as soon as it runs: so all are in the middle of it, however long the last takes to start.
        let job = vm.start(&format!(
            "f=/tmp/eight.{n}; : >$f; {program} >$f & p=$!; until grep -q running $f || ! kill -0 $p; do :; done; \
             kill -STOP $p && echo pid=$p; wait $p; s=$?; cat $f; exit $s"
        ))?;
        Machine::wait_for_output(vm, &job, "pid=")?;
        let said = vm.output_so_far(&job);
        let pid = said.lines().find_map(|line| line.strip_prefix("pid="));
        let pid = pid.context("no process id")?.to_owned();
        busy.push((job, pid));
    }
    let executors = stack.executors(number).len();
    ensure!(executors == 8, "{executors} executors serve 8 processes");
    let go_on: String = busy.iter().map(|(_, pid)| format!(" {pid}")).collect();
    let fault = vm.start("fault")?;
    vm.must(&format!("kill -CONT{go_on}"))?;
    vm.must("vadd")?;
    let fault = Machine::wait(vm, fault)?;
    ensure!(fault.success(), "{}", fault.text);
    for (job, _) in busy {
        let ended = Machine::wait(vm, job)?;
        ensure!(ended.success(), "one of the eight: {}", ended.text);
    }
    checks::nothing_left(stack, number)
}

/// A word for a guest's kernel: a dead host is noticed within about ten seconds.
pub const SHORT_WATCH: &str = "vgpu_params=watch_s=3";

/// Programs that use the GPU without end, and what they say once they do: one waits for room in its ring, one for an event.
const DOOMED: [(&str, &str); 2] = [
    ("full 1000000000", "full: running"),
    ("spin 600000", "spin: running"),
];

/// Programs that use the GPU while their host's end dies are told so, and do not hang; once the operator has replaced the
/// device, the next one works. The device may also be replaced while it is well.
pub fn a_dead_backend_is_replaced(stack: &mut Stack, number: u32, vm: &mut Vm) -> Result<()> {
    for kill in [true, false] {
        let mut doomed = Vec::new();
        for (program, running) in DOOMED {
            let job = vm.start(program)?;
            Machine::wait_for_output(vm, &job, running)?;
            doomed.push(job);
        }
        if kill {
            stack.kill_backend(number);
        } else {
            vm.unplug_vgpu()?;
        }
        for job in doomed {
            let ended = Machine::wait(vm, job)?;
            log_line(&ended.text);
            ensure!(
                ended.status == 1,
                "the program ended with {}: {}",
                ended.status,
                ended.text
            );
        }
        if kill {
            vm.unplug_vgpu()?;
            stack.start_backend(number)?;
        }
        vm.plug_vgpu(&stack.socket(number))?;
        vm.must("until [ -e /dev/vgpu ]; do usleep 10000; done; vadd")?;
        checks::nothing_left(stack, number)?;
    }
    Ok(())
}

/// Two VMs of one level.
pub struct Pair {
    pub one: Vm,
    pub other: Vm,
    numbers: (u32, u32),
}

impl Pair {
    /// Boots both at once.
    pub fn boot(stack: &Stack, numbers: (u32, u32), memory_mib: u32) -> Result<Self> {
        std::thread::scope(|scope| {
            let one = scope.spawn(|| boot(stack, numbers.0, memory_mib));
            let other = boot(stack, numbers.1, memory_mib)?;
            let one = one.join().ok().context("booting a VM panicked")??;
            Ok(Self { one, other, numbers })
        })
    }

    /// Everything that two VMs must hold.
    pub fn all_checks(&mut self, stack: &Stack) -> Result<()> {
        checks::two_machines_take_turns(stack, self.numbers, &mut self.one, &mut self.other)?;
        checks::a_killed_process_leaves_nothing(stack, self.numbers.0, &mut self.one, &mut self.other)?;
        checks::a_fault_stays_alone(&mut self.one, &mut self.other)?;
        checks::a_vm_sees_its_own_gpus_memory_and_processes(
            stack,
            self.numbers,
            &mut self.one,
            &mut self.other,
        )?;
        self.pauses_while_programs_come_and_go(stack)?;
        self.a_reset_in_the_middle_of_a_copy(stack)?;
        no_complaints(&self.one)?;
        no_complaints(&self.other)
    }

    /// A guest is paused again and again while its programs open and close sessions: some fail, none hangs, and afterwards all is
    /// well. The other VM works meanwhile.
    pub fn pauses_while_programs_come_and_go(&mut self, stack: &Stack) -> Result<()> {
        let programs = "for i in 1 2 3 4 5 6 7 8; do vadd; nvml; done 2>&1; echo all have ended";
        let coming = [self.one.start(programs)?, self.one.start(programs)?];
        for _ in 0..8 {
            self.one.qmp("stop", json!({}))?;
            self.other.must("vadd")?;
            self.one.qmp("cont", json!({}))?;
            self.other.must("vadd")?;
        }
        for job in coming {
            let ended = Machine::wait(&mut self.one, job)?;
            ensure!(
                ended.text.contains("all have ended"),
                "the programs ended early: {}",
                ended.text
            );
        }
        checks::nothing_left(stack, self.numbers.0)?;
        self.one.must("vadd").map(drop)
    }

    /// A guest that is reset while the GPU copies from and to its memory boots and works again, nothing is left
    /// of its processes, and the other VM never notices.
    pub fn a_reset_in_the_middle_of_a_copy(&mut self, stack: &Stack) -> Result<()> {
        let busy = self.other.start("work 3000 60")?;
        Machine::wait_for_output(&mut self.other, &busy, "running")?;
        let copying = self.one.start("dma 32")?;
        Machine::wait_for_output(&mut self.one, &copying, "running")?;
        self.one.reset()?;
        checks::nothing_left(stack, self.numbers.0)?;
        self.one.must("vadd")?;
        self.one.must("pinned 16")?;
        let busy = Machine::wait(&mut self.other, busy)?;
        ensure!(busy.success(), "the other VM noticed: {}", busy.text);
        Ok(())
    }
}

/// So much pinned memory in a fresh guest, and in guests whose free memory is broken up, coarsely and finely: it is given
/// and right, or refused with CUDA_ERROR_OUT_OF_MEMORY (status 2); afterwards everything works.
pub fn pinned_memory_in_a_fresh_and_a_broken_up_guest(
    stack: &Stack,
    number: u32,
    vm: &mut Vm,
    mib: u32,
) -> Result<()> {
    let fresh = vm.must(&format!("pinned {mib}"))?;
    log_line(&fresh);
    for step in [64, 3] {
        let held = vm.start(&format!("fragment {step}"))?;
        Machine::wait_for_output(vm, &held, "is now")?;
        let said = Machine::said(vm, &held);
        let whole = said.lines().last().unwrap_or_default().to_owned();
        let part: f64 = whole
            .strip_prefix("fragment: ")
            .and_then(|rest| rest.split_once('%')?.0.parse().ok())
            .with_context(|| format!("no figure in {whole:?}"))?;
        ensure!(part <= 50.0, "free memory was not broken up: {whole}");
        log_line(&whole);
        let output = vm.run(&format!("pinned {mib}"))?;
        log_line(&output.text);
        ensure!(
            matches!(output.status, 0 | 2),
            "ended with {}: {}",
            output.status,
            output.text
        );
        vm.must("killall fragment")?;
        Machine::wait(vm, held)?;
        checks::nothing_left(stack, number)?;
        vm.must("pinned 16")?;
    }
    Ok(())
}

/// Figures that a reader of a test's output wants to see.
fn log_line(text: &str) {
    println!("  {}", text.trim_end());
}
