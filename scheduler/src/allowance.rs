//! How often something of somebody's is told: what he does all the time must not drive out what others did.
use std::collections::BTreeMap;

/// Each may be told of so often at once, and then once in an interval.
#[derive(Debug)]
pub struct Allowances {
    burst: u64,
    interval_us: u64,
    each: BTreeMap<u32, Allowance>,
}

#[derive(Debug, Default)]
struct Allowance {
    /// When it may be told as often at once as ever.
    full_at_us: u64,
    /// How often it was not told since it was last told.
    left_out: u64,
}

impl Allowances {
    /// So often at once, and then once in that time.
    pub fn new(burst: u64, interval_us: u64) -> Self {
        Self {
            burst,
            interval_us,
            each: BTreeMap::new(),
        }
    }

    /// Whether something of somebody's may be told at that time: how often it was not before.
    pub fn take(&mut self, whose: u32, now_us: u64) -> Option<u64> {
        let Allowance { full_at_us, left_out } = self.each.entry(whose).or_default();
        let full_at = (*full_at_us).max(now_us) + self.interval_us;
        if full_at > now_us + self.burst * self.interval_us {
            *left_out += 1;
            return None;
        }
        *full_at_us = full_at;
        Some(std::mem::take(left_out))
    }
}
