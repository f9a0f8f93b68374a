//! Managed memory: pinned memory, which host and device reach at the same address and at any time. Nothing moves, so
//! CONCURRENT_MANAGED_ACCESS is 0, and what needs it is refused as the native library does; advice is only remembered.
use super::capture::refuse_in_capture;
use super::device::gpu;
use super::host_memory::{allocate_pinned, free_pinned};
use super::{cuda, cuda_pairs};
use crate::abi::{CUdevice, CUdeviceptr, CUstream, Host, In, Out};
use crate::advice::Advice;
use crate::lock;
use crate::objects::StreamKind;
use crate::session::{Call, NullStream};
use std::ffi::{c_int, c_uint};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::Location;

/// CU_MEM_ATTACH_GLOBAL, _HOST and _SINGLE.
const ATTACH_GLOBAL: c_uint = 1;
const ATTACH_HOST: c_uint = 2;
const ATTACH_SINGLE: c_uint = 4;

/// CUmem_advise.
const SET_READ_MOSTLY: c_uint = 1;
const UNSET_READ_MOSTLY: c_uint = 2;
const SET_PREFERRED_LOCATION: c_uint = 3;
const UNSET_PREFERRED_LOCATION: c_uint = 4;
const SET_ACCESSED_BY: c_uint = 5;
const UNSET_ACCESSED_BY: c_uint = 6;

/// CUmem_range_attribute.
const READ_MOSTLY: c_uint = 1;
const PREFERRED_LOCATION: c_uint = 2;
const ACCESSED_BY: c_uint = 3;
const LAST_PREFETCH_LOCATION: c_uint = 4;
const PREFERRED_LOCATION_TYPE: c_uint = 5;
const PREFERRED_LOCATION_ID: c_uint = 6;
const LAST_PREFETCH_LOCATION_TYPE: c_uint = 7;
const LAST_PREFETCH_LOCATION_ID: c_uint = 8;

/// CU_DEVICE_CPU and CU_DEVICE_INVALID.
const CPU: c_int = -1;
const NOWHERE: c_int = -2;

/// Refuses a range that is not all of it managed memory.
fn check(call: &Call, addr: CUdeviceptr, len: usize) -> Result<(), Code> {
    let found = call.session.find_pinned(addr, len as u64);
    match found.filter(|(_, memory)| memory.managed && len > 0) {
        Some(_) => Ok(()),
        None => Err(result::INVALID_VALUE),
    }
}

/// A device's ordinal, or the CPU, as a place.
fn place(device: CUdevice) -> Location {
    match device {
        CPU => Location {
            kind: Location::HOST,
            id: 0,
        },
        device => Location {
            kind: Location::DEVICE,
            id: device,
        },
    }
}

/// Whether a place is the host; a device is refused, since it cannot reach the memory while the host does.
fn check_place(call: &Call, location: Location) -> Result<(), Code> {
    match location.kind {
        Location::HOST => Ok(()),
        kind if Location::HOST_NUMA.contains(&kind) => Ok(()),
        Location::DEVICE => {
            gpu(call, location.id)?;
            Err(result::INVALID_DEVICE)
        }
        _ => Err(result::INVALID_VALUE),
    }
}

fn advise(addr: CUdeviceptr, len: usize, advice: c_uint, location: Location) -> Result<(), Code> {
    let call = Call::enter()?;
    drop(call.context()?);
    check(&call, addr, len)?;
    let mut advised = lock(&call.session.advice);
    let mut change = |change: fn(&mut Advice)| advised.change(addr..addr + len as u64, change);
    match advice {
        SET_READ_MOSTLY => change(|advice| advice.read_mostly = true),
        UNSET_READ_MOSTLY => change(|advice| advice.read_mostly = false),
        UNSET_PREFERRED_LOCATION => change(|advice| advice.prefers_host = false),
        SET_PREFERRED_LOCATION => {
            check_place(&call, location)?;
            change(|advice| advice.prefers_host = true);
        }
        SET_ACCESSED_BY => {
            check_place(&call, location)?;
            change(|advice| advice.accessed_by_host = true);
        }
        UNSET_ACCESSED_BY => {
            check_place(&call, location)?;
            change(|advice| advice.accessed_by_host = false);
        }
        _ => return Err(result::INVALID_VALUE),
    }
    Ok(())
}

