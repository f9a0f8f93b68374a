//! Pinned host memory: buffers at the same address in this process and in its executor.
use super::cuda;
use crate::abi::{CUdeviceptr, Host, Out};
use crate::objects::serial;
use crate::session::{Call, Pinned};
use std::ffi::c_uint;
use std::sync::PoisonError;
use vgpu_protocol::result::{self, Code};

/// CU_MEMHOSTALLOC_PORTABLE | DEVICEMAP | WRITECOMBINED.
const FLAGS: c_uint = 7;
/// CU_MEMHOSTALLOC_DEVICEMAP: so is all of it, since addresses are unified.
const DEVICEMAP: c_uint = 2;

fn allocate(place: Out<usize>, bytes: usize, flags: c_uint) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?.id;
    place.check()?;
    if flags & !FLAGS != 0 {
        return Err(result::INVALID_VALUE);
    }
    if bytes == 0 {
        return place.set(0);
    }
    place.set(allocate_pinned(&call, context, bytes, flags, false)? as usize)
}

/// Allocates pinned memory; its address.
pub(super) fn allocate_pinned(
    call: &Call,
    context: u32,
    bytes: usize,
    flags: c_uint,
    managed: bool,
) -> Result<u64, Code> {
    let addr = call.session.alloc(bytes as u64, true)?;
    let memory = Pinned {
        len: bytes as u64,
        context,
        flags,
        managed,
        serial: serial(),
    };
    let pinned = &call.session.pinned;
    pinned
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(addr, memory);
    Ok(addr)
}

/// Frees pinned memory that starts there.
pub(super) fn free_pinned(call: &Call, addr: u64) -> Result<(), Code> {
    let session = call.session;
    let pinned = || session.pinned.write().unwrap_or_else(PoisonError::into_inner);
    let memory = pinned().remove(&addr).ok_or(result::INVALID_VALUE)?;
    // Records that name it may still be in the rings, which the device's control queue does not follow.
    let mut contexts = session.contexts.all().into_iter();
    let freed = contexts
        .try_for_each(|context| session.synchronize(call.thread, &context))
        .and_then(|()| session.free(addr, memory.len));
    if freed.is_err() {
        pinned().insert(addr, memory);
    }
    freed
}

/// The pinned memory that a pointer points into.
fn find(call: &Call, pointer: Host) -> Result<(u64, Pinned), Code> {
    call.session
        .find_pinned(pointer.addr(), 1)
        .ok_or(result::INVALID_VALUE)
}

cuda! {
    fn cuMemHostAlloc(pointer: Out<usize>, bytes: usize, flags: c_uint) {
        allocate(pointer, bytes, flags)
    }

    fn cuMemAllocHost_v2(pointer: Out<usize>, bytes: usize) {
        allocate(pointer, bytes, 0)
    }

    fn cuMemFreeHost(pointer: Host) {
        let call = Call::enter()?;
        if pointer.is_null() {
            return Ok(());
        }
        // Managed memory is freed as the device's is.
        let found = call.session.find_pinned(pointer.addr(), 1);
        if found.is_some_and(|(_, memory)| memory.managed) {
            return Err(result::INVALID_VALUE);
        }
        free_pinned(&call, pointer.addr())
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<CUdeviceptr>, pointer: Host, flags: c_uint) {
        let call = Call::enter()?;
        drop(call.context()?);
        device.check()?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        find(&call, pointer)?;
        device.set(pointer.addr())
    }

    fn cuMemHostGetFlags(flags: Out<c_uint>, pointer: Host) {
        let call = Call::enter()?;
        drop(call.context()?);
        flags.check()?;
        let (_, memory) = find(&call, pointer)?;
        flags.set(memory.flags | DEVICEMAP)
    }
}
