//! Memory pools, and allocation in the order of a stream. A pool has what is allocated of it, and nothing else. The memory of one
//! that may be exported is a file, of which each process maps the whole: a pointer is exported as a place in that file.

use super::abi::{CUdevice, CUdeviceptr, CUstream, In, Out, api, stream_api};
use super::capture;
use super::context::{Context, current};
use super::device::device;
use super::error::{self, Result};
use super::graph::Op;
use super::memory::{Kind, Origin, Range};
use super::registry::{Registry, new_handle};
use super::runtime::{initialised, runtime};
use super::shared;
use super::stream::{Stream, stream};
use super::work::Work;
use std::collections::HashMap;
use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// `CU_MEM_ALLOCATION_TYPE_PINNED`, `CU_MEM_LOCATION_TYPE_DEVICE`
pub const PINNED: u32 = 1;
pub const ON_DEVICE: u32 = 1;
/// `CU_MEM_LOCATION_TYPE_HOST`, `_HOST_NUMA` and `_HOST_NUMA_CURRENT`
const ON_HOST: std::ops::RangeInclusive<u32> = 2..=4;

/// A CUmemLocation.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Location {
    pub kind: u32,
    pub id: i32,
}

impl Location {
    /// The device that it names.
    pub fn device(self) -> Result<CUdevice> {
        if self.kind != ON_DEVICE {
            return Err(error::NOT_SUPPORTED);
        }
        device(self.id)?;
        Ok(self.id)
    }

    pub fn is_host(self) -> bool {
        ON_HOST.contains(&self.kind)
    }
}

/// A CUmemAccessDesc.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Access {
    pub location: Location,
    pub flags: u32,
}

/// A CUmemPoolProps.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Props {
    kind: u32,
    handle_types: u32,
    location: Location,
    security: usize,
    most: usize,
    usage: u16,
    reserved: [u8; 54],
}

const _: () = assert!(size_of::<Props>() == 88);

/// A pool.
pub struct Pool {
    ordinal: CUdevice,
    most: u64,
    is_default: bool,
    /// By number of the attribute: `REUSE_*` and `RELEASE_THRESHOLD`.
    settings: [AtomicU64; 5],
    used: AtomicU64,
    used_high: AtomicU64,
    access: Mutex<HashMap<CUdevice, u32>>,
    /// If processes share it.
    shared: Option<Shared>,
}

/// A pool's part in other processes, or another process' pool.
struct Shared {
    file: OwnedFd,
    /// Where the file is mapped.
    start: u64,
    imported: bool,
    /// Pointers of a pool are exported once the pool is.
    exported: AtomicBool,
}

impl Shared {
    fn new(file: OwnedFd, len: u64, imported: bool) -> Result<Self> {
        Ok(Self {
            start: runtime()?.memory.open_pool(&file, len, imported)?,
            file,
            imported,
            exported: AtomicBool::new(false),
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(runtime) = initialised() {
            runtime.memory.close_pool(self.start);
        }
    }
}

/// A CUmemPoolPtrExportData: which pool's file, and where in it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PointerData {
    file: u64,
    offset: u64,
    len: u64,
    reserved: [u64; 5],
}

const _: () = assert!(size_of::<PointerData>() == 64);

/// All pools.
#[derive(Default)]
pub struct Pools {
    all: Registry<Pool>,
    of_devices: Mutex<HashMap<CUdevice, OfDevice>>,
}

/// A device's default pool and its current one.
#[derive(Clone, Copy)]
struct OfDevice {
    default: u64,
    current: u64,
}

impl Pool {
    fn new(ordinal: CUdevice, most: u64, is_default: bool, shared: Option<Shared>) -> Self {
        let setting = |value| AtomicU64::new(value);
        Self {
            ordinal,
            most,
            is_default,
            settings: [setting(0), setting(1), setting(1), setting(1), setting(0)],
            used: AtomicU64::new(0),
            used_high: AtomicU64::new(0),
            access: Mutex::default(),
            shared,
        }
    }

    /// Whether it is another process'.
    fn is_imported(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.imported)
    }

    fn has_allocated(&self, len: u64) {
        let used = self.used.fetch_add(len, Ordering::Relaxed) + len;
        self.used_high.fetch_max(used, Ordering::Relaxed);
    }
}

