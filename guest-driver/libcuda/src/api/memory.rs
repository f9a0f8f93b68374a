//! Device memory.
use super::cuda;
use crate::abi::{CUdeviceptr, Out};
use crate::session::Call;
use std::sync::PoisonError;
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
        let memory = &call.session.device_memory;
        memory.write().unwrap_or_else(PoisonError::into_inner).insert(out.pointer, bytes as u64);
        pointer.set(out.pointer)
    }

    fn cuMemFree_v2(pointer: CUdeviceptr) {
        let call = Call::enter()?;
        let context = call.context()?;
        if pointer == 0 {
            return Ok(());
        }
        let memory = &call.session.device_memory;
        let len = memory.write().unwrap_or_else(PoisonError::into_inner).remove(&pointer);
        let len = len.ok_or(result::INVALID_VALUE)?;
        let freed = call.ask::<calls::cuMemFree::Call>(context.id, calls::cuMemFree::In { pointer });
        if let Err(code) = freed {
            memory.write().unwrap_or_else(PoisonError::into_inner).insert(pointer, len);
            return Err(code);
        }
        Ok(())
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
