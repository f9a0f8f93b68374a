//! The process' own memory in the place of which the shared memory is mapped, for as long as the host has it.
//!
//! What a process has allocated for itself is in no file, so no other process can map it. Its content is copied into pages of
//! the shared memory, which then take its place; and back in the end. Another thread that writes there meanwhile may lose what
//! it writes, so other threads' stacks must not be among it. Of the calling thread's there may be variables, as NPP registers
//! some: pages are replaced from deeper on that stack.
use super::memory::{Extent, Memory, NAME};
use crate::TransportError;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::fs;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, Once, PoisonError, TryLockError};

/// Where it is, so that a forked child gets memory of its own again.
static SHARED: Mutex<Vec<Range<u64>>> = Mutex::new(Vec::new());

/// One line of /proc/self/maps.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    range: Range<u64>,
    permissions: &'a str,
    inode: &'a str,
    name: &'a str,
}

impl<'a> Entry<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let (word, behind) = rest
                .trim_start()
                .split_once(' ')
                .unwrap_or((rest.trim_start(), ""));
            rest = behind;
            word
        };
        let (start, end) = word().split_once('-')?;
        let (permissions, _offset, _device, inode) = (word(), word(), word(), word());
        Some(Self {
            range: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
            permissions,
            inode,
            name: rest.trim(),
        })
    }

    /// Memory that the process has allocated: private and in no file. The main thread's stack only of the main thread.
    fn is_allocated(&self, by_main: bool) -> bool {
        let named = match self.name {
            "" | "[heap]" => true,
            "[stack]" => by_main,
            name => name.starts_with("[anon:"),
        };
        self.permissions == "rw-p" && self.inode == "0" && named
    }

    fn is_shared_memory(&self) -> bool {
        self.name
            .strip_prefix("/memfd:")
            .is_some_and(|name| name.starts_with(NAME))
    }
}

/// Bytes of stack between the callers of [`deeper`] and what it runs: some pages.
const BETWEEN: usize = 16 << 10;

/// Runs what replaces pages so deep on the stack that nothing it writes lies on pages that callers' variables are on.
#[inline(never)]
fn deeper(replace: &mut dyn FnMut()) {
    let between = std::hint::black_box([0u8; BETWEEN]);
    // Not a part of this function, whose variables lie on either side.
    std::hint::black_box(replace)();
    std::hint::black_box(&between);
}

/// Where a thread is.
struct Caller {
    /// The deepest place of its stack.
    stack: u64,
    is_main: bool,
}

impl Caller {
    fn here() -> Self {
        let mut stack = 0;
        deeper(&mut || {
            let deepest = 0u8;
            stack = std::ptr::from_ref(&deepest) as u64;
        });
        let is_main = rustix::thread::gettid() == rustix::process::getpid();
        Self { stack, is_main }
    }
}

/// Whether the range is memory that the process has allocated. Of the caller's stack only what is in use: below that it grows.
fn check(maps: &str, range: Range<u64>, caller: &Caller) -> Result<(), TransportError> {
    if range.contains(&caller.stack) {
        return Err(TransportError::Unsupported);
    }
    let by_main = caller.is_main && caller.stack < range.start;
    let mut at = range.start;
    for entry in maps.lines().filter_map(Entry::read) {
        if at >= range.end || entry.range.start > at {
            break;
        }
        if entry.range.end <= at {
            continue;
        }
        if !entry.permissions.starts_with("rw") {
            return Err(TransportError::NotItsOwn);
        }
        if !entry.is_allocated(by_main) {
            return Err(TransportError::Unsupported);
        }
        at = entry.range.end;
    }
    if at < range.end {
        return Err(TransportError::NotItsOwn);
    }
    Ok(())
}

/// Refuses what is no memory that the process has allocated.
pub fn check_allocated(addr: u64, len: u64) -> Result<(), TransportError> {
    check(
        &fs::read_to_string("/proc/self/maps")?,
        addr..addr + len,
        &Caller::here(),
    )
}

fn anonymous(len: u64) -> io::Result<u64> {
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let at = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            len as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    Ok(at as u64)
}