impl Pools {
    /// An allocation is freed.
    pub fn has_freed(&self, range: &Range) {
        if let Origin::Pool(pool) | Origin::Leaving(pool) = range.origin
            && let Ok(pool) = self.all.get(pool)
        {
            pool.used.fetch_sub(range.len, Ordering::Relaxed);
        }
    }

    /// As what memory of a pool may be exported; an imported one's is not exported again.
    pub fn handle_types(&self, pool: u64) -> u32 {
        match self.all.get(pool) {
            Ok(pool) if pool.shared.is_some() && !pool.is_imported() => shared::FILE,
            _ => 0,
        }
    }

    fn of_device(&self, ordinal: CUdevice, change: impl FnOnce(&mut OfDevice)) -> Result<OfDevice> {
        device(ordinal)?;
        let mut devices: MutexGuard<'_, _> = self.of_devices.lock().unwrap_or_else(|e| e.into_inner());
        let found = devices.entry(ordinal).or_insert_with(|| {
            let handle = new_handle();
            self.all.add(handle, Arc::new(Pool::new(ordinal, 0, true, None)));
            OfDevice {
                default: handle,
                current: handle,
            }
        });
        change(found);
        Ok(*found)
    }
}

/// The memory of an allocation in a graph.
pub struct GraphAllocation(u64);

impl GraphAllocation {
    /// New memory of a device.
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Arc<Self>> {
        let start = runtime()?.memory.allocate_for(context, bytes, Origin::Graph)?;
        Ok(Arc::new(GraphAllocation(start)))
    }

    /// Where it lies.
    pub fn address(&self) -> u64 {
        self.0
    }
}

impl Drop for GraphAllocation {
    fn drop(&mut self) {
        if let Ok(runtime) = initialised() {
            // Fails only if its context is gone, and all its memory with it.
            let _ = runtime.memory.free(runtime, self.0);
        }
    }
}

fn is_capturing(stream: &Stream) -> bool {
    stream.capture.lock().unwrap_or_else(|e| e.into_inner()).is_some()
}

fn allocate(stream: &Arc<Stream>, out: Out<CUdeviceptr>, bytes: usize, handle: u64) -> Result {
    let runtime = runtime()?;
    let pool = runtime.pools.all.get(handle)?;
    let context = stream.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
    if bytes == 0 || out.0.is_null() {
        return Err(error::INVALID_VALUE);
    }
    if pool.is_imported() {
        return Err(error::INVALID_VALUE);
    }
    let used = pool.used.load(Ordering::Relaxed);
    if pool.most != 0 && used.saturating_add(bytes as u64) > pool.most {
        return Err(error::OUT_OF_MEMORY);
    }
    if is_capturing(stream) {
        let memory = GraphAllocation::new(&context, bytes as u64)?;
        let start = memory.address();
        capture::add(stream, &Work::Keep(memory))?;
        return out.set(start);
    }
    runtime.captures.forbid()?;
    let (memory, origin) = (&runtime.memory, Origin::Pool(handle));
    let start = match &pool.shared {
        Some(shared) => memory.allocate_shared(&context, shared.start, bytes as u64, origin)?,
        None => memory.allocate_for(&context, bytes as u64, origin)?,
    };
    pool.has_allocated(memory.find(start).map_or(0, |range| range.len));
    out.set(start)
}

fn free(stream: &Arc<Stream>, address: u64) -> Result {
    if address == 0 {
        return Ok(());
    }
    let runtime = runtime()?;
    let range = runtime.memory.find(address);
    let range = range.filter(|r| r.start == address && r.kind == Kind::Device);
    let range = range.ok_or(error::INVALID_VALUE)?;
    match range.origin {
        Origin::Graph => {
            capture::add_node(stream, || Ok(Op::Free(address)))?;
            Ok(())
        }
        // A graph frees what it allocated.
        _ if is_capturing(stream) => Err(error::INVALID_VALUE),
        Origin::Pool(pool) => {
            runtime.captures.forbid()?;
            runtime.memory.set_origin(address, Origin::Leaving(pool));
            stream.submit(Vec::new(), Work::Free(address)).map(|_| ())
        }
        Origin::Plain => {
            runtime.captures.forbid()?;
            runtime.memory.set_origin(address, Origin::Leaving(0));
            stream.submit(Vec::new(), Work::Free(address)).map(|_| ())
        }
        Origin::Leaving(_) | Origin::Mapped | Origin::Managed => Err(error::INVALID_VALUE),
    }
}

