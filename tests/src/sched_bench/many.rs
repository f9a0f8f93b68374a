//! One high VM beside many low sessions.
use anyhow::{Result, ensure};

use super::figures::{Busy, KEPT, Latency, number, together};
use super::{Bench, Goal, HIGH, Sub, low_vms};
use crate::crowd::Crowd;
use crate::gpu_tests::{Report, with_logs};
use crate::{Host, Machine, Stack, VmSpec, builder};

/// Microseconds of H's p99; percent of one session's throughput that all keep together; the fewest kernels of one of them,
/// in percent of the most.
const P99_US: f64 = 600.0;
const KEPT_PERCENT: f64 = 90.0;
const EVEN: f64 = 80.0;
/// Microseconds of H's p99 beside tenants that keep the driver busy.
const HEAVY_P99_US: f64 = 1500.0;
/// The limit that rations them, in calls a second.
pub const DRIVER_CALL_RATE: u32 = 20;
/// Memory of the VM that many programs run in.
const MEMORY_MIB: u32 = 2048;
const CPUS: u32 = 4;

/// So many sessions in as many VMs.
pub fn many(bench: &mut Bench<'_>, report: &mut Report) {
    let most = bench.sizes.sessions.iter().max().copied().unwrap_or(1);
    let vms: Vec<VmSpec> = low_vms(most).chain([HIGH]).collect();
    let Some(stack) = bench.services(Sub::Many, report, &vms, "", |_| String::new()) else {
        return;
    };
    let mut low: Vec<Host> = low_vms(most).map(|vm| Host::new(&stack, vm.id)).collect();
    for &sessions in bench.sizes.sessions {
        report.step(
            &format!("sched:many: a high VM beside {sessions} low VMs that are always busy"),
            || {
                let case = format!("many: {sessions} VMs");
                let low = &mut low[..sessions as usize];
                with_logs(&stack, sessions_beside(bench, &stack, &case, low, 1))
            },
        );
    }
}

/// So many sessions in one VM.
pub fn one_vm(bench: &mut Bench<'_>, report: &mut Report) {
    let Some(stack) = bench.services(Sub::OneVm, report, &[VmSpec::LOW, HIGH], "", |_| String::new()) else {
        return;
    };
    let booted = builder(&stack, VmSpec::LOW.id, MEMORY_MIB).smp(CPUS).boot();
    let mut vm = match booted {
        Ok(vm) => [vm],
        Err(error) => return report.step("sched:onevm: the VM boots", || Err(error.into())),
    };
    for &sessions in bench.sizes.sessions_in_one {
        report.step(
            &format!("sched:onevm: a high VM beside {sessions} busy programs of one low VM"),
            || {
                let case = format!("onevm: {sessions} programs");
                with_logs(
                    &stack,
                    sessions_beside(bench, &stack, &case, &mut vm, sessions as usize),
                )
            },
        );
    }
}

/// H beside `each` busy programs in every one of the machines.
fn sessions_beside<M: Machine>(
    bench: &mut Bench<'_>,
    stack: &Stack,
    case: &str,
    machines: &mut [M],
    each: usize,
) -> Result<String> {
    let ms = bench.sizes.many_ms;
    let alone = bench.alone_ms(&mut machines[0], ms)?;
    let command = bench.busy(&mut machines[0], ms)?;
    let crowd = Crowd::ready(machines, &[command], each)?;
    let (latency, low) = bench.beside(crowd, &mut Host::new(stack, HIGH.id), bench.sizes.seconds)?;
    let together = together(&low, alone, &latency);
    let kernels = |pick: fn(f64, f64) -> f64, from: f64| low.iter().map(|one| one.kernels).fold(from, pick);
    let (least, most) = (kernels(f64::min, f64::INFINITY), kernels(f64::max, 0.0));
    let even = 100.0 * least / most;
    ensure!(least > 0.0, "a session did nothing: {low:?}");
    let mut figures = latency.figures().to_vec();
    figures.extend([
        ("low_alone_ms", alone),
        (KEPT, together),
        ("fewest_kernels", least),
        ("most_kernels", most),
    ]);
    bench.figures.add(case, &figures);
    bench.judge(
        format!(
            "{latency}; together {together:.1}% of one alone, {least:.0} to {most:.0} kernels of {alone:.2} ms each"
        ),
        &[
            Goal::at_most("H's p99 in us", latency.p99, P99_US),
            Goal::at_least("together, in % of one alone", together, KEPT_PERCENT),
            Goal::at_least("fewest kernels, in % of the most", even, EVEN),
        ],
    )
}

