//! A VM that asks for more than it may, beside one that must not notice.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vgpu_sched_api::messages::{EventKind, Priority, VmStats};

use super::figures::{Latency, number};
use super::{Bench, Goal, HIGH, HIGH_GAP_MS, HIGH_US, Sub};
use crate::crowd::Crowd;
use crate::gpu_tests::{Report, with_logs};
use crate::{Gpu, Host, Machine, Stack, VmSpec};

/// Whose limits are broken, an honest VM of its level, and one whose latency is measured, as that of [`HIGH`] is.
const FLOODER: VmSpec = VmSpec::LOW;
const HONEST: VmSpec = VmSpec::OTHER_LOW;
const EQUAL: VmSpec = VmSpec {
    id: 3,
    priority: Priority::Low,
};
/// A bystander's p99 beside the flooder, in units of that beside the honest VM.
const TIMES: f64 = 1.2;
/// How often a VM's queue is looked at.
const LOOK: Duration = Duration::from_millis(10);

const CALL_RATE: u32 = 1000;
const CALL_BURST: u32 = 100;
const QUEUE_DEPTH: u32 = 64;
const KERNEL_MS: u32 = 2000;

/// One kind of flood.
struct Case {
    name: &'static str,
    /// In the table of the VM that floods.
    limit: String,
    flood: String,
    honest: String,
    /// H's calls while it goes on.
    calls: u32,
    /// The flooder ends by itself.
    ends: bool,
    /// What its VM's statistics tell before it is told to end.
    counted: fn(&VmStats) -> bool,
}

/// What a flooder printed last, and the most operations of its VM that were seen in flight.
struct Seen {
    said: String,
    queued: u64,
}

impl Case {
    /// Starts services with this limit, and measures both bystanders; `check` looks at what the flooder did.
    fn run(
        &self,
        bench: &mut Bench<'_>,
        report: &mut Report,
        sub: Sub,
        check: impl Fn(&Bench<'_>, &Stack, &Seen) -> Result<String>,
    ) {
        let own = |vm: VmSpec| {
            if vm.id == FLOODER.id {
                self.limit.clone()
            } else {
                String::new()
            }
        };
        let Some(stack) = bench.services(sub, report, &[FLOODER, HONEST, EQUAL, HIGH], "", own) else {
            return;
        };
        for (bystander, level) in [(HIGH, "high"), (EQUAL, "equal")] {
            let name = format!(
                "sched:{}: {} beside a bystander of {level} level",
                sub.name(),
                self.name
            );
            report.step(&name, || {
                with_logs(&stack, self.beside(bench, &stack, bystander, level, &check))
            });
        }
    }

    fn beside(
        &self,
        bench: &mut Bench<'_>,
        stack: &Stack,
        bystander: VmSpec,
        level: &str,
        check: impl Fn(&Bench<'_>, &Stack, &Seen) -> Result<String>,
    ) -> Result<String> {
        let (honest, _) = self.measure(bench, stack, bystander, HONEST, &self.honest)?;
        let (flooded, seen) = self.measure(bench, stack, bystander, FLOODER, &self.flood)?;
        let times = flooded.p99 / honest.p99;
        let mut figures = flooded.figures().to_vec();
        figures.extend([
            ("honest_p50_us", honest.p50),
            ("honest_p99_us", honest.p99),
            ("p99_of_honest", times),
            ("queued_max", seen.queued as f64),
        ]);
        bench.figures.add(&format!("{}: {level}", self.name), &figures);
        let found = check(bench, stack, &seen)?;
        bench.judge(
            format!("beside it {flooded}; beside an honest one {honest}: x{times:.2}; {found}"),
            &[Goal::at_most("p99, of that beside an honest VM", times, TIMES)],
        )
    }

    /// A bystander's latency beside a VM that runs this.
    fn measure(
        &self,
        bench: &Bench<'_>,
        stack: &Stack,
        bystander: VmSpec,
        neighbour: VmSpec,
        command: &str,
    ) -> Result<(Latency, Seen)> {
        let mut host = Host::new(stack, neighbour.id);
        let mut crowd = Crowd::ready(std::slice::from_mut(&mut host), &[command.to_owned()], 1)?;
        crowd.begin()?;
        let calls = self.calls.min(bench.sizes.calls);
        let latency = format!(
            "latency {calls} {HIGH_US} {HIGH_GAP_MS} 1 {}",
            bench.sizes.seconds
        );
        let (latency, queued) = watched(stack, neighbour, || {
            Latency::of(&Host::new(stack, bystander.id).must(&latency)?)
        })?;
        let floods = neighbour.id == FLOODER.id;
        if floods && !self.ends {
            stack.until("the flood is counted", |stack| {
                stack.stats(FLOODER.id).is_ok_and(|stats| (self.counted)(&stats))
            })?;
        }
        let said = if floods && self.ends {
            crowd.wait()?
        } else {
            crowd.end()?
        };
        let said = said.first().and_then(|text| text.lines().last());
        let said = said.context("the neighbour printed nothing")?.to_owned();
        Ok((latency, Seen { said, queued }))
    }
}

/// Does something while a VM's operations in flight are looked at; the most there were.
fn watched<T>(stack: &Stack, vm: VmSpec, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                let pools = stack.status()?.pools;
                let queued = pools
                    .iter()
                    .flat_map(|pool| &pool.vms)
                    .filter(|one| one.vm == vm.id)
                    .map(|one| one.queued);
                most = queued.fold(most, u64::max);
                std::thread::sleep(LOOK);
            }
            anyhow::Ok(most)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let most = watch.join().ok().context("watching panicked")?;
        Ok((result?, most?))
    })
}

