//! When sessions wanted a turn and how much GPU time they then needed: what another policy can be tried with.
use crate::daemon::Daemon;
use crate::paging;
use std::collections::{BTreeMap, VecDeque};
use vgpu_sched_api::messages::{Arrival, Priority};
use vgpu_sched_core::{GpuSet, Pool, Session, Standing};

/// Arrivals kept.
const KEPT: usize = 50_000;

/// A session that wanted a turn and may still have work.
#[derive(Clone, Copy, Debug)]
struct Pending {
    at_us: u64,
    /// Until its first turn.
    waited_us: Option<u64>,
    gpus: GpuSet,
    used_ns: u64,
}

/// One that had no more work.
#[derive(Clone, Copy, Debug)]
struct Kept {
    session: Session,
    at_us: u64,
    waited_us: u64,
    used_us: u64,
    gpus: GpuSet,
    whose: Whose,
}

/// How its VM was treated.
#[derive(Clone, Copy, Debug)]
struct Whose {
    pool: Option<Pool>,
    priority: Priority,
    weight: u32,
}

/// The last arrivals, numbered without gaps, by when they were over.
#[derive(Debug, Default)]
pub struct Arrivals {
    pending: BTreeMap<Session, Pending>,
    kept: VecDeque<Kept>,
    /// The number of the oldest one that is kept, less one.
    forgotten: u64,
}

impl Arrivals {
    /// A session wants a turn. One that is not through with its last work has some more.
    pub fn wanted(&mut self, session: Session, now_us: u64) {
        self.pending.entry(session).or_insert(Pending {
            at_us: now_us,
            waited_us: None,
            gpus: GpuSet::EMPTY,
            used_ns: 0,
        });
    }

    /// It has one, on these GPUs.
    pub fn began(&mut self, session: Session, gpus: GpuSet, now_us: u64, waited_us: u64) {
        self.wanted(session, now_us.saturating_sub(waited_us));
        if let Some(pending) = self.pending.get_mut(&session) {
            pending.waited_us.get_or_insert(waited_us);
            pending.gpus = gpus;
        }
    }

    /// Its turn ended.
    pub fn used(&mut self, session: Session, ns: u64) {
        if let Some(pending) = self.pending.get_mut(&session) {
            pending.used_ns = pending.used_ns.saturating_add(ns);
        }
    }

    /// It has no more work. What never got a turn is forgotten.
    fn over(&mut self, session: Session, whose: Whose) {
        let Some(pending) = self.pending.remove(&session) else {
            return;
        };
        let Some(waited_us) = pending.waited_us else {
            return;
        };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.kept.push_back(Kept {
            session,
            at_us: pending.at_us,
            waited_us,
            used_us: pending.used_ns / 1000,
            gpus: pending.gpus,
            whose,
        });
    }

    /// Those from a number on, with their numbers.
    fn since(&self, number: u64) -> impl Iterator<Item = (u64, &Kept)> {
        let skip = number.saturating_sub(self.forgotten + 1).min(KEPT as u64) as usize;
        (self.forgotten + 1..).zip(&self.kept).skip(skip)
    }
}

impl Daemon {
    /// Notes that a session has no more work, if it has none.
    pub(crate) fn arrival_over(&mut self, session: Session) {
        if !matches!(
            self.core.standing(session),
            None | Some(Standing::Out | Standing::Suspended)
        ) {
            return;
        }
        let settings = self.map.settings_of(session.vm);
        let pool = self.map.pool_of(session.vm);
        let whose = Whose {
            pool: pool.and_then(|pool| self.pools.get(&pool.name).copied()),
            priority: settings.priority,
            weight: settings.weight,
        };
        self.arrivals.over(session, whose);
    }

    /// The arrivals from a number on, as many as one answer holds, and the number to go on with.
    pub(crate) fn arrivals_from(&self, number: u64) -> (Vec<Arrival>, u64) {
        let names: BTreeMap<Pool, &String> = self.pools.iter().map(|(name, pool)| (*pool, name)).collect();
        let arrival = |(number, kept): (u64, &Kept)| Arrival {
            number,
            vm: kept.session.vm,
            session: kept.session.number,
            pool: kept
                .whose
                .pool
                .and_then(|pool| names.get(&pool))
                .copied()
                .cloned()
                .unwrap_or_default(),
            gpus: self.inventory.uuids(kept.gpus),
            priority: kept.whose.priority,
            weight: kept.whose.weight,
            at_us: kept.at_us,
            waited_us: kept.waited_us,
            used_us: kept.used_us,
        };
        let arrivals = paging::that_fit(self.arrivals.since(number).map(arrival));
        let next = arrivals
            .last()
            .map_or(number.max(1), |arrival| arrival.number + 1);
        (arrivals, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Session = Session { vm: 1, number: 1 };
    const B: Session = Session { vm: 2, number: 1 };
    const WHOSE: Whose = Whose {
        pool: None,
        priority: Priority::Low,
        weight: 1,
    };

    #[test]
    fn an_arrival_lasts_until_there_is_no_more_work() {
        let mut arrivals = Arrivals::default();
        arrivals.wanted(A, 1000);
        arrivals.wanted(B, 1100);
        arrivals.began(A, GpuSet::EMPTY, 1500, 500);
        arrivals.used(A, 7_000_000);
        // It wants again at once, and waits again.
        arrivals.wanted(A, 9000);
        arrivals.began(A, GpuSet::EMPTY, 9900, 900);
        arrivals.used(A, 3_000_999);
        arrivals.over(A, WHOSE);
        // It was found with a turn; the other one never had any.
        arrivals.began(A, GpuSet::EMPTY, 20_000, 0);
        arrivals.over(A, WHOSE);
        arrivals.over(B, WHOSE);
        arrivals.over(B, WHOSE);
        let all: Vec<_> = arrivals
            .since(0)
            .map(|(number, kept)| (number, kept.session, kept.at_us, kept.waited_us, kept.used_us))
            .collect();
        assert_eq!(all, [(1, A, 1000, 500, 10_000), (2, A, 20_000, 0, 0)]);
        assert!(arrivals.pending.is_empty());
    }

    #[test]
    fn the_last_ones_are_kept() {
        let mut arrivals = Arrivals::default();
        for n in 0..KEPT as u64 + 3 {
            arrivals.began(A, GpuSet::EMPTY, n, 0);
            arrivals.over(A, WHOSE);
        }
        let numbers = |from| arrivals.since(from).map(|(number, _)| number);
        assert_eq!((numbers(0).next(), numbers(0).count()), (Some(4), KEPT));
        assert_eq!(numbers(10).next(), Some(10));
        assert_eq!(numbers(KEPT as u64 + 3).next(), Some(KEPT as u64 + 3));
        assert_eq!(numbers(KEPT as u64 + 4).next(), None);
        assert_eq!(numbers(u64::MAX).next(), None);
    }
}
