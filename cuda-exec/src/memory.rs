//! What a guest's pointers may name: its own memory, mapped in the arena or, of a program's own, where that lies, and the
//! device memory it allocated. With one address space for host and device, libcuda would take any address of this process; so
//! every range is looked up here.
//!
//! Whoever submits work on a range holds a [`View`] until libcuda has taken the work; whoever takes a range away removes
//! it here first, then waits for the work, then gives it back. So no work starts on a range that is going.
use crate::confine;
use crate::device_memory::{Device, DeviceTable, Owner};
use crate::limits::Charge;
use crate::reserved::Reserved;
use crate::shared::Shared;
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use vgpu_protocol::host::{ExecMap, ExecRun};
use vgpu_protocol::limits::{
    ADDRESS_END, ADDRESS_START, AREA_LEN, ARENA_LEN, MAP_LEN_MAX, MAPPED_LEN_MAX, MAPS_MAX, PAGE_LEN,
    REGISTERED_MAX, RUNS_MAX, WINDOW_LEN,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::virtio::{MAP_PROGRAM, MAP_REGISTER, Status};

/// A file with guest memory.
#[derive(Debug)]
pub struct Region {
    file: OwnedFd,
    len: u64,
}

impl Region {
    /// Checks that the file has `len` bytes and keeps them: a file that could shrink under a mapping would end this
    /// process with SIGBUS.
    pub fn new(file: OwnedFd, len: u64) -> Result<Self, Status> {
        use rustix::fs::SealFlags;
        let size = rustix::fs::fstat(&file).map_err(|_| Status::Invalid)?.st_size as u64;
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| Status::Invalid)?;
        if size < len || !seals.contains(SealFlags::SHRINK) {
            log::error!("guest memory of {size} bytes for a region of {len}, seals {seals:?}: refused");
            return Err(Status::Invalid);
        }
        Ok(Self { file, len })
    }
}

/// A mapping of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    len: u64,
    runs: u32,
    /// The guest asked for the GPU's access.
    register: bool,
    /// libcuda knows it.
    registered: bool,
    /// Rings that lie in it.
    rings: u32,
}

/// A range of a program's own memory that it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registered {
    len: u64,
    context: u32,
    /// libcuda has it, and it is not being taken back.
    usable: bool,
}

/// A mapping of which not all messages have come.
#[derive(Clone, Copy, Debug)]
struct Pending {
    len: u64,
    covered: u64,
    runs: u32,
    flags: u32,
}

/// What is mapped and allocated; pure.
#[derive(Debug, Default)]
struct Tables {
    window: u64,
    maps: BTreeMap<u64, Mapping>,
    pending: BTreeMap<u64, Pending>,
    registered: BTreeMap<u64, Registered>,
    device: DeviceTable,
    mapped: u64,
    runs: u32,
}

impl Tables {
    /// Checks one message against what is there and against every limit, and counts it in; whether it is the mapping's
    /// last. `len` is the bytes of its runs.
    fn admit(&mut self, map: &ExecMap, len: u64) -> Result<bool, Status> {
        let pages = |n: u64| n != 0 && n.is_multiple_of(PAGE_LEN);
        let end = map.addr.checked_add(map.len).ok_or(Status::Invalid)?;
        let in_place = match map.flags {
            MAP_PROGRAM => {
                map.addr >= ADDRESS_START && end <= ADDRESS_END && !self.touches_window(map.addr, end)
            }
            0 | MAP_REGISTER => self.is_in_arena(map.addr, end),
            _ => false,
        };
        if !in_place || !map.addr.is_multiple_of(PAGE_LEN) || !pages(map.len) || !pages(len) {
            return Err(Status::Invalid);
        }
        let is_area = map.addr == self.window && map.len == AREA_LEN && map.flags == MAP_REGISTER;
        if self.maps.is_empty() && !is_area {
            return Err(Status::Invalid);
        }
        let mut pending = match self.pending.get(&map.addr) {
            Some(pending) => *pending,
            None => {
                let overlaps = overlap(&self.maps, map.addr, end, |m| m.len)
                    || overlap(&self.pending, map.addr, end, |p| p.len);
                if overlaps {
                    return Err(Status::Invalid);
                }
                if map.len > MAP_LEN_MAX
                    || self.mapped + map.len > MAPPED_LEN_MAX
                    || self.maps.len() + self.pending.len() >= MAPS_MAX
                {
                    return Err(Status::Limit);
                }
                Pending {
                    len: map.len,
                    covered: 0,
                    runs: 0,
                    flags: map.flags,
                }
            }
        };
        if (pending.len, pending.covered, pending.flags) != (map.len, map.offset, map.flags)
            || len > pending.len - pending.covered
        {
            return Err(Status::Invalid);
        }
        if map.runs_len > RUNS_MAX - self.runs {
            return Err(Status::Limit);
        }
        if pending.covered == 0 {
            self.mapped += pending.len;
        }
        self.runs += map.runs_len;
        pending.runs += map.runs_len;
        pending.covered += len;
        self.pending.insert(map.addr, pending);
        Ok(pending.covered == pending.len)
    }

