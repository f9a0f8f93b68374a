//! What the scheduler is measured by: the latency of a high VM beside low ones of every kind, the low ones' throughput,
//! shares, and limits. Programs run over `VGPU_SOCKET` unless said otherwise, since a VM's emulated CPU would hide what
//! is measured. On the software GPU the same is done in small, and only results and behaviour are judged.
mod exact;
mod figures;
mod levels;
mod limits;
mod many;
mod mps;
mod weights;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use vgpu_sched_api::messages::Priority;
use vgpu_vm::Artifacts;

use crate::crowd::Crowd;
use crate::gpu_tests::Report;
use crate::{Gpu, Machine, Stack, VmSpec};

use figures::{Busy, Figures, Latency};

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sub {
    /// H beside kernels of every length of L.
    Levels,
    /// The same programs natively, under default time slices.
    Native,
    /// The same programs natively, under MPS.
    Mps,
    /// H's calls come a hundred at once.
    Burst,
    /// H and L as programs of VMs that are booted.
    InVms,
    /// Many low sessions, each in a VM.
    Many,
    /// Many low sessions in one VM, which is booted.
    OneVm,
    /// Tenants that loop driver-heavy calls, and copies.
    Heavy,
    /// The same with a limit on the rate of such calls.
    Rationed,
    /// Three busy VMs, by weight.
    Weights,
    /// A VM that makes more calls than it may.
    Calls,
    /// A VM that queues more than it may.
    Queue,
    /// A VM that takes all the memory that it may, again and again.
    Memory,
    /// A VM whose kernel never ends.
    Endless,
    /// A stopped and resumed program's results.
    Exact,
}

impl Sub {
    /// All, in the order in which they run.
    pub const ALL: [Self; 15] = [
        Self::Levels,
        Self::Native,
        Self::Mps,
        Self::Burst,
        Self::InVms,
        Self::Many,
        Self::OneVm,
        Self::Heavy,
        Self::Rationed,
        Self::Weights,
        Self::Calls,
        Self::Queue,
        Self::Memory,
        Self::Endless,
        Self::Exact,
    ];

    /// What it is called on the command line, behind "sched:".
    pub fn name(self) -> &'static str {
        match self {
            Self::Levels => "levels",
            Self::Native => "native",
            Self::Mps => "mps",
            Self::Burst => "burst",
            Self::InVms => "invms",
            Self::Many => "many",
            Self::OneVm => "onevm",
            Self::Heavy => "heavy",
            Self::Rationed => "rationed",
            Self::Weights => "weights",
            Self::Calls => "calls",
            Self::Queue => "queue",
            Self::Memory => "memory",
            Self::Endless => "endless",
            Self::Exact => "exact",
        }
    }
}

/// The VM whose latency is measured.
const HIGH: VmSpec = VmSpec {
    id: 100,
    priority: Priority::High,
};

/// VMs of the low level: 1, 2, and so on.
fn low_vms(count: u32) -> impl Iterator<Item = VmSpec> {
    (1..=count).map(|id| VmSpec {
        id,
        priority: Priority::Low,
    })
}

/// How large everything is.
#[derive(Clone, Copy)]
struct Sizes {
    /// Blocks, and threads of one, that fill the GPU.
    grid: (u32, u32),
    /// Milliseconds of L's kernels.
    lengths: &'static [u64],
    /// Kernels of one of many low sessions.
    many_ms: u64,
    /// How many sessions there are.
    sessions: &'static [u32],
    /// Those in one VM, whose emulated CPU is slow to start them.
    sessions_in_one: &'static [u32],
    /// H's calls.
    calls: u32,
    /// Seconds after which H makes no more, and those where the figures are for comparison only.
    seconds: u32,
    seconds_to_compare: u32,
    /// H's calls at once.
    burst: u32,
    /// How long L runs alone, to know what its kernels take.
    alone: Duration,
    /// How long shares are measured.
    shares: Duration,
    /// MiB of the blocks that are copied, and of those that are allocated again and again.
    copied_mib: u32,
    churned_mib: u32,
}

const NVIDIA: Sizes = Sizes {
    grid: (1056, 256),
    lengths: &[1, 10, 1000, 20_000],
    many_ms: 3,
    sessions: &[2, 4, 8, 16],
    sessions_in_one: &[4, 16],
    calls: 600,
    seconds: 8,
    seconds_to_compare: 3,
    burst: 100,
    alone: Duration::from_millis(1500),
    shares: Duration::from_secs(10),
    copied_mib: 1024,
    churned_mib: 64,
};

