//! When sessions wanted a turn and how much GPU time they then needed: what another policy can be tried with.
use crate::daemon::Daemon;
use crate::paging;
use std::collections::{BTreeMap, VecDeque};
use vgpu_sched_api::messages::{Arrival, Policy, Priority};
use vgpu_sched_core::{End, GpuSet, Pool, Session, Standing};

/// Arrivals kept.
const KEPT: usize = 50_000;
/// A session that was asked for its turn and gave it back wants the next one within this time, in microseconds, if it was
/// not through.
const AGAIN_US: u64 = 10_000;

/// A session that wanted a turn and may still have work.
#[derive(Clone, Copy, Debug)]
struct Pending {
    at_us: u64,
    used_ns: u64,
    /// Of its first turn: how long it had waited, and how it was treated.
    first: Option<(u64, Treated)>,
    /// When it gave its turn back as it was asked to, and wanted none yet.
    gave_back_us: Option<u64>,
}

/// How a session was treated.
#[derive(Clone, Copy, Debug)]
pub struct Treated {
    pub pool: Option<Pool>,
    pub policy: Policy,
    pub gpus: GpuSet,
    pub priority: Priority,
    pub weight: u32,
}

/// One that had no more work.
#[derive(Clone, Copy, Debug)]
struct Kept {
    session: Session,
    at_us: u64,
    waited_us: u64,
    used_us: u64,
    treated: Treated,
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
        let pending = self.pending.get_mut(&session);
        if let Some(gave_back_us) = pending.and_then(|pending| pending.gave_back_us.take())
            && gave_back_us + AGAIN_US < now_us
        {
            self.over(session);
        }
        self.pending.entry(session).or_insert(Pending {
            at_us: now_us,
            used_ns: 0,
            first: None,
            gave_back_us: None,
        });
    }

    /// It has one.
    pub fn began(&mut self, session: Session, now_us: u64, waited_us: u64, treated: Treated) {
        self.wanted(session, now_us.saturating_sub(waited_us));
        if let Some(pending) = self.pending.get_mut(&session) {
            pending.first.get_or_insert((waited_us, treated));
        }
    }

    /// Its turn ended.
    pub fn used(&mut self, session: Session, ns: u64) {
        if let Some(pending) = self.pending.get_mut(&session) {
            pending.used_ns = pending.used_ns.saturating_add(ns);
        }
    }

    /// It gave its turn back as it was asked to, and wants none now.
    pub fn gave_back(&mut self, session: Session, now_us: u64) {
        if let Some(pending) = self.pending.get_mut(&session) {
            pending.gave_back_us = Some(now_us);
        }
    }

    /// It has no more work. What never got a turn is forgotten.
    pub fn over(&mut self, session: Session) {
        let Some(pending) = self.pending.remove(&session) else {
            return;
        };
        let Some((waited_us, treated)) = pending.first else {
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
            treated,
        });
    }

    /// Those that gave their turn back and did not want the next one in time had no more work.
    fn settle(&mut self, now_us: u64) {
        let late = |pending: &Pending| pending.gave_back_us.is_some_and(|at| at + AGAIN_US < now_us);
        let late = self.pending.iter().filter(|(_, pending)| late(pending));
        for session in late.map(|(session, _)| *session).collect::<Vec<_>>() {
            self.over(session);
        }
    }

    /// Those from a number on, with their numbers.
    fn since(&self, number: u64) -> impl Iterator<Item = (u64, &Kept)> {
        let skip = number.saturating_sub(self.forgotten + 1).min(KEPT as u64) as usize;
        (self.forgotten + 1..).zip(&self.kept).skip(skip)
    }
}

impl Daemon {
    /// A session's turn ended, or it did something else after which it may have no more work.
    pub(crate) fn settle_arrival(&mut self, session: Session, end: Option<End>) {
        match (self.core.standing(session), end) {
            (Some(Standing::Out), Some(End::Yielded)) => self.arrivals.gave_back(session, self.now_us()),
            (None | Some(Standing::Out | Standing::Suspended), _) => self.arrivals.over(session),
            _ => {}
        }
    }

