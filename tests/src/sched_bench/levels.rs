//! One high VM beside one low VM.
use anyhow::Result;

use super::figures::{Busy, KEPT, Latency, kept};
use super::mps::Mps;
use super::{ALONE_MS_MAX, Bench, Goal, HIGH, HIGH_GAP_MS, HIGH_US, Sizes, Sub};
use crate::crowd::Crowd;
use crate::gpu_tests::{Report, with_logs};
use crate::{Gpu, Host, Machine, VmSpec};

/// Microseconds of H's p99, whatever L's kernel length; percent of what H leaves that L keeps.
const P99_US: f64 = 500.0;
const KEPT_PERCENT: f64 = 90.0;
/// Of the calls that come right after another, in units of the same percentile while H is alone.
const BURST_TIMES: f64 = 2.0;

/// Kernels of every length, through the services, and natively under default time slices and under MPS.
pub fn levels(bench: &mut Bench<'_>, report: &mut Report) {
    let vms = [VmSpec::LOW, HIGH];
    let Some(stack) = bench.services(Sub::Levels, report, &vms, "", |_| String::new()) else {
        return;
    };
    let (mut low, mut high) = (Host::new(&stack, VmSpec::LOW.id), Host::new(&stack, HIGH.id));
    report.step("sched:levels: a high VM alone", || {
        with_logs(&stack, bench.high_alone("levels: alone", &mut high))
    });
    let mut alone = Vec::new();
    for &ms in bench.sizes.lengths {
        report.step(
            &format!("sched:levels: a high VM beside a low VM's kernels of {ms} ms"),
            || {
                with_logs(
                    &stack,
                    (|| {
                        let ms_alone = bench.alone_ms(&mut low, ms)?;
                        alone.push((ms, ms_alone));
                        let case = format!("levels: {ms} ms");
                        let (text, high_p99, kept) =
                            one_level(bench, &case, (ms, ms_alone), &mut low, &mut high)?;
                        bench.judge(
                            text,
                            &[
                                Goal::at_most("H's p99 in us", high_p99, P99_US),
                                Goal::at_least("L keeps, in %", kept, KEPT_PERCENT),
                            ],
                        )
                    })(),
                )
            },
        );
    }
    natively(bench, report, "natively, default time slices", &alone, || {
        Host::beside(&stack)
    });
    if bench.gpu == Gpu::Nvidia {
        match Mps::start() {
            Ok(mps) => natively(bench, report, "natively, under MPS", &alone, || {
                mps.host(bench.artifacts)
            }),
            Err(error) => report.step("sched:levels: MPS starts", || Err(error)),
        }
    }
}

/// The same two programs on the library that the services use.
fn natively(
    bench: &mut Bench<'_>,
    report: &mut Report,
    how: &str,
    alone: &[(u64, f64)],
    host: impl Fn() -> Host,
) {
    let (mut low, mut high) = (host(), host());
    report.step(&format!("sched:levels: {how}: alone"), || {
        bench.high_alone(&format!("levels: {how}: alone"), &mut high)
    });
    for &(ms, ms_alone) in alone {
        report.step(&format!("sched:levels: {how}: beside kernels of {ms} ms"), || {
            let case = format!("levels: {how}: {ms} ms");
            Ok(one_level(bench, &case, (ms, ms_alone), &mut low, &mut high)?.0)
        });
    }
}

/// H beside kernels of L which take `ms_alone`: in words, H's p99, and how much L kept. A native program's last long
/// kernel is not waited for; the guest's is, for its results.
fn one_level(
    bench: &mut Bench<'_>,
    case: &str,
    (ms, ms_alone): (u64, f64),
    low: &mut Host,
    high: &mut Host,
) -> Result<(String, f64, f64)> {
    let command = bench.busy(low, ms)?;
    let cut_short = case.contains("natively") && ms > ALONE_MS_MAX;
    let mut crowd = Crowd::ready(std::slice::from_mut(low), &[command], 1)?;
    let (latency, done) = if cut_short {
        crowd.begin()?;
        let said = high.must(&bench.latency())?;
        crowd.kill()?;
        (Latency::of(&said)?, Vec::new())
    } else {
        bench.beside(crowd, high)?
    };
    let mut figures = latency.figures().to_vec();
    figures.push(("low_alone_ms", ms_alone));
    let Some(done) = done.first() else {
        bench.figures.add(case, &figures);
        return Ok((latency.to_string(), latency.p99, f64::NAN));
    };
    let kept = kept(&[*done], ms_alone, &latency);
    let Busy { kernels, seconds } = *done;
    figures.extend([("low_kernels", kernels), ("low_s", seconds), (KEPT, kept)]);
    bench.figures.add(case, &figures);
    let text = format!(
        "{latency}; L {kernels} kernels of {ms_alone:.2} ms alone in {seconds:.2} s, keeps {kept:.1}%"
    );
    Ok((text, latency.p99, kept))
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
