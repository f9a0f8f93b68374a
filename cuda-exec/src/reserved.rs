//! Which of the addresses that this process keeps reserved are free for a program's own memory. Pure: what is mapped where is
//! the caller's.
use std::collections::BTreeMap;
use std::ops::Range;

/// Beside what is this process' own, so many bytes stay inaccessible: what overruns there must not run into a guest's memory.
const GUARD: u64 = 1 << 20;

/// Ranges, none touching another: their ends, by their starts.
#[derive(Debug, Default)]
pub struct Reserved(BTreeMap<u64, u64>);

impl Reserved {
    /// All that was reserved, in any order, but for the guards at the ends of what lies side by side.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut whole = Self::default();
        for range in ranges {
            whole.give(range);
        }
        let inner = whole
            .0
            .into_iter()
            .map(|(start, end)| (start + GUARD, end.saturating_sub(GUARD)));
        Self(inner.filter(|(start, end)| start < end).collect())
    }

    /// Takes a range, if all of it is free.
    pub fn take(&mut self, range: Range<u64>) -> bool {
        let Some((&start, &end)) = self.0.range(..=range.start).next_back() else {
            return false;
        };
        if range.is_empty() || end < range.end {
            return false;
        }
        self.0.remove(&start);
        for (start, end) in [(start, range.start), (range.end, end)] {
            if start < end {
                self.0.insert(start, end);
            }
        }
        true
    }

    /// The parts of a range that are not free here.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let mut missing = Vec::new();
        let mut at = range.start;
        let before = self.0.range(..=at).next_back();
        let behind = self
            .0
            .range(range.clone())
            .filter(|(start, _)| **start != range.start);
        for (&start, &end) in before.into_iter().chain(behind) {
            if start > at {
                missing.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    /// Gives a range back that was taken, or is new, and is reserved.
    pub fn give(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &before_end)) = self.0.range(..start).next_back()
            && before_end == start
        {
            self.0.remove(&before);
            start = before;
        }
        if let Some(behind) = self.0.remove(&end) {
            end = behind;
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn guards_stay_at_the_ends_of_what_lies_side_by_side() {
        let reserved = Reserved::new([20 * MIB..30 * MIB, 10 * MIB..20 * MIB, 40 * MIB..42 * MIB]);
        assert_eq!(reserved.0, BTreeMap::from([(11 * MIB, 29 * MIB)]));
    }

    proptest! {
        /// Against a list of pages: a range is taken exactly if all its pages are free, and what is given back is.
        #[test]
        fn a_range_is_taken_if_all_of_it_is_free(
            gaps in proptest::collection::vec((0u64..64, 1u64..32), 0..4),
            steps in proptest::collection::vec((0u64..96, 0u64..12, any::<bool>()), 0..80)
        ) {
            let mut free = [false; 128];
            let mut ranges = Vec::new();
            for (start, len) in gaps {
                // As the process' own mappings are: none twice.
                for page in start..start + len {
                    if !std::mem::replace(&mut free[page as usize], true) {
                        ranges.push(page * MIB..(page + 1) * MIB);
                    }
                }
            }
            // The guards are as long as a page here.
            let all = free;
            for page in 0..free.len() {
                let beside = |other: Option<usize>| other.and_then(|other| all.get(other)).is_some_and(|&free| free);
                free[page] &= beside(page.checked_sub(1)) && beside(page.checked_add(1));
            }
            let mut reserved = Reserved::new(ranges);
            let mut taken: Vec<Range<u64>> = Vec::new();
            for (start, len, give) in steps {
                if give && !taken.is_empty() {
                    let range = taken.swap_remove(start as usize % taken.len());
                    free[range.start as usize..range.end as usize].fill(true);
                    reserved.give(range.start * MIB..range.end * MIB);
                    continue;
                }
                let range = start..start + len;
                let pages = &mut free[range.start as usize..range.end as usize];
                let expected = !pages.is_empty() && pages.iter().all(|&free| free);
                let missing = reserved.missing(range.start * MIB..range.end * MIB);
                for (page, free) in (range.start..).zip(pages.iter()) {
                    prop_assert_eq!(missing.iter().any(|part| part.contains(&(page * MIB))), !free);
                }
                prop_assert_eq!(reserved.take(range.start * MIB..range.end * MIB), expected);
                if expected {
                    pages.fill(false);
                    taken.push(range);
                }
                for (&start, &end) in &reserved.0 {
                    prop_assert!(free[(start / MIB) as usize..(end / MIB) as usize].iter().all(|&free| free));
                }
                let bytes: u64 = reserved.0.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(bytes / MIB, free.iter().filter(|&&free| free).count() as u64);
            }
        }
    }
}
