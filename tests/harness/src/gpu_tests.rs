//! Everything that must hold on a real GPU, in one run of at most eight minutes.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use vgpu_sched_api::messages::Priority;
use vgpu_tests::{Gpu, Host, Machine, Stack, VmSpec, checks};
use vgpu_vm::{Artifacts, Vm};

use crate::boot;
use crate::report::{gpus, last_line};

const LOW: VmSpec = VmSpec {
    id: 1,
    priority: Priority::Low,
};
const OTHER_LOW: VmSpec = VmSpec {
    id: 2,
    priority: Priority::Low,
};
const HIGH: VmSpec = VmSpec {
    id: 9,
    priority: Priority::High,
};

/// Runs in a row after which nothing may be left.
const RUNS: u32 = 200;
/// Guest memory where 1 GiB is to be pinned.
const PINNED_MEMORY_MIB: u32 = 3072;
const MEMORY_MIB: u32 = 768;

#[derive(clap::Args)]
pub struct Args {
    /// Only the checks whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Use the software GPU
    #[arg(long)]
    software: bool,
}

type Check = fn(&Lab<'_>) -> Result<()>;

/// What a check starts its services with.
struct Lab<'a> {
    artifacts: &'a Artifacts,
    gpu: Gpu,
}

impl Lab<'_> {
    fn stack(&self, vms: &[VmSpec]) -> Result<Stack> {
        Stack::start(self.artifacts, self.gpu, vms)
    }

    /// Runs a check with services for these VMs; what they said is in the error if it fails.
    fn with(&self, vms: &[VmSpec], check: impl FnOnce(&Stack) -> Result<()>) -> Result<()> {
        let stack = self.stack(vms)?;
        check(&stack).map_err(|error| anyhow!("{error:#}\n{}", stack.logs()))
    }

    /// The same with two low VMs booted.
    fn with_guests(&self, check: impl FnOnce(&Stack, &mut Vm, &mut Vm) -> Result<()>) -> Result<()> {
        self.with(&[LOW, OTHER_LOW], |stack| {
            let mut one = boot(stack, LOW.id, MEMORY_MIB)?;
            let mut other = boot(stack, OTHER_LOW.id, MEMORY_MIB)?;
            check(stack, &mut one, &mut other)?;
            sound(&one)?;
            sound(&other)
        })
    }
}

/// The guest's kernel has nothing to complain about.
fn sound(vm: &Vm) -> Result<()> {
    let complaints = vm.kernel_complaints();
    ensure!(
        complaints.is_empty(),
        "the kernel of {} complained:\n{}",
        vm.name(),
        complaints.join("\n")
    );
    Ok(())
}

/// Figures come last, on a GPU that the other checks have left alone.
const CHECKS: &[(&str, Check)] = &[
    ("host: results", |lab| {
        lab.with(&[LOW], |stack| {
            checks::results_are_right(&mut Host::new(stack, 1))
        })
    }),
    ("host: a killed process", |lab| {
        lab.with(&[LOW, OTHER_LOW], |stack| {
            let (mut one, mut other) = (Host::new(stack, 1), Host::new(stack, 2));
            checks::a_killed_process_leaves_nothing(stack, 1, &mut one, &mut other)
        })
    }),
    ("host: a fault", |lab| {
        lab.with(&[LOW, OTHER_LOW], |stack| {
            checks::a_fault_stays_alone(&mut Host::new(stack, 1), &mut Host::new(stack, 2))
        })
    }),
    ("host: turns", |lab| {
        lab.with(&[LOW, OTHER_LOW], |stack| {
            let (mut one, mut other) = (Host::new(stack, 1), Host::new(stack, 2));
            checks::two_machines_take_turns(stack, (1, 2), &mut one, &mut other)
        })
    }),
    ("guest: results, a killed process, a fault, turns", |lab| {
        lab.with_guests(|stack, one, other| {
            checks::results_are_right(one)?;
            checks::a_killed_process_leaves_nothing(stack, 1, one, other)?;
            checks::a_fault_stays_alone(one, other)?;
            checks::two_machines_take_turns(stack, (1, 2), one, other)
        })
    }),
    ("guest: a reset in the middle of a DMA", |lab| {
        lab.with_guests(reset_in_a_dma)
    }),
    ("guest: many runs in a row", |lab| {
        lab.with(&[LOW], |stack| {
            let mut vm = boot(stack, LOW.id, MEMORY_MIB)?;
            checks::runs_in_a_row(stack, LOW.id, &mut vm, RUNS)?;
            sound(&vm)
        })
    }),
    ("guest: 1 GiB pinned", |lab| {
        lab.with(&[LOW], |stack| {
            let mut vm = boot(stack, LOW.id, PINNED_MEMORY_MIB)?;
            pin(&mut vm, "fresh memory")?;
            sound(&vm)
        })
    }),
    ("host: latency of a high VM", |lab| {
        lab.with(&[LOW, HIGH], high_beside_low)
    }),
    ("host: figures, native and through vgpu", |lab| {
        lab.with(&[LOW], |stack| figures(lab, stack))
    }),
];

