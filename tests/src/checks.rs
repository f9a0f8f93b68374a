//! What must hold wherever programs run: each check is one statement about the product, written for any
//! [`Machine`] and any GPU. The tests of this crate make them on the software GPU, `gpu-tests` on the
//! machine's own.
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use vgpu_sched_api::messages::{Answer, EventKind, Request};

use crate::{Gpu, Machine, Stack};

/// The guest programs that check their own results, with arguments that an emulated guest can bear.
pub const PROGRAMS: &[&str] = &[
    "vadd",
    "saxpy",
    "matmul",
    "reduce",
    "memset",
    "streams",
    "contexts",
    "pinned 8",
    "registered 8",
    "managed",
    "shared",
    "capture",
    "hostfn",
    "threads 4",
    "destroys 60",
    "many 60",
    "spin 50",
    "work 2000 5",
    "fault",
    "fault blocking",
];

/// Programs that NVIDIA's compiler built, with its runtime inside: of `tests/compat`, unmodified.
pub const RUNTIME_PROGRAMS: &[&str] = &[
    "rt_vadd",
    "rt_reduce",
    "rt_pinned",
    "rt_registered",
    "rt_symbols",
    "rt_managed",
    "rt_virtual_memory",
];

/// Programs that use the CUDA runtime find their results right.
pub fn runtime_programs_are_right<M: Machine>(machine: &mut M) -> Result<()> {
    for program in RUNTIME_PROGRAMS {
        machine.must(program)?;
    }
    Ok(())
}

/// Every guest program finds its results right.
pub fn results_are_right<M: Machine>(machine: &mut M) -> Result<()> {
    for program in PROGRAMS {
        machine.must(program)?;
    }
    Ok(())
}

/// What a program registers is mapped at its own address in its executor, so nothing of that lies where programs have theirs:
/// within 4 TiB of the top, but for the main thread's stack.
pub fn executors_keep_out_of_their_guests_way(stack: &Stack, vm: u32) -> Result<()> {
    const PROGRAMS: u64 = (1 << 47) - (4 << 40);
    let executors = stack.executors(vm);
    ensure!(!executors.is_empty(), "no executor runs");
    for executor in executors {
        let maps = std::fs::read_to_string(format!("/proc/{executor}/maps"))?;
        let mut libraries = 0;
        for line in maps.lines().filter(|line| !line.contains(" ---p ")) {
            let start = line.split('-').next().unwrap_or_default();
            let start = u64::from_str_radix(start, 16).context("an address")?;
            libraries += u32::from(line.contains(".so"));
            let is_stack = ["[stack]", "[vdso]", "[vvar", "[vsyscall]"]
                .iter()
                .any(|name| line.contains(name));
            ensure!(start < PROGRAMS || is_stack, "in the way of programs: {line}");
        }
        ensure!(libraries > 0, "an executor without libraries:\n{maps}");
    }
    Ok(())
}

/// The same program many times in a row: the first run leaves nothing that breaks a later one.
pub fn runs_in_a_row<M: Machine>(stack: &Stack, vm: u32, machine: &mut M, runs: u32) -> Result<()> {
    machine.must("vadd")?;
    nothing_left(stack, vm)?;
    let before = files(stack, vm)?;
    let text = machine.must(&format!(
        "i=0; while [ $i -lt {runs} ]; do vadd 5000 >/dev/null || exit 1; i=$((i+1)); done; echo all right"
    ))?;
    ensure!(text.contains("all right"), "{text}");
    nothing_left(stack, vm)?;
    // What was the last run's may be closed a little later.
    stack.until("the backend has no more files open than before", |stack| {
        files(stack, vm).is_ok_and(|files| files <= before)
    })
}

/// How many files that VM's backend has open.
fn files(stack: &Stack, vm: u32) -> Result<usize> {
    let pid = stack.backend_pid(vm).context("the VM has a backend")?;
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// No executor of that VM is left.
pub fn nothing_left(stack: &Stack, vm: u32) -> Result<()> {
    stack.until("all executors gone", |stack| stack.executors(vm).is_empty())
}

/// A process killed with a kernel running leaves nothing behind, the next run works, and a neighbour VM that
/// works all the while never notices.
pub fn a_killed_process_leaves_nothing<M: Machine, N: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
    neighbour: &mut N,
) -> Result<()> {
    let busy = neighbour.start("work 3000 40")?;
    neighbour.wait_for_output(&busy, "running")?;
    let (doomed, pid) = machine.start_with_pid("spin 600000")?;
    machine.wait_for_output(&doomed, "spin: running")?;
    machine.must(&format!("kill -9 {pid}"))?;
    let ended = machine.wait(doomed)?;
    ensure!(!ended.success(), "the killed program ended well: {}", ended.text);
    nothing_left(stack, vm)?;
    machine.must("vadd")?;
    let busy = neighbour.wait(busy)?;
    ensure!(busy.success(), "the neighbour noticed: {}", busy.text);
    Ok(())
}

