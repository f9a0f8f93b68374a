//! One high VM beside one low VM.
use anyhow::{Context, Result};
use vgpu_vm::Vm;

use super::figures::{Busy, KEPT, Latency, kept};
use super::mps::Mps;
use super::{ALONE_MS_MAX, Bench, Goal, HIGH, HIGH_GAP_MS, HIGH_US, Sizes, Sub};
use crate::crowd::Crowd;
use crate::gpu_tests::{Report, with_logs};
use crate::{Gpu, Host, Machine, Stack, VmSpec, boot};

/// Microseconds of H's p99, whatever L's kernel length; percent of what H leaves that L keeps.
const P99_US: f64 = 500.0;
const KEPT_PERCENT: f64 = 90.0;
/// Of the calls that come right after another, in units of the same percentile while H is alone.
const BURST_TIMES: f64 = 2.0;
/// Memory of a VM that is booted.
const MEMORY_MIB: u32 = 1024;

/// Kernels of every length, through the services.
pub fn levels(bench: &mut Bench<'_>, report: &mut Report) {
    let vms = [VmSpec::LOW, HIGH];
    let Some(stack) = bench.services(Sub::Levels, report, &vms, "", |_| String::new()) else {
        return;
    };
    let (mut low, mut high) = (Host::new(&stack, VmSpec::LOW.id), Host::new(&stack, HIGH.id));
    let seconds = bench.sizes.seconds;
    report.step("sched:levels: a high VM alone", || {
        with_logs(&stack, bench.high("levels: alone", &mut high, seconds))
    });
    for &ms in bench.sizes.lengths {
        report.step(
            &format!("sched:levels: a high VM beside a low VM's kernels of {ms} ms"),
            || {
                let result = Length::known(bench, &mut low, ms).and_then(|length| {
                    let case = format!("levels: {ms} ms");
                    let measured = beside(bench, &case, length, &mut low, &mut high, seconds)?;
                    bench.judge(
                        measured.text,
                        &[
                            Goal::at_most("H's p99 in us", measured.latency.p99, P99_US),
                            Goal::at_least("L keeps, in %", measured.kept, KEPT_PERCENT),
                        ],
                    )
                });
                with_logs(&stack, result)
            },
        );
    }
}

/// The same two programs on the library that the services use, which shares the GPU by its default time slices.
pub fn native(bench: &mut Bench<'_>, report: &mut Report) {
    let Some(stack) = bench.services(Sub::Native, report, &[VmSpec::LOW], "", |_| String::new()) else {
        return;
    };
    without_services(bench, report, Sub::Native, || Host::beside(&stack), String::new);
}

/// The same two programs as clients of NVIDIA's Multi-Process Service.
pub fn mps(bench: &mut Bench<'_>, report: &mut Report) {
    if bench.gpu == Gpu::Software {
        return println!("sched:mps: left out, the software GPU has no such service");
    }
    match Mps::start() {
        Ok(mps) => {
            let artifacts = bench.artifacts;
            without_services(bench, report, Sub::Mps, || mps.host(artifacts), || mps.logs());
        }
        Err(error) => report.step("sched:mps: it starts", || Err(error)),
    }
}

/// Kernels of every length on a library that no service stands before. L's last kernel is not waited for if it is long.
/// `logs` is added to an error.
fn without_services(
    bench: &mut Bench<'_>,
    report: &mut Report,
    sub: Sub,
    host: impl Fn() -> Host,
    logs: impl Fn() -> String,
) {
    let with_logs = |result: Result<String>| result.map_err(|error| anyhow::anyhow!("{error:?}\n{}", logs()));
    let (mut low, mut high) = (host(), host());
    let (name, seconds) = (sub.name(), bench.sizes.seconds_to_compare);
    report.step(&format!("sched:{name}: H alone"), || {
        with_logs(bench.high(&format!("{name}: alone"), &mut high, seconds))
    });
    for &ms in bench.sizes.lengths {
        let case = format!("{name}: {ms} ms");
        report.step(&format!("sched:{name}: H beside L's kernels of {ms} ms"), || {
            let result = Length::known(bench, &mut low, ms).and_then(|length| {
                if ms <= ALONE_MS_MAX {
                    return Ok(beside(bench, &case, length, &mut low, &mut high, seconds)?.text);
                }
                let command = bench.busy(&mut low, ms)?;
                let mut crowd = Crowd::ready(std::slice::from_mut(&mut low), &[command], 1)?;
                crowd.begin()?;
                let text = bench.high(&case, &mut high, seconds);
                crowd.kill()?;
                text
            });
            with_logs(result)
        });
    }
}

/// Programs of two VMs that are booted. Their emulated CPUs are part of what is seen, so it is not judged.
pub fn in_vms(bench: &mut Bench<'_>, report: &mut Report) {
    let vms = [VmSpec::LOW, HIGH];
    let Some(stack) = bench.services(Sub::InVms, report, &vms, "", |_| String::new()) else {
        return;
    };
    let (mut low, mut high) = match boot_both(&stack, vms) {
        Ok(both) => both,
        Err(error) => return report.step("sched:invms: two VMs boot", || Err(error)),
    };
    let seconds = bench.sizes.seconds_to_compare;
    report.step("sched:invms: a program of a high VM alone", || {
        with_logs(&stack, bench.high("invms: alone", &mut high, seconds))
    });
    for &ms in bench.sizes.lengths.iter().filter(|ms| **ms <= ALONE_MS_MAX) {
        report.step(
            &format!("sched:invms: a program of a high VM beside a low VM's kernels of {ms} ms"),
            || {
                let result = Length::of(bench, &mut low, ms).and_then(|length| {
                    let case = format!("invms: {ms} ms");
                    Ok(beside(bench, &case, length, &mut low, &mut high, seconds)?.text)
                });
                with_logs(&stack, result)
            },
        );
    }
}

