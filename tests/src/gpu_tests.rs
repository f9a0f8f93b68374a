//! The checks on this machine's own GPU, and the first figures beside the native library's, in one run.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vgpu_vm::Artifacts;

use crate::sched_bench::{Bench, Missed, Sub};
use crate::vm_checks::{self, Pair};
use crate::{Gpu, Host, Machine, Stack, VmSpec, builder, checks, same};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Checks without a VM.
    Socket,
    /// Figures beside native ones.
    Figures,
    /// Latency of a high-priority VM beside a low one.
    Latency,
    /// Checks in virtual machines.
    Vm,
    /// Every answer beside the native library's, or one program's; takes minutes, and runs only if it is named.
    Answers(&'static [&'static str]),
    /// What the scheduler is measured by; takes minutes, and runs only if it is named.
    Sched(Sub),
}

/// One line of the report.
struct Line {
    name: String,
    seconds: f64,
    outcome: Result<String>,
}

/// Runs the parts, printing a line as each step ends and the whole table last; the scheduler's figures go to `sched.json` in
/// that folder as well. Whether all held.
pub fn run(artifacts: &Artifacts, gpu: Gpu, parts: &[Part], folder: Option<PathBuf>) -> Result<bool> {
    let mut report = Report { lines: Vec::new() };
    let mut bench = Bench::new(artifacts, gpu, folder);
    let native = gpu == Gpu::Nvidia;
    for part in parts {
        match part {
            Part::Socket => socket(artifacts, gpu, &mut report),
            Part::Figures if native => figures(artifacts, &mut report),
            Part::Latency => latency(artifacts, gpu, &mut report),
            Part::Vm => virtual_machines(artifacts, gpu, &mut report),
            Part::Answers(programs) => answers(artifacts, gpu, programs, &mut report),
            Part::Sched(sub) => bench.run(*sub, &mut report),
            Part::Figures => println!("figures: left out, no native library to compare with"),
        }
    }
    bench.print();
    Ok(report.print())
}

/// What was done, and how it ended.
pub(crate) struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Does one thing, and says how it went.
    pub(crate) fn step(&mut self, name: &str, step: impl FnOnce() -> Result<String>) {
        println!("{name} ...");
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(text) => println!("  ok, {seconds:.1} s {text}"),
            Err(error) => println!("  FAILED after {seconds:.1} s: {error:?}"),
        }
        self.lines.push(Line {
            name: name.to_owned(),
            seconds,
            outcome,
        });
    }

    fn print(&self) -> bool {
        println!("\n{:<66} {:>7}  outcome", "check", "seconds");
        for Line {
            name,
            seconds,
            outcome,
        } in &self.lines
        {
            let outcome = match outcome {
                Ok(text) if text.is_empty() => "ok".to_owned(),
                Ok(text) => format!("ok: {text}"),
                Err(error) => format!("FAILED: {}", error.to_string().lines().next().unwrap_or_default()),
            };
            println!("{name:<66} {seconds:>7.1}  {outcome}");
        }
        let failed = self.lines.iter().filter(|line| line.outcome.is_err()).count();
        println!("{} passed, {failed} failed", self.lines.len() - failed);
        failed == 0
    }
}

/// Adds what the services said to an error, unless all that is wrong is a figure.
pub(crate) fn with_logs<T>(stack: &Stack, result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.downcast::<Missed>() {
        Ok(missed) => missed.into(),
        Err(error) => anyhow::anyhow!("{error:?}\n{}", stack.logs()),
    })
}

