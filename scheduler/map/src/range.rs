//! VMs by number: one, or a range of them.
use std::fmt;
use std::ops::RangeInclusive;

/// VMs from a first to a last one, both belonging to it. Reads and writes as "7" or "1-7".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmRange {
    first: u32,
    last: u32,
}

/// VMs in rising order, each with what is said of it: those in a row of which the same is said are one.
pub fn rows(vms: impl IntoIterator<Item = (u32, String)>) -> Vec<(VmRange, String)> {
    let mut rows: Vec<(VmRange, String)> = Vec::new();
    for (vm, said) in vms {
        match rows.last_mut() {
            Some((row, same)) if *same == said && row.last() + 1 == vm => {
                *row = row.joined(vm.into()).unwrap_or(*row);
            }
            _ => rows.push((vm.into(), said)),
        }
    }
    rows
}

impl VmRange {
    /// From a first to a last one, unless the last is the lower.
    pub fn new(first: u32, last: u32) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first VM.
    pub fn first(self) -> u32 {
        self.first
    }

    /// The last VM.
    pub fn last(self) -> u32 {
        self.last
    }

    /// "VM 3", "VMs 1-7".
    pub fn name(self) -> String {
        let noun = if self.first == self.last { "VM" } else { "VMs" };
        format!("{noun} {self}")
    }

    /// How many there are.
    pub fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// Whether a VM belongs to it.
    pub fn contains(self, vm: u32) -> bool {
        (self.first..=self.last).contains(&vm)
    }

    /// The VMs.
    pub fn iter(self) -> RangeInclusive<u32> {
        self.first..=self.last
    }

    /// The VMs of both.
    pub fn and(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// The VMs of either, if those are without a gap.
    pub(crate) fn joined(self, other: Self) -> Option<Self> {
        let near = |a: Self, b: Self| u64::from(b.first) <= u64::from(a.last) + 1;
        (near(self, other) && near(other, self)).then(|| Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        })
    }

    /// Ranges in rising order, with a gap between any two.
    pub(crate) fn merged(ranges: &[Self]) -> Vec<Self> {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let mut merged: Vec<Self> = Vec::new();
        for range in sorted {
            match merged
                .last_mut()
                .and_then(|last| Some((last.joined(range)?, last)))
            {
                Some((joined, last)) => *last = joined,
                None => merged.push(range),
            }
        }
        merged
    }

    /// The VMs that both have, in ranges as the first one's.
    pub(crate) fn in_both(these: &[Self], others: &[Self]) -> Vec<Self> {
        let parts = |range: &Self| -> Vec<Self> {
            let range = *range;
            others.iter().filter_map(|other| range.and(*other)).collect()
        };
        these.iter().flat_map(parts).collect()
    }

    /// The VMs that the others do not have, in ranges as the first one's.
    pub(crate) fn in_first_alone(these: &[Self], others: &[Self]) -> Vec<Self> {
        others.iter().fold(these.to_vec(), |left, other| {
            left.iter().flat_map(|range| range.without(*other)).collect()
        })
    }

    /// Those that are not in the other: up to two ranges, in rising order.
    pub fn without(self, other: Self) -> Vec<Self> {
        let Some(both) = self.and(other) else {
            return vec![self];
        };
        let below = both
            .first
            .checked_sub(1)
            .and_then(|last| Self::new(self.first, last));
        let above = both
            .last
            .checked_add(1)
            .and_then(|first| Self::new(first, self.last));
        below.into_iter().chain(above).collect()
    }
}

impl From<u32> for VmRange {
    fn from(vm: u32) -> Self {
        Self { first: vm, last: vm }
    }
}

impl fmt::Display for VmRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl std::str::FromStr for VmRange {
    type Err = String;

    /// The error says what was expected.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("\"{text}\": expected a VM's number, or a range of them such as \"1-7\"");
        let number = |part: &str| number(part.trim()).ok_or_else(expected);
        match text.split_once('-') {
            None => number(text).map(Self::from),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                Self::new(first, last)
                    .ok_or_else(|| format!("\"{text}\": the range is reversed, expected \"{last}-{first}\""))
            }
        }
    }
}

/// A VM's number, in digits alone.
pub(crate) fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = VmRange> {
        let ends = prop_oneof![0u32..12, u32::MAX - 3..=u32::MAX];
        (ends.clone(), ends).prop_map(|(a, b)| VmRange::new(a.min(b), a.max(b)).unwrap())
    }

    proptest! {
        #[test]
        fn text_round_trips(range in range()) {
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }

        #[test]
        fn what_is_taken_away_is_gone_and_the_rest_stays(a in range(), b in range(), vm in 0u32..14) {
            let rest = a.without(b);
            prop_assert_eq!(rest.iter().any(|r| r.contains(vm)), a.contains(vm) && !b.contains(vm));
            prop_assert!(rest.iter().map(|r| r.count()).sum::<u64>() == a.count() - a.and(b).map_or(0, VmRange::count));
        }

        #[test]
        fn sets_of_ranges_are_what_they_have(
            a in prop::collection::vec(range(), 0..5), b in prop::collection::vec(range(), 0..5), vm in 0u32..14,
        ) {
            let has = |ranges: &[VmRange]| ranges.iter().any(|range| range.contains(vm));
            let (merged, other) = (VmRange::merged(&a), VmRange::merged(&b));
            prop_assert_eq!(has(&merged), has(&a));
            prop_assert!(merged.is_sorted_by(|one, next| one < next && one.joined(*next).is_none()));
            prop_assert_eq!(has(&VmRange::in_both(&merged, &other)), has(&a) && has(&b));
            prop_assert_eq!(has(&VmRange::in_first_alone(&merged, &other)), has(&a) && !has(&b));
        }

        #[test]
        fn what_is_joined_has_both_and_no_more(a in range(), b in range()) {
            let both = a.count() + b.count() - a.and(b).map_or(0, VmRange::count);
            match a.joined(b) {
                Some(joined) => prop_assert!(joined.count() == both && joined.and(a) == Some(a) && joined.and(b) == Some(b)),
                None => prop_assert!(a.and(b).is_none()),
            }
        }
    }
}
