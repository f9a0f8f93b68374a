//! Which mappings a session has: the limits and the rules, without any memory.
use crate::budget::Use;
use std::collections::BTreeMap;
use vgpu_protocol::limits::{
    ADDRESS_END, ADDRESS_START, AREA_LEN, ARENA_LEN, MAP_LEN_MAX, MAPPED_LEN_MAX, MAPS_MAX, RUNS_MAX,
    WINDOW_LEN,
};
use vgpu_protocol::ring::RING_LEN;
use vgpu_protocol::virtio::{MAP_PROGRAM, MAP_REGISTER, Map, RingCreate, Run, Status};

/// A session's mappings and rings.
#[derive(Debug)]
pub struct Maps {
    window: u64,
    maps: BTreeMap<u64, Mapping>,
    rings: BTreeMap<u32, u64>,
    /// Bytes of all mappings, also of those that are not whole yet.
    mapped: u64,
    /// Runs that came so far.
    runs: u32,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    len: u64,
    flags: u32,
    /// Bytes that messages covered so far; the mapping is whole when all are.
    covered: u64,
    runs: u32,
}

impl Mapping {
    fn is_whole(&self) -> bool {
        self.covered == self.len
    }

    fn cost(&self) -> Use {
        Use {
            mapped: self.len,
            registered: if self.flags & (MAP_REGISTER | MAP_PROGRAM) != 0 {
                self.len
            } else {
                0
            },
            runs: self.runs,
            rings: 0,
            sessions: 0,
        }
    }
}

/// A checked message, to be recorded once the executor has done it.
#[derive(Debug)]
#[must_use]
pub struct Step {
    addr: u64,
    after: Mapping,
    /// What it uses more than before.
    pub cost: Use,
}

impl Maps {
    /// No mappings yet, in the window at `window`.
    pub fn new(window: u64) -> Self {
        Self {
            window,
            maps: BTreeMap::new(),
            rings: BTreeMap::new(),
            mapped: 0,
            runs: 0,
        }
    }

    fn is_in_arena(&self, addr: u64, end: u64) -> bool {
        addr >= self.window && end <= self.window + ARENA_LEN
    }

    /// Whether the session area, which comes first, is mapped.
    pub fn has_area(&self) -> bool {
        self.maps.get(&self.window).is_some_and(Mapping::is_whole)
    }

    /// Checks a message whose runs count as `count` (a run that crosses memory regions counts more than once). One
    /// that is refused changes nothing: what earlier messages of the same mapping covered stays, until it is unmapped.
    pub fn check(&self, map: &Map, runs: &[Run], count: usize) -> Result<Step, Status> {
        let (before, paid) = match self.maps.get(&map.addr) {
            Some(&mapping) if !mapping.is_whole() => {
                if (mapping.len, mapping.flags, mapping.covered) != (map.len, map.flags, map.offset) {
                    return Err(Status::Invalid);
                }
                (mapping, mapping.cost())
            }
            _ => (self.check_new(map)?, Use::default()),
        };
        let covered = runs
            .iter()
            .try_fold(before.covered, |sum, run| sum.checked_add(run.len))
            .filter(|&covered| covered <= map.len)
            .ok_or(Status::Invalid)?;
        let count = u32::try_from(count)
            .ok()
            .filter(|&count| count <= RUNS_MAX - self.runs)
            .ok_or(Status::Limit)?;
        let after = Mapping {
            covered,
            runs: before.runs + count,
            ..before
        };
        let mut cost = after.cost();
        cost -= paid;
        Ok(Step {
            addr: map.addr,
            after,
            cost,
        })
    }

