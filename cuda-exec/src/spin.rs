//! How long a consumer looks at its ring before it sleeps. Pure.
use std::time::Duration;

/// A budget that grows while work comes during the spin, and shrinks while it does not.
#[derive(Debug)]
pub struct Spin {
    budget: Duration,
    max: Duration,
}

/// The first budget that is worth a look.
const START: Duration = Duration::from_micros(4);
/// Longest spin on a machine with CPUs to spare.
const MAX: Duration = Duration::from_micros(100);
/// Longest spin on a machine with few.
const MAX_FEW: Duration = Duration::from_micros(10);

impl Spin {
    /// For a machine with that many CPUs.
    pub fn new(cpus: usize) -> Self {
        let max = if cpus >= 4 { MAX } else { MAX_FEW };
        Self { budget: max, max }
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
            self.came();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_idle_ring_ends_up_not_spinning_and_a_busy_one_spins_fully() {
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

    proptest! {
        #[test]
        fn the_budget_is_bounded(cpus in 1usize..64, steps in proptest::collection::vec((0u8..3, 0u64..1000), 0..100)) {
            let mut spin = Spin::new(cpus);
            for (step, us) in steps {
                match step {
                    0 => spin.came(),
                    1 => spin.none_came(Duration::from_micros(us)),
                    _ => spin.came_soon(Duration::from_micros(us)),
                }
                let max = if cpus >= 4 { MAX } else { MAX_FEW };
                prop_assert!(spin.budget() <= max);
            }
        }
    }
}