/// Has the extents take the place of what the process has allocated there, with its content.
pub fn replace(memory: &Memory, extents: &[Extent], addr: u64, len: u64) -> io::Result<()> {
    forget_in_children();
    // Held while pages are replaced: a child that is forked meanwhile is left with what there is (see `forked`).
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = anonymous(len)?;
    let mut replaced = memory.map(copy, extents);
    if replaced.is_ok() {
        deeper(&mut || {
            // SAFETY: the program's own memory of this length, which was looked up; the copy was just mapped.
            unsafe { std::ptr::copy_nonoverlapping(addr as *const u8, copy as *mut u8, len as usize) };
            replaced = memory.map(addr, extents);
        });
    }
    // SAFETY: mapped above, and nobody else's.
    unsafe { rustix::mm::munmap(copy as *mut _, len as usize) }?;
    replaced?;
    shared.push(addr..addr + len);
    Ok(())
}

/// Gives the process memory of its own again, with the content, where the shared memory still is: a program may have given
/// addresses back, and have others there now.
pub fn restore(addr: u64, len: u64) -> io::Result<()> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.retain(|range| range.start != addr);
    let maps = fs::read_to_string("/proc/self/maps")?;
    for entry in maps
        .lines()
        .filter_map(Entry::read)
        .filter(Entry::is_shared_memory)
    {
        let (start, end) = (entry.range.start.max(addr), entry.range.end.min(addr + len));
        if start < end {
            make_own(start, end - start)?;
        }
    }
    Ok(())
}

/// Puts memory of the process' own, with the same content, in the place of other memory.
fn make_own(addr: u64, len: u64) -> io::Result<()> {
    let copy = anonymous(len)?;
    let (from, to, len) = (copy as *mut _, addr as *mut _, len as usize);
    let mut moved = Ok(to);
    deeper(&mut || {
        // SAFETY: both are memory of this length, and the copy takes the place of what it is a copy of.
        moved = unsafe {
            std::ptr::copy_nonoverlapping(addr as *const u8, copy as *mut u8, len);
            rustix::mm::mremap_fixed(from, len, len, MremapFlags::MAYMOVE, to)
        };
    });
    moved?;
    Ok(())
}

/// In a forked child, which must not write its parent's memory: what was its own is so again.
extern "C" fn forked() {
    let shared = match SHARED.try_lock() {
        Ok(shared) => shared,
        Err(TryLockError::Poisoned(shared)) => shared.into_inner(),
        // Another thread of the parent was at it, and is not here to go on.
        Err(TryLockError::WouldBlock) => return,
    };
    for range in shared.iter() {
        // Where there is no memory for it, the child goes on with its parent's.
        let _ = make_own(range.start, range.end - range.start);
    }
}