const SOFTWARE: Sizes = Sizes {
    grid: (2, 32),
    lengths: &[1, 100],
    many_ms: 3,
    sessions: &[3],
    sessions_in_one: &[2],
    calls: 10,
    seconds: 30,
    seconds_to_compare: 30,
    burst: 5,
    alone: Duration::from_millis(200),
    shares: Duration::from_millis(500),
    copied_mib: 4,
    churned_mib: 4,
};

/// H's kernel, and the pause between two of its calls.
const HIGH_US: u32 = 50;
const HIGH_GAP_MS: u32 = 10;
/// Longer kernels are not run alone to know their length, nor waited for where nobody looks at their results.
const ALONE_MS_MAX: u64 = 2000;
/// Iterations of the first kernel, whose length says how many a millisecond takes.
const FIRST_ITERATIONS: u64 = 100_000;

/// The measurements of one run.
pub struct Bench<'a> {
    artifacts: &'a Artifacts,
    gpu: Gpu,
    sizes: Sizes,
    figures: Figures,
    /// Iterations of a kernel of [`Sizes::grid`] in a millisecond, once they are known.
    per_ms: Option<f64>,
    /// What such kernels take, as far as it was measured.
    lengths: Vec<levels::Length>,
}

impl<'a> Bench<'a> {
    /// Measures on this GPU; figures are written to `sched.json` in that folder as well.
    pub fn new(artifacts: &'a Artifacts, gpu: Gpu, folder: Option<PathBuf>) -> Self {
        let sizes = match gpu {
            Gpu::Nvidia => NVIDIA,
            Gpu::Software => SOFTWARE,
        };
        Self {
            artifacts,
            gpu,
            sizes,
            figures: Figures::new(folder),
            per_ms: None,
            lengths: Vec::new(),
        }
    }

    /// Measures one part.
    pub(crate) fn run(&mut self, sub: Sub, report: &mut Report) {
        match sub {
            Sub::Levels => levels::levels(self, report),
            Sub::Native => levels::native(self, report),
            Sub::Mps => levels::mps(self, report),
            Sub::Burst => levels::burst(self, report),
            Sub::InVms => levels::in_vms(self, report),
            Sub::Many => many::many(self, report),
            Sub::OneVm => many::one_vm(self, report),
            Sub::Heavy => many::heavy(self, report, None),
            Sub::Rationed => many::heavy(self, report, Some(many::DRIVER_CALL_RATE)),
            Sub::Weights => weights::weights(self, report),
            Sub::Calls => limits::calls(self, report),
            Sub::Queue => limits::queue(self, report),
            Sub::Memory => limits::memory(self, report),
            Sub::Endless => limits::endless(self, report),
            Sub::Exact => exact::exact(self, report),
        }
    }

    /// Prints every figure.
    pub fn print(&self) {
        self.figures.print();
    }

    /// Starts the services for these VMs, with more lines in the pool map as [`Stack::start_as`] takes them.
    fn services(
        &self,
        sub: Sub,
        report: &mut Report,
        vms: &[VmSpec],
        pool: &str,
        own: impl Fn(VmSpec) -> String,
    ) -> Option<Stack> {
        match Stack::start_as(self.artifacts, self.gpu, vms, pool, own) {
            Ok(stack) => Some(stack),
            Err(error) => {
                report.step(&format!("sched:{}: the services start", sub.name()), || {
                    Err(error)
                });
                None
            }
        }
    }

    /// `busy` with kernels of this length that fill the GPU; a host is measured if their speed is not known yet.
    fn busy<M: Machine>(&mut self, machine: &mut M, ms: u64) -> Result<String> {
        let per_ms = match self.per_ms {
            Some(known) => known,
            None => {
                let command = self.busy_with(FIRST_ITERATIONS, 2);
                let done = run_alone(machine, command, self.sizes.alone)?;
                let per_ms = FIRST_ITERATIONS as f64 / done.ms_each();
                *self.per_ms.insert(per_ms)
            }
        };
        let in_flight = (20 / ms).clamp(2, 8);
        let in_flight = if ms > ALONE_MS_MAX { 1 } else { in_flight };
        Ok(self.busy_with((per_ms * ms as f64) as u64, in_flight))
    }