    /// How a session is treated now.
    pub(crate) fn treated(&self, session: Session, gpus: GpuSet) -> Treated {
        let settings = self.map.settings_of(session.vm);
        let pool = self.map.pool_of(session.vm);
        Treated {
            pool: pool.and_then(|pool| self.pools.get(&pool.name).copied()),
            policy: pool.map_or(Policy::Priority, |pool| pool.policy),
            gpus,
            priority: settings.priority,
            weight: settings.weight,
        }
    }

    /// The arrivals from a number on, as many as one answer holds, and the number to go on with.
    pub(crate) fn arrivals_from(&mut self, number: u64) -> (Vec<Arrival>, u64) {
        self.arrivals.settle(self.now_us());
        let names: BTreeMap<Pool, &String> = self.pools.iter().map(|(name, pool)| (*pool, name)).collect();
        let arrival = |(number, kept): (u64, &Kept)| Arrival {
            number,
            vm: kept.session.vm,
            session: kept.session.number,
            pool: kept
                .treated
                .pool
                .and_then(|pool| names.get(&pool))
                .copied()
                .cloned()
                .unwrap_or_default(),
            gpus: self.inventory.uuids(kept.treated.gpus),
            priority: kept.treated.priority,
            weight: kept.treated.weight,
            policy: Some(kept.treated.policy),
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
    const TREATED: Treated = Treated {
        pool: None,
        policy: Policy::Priority,
        gpus: GpuSet::EMPTY,
        priority: Priority::Low,
        weight: 1,
    };

    #[test]
    fn an_arrival_lasts_until_there_is_no_more_work() {
        let mut arrivals = Arrivals::default();
        arrivals.wanted(A, 1000);
        arrivals.wanted(B, 1100);
        arrivals.began(A, 1500, 500, TREATED);
        arrivals.used(A, 7_000_000);
        // It wants again at once, and waits again.
        arrivals.wanted(A, 9000);
        arrivals.began(A, 9900, 900, TREATED);
        arrivals.used(A, 3_000_999);
        // It is asked, and goes on.
        arrivals.gave_back(A, 10_000);
        arrivals.settle(10_000 + AGAIN_US);
        arrivals.wanted(A, 10_000 + AGAIN_US);
        arrivals.began(A, 30_000, 0, TREATED);
        arrivals.used(A, 1_000_000);
        arrivals.over(A);
        // It was found with a turn; the other one never had any.
        arrivals.began(A, 40_000, 0, TREATED);
        arrivals.over(A);
        arrivals.over(B);
        arrivals.over(B);
        let all: Vec<_> = arrivals
            .since(0)
            .map(|(number, kept)| (number, kept.session, kept.at_us, kept.waited_us, kept.used_us))
            .collect();
        assert_eq!(all, [(1, A, 1000, 500, 11_000), (2, A, 40_000, 0, 0)]);
        assert!(arrivals.pending.is_empty());
    }

    #[test]
    fn one_that_gave_its_turn_back_and_wants_no_other_is_through() {
        let mut arrivals = Arrivals::default();
        for session in [A, B] {
            arrivals.began(session, 100, 0, TREATED);
            arrivals.gave_back(session, 200);
        }
        arrivals.wanted(A, 201 + AGAIN_US);
        let all = |arrivals: &Arrivals| {
            arrivals
                .since(0)
                .map(|(_, kept)| kept.session)
                .collect::<Vec<_>>()
        };
        assert_eq!(all(&arrivals), [A]);
        arrivals.settle(200 + AGAIN_US);
        assert_eq!(all(&arrivals), [A]);
        arrivals.settle(201 + AGAIN_US);
        assert_eq!(all(&arrivals), [A, B]);
        assert_eq!(arrivals.pending[&A].at_us, 201 + AGAIN_US);
    }

    #[test]
    fn the_last_ones_are_kept() {
        let mut arrivals = Arrivals::default();
        for n in 0..KEPT as u64 + 3 {
            arrivals.began(A, n, 0, TREATED);
            arrivals.over(A);
        }
        let numbers = |from| arrivals.since(from).map(|(number, _)| number);
        assert_eq!((numbers(0).next(), numbers(0).count()), (Some(4), KEPT));
        assert_eq!(numbers(10).next(), Some(10));
        assert_eq!(numbers(KEPT as u64 + 3).next(), Some(KEPT as u64 + 3));
        assert_eq!(numbers(KEPT as u64 + 4).next(), None);
        assert_eq!(numbers(u64::MAX).next(), None);
    }
}