fn quiet(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

fn answers(artifacts: &Artifacts, gpu: Gpu, programs: &[&str], report: &mut Report) {
    let which = match programs {
        [program] => program,
        _ => "every program",
    };
    let name = format!("answers: {which} is answered as by the native library");
    report.step(&name, || {
        let stack = Stack::start(artifacts, gpu, &[VmSpec::LOW])?;
        same::answers_are_the_native_librarys(&stack, 1, programs)
    });
}

fn socket(artifacts: &Artifacts, gpu: Gpu, report: &mut Report) {
    report.step("native: every program finds its results right", || {
        if gpu == Gpu::Nvidia {
            for program in checks::PROGRAMS {
                native(artifacts, program)?;
            }
        }
        Ok(String::new())
    });
    let stack = match Stack::start(artifacts, gpu, &[VmSpec::LOW, VmSpec::OTHER_LOW]) {
        Ok(stack) => stack,
        Err(error) => return report.step("the services start", || Err(error)),
    };
    let (mut one, mut other) = (Host::new(&stack, 1), Host::new(&stack, 2));
    report.step("socket: every program finds its results right", || {
        quiet(with_logs(&stack, checks::results_are_right(&mut one)))
    });
    report.step("socket: 20 runs in a row leave nothing", || {
        quiet(with_logs(&stack, checks::runs_in_a_row(&stack, 1, &mut one, 20)))
    });
    report.step("socket: a killed process leaves nothing", || {
        quiet(with_logs(
            &stack,
            checks::a_killed_process_leaves_nothing(&stack, 1, &mut one, &mut other),
        ))
    });
    report.step("socket: a fault stays alone", || {
        quiet(with_logs(
            &stack,
            checks::a_fault_stays_alone(&mut one, &mut other),
        ))
    });
    report.step("socket: a VM sees its own GPUs, memory and processes", || {
        let result =
            checks::a_vm_sees_its_own_gpus_memory_and_processes(&stack, (1, 2), &mut one, &mut other);
        quiet(with_logs(&stack, result))
    });
    report.step("socket: two VMs of one level take turns", || {
        quiet(with_logs(
            &stack,
            checks::two_machines_take_turns(&stack, (1, 2), &mut one, &mut other),
        ))
    });
    report.step(
        "socket: a running kernel is stopped for another VM and resumed, its result right",
        || {
            with_logs(
                &stack,
                checks::a_running_kernel_is_stopped_and_resumed(gpu, &mut one, &mut other),
            )
        },
    );
    if gpu == Gpu::Nvidia {
        report.step("socket: a fault's Xid is told to be its VM's", || {
            with_logs(&stack, checks::a_faults_error_is_told(&stack, 1))
        });
        report.step(
            "socket: an executor that does not answer is stopped by vgpud, its results right",
            || {
                let result = checks::a_silent_executor_is_stopped_by_vgpud(&stack, 1, &mut one, &mut other);
                with_logs(&stack, result)
            },
        );
    }
}

/// Runs a program on the machine's own library.
fn native(artifacts: &Artifacts, program: &str) -> Result<String> {
    let mut words = program.split(' ');
    let name = words.next().context("a program has a name")?;
    let output = Command::new(artifacts.program(name))
        .args(words)
        .env_remove("VGPU_SOCKET")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "native `{program}` ended with {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// The lines "name value unit" of `bench`.
fn parse_figures(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// `bench` natively and through the whole path, turn by turn: A B A B A B.
fn figures(artifacts: &Artifacts, report: &mut Report) {
    report.step(
        "figures: bench, native and through VGPU_SOCKET, three times each, alternating",
        || {
            let stack = Stack::start(artifacts, Gpu::Nvidia, &[VmSpec::LOW])?;
            let mut machine = Host::new(&stack, 1);
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                theirs.push(parse_figures(&native(artifacts, "bench 256")?));
                ours.push(parse_figures(&with_logs(&stack, machine.must("bench 256"))?));
            }
            println!(
                "  {:<28} {:>24} {:>24} {:>7} {:>15}",
                "figure (median, min-max)", "native", "vgpu", "ratio", "spread"
            );
            let mut summary = String::new();
            for name in theirs[0].keys() {
                let a: Vec<f64> = theirs.iter().filter_map(|run| run.get(name).copied()).collect();
                let b: Vec<f64> = ours.iter().filter_map(|run| run.get(name).copied()).collect();
                ensure!(a.len() == 3 && b.len() == 3, "figure {name} is missing in a run");
                let ratios: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b / a).collect();
                let (a, b, r) = (spread(&a), spread(&b), spread(&ratios));
                println!(
                    "  {name:<28} {:>10.3} {:>6.3}-{:<6.3} {:>10.3} {:>6.3}-{:<6.3} {:>6.2} {:>7.2}-{:<7.2}",
                    a.1, a.0, a.2, b.1, b.0, b.2, r.1, r.0, r.2
                );
                if matches!(
                    name.as_str(),
                    "launch_async" | "launch_sync_p50" | "pinned_h2d" | "pinned_d2h"
                ) {
                    summary += &format!("{name} x{:.2} ", r.1);
                }
            }
            Ok(summary)
        },
    );
}

/// Smallest, median and largest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1])
}

