//! How a guest's processes begin and end, and what they do when something is short: whatever they do, they do not hang, and
//! nothing of them is left on the host.
use anyhow::{Context, Result, ensure};

use crate::checks::nothing_left;
use crate::{Machine, Stack};

/// Ways to end in the middle of work, the status that is seen then, and what the program says before.
const ENDS: [(&str, i32, &str); 9] = [
    ("atexit-idle", 7, "sums at the exit right"),
    ("submitting", 7, ""),
    ("thread", 7, "running"),
    ("atexit", 7, "a call at the exit works"),
    ("quick", 7, "running"),
    // As a shell says it: 128 and the signal.
    ("abort", 128 + 6, "running"),
    ("fault", 128 + 11, "running"),
    // The program that takes its place works.
    ("exec", 0, "sums right"),
    ("unknown", 1, "unknown way"),
];

/// A process that ends with a kernel running, in whatever way, ends at once and leaves nothing; the next one works.
pub fn processes_end_in_any_way<M: Machine>(stack: &Stack, vm: u32, machine: &mut M) -> Result<()> {
    for (way, status, said) in ENDS {
        let ended = machine.run(&format!("ends {way}"))?;
        ensure!(
            ended.status == status && ended.text.contains(said),
            "ends {way}: status {}: {}",
            ended.status,
            ended.text
        );
        nothing_left(stack, vm).with_context(|| format!("ends {way}"))?;
    }
    machine.must("vadd").map(drop)
}

/// The library may be closed and opened again.
pub fn the_library_can_be_closed_and_opened_again<M: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
) -> Result<()> {
    machine.must("reload")?;
    nothing_left(stack, vm)
}

/// A child of a process that uses CUDA cannot, which is told; its parent goes on. One that was forked before can.
pub fn forked_processes_are_told<M: Machine>(stack: &Stack, vm: u32, machine: &mut M) -> Result<()> {
    machine.must("forks before")?;
    machine.must("forks after")?;
    machine.must("forks during")?;
    nothing_left(stack, vm)
}

/// A program that a child of one that uses CUDA becomes is free to use it, beside its parent. (Not over a socket, which serves
/// one process at a time.)
pub fn a_childs_program_works_beside_its_parent<M: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
) -> Result<()> {
    machine.must("forks exec")?;
    nothing_left(stack, vm)
}

/// A session ends with the process that opened it, though a child of it lives on.
pub fn a_session_does_not_outlive_its_process<M: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
) -> Result<()> {
    let said = machine.must("forks outlived")?;
    let child: u32 = said
        .trim()
        .strip_prefix("forks: child ")
        .and_then(|pid| pid.parse().ok())
        .with_context(|| format!("no child in {said:?}"))?;
    nothing_left(stack, vm)?;
    machine.must("vadd")?;
    // It is there still.
    machine.must(&format!("kill {child}")).map(drop)
}

/// A program that is stopped in the middle of its work holds up nobody, and goes on with right results.
pub fn a_stopped_program_goes_on<M: Machine, N: Machine>(
    stack: &Stack,
    vm: u32,
    machine: &mut M,
    neighbour: &mut N,
) -> Result<()> {
    let (job, pid) = machine.start_with_pid("work 3000 60")?;
    machine.wait_for_output(&job, "running")?;
    for _ in 0..3 {
        machine.must(&format!("kill -STOP {pid}"))?;
        neighbour.must("vadd")?;
        machine.must(&format!("kill -CONT {pid}"))?;
    }
    let ended = machine.wait(job)?;
    ensure!(ended.success(), "{}", ended.text);
    nothing_left(stack, vm)
}

/// What is short is told by a code, and leaves nothing.
pub fn what_is_short_is_told<M: Machine>(stack: &Stack, vm: u32, machine: &mut M) -> Result<()> {
    for what in ["files", "addresses", "window", "threads", "memory"] {
        let text = machine.must(&format!("limits {what}"))?;
        for line in text.lines() {
            ensure!(
                line.starts_with("limits: ") || line.starts_with("vgpu: no CUDA device: "),
                "limits {what} says {line:?}"
            );
        }
        nothing_left(stack, vm).with_context(|| format!("limits {what}"))?;
    }
    machine.must("vadd").map(drop)
}