/// Tenants of the same level that loop driver-heavy calls and copies, beside one that computes; with a limit on the rate
/// of such calls, or none.
pub fn heavy(bench: &mut Bench<'_>, report: &mut Report, driver_call_rate: Option<u32>) {
    let (sub, limit) = match driver_call_rate {
        Some(rate) => (Sub::Rationed, format!("driver_call_rate = {rate}")),
        None => (Sub::Heavy, String::new()),
    };
    let (copied, churned) = (bench.sizes.copied_mib, bench.sizes.churned_mib);
    let churns = [
        "churn contexts".to_owned(),
        format!("churn memory {churned}"),
        format!("churn pinned {churned}"),
        format!("churn copies {copied}"),
    ];
    let vms: Vec<VmSpec> = low_vms(1 + churns.len() as u32).chain([HIGH]).collect();
    let own = |vm: VmSpec| {
        if vm.id == HIGH.id {
            String::new()
        } else {
            limit.clone()
        }
    };
    let Some(stack) = bench.services(sub, report, &vms, "", own) else {
        return;
    };
    let name = format!(
        "sched:{}: a high VM beside a busy one, copies of {copied} MiB, and loops of contexts, memory and pinned memory",
        sub.name()
    );
    report.step(&name, || {
        with_logs(&stack, heavy_beside(bench, &stack, sub, &churns))
    });
}

fn heavy_beside(bench: &mut Bench<'_>, stack: &Stack, sub: Sub, churns: &[String]) -> Result<String> {
    let mut busy = Host::new(stack, VmSpec::LOW.id);
    let mut hosts: Vec<Host> = low_vms(1 + churns.len() as u32)
        .skip(1)
        .map(|vm| Host::new(stack, vm.id))
        .collect();
    let alone = bench.alone_ms(&mut busy, bench.sizes.many_ms)?;
    let command = bench.busy(&mut busy, bench.sizes.many_ms)?;
    let mut crowds = Vec::new();
    for (host, churn) in hosts.iter_mut().zip(churns) {
        crowds.push(Crowd::ready(
            std::slice::from_mut(host),
            std::slice::from_ref(churn),
            1,
        )?);
    }
    let low = Crowd::ready(std::slice::from_mut(&mut busy), &[command], 1)?;
    crowds.iter_mut().try_for_each(Crowd::begin)?;
    let (latency, low): (Latency, Vec<Busy>) =
        bench.beside(low, &mut Host::new(stack, HIGH.id), bench.sizes.seconds)?;
    let kernels: f64 = low.iter().map(|one| one.kernels).sum();
    let mut figures = latency.figures().to_vec();
    figures.extend([("low_alone_ms", alone), ("low_kernels", kernels)]);
    let mut rates = Vec::new();
    for (crowd, churn) in crowds.into_iter().zip(churns) {
        for said in crowd.end()? {
            let said = said.lines().last().unwrap_or_default();
            let rate = number(said, "churn:")? / number(said, "in")?;
            let what = churn.split(' ').nth(1).unwrap_or_default();
            rates.push((format!("{what}_per_s"), rate));
        }
    }
    figures.extend(rates.iter().map(|(name, rate)| (name.as_str(), *rate)));
    bench.figures.add(sub.name(), &figures);
    let rates: Vec<String> = rates
        .iter()
        .map(|(name, rate)| format!("{name} {rate:.1}"))
        .collect();
    bench.judge(
        format!(
            "{latency}; L {kernels:.0} kernels of {alone:.2} ms; {}",
            rates.join(", ")
        ),
        &[Goal::at_most("H's p99 in us", latency.p99, HEAVY_P99_US)],
    )
}
