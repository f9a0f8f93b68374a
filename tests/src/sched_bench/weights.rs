//! GPU time in proportion to weights.
use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::figures::Busy;
use super::{Bench, Goal, Sub, low_vms};
use crate::crowd::Crowd;
use crate::gpu_tests::{Report, with_logs};
use crate::{Host, Stack, VmSpec};

/// Of the VMs 1, 2 and 3.
const WEIGHTS: [u32; 3] = [1, 2, 4];
/// Percent by which a VM's GPU time may differ from its part.
const ERROR: f64 = 5.0;

/// Three VMs that are always busy.
pub fn weights(bench: &mut Bench<'_>, report: &mut Report) {
    let vms: Vec<VmSpec> = low_vms(WEIGHTS.len() as u32).collect();
    let own = |vm: VmSpec| format!("weight = {}", WEIGHTS[vm.id as usize - 1]);
    let Some(stack) = bench.services(Sub::Weights, report, &vms, "policy = \"weighted\"", own) else {
        return;
    };
    report.step(
        "sched:weights: three busy VMs of weights 1, 2 and 4 in a weighted pool",
        || with_logs(&stack, shares(bench, &stack, &vms)),
    );
}

fn shares(bench: &mut Bench<'_>, stack: &Stack, vms: &[VmSpec]) -> Result<String> {
    let mut hosts: Vec<Host> = vms.iter().map(|vm| Host::new(stack, vm.id)).collect();
    let alone = bench.alone_ms(&mut hosts[0], bench.sizes.many_ms)?;
    let command = bench.busy(&mut hosts[0], bench.sizes.many_ms)?;
    let mut crowd = Crowd::ready(&mut hosts, &[command], 1)?;
    crowd.begin()?;
    let before = gpu_microseconds(stack)?;
    std::thread::sleep(bench.sizes.shares);
    let after = gpu_microseconds(stack)?;
    let done: Result<Vec<Busy>> = crowd.end()?.iter().map(|text| Busy::of(text)).collect();
    let done = done?;
    let used = vms.iter().map(|vm| {
        let at = |of: &BTreeMap<u32, u64>| of.get(&vm.id).copied().unwrap_or_default();
        at(&after).saturating_sub(at(&before)) as f64
    });
    let used: Vec<f64> = used.collect();
    let kernels: Vec<f64> = done.iter().map(|one| one.kernels).collect();
    let (time_error, kernels_error) = (worst_error(&used), worst_error(&kernels));
    let ran = done.iter().map(|one| one.seconds).fold(0.0, f64::max);
    let together = 100.0 * kernels.iter().sum::<f64>() * alone / 1e3 / ran;
    bench.figures.add(
        "weights 1:2:4",
        &[
            ("gpu_us_1", used[0]),
            ("gpu_us_2", used[1]),
            ("gpu_us_4", used[2]),
            ("kernels_1", kernels[0]),
            ("kernels_2", kernels[1]),
            ("kernels_4", kernels[2]),
            ("time_error_percent", time_error),
            ("kernels_error_percent", kernels_error),
            ("together_percent_of_one_alone", together),
        ],
    );
    bench.judge(
        format!(
            "GPU time {} ms, off by {time_error:.1}%; kernels {}, off by {kernels_error:.1}%; together {together:.1}% of one alone",
            ratio(used.iter().map(|us| us / 1e3)),
            ratio(kernels.iter().copied())
        ),
        &[Goal::at_most("error of the GPU time in %", time_error, ERROR)],
    )
}

/// By VM.
fn gpu_microseconds(stack: &Stack) -> Result<BTreeMap<u32, u64>> {
    let pools = stack.status()?.pools;
    let pool = pools.into_iter().next().context("no pool in the status")?;
    Ok(pool.vms.iter().map(|vm| (vm.vm, vm.gpu_microseconds)).collect())
}

/// The largest difference of a part from that which its weight says, in percent of the latter.
fn worst_error(parts: &[f64]) -> f64 {
    let all: f64 = parts.iter().sum();
    let weights: u32 = WEIGHTS.iter().sum();
    let error = |(part, weight): (&f64, &u32)| {
        let wanted = all * f64::from(*weight) / f64::from(weights);
        100.0 * (part - wanted).abs() / wanted
    };
    parts.iter().zip(&WEIGHTS).map(error).fold(0.0, f64::max)
}

fn ratio(parts: impl Iterator<Item = f64>) -> String {
    parts
        .map(|part| format!("{part:.0}"))
        .collect::<Vec<_>>()
        .join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_relative_to_the_part_that_the_weight_says() {
        assert_eq!(worst_error(&[10.0, 20.0, 40.0]), 0.0);
        // A seventh of 70 is 10, and it got 15.
        assert_eq!(worst_error(&[15.0, 20.0, 35.0]), 50.0);
    }
}
