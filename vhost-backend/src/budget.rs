//! What all sessions of the VM together use of the host, and the limits on it.
use std::ops::{AddAssign, SubAssign};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::limits::{
    SESSIONS_MAX, VM_MAPPED_LEN_MAX, VM_REGISTERED_LEN_MAX, VM_RINGS_MAX, VM_RUNS_MAX,
};
use vgpu_protocol::virtio::Status;

/// Amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Bytes mapped.
    pub mapped: u64,
    /// Bytes of those that are registered with CUDA.
    pub registered: u64,
    /// Runs mapped.
    pub runs: u32,
    /// Rings that are consumed.
    pub rings: u32,
    /// Sessions.
    pub sessions: u32,
}

impl Use {
    /// What a VM may use. Amounts are below twice these before they are refused, so sums do not overflow.
    const MAX: Self = Self {
        mapped: VM_MAPPED_LEN_MAX,
        registered: VM_REGISTERED_LEN_MAX,
        runs: VM_RUNS_MAX,
        rings: VM_RINGS_MAX,
        sessions: SESSIONS_MAX,
    };

    fn is_within(&self, max: &Self) -> bool {
        self.mapped <= max.mapped
            && self.registered <= max.registered
            && self.runs <= max.runs
            && self.rings <= max.rings
            && self.sessions <= max.sessions
    }
}

impl AddAssign for Use {
    fn add_assign(&mut self, more: Self) {
        self.mapped += more.mapped;
        self.registered += more.registered;
        self.runs += more.runs;
        self.rings += more.rings;
        self.sessions += more.sessions;
    }
}

impl SubAssign for Use {
    fn sub_assign(&mut self, less: Self) {
        self.mapped -= less.mapped;
        self.registered -= less.registered;
        self.runs -= less.runs;
        self.rings -= less.rings;
        self.sessions -= less.sessions;
    }
}

/// What the VM uses.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Use>);

impl Budget {
    fn used(&self) -> MutexGuard<'_, Use> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's part of it, which is given back when this is dropped.
#[derive(Debug)]
pub struct Account {
    budget: Arc<Budget>,
    used: Use,
}

impl Account {
    /// Nothing is used yet.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            used: Use::default(),
        }
    }

    /// Uses more, or nothing of it if that would be too much.
    pub fn take(&mut self, more: Use) -> Result<(), Status> {
        let mut all = self.budget.used();
        let mut after = *all;
        after += more;
        if !after.is_within(&Use::MAX) {
            return Err(Status::Limit);
        }
        *all = after;
        self.used += more;
        Ok(())
    }

    /// Uses less. It was taken before, and everything was not given back since.
    pub fn give(&mut self, less: Use) {
        self.used -= less;
        *self.budget.used() -= less;
    }

    /// Nothing is used any more.
    pub fn give_all(&mut self) {
        self.give(self.used);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.give_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sessions_share_one_limit_and_give_back_what_they_used() {
        let budget = Arc::new(Budget::default());
        let rings = |rings| Use {
            rings,
            ..Use::default()
        };
        let mut one = Account::new(budget.clone());
        let mut other = Account::new(budget.clone());
        one.take(rings(VM_RINGS_MAX - 1)).unwrap();
        other.take(rings(1)).unwrap();
        assert_eq!(other.take(rings(1)), Err(Status::Limit));
        // Refused as a whole.
        let both = Use {
            mapped: 4096,
            ..rings(1)
        };
        assert_eq!(other.take(both), Err(Status::Limit));
        one.give(rings(2));
        other.take(both).unwrap();
        drop(one);
        assert_eq!(
            *budget.used(),
            Use {
                mapped: 4096,
                ..rings(2)
            }
        );
    }

    proptest! {
        #[test]
        fn the_whole_is_the_sum_of_its_parts_and_never_too_much(
            steps in proptest::collection::vec((0usize..4, 0u64..VM_MAPPED_LEN_MAX, 0u32..VM_RUNS_MAX, any::<bool>()), 0..60)) {
            let budget = Arc::new(Budget::default());
            let mut accounts: Vec<_> = (0..4).map(|_| Account::new(budget.clone())).collect();
            for (which, mapped, runs, all) in steps {
                if all {
                    accounts[which].give_all();
                } else {
                    let _ = accounts[which].take(Use { mapped, registered: mapped / 2, runs, rings: 1, sessions: runs % 2 });
                }
                let mut sum = Use::default();
                accounts.iter().for_each(|account| sum += account.used);
                prop_assert_eq!(sum, *budget.used());
                prop_assert!(sum.is_within(&Use::MAX));
            }
        }
    }
}