    fn is_in_arena(&self, addr: u64, end: u64) -> bool {
        addr >= self.window && end <= self.window + ARENA_LEN
    }

    fn touches_window(&self, addr: u64, end: u64) -> bool {
        addr < self.window + WINDOW_LEN && end > self.window
    }

    /// Whether a program's own memory that is mapped covers a range, in one mapping or in several side by side.
    fn is_programs(&self, addr: u64, end: u64) -> bool {
        let mut at = addr;
        while at < end {
            let Some((start, mapping)) = self.maps.range(..=at).next_back() else {
                return false;
            };
            if start + mapping.len <= at || self.touches_window(*start, start + mapping.len) {
                return false;
            }
            at = start + mapping.len;
        }
        true
    }

    /// Claims a range that is to be registered; nobody may use it yet.
    fn claim(&mut self, addr: u64, len: u64, context: u32) -> Result<(), Code> {
        let end = addr
            .checked_add(len)
            .filter(|&end| end > addr)
            .ok_or(result::INVALID_VALUE)?;
        if !self.is_programs(addr, end) {
            return Err(result::INVALID_VALUE);
        }
        if overlap(&self.registered, addr, end, |range| range.len) {
            return Err(result::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if self.registered.len() >= REGISTERED_MAX {
            return Err(result::OUT_OF_MEMORY);
        }
        let usable = false;
        self.registered.insert(addr, Registered { len, context, usable });
        Ok(())
    }

    /// Has no new work find the registered range that starts there.
    fn withdraw(&mut self, addr: u64) -> Result<(), Code> {
        let (start, range) = self
            .registered
            .range_mut(..=addr)
            .next_back()
            .filter(|(start, range)| range.usable && addr - **start < range.len)
            .ok_or(result::HOST_MEMORY_NOT_REGISTERED)?;
        if *start != addr {
            return Err(result::INVALID_VALUE);
        }
        range.usable = false;
        Ok(())
    }

    /// Whether a registered range holds all of a range.
    fn is_registered(&self, addr: u64, len: u64) -> bool {
        let below = self.registered.range(..=addr).next_back();
        below.is_some_and(|(start, range)| range.usable && within(*start, range.len, addr, len))
    }

    /// A mapping whose pages are all there may be used from now on.
    fn publish(&mut self, addr: u64, registered: bool) {
        if let Some(pending) = self.pending.remove(&addr) {
            let mapping = Mapping {
                len: pending.len,
                runs: pending.runs,
                register: pending.flags & MAP_REGISTER != 0,
                registered,
                rings: 0,
            };
            self.maps.insert(addr, mapping);
        }
    }

    /// Forgets a mapping, complete or not; its length.
    fn forget(&mut self, addr: u64) -> Option<u64> {
        let (len, runs) = match (self.maps.remove(&addr), self.pending.remove(&addr)) {
            (Some(m), _) => (m.len, m.runs),
            (None, Some(p)) => (p.len, p.runs),
            (None, None) => return None,
        };
        self.mapped -= len;
        self.runs -= runs;
        Some(len)
    }

    /// The mapping that holds all of a range.
    fn mapping(&self, addr: u64, len: u64) -> Option<&Mapping> {
        let (start, mapping) = self.maps.range(..=addr).next_back()?;
        within(*start, mapping.len, addr, len).then_some(mapping)
    }

    fn is_device(&self, addr: u64, len: u64) -> bool {
        self.device.holds(addr, len) || self.is_pinned(addr, len)
    }

    /// Whether it is memory of the guest's that may be read and written here: mapped in the arena, or registered.
    fn is_host(&self, addr: u64, len: u64) -> bool {
        let in_arena = || {
            addr.checked_add(len)
                .is_some_and(|end| self.is_in_arena(addr, end))
        };
        (in_arena() && self.mapping(addr, len).is_some()) || self.is_registered(addr, len)
    }

    /// Whether it is memory of the guest's that the GPU reaches.
    fn is_pinned(&self, addr: u64, len: u64) -> bool {
        self.mapping(addr, len).is_some_and(|mapping| mapping.register) || self.is_registered(addr, len)
    }
}

fn overlap<T>(ranges: &BTreeMap<u64, T>, addr: u64, end: u64, len: impl Fn(&T) -> u64) -> bool {
    ranges
        .range(..end)
        .next_back()
        .is_some_and(|(start, range)| start + len(range) > addr)
}

/// Whether `len` bytes at `addr` lie in `whole` bytes at `start`, which is not above `addr`.
fn within(start: u64, whole: u64, addr: u64, len: u64) -> bool {
    let offset = addr - start;
    offset <= whole && len <= whole - offset
}

/// The guest's memory and the device memory it allocated.
pub struct Memory {
    window: u64,
    regions: OnceLock<Vec<Region>>,
    tables: RwLock<Tables>,
    /// Where a program's own memory may be mapped.
    reserved: Mutex<Reserved>,
}

/// Ranges stay what they are while this is held.
pub struct View<'a>(RwLockReadGuard<'a, Tables>);

/// A range of mapped guest memory.
pub struct HostRange<'a> {
    addr: u64,
    len: u64,
    _view: &'a View<'a>,
}