/// Nothing can be moved ahead: the stream's device would have to reach the memory while the host does.
fn prefetch(
    addr: CUdeviceptr,
    len: usize,
    location: Location,
    flags: c_uint,
    stream: CUstream,
    null: NullStream,
) -> Result<(), Code> {
    let call = Call::enter()?;
    drop(call.context()?);
    call.stream(stream, null)?;
    if flags != 0 {
        return Err(result::INVALID_VALUE);
    }
    check(&call, addr, len)?;
    check_place(&call, location)?;
    Err(result::INVALID_DEVICE)
}

/// The same of several ranges.
fn batch(
    (addrs, lens): (In<CUdeviceptr>, In<usize>),
    len: usize,
    flags: u64,
    stream: CUstream,
    null: NullStream,
) -> Result<(), Code> {
    let call = Call::enter()?;
    drop(call.context()?);
    call.stream(stream, null)?;
    if flags != 0 || len == 0 {
        return Err(result::INVALID_VALUE);
    }
    (0..len).try_for_each(|at| check(&call, addrs.at(at)?, lens.at(at)?))?;
    Err(result::INVALID_DEVICE)
}

/// Stores an attribute of a range.
fn get_attribute(
    call: &Call,
    data: Host,
    bytes: usize,
    attribute: c_uint,
    addr: CUdeviceptr,
    len: usize,
) -> Result<(), Code> {
    let numbers = bytes / size_of::<c_int>();
    if data.is_null() || numbers == 0 || !bytes.is_multiple_of(size_of::<c_int>()) {
        return Err(result::INVALID_VALUE);
    }
    if attribute != ACCESSED_BY && numbers != 1 {
        return Err(result::INVALID_VALUE);
    }
    let all = lock(&call.session.advice).common(addr..addr + len as u64);
    let first = match attribute {
        READ_MOSTLY => all.read_mostly.into(),
        PREFERRED_LOCATION if all.prefers_host => CPU,
        ACCESSED_BY if all.accessed_by_host => CPU,
        PREFERRED_LOCATION | ACCESSED_BY | LAST_PREFETCH_LOCATION => NOWHERE,
        PREFERRED_LOCATION_TYPE if all.prefers_host => Location::HOST as c_int,
        PREFERRED_LOCATION_TYPE | LAST_PREFETCH_LOCATION_TYPE => 0,
        // Meaningless where the type is no device and no node.
        PREFERRED_LOCATION_ID | LAST_PREFETCH_LOCATION_ID => 0,
        _ => return Err(result::INVALID_VALUE),
    };
    for at in 0..numbers {
        let number = if at == 0 { first } else { NOWHERE }.to_ne_bytes();
        // SAFETY: by the API's contract there is room for so many numbers, which are not in this array.
        unsafe { data.copy_in(at * size_of::<c_int>(), number.as_ptr(), number.len()) };
    }
    Ok(())
}

/// Frees managed memory that starts there; nothing if there is none.
pub(super) fn free(call: &Call, addr: CUdeviceptr) -> Option<Result<(), Code>> {
    let session = call.session;
    let (start, memory) = session.find_pinned(addr, 1)?;
    if start != addr || !memory.managed {
        return None;
    }
    let freed = refuse_in_capture(call).and_then(|()| free_pinned(call, addr));
    if freed.is_ok() {
        lock(&session.advice).change(addr..addr + memory.len, |advice| *advice = Advice::default());
    }
    Some(freed)
}

