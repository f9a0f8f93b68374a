//! The demo: an operator maps GPUs and VMs to two pools, CUDA programs run in three VMs at once, and everybody sees
//! which turns they got.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use vgpu_sched_api::messages::Priority;
use vgpu_tests::{Gpu, Machine, Stack, VmSpec, boot};
use vgpu_vm::{Artifacts, Vm};

use crate::report::{indented, last_line, step, turns_of};

/// Two VMs of pool A, one of pool B.
const VMS: [VmSpec; 3] = [
    VmSpec {
        id: 1,
        priority: Priority::High,
    },
    VmSpec {
        id: 2,
        priority: Priority::Low,
    },
    VmSpec {
        id: 8,
        priority: Priority::Medium,
    },
];
/// A GPU for each pool, where the machine has none of its own.
const SOFTWARE_GPUS: u32 = 2;
const MEMORY_MIB: u32 = 512;

/// What every VM runs, each a C program that checks its own results.
const PROGRAMS: [&str; 4] = ["vadd", "saxpy", "matmul", "reduce"];
/// Then, at the same time: a short kernel now and then in an urgent VM, many kernels in the others. Two processes of the
/// same VM share its level, so they take turns.
const URGENT_LOAD: &str = "latency 20 50 10";
const LOAD: &str = "work 2000 60";
const LOADS: [&[&str]; VMS.len()] = [&[URGENT_LOAD], &[LOAD, LOAD], &[LOAD]];
/// Turns that are shown one by one.
const TURNS_SHOWN: &str = "16";

pub fn run(artifacts: &Artifacts) -> Result<()> {
    let start = Instant::now();
    let gpu = Gpu::detect()?;
    let mut stack = step("starting vgpud with an empty pool map", || {
        Stack::start_host(artifacts, gpu, SOFTWARE_GPUS, "")
    })?;
    step("mapping GPUs and VMs to pools, as an operator does", || {
        map_pools(&stack)
    })?;
    step("starting a vgpu-backend for each VM", || {
        VMS.iter().try_for_each(|vm| stack.start_backend(vm.id))
    })?;
    let mut vms = step(&format!("booting {} VMs", VMS.len()), || boot_all(&stack))?;
    let mut scores = vec![Score::default(); VMS.len()];
    step("running CUDA programs in all of them at once", || {
        in_all(&mut vms, &mut scores, |vm, spec, score| {
            PROGRAMS
                .iter()
                .try_for_each(|program| score.note(spec, program, Instant::now(), vm.run(program)?))
        })
    })?;
    step(
        "VM 1 calls now and then, VM 2 works in two processes, VM 8 in one",
        || load(&stack, &mut vms, &mut scores),
    )?;
    step("the last turns, in the order in which vgpud gave them", || {
        operator(&stack, &["turns", "--last", TURNS_SHOWN])
    })?;
    let turns = stack.turns(0)?;
    println!("==> summary");
    for (spec, score) in VMS.iter().zip(&scores) {
        println!(
            "    {:<11} {} of {} programs right; {}",
            label(*spec),
            score.right,
            score.all,
            turns_of(spec.id, &turns)
        );
    }
    println!("    {:.0} s in all", start.elapsed().as_secs_f64());
    for vm in &vms {
        let complaints = vm.kernel_complaints();
        ensure!(
            complaints.is_empty(),
            "the kernel of {} complained:\n{}",
            vm.name(),
            complaints.join("\n")
        );
    }
    let wrong: usize = scores.iter().map(|score| score.all - score.right).sum();
    if wrong != 0 {
        bail!("{wrong} programs found wrong results\n{}", stack.logs());
    }
    println!("    every result was right");
    Ok(())
}

/// How many of a VM's programs ran, and found their results right.
#[derive(Clone, Copy, Default)]
struct Score {
    right: usize,
    all: usize,
}

impl Score {
    fn note(&mut self, spec: VmSpec, program: &str, start: Instant, output: vgpu_vm::Output) -> Result<()> {
        let took = start.elapsed().as_secs_f64();
        let verdict = if output.success() { "ok" } else { "FAILED" };
        let said = last_line(&output.text);
        println!(
            "    {:<11} {verdict:<6} {program:<16} {took:>5.1} s  {said}",
            label(spec)
        );
        self.all += 1;
        self.right += usize::from(output.success());
        Ok(())
    }
}

fn label(spec: VmSpec) -> String {
    format!("vm {} {}", spec.id, spec.priority)
}

/// The first GPU serves pool A, the second one pool B; a machine's only GPU serves both.
fn map_pools(stack: &Stack) -> Result<()> {
    operator(stack, &["scan-gpus"])?;
    let second = if stack.status()?.gpus.len() > 1 { "1" } else { "0" };
    operator(stack, &["assign-gpu", "--gpu-id", "0", "--pool", "A"])?;
    operator(stack, &["assign-gpu", "--gpu-id", second, "--pool", "B"])?;
    operator(stack, &["register-vm", "--vm-id", "1-7", "--pool", "A"])?;
    operator(stack, &["register-vm", "--vm-id", "8-20", "--pool", "B"])?;
    for vm in VMS.iter().filter(|vm| vm.priority != Priority::Medium) {
        let (id, priority) = (vm.id.to_string(), vm.priority.to_string());
        operator(stack, &["set-priority", "--vm-id", &id, "--priority", &priority])?;
    }
    println!(
        "    $ cat {}",
        stack.pool_map().file_name().unwrap_or_default().display()
    );
    print!("{}", indented(&std::fs::read_to_string(stack.pool_map())?));
    Ok(())
}

/// Runs the operator's tool and shows what it says.
fn operator(stack: &Stack, arguments: &[&str]) -> Result<()> {
    println!("    $ vgpu-admin {}", arguments.join(" "));
    let output = stack
        .admin()
        .args(arguments)
        .output()
        .context("cannot run vgpu-admin")?;
    print!("{}", indented(&String::from_utf8_lossy(&output.stdout)));
    ensure!(
        output.status.success(),
        "vgpu-admin ended with {}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end(),
        stack.logs()
    );
    Ok(())
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

/// The same in all VMs at once.
fn in_all(
    vms: &mut [Vm],
    scores: &mut [Score],
    work: impl Fn(&mut Vm, VmSpec, &mut Score) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = vms
            .iter_mut()
            .zip(scores)
            .zip(VMS)
            .map(|((vm, score), spec)| {
                scope.spawn(move || work(vm, spec, score).with_context(|| label(spec)))
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().expect("running programs does not panic"))
    })
}

/// All VMs work; in the middle of it the operator looks at the state of things.
fn load(stack: &Stack, vms: &mut [Vm], scores: &mut [Score]) -> Result<()> {
    let start = Instant::now();
    let mut jobs = Vec::new();
    for (vm, loads) in LOADS.iter().enumerate() {
        for load in *loads {
            jobs.push((vm, load, Machine::start(&mut vms[vm], load)?));
        }
    }
    for (vm, load, job) in &jobs {
        if *load == &LOAD {
            Machine::wait_for_output(&mut vms[*vm], job, "running")?;
        }
    }
    operator(stack, &["status"])?;
    for (vm, load, job) in jobs {
        let output = Machine::wait(&mut vms[vm], job)?;
        scores[vm].note(VMS[vm], load, start, output)?;
    }
    Ok(())
}
