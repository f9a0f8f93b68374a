//! What the programs in the VMs do.
use oorandom::Rand64;
use std::collections::VecDeque;

/// Work that a program gives to its GPUs at once, in nanoseconds of GPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) ns: u64,
    /// The length of one kernel of it.
    pub(crate) kernel_ns: u64,
}

/// A program.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// As much as the GPU can do, without a pause.
    Steady(Work),
    /// Spells of work, and long pauses between them.
    Spells {
        /// The average pause in microseconds.
        pause_us: u64,
        /// Its kernels are short, since it cannot be stopped.
        short: bool,
        kind: Kind,
        /// When the spell ends.
        until: u64,
    },
    /// Each piece of work at its time (in microseconds), whether or not the one before is done.
    Recorded(VecDeque<(u64, Work)>),
}

/// How a program uses the GPU during a spell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It waits for its work and has more.
    Busy,
    /// A short kernel now and then.
    Periodic,
    /// One long kernel after the other.
    Long,
    /// All of these.
    Mixed,
}

const MS: u64 = 1_000;

impl Program {
    pub(crate) fn spells(pause_us: u64, short: bool) -> Self {
        Self::Spells {
            pause_us,
            short,
            kind: Kind::Busy,
            until: 0,
        }
    }

    /// Whether the next piece of work comes at its time, even if the one before is not done.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Recorded(_))
    }

    /// The next piece of work and when it comes, in microseconds, after now.
    pub(crate) fn next(&mut self, now: u64, random: &mut Rand64) -> Option<(u64, Work)> {
        match self {
            Self::Steady(work) => Some((now + 1, *work)),
            Self::Recorded(work) => work.pop_front().map(|(at, work)| (at.max(now), work)),
            Self::Spells {
                pause_us,
                short,
                kind,
                until,
            } => {
                let mut at = now;
                if now >= *until {
                    at += random.rand_range(0..2 * *pause_us + 2);
                    *until = at + random.rand_range(10 * MS..1_000 * MS);
                    let kinds = [Kind::Busy, Kind::Busy, Kind::Periodic, Kind::Long, Kind::Mixed];
                    *kind = kinds[random.rand_range(0..kinds.len() as u64) as usize];
                }
                let (pause, mut work) = kind.work(random);
                if *short {
                    work.kernel_ns = work.kernel_ns.min(20_000_000);
                    work.ns = work.ns.min(50_000_000);
                }
                Some((at + pause, work))
            }
        }
    }
}

impl Kind {
    /// The pause in microseconds, and the work after it.
    fn work(self, random: &mut Rand64) -> (u64, Work) {
        let mut between = |from: u64, to: u64| random.rand_range(from..to);
        match self {
            Self::Busy => {
                let pause = between(1, 200);
                let ns = between(500_000, 50_000_000);
                let kernel_ns = between(20_000, 5_000_000).min(ns);
                (pause, Work { ns, kernel_ns })
            }
            Self::Periodic => {
                let pause = between(9_900, 10_100);
                let ns = between(40_000, 60_000);
                (pause, Work { ns, kernel_ns: ns })
            }
            Self::Long => {
                let pause = between(MS, 100 * MS);
                let ns = between(50_000_000, 2_000_000_000);
                (pause, Work { ns, kernel_ns: ns })
            }
            Self::Mixed => {
                let kinds = [Self::Busy, Self::Periodic, Self::Periodic, Self::Long];
                let kind = kinds[between(0, kinds.len() as u64) as usize];
                kind.work(random)
            }
        }
    }
}
