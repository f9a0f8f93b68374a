//! What is stopped and resumed computes what it would have computed undisturbed.
use anyhow::{Result, ensure};

use super::{Bench, Sub};
use crate::gpu_tests::{Report, with_logs};
use crate::{Gpu, Host, Machine, Stack, VmSpec};

/// How many the program prints.
const RESULTS: usize = 7;

/// Two VMs of one level run the same program at once, whose kernels are longer than their turns.
pub fn exact(bench: &mut Bench<'_>, report: &mut Report) {
    let vms = [VmSpec::LOW, VmSpec::OTHER_LOW];
    let Some(stack) = bench.services(Sub::Exact, report, &vms, "", |_| String::new()) else {
        return;
    };
    report.step(
        "sched:exact: kernels, a graph, atomics and streams give the same results when they are stopped",
        || with_logs(&stack, results_are_exact(bench, &stack)),
    );
}

fn results_are_exact(bench: &mut Bench<'_>, stack: &Stack) -> Result<String> {
    // Kernels of about 100 ms that fill the GPU; atomics of about as long, which is not known so well.
    let program = match bench.gpu {
        Gpu::Nvidia => "exact 1091200 1056 256 4 2500",
        Gpu::Software => "exact 60000 2 32 2 20000",
    };
    let (mut one, mut other) = (
        Host::new(stack, VmSpec::LOW.id),
        Host::new(stack, VmSpec::OTHER_LOW.id),
    );
    let alone = one.must(program)?;
    let native = Host::beside(stack).must(program)?;
    ensure!(
        hashes(&native) == hashes(&alone) && hashes(&alone).len() == RESULTS,
        "natively:\n{native}alone in a VM:\n{alone}"
    );
    let from = stack.turns(0)?.last().map_or(0, |turn| turn.number + 1);
    let jobs = (one.start(program)?, other.start(program)?);
    for ended in [one.wait(jobs.0)?, other.wait(jobs.1)?] {
        ensure!(ended.success(), "it ended with {}: {}", ended.status, ended.text);
        ensure!(
            hashes(&ended.text) == hashes(&alone),
            "alone:\n{alone}when stopped:\n{}",
            ended.text
        );
    }
    let turns = stack.turns(from)?;
    let stopped = turns
        .iter()
        .filter(|turn| turn.end.as_deref() == Some("stopped"))
        .count();
    ensure!(stopped > 0, "nothing was stopped in {} turns", turns.len());
    bench.figures.add(
        "exact",
        &[
            ("results", RESULTS as f64),
            ("stopped", stopped as f64),
            ("turns", turns.len() as f64),
        ],
    );
    Ok(format!(
        "{RESULTS} results twice, {stopped} of {} turns ended by a stop",
        turns.len()
    ))
}

/// What the program found, without how long it took.
fn hashes(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("exact: ") && line.split(' ').count() == 3)
        .collect()
}