/// A high VM's short calls beside a low VM whose one-second kernels fill the GPU.
fn latency(artifacts: &Artifacts, gpu: Gpu, report: &mut Report) {
    let stack = match Stack::start(artifacts, gpu, &[VmSpec::LOW, VmSpec::HIGH]) {
        Ok(stack) => stack,
        Err(error) => return report.step("the services start", || Err(error)),
    };
    let (mut low, mut high) = (Host::new(&stack, 1), Host::new(&stack, 9));
    let calls = if gpu == Gpu::Nvidia { 300 } else { 30 };
    let long = if gpu == Gpu::Nvidia {
        "work 11000000 12 1056 256"
    } else {
        "work 100000 12 2 32"
    };
    let tell = |text: &str| {
        text.lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("latency: ")
            .to_owned()
    };
    if gpu == Gpu::Nvidia {
        report.step("latency: natively, alone", || {
            Ok(tell(&native(artifacts, &format!("latency {calls}"))?))
        });
    }
    report.step("latency: a high VM alone", || {
        Ok(tell(&with_logs(&stack, high.must(&format!("latency {calls}")))?))
    });
    report.step(
        "latency: a high VM beside a low VM's long kernels that fill the GPU",
        || {
            with_logs(
                &stack,
                (|| {
                    let busy = low.start(long)?;
                    low.wait_for_output(&busy, "running")?;
                    let text = high.must(&format!("latency {calls}"))?;
                    let still = Machine::said(&low, &busy);
                    ensure!(
                        !still.contains("right"),
                        "the low VM's work ended too early: {still}"
                    );
                    let busy = low.wait(busy)?;
                    ensure!(busy.success(), "the low VM's results: {}", busy.text);
                    Ok(format!(
                        "{}; low: {}",
                        tell(&text),
                        busy.text.lines().last().unwrap_or_default()
                    ))
                })(),
            )
        },
    );
    if gpu == Gpu::Nvidia {
        report.step(
            "latency: the same two programs natively, default time slicing",
            || {
                let mut words = long.split(' ');
                let mut busy = Command::new(artifacts.program(words.next().unwrap_or_default()));
                let mut busy = vgpu_vm::process::Process::spawn({
                    busy.args(words).stdout(std::process::Stdio::null());
                    busy
                })?;
                let text = native(artifacts, &format!("latency {calls}"));
                busy.kill();
                Ok(tell(&text?))
            },
        );
    }
}

