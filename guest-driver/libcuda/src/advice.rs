//! What a program advised of its managed memory, by address. It is remembered, and changes nothing.
use std::collections::BTreeMap;
use std::ops::Range;

/// What was advised of a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// It is mostly read.
    pub read_mostly: bool,
    /// It is to be where the host is.
    pub prefers_host: bool,
    /// The host accesses it.
    pub accessed_by_host: bool,
}

/// All of it: from each address on, up to the next.
#[derive(Debug, Default)]
pub struct Advices(BTreeMap<u64, Advice>);

impl Advices {
    fn at(&self, addr: u64) -> Advice {
        let before = self.0.range(..=addr).next_back();
        before.map(|(_, &advice)| advice).unwrap_or_default()
    }

    /// Changes what is advised of a range.
    pub fn change(&mut self, range: Range<u64>, change: fn(&mut Advice)) {
        for edge in [range.start, range.end] {
            let advice = self.at(edge);
            self.0.insert(edge, advice);
        }
        self.0.range_mut(range).for_each(|(_, advice)| change(advice));
        let mut last = Advice::default();
        self.0
            .retain(|_, advice| std::mem::replace(&mut last, *advice) != *advice);
    }

    /// What is advised of all of a range.
    pub fn common(&self, range: Range<u64>) -> Advice {
        let parts = self.0.range(range.clone()).map(|(_, &advice)| advice);
        parts.fold(self.at(range.start), |all, advice| Advice {
            read_mostly: all.read_mostly && advice.read_mostly,
            prefers_host: all.prefers_host && advice.prefers_host,
            accessed_by_host: all.accessed_by_host && advice.accessed_by_host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_to_a_range_is_what_all_of_it_was_advised() {
        let mut advices = Advices::default();
        advices.change(100..200, |advice| advice.read_mostly = true);
        advices.change(150..300, |advice| advice.prefers_host = true);
        let all = |range| advices.common(range);
        assert!(all(100..200).read_mostly && !all(100..201).read_mostly && !all(99..101).read_mostly);
        assert!(all(150..300).prefers_host && !all(149..300).prefers_host && all(160..170).prefers_host);
        assert!(all(150..200).read_mostly && all(150..200).prefers_host);
        advices.change(0..1000, |advice| *advice = Advice::default());
        assert!(advices.0.is_empty());
    }
}