/// Calls without end.
pub fn calls(bench: &mut Bench<'_>, report: &mut Report) {
    let case = Case {
        name: "100,000 calls a second where 1,000 may come",
        limit: format!("call_rate = {CALL_RATE}\ncall_burst = {CALL_BURST}"),
        flood: "flood calls 100000".to_owned(),
        honest: format!("flood calls {}", CALL_RATE * 9 / 10),
        calls: 200,
        ends: false,
        counted: |stats| stats.throttled_us > 0,
    };
    case.run(bench, report, Sub::Calls, |_, _, seen| {
        let (made, seconds) = (number(&seen.said, "flood:")?, number(&seen.said, "in")?);
        let allowed = f64::from(CALL_RATE) * seconds + f64::from(CALL_BURST);
        ensure!(
            made <= allowed,
            "{made} calls in {seconds} s where {allowed:.0} may be"
        );
        Ok(format!("it made {:.0} calls a second", made / seconds))
    });
}

/// A queue without end.
pub fn queue(bench: &mut Bench<'_>, report: &mut Report) {
    let queued = match bench.gpu {
        Gpu::Nvidia => 10_000,
        Gpu::Software => 1000,
    };
    let case = Case {
        name: "thousands queued where 64 may be",
        limit: format!("queue_depth = {QUEUE_DEPTH}"),
        flood: format!("flood queue {queued} 100"),
        honest: format!("flood queue {} 100", QUEUE_DEPTH - 4),
        calls: 200,
        ends: false,
        counted: |_| true,
    };
    case.run(bench, report, Sub::Queue, |_, _, seen| {
        ensure!(
            seen.queued <= u64::from(QUEUE_DEPTH),
            "{} were queued where {QUEUE_DEPTH} may be",
            seen.queued
        );
        Ok(format!("{} queued at most", seen.queued))
    });
}

/// Memory without end.
pub fn memory(bench: &mut Bench<'_>, report: &mut Report) {
    let mib = match bench.gpu {
        Gpu::Nvidia => 4096,
        Gpu::Software => 512,
    };
    let case = Case {
        name: "allocating to the limit in a loop",
        limit: format!("gpu_memory_mib = {mib}"),
        flood: "flood memory 64".to_owned(),
        honest: "churn memory 64".to_owned(),
        calls: 200,
        ends: false,
        counted: |stats| stats.refused > 0,
    };
    case.run(bench, report, Sub::Memory, |_, _, seen| {
        let (from, to) = (number(&seen.said, "from")?, number(&seen.said, "to")?);
        let total = number(&seen.said, "total")?;
        ensure!(total == f64::from(mib), "cuMemGetInfo says {total} MiB in all");
        ensure!(
            to <= total,
            "{to} MiB were given where {mib} may be, contexts included"
        );
        ensure!(from >= total / 2.0, "refused at {from} MiB already");
        Ok(format!("refused at {from} to {to} of {mib} MiB"))
    });
}

/// A kernel without end.
pub fn endless(bench: &mut Bench<'_>, report: &mut Report) {
    // An honest VM's kernels take a second on an H100.
    let iterations = match bench.gpu {
        Gpu::Nvidia => 11_000_000,
        Gpu::Software => 100_000,
    };
    let case = Case {
        name: "an endless kernel",
        limit: format!("kernel_ms_max = {KERNEL_MS}"),
        flood: "flood endless".to_owned(),
        honest: bench.busy_with(iterations, 2),
        calls: 180,
        ends: true,
        counted: |_| true,
    };
    case.run(bench, report, Sub::Endless, |bench, stack, seen| {
        let seconds = number(&seen.said, "after")?;
        let limit = f64::from(KERNEL_MS) / 1e3;
        ensure!(
            seconds >= limit,
            "the kernel was ended after {seconds} s, before its {limit} s"
        );
        let events = stack.events(FLOODER.id)?;
        let ended = events.iter().find(|event| event.kind == EventKind::Ended);
        let calls = &ended.context("no event tells of the end")?.calls;
        ensure!(
            calls.iter().any(|call| call.name.contains("LaunchKernel")),
            "the last calls have no launch: {calls:?}"
        );
        Host::new(stack, FLOODER.id).must("vadd")?;
        bench.judge(
            format!("it was ended with error 702 after {seconds:.2} s, and the VM's next program is right"),
            &[Goal::at_most("seconds to its end", seconds, limit * 1.25 + 0.5)],
        )
    });
}
