//! Which ranges of the program's own memory are registered, and which pages the host has mapped for that. Pure: what maps and
//! unmaps is the caller's.
//!
//! Ranges begin and end anywhere, and several may have a part of one page. So such a page is a mapping of its own, which goes
//! with the last of them; the whole pages between are the range's alone.
use std::collections::BTreeMap;
use vgpu_protocol::limits::PAGE_LEN;
use vgpu_protocol::result::{self, Code};

/// Ranges and mappings, by where they start.
#[derive(Debug, Default)]
pub struct Registrations {
    /// Bytes of each range.
    ranges: BTreeMap<u64, u64>,
    mappings: BTreeMap<u64, Mapping>,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    len: u64,
    /// Ranges that have a part of it; 0 if the host did not let go of it.
    ranges: u32,
}

/// The mappings of a range: address and length.
fn parts(addr: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = addr + len;
    let first_whole = addr.next_multiple_of(PAGE_LEN);
    let last_whole = end / PAGE_LEN * PAGE_LEN;
    let head = (first_whole != addr).then(|| (first_whole - PAGE_LEN, PAGE_LEN));
    let whole = (first_whole < last_whole).then(|| (first_whole, last_whole - first_whole));
    // Unless it is the first one.
    let tail = (last_whole != end && last_whole >= first_whole).then_some((last_whole, PAGE_LEN));
    head.into_iter().chain(whole).chain(tail)
}

impl Registrations {
    /// Adds a range, which does not reach the end of the address space, and has `map` map those of its pages that are not
    /// mapped. Refused as a whole: one that overlaps another, and one whose pages cannot be mapped.
    pub fn add(
        &mut self,
        addr: u64,
        len: u64,
        mut map: impl FnMut(u64, u64) -> Result<(), Code>,
        unmap: impl FnMut(u64, u64) -> Result<(), Code>,
    ) -> Result<(), Code> {
        let below = self.ranges.range(..addr + len).next_back();
        if below.is_some_and(|(start, len)| start + len > addr) {
            return Err(result::HOST_MEMORY_ALREADY_REGISTERED);
        }
        // The host has other pages there than the program, perhaps.
        let stuck = |(at, len): (u64, u64)| {
            let mut inside = self.mappings.range(..at + len).rev();
            inside
                .next()
                .is_some_and(|(start, mapping)| start + mapping.len > at && mapping.ranges == 0)
        };
        if parts(addr, len).any(stuck) {
            return Err(result::UNKNOWN);
        }
        for (done, (at, part)) in parts(addr, len).enumerate() {
            match self.mappings.get_mut(&at) {
                Some(mapping) => mapping.ranges += 1,
                None => {
                    if let Err(code) = map(at, part) {
                        self.drop_parts(parts(addr, len).take(done), unmap);
                        return Err(code);
                    }
                    self.mappings.insert(at, Mapping { len: part, ranges: 1 });
                }
            }
        }
        self.ranges.insert(addr, len);
        Ok(())
    }

    /// Takes a range out, and has `unmap` unmap those of its pages that no other has a part of.
    pub fn remove(&mut self, addr: u64, unmap: impl FnMut(u64, u64) -> Result<(), Code>) {
        if let Some(len) = self.ranges.remove(&addr) {
            self.drop_parts(parts(addr, len), unmap);
        }
    }

    fn drop_parts(
        &mut self,
        parts: impl Iterator<Item = (u64, u64)>,
        mut unmap: impl FnMut(u64, u64) -> Result<(), Code>,
    ) {
        for (at, len) in parts {
            let Some(mapping) = self.mappings.get_mut(&at) else {
                continue;
            };
            mapping.ranges -= 1;
            if mapping.ranges == 0 && unmap(at, len).is_ok() {
                self.mappings.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    #[test]
    fn parts_are_pages_at_the_ends_and_what_is_between() {
        let of = |addr, len| parts(addr, len).collect::<Vec<_>>();
        assert_eq!(of(4096, 8192), [(4096, 8192)]);
        assert_eq!(of(4100, 10), [(4096, 4096)]);
        assert_eq!(of(4100, 4092), [(4096, 4096)]);
        assert_eq!(of(4096, 10), [(4096, 4096)]);
        assert_eq!(of(4100, 4093), [(4096, 4096), (8192, 4096)]);
        assert_eq!(of(4100, 20000), [(4096, 4096), (8192, 12288), (20480, 4096)]);
    }

    #[test]
    fn pages_that_the_host_keeps_are_not_registered_again() {
        let mut all = Registrations::default();
        all.add(4100, 10, |_, _| Ok(()), |_, _| Ok(())).unwrap();
        all.remove(4100, |_, _| Err(result::UNKNOWN));
        let again = all.add(4200, 10_000, |_, _| Ok(()), |_, _| Ok(()));
        assert_eq!(again, Err(result::UNKNOWN));
        all.add(8192, 10, |_, _| Ok(()), |_, _| Ok(())).unwrap();
    }

    proptest! {
        /// The host has exactly the pages mapped that some range has a part of, none of them twice.
        #[test]
        fn mapped_are_the_pages_that_a_range_has_a_part_of(
            steps in proptest::collection::vec((0u64..40_000, 1u64..12_000, any::<bool>(), 0u32..8), 1..60)
        ) {
            let mut all = Registrations::default();
            let mut held: Vec<(u64, u64)> = Vec::new();
            let pages = RefCell::new(BTreeSet::new());
            let unmap = |at: u64, len: u64| {
                for page in (at..at + len).step_by(PAGE_LEN as usize) {
                    assert!(pages.borrow_mut().remove(&page));
                }
                Ok(())
            };
            for (addr, len, remove, fails_at) in steps {
                if remove && !held.is_empty() {
                    let (addr, _) = held.swap_remove(addr as usize % held.len());
                    all.remove(addr, unmap);
                } else {
                    let mut left = fails_at;
                    let map = |at: u64, len: u64| {
                        left = left.checked_sub(1).ok_or(result::OUT_OF_MEMORY)?;
                        for page in (at..at + len).step_by(PAGE_LEN as usize) {
                            assert!(pages.borrow_mut().insert(page));
                        }
                        Ok(())
                    };
                    let overlaps = held.iter().any(|&(start, other)| start < addr + len && addr < start + other);
                    match all.add(addr, len, map, unmap) {
                        Ok(()) => held.push((addr, len)),
                        Err(result::HOST_MEMORY_ALREADY_REGISTERED) => prop_assert!(overlaps),
                        Err(_) => prop_assert!(!overlaps),
                    }
                }
                let expected: BTreeSet<u64> = held.iter()
                    .flat_map(|&(addr, len)| (addr / PAGE_LEN..(addr + len).div_ceil(PAGE_LEN)).map(|page| page * PAGE_LEN))
                    .collect();
                prop_assert_eq!(&*pages.borrow(), &expected);
            }
        }
    }
}
