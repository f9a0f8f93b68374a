//! Where things may lie in this process: a pointer means one thing in the guest and here, so libcuda gets only
//! addresses that the guest process has reserved too. Everything else is occupied before libcuda is loaded, except
//! what lies low, where libcuda insists on a range of its own.
//!
//! A program's own memory, once it registers it, is mapped at its own address too: over what is reserved here, or, low, where
//! nothing lies. vgpu-backend starts this process such that its libraries and threads' stacks do not lie where programs have
//! theirs (see there). What little remains here (program, heap, main thread's stack) is in the way of few programs.
use crate::reserved::Reserved;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ops::Range;
use vgpu_protocol::limits::{ARENA_LEN, WINDOW_LEN};

/// Below this libcuda keeps its queues and doorbells (0x2_0000_0000 to 0x3_0020_0000), and finds little else.
pub const LOW: u64 = 64 << 30;
/// The end of a process' addresses.
const TOP: u64 = 0x7fff_ffff_f000;
/// The main thread's stack is grown to this many bytes, since afterwards it cannot grow.
const STACK_LEN: usize = 2 << 20;
/// How often to look for gaps.
const PASSES: u32 = 100;
/// Windows are aligned like this.
const WINDOW_ALIGN: u64 = 2 << 20;

const RESERVED: MapFlags = MapFlags::PRIVATE
    .union(MapFlags::NORESERVE)
    .union(MapFlags::FIXED_NOREPLACE);

/// Reserves the first window of `candidates` that is free here, and occupies everything around it. What remains free
/// is the window's part behind the arena, and the low part. Returns the window's base and what was reserved around it, or
/// `None` if none is free.
pub fn confine(candidates: &[u64]) -> io::Result<Option<(u64, Reserved)>> {
    let Some(&window) = candidates.iter().find(|&&window| take(window)) else {
        return Ok(None);
    };
    grow_stack();
    let reserved = occupy(window..window + WINDOW_LEN)?;
    // SAFETY: `take` reserved this range a moment ago and nothing uses it.
    unsafe { rustix::mm::munmap((window + ARENA_LEN) as *mut _, (WINDOW_LEN - ARENA_LEN) as usize) }?;
    Ok(Some((window, reserved)))
}

/// Reserves all that is free around the window. Other threads (and reading the list) may map something at any moment, so
/// looks again until a list shows no gap. What it reserved.
fn occupy(window: Range<u64>) -> io::Result<Reserved> {
    let mut occupied = Vec::new();
    for _ in 0..PASSES {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let gaps = gaps(&mapped(&maps), window.clone());
        if gaps.is_empty() {
            return Ok(Reserved::new(occupied));
        }
        for gap in gaps {
            match reserve(gap.clone()) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                reserved => {
                    reserved?;
                    occupied.push(gap);
                }
            }
        }
    }
    Err(io::Error::other("gaps keep appearing in the address space"))
}

fn take(window: u64) -> bool {
    window.is_multiple_of(WINDOW_ALIGN)
        && window >= LOW
        && window.checked_add(WINDOW_LEN).is_some_and(|end| end <= TOP)
        && reserve(window..window + WINDOW_LEN).is_ok()
}

/// Reserves a range, if nothing is there.
pub fn reserve(range: Range<u64>) -> io::Result<()> {
    let len = (range.end - range.start) as usize;
    // SAFETY: FIXED_NOREPLACE takes free addresses only, and nothing can be read or written there.
    let at = unsafe { rustix::mm::mmap_anonymous(range.start as *mut _, len, ProtFlags::empty(), RESERVED) }?;
    if at as u64 == range.start {
        return Ok(());
    }
    // A kernel that does not know the flag put it elsewhere.
    // SAFETY: this is the mapping just made.
    unsafe { rustix::mm::munmap(at, len) }?;
    Err(io::ErrorKind::AddrInUse.into())
}

/// Has the kernel extend the main thread's stack now.
#[inline(never)]
fn grow_stack() {
    let mut deep = [0u8; STACK_LEN];
    for page in deep.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&mut deep);
}

/// The ranges that /proc/self/maps lists.
fn mapped(maps: &str) -> Vec<Range<u64>> {
    maps.lines()
        .filter_map(|line| {
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        })
        .collect()
}

/// The free ranges from [`LOW`] to [`TOP`], less the window. `mapped` is sorted.
fn gaps(mapped: &[Range<u64>], window: Range<u64>) -> Vec<Range<u64>> {
    let mut taken: Vec<_> = mapped.iter().cloned().chain([window, TOP..u64::MAX]).collect();
    taken.sort_by_key(|range| range.start);
    let mut free = Vec::new();
    let mut at = LOW;
    for range in taken {
        if range.start > at {
            free.push(at..range.start.min(TOP));
        }
        at = at.max(range.end);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_list_of_mappings_is_understood() {
        let maps = "5581c000-5581d000 r-xp 00000000 08:01 12 /bin/x\n\
                    7ffc0000-7ffd0000 rw-p 00000000 00:00 0 [stack]\n\
                    ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";
        assert_eq!(
            mapped(maps),
            [
                0x5581c000..0x5581d000,
                0x7ffc0000..0x7ffd0000,
                0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000
            ]
        );
    }

    proptest! {
        #[test]
        fn free_and_taken_cover_everything_once(mut cuts in proptest::collection::vec(0u64..TOP / 4096, 0..12), window in 1u64..30) {
            cuts.sort();
            cuts.dedup();
            let mapped: Vec<_> = cuts.chunks_exact(2).map(|c| c[0] * 4096..c[1] * 4096).collect();
            let window = window * WINDOW_LEN..(window + 1) * WINDOW_LEN;
            let free = gaps(&mapped, window.clone());
            for gap in &free {
                prop_assert!(gap.start < gap.end && gap.start >= LOW && gap.end <= TOP);
                for taken in mapped.iter().chain([&window]) {
                    prop_assert!(gap.end <= taken.start || taken.end <= gap.start);
                }
            }
            // Every address from LOW to TOP is in a gap or taken: the boundaries suffice to see it.
            let points = mapped.iter().chain([&window]).flat_map(|r| [r.start.saturating_sub(1), r.end]).chain([LOW, TOP - 1]);
            for p in points.filter(|p| (LOW..TOP).contains(p)) {
                let taken = mapped.iter().chain([&window]).any(|r| r.contains(&p));
                prop_assert!(taken != free.iter().any(|r| r.contains(&p)));
            }
        }
    }
}