cuda! {
    fn cuMemAllocManaged(pointer: Out<CUdeviceptr>, bytes: usize, flags: c_uint) {
        let call = Call::enter()?;
        let context = call.context()?.id;
        pointer.check()?;
        if bytes == 0 || !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST) {
            return Err(result::INVALID_VALUE);
        }
        refuse_in_capture(&call)?;
        pointer.set(allocate_pinned(&call, context, bytes, 0, true)?)
    }

    fn cuMemAdvise(addr: CUdeviceptr, len: usize, advice: c_uint, device: CUdevice) {
        advise(addr, len, advice, place(device))
    }

    fn cuMemAdvise_v2(addr: CUdeviceptr, len: usize, advice: c_uint, location: Location) {
        advise(addr, len, advice, location)
    }

    fn cuMemRangeGetAttribute(data: Host, bytes: usize, attribute: c_uint, addr: CUdeviceptr, len: usize) {
        let call = Call::enter()?;
        drop(call.context()?);
        check(&call, addr, len)?;
        get_attribute(&call, data, bytes, attribute, addr, len)
    }

    fn cuMemRangeGetAttributes(
        data: In<usize>, bytes: In<usize>, attributes: In<c_uint>, attributes_len: usize, addr: CUdeviceptr, len: usize,
    ) {
        let call = Call::enter()?;
        drop(call.context()?);
        check(&call, addr, len)?;
        if attributes_len == 0 {
            return Err(result::INVALID_VALUE);
        }
        for at in 0..attributes_len {
            // SAFETY: by the API's contract null, or room for that many bytes.
            let place = unsafe { Host::new(data.at(at)?) };
            get_attribute(&call, place, bytes.at(at)?, attributes.at(at)?, addr, len)?;
        }
        Ok(())
    }
}

cuda_pairs! {
    fn cuStreamAttachMemAsync / cuStreamAttachMemAsync_ptsz(stream: CUstream, addr: CUdeviceptr, len: usize, flags: c_uint) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        let (start, memory) = call.session.find_pinned(addr, 1).ok_or(result::INVALID_VALUE)?;
        let is_whole = start == addr && (len == 0 || len as u64 == memory.len);
        let is_default = matches!(stream.kind, StreamKind::Legacy | StreamKind::PerThread);
        match flags {
            _ if !memory.managed || !is_whole => Err(result::INVALID_VALUE),
            ATTACH_GLOBAL | ATTACH_HOST => Ok(()),
            ATTACH_SINGLE if !is_default => Ok(()),
            _ => Err(result::INVALID_VALUE),
        }
    }

    fn cuMemPrefetchAsync / cuMemPrefetchAsync_ptsz(addr: CUdeviceptr, len: usize, device: CUdevice, stream: CUstream) |null| {
        prefetch(addr, len, place(device), 0, stream, null)
    }

    fn cuMemPrefetchAsync_v2 / cuMemPrefetchAsync_v2_ptsz(
        addr: CUdeviceptr, len: usize, location: Location, flags: c_uint, stream: CUstream,
    ) |null| {
        prefetch(addr, len, location, flags, stream, null)
    }

    fn cuMemPrefetchBatchAsync / cuMemPrefetchBatchAsync_ptsz(
        addrs: In<CUdeviceptr>, lens: In<usize>, len: usize, _locations: In<Location>, _firsts: In<usize>, _locations_len: usize,
        flags: u64, stream: CUstream,
    ) |null| {
        batch((addrs, lens), len, flags, stream, null)
    }

    fn cuMemDiscardBatchAsync / cuMemDiscardBatchAsync_ptsz(
        addrs: In<CUdeviceptr>, lens: In<usize>, len: usize, flags: u64, stream: CUstream,
    ) |null| {
        batch((addrs, lens), len, flags, stream, null)
    }

    fn cuMemDiscardAndPrefetchBatchAsync / cuMemDiscardAndPrefetchBatchAsync_ptsz(
        addrs: In<CUdeviceptr>, lens: In<usize>, len: usize, _locations: In<Location>, _firsts: In<usize>, _locations_len: usize,
        flags: u64, stream: CUstream,
    ) |null| {
        batch((addrs, lens), len, flags, stream, null)
    }
}