/// An illegal address ends that process' context only: others, in other VMs, go on.
pub fn a_fault_stays_alone<M: Machine, N: Machine>(machine: &mut M, neighbour: &mut N) -> Result<()> {
    let busy = neighbour.start("work 3000 40")?;
    neighbour.wait_for_output(&busy, "running")?;
    for _ in 0..3 {
        machine.must("fault")?;
    }
    machine.must("vadd")?;
    let busy = neighbour.wait(busy)?;
    ensure!(busy.success(), "the neighbour noticed: {}", busy.text);
    Ok(())
}

/// `libnvidia-ml.so.1` says the same as CUDA. It shows a VM its own processes and their memory, and none of another VM's, and
/// takes no GPU for that.
pub fn a_vm_sees_its_own_gpus_memory_and_processes<M: Machine, N: Machine>(
    stack: &Stack,
    vms: (u32, u32),
    one: &mut M,
    other: &mut N,
) -> Result<()> {
    let opened = || stack.logs().matches(": opened for ").count();
    let before = opened();
    // How busy a VM is is told of the last second, in which other checks may have been at work.
    let idle = |text: &str| {
        text.contains("gpu 0: ") && text.contains(" GPUs, 0 processes") && text.contains("used 0, busy 0%")
    };
    until_said(one, "nvml", idle)?;
    until_said(other, "nvml", idle)?;
    ensure!(opened() == before, "a session was opened only to look");
    one.must("nvml check")?;
    let (mine, pid) = one.start_with_pid("spin 600000")?;
    let (theirs, their_pid) = other.start_with_pid("spin 600000")?;
    one.wait_for_output(&mine, "spin: running")?;
    other.wait_for_output(&theirs, "spin: running")?;
    // What is told may be some tenths of a second old, and how busy a VM is, a second.
    let seen = |text: &str, pid: u32| {
        let process = text
            .lines()
            .find(|line| line.starts_with(&format!("process {pid} on gpu 0: ")));
        let has_memory = process.is_some_and(|line| line.contains("spin") && !line.contains(": 0 bytes"));
        has_memory && text.contains(" GPUs, 1 processes") && !text.contains("busy 0%")
    };
    until_said(one, "nvml", |text| seen(text, pid))?;
    until_said(other, "nvml", |text| seen(text, their_pid))?;
    one.must(&format!("kill {pid}"))?;
    other.must(&format!("kill {their_pid}"))?;
    one.wait(mine)?;
    other.wait(theirs)?;
    nothing_left(stack, vms.0)?;
    nothing_left(stack, vms.1)?;
    let gone = |text: &str| text.contains(" GPUs, 0 processes") && text.contains("used 0,");
    until_said(one, "nvml", gone)?;
    until_said(other, "nvml", gone).map(drop)
}

/// Runs a command again and again until what it prints is as wanted.
pub fn until_said<M: Machine>(
    machine: &mut M,
    command: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<String> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let text = machine.run(command)?.text;
        if wanted(&text) {
            return Ok(text);
        }
        ensure!(std::time::Instant::now() < end, "`{command}` still says:\n{text}");
    }
}

/// Two VMs of one level that both always have work take turns, and both find their results right.
pub fn two_machines_take_turns<M: Machine, N: Machine>(
    stack: &Stack,
    vms: (u32, u32),
    one: &mut M,
    other: &mut N,
) -> Result<()> {
    let from = stack.turns(0)?.last().map_or(0, |turn| turn.number + 1);
    // A second or more of kernels, so that both are at work at once however late one of them starts.
    let program = match stack.gpu() {
        Gpu::Nvidia => "work 300000 80 2 32",
        Gpu::Software => "work 20000 60 2 32",
    };
    let first = one.start(program)?;
    let second = other.start(program)?;
    for ended in [one.wait(first)?, other.wait(second)?] {
        ensure!(ended.success(), "{}", ended.text);
    }
    let order: Vec<u32> = stack.turns(from)?.iter().map(|turn| turn.vm).collect();
    let hand_overs = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    ensure!(
        order.contains(&vms.0) && order.contains(&vms.1),
        "turns went to {order:?}"
    );
    ensure!(hand_overs >= 3, "only {hand_overs} hand-overs: {order:?}");
    Ok(())
}

