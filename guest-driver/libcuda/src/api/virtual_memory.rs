//! Virtual memory: reserved addresses, memory that is mapped there, and who may access it.
//!
//! Memory has a handle, which counts references; the host has it until there is neither a reference nor a mapping left. What is
//! exported is a file that holds the host's token for it.
use super::cuda;
use super::pool::{accesses, check_handle_types, check_imported, current, device_of};
use crate::abi::{CUdeviceptr, CUmemGenericAllocationHandle, In, Out};
use crate::device_memory::{DeviceMemory, Origin};
use crate::handles::{Entry, Table};
use crate::lock;
use crate::session::Call;
use crate::shared_file::{self, What};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::sync::{Arc, Mutex, MutexGuard};
use vgpu_protocol::calls;
use vgpu_protocol::limits::OBJECTS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Access, AllocationProps, HANDLE_TYPE_FILE, Location};
use vgpu_protocol::words::handle::CONTEXT_NONE;
use zerocopy::IntoBytes;

/// Memory with a handle.
pub struct Allocation {
    /// Its number on the wire.
    id: u32,
    /// What it was created as.
    props: AllocationProps,
    uses: Mutex<Uses>,
}

#[derive(Clone, Copy)]
struct Uses {
    /// Times the program must release the handle.
    references: usize,
    mappings: usize,
}

struct Mapping {
    len: u64,
    allocation: Arc<Entry<Allocation>>,
    /// A bit for each device that may access it.
    access: u32,
}

/// All of it.
pub struct VirtualMemory {
    allocations: Table<Allocation>,
    mappings: Mutex<BTreeMap<u64, Mapping>>,
}

impl Default for VirtualMemory {
    fn default() -> Self {
        Self {
            allocations: Table::new(11, 0, OBJECTS_MAX),
            mappings: Mutex::default(),
        }
    }
}

type Mappings<'a> = MutexGuard<'a, BTreeMap<u64, Mapping>>;

fn mappings(call: &Call) -> Mappings<'static> {
    lock(&call.session.virtual_memory.mappings)
}

/// The memory of a handle that the program has not released.
fn find(call: &Call, handle: CUmemGenericAllocationHandle) -> Result<Arc<Entry<Allocation>>, Code> {
    let found = call.session.virtual_memory.allocations.get(handle as usize);
    let entry = Arc::clone(&*found.ok_or(result::INVALID_VALUE)?);
    if lock(&entry.uses).references == 0 {
        return Err(result::INVALID_VALUE);
    }
    Ok(entry)
}

/// Has the host let go of memory that has neither a reference nor a mapping.
fn let_go(call: &Call, entry: &Entry<Allocation>, uses: Uses) -> Result<(), Code> {
    if uses.references > 0 || uses.mappings > 0 {
        return Ok(());
    }
    let table = &call.session.virtual_memory.allocations;
    if table.remove(entry.handle()).is_none() {
        return Ok(());
    }
    let arguments = calls::cuMemRelease::In { allocation: entry.id };
    let released = call.ask::<calls::cuMemRelease::Call>(current(call), arguments);
    table.release(entry.id);
    released.map(drop)
}

/// The starts of the mappings in a range.
fn in_range(mappings: &BTreeMap<u64, Mapping>, addr: u64, len: u64) -> Vec<u64> {
    let inside = mappings.range(addr..addr.saturating_add(len));
    inside.map(|(&start, _)| start).collect()
}

/// What memory is to be, and the device that it is to be on; none if it is to be the host's, of which none is offered.
fn checked(call: &Call, props: In<AllocationProps>) -> Result<(AllocationProps, Option<u32>), Code> {
    let props = props.get()?;
    if !props.is_pinned() {
        return Err(result::INVALID_VALUE);
    }
    let device = match device_of(call, props.location) {
        Err(result::NOT_SUPPORTED) => None,
        found => Some(found?),
    };
    check_handle_types(props.handle_types)?;
    Ok((props, device))
}