    fn check_new(&self, map: &Map) -> Result<Mapping, Status> {
        let end = map.addr.checked_add(map.len).ok_or(Status::Invalid)?;
        // Outside the window only the executor knows what is free.
        let in_place = match map.flags {
            MAP_PROGRAM => {
                let outside = end <= self.window || map.addr >= self.window + WINDOW_LEN;
                map.addr >= ADDRESS_START && end <= ADDRESS_END && outside
            }
            _ => self.is_in_arena(map.addr, end),
        };
        if !in_place || map.offset != 0 {
            return Err(Status::Invalid);
        }
        if !self.has_area() && (map.addr, map.len, map.flags) != (self.window, AREA_LEN, MAP_REGISTER) {
            return Err(Status::Invalid);
        }
        let below = self.maps.range(..end).next_back();
        if below.is_some_and(|(addr, mapping)| addr + mapping.len > map.addr) {
            return Err(Status::Invalid);
        }
        if self.maps.len() >= MAPS_MAX || map.len > MAP_LEN_MAX || map.len > MAPPED_LEN_MAX - self.mapped {
            return Err(Status::Limit);
        }
        Ok(Mapping {
            len: map.len,
            flags: map.flags,
            covered: 0,
            runs: 0,
        })
    }

    /// Records a message that the executor has done. Whether the mapping is whole now.
    pub fn done(&mut self, step: Step) -> bool {
        let Step { addr, after, .. } = step;
        match self.maps.insert(addr, after) {
            Some(before) => self.runs += after.runs - before.runs,
            None => {
                self.mapped += after.len;
                self.runs += after.runs;
            }
        }
        after.is_whole()
    }

    /// Whether the mapping at `addr` may be undone: it exists, whole or not, is not the session area, and no ring lies
    /// in it. Whether it is whole.
    pub fn check_unmap(&self, addr: u64) -> Result<bool, Status> {
        let mapping = self.maps.get(&addr).ok_or(Status::NotFound)?;
        let in_use = self
            .rings
            .values()
            .any(|&ring| ring >= addr && ring - addr < mapping.len);
        if (addr == self.window && mapping.is_whole()) || in_use {
            return Err(Status::Invalid);
        }
        Ok(mapping.is_whole())
    }

    /// Records that the mapping at `addr` is undone: what it used.
    pub fn unmapped(&mut self, addr: u64) -> Use {
        let Some(mapping) = self.maps.remove(&addr) else {
            return Use::default();
        };
        self.mapped -= mapping.len;
        self.runs -= mapping.runs;
        mapping.cost()
    }

    /// Whether a ring may start: its number is free, and it lies inside one mapping in the arena.
    pub fn check_ring(&self, ring: &RingCreate) -> Result<(), Status> {
        if self.rings.contains_key(&ring.ring) {
            return Err(Status::Invalid);
        }
        let end = ring.addr.checked_add(RING_LEN).ok_or(Status::Invalid)?;
        match self.maps.range(..=ring.addr).next_back() {
            Some((addr, mapping))
                if end <= addr + mapping.len && mapping.is_whole() && self.is_in_arena(ring.addr, end) =>
            {
                Ok(())
            }
            _ => Err(Status::NotFound),
        }
    }

    /// Records that a ring is consumed.
    pub fn ring_created(&mut self, ring: &RingCreate) {
        self.rings.insert(ring.ring, ring.addr);
    }

    /// Whether there is such a ring.
    pub fn has_ring(&self, ring: u32) -> bool {
        self.rings.contains_key(&ring)
    }