/// A kernel much longer than a turn is stopped for the sake of another VM of its level, which is done long before
/// the kernel could have been; the kernel goes on where it was, and its results are exact.
pub fn a_running_kernel_is_stopped_and_resumed<M: Machine, N: Machine>(
    gpu: Gpu,
    one: &mut M,
    other: &mut N,
) -> Result<String> {
    // About 5 s of one kernel on an H100 that fills it, about 10 s on the software GPU.
    let long = match gpu {
        Gpu::Nvidia => "work 55000000 1 1056 256",
        Gpu::Software => "work 6000000 1 2 32",
    };
    let busy = one.start(long)?;
    one.wait_for_output(&busy, "running")?;
    let start = std::time::Instant::now();
    other.must("vadd")?;
    let waited = start.elapsed();
    let said = one.said(&busy);
    ensure!(
        !said.contains("right"),
        "the long kernel ended before the other VM was served: {said}"
    );
    let ended = one.wait(busy)?;
    ensure!(ended.success(), "the stopped kernel's results: {}", ended.text);
    Ok(format!(
        "the other VM's program took {:.2} s; {}",
        waited.as_secs_f64(),
        ended.text.lines().last().unwrap_or_default()
    ))
}

/// An executor that does not answer is stopped by `vgpud` itself, through the driver, for another VM of its level; once it
/// answers again its kernels go on, and their results are exact.
pub fn a_silent_executor_is_stopped_by_vgpud<M: Machine, N: Machine>(
    stack: &Stack,
    vm: u32,
    one: &mut M,
    other: &mut N,
) -> Result<String> {
    let began_ms = stack.stats(vm)?.gpu_microseconds / 1000;
    let busy = one.start("work 11000000 6 1056 256")?;
    one.wait_for_output(&busy, "running")?;
    // Its channels are handed over once they are proved, a tenth of a second later at most.
    let runs = |stack: &Stack| {
        let gpu_ms = stack.stats(vm).map_or(0, |stats| stats.gpu_microseconds / 1000);
        gpu_ms > began_ms + 500
    };
    stack.until("the program works", runs)?;
    let executors = stack.executors(vm);
    let [executor] = executors[..] else {
        bail!("VM {vm} has the executors {executors:?}, expected one");
    };
    let signal = |signal| {
        let pid = i32::try_from(executor).ok().and_then(Pid::from_raw);
        let pid = pid.context("an executor's process id")?;
        Ok::<_, anyhow::Error>(rustix::process::kill_process(pid, signal)?)
    };
    signal(Signal::STOP)?;
    let start = std::time::Instant::now();
    let served = other.must("vadd");
    let waited = start.elapsed();
    let said = one.said(&busy);
    signal(Signal::CONT)?;
    served?;
    ensure!(!said.contains("right"), "the work ended too early: {said}");
    let ended = one.wait(busy)?;
    ensure!(ended.success(), "the stopped kernels' results: {}", ended.text);
    let Answer::Probe { gpus } = stack.ask(&Request::Probe)? else {
        bail!("no answer to a request for what is proved");
    };
    ensure!(
        gpus.iter().any(|gpu| gpu.stop_by_vgpud),
        "vgpud did not stop it: {gpus:?}"
    );
    let proved = gpus.iter().find(|gpu| gpu.proved_s.is_some());
    let proved = proved.map_or(String::new(), |gpu| {
        format!("stop {} us, resume {} us", gpu.stop_us, gpu.resume_us)
    });
    Ok(format!(
        "the other VM's program took {:.2} s; {}; proofs: {proved}",
        waited.as_secs_f64(),
        ended.text.lines().last().unwrap_or_default()
    ))
}

/// What `vgpud` noted of a VM whose program faulted: the driver's error, if it said whose it was.
pub fn a_faults_error_is_told(stack: &Stack, vm: u32) -> Result<String> {
    let events = stack.events(vm)?;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let error = events.iter().find(|event| event.kind == EventKind::GpuError);
    let error = error.with_context(|| format!("no error of the GPU is told to be VM {vm}'s: {kinds:?}"))?;
    Ok(error.message.clone())
}