cuda! {
    fn cuMemGetAllocationGranularity(bytes: Out<usize>, props: In<AllocationProps>, option: c_uint) {
        let call = Call::enter()?;
        bytes.check()?;
        let (props, device) = checked(&call, props)?;
        let arguments = calls::cuMemGetAllocationGranularity::In {
            // The host's memory has one too, also where none can be had: NCCL takes its other way only if creating it fails.
            device: device.unwrap_or(0),
            compression: props.compression.into(),
            rdma: props.rdma.into(),
            usage: props.usage.into(),
            handle_types: props.handle_types,
            option,
        };
        let out = call.ask::<calls::cuMemGetAllocationGranularity::Call>(current(&call), arguments)?;
        bytes.set(out.bytes as usize)
    }

    fn cuMemAddressReserve(
        pointer: Out<CUdeviceptr>, bytes: usize, alignment: usize, wanted: CUdeviceptr, flags: u64,
    ) {
        let call = Call::enter()?;
        pointer.check()?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuMemAddressReserve::In { bytes: bytes as u64, alignment: alignment as u64, wanted };
        let out = call.ask::<calls::cuMemAddressReserve::Call>(current(&call), arguments)?;
        pointer.set(out.pointer)
    }

    fn cuMemAddressFree(pointer: CUdeviceptr, bytes: usize) {
        let call = Call::enter()?;
        let arguments = calls::cuMemAddressFree::In { pointer, bytes: bytes as u64 };
        call.ask::<calls::cuMemAddressFree::Call>(current(&call), arguments).map(drop)
    }

    fn cuMemCreate(
        place: Out<CUmemGenericAllocationHandle>, bytes: usize, props: In<AllocationProps>, flags: u64,
    ) {
        let call = Call::enter()?;
        place.check()?;
        let (props, device) = checked(&call, props)?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let device = device.ok_or(result::NOT_SUPPORTED)?;
        let table = &call.session.virtual_memory.allocations;
        let id = table.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuMemCreate::In {
            bytes: bytes as u64,
            device,
            compression: props.compression.into(),
            rdma: props.rdma.into(),
            usage: props.usage.into(),
            handle_types: props.handle_types,
            allocation: id,
        };
        if let Err(code) = call.ask::<calls::cuMemCreate::Call>(current(&call), arguments) {
            table.release(id);
            return Err(code);
        }
        let uses = Mutex::new(Uses { references: 1, mappings: 0 });
        place.set(table.insert(id, Allocation { id, props, uses }).handle() as u64)
    }

    fn cuMemRelease(handle: CUmemGenericAllocationHandle) {
        let call = Call::enter()?;
        let entry = find(&call, handle)?;
        // Nobody maps or unmaps it meanwhile.
        let _mappings = mappings(&call);
        let uses = {
            let mut uses = lock(&entry.uses);
            uses.references = uses.references.checked_sub(1).ok_or(result::INVALID_VALUE)?;
            *uses
        };
        let_go(&call, &entry, uses)
    }

    fn cuMemRetainAllocationHandle(place: Out<CUmemGenericAllocationHandle>, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        place.check()?;
        let mappings = mappings(&call);
        let around = mappings.range(..=pointer).next_back();
        let (_, mapping) = around.filter(|(start, m)| pointer - **start < m.len).ok_or(result::INVALID_VALUE)?;
        lock(&mapping.allocation.uses).references += 1;
        place.set(mapping.allocation.handle() as u64)
    }

    fn cuMemGetAllocationPropertiesFromHandle(props: Out<AllocationProps>, handle: CUmemGenericAllocationHandle) {
        let call = Call::enter()?;
        props.check()?.set(find(&call, handle)?.props)
    }

    fn cuMemExportToShareableHandle(
        place: Out<c_int>, handle: CUmemGenericAllocationHandle, kind: c_uint, flags: u64,
    ) {
        let call = Call::enter()?;
        place.check()?;
        let entry = find(&call, handle)?;
        if kind != HANDLE_TYPE_FILE || entry.props.handle_types & kind == 0 || flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuMemExportToShareableHandle::In { allocation: entry.id };
        let (_, token) = call.ask_with::<calls::cuMemExportToShareableHandle::Call>(current(&call), arguments, &[])?;
        place.set(shared_file::make(What::Memory, &token)?)
    }

    fn cuMemImportFromShareableHandle(
        place: Out<CUmemGenericAllocationHandle>, descriptor: usize, kind: c_uint,
    ) {
        let call = Call::enter()?;
        place.check()?;
        check_imported(kind)?;
        let token = shared_file::token(What::Memory, descriptor)?;
        let table = &call.session.virtual_memory.allocations;
        let id = table.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuMemImportFromShareableHandle::In { allocation: id };
        let imported =
            call.ask_with::<calls::cuMemImportFromShareableHandle::Call>(current(&call), arguments, &token);
        let (out, _) = imported.inspect_err(|_| table.release(id)).map_err(shared_file::not_imported)?;
        let location = Location::of_device(out.device);
        let props = AllocationProps::new(
            location,
            out.compression as u8,
            out.rdma as u8,
            out.usage as u16,
            // It is not exported again.
            0,
        );
        let uses = Mutex::new(Uses { references: 1, mappings: 0 });
        place.set(table.insert(id, Allocation { id, props, uses }).handle() as u64)
    }

    fn cuMemMap(
        pointer: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64,
    ) {
        let call = Call::enter()?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let mut mappings = mappings(&call);
        let entry = find(&call, handle)?;
        let arguments = calls::cuMemMap::In {
            pointer,
            bytes: bytes as u64,
            offset: offset as u64,
            allocation: entry.id,
        };
        call.ask::<calls::cuMemMap::Call>(current(&call), arguments)?;
        lock(&entry.uses).mappings += 1;
        mappings.insert(pointer, Mapping { len: bytes as u64, allocation: entry, access: 0 });
        Ok(())
    }

    fn cuMemUnmap(pointer: CUdeviceptr, bytes: usize) {
        let call = Call::enter()?;
        let mut mappings = mappings(&call);
        let arguments = calls::cuMemUnmap::In { pointer, bytes: bytes as u64 };
        call.ask::<calls::cuMemUnmap::Call>(current(&call), arguments)?;
        for start in in_range(&mappings, pointer, bytes as u64) {
            call.session.device_memory().remove(&start);
            if let Some(Mapping { allocation, .. }) = mappings.remove(&start) {
                let uses = {
                    let mut uses = lock(&allocation.uses);
                    uses.mappings -= 1;
                    *uses
                };
                let_go(&call, &allocation, uses)?;
            }
        }
        Ok(())
    }

    fn cuMemSetAccess(pointer: CUdeviceptr, bytes: usize, array: In<Access>, len: usize) {
        let call = Call::enter()?;
        let accesses = accesses(&call, array, len)?;
        let mut mappings = mappings(&call);
        let arguments = calls::cuMemSetAccess::In { pointer, bytes: bytes as u64 };
        call.ask_with::<calls::cuMemSetAccess::Call>(current(&call), arguments, accesses.as_bytes())?;
        for start in in_range(&mappings, pointer, bytes as u64) {
            let Some(mapping) = mappings.get_mut(&start) else { continue };
            for access in &accesses {
                let bit = 1u32.checked_shl(access.location.id as u32).unwrap_or(0);
                mapping.access = if access.flags == 0 { mapping.access & !bit } else { mapping.access | bit };
            }
            let mut memory = call.session.device_memory();
            match mapping.access {
                0 => drop(memory.remove(&start)),
                _ => memory.insert(start, DeviceMemory {
                    origin: Origin::Mapped,
                    handle_types: mapping.allocation.props.handle_types,
                    ..DeviceMemory::allocated(mapping.len, CONTEXT_NONE)
                }),
            }
        }
        Ok(())
    }

    fn cuMemGetAccess(flags: Out<u64>, location: In<Location>, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        flags.check()?;
        let device = device_of(&call, location.get()?)?;
        let arguments = calls::cuMemGetAccess::In { pointer, device };
        let out = call.ask::<calls::cuMemGetAccess::Call>(current(&call), arguments)?;
        flags.set(out.flags)
    }
}
