//! Memory that kernels may access: allocations on the device, pinned host memory, registered host memory.
//!
//! A device address is an address of the process. Each device has one window, reserved at the first
//! allocation and mapped for good: what is freed there gives its pages back but stays mapped, so that no
//! stale address can bring the process down. A pool that processes share has a window of its own, a file that each of them maps
//! as a whole, until it is closed and nothing of it is allocated.

use super::abi::{CUcontext, CUdeviceptr, Out, api};
use super::context::{Context, current};
use super::error::{self, Result};
use super::runtime::{Runtime, initialised, runtime};
use crate::arbiter;
use crate::ptx::interp::{self, Span};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// Allocations start at multiples of this and are rounded up to it.
const GRAIN: u64 = 512;

/// `CU_MEMHOSTREGISTER_PORTABLE` and `_READ_ONLY`
const PORTABLE: u32 = 1;
const READ_ONLY: u32 = 8;
/// `CU_MEMHOSTREGISTER_IOMEMORY`
const IO_MEMORY: u32 = 4;
/// Where the kernel has its own.
const KERNEL_START: u64 = 0xffff_8000_0000_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Device,
    /// From `cuMemHostAlloc`.
    Pinned,
    /// From `cuMemHostRegister`.
    Registered,
}

/// Where device memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `cuMemAlloc`, or memory that is not the device's.
    Plain,
    /// The pool with that handle.
    Pool(u64),
    /// Such an allocation whose free is in a stream.
    Leaving(u64),
    /// A graph.
    Graph,
    /// `cuMemMap`.
    Mapped,
    /// A managed variable.
    Managed,
}

/// One live allocation or registration.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub start: u64,
    pub len: u64,
    pub kind: Kind,
    pub context: CUcontext,
    pub ordinal: i32,
    pub flags: u32,
    pub origin: Origin,
}

impl Range {
    fn on_device(context: &Context, start: u64, len: u64, origin: Origin) -> Self {
        Self {
            start,
            len,
            kind: Kind::Device,
            context: context.handle,
            ordinal: context.ordinal,
            flags: 0,
            origin,
        }
    }

    fn end(&self) -> u64 {
        self.start + self.len
    }

    fn contains(&self, address: u64, len: u64) -> bool {
        address >= self.start && len <= self.len && address - self.start <= self.len - len
    }

    fn visible_to(&self, context: CUcontext) -> bool {
        self.context == context
            || match self.kind {
                Kind::Device => self.origin == Origin::Mapped,
                // With unified addressing all pinned memory is portable.
                Kind::Pinned => true,
                Kind::Registered => self.flags & PORTABLE != 0,
            }
    }
}

/// All such memory of the process.
#[derive(Default)]
pub struct Memory {
    ranges: RwLock<BTreeMap<u64, Range>>,
    windows: Mutex<BTreeMap<i32, Window>>,
    /// By where they start.
    shared: Mutex<BTreeMap<u64, SharedWindow>>,
}

/// The addresses of a pool that processes share.
struct SharedWindow {
    window: Window,
    /// It is another process' pool, which says what of it is allocated.
    imported: bool,
    /// The pool itself, and allocations.
    users: usize,
}

/// The addresses of one device.
struct Window {
    start: u64,
    len: u64,
    /// Free stretches: start to length.
    free: BTreeMap<u64, u64>,
    /// What gives pages back.
    give_back: libc::c_int,
}