    fn busy_with(&self, iterations: u64, in_flight: u64) -> String {
        let (blocks, threads) = self.sizes.grid;
        format!("busy {iterations} {blocks} {threads} {in_flight}")
    }

    /// What such a kernel takes while its VM is alone, in milliseconds.
    fn alone_ms<M: Machine>(&mut self, machine: &mut M, ms: u64) -> Result<f64> {
        let command = self.busy(machine, ms)?;
        Ok(run_alone(machine, command, self.sizes.alone)?.ms_each())
    }

    /// `latency` as H runs it, for so many seconds at most.
    fn latency(&self, seconds: u32) -> String {
        format!("latency {} {HIGH_US} {HIGH_GAP_MS} 1 {seconds}", self.sizes.calls)
    }

    /// H's calls, whoever else works.
    fn high<M: Machine>(&mut self, case: &str, high: &mut M, seconds: u32) -> Result<String> {
        let latency = Latency::of(&high.must(&self.latency(seconds))?)?;
        self.figures.add(case, &latency.figures());
        Ok(latency.to_string())
    }

    /// H's calls while a crowd works, and what the crowd did.
    fn beside<L: Machine, H: Machine>(
        &self,
        mut low: Crowd<'_, L>,
        high: &mut H,
        seconds: u32,
    ) -> Result<(Latency, Vec<Busy>)> {
        low.begin()?;
        let latency = Latency::of(&high.must(&self.latency(seconds))?)?;
        let low: Result<Vec<Busy>> = low.end()?.iter().map(|text| Busy::of(text)).collect();
        Ok((latency, low?))
    }

    /// The text, or an error with it that names the goals which are missed. The software GPU's speed is not judged.
    fn judge(&self, text: String, goals: &[Goal<'_>]) -> Result<String> {
        let missed: Vec<String> = goals
            .iter()
            .filter(|goal| self.gpu == Gpu::Nvidia && !goal.is_met())
            .map(ToString::to_string)
            .collect();
        if missed.is_empty() {
            return Ok(text);
        }
        let missed = missed.join(", ");
        Err(Missed { text, missed }.into())
    }
}

/// Runs one program of [`Crowd`]'s kind for a while.
fn run_alone<M: Machine>(machine: &mut M, command: String, time: Duration) -> Result<Busy> {
    let mut crowd = Crowd::ready(std::slice::from_mut(machine), &[command], 1)?;
    crowd.begin()?;
    std::thread::sleep(time);
    Busy::of(crowd.end()?.first().context("no output")?)
}

/// Everything worked, and was too slow or unfair.
#[derive(Debug, thiserror::Error)]
#[error("{text}; MISSED: {missed}")]
pub(crate) struct Missed {
    text: String,
    missed: String,
}

/// A bound that a figure is to keep.
struct Goal<'a> {
    what: &'a str,
    value: f64,
    bound: f64,
    at_most: bool,
}

impl<'a> Goal<'a> {
    fn at_most(what: &'a str, value: f64, bound: f64) -> Self {
        Self {
            what,
            value,
            bound,
            at_most: true,
        }
    }

    fn at_least(what: &'a str, value: f64, bound: f64) -> Self {
        Self {
            what,
            value,
            bound,
            at_most: false,
        }
    }

    /// A figure that is no number keeps no bound.
    fn is_met(&self) -> bool {
        if self.at_most {
            self.value <= self.bound
        } else {
            self.value >= self.bound
        }
    }
}

impl std::fmt::Display for Goal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.at_most { "at most" } else { "at least" };
        write!(f, "{} {:.2}, goal {side} {}", self.what, self.value, self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_bound_on_one_side() {
        assert!(Goal::at_most("p99", 500.0, 500.0).is_met() && !Goal::at_most("p99", 500.1, 500.0).is_met());
        assert!(Goal::at_least("kept", 90.0, 90.0).is_met() && !Goal::at_least("kept", 89.9, 90.0).is_met());
        assert!(
            !Goal::at_most("p99", f64::NAN, 1.0).is_met() && !Goal::at_least("kept", f64::NAN, 1.0).is_met()
        );
        assert_eq!(
            Goal::at_least("kept", 89.9, 90.0).to_string(),
            "kept 89.90, goal at least 90"
        );
    }
}