impl View<'_> {
    /// Whether the GPU may be told to read or write that range.
    pub fn is_device(&self, addr: u64, len: u64) -> bool {
        self.0.is_device(addr, len)
    }

    /// Looks the table of device memory up.
    pub fn device(&self) -> &DeviceTable {
        &self.0.device
    }

    /// Whether the GPU may be told to read or write that range of pinned memory.
    pub fn is_pinned(&self, addr: u64, len: u64) -> bool {
        self.0.is_pinned(addr, len)
    }

    /// The range, if it is mapped guest memory.
    pub fn host(&self, addr: u64, len: u64) -> Option<HostRange<'_>> {
        self.0.is_host(addr, len).then_some(HostRange {
            addr,
            len,
            _view: self,
        })
    }
}

impl HostRange<'_> {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills it with as many bytes as it has. What the guest does there meanwhile is its own affair.
    pub fn fill(&self, bytes: &[u8]) {
        assert_eq!(bytes.len() as u64, self.len);
        // SAFETY: the range is mapped for writing as long as the view is held, and nothing of this process lies there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.addr as *mut u8, bytes.len()) };
    }

    /// Has the kernel write what lies from `offset` on to the end of a file; the bytes written.
    pub fn write_to(&self, file: BorrowedFd<'_>, offset: u64) -> std::io::Result<usize> {
        let (addr, len) = (self.addr + offset, self.len - offset);
        // SAFETY: the range is mapped as long as the view is held, and it is the kernel that reads it.
        let written = unsafe {
            libc::write(
                std::os::fd::AsRawFd::as_raw_fd(&file),
                addr as *const libc::c_void,
                len as usize,
            )
        };
        usize::try_from(written).map_err(|_| std::io::Error::last_os_error())
    }
}

impl Memory {
    /// The arena at a window's base is reserved and empty, and so is `reserved`.
    pub fn new(window: u64, reserved: Reserved) -> Self {
        Self {
            window,
            regions: OnceLock::new(),
            reserved: Mutex::new(reserved),
            tables: RwLock::new(Tables {
                window,
                ..Tables::default()
            }),
        }
    }

    /// Where the guest left room for the device's memory.
    pub fn room(&self) -> Range<u64> {
        self.window + ARENA_LEN..self.window + WINDOW_LEN
    }

    /// Whether an address lies in the window; a program's own memory does not.
    pub fn is_in_window(&self, addr: u64) -> bool {
        (self.window..self.window + WINDOW_LEN).contains(&addr)
    }

