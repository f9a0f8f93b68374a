//! Virtual memory: reserved addresses, and memory that is mapped there. Memory is a file without a name, which may be exported; it
//! counts on its device where it was created. Reserved addresses are always mapped with something, so that no stale address can
//! bring the process down.

use super::abi::{CUdevice, CUdeviceptr, In, Out, api};
use super::context::{Context, current};
use super::error::{self, Result};
use super::memory::{Kind, Origin, Range};
use super::pool::{Access, Location, ON_DEVICE, PINNED};
use super::registry::new_handle;
use super::runtime::runtime;
use super::shared;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Granularity of all of it.
const GRANULE: usize = 2 << 20;

/// A CUmemAllocationProp.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Props {
    kind: u32,
    handle_types: u32,
    location: Location,
    win32: usize,
    compression: u8,
    rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

const _: () = assert!(size_of::<Props>() == 32);

impl Props {
    /// Of memory that was imported, which is not exported again.
    fn of_file(location: Location) -> Self {
        Self {
            kind: PINNED,
            handle_types: 0,
            location,
            win32: 0,
            compression: 0,
            rdma: 0,
            usage: 0,
            reserved: [0; 4],
        }
    }

    fn check(&self) -> Result {
        if self.kind != PINNED {
            return Err(error::INVALID_VALUE);
        }
        if self.handle_types & !shared::FILE != 0 {
            return Err(error::NOT_SUPPORTED);
        }
        Ok(())
    }

    fn device(&self) -> Result<CUdevice> {
        self.check()?;
        self.location.device()
    }
}

/// Memory with a handle; it goes with the last mapping of it.
struct Physical {
    file: OwnedFd,
    len: u64,
    props: Props,
    counted: Weak<Context>,
}

impl Drop for Physical {
    fn drop(&mut self) {
        if let Some(context) = self.counted.upgrade()
            && let Ok(device) = context.device()
        {
            device.share.unreserve(context.gate.slot(), self.len);
        }
    }
}

struct Mapping {
    len: u64,
    physical: Arc<Physical>,
    handle: u64,
    access: HashMap<CUdevice, u32>,
}

#[derive(Default)]
struct State {
    reservations: BTreeMap<u64, u64>,
    mappings: BTreeMap<u64, Mapping>,
    /// Handles: memory and references.
    handles: HashMap<u64, (Arc<Physical>, u32)>,
}

/// All of it.
#[derive(Default)]
pub struct VirtualMemory(Mutex<State>);

impl VirtualMemory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// As what memory that is mapped there may be exported.
    pub fn handle_types(&self, address: u64) -> u32 {
        let state = self.state();
        let found = state.around(address);
        found.map_or(0, |(_, mapping)| mapping.physical.props.handle_types)
    }
}

impl State {
    /// The starts of the mappings that a range consists of.
    fn whole(&self, address: u64, len: u64) -> Result<Vec<u64>> {
        let end = address.checked_add(len).ok_or(error::INVALID_VALUE)?;
        let (mut at, mut found) = (address, Vec::new());
        while at < end {
            found.push(at);
            at += self.mappings.get(&at).ok_or(error::INVALID_VALUE)?.len;
        }
        if at != end || found.is_empty() {
            return Err(error::INVALID_VALUE);
        }
        Ok(found)
    }

    fn around(&self, address: u64) -> Result<(u64, &Mapping)> {
        let found = self.mappings.range(..=address).next_back();
        let found = found.filter(|(start, mapping)| address - **start < mapping.len);
        found
            .map(|(start, mapping)| (*start, mapping))
            .ok_or(error::INVALID_VALUE)
    }

    fn is_reserved(&self, address: u64, len: u64) -> bool {
        let found = self.reservations.range(..=address).next_back();
        found.is_some_and(|(start, whole)| address - start <= *whole && len <= whole - (address - start))
    }

    fn is_free(&self, address: u64, len: u64) -> bool {
        let before = self.mappings.range(..address + len).next_back();
        before.is_none_or(|(start, mapping)| start + mapping.len <= address)
    }
}

