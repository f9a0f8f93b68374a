//! Which addresses of the arena are free.
use std::collections::BTreeMap;

/// Alignment of every block, in bytes: the GPU's and the driver's large page.
pub const ALIGN: u64 = 2 << 20;

/// Free address ranges, none of which touches another.
#[derive(Debug)]
pub struct Arena {
    free: BTreeMap<u64, u64>,
}

impl Arena {
    /// All of `start..end` is free; both are multiples of [`ALIGN`].
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            free: BTreeMap::from([(start, end - start)]),
        }
    }

    /// Takes a block that holds `len` bytes; `None` if there is none.
    pub fn take(&mut self, len: u64) -> Option<u64> {
        let len = rounded(len)?;
        let (&start, &room) = self.free.iter().find(|&(_, &room)| room >= len)?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start + len, room - len);
        }
        Some(start)
    }

    /// Gives back the block at `start` that was taken for `len` bytes.
    pub fn give(&mut self, start: u64, len: u64) {
        let Some(mut len) = rounded(len) else { return };
        let mut start = start;
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.free.remove(&before);
            (start, len) = (before, room + len);
        }
        if let Some(room) = self.free.remove(&(start + len)) {
            len += room;
        }
        self.free.insert(start, len);
    }
}

fn rounded(len: u64) -> Option<u64> {
    len.max(1).checked_next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_arena_refuses() {
        let mut arena = Arena::new(ALIGN, 3 * ALIGN);
        assert_eq!(arena.take(3 * ALIGN), None);
        assert_eq!(arena.take(1), Some(ALIGN));
        assert_eq!(arena.take(ALIGN), Some(2 * ALIGN));
        assert_eq!(arena.take(1), None);
        assert_eq!(arena.take(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_comes_back(steps in prop::collection::vec((any::<bool>(), 1u64..5 * ALIGN, any::<prop::sample::Index>()), 1..60)) {
            let (start, end) = (16 * ALIGN, 64 * ALIGN);
            let mut arena = Arena::new(start, end);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (take, len, index) in steps {
                if take {
                    if let Some(at) = arena.take(len) {
                        prop_assert!(at % ALIGN == 0 && at >= start && at + len <= end);
                        prop_assert!(taken.iter().all(|&(a, l)| at + len <= a || a + l <= at));
                        taken.push((at, len));
                    }
                } else if !taken.is_empty() {
                    let (at, len) = taken.swap_remove(index.index(taken.len()));
                    arena.give(at, len);
                }
            }
            for (at, len) in taken {
                arena.give(at, len);
            }
            prop_assert_eq!(arena.take(end - start), Some(start));
        }
    }
}
