//! Memory pools, and allocation in the order of a stream.
//!
//! Which pool is a device's current one only this library needs to know: the host is told the pool with each allocation. What is
//! exported of them is a token of the host's, a pool's in a file.
use super::capture::refuse_in_capture;
use super::device::gpu;
use super::ipc::handle;
use super::{cuda, cuda_pairs};
use crate::abi::{CUdevice, CUdeviceptr, CUmemoryPool, CUstream, Host, In, IpcHandle, Out};
use crate::device_memory::{DeviceMemory, Origin};
use crate::handles::{Found, Table};
use crate::lock;
use crate::session::{Call, NullStream};
use crate::shared_file::{self, What};
use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::{Mutex, MutexGuard};
use vgpu_protocol::calls;
use vgpu_protocol::limits::{ACCESSES_MAX, POOLS_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Access, HANDLE_TYPE_FILE, Location, PoolProps};
use vgpu_protocol::words::handle::CONTEXT_NONE;
use zerocopy::IntoBytes;

/// CU_MEMPOOL_ATTR_REUSE_*: numbers of 32 bits.
const SHORT_ATTRIBUTES: std::ops::RangeInclusive<c_int> = 1..=3;
/// The other attributes that are 64 bits wide: CU_MEMPOOL_ATTR_RELEASE_THRESHOLD to _USED_MEM_HIGH.
const LONG_ATTRIBUTES: std::ops::RangeInclusive<c_int> = 4..=8;
/// CU_MEM_ALLOCATION_TYPE_PINNED.
const PINNED: c_uint = 1;

/// A pool.
pub struct Pool {
    /// Its number on the wire.
    id: u32,
    /// Its device's ordinal.
    device: usize,
    /// As what it may be exported.
    handle_types: u32,
    /// It is another process'.
    imported: bool,
}

impl Pool {
    fn own(id: u32, device: usize, handle_types: u32) -> Self {
        Self {
            id,
            device,
            handle_types,
            imported: false,
        }
    }
}

/// All pools.
pub struct Pools {
    table: Table<Pool>,
    devices: Mutex<HashMap<usize, OfDevice>>,
}

/// Handles of a device's pools.
#[derive(Clone, Copy)]
struct OfDevice {
    default: CUmemoryPool,
    current: CUmemoryPool,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            table: Table::new(10, 0, POOLS_MAX),
            devices: Mutex::default(),
        }
    }
}

/// The number of the current context on the wire.
pub(super) fn current(call: &Call) -> u32 {
    call.context().map_or(CONTEXT_NONE, |context| context.id)
}

/// The ordinal of a place that must be one of the session's devices.
pub(super) fn device_of(call: &Call, location: Location) -> Result<u32, Code> {
    match location.kind {
        Location::DEVICE => {
            gpu(call, location.id)?;
            Ok(location.id as u32)
        }
        Location::HOST => Err(result::NOT_SUPPORTED),
        kind if Location::HOST_NUMA.contains(&kind) => Err(result::NOT_SUPPORTED),
        _ => Err(result::INVALID_VALUE),
    }
}

/// An array that says who may access memory.
pub(super) fn accesses(call: &Call, array: In<Access>, len: usize) -> Result<Vec<Access>, Code> {
    if len == 0 || len > ACCESSES_MAX {
        return Err(result::INVALID_VALUE);
    }
    let checked = |at| {
        let access: Access = array.at(at)?;
        device_of(call, access.location)?;
        Ok(access)
    };
    (0..len).map(checked).collect()
}

fn find(call: &Call, pool: CUmemoryPool) -> Result<Found<Pool>, Code> {
    call.session.pools.table.get(pool).ok_or(result::INVALID_VALUE)
}

/// Files are all that memory can be exported as; another kind of handle would be the host's driver's.
pub(super) fn check_handle_types(types: u32) -> Result<(), Code> {
    if types & !HANDLE_TYPE_FILE == 0 {
        Ok(())
    } else {
        Err(result::NOT_SUPPORTED)
    }
}

/// The same of what a descriptor that is imported is said to be.
pub(super) fn check_imported(kind: u32) -> Result<(), Code> {
    match kind {
        0 => Err(result::INVALID_VALUE),
        kind => check_handle_types(kind),
    }
}

/// Makes a pool that the host makes with `ask`.
fn add(call: &Call, ask: impl FnOnce(u32) -> Result<Pool, Code>) -> Result<CUmemoryPool, Code> {
    let table = &call.session.pools.table;
    let id = table.reserve().ok_or(result::OUT_OF_MEMORY)?;
    match ask(id) {
        Ok(pool) => Ok(table.insert(id, pool).handle()),
        Err(code) => {
            table.release(id);
            Err(code)
        }
    }
}