    /// Looks ranges up.
    pub fn view(&self) -> View<'_> {
        View(self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, f: impl FnOnce(&mut Tables) -> R) -> R {
        f(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the guest's memory. Once.
    pub fn set_regions(&self, regions: Vec<Region>) -> Result<(), Status> {
        self.regions.set(regions).map_err(|_| Status::Invalid)
    }

    /// Maps runs of guest memory; whether the mapping is complete now, to be published. One that fails is undone as a
    /// whole. The control thread alone calls this.
    pub fn map(&self, map: &ExecMap, runs: &[ExecRun]) -> Result<bool, Status> {
        let regions = self.regions.get().ok_or(Status::Invalid)?;
        let mut len = 0u64;
        for run in runs {
            let region = regions.get(run.region as usize).ok_or(Status::Invalid)?;
            let inside = run
                .offset
                .checked_add(run.len)
                .is_some_and(|end| end <= region.len);
            if !inside || run.len == 0 || (run.offset | run.len) % PAGE_LEN != 0 || run.reserved != 0 {
                return Err(Status::Invalid);
            }
            len = len.checked_add(run.len).ok_or(Status::Invalid)?;
        }
        if runs.len() != map.runs_len as usize {
            return Err(Status::Invalid);
        }
        let complete = self.change(|tables| tables.admit(map, len))?;
        let range = map.addr..map.addr + map.len;
        if map.offset == 0 && map.flags == MAP_PROGRAM && !self.take(range) {
            self.change(|tables| tables.forget(map.addr));
            return Err(Status::Taken);
        }
        let mut addr = map.addr + map.offset;
        for run in runs {
            if let Err(error) = self.map_run(&regions[run.region as usize], run, addr) {
                log::error!("mapping guest memory at {addr:#x}: {error}");
                self.undo(map.addr);
                return Err(Status::HostError);
            }
            addr += run.len;
        }
        Ok(complete)
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes addresses outside the window for a program's own memory, if they are free: reserved already or, low, where
    /// nothing lies. There they are reserved for good, so that what names them later never finds anything of this process'.
    fn take(&self, range: Range<u64>) -> bool {
        let mut reserved = self.reserved();
        if range.end <= confine::LOW {
            for missing in reserved.missing(range.clone()) {
                if confine::reserve(missing.clone()).is_err() {
                    return false;
                }
                reserved.give(missing);
            }
        }
        reserved.take(range)
    }

    fn map_run(&self, region: &Region, run: &ExecRun, addr: u64) -> std::io::Result<()> {
        // SAFETY: `admit` has found the range free inside the arena, which holds nothing but the guest's memory, or `take`
        // has found it to be a reservation of this process', and nobody else's any more.
        unsafe {
            rustix::mm::mmap(
                addr as *mut _,
                run.len as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                region.file.as_fd(),
                run.offset,
            )
        }?;
        Ok(())
    }

    /// A complete mapping may be used from now on.
    pub fn publish(&self, addr: u64, registered: bool) {
        self.change(|tables| tables.publish(addr, registered));
    }

    /// Takes a mapping away that nobody uses: its addresses are reserved and inaccessible again.
    pub fn undo(&self, addr: u64) {
        let Some(len) = self.change(|tables| tables.forget(addr)) else {
            return;
        };
        self.release(addr, len);
    }

    /// Makes the addresses of a forgotten mapping inaccessible.
    pub fn release(&self, addr: u64, len: u64) {
        // SAFETY: the range belonged to a mapping that was forgotten, so nobody looks there any more.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                addr as *mut _,
                len as usize,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )
        };
        if let Err(error) = mapped {
            // The guest's pages would stay in use behind its back.
            panic!("cannot take back {len} bytes at {addr:#x}: {error}");
        }
        if !self.is_in_window(addr) {
            self.reserved().give(addr..addr + len);
        }
    }

    /// Claims a range of a program's own memory that is to be registered for a context, so that it stays mapped.
    pub fn claim(&self, addr: u64, len: u64, context: u32) -> Result<(), Code> {
        self.change(|tables| tables.claim(addr, len, context))
    }

    /// libcuda has a range that was claimed: it may be used from now on.
    pub fn use_claimed(&self, addr: u64) {
        self.change(|tables| {
            if let Some(range) = tables.registered.get_mut(&addr) {
                range.usable = true;
            }
        });
    }

    /// Starts taking a registered range away: no new work finds it.
    pub fn withdraw(&self, addr: u64) -> Result<(), Code> {
        self.change(|tables| tables.withdraw(addr))
    }

    /// The same with all ranges of a context; where they start.
    pub fn withdraw_context(&self, context: u32) -> Vec<u64> {
        self.change(|tables| {
            let of = tables
                .registered
                .iter_mut()
                .filter(|(_, range)| range.usable && range.context == context);
            of.map(|(addr, range)| {
                range.usable = false;
                *addr
            })
            .collect()
        })
    }

    /// libcuda does not have a range, or no longer.
    pub fn give_up(&self, addr: u64) {
        self.change(|tables| tables.registered.remove(&addr));
    }

    /// Starts taking a mapping away: no new work finds it. Its length, and whether libcuda knows it. The session area,
    /// mappings with rings and those that a registered range lies in stay.
    pub fn retire(&self, addr: u64) -> Result<(u64, bool), Status> {
        self.change(|tables| match tables.maps.get(&addr) {
            None if tables.pending.contains_key(&addr) => {
                let len = tables.forget(addr).ok_or(Status::NotFound)?;
                Ok((len, false))
            }
            None => Err(Status::NotFound),
            Some(mapping)
                if addr == tables.window
                    || mapping.rings != 0
                    || overlap(&tables.registered, addr, addr + mapping.len, |range| range.len) =>
            {
                Err(Status::Invalid)
            }
            Some(mapping) => {
                let found = (mapping.len, mapping.registered);
                tables.forget(addr);
                Ok(found)
            }
        })
    }

    /// Whether the guest wants the mapping at that address registered.
    pub fn is_pinned(&self, addr: u64) -> bool {
        self.view()
            .0
            .maps
            .get(&addr)
            .is_some_and(|mapping| mapping.register)
    }

    /// Address and length of the mappings that the guest wants registered and that are not.
    pub fn unregistered(&self) -> Vec<(u64, u64)> {
        let view = self.view();
        let wanted = view.0.maps.iter().filter(|(_, m)| m.register && !m.registered);
        wanted.map(|(addr, m)| (*addr, m.len)).collect()
    }

    /// libcuda knows a mapping.
    pub fn set_registered(&self, addr: u64) {
        self.change(|tables| {
            if let Some(mapping) = tables.maps.get_mut(&addr) {
                mapping.registered = true;
            }
        });
    }

    /// The context that knew all mappings is gone.
    pub fn forget_registrations(&self) {
        self.change(|tables| {
            tables
                .maps
                .values_mut()
                .for_each(|mapping| mapping.registered = false)
        });
    }

    /// The memory of a whole range inside one mapping, which stays until [`Self::drop_ring`].
    pub fn hold_ring(&self, addr: u64, len: u64) -> Result<Shared, Status> {
        self.change(|tables| {
            let in_arena = tables.is_in_arena(addr, addr.checked_add(len).ok_or(Status::Invalid)?);
            let (start, mapping) = tables
                .maps
                .range_mut(..=addr)
                .next_back()
                .ok_or(Status::Invalid)?;
            if !in_arena || !addr.is_multiple_of(PAGE_LEN) || !within(*start, mapping.len, addr, len) {
                return Err(Status::Invalid);
            }
            mapping.rings += 1;
            // SAFETY: mapped read-write inside the arena, page-aligned, and kept by the count just raised.
            Ok(unsafe { Shared::new(addr as *mut u8, len) })
        })
    }

    /// A ring that was held is not used any more.
    pub fn drop_ring(&self, addr: u64) {
        self.change(|tables| {
            if let Some((_, mapping)) = tables.maps.range_mut(..=addr).next_back() {
                mapping.rings -= 1;
            }
        });
    }

    /// The session area, once it is mapped; it stays until the process ends.
    pub fn area(&self) -> Option<Shared> {
        let mapped = self.view().0.maps.contains_key(&self.window);
        // SAFETY: mapped at the window's base, and `retire` refuses it.
        mapped.then(|| unsafe { Shared::new(self.window as *mut u8, AREA_LEN) })
    }

    /// The guest may use this device memory, which it allocated.
    pub fn add_allocation(&self, addr: u64, len: u64, context: u32, charge: Charge) {
        self.add_device(addr, len, context, Owner::Allocated(charge));
    }

    /// The guest may use a module's variable.
    pub fn add_variable(&self, addr: u64, len: u64, context: u32, module: u32) {
        self.add_device(addr, len, context, Owner::Variable(module));
    }

    /// The guest may use device memory of that owner.
    pub fn add_device(&self, addr: u64, len: u64, context: u32, owner: Owner) {
        self.device(|device| device.insert(addr, Device { len, context, owner }));
    }

    /// Changes the table of device memory. What is taken out of it is let go of only after this: that may be a call of libcuda's.
    pub fn device<R>(&self, f: impl FnOnce(&mut DeviceTable) -> R) -> R {
        self.change(|tables| f(&mut tables.device))
    }

    /// The guest gives an allocation back: no new work finds it, but if it is a graph's. Nothing if there is no such allocation.
    pub fn remove_allocation(&self, addr: u64) -> Option<Device> {
        self.device(|device| device.remove_allocation(addr))
    }

    /// Forgets the variables of a module.
    pub fn remove_module(&self, module: u32) {
        self.device(|device| device.remove_module(module));
    }

    /// Forgets all device memory of a context; what of it is to be given back.
    pub fn remove_context(&self, context: u32) -> Vec<(u64, Device)> {
        self.device(|device| device.remove_context(context))
    }

    /// Bytes of the addresses that graphs on a GPU have for their allocations.
    pub fn graph_bytes(&self, gpu: u32) -> u64 {
        self.view().0.device.graph_bytes(gpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u64 = 1 << 44;

    fn message(addr: u64, len: u64, offset: u64, flags: u32, runs_len: u32) -> ExecMap {
        ExecMap {
            addr,
            len,
            offset,
            flags,
            runs_len,
        }
    }

    fn with_area() -> Tables {
        let mut tables = Tables {
            window: WINDOW,
            ..Tables::default()
        };
        assert_eq!(
            tables.admit(&message(WINDOW, AREA_LEN, 0, MAP_REGISTER, 1), AREA_LEN),
            Ok(true)
        );
        tables.publish(WINDOW, false);
        tables
    }

    #[test]
    fn the_session_area_comes_first() {
        let mut tables = Tables {
            window: WINDOW,
            ..Tables::default()
        };
        let other = message(WINDOW + AREA_LEN, 4096, 0, 0, 1);
        assert_eq!(tables.admit(&other, 4096), Err(Status::Invalid));
        assert_eq!(with_area().admit(&other, 4096), Ok(true));
    }

    #[test]
    fn a_mapping_in_several_messages_is_usable_when_complete() {
        let mut tables = with_area();
        let addr = WINDOW + (1 << 20);
        assert_eq!(tables.admit(&message(addr, 12288, 0, 1, 1), 4096), Ok(false));
        // Another length, a gap, too much.
        assert_eq!(
            tables.admit(&message(addr, 16384, 4096, 1, 1), 4096),
            Err(Status::Invalid)
        );
        assert_eq!(
            tables.admit(&message(addr, 12288, 8192, 1, 1), 4096),
            Err(Status::Invalid)
        );
        assert_eq!(
            tables.admit(&message(addr, 12288, 4096, 1, 1), 12288),
            Err(Status::Invalid)
        );
        assert!(!tables.is_device(addr, 4096));
        assert_eq!(tables.admit(&message(addr, 12288, 4096, 1, 2), 8192), Ok(true));
        tables.publish(addr, true);
        assert!(tables.is_device(addr, 12288));
        assert!(tables.is_device(addr + 12287, 1));
        assert!(!tables.is_device(addr + 12287, 2));
        assert_eq!(tables.forget(addr), Some(12288));
        assert_eq!((tables.mapped, tables.runs), (AREA_LEN, 1));
    }

    #[test]
    fn limits_hold() {
        let mut tables = with_area();
        let addr = WINDOW + (1 << 30);
        assert_eq!(
            tables.admit(&message(addr, MAP_LEN_MAX + 4096, 0, 0, 1), 4096),
            Err(Status::Limit)
        );
        assert_eq!(
            tables.admit(&message(addr, 4096, 0, 0, RUNS_MAX), 4096),
            Err(Status::Limit)
        );
        for i in 1..MAPS_MAX as u64 {
            assert_eq!(
                tables.admit(&message(addr + i * 4096, 4096, 0, 0, 1), 4096),
                Ok(true)
            );
            tables.publish(addr + i * 4096, false);
        }
        assert_eq!(
            tables.admit(&message(addr, 4096, 0, 0, 1), 4096),
            Err(Status::Limit)
        );
    }

    #[test]
    fn a_programs_memory_is_outside_the_window_and_used_where_it_is_registered() {
        let mut tables = with_area();
        let place = WINDOW + WINDOW_LEN;
        let own = |addr, len| message(addr, len, 0, MAP_PROGRAM, 1);
        for (addr, len) in [
            (WINDOW + ARENA_LEN, 4096),
            (WINDOW - 4096, 8192),
            (place - 4096, 8192),
            (ADDRESS_END - 4096, 8192),
            (0, 4096),
            (ADDRESS_START - 4096, 8192),
        ] {
            assert_eq!(
                tables.admit(&own(addr, len), len),
                Err(Status::Invalid),
                "{addr:#x}"
            );
        }
        for flags in [0, MAP_REGISTER, MAP_PROGRAM | MAP_REGISTER] {
            let wrong = message(place, 4096, 0, flags, 1);
            assert_eq!(tables.admit(&wrong, 4096), Err(Status::Invalid), "{flags}");
        }
        // Two mappings side by side, and a gap.
        for (addr, len) in [(place, 4096), (place + 4096, 8192), (place + 16384, 4096)] {
            assert_eq!(tables.admit(&own(addr, len), len), Ok(true));
            tables.publish(addr, false);
        }
        assert!(!tables.is_host(place, 4096) && !tables.is_device(place, 4096));
        for (addr, len) in [
            (place - 1, 2),
            (place + 12287, 2),
            (place + 12288, 1),
            (place, 0),
            (u64::MAX, 2),
        ] {
            assert_eq!(
                tables.claim(addr, len, 1),
                Err(result::INVALID_VALUE),
                "{addr:#x}"
            );
        }
        assert_eq!(tables.claim(WINDOW, 10, 1), Err(result::INVALID_VALUE));
        tables.claim(place + 100, 12000, 1).unwrap();
        assert!(!tables.is_device(place + 100, 1), "claimed only");
        assert_eq!(
            tables.withdraw(place + 100),
            Err(result::HOST_MEMORY_NOT_REGISTERED)
        );
        tables.registered.get_mut(&(place + 100)).unwrap().usable = true;
        assert!(tables.is_host(place + 100, 12000) && tables.is_device(place + 100, 12000));
        assert!(!tables.is_device(place + 99, 10) && !tables.is_device(place + 12099, 2));
        for (addr, len) in [
            (place + 100, 12000),
            (place, 101),
            (place + 12099, 1),
            (place + 5000, 1),
        ] {
            assert_eq!(
                tables.claim(addr, len, 1),
                Err(result::HOST_MEMORY_ALREADY_REGISTERED)
            );
        }
        tables.claim(place, 100, 2).unwrap();
        assert_eq!(tables.withdraw(place + 101), Err(result::INVALID_VALUE));
        assert_eq!(
            tables.withdraw(place + 12100),
            Err(result::HOST_MEMORY_NOT_REGISTERED)
        );
        assert_eq!(tables.withdraw(place + 100), Ok(()));
        assert!(!tables.is_device(place + 100, 1));
    }

    proptest! {
        #[test]
        fn admitted_mappings_lie_in_the_arena_and_never_overlap(
            asks in proptest::collection::vec((0u64..64, 1u64..16, any::<bool>(), any::<bool>()), 1..40)) {
            let mut tables = with_area();
            let base = WINDOW + ARENA_LEN - 64 * 4096;
            for (page, pages, whole, forget) in asks {
                let (addr, len) = (base + page * 4096, pages * 4096);
                let part = if whole { len } else { 4096 };
                if let Ok(complete) = tables.admit(&message(addr, len, 0, 0, 1), part) {
                    prop_assert!(addr + len <= WINDOW + ARENA_LEN);
                    if complete {
                        tables.publish(addr, false);
                    }
                }
                if forget {
                    tables.forget(addr);
                }
                let mut all: Vec<_> = tables.maps.iter().map(|(a, m)| (*a, m.len))
                    .chain(tables.pending.iter().map(|(a, p)| (*a, p.len))).collect();
                all.sort();
                prop_assert!(all.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
                prop_assert_eq!(tables.mapped, all.iter().map(|(_, len)| len).sum::<u64>());
            }
        }
    }
}
