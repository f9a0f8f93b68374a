//! Device memory.
use super::cuda;
use crate::abi::{CUdeviceptr, Out};
use crate::session::{Call, DeviceMemory};
use vgpu_protocol::calls;
use vgpu_protocol::result;

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
        let memory = DeviceMemory { len: bytes as u64, context: context.id, module: None };
        call.session.device_memory().insert(out.pointer, memory);
        pointer.set(out.pointer)
    }

    fn cuMemFree_v2(pointer: CUdeviceptr) {
        let call = Call::enter()?;
        if pointer == 0 {
            return Ok(());
        }
        let known = call.session.device_memory().get(&pointer).copied();
        let memory = known.filter(|memory| memory.module.is_none()).ok_or(result::INVALID_VALUE)?;
        let context = call.context()?;
        // Out of the map first: once it is freed, the address may be another allocation's.
        call.session.device_memory().remove(&pointer);
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
