//! Pinned host memory: buffers at the same address in this process and in its executor, and memory of the program's own that
//! it registers, which stays where it is.
use super::capture::refuse_in_capture;
use super::cuda;
use crate::abi::{CUdeviceptr, Host, Out};
use crate::objects::serial;
use crate::session::{Call, Pinned};
use std::ffi::c_uint;
use vgpu_protocol::calls::{cuMemHostRegister, cuMemHostUnregister};
use vgpu_protocol::limits::ADDRESS_END;
use vgpu_protocol::result::{self, Code};

/// CU_MEMHOSTALLOC_PORTABLE | DEVICEMAP | WRITECOMBINED.
const FLAGS: c_uint = 7;
/// CU_MEMHOSTALLOC_DEVICEMAP: so is all of it, since addresses are unified.
const DEVICEMAP: c_uint = 2;
/// CU_MEMHOSTREGISTER_PORTABLE | DEVICEMAP | IOMEMORY | READ_ONLY.
const REGISTER_FLAGS: c_uint = 15;
const IOMEMORY: c_uint = 4;
/// Where a guest's kernel has its own.
const KERNEL_START: u64 = 0xffff_8000_0000_0000;

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
    refuse_in_capture(&call)?;
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
        registered: false,
        serial: serial(),
    };
    call.session.add_pinned(addr, memory);
    Ok(addr)
}

/// Frees pinned memory that starts there.
pub(super) fn free_pinned(call: &Call, addr: u64) -> Result<(), Code> {
    let session = call.session;
    let memory = session.take_pinned(addr, |memory| !memory.registered);
    let memory = memory.ok_or(result::INVALID_VALUE)?;
    // Records that name it may still be in the rings, which the device's control queue does not follow.
    let mut contexts = session.contexts.all().into_iter();
    let freed = contexts
        .try_for_each(|context| session.synchronize(call.thread, &context))
        .and_then(|()| session.free(addr, memory.len));
    if freed.is_err() {
        session.add_pinned(addr, memory);
    }
    freed
}

/// Registers memory of the program's own.
fn register(call: &Call, addr: u64, len: u64, flags: c_uint) -> Result<(), Code> {
    let session = call.session;
    let context = call.context()?.id;
    if addr == 0 || len == 0 || flags & !REGISTER_FLAGS != 0 {
        return Err(result::INVALID_VALUE);
    }
    let last = addr.checked_add(len - 1).ok_or(result::INVALID_VALUE)?;
    if last >= KERNEL_START {
        return Err(result::NOT_SUPPORTED);
    }
    // Nothing in a VM is another device's memory.
    if last >= ADDRESS_END || flags & IOMEMORY != 0 {
        return Err(result::INVALID_VALUE);
    }
    let end = last + 1;
    // What the library has allocated is not the program's to register.
    if session.touches_window(addr, end) {
        return Err(result::INVALID_VALUE);
    }
    if session.touches_pinned(addr, end) {
        return Err(result::HOST_MEMORY_ALREADY_REGISTERED);
    }
    session.map_own(addr, len)?;
    let arguments = cuMemHostRegister::In {
        pointer: addr,
        bytes: len,
        flags,
    };
    let registered = call.ask::<cuMemHostRegister::Call>(context, arguments);
    registered.inspect_err(|_| session.unmap_own(addr))?;
    let memory = Pinned {
        len,
        context,
        flags,
        managed: false,
        registered: true,
        serial: serial(),
    };
    session.add_pinned(addr, memory);
    Ok(())
}

/// Undoes that, once the device does not use it any more.
fn unregister(call: &Call, addr: u64) -> Result<(), Code> {
    let session = call.session;
    // Without a context nothing is registered.
    let context = match call.context() {
        Err(result::INVALID_CONTEXT) => return Err(result::HOST_MEMORY_NOT_REGISTERED),
        current => current?.id,
    };
    let Some(memory) = session.take_pinned(addr, |memory| memory.registered) else {
        // Inside of it, or of other memory that is the library's.
        let known = addr == 0 || session.find_pinned(addr, 1).is_some() || session.is_device(addr);
        return Err(if known {
            result::INVALID_VALUE
        } else {
            result::HOST_MEMORY_NOT_REGISTERED
        });
    };
    let arguments = cuMemHostUnregister::In { pointer: addr };
    match call.ask::<cuMemHostUnregister::Call>(context, arguments) {
        Ok(_) => session.unmap_own(addr),
        Err(code) => {
            session.add_pinned(addr, memory);
            return Err(code);
        }
    }
    Ok(())
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
        if found.is_some() {
            refuse_in_capture(&call)?;
        }
        free_pinned(&call, pointer.addr())
    }

    fn cuMemHostRegister_v2(pointer: Host, bytes: usize, flags: c_uint) {
        register(&Call::enter()?, pointer.addr(), bytes as u64, flags)
    }

    fn cuMemHostUnregister(pointer: Host) {
        unregister(&Call::enter()?, pointer.addr())
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
        // Of what it has not allocated the driver tells none.
        if memory.registered {
            return Err(result::INVALID_VALUE);
        }
        flags.set(memory.flags | DEVICEMAP)
    }
}