impl Window {
    /// Of memory of this process', or of a file.
    fn reserve(len: u64, file: Option<&OwnedFd>) -> Result<Window> {
        let (flags, give_back) = match file {
            Some(_) => (libc::MAP_SHARED, libc::MADV_REMOVE),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::MADV_DONTNEED),
        };
        // SAFETY: a new mapping wherever there is room touches nothing that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_NORESERVE,
                file.map_or(-1, AsRawFd::as_raw_fd),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(error::OUT_OF_MEMORY);
        }
        // Neither core dumps nor forked children have a use for it.
        // SAFETY: the range is the mapping just made.
        unsafe {
            libc::madvise(at, len as usize, libc::MADV_DONTDUMP);
            libc::madvise(at, len as usize, libc::MADV_DONTFORK);
        }
        let start = at as u64;
        Ok(Window {
            start,
            len,
            free: BTreeMap::from([(start, len)]),
            give_back,
        })
    }

    fn take(&mut self, len: u64) -> Result<u64> {
        let found = self.free.iter().find(|(_, have)| **have >= len);
        let (&start, &have) = found.ok_or(error::OUT_OF_MEMORY)?;
        self.free.remove(&start);
        if have > len {
            self.free.insert(start + len, have - len);
        }
        Ok(start)
    }

    fn give(&mut self, mut start: u64, mut len: u64) {
        let page = 4096;
        let (first, last) = (start.next_multiple_of(page), (start + len) / page * page);
        if first < last {
            // SAFETY: the pages lie wholly inside a stretch of the window that nobody owns any more.
            unsafe { libc::madvise(first as *mut c_void, (last - first) as usize, self.give_back) };
        }
        if let Some((&before, &have)) = self.free.range(..start).next_back()
            && before + have == start
        {
            self.free.remove(&before);
            (start, len) = (before, have + len);
        }
        if let Some(have) = self.free.remove(&(start + len)) {
            len += have;
        }
        self.free.insert(start, len);
    }
}

/// What the kernels of a context see.
pub struct View<'a> {
    memory: &'a Memory,
    context: CUcontext,
}

impl interp::Memory for View<'_> {
    fn span(&self, address: u64) -> Option<Span> {
        let range = self.memory.find(address)?;
        range.visible_to(self.context).then_some(Span {
            start: range.start,
            end: range.end(),
            writable: range.flags & READ_ONLY == 0 || range.kind != Kind::Registered,
        })
    }
}