fn virtual_machines(artifacts: &Artifacts, gpu: Gpu, report: &mut Report) {
    let started = Stack::start(artifacts, gpu, &[VmSpec::LOW, VmSpec::OTHER_LOW])
        .and_then(|stack| Ok((Pair::boot(&stack, (1, 2), 2048)?, stack)));
    let (mut pair, mut stack) = match started {
        Ok(started) => started,
        Err(error) => return report.step("vm: two VMs boot", || Err(error)),
    };
    report.step("vm: every program finds its results right", || {
        quiet(with_logs(&stack, checks::results_are_right(&mut pair.one)))
    });
    report.step(
        "vm: turns, kill, fault, reset in the middle of a DMA beside a working neighbour",
        || quiet(with_logs(&stack, pair.all_checks(&stack))),
    );
    let runs = if gpu == Gpu::Nvidia { 200 } else { 20 };
    report.step(&format!("vm: {runs} runs in a row leave nothing"), || {
        quiet(with_logs(
            &stack,
            checks::runs_in_a_row(&stack, 1, &mut pair.one, runs),
        ))
    });
    report.step("vm: eight processes at once, a fault beside them", || {
        let vm = &mut pair.one;
        let result = vm_checks::eight_processes_at_once_and_a_fault_beside_them(&stack, 1, vm);
        quiet(with_logs(&stack, result))
    });
    report.step(
        "vm: the driver's interface, and all that can be done to it",
        || {
            let vm = &mut pair.one;
            quiet(with_logs(
                &stack,
                vm_checks::the_drivers_interface_holds(&stack, 1, vm),
            ))
        },
    );
    report.step("vm: the driver goes and comes back", || {
        let vm = &mut pair.one;
        let result = vm_checks::the_module_can_be_reloaded(vm).and_then(|()| vm_checks::no_complaints(vm));
        quiet(with_logs(&stack, result))
    });
    drop(pair);
    let booted = builder(&stack, 1, 3072)
        .kernel_word(vm_checks::SHORT_WATCH)
        .boot();
    let mut vm = match booted {
        Ok(vm) => vm,
        Err(error) => return report.step("vm: a VM of 3 GiB boots", || Err(error.into())),
    };
    report.step("vm: 1 GiB of pinned memory, fresh and broken up", || {
        let result = vm_checks::pinned_memory_in_a_fresh_and_a_broken_up_guest(&stack, 1, &mut vm, 1024)
            .and_then(|()| vm_checks::no_complaints(&vm));
        quiet(with_logs(&stack, result))
    });
    report.step(
        "vm: a backend that dies under a program is replaced, and one that lives",
        || {
            let result = vm_checks::a_dead_backend_is_replaced(&mut stack, 1, &mut vm)
                .and_then(|()| vm_checks::no_complaints(&vm));
            quiet(with_logs(&stack, result))
        },
    );
}

/// The parts with these names; for none all but [`Part::Answers`] and [`Part::Sched`]. "sched" is all of the latter's parts, and
/// "answers:t0_graph" one program of the former.
pub fn parts(names: &[String]) -> Result<Vec<Part>> {
    if names.is_empty() {
        return Ok(vec![Part::Socket, Part::Figures, Part::Latency, Part::Vm]);
    }
    let mut parts = Vec::new();
    for name in names {
        match name.as_str() {
            "socket" => parts.push(Part::Socket),
            "figures" => parts.push(Part::Figures),
            "latency" => parts.push(Part::Latency),
            "vm" => parts.push(Part::Vm),
            "answers" => parts.push(Part::Answers(same::PROGRAMS)),
            "sched" => parts.extend(Sub::ALL.map(Part::Sched)),
            other => parts.push(sched_part(other).or_else(|| answers_part(other)).with_context(|| {
                let subs = Sub::ALL.map(|sub| format!("sched:{}", sub.name())).join(", ");
                let answers = same::PROGRAMS.join(", answers:");
                format!(
                    "no part {other:?}: expected socket, figures, latency, vm, answers, sched, {subs}, answers:{answers}"
                )
            })?),
        }
    }
    Ok(parts)
}

fn answers_part(name: &str) -> Option<Part> {
    let program = name.strip_prefix("answers:")?;
    let at = same::PROGRAMS.iter().position(|known| *known == program)?;
    Some(Part::Answers(&same::PROGRAMS[at..=at]))
}

fn sched_part(name: &str) -> Option<Part> {
    let name = name.strip_prefix("sched:")?;
    let sub = Sub::ALL.into_iter().find(|sub| sub.name() == name)?;
    Some(Part::Sched(sub))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_name() {
        let parts = |names: &[&str]| parts(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(
            parts(&["sched:burst", "vm"]).unwrap(),
            [Part::Sched(Sub::Burst), Part::Vm]
        );
        assert_eq!(parts(&["sched"]).unwrap().len(), Sub::ALL.len());
        assert!(!parts(&[]).unwrap().contains(&Part::Answers(same::PROGRAMS)));
        assert_eq!(
            parts(&["answers:t0_graph"]).unwrap(),
            [Part::Answers(&["t0_graph"])]
        );
        for wrong in ["sched:", "sched:socket", "levels", "answers:", "answers:vadd", ""] {
            let error = parts(&[wrong]).unwrap_err().to_string();
            assert!(
                error.contains("sched:levels") && error.contains("answers:t0_graph"),
                "{error}"
            );
        }
    }
}