/// A guest that is reset while the GPU copies from and to its memory leaves nothing behind, works again, and
/// its neighbour never notices.
fn reset_in_a_dma(stack: &Stack, one: &mut Vm, other: &mut Vm) -> Result<()> {
    let busy = Machine::start(other, "work 3000 100")?;
    Machine::wait_for_output(other, &busy, "running")?;
    let lost = Machine::start(one, "dma 64")?;
    Machine::wait_for_output(one, &lost, "dma: running")?;
    one.reset()?;
    checks::nothing_left(stack, LOW.id)?;
    ensure!(one.wait(lost).is_err(), "the program outlived the reset");
    one.must("vadd")?;
    let busy = Machine::wait(other, busy)?;
    ensure!(busy.success(), "the neighbour noticed: {}", busy.text);
    Ok(())
}

/// 1 GiB is pinned and copied right, or refused.
fn pin(vm: &mut Vm, memory: &str) -> Result<()> {
    let output = Machine::run(vm, "pinned 1024")?;
    println!("    {memory}: {}", last_line(&output.text));
    ensure!(
        matches!(output.status, 0 | 2),
        "ended with {}:\n{}",
        output.status,
        output.text
    );
    Ok(())
}

/// A high VM calls every 10 ms while a low VM's kernel of a second runs; the kernel's result is right.
fn high_beside_low(stack: &Stack) -> Result<()> {
    let (mut low, mut high) = (Host::new(stack, LOW.id), Host::new(stack, HIGH.id));
    println!("    alone: {}", last_line(&high.must("latency")?));
    let busy = low.start("i=0; while [ $i -lt 8 ]; do spin 1000 || exit 1; i=$((i+1)); done")?;
    low.wait_for_output(&busy, "running")?;
    println!("    beside kernels of 1 s: {}", last_line(&high.must("latency")?));
    let busy = low.wait(busy)?;
    ensure!(busy.success(), "{}", busy.text);
    Ok(())
}

/// What the basic calls cost, side by side.
fn figures(lab: &Lab<'_>, stack: &Stack) -> Result<()> {
    let through = Host::new(stack, LOW.id).must("bench")?;
    let mut native = std::process::Command::new(lab.artifacts.program("bench"));
    if lab.gpu == Gpu::Software {
        native.env("LD_LIBRARY_PATH", lab.artifacts.softgpu_lib_dir());
    }
    let native = native.output().context("cannot run bench")?;
    ensure!(native.status.success(), "bench: {}", native.status);
    println!(
        "    native\n{}    through vgpu\n{through}",
        String::from_utf8_lossy(&native.stdout)
    );
    Ok(())
}

pub fn run(artifacts: &Artifacts, args: &Args) -> Result<()> {
    let gpu = if args.software {
        Gpu::Software
    } else {
        Gpu::detect()
    };
    let lab = Lab { artifacts, gpu };
    println!("{}", gpus(&lab.stack(&[LOW])?, gpu)?);
    let all = Instant::now();
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, check) in CHECKS.iter().filter(|(name, _)| wanted(name)) {
        println!("==> {name} ...");
        let start = Instant::now();
        let outcome = check(&lab);
        let took = start.elapsed().as_secs_f64();
        count += 1;
        match outcome {
            Ok(()) => println!("    ok in {took:.1} s"),
            Err(error) => {
                println!("    FAILED in {took:.1} s: {error:#}");
                failed.push(*name);
            }
        }
    }
    println!(
        "==> {} of {count} checks hold, {:.0} s",
        count - failed.len(),
        all.elapsed().as_secs_f64()
    );
    if count == 0 || !failed.is_empty() {
        bail!("not so: {}", failed.join("; "));
    }
    Ok(())
}