    /// Records that a ring is no longer consumed.
    pub fn ring_destroyed(&mut self, ring: u32) {
        self.rings.remove(&ring);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vgpu_protocol::limits::PAGE_LEN;

    const WINDOW: u64 = 1 << 44;

    fn map(offset_in_window: u64, len: u64, offset: u64, flags: u32) -> Map {
        Map {
            addr: WINDOW + offset_in_window,
            len,
            offset,
            flags,
            runs_len: 1,
        }
    }

    fn run(len: u64) -> [Run; 1] {
        [Run { gpa: 0, len }]
    }

    fn with_area() -> Maps {
        let mut maps = Maps::new(WINDOW);
        let step = maps
            .check(&map(0, AREA_LEN, 0, MAP_REGISTER), &run(AREA_LEN), 1)
            .unwrap();
        assert!(maps.done(step));
        maps
    }

    #[test]
    fn the_area_comes_first() {
        let maps = Maps::new(WINDOW);
        for wrong in [
            map(4096, AREA_LEN, 0, MAP_REGISTER),
            map(0, AREA_LEN, 0, 0),
            map(0, 4096, 0, MAP_REGISTER),
        ] {
            assert!(maps.check(&wrong, &run(wrong.len), 1).is_err());
        }
        assert!(with_area().has_area());
    }

    #[test]
    fn a_mapping_in_parts_is_whole_with_the_last() {
        let mut maps = with_area();
        let at = AREA_LEN;
        let step = maps
            .check(&map(at, 3 * PAGE_LEN, 0, 0), &run(PAGE_LEN), 1)
            .unwrap();
        assert!(!maps.done(step));
        assert_eq!(maps.check_unmap(WINDOW + at), Ok(false));
        let step = maps
            .check(&map(at, 3 * PAGE_LEN, PAGE_LEN, 0), &run(2 * PAGE_LEN), 1)
            .unwrap();
        assert!(maps.done(step));
        assert_eq!(maps.check_unmap(WINDOW + at), Ok(true));
    }

    #[test]
    fn a_part_that_does_not_fit_takes_nothing() {
        let mut maps = with_area();
        let step = maps
            .check(&map(AREA_LEN, 3 * PAGE_LEN, 0, 0), &run(PAGE_LEN), 1)
            .unwrap();
        assert!(!maps.done(step));
        for wrong in [
            map(AREA_LEN, 3 * PAGE_LEN, 2 * PAGE_LEN, 0),
            map(AREA_LEN, 3 * PAGE_LEN, 0, 0),
            map(AREA_LEN, 4 * PAGE_LEN, PAGE_LEN, 0),
            map(AREA_LEN, 3 * PAGE_LEN, PAGE_LEN, MAP_REGISTER),
            map(AREA_LEN + PAGE_LEN, 3 * PAGE_LEN, 0, 0),
        ] {
            let refused = maps.check(&wrong, &run(PAGE_LEN), 1);
            assert_eq!(refused.unwrap_err(), Status::Invalid, "{wrong:?}");
        }
        let next = map(AREA_LEN, 3 * PAGE_LEN, PAGE_LEN, 0);
        assert_eq!(
            maps.check(&next, &run(3 * PAGE_LEN), 1).unwrap_err(),
            Status::Invalid
        );
        let other = map(1 << 30, PAGE_LEN, 0, 0);
        let step = maps.check(&other, &run(PAGE_LEN), 1).unwrap();
        assert!(maps.done(step));
        let step = maps.check(&next, &run(2 * PAGE_LEN), 1).unwrap();
        assert!(maps.done(step));
    }

    #[test]
    fn a_mapping_that_is_not_whole_can_be_undone() {
        let mut maps = with_area();
        let before = (maps.mapped, maps.runs);
        let step = maps
            .check(&map(AREA_LEN, 3 * PAGE_LEN, 0, 0), &run(PAGE_LEN), 7)
            .unwrap();
        assert!(!maps.done(step));
        assert_eq!(maps.check_unmap(WINDOW + AREA_LEN), Ok(false));
        maps.unmapped(WINDOW + AREA_LEN);
        assert_eq!((maps.mapped, maps.runs), before);
    }

    #[test]
    fn limits_hold() {
        let maps = with_area();
        let big = map(1 << 30, MAP_LEN_MAX + PAGE_LEN, 0, 0);
        assert_eq!(maps.check(&big, &run(PAGE_LEN), 1).unwrap_err(), Status::Limit);
        let scattered = map(1 << 30, PAGE_LEN, 0, 0);
        let error = maps
            .check(&scattered, &run(PAGE_LEN), RUNS_MAX as usize)
            .unwrap_err();
        assert_eq!(error, Status::Limit);
        let outside = map(ARENA_LEN - PAGE_LEN, 2 * PAGE_LEN, 0, 0);
        assert_eq!(
            maps.check(&outside, &run(PAGE_LEN), 1).unwrap_err(),
            Status::Invalid
        );
    }

    #[test]
    fn a_programs_memory_lies_outside_the_window_and_counts_as_registered() {
        let mut maps = with_area();
        let at = |addr, len, flags| Map {
            addr,
            len,
            offset: 0,
            flags,
            runs_len: 1,
        };
        for (addr, len) in [
            (WINDOW, PAGE_LEN),
            (WINDOW + WINDOW_LEN - PAGE_LEN, PAGE_LEN),
            (WINDOW - PAGE_LEN, 2 * PAGE_LEN),
            (WINDOW + WINDOW_LEN - PAGE_LEN, 2 * PAGE_LEN),
            (ADDRESS_END - PAGE_LEN, 2 * PAGE_LEN),
            (u64::MAX - PAGE_LEN + 1, PAGE_LEN),
            (PAGE_LEN, u64::MAX - PAGE_LEN + 1),
            (0, PAGE_LEN),
            (ADDRESS_START - PAGE_LEN, 2 * PAGE_LEN),
        ] {
            let refused = maps.check(&at(addr, len, MAP_PROGRAM), &run(len), 1);
            assert_eq!(refused.unwrap_err(), Status::Invalid, "{addr:#x}");
        }
        let place = WINDOW - 4 * RING_LEN.next_multiple_of(PAGE_LEN);
        let len = 2 * RING_LEN.next_multiple_of(PAGE_LEN);
        for flags in [0, MAP_REGISTER] {
            assert!(maps.check(&at(place, len, flags), &run(len), 1).is_err());
        }
        let step = maps.check(&at(place, len, MAP_PROGRAM), &run(len), 1).unwrap();
        assert_eq!((step.cost.mapped, step.cost.registered), (len, len));
        assert!(maps.done(step));
        assert!(
            maps.check(&at(place + PAGE_LEN, len, MAP_PROGRAM), &run(len), 1)
                .is_err()
        );
        // No ring lies there.
        let ring = RingCreate {
            ring: 1,
            reserved: 0,
            addr: place,
        };
        assert_eq!(maps.check_ring(&ring), Err(Status::NotFound));
        assert_eq!(maps.unmapped(place).registered, len);
    }

    #[test]
    fn a_ring_keeps_its_mapping() {
        let mut maps = with_area();
        let at = AREA_LEN;
        let len = RING_LEN.next_multiple_of(PAGE_LEN);
        let step = maps.check(&map(at, len, 0, 0), &run(len), 1).unwrap();
        assert!(maps.done(step));
        let ring = RingCreate {
            ring: 5,
            reserved: 0,
            addr: WINDOW + at,
        };
        maps.check_ring(&ring).unwrap();
        maps.ring_created(&ring);
        assert_eq!(maps.check_ring(&ring), Err(Status::Invalid));
        assert_eq!(maps.check_unmap(WINDOW + at), Err(Status::Invalid));
        maps.ring_destroyed(5);
        assert_eq!(maps.check_unmap(WINDOW + at), Ok(true));
        let past = RingCreate {
            addr: WINDOW + at + PAGE_LEN,
            ..ring
        };
        assert_eq!(maps.check_ring(&past), Err(Status::NotFound));
        assert_eq!(maps.check_unmap(WINDOW), Err(Status::Invalid));
    }

    proptest! {
        #[test]
        fn whole_mappings_never_overlap(steps in proptest::collection::vec((0u64..64, 1u64..16, any::<bool>()), 0..80)) {
            let mut maps = with_area();
            for (page, pages, unmap) in steps {
                let addr = AREA_LEN + page * PAGE_LEN;
                if unmap {
                    if maps.check_unmap(WINDOW + addr).is_ok() {
                        maps.unmapped(WINDOW + addr);
                    }
                } else if let Ok(step) = maps.check(&map(addr, pages * PAGE_LEN, 0, 0), &run(pages * PAGE_LEN), 1) {
                    prop_assert!(maps.done(step));
                }
                let mut end = 0;
                let mut sum = 0;
                for (addr, mapping) in &maps.maps {
                    prop_assert!(*addr >= end);
                    end = addr + mapping.len;
                    sum += mapping.len;
                }
                prop_assert_eq!(sum, maps.mapped);
                prop_assert_eq!(maps.runs as usize, maps.maps.len());
            }
        }
    }
}