fn forget_in_children() {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: the handler only copies and maps memory, which a forked child may, and stays loaded.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::limits::PAGE_LEN;

    const MAPS: &str = "\
        00010000-00020000 rw-p 00000000 00:00 0                                  [heap]\n\
        00020000-00030000 rw-p 00000000 00:00 0 \n\
        00030000-00031000 ---p 00000000 00:00 0 \n\
        00031000-00040000 rw-p 00000000 00:00 0                                  [anon:name]\n\
        00040000-00050000 r--p 00000000 00:00 0 \n\
        00050000-00060000 rw-s 00000000 00:01 7                                  /memfd:vgpu-memory (deleted)\n\
        00060000-00070000 rw-p 00001000 08:01 12                                 /usr/lib/a file\n\
        00070000-00080000 rw-p 00000000 00:00 0                                  [stack]\n";

    #[test]
    fn what_a_process_has_allocated_is_told_from_the_rest() {
        let entries: Vec<_> = MAPS.lines().filter_map(Entry::read).collect();
        assert_eq!(entries.len(), MAPS.lines().count());
        assert_eq!(entries[6].name, "/usr/lib/a file");
        assert!(entries[5].is_shared_memory() && !entries[6].is_shared_memory());
        let main = |stack| Caller { stack, is_main: true };
        let is = |start, end| check(MAPS, start..end, &main(0x7_1000));
        for (start, end) in [(0x1_0000, 0x1_1000), (0x1_f000, 0x2_1000), (0x3_1000, 0x4_0000)] {
            assert!(is(start, end).is_ok(), "{start:#x}");
        }
        for (start, end) in [
            (0xf000, 0x1_1000),
            (0x2_f000, 0x3_2000),
            (0x4_0000, 0x4_1000),
            (0x8_0000, 0x9_0000),
        ] {
            assert!(
                matches!(is(start, end), Err(TransportError::NotItsOwn)),
                "{start:#x}"
            );
        }
        for start in [0x5_0000, 0x6_0000, 0x7_0000, 0x7_1000] {
            assert!(
                matches!(is(start, start + 0x1000), Err(TransportError::Unsupported)),
                "{start:#x}"
            );
        }
        // Of the caller's own stack what is in use, of which the deepest is not.
        assert!(is(0x7_2000, 0x7_3000).is_ok());
        let of_another = Caller {
            is_main: false,
            ..main(0x2_0080)
        };
        for (start, caller) in [(0x2_0000, main(0x2_0080)), (0x7_2000, of_another)] {
            assert!(matches!(
                check(MAPS, start..start + 0x1000, &caller),
                Err(TransportError::Unsupported)
            ));
        }
    }

    #[test]
    fn variables_of_the_caller_are_replaced_under_it() {
        let memory = Memory::new(super::super::memory::LEN_MIN, 0).unwrap();
        let extents = memory.allocate(PAGE_LEN).unwrap();
        let mut word = std::hint::black_box(5u32);
        let place = &raw mut word;
        let page = place as u64 / PAGE_LEN * PAGE_LEN;
        check_allocated(page, PAGE_LEN).unwrap();
        replace(&memory, &extents, page, PAGE_LEN).unwrap();
        // SAFETY: the variable above.
        unsafe { place.write_volatile(place.read_volatile() + 1) };
        let mut there = [0; 4];
        let offset = extents[0].offset + (place as u64 - page);
        rustix::io::pread(memory.file(), &mut there, offset).unwrap();
        assert_eq!(u32::from_ne_bytes(there), 6);
        restore(page, PAGE_LEN).unwrap();
        // SAFETY: as before.
        unsafe { place.write_volatile(place.read_volatile() + 1) };
        rustix::io::pread(memory.file(), &mut there, offset).unwrap();
        assert_eq!((word, u32::from_ne_bytes(there)), (7, 6));
    }

    #[test]
    fn content_stays_and_what_else_lies_there_meanwhile_does_too() {
        const LEN: u64 = 4 * PAGE_LEN;
        let memory = Memory::new(super::super::memory::LEN_MIN, 0).unwrap();
        let extents = memory.allocate(LEN).unwrap();
        let addr = anonymous(LEN).unwrap();
        // SAFETY: mapped for this test, as long as it runs.
        let bytes = || unsafe { std::slice::from_raw_parts_mut(addr as *mut u8, LEN as usize) };
        bytes()
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at * 7) as u8);
        check_allocated(addr, LEN).unwrap();
        replace(&memory, &extents, addr, LEN).unwrap();
        assert!(
            bytes()
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == (at * 7) as u8)
        );
        let mut there = [0];
        rustix::io::pread(memory.file(), &mut there, extents[0].offset + 5).unwrap();
        assert_eq!(there, [35]);
        bytes()[6] = 1;
        rustix::io::pread(memory.file(), &mut there, extents[0].offset + 6).unwrap();
        assert_eq!(there, [1]);
        // The program gives the second page back, and gets another one there.
        // SAFETY: part of this test's mapping.
        unsafe {
            let at = (addr + PAGE_LEN) as *mut _;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            rustix::mm::mmap_anonymous(at, PAGE_LEN as usize, ProtFlags::READ | ProtFlags::WRITE, flags)
                .unwrap();
        }
        restore(addr, LEN).unwrap();
        assert_eq!(
            (bytes()[6], bytes()[PAGE_LEN as usize], bytes()[LEN as usize - 1]),
            (1, 0, 249)
        );
        bytes()[6] = 2;
        rustix::io::pread(memory.file(), &mut there, extents[0].offset + 6).unwrap();
        assert_eq!(there, [1]);
        check_allocated(addr, LEN).unwrap();
    }
}