/// Bytes that graphs have on a device.
fn graph_bytes(ordinal: CUdevice) -> Result<u64> {
    let ranges = runtime()?.memory.on_devices();
    let of = ranges
        .iter()
        .filter(|r| r.origin == Origin::Graph && r.ordinal == ordinal);
    Ok(of.map(|range| range.len).sum())
}

/// Whether a pool's attribute is a number of 32 bits.
fn is_short(attribute: i32) -> bool {
    (1..=3).contains(&attribute)
}

api! { SYMBOLS;
    fn cuDeviceGetDefaultMemPool(out: Out<u64>, ordinal: CUdevice) {
        out.set(runtime()?.pools.of_device(ordinal, |_| {})?.default)
    }

    fn cuDeviceGetMemPool(out: Out<u64>, ordinal: CUdevice) {
        out.set(runtime()?.pools.of_device(ordinal, |_| {})?.current)
    }

    fn cuDeviceSetMemPool(ordinal: CUdevice, pool: u64) {
        let pools = &runtime()?.pools;
        let found = pools.all.get(pool)?;
        if found.ordinal != ordinal || found.is_imported() {
            return Err(error::INVALID_VALUE);
        }
        pools.of_device(ordinal, |of| of.current = pool).map(|_| ())
    }

    fn cuMemPoolCreate(out: Out<u64>, props: In<Props>) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let pools = &runtime.pools;
        let props = props.get()?;
        if props.kind != PINNED {
            return Err(error::INVALID_VALUE);
        }
        if props.handle_types & !shared::FILE != 0 || props.usage != 0 {
            return Err(error::NOT_SUPPORTED);
        }
        // A device that is not there is no place.
        let ordinal = props.location.device().map_err(|code| match code {
            error::INVALID_DEVICE => error::INVALID_VALUE,
            other => other,
        })?;
        let shared = if props.handle_types == shared::FILE {
            let len = device(ordinal)?.share.total_memory().next_multiple_of(4096);
            let file = shared::create(shared::What::Pool, ordinal, len)?;
            Some(Shared::new(file, len, false)?)
        } else {
            None
        };
        let handle = new_handle();
        out.set(handle)?;
        pools.all.add(handle, Arc::new(Pool::new(ordinal, props.most as u64, false, shared)));
        Ok(())
    }

    fn cuMemPoolDestroy(handle: u64) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let pools = &runtime.pools;
        let pool = pools.all.get(handle)?;
        // Another process' pool stays as long as there is memory of it that was not freed.
        let has_any = || runtime.memory.on_devices().iter().any(|range| range.origin == Origin::Pool(handle));
        if pool.is_default || (pool.is_imported() && has_any()) {
            return Err(error::INVALID_VALUE);
        }
        pools.of_device(pool.ordinal, |of| {
            if of.current == handle {
                of.current = of.default;
            }
        })?;
        pools.all.remove(handle).map(|_| ())
    }

    fn cuMemPoolTrimTo(handle: u64, _keep: usize) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        runtime.pools.all.get(handle).map(|_| ())
    }

    fn cuMemPoolGetAttribute(handle: u64, attribute: i32, out: *mut c_void) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let pool = runtime.pools.all.get(handle)?;
        let value = match attribute {
            1..=4 => pool.settings[attribute as usize].load(Ordering::Relaxed),
            5 | 7 => pool.used.load(Ordering::Relaxed),
            6 | 8 => pool.used_high.load(Ordering::Relaxed),
            _ => return Err(error::INVALID_VALUE),
        };
        if is_short(attribute) { Out(out.cast::<u32>()).set(value as u32) } else { Out(out.cast::<u64>()).set(value) }
    }

    fn cuMemPoolSetAttribute(handle: u64, attribute: i32, value: *mut c_void) {
        let runtime = runtime()?;
        runtime.captures.forbid()?;
        let pool = runtime.pools.all.get(handle)?;
        let value = if is_short(attribute) { u64::from(Out(value.cast::<u32>()).get()?) } else { Out(value.cast::<u64>()).get()? };
        match attribute {
            1..=4 => pool.settings[attribute as usize].store(value, Ordering::Relaxed),
            6 | 8 if value == 0 => pool.used_high.store(pool.used.load(Ordering::Relaxed), Ordering::Relaxed),
            _ => return Err(error::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(handle: u64, accesses: In<Access>, len: usize) {
        let pool = runtime()?.pools.all.get(handle)?;
        for at in 0..len {
            let access = accesses.at(at)?;
            let ordinal = access.location.device()?;
            if !matches!(access.flags, 0 | 1 | 3) || (ordinal == pool.ordinal && access.flags != 3) {
                return Err(error::INVALID_VALUE);
            }
            pool.access.lock().unwrap_or_else(|e| e.into_inner()).insert(ordinal, access.flags);
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(out: Out<u32>, handle: u64, location: In<Location>) {
        let pool = runtime()?.pools.all.get(handle)?;
        let ordinal = location.get()?.device()?;
        let known = pool.access.lock().unwrap_or_else(|e| e.into_inner()).get(&ordinal).copied();
        out.set(known.unwrap_or(if ordinal == pool.ordinal { 3 } else { 0 }))
    }

    fn cuMemPoolExportToShareableHandle(out: Out<i32>, handle: u64, kind: u32, flags: u64) {
        let pool = runtime()?.pools.all.get(handle)?;
        let shared = pool.shared.as_ref().filter(|shared| !shared.imported);
        let shared = shared.ok_or(error::INVALID_VALUE)?;
        if kind != shared::FILE || flags != 0 || out.0.is_null() {
            return Err(error::INVALID_VALUE);
        }
        shared.exported.store(true, Ordering::Relaxed);
        out.set(shared::export(&shared.file)?)
    }

    fn cuMemPoolImportFromShareableHandle(out: Out<u64>, descriptor: usize, kind: u32, flags: u64) {
        let pools = &runtime()?.pools;
        if kind != shared::FILE || flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        let imported = shared::import(shared::What::Pool, descriptor)?;
        let shared = Shared::new(imported.file, imported.len, true)?;
        let handle = new_handle();
        out.set(handle)?;
        pools.all.add(handle, Arc::new(Pool::new(imported.ordinal, 0, false, Some(shared))));
        Ok(())
    }

    fn cuMemPoolExportPointer(out: Out<PointerData>, address: CUdeviceptr) {
        let runtime = runtime()?;
        let range = runtime.memory.find(address).filter(|range| range.start == address);
        let range = range.ok_or(error::INVALID_VALUE)?;
        let Origin::Pool(pool) = range.origin else {
            return Err(error::INVALID_VALUE);
        };
        let pool = runtime.pools.all.get(pool)?;
        let shared = pool.shared.as_ref().filter(|shared| shared.exported.load(Ordering::Relaxed));
        let shared = shared.ok_or(error::INVALID_VALUE)?;
        out.set(PointerData {
            file: shared::identity(&shared.file)?,
            offset: address - shared.start,
            len: range.len,
            reserved: [0; 5],
        })
    }

    fn cuMemPoolImportPointer(out: Out<CUdeviceptr>, handle: u64, data: In<PointerData>) {
        let runtime = runtime()?;
        let (context, pool, data) = (current()?, runtime.pools.all.get(handle)?, data.get()?);
        let shared = pool.shared.as_ref().filter(|shared| shared.imported);
        let shared = shared.ok_or(error::INVALID_VALUE)?;
        if out.0.is_null() || data.file != shared::identity(&shared.file)? {
            return Err(error::INVALID_VALUE);
        }
        let place = (data.offset, data.len);
        let start = runtime.memory.import_shared(&context, shared.start, place, Origin::Pool(handle))?;
        pool.has_allocated(data.len);
        out.set(start)
    }

    fn cuDeviceGetGraphMemAttribute(ordinal: CUdevice, attribute: i32, out: Out<u64>) {
        device(ordinal)?;
        match attribute {
            0..=3 => out.set(graph_bytes(ordinal)?),
            _ => Err(error::INVALID_VALUE),
        }
    }

    fn cuDeviceGraphMemTrim(ordinal: CUdevice) {
        device(ordinal).map(|_| ())
    }
}

stream_api! { STREAM_SYMBOLS, default;
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(out: Out<CUdeviceptr>, bytes: usize, handle: CUstream) {
        let stream = stream(handle, default)?;
        let context = stream.context().ok_or(error::CONTEXT_IS_DESTROYED)?;
        let pool = runtime()?.pools.of_device(context.ordinal, |_| {})?.current;
        allocate(&stream, out, bytes, pool)
    }

    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(
        out: Out<CUdeviceptr>, bytes: usize, pool: u64, handle: CUstream,
    ) {
        allocate(&stream(handle, default)?, out, bytes, pool)
    }

    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(address: CUdeviceptr, handle: CUstream) {
        let stream = stream(handle, default)?;
        free(&stream, address)
    }
}