/// Maps a file, or nothing in particular, at an address of a reservation, or anywhere.
fn map_at(address: u64, len: u64, file: Option<&OwnedFd>, fixed: bool) -> Result<u64> {
    let kind = if file.is_some() {
        libc::MAP_SHARED
    } else {
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE
    };
    // SAFETY: replaces only what lies in a reservation of ours; otherwise the address is a wish.
    let at = unsafe {
        libc::mmap(
            address as *mut _,
            len as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            kind | if fixed { libc::MAP_FIXED } else { 0 },
            file.map_or(-1, AsRawFd::as_raw_fd),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        Err(error::OUT_OF_MEMORY)
    } else {
        Ok(at as u64)
    }
}

fn multiple(bytes: usize) -> Result<u64> {
    if bytes == 0 || !bytes.is_multiple_of(GRANULE) {
        return Err(error::INVALID_VALUE);
    }
    Ok(bytes as u64)
}

fn reserve(bytes: usize, alignment: usize, wanted: u64) -> Result<u64> {
    let len = multiple(bytes)?;
    if alignment != 0 && !alignment.is_power_of_two() {
        return Err(error::INVALID_VALUE);
    }
    let alignment = alignment.max(GRANULE);
    let whole = len.checked_add(alignment as u64).ok_or(error::OUT_OF_MEMORY)?;
    let at = map_at(wanted, whole, None, false)?;
    let start = at.next_multiple_of(alignment as u64);
    for (from, to) in [(at, start), (start + len, at + whole)] {
        if from < to {
            // SAFETY: a part of the mapping just made that nobody knows of.
            unsafe { libc::munmap(from as *mut _, (to - from) as usize) };
        }
    }
    Ok(start)
}

fn create(bytes: usize, props: Props) -> Result<Physical> {
    let len = multiple(bytes)?;
    let ordinal = props.device()?;
    let context = current()?;
    let share = &context.device()?.share;
    let file = shared::create(shared::What::Memory, ordinal, len)?;
    if !share.reserve(context.gate.slot(), len) {
        return Err(error::OUT_OF_MEMORY);
    }
    Ok(Physical {
        file,
        len,
        props,
        counted: Arc::downgrade(&context),
    })
}

api! { SYMBOLS;
    fn cuMemGetAllocationGranularity(out: Out<usize>, props: In<Props>, option: u32) {
        runtime()?;
        let props = props.get()?;
        // The host's memory has one too, though there is none to be had here.
        if props.location.is_host() { props.check()? } else { props.device().map(drop)? }
        if option > 1 {
            return Err(error::INVALID_VALUE);
        }
        out.set(GRANULE)
    }

    fn cuMemAddressReserve(out: Out<CUdeviceptr>, bytes: usize, alignment: usize, wanted: CUdeviceptr, flags: u64) {
        let runtime = runtime()?;
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        let start = reserve(bytes, alignment, wanted)?;
        runtime.virtual_memory.state().reservations.insert(start, bytes as u64);
        out.set(start)
    }

    fn cuMemAddressFree(address: CUdeviceptr, bytes: usize) {
        let mut state = runtime()?.virtual_memory.state();
        let len = bytes as u64;
        if state.reservations.get(&address) != Some(&len) || !state.is_free(address, len) {
            return Err(error::INVALID_VALUE);
        }
        state.reservations.remove(&address);
        // SAFETY: a reservation of ours in which nothing is mapped.
        unsafe { libc::munmap(address as *mut _, bytes) };
        Ok(())
    }

    fn cuMemCreate(out: Out<u64>, bytes: usize, props: In<Props>, flags: u64) {
        let runtime = runtime()?;
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        let physical = create(bytes, props.get()?)?;
        let handle = new_handle();
        out.set(handle)?;
        runtime.virtual_memory.state().handles.insert(handle, (Arc::new(physical), 1));
        Ok(())
    }

    fn cuMemRelease(handle: u64) {
        let mut state = runtime()?.virtual_memory.state();
        let (_, references) = state.handles.get_mut(&handle).ok_or(error::INVALID_VALUE)?;
        *references -= 1;
        if *references == 0 {
            state.handles.remove(&handle);
        }
        Ok(())
    }

    fn cuMemRetainAllocationHandle(out: Out<u64>, address: u64) {
        let mut state = runtime()?.virtual_memory.state();
        let (_, mapping) = state.around(address)?;
        let (handle, physical) = (mapping.handle, mapping.physical.clone());
        state.handles.entry(handle).or_insert((physical, 0)).1 += 1;
        out.set(handle)
    }

    fn cuMemGetAllocationPropertiesFromHandle(out: Out<Props>, handle: u64) {
        let state = runtime()?.virtual_memory.state();
        let (physical, _) = state.handles.get(&handle).ok_or(error::INVALID_VALUE)?;
        out.set(physical.props)
    }

    fn cuMemMap(address: CUdeviceptr, bytes: usize, offset: usize, handle: u64, flags: u64) {
        let mut state = runtime()?.virtual_memory.state();
        let len = multiple(bytes)?;
        let (physical, _) = state.handles.get(&handle).ok_or(error::INVALID_VALUE)?;
        let physical = physical.clone();
        if offset != 0 || flags != 0 || len != physical.len || !state.is_reserved(address, len) || !state.is_free(address, len) {
            return Err(error::INVALID_VALUE);
        }
        map_at(address, len, Some(&physical.file), true)?;
        state.mappings.insert(address, Mapping { len, physical, handle, access: HashMap::new() });
        Ok(())
    }

    fn cuMemUnmap(address: CUdeviceptr, bytes: usize) {
        let runtime = runtime()?;
        let mut state = runtime.virtual_memory.state();
        for start in state.whole(address, bytes as u64)? {
            runtime.memory.remove_mapped(start);
            if let Some(mapping) = state.mappings.remove(&start) {
                map_at(start, mapping.len, None, true)?;
            }
        }
        Ok(())
    }

    fn cuMemSetAccess(address: CUdeviceptr, bytes: usize, accesses: In<Access>, len: usize) {
        let runtime = runtime()?;
        let mut state = runtime.virtual_memory.state();
        let starts = state.whole(address, bytes as u64)?;
        if len == 0 {
            return Err(error::INVALID_VALUE);
        }
        for at in 0..len {
            let access = accesses.at(at)?;
            let ordinal = access.location.device()?;
            if !matches!(access.flags, 0 | 1 | 3) {
                return Err(error::INVALID_VALUE);
            }
            for start in &starts {
                let Some(mapping) = state.mappings.get_mut(start) else { continue };
                mapping.access.insert(ordinal, access.flags);
                runtime.memory.remove_mapped(*start);
                if mapping.access.values().any(|flags| *flags != 0) {
                    let (start, len) = (*start, mapping.len);
                    let (kind, origin) = (Kind::Device, Origin::Mapped);
                    runtime.memory.insert(Range { start, len, kind, context: 0, ordinal, flags: 0, origin });
                }
            }
        }
        Ok(())
    }

    fn cuMemGetAccess(out: Out<u64>, location: In<Location>, address: CUdeviceptr) {
        let state = runtime()?.virtual_memory.state();
        let ordinal = location.get()?.device()?;
        let (_, mapping) = state.around(address)?;
        out.set(mapping.access.get(&ordinal).copied().unwrap_or(0).into())
    }

    fn cuMemExportToShareableHandle(out: Out<i32>, handle: u64, kind: u32, flags: u64) {
        let state = runtime()?.virtual_memory.state();
        let (physical, _) = state.handles.get(&handle).ok_or(error::INVALID_VALUE)?;
        if kind != shared::FILE || physical.props.handle_types & kind == 0 || flags != 0 || out.0.is_null() {
            return Err(error::INVALID_VALUE);
        }
        out.set(shared::export(&physical.file)?)
    }

    fn cuMemImportFromShareableHandle(out: Out<u64>, descriptor: usize, kind: u32) {
        let runtime = runtime()?;
        if kind != shared::FILE {
            return Err(error::INVALID_VALUE);
        }
        let imported = shared::import(shared::What::Memory, descriptor)?;
        let location = Location { kind: ON_DEVICE, id: imported.ordinal };
        let physical = Physical {
            file: imported.file,
            len: imported.len,
            props: Props::of_file(location),
            counted: Weak::new(),
        };
        let handle = new_handle();
        out.set(handle)?;
        runtime.virtual_memory.state().handles.insert(handle, (Arc::new(physical), 1));
        Ok(())
    }
}