fn boot_both(stack: &Stack, vms: [VmSpec; 2]) -> Result<(Vm, Vm)> {
    std::thread::scope(|scope| {
        let first = scope.spawn(|| boot(stack, vms[0].id, MEMORY_MIB));
        let second = boot(stack, vms[1].id, MEMORY_MIB)?;
        Ok((first.join().ok().context("booting a VM panicked")??, second))
    })
}

/// Kernels of L.
#[derive(Clone, Copy)]
pub struct Length {
    ms: u64,
    /// What one takes while L is alone, in milliseconds.
    alone: f64,
}

impl Length {
    /// Measures it.
    fn of<M: Machine>(bench: &mut Bench<'_>, low: &mut M, ms: u64) -> Result<Self> {
        let alone = bench.alone_ms(low, ms)?;
        Ok(Self { ms, alone })
    }

    /// That which was measured before, if it was: so all ways of sharing are compared with one figure. That of a very long
    /// kernel follows from a shorter one's.
    fn known(bench: &mut Bench<'_>, low: &mut Host, ms: u64) -> Result<Self> {
        let measured = ms.min(ALONE_MS_MAX / 2);
        let length = match bench.lengths.iter().find(|known| known.ms == measured) {
            Some(known) => *known,
            None => {
                let length = Self::of(bench, low, measured)?;
                bench.lengths.push(length);
                length
            }
        };
        let alone = length.alone * ms as f64 / measured as f64;
        Ok(Self { ms, alone })
    }
}

/// H and L at once.
struct Beside {
    text: String,
    latency: Latency,
    /// What L kept of what H left, in percent.
    kept: f64,
}

/// Measures H beside such kernels of L, whose results must be right.
fn beside<L: Machine, H: Machine>(
    bench: &mut Bench<'_>,
    case: &str,
    length: Length,
    low: &mut L,
    high: &mut H,
    seconds: u32,
) -> Result<Beside> {
    let command = bench.busy(low, length.ms)?;
    let crowd = Crowd::ready(std::slice::from_mut(low), &[command], 1)?;
    let (latency, done) = bench.beside(crowd, high, seconds)?;
    let done = done.first().context("no low program")?;
    let kept = kept(done, length.alone, &latency);
    let Busy { kernels, seconds } = *done;
    let mut figures = latency.figures().to_vec();
    figures.extend([
        (KEPT, kept),
        ("low_alone_ms", length.alone),
        ("low_kernels", kernels),
        ("low_s", seconds),
    ]);
    bench.figures.add(case, &figures);
    let alone = length.alone;
    let text =
        format!("{latency}; L {kernels} kernels of {alone:.2} ms alone in {seconds:.2} s, keeps {kept:.1}%");
    Ok(Beside { text, latency, kept })
}

/// H calls often and without a pause in between, beside short and long kernels.
pub fn burst(bench: &mut Bench<'_>, report: &mut Report) {
    let vms = [VmSpec::LOW, HIGH];
    let Some(stack) = bench.services(Sub::Burst, report, &vms, "", |_| String::new()) else {
        return;
    };
    let (mut low, mut high) = (Host::new(&stack, VmSpec::LOW.id), Host::new(&stack, HIGH.id));
    let Sizes {
        calls,
        seconds,
        burst,
        lengths,
        ..
    } = bench.sizes;
    // The pause is long enough for the low VM to be on its own again.
    let gap = 10 * HIGH_GAP_MS;
    let command = format!("latency {calls} {HIGH_US} {gap} {burst} {seconds}");
    let mut alone = None;
    report.step(
        &format!("sched:burst: {burst} calls at once, a high VM alone"),
        || {
            let later = Latency::of_later(&with_logs(&stack, high.must(&command))?)?;
            bench.figures.add("burst: alone", &later.figures());
            alone = Some(later);
            Ok(format!("later calls: {later}"))
        },
    );
    let Some(alone) = alone else { return };
    for &ms in lengths.iter().filter(|ms| **ms <= ALONE_MS_MAX) {
        report.step(
            &format!("sched:burst: {burst} calls at once beside kernels of {ms} ms"),
            || {
                with_logs(
                    &stack,
                    (|| {
                        let busy = bench.busy(&mut low, ms)?;
                        let mut crowd = Crowd::ready(std::slice::from_mut(&mut low), &[busy], 1)?;
                        crowd.begin()?;
                        let said = high.must(&command)?;
                        crowd.end()?;
                        let (all, later) = (Latency::of(&said)?, Latency::of_later(&said)?);
                        let times = (later.p50 / alone.p50, later.p99 / alone.p99);
                        let mut figures = later.figures().to_vec();
                        figures.extend([("p50_of_alone", times.0), ("p99_of_alone", times.1)]);
                        bench.figures.add(&format!("burst: {ms} ms"), &figures);
                        bench.judge(
                            format!(
                                "later calls: {later}, x{:.2} and x{:.2} of those alone; all: {all}",
                                times.0, times.1
                            ),
                            &[
                                Goal::at_most("later calls' p50, of that alone", times.0, BURST_TIMES),
                                Goal::at_most("later calls' p99, of that alone", times.1, BURST_TIMES),
                            ],
                        )
                    })(),
                )
            },
        );
    }
}