/// The pools of a device, of which the host is asked once.
fn of_device<'a>(
    call: &'a Call,
    device: usize,
) -> Result<(MutexGuard<'a, HashMap<usize, OfDevice>>, OfDevice), Code> {
    let mut devices = lock(&call.session.pools.devices);
    if let Some(&found) = devices.get(&device) {
        return Ok((devices, found));
    }
    let default = add(call, |pool| {
        let arguments = calls::cuDeviceGetDefaultMemPool::In {
            device: device as u32,
            pool,
        };
        call.ask::<calls::cuDeviceGetDefaultMemPool::Call>(current(call), arguments)?;
        Ok(Pool::own(pool, device, 0))
    })?;
    let found = OfDevice {
        default,
        current: default,
    };
    devices.insert(device, found);
    Ok((devices, found))
}

/// Has a pool give back what it has beyond all that there can be.
pub(super) fn trim_nothing(call: &Call) -> Result<(), Code> {
    let (devices, of) = of_device(call, 0)?;
    drop(devices);
    trim(call, of.default, u64::MAX)
}

fn trim(call: &Call, pool: CUmemoryPool, keep: u64) -> Result<(), Code> {
    let arguments = calls::cuMemPoolTrimTo::In {
        pool: find(call, pool)?.id,
        keep,
    };
    call.ask::<calls::cuMemPoolTrimTo::Call>(current(call), arguments)
        .map(drop)
}

/// The current pool of a device that a place must be, for memory of that type.
fn at(call: &Call, location: In<Location>, kind: c_uint) -> Result<usize, Code> {
    let device = device_of(call, location.get()?)?;
    if kind == PINNED {
        Ok(device as usize)
    } else {
        Err(result::INVALID_VALUE)
    }
}

fn set_current(call: &Call, device: usize, pool: CUmemoryPool) -> Result<(), Code> {
    let found = find(call, pool)?;
    if found.device != device || found.imported {
        return Err(result::INVALID_VALUE);
    }
    let (mut devices, found) = of_device(call, device)?;
    devices.insert(
        device,
        OfDevice {
            current: pool,
            ..found
        },
    );
    Ok(())
}

/// Allocates from a pool, or from the current one of the stream's device.
fn allocate(
    place: Out<CUdeviceptr>,
    bytes: usize,
    pool: Option<CUmemoryPool>,
    stream: CUstream,
    null: NullStream,
) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    place.check()?;
    let stream = call.stream(stream, null)?;
    if bytes == 0 {
        return Err(result::INVALID_VALUE);
    }
    let pool = match pool {
        Some(pool) => pool,
        None => {
            let contexts = call.session.contexts.all();
            let owner = contexts.iter().find(|owner| owner.id == stream.context);
            of_device(&call, owner.map_or(context.device, |owner| owner.device))?
                .1
                .current
        }
    };
    let pool = find(&call, pool)?;
    let arguments = calls::cuMemAllocFromPoolAsync::In {
        bytes: bytes as u64,
        pool: pool.id,
        stream: stream.word,
    };
    let out = call.ask::<calls::cuMemAllocFromPoolAsync::Call>(stream.context, arguments)?;
    let origin = if stream.capture() != 0 {
        Origin::Graph
    } else {
        Origin::Pooled
    };
    let memory = DeviceMemory {
        origin,
        handle_types: pool.handle_types,
        ..DeviceMemory::allocated(bytes as u64, stream.context)
    };
    call.session.device_memory().insert(out.pointer, memory);
    stream.did_submit();
    place.set(out.pointer)
}

fn free(pointer: CUdeviceptr, stream: CUstream, null: NullStream) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    let stream = call.stream(stream, null)?;
    // As NVIDIA's library has it, and libraries of theirs free what they never allocated.
    if pointer == 0 {
        return Ok(());
    }
    let session = call.session;
    let known = session.device_memory().get(&pointer).copied();
    let memory = known
        .filter(DeviceMemory::is_allocation)
        .ok_or(result::INVALID_VALUE)?;
    // What may use it still was submitted before; out of the map before it is freed, as the address may be another's then.
    if memory.origin != Origin::Graph {
        session.device_memory().remove(&pointer);
    }
    let arguments = calls::cuMemFreeAsync::In {
        pointer,
        stream: stream.word,
    };
    let freed = if stream.context == context.id {
        call.submit::<calls::cuMemFreeAsync::Call>(context.id, arguments)
    } else {
        call.submit_answered::<calls::cuMemFreeAsync::Call>(stream.context, arguments, &[])
    };
    if freed.is_err() {
        session.device_memory().insert(pointer, memory);
        return freed;
    }
    stream.did_submit();
    Ok(())
}