impl Memory {
    fn shared(&self) -> MutexGuard<'_, BTreeMap<u64, SharedWindow>> {
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn windows(&self) -> MutexGuard<'_, BTreeMap<i32, Window>> {
        self.windows.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What the kernels of a context see.
    pub fn view(&self, context: CUcontext) -> View<'_> {
        View {
            memory: self,
            context,
        }
    }

    /// The live range around `address`.
    pub fn find(&self, address: u64) -> Option<Range> {
        let ranges = self.ranges.read().unwrap_or_else(|e| e.into_inner());
        let (_, range) = ranges.range(..=address).next_back()?;
        range.contains(address, 1).then_some(*range)
    }

    /// Whether `len` bytes from `address` lie in one live range, or in mappings side by side, visible to `context` if one is
    /// given.
    pub fn is_accessible(&self, mut address: u64, mut len: u64, context: Option<CUcontext>) -> bool {
        loop {
            let found = self
                .find(address)
                .filter(|r| context.is_none_or(|c| r.visible_to(c)));
            let Some(range) = found else { return false };
            if range.contains(address, len) {
                return true;
            }
            if range.origin != Origin::Mapped {
                return false;
            }
            len -= range.end() - address;
            address = range.end();
        }
    }

    /// Whether `address` lies in a device's window.
    pub fn in_window(&self, address: u64) -> bool {
        self.touches_window(address, 1)
    }

    /// Whether any of `len` bytes from `address` lies in a device's window, one that processes share included.
    fn touches_window(&self, address: u64, len: u64) -> bool {
        let end = address.saturating_add(len);
        let touches = |window: &Window| address < window.start + window.len && window.start < end;
        self.windows().values().any(touches) || self.shared().values().any(|shared| touches(&shared.window))
    }

    /// Maps the file of a pool that processes share, this process' own or an imported one; where. Until [`Self::close_pool`].
    pub fn open_pool(&self, file: &OwnedFd, len: u64, imported: bool) -> Result<u64> {
        let window = Window::reserve(len, Some(file))?;
        let start = window.start;
        let shared = SharedWindow {
            window,
            imported,
            users: 1,
        };
        self.shared().insert(start, shared);
        Ok(start)
    }

    /// The pool is gone; what is allocated of it stays.
    pub fn close_pool(&self, start: u64) {
        let mut all = self.shared();
        let Some(shared) = all.get_mut(&start) else { return };
        shared.users -= 1;
        if shared.users == 0
            && let Some(shared) = all.remove(&start)
        {
            // Not with the lock held, which a kernel's copies may want before they come to a safe point.
            drop(all);
            let Window { start, len, .. } = shared.window;
            // SAFETY: a mapping of ours in which nothing is allocated, and which nobody finds any more.
            arbiter::with_kernels_parked(|| unsafe { libc::munmap(start as *mut c_void, len as usize) });
        }
    }

    /// Allocates of this process' own pool that others share.
    pub fn allocate_shared(
        &self,
        context: &Context,
        pool: u64,
        bytes: u64,
        origin: Origin,
    ) -> Result<CUdeviceptr> {
        self.allocate_from(context, bytes, origin, |len, _| {
            match self.shared().get_mut(&pool) {
                Some(shared) => shared.window.take(len).inspect(|_| shared.users += 1),
                None => Err(error::INVALID_VALUE),
            }
        })
    }

    /// What another process has allocated at that offset of its pool.
    pub fn import_shared(
        &self,
        context: &Context,
        pool: u64,
        (offset, len): (u64, u64),
        origin: Origin,
    ) -> Result<CUdeviceptr> {
        let mut all = self.shared();
        let shared = all.get_mut(&pool).ok_or(error::INVALID_VALUE)?;
        let is_inside = offset < shared.window.len && len <= shared.window.len - offset;
        let start = pool.wrapping_add(offset);
        if !is_inside || len == 0 || self.overlaps(start, len) {
            return Err(error::INVALID_VALUE);
        }
        shared.users += 1;
        self.insert(Range::on_device(context, start, len, origin));
        Ok(start)
    }

    /// Whether any memory of the devices is shared with other processes.
    pub fn is_shared(&self) -> bool {
        !self.shared().is_empty()
    }

    /// Whether any of `len` bytes from `address` lies in a device's window or in a live range.
    pub fn touches_any(&self, address: u64, len: u64) -> bool {
        self.touches_window(address, len) || self.overlaps(address, len)
    }

    fn overlaps(&self, address: u64, len: u64) -> bool {
        let ranges = self.ranges.read().unwrap_or_else(|e| e.into_inner());
        let before = ranges.range(..address.saturating_add(len)).next_back();
        before.is_some_and(|(_, r)| r.end() > address)
    }

    /// All live allocations on devices.
    pub fn on_devices(&self) -> Vec<Range> {
        let ranges = self.ranges.read().unwrap_or_else(|e| e.into_inner());
        let on_device = |range: &&Range| range.kind == Kind::Device;
        ranges.values().filter(on_device).copied().collect()
    }

    /// Gives all pages of the devices' windows back; the addresses stay, and read as zeros.
    pub fn drop_pages(&self) {
        for window in self.windows().values() {
            let at = window.start as *mut c_void;
            // SAFETY: the whole of a mapping of ours. Its content was saved, and nobody looks at it meanwhile.
            unsafe { libc::madvise(at, window.len as usize, libc::MADV_DONTNEED) };
        }
    }

    pub fn insert(&self, range: Range) {
        self.ranges
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .insert(range.start, range);
    }

    fn remove(&self, start: u64, kind: Kind) -> Option<Range> {
        let mut ranges = self.ranges.write().unwrap_or_else(|e| e.into_inner());
        ranges.get(&start).filter(|r| r.kind == kind)?;
        ranges.remove(&start)
    }

    /// Takes mapped ranges out.
    pub fn remove_mapped(&self, start: u64) {
        self.remove(start, Kind::Device);
    }

    /// Changes where an allocation comes from.
    pub fn set_origin(&self, start: u64, origin: Origin) {
        let mut ranges = self.ranges.write().unwrap_or_else(|e| e.into_inner());
        if let Some(range) = ranges.get_mut(&start) {
            range.origin = origin;
        }
    }

    /// Allocates device memory.
    pub fn allocate(&self, context: &Context, bytes: u64) -> Result<CUdeviceptr> {
        self.allocate_for(context, bytes, Origin::Plain)
    }

    /// The same for a pool or a graph.
    pub fn allocate_for(&self, context: &Context, bytes: u64, origin: Origin) -> Result<CUdeviceptr> {
        self.allocate_from(context, bytes, origin, |len, total| {
            self.take(context.ordinal, total, len)
        })
    }

    /// Allocates where `take` finds so many bytes, of a device that has so many in all.
    fn allocate_from(
        &self,
        context: &Context,
        bytes: u64,
        origin: Origin,
        take: impl FnOnce(u64, u64) -> Result<u64>,
    ) -> Result<CUdeviceptr> {
        let share = &context.device()?.share;
        let len = bytes
            .checked_next_multiple_of(GRAIN)
            .ok_or(error::OUT_OF_MEMORY)?;
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        if !share.reserve(context.gate.slot(), len) {
            return Err(error::OUT_OF_MEMORY);
        }
        let taken = take(len, share.total_memory());
        let start = taken.inspect_err(|_| share.unreserve(context.gate.slot(), len))?;
        self.insert(Range::on_device(context, start, len, origin));
        Ok(start)
    }

    fn take(&self, ordinal: i32, total: u64, len: u64) -> Result<u64> {
        let mut windows = self.windows();
        match windows.get_mut(&ordinal) {
            Some(window) => window.take(len),
            None => {
                let mut window = Window::reserve(total.next_multiple_of(4096), None)?;
                let start = window.take(len);
                windows.insert(ordinal, window);
                start
            }
        }
    }

    /// Frees device memory. Nothing may use it any more.
    pub fn free(&self, runtime: &Runtime, start: CUdeviceptr) -> Result {
        let range = self.remove(start, Kind::Device).ok_or(error::INVALID_VALUE)?;
        let counts = self.give(&range);
        runtime.pools.has_freed(&range);
        if counts && let Ok(context) = runtime.contexts.get(range.context) {
            context.device()?.share.unreserve(context.gate.slot(), range.len);
        }
        Ok(())
    }

    /// Gives its pages back; whether this process had them from the device.
    fn give(&self, range: &Range) -> bool {
        let pool = {
            let mut all = self.shared();
            let before = all.range_mut(..=range.start).next_back();
            let found = before.filter(|(start, shared)| range.start - **start < shared.window.len);
            found.map(|(start, shared)| {
                if !shared.imported {
                    shared.window.give(range.start, range.len);
                }
                (*start, shared.imported)
            })
        };
        if let Some((start, imported)) = pool {
            self.close_pool(start);
            return !imported;
        }
        if let Some(window) = self.windows().get_mut(&range.ordinal) {
            window.give(range.start, range.len);
        }
        true
    }

    /// Gives up all memory of a context that is going away.
    pub fn free_context(&self, context: CUcontext) {
        let mut gone = Vec::new();
        self.ranges
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .retain(|_, range| {
                if range.context == context {
                    gone.push(*range);
                }
                range.context != context
            });
        for range in gone {
            match range.kind {
                Kind::Device => {
                    self.give(&range);
                    if let Ok(runtime) = initialised() {
                        runtime.pools.has_freed(&range);
                    }
                }
                Kind::Pinned => arbiter::with_kernels_parked(|| unmap(&range)),
                Kind::Registered => {}
            }
        }
    }

    fn allocate_host(&self, context: &Context, bytes: usize, flags: u32) -> Result<u64> {
        if bytes == 0 || flags & !7 != 0 {
            return Err(error::INVALID_VALUE);
        }
        let len = bytes.checked_next_multiple_of(4096).ok_or(error::OUT_OF_MEMORY)?;
        // SAFETY: a new mapping wherever there is room touches nothing that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(error::OUT_OF_MEMORY);
        }
        let (context, ordinal) = (context.handle, context.ordinal);
        let range = Range {
            start: at as u64,
            len: len as u64,
            kind: Kind::Pinned,
            context,
            ordinal,
            flags,
            origin: Origin::Plain,
        };
        self.insert(range);
        Ok(range.start)
    }

    fn register(&self, context: &Context, start: u64, len: u64, flags: u32) -> Result {
        if start == 0 || len == 0 || flags & !15 != 0 {
            return Err(error::INVALID_VALUE);
        }
        let last = start.checked_add(len - 1).ok_or(error::INVALID_VALUE)?;
        if last >= KERNEL_START {
            return Err(error::NOT_SUPPORTED);
        }
        // Nothing is another device's memory.
        if flags & IO_MEMORY != 0 || self.find(start).is_some_and(|range| range.kind == Kind::Pinned) {
            return Err(error::INVALID_VALUE);
        }
        if self.overlaps(start, len) && !self.in_window(start) {
            return Err(error::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if self.touches_any(start, len) {
            return Err(error::INVALID_VALUE);
        }
        if !is_mapped(start, len, flags & READ_ONLY == 0) {
            return Err(error::INVALID_VALUE);
        }
        let (context, ordinal) = (context.handle, context.ordinal);
        self.insert(Range {
            start,
            len,
            kind: Kind::Registered,
            context,
            ordinal,
            flags,
            origin: Origin::Plain,
        });
        Ok(())
    }
}

fn unmap(range: &Range) {
    // SAFETY: the range is a mapping that `allocate_host` made, and it is no longer in the table.
    unsafe { libc::munmap(range.start as *mut c_void, range.len as usize) };
}

/// Whether all pages are mapped with the needed access. Brings them in, as pinning does.
fn is_mapped(start: u64, len: u64, writable: bool) -> bool {
    let first = start / 4096 * 4096;
    let bytes = (start + len - first) as usize;
    let advice = if writable {
        libc::MADV_POPULATE_WRITE
    } else {
        libc::MADV_POPULATE_READ
    };
    // SAFETY: populating changes no content, and reports what is not mapped.
    unsafe { libc::madvise(first as *mut c_void, bytes, advice) == 0 }
}

/// Waits for all contexts of the process: memory that goes may be in use by any of them.
fn drain_all(runtime: &Runtime, context: &Arc<Context>, range: Option<Range>) {
    context.drain();
    if let Some(range) = range
        && range.context != context.handle
        && let Ok(owner) = runtime.contexts.get(range.context)
    {
        owner.drain();
    }
}

/// As what memory may be exported.
fn handle_types(runtime: &Runtime, range: &Range) -> u32 {
    match range.origin {
        Origin::Mapped => runtime.virtual_memory.handle_types(range.start),
        Origin::Pool(pool) => runtime.pools.handle_types(pool),
        _ => 0,
    }
}

/// `CUpointer_attribute`
fn pointer_attribute(
    runtime: &Runtime,
    range: Range,
    address: u64,
    attribute: i32,
    out: *mut c_void,
) -> Result {
    let is_device = range.kind == Kind::Device;
    match attribute {
        1 => Out(out.cast::<u64>()).set(range.context),
        2 => Out(out.cast::<u32>()).set(if is_device { 2 } else { 1 }),
        3 => Out(out.cast::<u64>()).set(address),
        4 if is_device => Err(error::INVALID_VALUE),
        4 => Out(out.cast::<u64>()).set(address),
        8 => Out(out.cast::<u32>()).set((range.origin == Origin::Managed).into()),
        6 | 10 => Out(out.cast::<u32>()).set(0),
        7 => Out(out.cast::<u64>()).set(range.start),
        9 => Out(out.cast::<i32>()).set(range.ordinal),
        11 => Out(out.cast::<u64>()).set(range.start),
        12 => Out(out.cast::<usize>()).set(range.len as usize),
        13 => Out(out.cast::<u32>()).set(1),
        14 => Out(out.cast::<u64>()).set(handle_types(runtime, &range).into()),
        _ => Err(error::INVALID_VALUE),
    }
}

/// Rows begin at multiples of this, in bytes.
const PITCH: usize = 512;

api! { SYMBOLS;
    fn cuMemAlloc_v2(out: Out<CUdeviceptr>, bytes: usize) {
        let context = current()?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        out.set(runtime.memory.allocate(&context, bytes as u64)?)
    }

    fn cuMemAllocPitch_v2(out: Out<CUdeviceptr>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        let context = current()?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(error::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(error::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(error::OUT_OF_MEMORY)?;
        pitch.set(row)?;
        out.set(runtime.memory.allocate(&context, bytes as u64)?)
    }

    fn cuMemFree_v2(address: CUdeviceptr) {
        let context = current()?;
        let runtime = runtime()?;
        if address == 0 {
            return Ok(());
        }
        runtime.captures.forbid()?;
        let range = runtime.memory.find(address).filter(|r| r.start == address && r.kind == Kind::Device);
        let range = range.filter(|r| !matches!(r.origin, Origin::Mapped | Origin::Leaving(_) | Origin::Managed));
        let range = range.ok_or(error::INVALID_VALUE)?;
        drain_all(runtime, &context, Some(range));
        runtime.check()?;
        // A graph's is there as long as the graph.
        if range.origin == Origin::Graph {
            return Ok(());
        }
        runtime.memory.free(runtime, address)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let context = current()?;
        let share = &context.device()?.share;
        free.set(share.free_memory() as usize)?;
        total.set(share.total_memory() as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<CUdeviceptr>, len: Out<usize>, address: CUdeviceptr) {
        current()?;
        let range = runtime()?.memory.find(address).ok_or(error::NOT_FOUND)?;
        base.set_if_wanted(range.start);
        len.set_if_wanted(range.len as usize);
        Ok(())
    }

    fn cuMemHostAlloc(out: Out<u64>, bytes: usize, flags: u32) {
        let context = current()?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        out.set(runtime.memory.allocate_host(&context, bytes, flags)?)
    }

    fn cuMemAllocHost_v2(out: Out<u64>, bytes: usize) {
        let context = current()?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        out.set(runtime.memory.allocate_host(&context, bytes, 0)?)
    }

    fn cuMemFreeHost(address: u64) {
        let context = current()?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let range = runtime.memory.find(address).filter(|r| r.start == address && r.kind == Kind::Pinned);
        drain_all(runtime, &context, Some(range.ok_or(error::INVALID_VALUE)?));
        runtime.check()?;
        arbiter::with_kernels_parked(|| {
            if let Some(range) = runtime.memory.remove(address, Kind::Pinned) {
                unmap(&range);
            }
        });
        Ok(())
    }

    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32) {
        let context = current()?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        runtime.memory.register(&context, address, bytes as u64, flags)
    }

    fn cuMemHostUnregister(address: u64) {
        // Without a context nothing is registered.
        let context = current().map_err(|code| match code {
            error::INVALID_CONTEXT => error::HOST_MEMORY_NOT_REGISTERED,
            other => other,
        })?;
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let range = match runtime.memory.find(address) {
            Some(range) if range.start == address && range.kind == Kind::Registered => range,
            Some(_) => return Err(error::INVALID_VALUE),
            None if address == 0 => return Err(error::INVALID_VALUE),
            None => return Err(error::HOST_MEMORY_NOT_REGISTERED),
        };
        drain_all(runtime, &context, Some(range));
        runtime.check()?;
        arbiter::with_kernels_parked(|| runtime.memory.remove(address, Kind::Registered));
        Ok(())
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<CUdeviceptr>, address: u64, flags: u32) {
        current()?;
        let range = runtime()?.memory.find(address).filter(|r| r.kind != Kind::Device);
        if flags != 0 || range.is_none() {
            return Err(error::INVALID_VALUE);
        }
        out.set(address)
    }

    fn cuMemHostGetFlags(out: Out<u32>, address: u64) {
        current()?;
        let range = runtime()?.memory.find(address).filter(|r| r.kind == Kind::Pinned);
        // All pinned memory is mapped for the device.
        out.set(range.ok_or(error::INVALID_VALUE)?.flags | 2)
    }

    fn cuPointerGetAttribute(out: *mut c_void, attribute: i32, address: CUdeviceptr) {
        current()?;
        let runtime = runtime()?;
        let range = runtime.memory.find(address).ok_or(error::INVALID_VALUE)?;
        pointer_attribute(runtime, range, address, attribute, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_neighbours_become_one_stretch() {
        let mut window = Window::reserve(1 << 20, None).unwrap();
        let parts: Vec<u64> = (0..4).map(|_| window.take(1 << 18).unwrap()).collect();
        assert!(window.take(GRAIN).is_err());
        for at in [2, 0, 3, 1] {
            window.give(parts[at], 1 << 18);
        }
        assert_eq!(window.free, BTreeMap::from([(window.start, 1 << 20)]));
    }
}
