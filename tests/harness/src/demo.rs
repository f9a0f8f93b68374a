//! The demo: two VMs of different priority, CUDA programs in both, and the turns they were given.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use vgpu_sched_api::messages::Priority;
use vgpu_tests::{Gpu, Stack, VmSpec, boot, checks};
use vgpu_vm::{Artifacts, Vm};

use crate::report::{gpus, last_line, step, turns_of, turns_table};

const VMS: [VmSpec; 2] = [
    VmSpec {
        id: 1,
        priority: Priority::Low,
    },
    VmSpec {
        id: 2,
        priority: Priority::High,
    },
];
const MEMORY_MIB: u32 = 512;

/// What both VMs run at the same time at the end: the low one many kernels, the high one a short kernel now
/// and then.
const LOW_LOAD: &str = "work 2000 60";
const HIGH_LOAD: &str = "latency 20 50 10";

/// How many of a VM's programs found their results right.
struct Score {
    right: usize,
    wrong: usize,
}

pub fn run(artifacts: &Artifacts) -> Result<()> {
    let start = Instant::now();
    let gpu = Gpu::detect();
    let stack = step("starting vgpud, and a vgpu-backend for each VM", || {
        Stack::start(artifacts, gpu, &VMS)
    })?;
    println!("    {}", gpus(&stack, gpu)?);
    let mut vms = step("booting two VMs", || boot_all(&stack))?;
    let scores = step("running CUDA programs in both at once", || {
        Ok(run_in_all(&stack, &mut vms, |vm, spec| {
            programs(vm, spec, checks::PROGRAMS)
        }))
    })?;
    let loads = step(
        "a low VM keeps the GPU busy, a high VM calls now and then",
        || {
            Ok(run_in_all(&stack, &mut vms, |vm, spec| {
                let load = if spec.priority == Priority::High {
                    HIGH_LOAD
                } else {
                    LOW_LOAD
                };
                programs(vm, spec, &[load])
            }))
        },
    )?;
    let turns = stack.turns(0)?;
    println!("==> turns that vgpud gave\n{}", turns_table(&turns));
    println!("==> summary");
    let mut wrong = 0;
    for (index, spec) in VMS.iter().enumerate() {
        let right = scores[index].right + loads[index].right;
        let all = right + scores[index].wrong + loads[index].wrong;
        wrong += all - right;
        let turns = turns_of(spec.id, &turns);
        println!("    {:<9} {right} of {all} programs right; {turns}", label(*spec));
    }
    println!("    {:.0} s in all", start.elapsed().as_secs_f64());
    for vm in &vms {
        let complaints = vm.kernel_complaints();
        if !complaints.is_empty() {
            bail!(
                "the kernel of {} complained:\n{}",
                vm.name(),
                complaints.join("\n")
            );
        }
    }
    if wrong != 0 {
        bail!("{wrong} programs found wrong results\n{}", stack.logs());
    }
    println!("    every result was right");
    Ok(())
}

fn label(spec: VmSpec) -> String {
    format!("vm {} {}", spec.id, spec.priority)
}

fn boot_all(stack: &Stack) -> Result<Vec<Vm>> {
    thread::scope(|scope| {
        let boots = VMS.map(|spec| scope.spawn(move || boot(stack, spec.id, MEMORY_MIB)));
        boots
            .into_iter()
            .map(|boot| boot.join().expect("booting does not panic"))
            .collect()
    })
}

/// The same in all VMs at once; the results in the order of [`VMS`].
fn run_in_all(
    stack: &Stack,
    vms: &mut [Vm],
    work: impl Fn(&mut Vm, VmSpec) -> Result<Score> + Sync,
) -> Vec<Score> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = vms
            .iter_mut()
            .zip(VMS)
            .map(|(vm, spec)| scope.spawn(move || work(vm, spec)))
            .collect();
        running
            .into_iter()
            .map(|one| {
                one.join()
                    .expect("running programs does not panic")
                    .unwrap_or_else(|error| {
                        println!("{error:#}\n{}", stack.logs());
                        Score { right: 0, wrong: 1 }
                    })
            })
            .collect()
    })
}

fn programs(vm: &mut Vm, spec: VmSpec, programs: &[&str]) -> Result<Score> {
    let mut score = Score { right: 0, wrong: 0 };
    for program in programs {
        let start = Instant::now();
        let output = vm
            .run(program)
            .with_context(|| format!("{}: {program}", label(spec)))?;
        let took = start.elapsed().as_secs_f64();
        let verdict = if output.success() { "ok" } else { "FAILED" };
        let said = last_line(&output.text);
        println!(
            "    {:<11} {verdict:<6} {program:<16} {took:>5.1} s  {said}",
            label(spec)
        );
        if output.success() {
            score.right += 1;
        } else {
            score.wrong += 1;
        }
    }
    Ok(score)
}