cuda! {
    fn cuDeviceGetDefaultMemPool(pool: Out<CUmemoryPool>, device: CUdevice) {
        let call = Call::enter()?;
        gpu(&call, device)?;
        pool.check()?.set(of_device(&call, device as usize)?.1.default)
    }

    fn cuDeviceGetMemPool(pool: Out<CUmemoryPool>, device: CUdevice) {
        let call = Call::enter()?;
        gpu(&call, device)?;
        pool.check()?.set(of_device(&call, device as usize)?.1.current)
    }

    fn cuDeviceSetMemPool(device: CUdevice, pool: CUmemoryPool) {
        let call = Call::enter()?;
        gpu(&call, device)?;
        set_current(&call, device as usize, pool)
    }

    fn cuMemGetDefaultMemPool(pool: Out<CUmemoryPool>, location: In<Location>, kind: c_uint) {
        let call = Call::enter()?;
        let device = at(&call, location, kind)?;
        pool.check()?.set(of_device(&call, device)?.1.default)
    }

    fn cuMemGetMemPool(pool: Out<CUmemoryPool>, location: In<Location>, kind: c_uint) {
        let call = Call::enter()?;
        let device = at(&call, location, kind)?;
        pool.check()?.set(of_device(&call, device)?.1.current)
    }

    fn cuMemSetMemPool(location: In<Location>, kind: c_uint, pool: CUmemoryPool) {
        let call = Call::enter()?;
        let device = at(&call, location, kind)?;
        set_current(&call, device, pool)
    }

    fn cuMemPoolCreate(place: Out<CUmemoryPool>, props: In<PoolProps>) {
        let call = Call::enter()?;
        place.check()?;
        let props = props.get()?;
        if !props.is_pinned() {
            return Err(result::INVALID_VALUE);
        }
        let device = device_of(&call, props.location).map_err(|code| match code {
            result::INVALID_DEVICE => result::INVALID_VALUE,
            other => other,
        })?;
        let handle_types = props.handle_types;
        check_handle_types(handle_types)?;
        let (most, usage) = (props.most as u64, props.usage.into());
        let pool = add(&call, |pool| {
            let arguments = calls::cuMemPoolCreate::In { device, most, usage, handle_types, pool };
            call.ask::<calls::cuMemPoolCreate::Call>(current(&call), arguments)?;
            Ok(Pool::own(pool, device as usize, handle_types))
        })?;
        place.set(pool)
    }

    fn cuMemPoolDestroy(pool: CUmemoryPool) {
        let call = Call::enter()?;
        let (id, device) = {
            let found = find(&call, pool)?;
            (found.id, found.device)
        };
        refuse_in_capture(&call)?;
        let (mut devices, of) = of_device(&call, device)?;
        let arguments = calls::cuMemPoolDestroy::In { pool: id };
        call.ask::<calls::cuMemPoolDestroy::Call>(current(&call), arguments)?;
        if of.current == pool {
            devices.insert(device, OfDevice { current: of.default, ..of });
        }
        let table = &call.session.pools.table;
        if table.remove(pool).is_some() {
            table.release(id);
        }
        Ok(())
    }

    fn cuMemPoolExportToShareableHandle(place: Out<c_int>, pool: CUmemoryPool, kind: c_uint, flags: u64) {
        let call = Call::enter()?;
        place.check()?;
        let found = find(&call, pool)?;
        if kind != HANDLE_TYPE_FILE || found.handle_types & kind == 0 || found.imported || flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuMemPoolExportToShareableHandle::In { pool: found.id };
        let (_, token) = call.ask_with::<calls::cuMemPoolExportToShareableHandle::Call>(current(&call), arguments, &[])?;
        place.set(shared_file::make(What::Pool, &token)?)
    }

    fn cuMemPoolImportFromShareableHandle(place: Out<CUmemoryPool>, descriptor: usize, kind: c_uint, flags: u64) {
        let call = Call::enter()?;
        place.check()?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        check_imported(kind)?;
        let token = shared_file::token(What::Pool, descriptor)?;
        let pool = add(&call, |pool| {
            let arguments = calls::cuMemPoolImportFromShareableHandle::In { pool };
            let imported =
                call.ask_with::<calls::cuMemPoolImportFromShareableHandle::Call>(current(&call), arguments, &token);
            let device = imported.map_err(shared_file::not_imported)?.0.device as usize;
            Ok(Pool { id: pool, device, handle_types: HANDLE_TYPE_FILE, imported: true })
        })?;
        place.set(pool)
    }

    fn cuMemPoolExportPointer(place: Out<IpcHandle>, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        place.check()?;
        let arguments = calls::cuMemPoolExportPointer::In { pointer };
        let (_, token) = call.ask_with::<calls::cuMemPoolExportPointer::Call>(current(&call), arguments, &[])?;
        place.set(handle(&token)?)
    }

    fn cuMemPoolImportPointer(place: Out<CUdeviceptr>, pool: CUmemoryPool, data: In<IpcHandle>) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        place.check()?;
        let (found, data) = (find(&call, pool)?, data.get()?);
        if !found.imported {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuMemPoolImportPointer::In { pool: found.id };
        let (out, _) = call.ask_with::<calls::cuMemPoolImportPointer::Call>(context, arguments, &data.0)?;
        let memory = DeviceMemory {
            origin: Origin::Pooled,
            ..DeviceMemory::allocated(out.bytes, context)
        };
        call.session.device_memory().insert(out.pointer, memory);
        place.set(out.pointer)
    }

    fn cuMemPoolTrimTo(pool: CUmemoryPool, keep: usize) {
        trim(&Call::enter()?, pool, keep as u64)
    }

    fn cuMemPoolGetAttribute(pool: CUmemoryPool, attribute: c_int, value: Host) {
        let call = Call::enter()?;
        let found = find(&call, pool)?;
        let short = SHORT_ATTRIBUTES.contains(&attribute);
        if value.is_null() || !(short || LONG_ATTRIBUTES.contains(&attribute)) {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuMemPoolGetAttribute::In { pool: found.id, attribute };
        let out = call.ask::<calls::cuMemPoolGetAttribute::Call>(current(&call), arguments)?;
        let bytes = out.value.to_ne_bytes();
        let len = if short { size_of::<c_int>() } else { size_of::<u64>() };
        // SAFETY: by the API's contract there is room for the attribute, which is not in this array.
        unsafe { value.copy_in(0, bytes.as_ptr(), len) };
        Ok(())
    }

    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attribute: c_int, value: Host) {
        let call = Call::enter()?;
        let found = find(&call, pool)?;
        let len = match attribute {
            short if SHORT_ATTRIBUTES.contains(&short) => size_of::<c_int>(),
            long if LONG_ATTRIBUTES.contains(&long) => size_of::<u64>(),
            _ => return Err(result::INVALID_VALUE),
        };
        let mut bytes = [0; size_of::<u64>()];
        bytes[..len].copy_from_slice(value.bytes(len)?);
        let value = u64::from_ne_bytes(bytes);
        let arguments = calls::cuMemPoolSetAttribute::In { pool: found.id, attribute, value };
        call.ask::<calls::cuMemPoolSetAttribute::Call>(current(&call), arguments).map(drop)
    }

    fn cuMemPoolSetAccess(pool: CUmemoryPool, array: In<Access>, len: usize) {
        let call = Call::enter()?;
        let found = find(&call, pool)?;
        let accesses = accesses(&call, array, len)?;
        let arguments = calls::cuMemPoolSetAccess::In { pool: found.id };
        call.ask_with::<calls::cuMemPoolSetAccess::Call>(current(&call), arguments, accesses.as_bytes()).map(drop)
    }

    fn cuMemPoolGetAccess(flags: Out<c_uint>, pool: CUmemoryPool, location: In<Location>) {
        let call = Call::enter()?;
        flags.check()?;
        let found = find(&call, pool)?;
        let device = device_of(&call, location.get()?)?;
        let arguments = calls::cuMemPoolGetAccess::In { pool: found.id, device };
        let out = call.ask::<calls::cuMemPoolGetAccess::Call>(current(&call), arguments)?;
        flags.set(out.flags)
    }
}

cuda_pairs! {
    fn cuMemAllocAsync / cuMemAllocAsync_ptsz(pointer: Out<CUdeviceptr>, bytes: usize, stream: CUstream) |null| {
        allocate(pointer, bytes, None, stream, null)
    }

    fn cuMemAllocFromPoolAsync / cuMemAllocFromPoolAsync_ptsz(
        pointer: Out<CUdeviceptr>, bytes: usize, pool: CUmemoryPool, stream: CUstream,
    ) |null| {
        allocate(pointer, bytes, Some(pool), stream, null)
    }

    fn cuMemFreeAsync / cuMemFreeAsync_ptsz(pointer: CUdeviceptr, stream: CUstream) |null| {
        free(pointer, stream, null)
    }
}
