//! How long a consumer looks at its ring before it sleeps. Pure.
//!
//! Waking a sleeper takes two threads' wake-ups, some 100 us and now and then far more; looking costs a CPU. So the look may
//! be the longer the more urgent the session's work is, which is what its time slice says: a session whose slice is 20 ms
//! (high priority, unless the pool map says otherwise) may look for 20 ms, one whose slice is 200 us for 200 us. It does so
//! only while work keeps coming within that time, and where there are CPUs to spare.
use std::time::Duration;

/// A budget that grows while work comes during the spin, and shrinks while it does not.
#[derive(Debug)]
pub struct Spin {
    budget: Duration,
    max: Duration,
    few: bool,
}

/// The first budget that is worth a look.
const START: Duration = Duration::from_micros(4);
/// Longest look before anything is known of the session, on a machine with CPUs to spare.
const MAX: Duration = Duration::from_micros(100);
/// Longest look on a machine with few.
const MAX_FEW: Duration = Duration::from_micros(10);
/// Longest look however urgent the work is.
pub const MAX_URGENT: Duration = Duration::from_millis(20);

impl Spin {
    /// For a machine with that many CPUs.
    pub fn new(cpus: usize) -> Self {
        let max = if cpus >= 4 { MAX } else { MAX_FEW };
        Self {
            budget: max,
            max,
            few: cpus < 4,
        }
    }

    /// How urgent the session's work is: its time slice.
    pub fn urgency(&mut self, slice: Duration) {
        if !self.few {
            self.max = slice.clamp(MAX, MAX_URGENT);
            self.budget = self.budget.min(self.max);
        }
    }

    /// How long to look.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// Work came while looking.
    pub fn came(&mut self) {
        self.budget = (self.budget.max(START) * 2).min(self.max);
    }

    /// None came, and looking took so long. Longer than twice the budget: the CPU was taken away meanwhile, so others need
    /// it more.
    pub fn none_came(&mut self, took: Duration) {
        self.budget = if took > self.budget * 2 + START {
            Duration::ZERO
        } else {
            self.budget / 2
        };
        if self.budget < START {
            self.budget = Duration::ZERO;
        }
    }

    /// Work came so soon after falling asleep that a longer look would have seen it.
    pub fn came_soon(&mut self, slept: Duration) {
        if slept < self.max {
            self.budget = self.budget.max(slept);
            self.came();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_idle_ring_ends_up_not_looking_and_a_busy_one_looks_fully() {
        let mut spin = Spin::new(16);
        for _ in 0..10 {
            spin.none_came(spin.budget());
        }
        assert_eq!(spin.budget(), Duration::ZERO);
        for _ in 0..10 {
            spin.came_soon(Duration::from_micros(20));
        }
        assert_eq!(spin.budget(), MAX);
        spin.none_came(MAX * 3);
        assert_eq!(spin.budget(), Duration::ZERO);
    }

    #[test]
    fn urgent_work_is_looked_for_between_calls_that_come_every_10_ms() {
        let mut spin = Spin::new(16);
        spin.urgency(Duration::from_millis(20));
        spin.none_came(MAX);
        spin.came_soon(Duration::from_millis(10));
        assert!(spin.budget() > Duration::from_millis(10));
        let mut lazy = Spin::new(16);
        lazy.urgency(Duration::from_micros(200));
        lazy.came_soon(Duration::from_millis(10));
        assert!(lazy.budget() <= Duration::from_micros(200));
    }

    proptest! {
        #[test]
        fn the_budget_is_bounded(cpus in 1usize..64, slice in 0u64..100_000, steps in proptest::collection::vec((0u8..3, 0u64..50_000), 0..100)) {
            let mut spin = Spin::new(cpus);
            spin.urgency(Duration::from_micros(slice));
            for (step, us) in steps {
                match step {
                    0 => spin.came(),
                    1 => spin.none_came(Duration::from_micros(us)),
                    _ => spin.came_soon(Duration::from_micros(us)),
                }
                let max = if cpus >= 4 { Duration::from_micros(slice).clamp(MAX, MAX_URGENT) } else { MAX_FEW };
                prop_assert!(spin.budget() <= max);
            }
        }
    }
}
