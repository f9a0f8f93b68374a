//! Device memory.
use super::cuda;
use crate::abi::{CUdeviceptr, Out};
use crate::device_memory::{DeviceMemory, Origin};
use crate::objects::Context;
use crate::session::Call;
use std::ffi::c_uint;
use vgpu_protocol::calls;
use vgpu_protocol::result;

/// There is new device memory.
fn allocated(call: &Call, context: &Context, pointer: u64, len: u64) {
    let memory = DeviceMemory::allocated(len, context.id);
    call.session.device_memory().insert(pointer, memory);
}

cuda! {
    fn cuMemAlloc_v2(pointer: Out<CUdeviceptr>, bytes: usize) {
        let call = Call::enter()?;
        let context = call.context()?;
        pointer.check()?;
        if bytes == 0 {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuMemAlloc::In { bytes: bytes as u64 };
        let out = call.ask::<calls::cuMemAlloc::Call>(context.id, arguments)?;
        allocated(&call, &context, out.pointer, bytes as u64);
        pointer.set(out.pointer)
    }

    fn cuMemAllocPitch_v2(
        pointer: Out<CUdeviceptr>, pitch: Out<usize>, width: usize, height: usize, element: c_uint,
    ) {
        let call = Call::enter()?;
        let context = call.context()?;
        pointer.check()?;
        pitch.check()?;
        let arguments = calls::cuMemAllocPitch::In { width: width as u64, height: height as u64, element };
        let out = call.ask::<calls::cuMemAllocPitch::Call>(context.id, arguments)?;
        allocated(&call, &context, out.pointer, out.pitch.saturating_mul(height as u64));
        pitch.set(out.pitch as usize)?;
        pointer.set(out.pointer)
    }

    fn cuMemGetAddressRange_v2(base: Out<CUdeviceptr>, size: Out<usize>, pointer: CUdeviceptr) {
        let call = Call::enter()?;
        drop(call.context()?);
        let session = call.session;
        let device = session.find_device(pointer, 1).map(|(start, memory)| (start, memory.len));
        let found = device.or_else(|| session.find_pinned(pointer, 1).map(|(start, memory)| (start, memory.len)));
        let (start, len) = found.ok_or(result::NOT_FOUND)?;
        base.set_if_wanted(start);
        size.set_if_wanted(len as usize);
        Ok(())
    }

    fn cuMemFree_v2(pointer: CUdeviceptr) {
        let call = Call::enter()?;
        if pointer == 0 {
            return Ok(());
        }
        if let Some(freed) = super::managed::free(&call, pointer) {
            return freed;
        }
        let known = call.session.device_memory().get(&pointer).copied();
        let memory = known.filter(DeviceMemory::is_allocation).ok_or(result::INVALID_VALUE)?;
        let context = call.context()?;
        // Out of the map first: once it is freed, the address may be another allocation's. A graph's stays the graph's.
        if memory.origin != Origin::Graph {
            call.session.device_memory().remove(&pointer);
        }
        let freed = call.ask::<calls::cuMemFree::Call>(context.id, calls::cuMemFree::In { pointer });
        if freed.is_err() {
            call.session.device_memory().insert(pointer, memory);
        }
        freed.map(drop)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let call = Call::enter()?;
        let context = call.context()?;
        let out = call.ask::<calls::cuMemGetInfo::Call>(context.id, calls::cuMemGetInfo::In {})?;
        free.set_if_wanted(out.free as usize);
        total.set_if_wanted(out.total as usize);
        Ok(())
    }
}
