//! What one device may do with the memory of another.
use super::cuda;
use super::device::gpu;
use super::pool::current;
use crate::abi::{CUcontext, CUdevice, In, Out};
use crate::handles::Entry;
use crate::objects::Context;
use crate::session::Call;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::limits::ATOMIC_OPERATIONS_MAX;
use vgpu_protocol::result::{self, Code};
use zerocopy::IntoBytes;

/// CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK to _CUDA_ARRAY_ACCESS_SUPPORTED, and those that came later.
const ATTRIBUTES: std::ops::RangeInclusive<c_int> = 1..=5;

fn peer(call: &Call, context: CUcontext) -> Result<Arc<Entry<Context>>, Code> {
    let found = call.session.contexts.get(context);
    Ok(Arc::clone(&*found.ok_or(result::INVALID_CONTEXT)?))
}

/// Stores what can be done of each operation, as `ask` is told of all of them.
fn atomics(
    can: Out<c_uint>,
    operations: In<c_uint>,
    len: c_uint,
    ask: impl FnOnce(&[u8]) -> Result<Vec<u8>, Code>,
) -> Result<(), Code> {
    let len = len as usize;
    if len == 0 || len > ATOMIC_OPERATIONS_MAX {
        return Err(result::INVALID_VALUE);
    }
    let operations = (0..len)
        .map(|at| operations.at(at))
        .collect::<Result<Vec<c_uint>, _>>()?;
    let told = ask(operations.as_bytes())?;
    let (told, rest) = told.as_chunks::<4>();
    if told.len() != len || !rest.is_empty() {
        return Err(result::UNKNOWN);
    }
    told.iter()
        .enumerate()
        .try_for_each(|(at, bytes)| can.set_at(at, u32::from_ne_bytes(*bytes)))
}

cuda! {
    fn cuDeviceCanAccessPeer(can: Out<c_int>, device: CUdevice, peer: CUdevice) {
        let call = Call::enter()?;
        can.check()?;
        gpu(&call, device)?;
        gpu(&call, peer)?;
        let arguments = calls::cuDeviceCanAccessPeer::In { device: device as u32, peer: peer as u32 };
        can.set(call.ask::<calls::cuDeviceCanAccessPeer::Call>(current(&call), arguments)?.can)
    }

    fn cuDeviceGetP2PAttribute(value: Out<c_int>, attribute: c_int, device: CUdevice, peer: CUdevice) {
        let call = Call::enter()?;
        value.check()?;
        gpu(&call, device)?;
        gpu(&call, peer)?;
        if device == peer {
            return Err(result::INVALID_DEVICE);
        }
        if !ATTRIBUTES.contains(&attribute) {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuDeviceGetP2PAttribute::In { attribute, device: device as u32, peer: peer as u32 };
        value.set(call.ask::<calls::cuDeviceGetP2PAttribute::Call>(current(&call), arguments)?.value)
    }

    fn cuDeviceGetP2PAtomicCapabilities(
        can: Out<c_uint>, operations: In<c_uint>, len: c_uint, device: CUdevice, peer: CUdevice,
    ) {
        let call = Call::enter()?;
        can.check()?;
        gpu(&call, device)?;
        gpu(&call, peer)?;
        atomics(can, operations, len, |operations| {
            let arguments = calls::cuDeviceGetP2PAtomicCapabilities::In { device: device as u32, peer: peer as u32 };
            call.ask_with::<calls::cuDeviceGetP2PAtomicCapabilities::Call>(current(&call), arguments, operations)
                .map(|(_, told)| told)
        })
    }

    fn cuDeviceGetHostAtomicCapabilities(can: Out<c_uint>, operations: In<c_uint>, len: c_uint, device: CUdevice) {
        let call = Call::enter()?;
        can.check()?;
        gpu(&call, device)?;
        atomics(can, operations, len, |operations| {
            let arguments = calls::cuDeviceGetHostAtomicCapabilities::In { device: device as u32 };
            call.ask_with::<calls::cuDeviceGetHostAtomicCapabilities::Call>(current(&call), arguments, operations)
                .map(|(_, told)| told)
        })
    }

    fn cuCtxEnablePeerAccess(context: CUcontext, flags: c_uint) {
        let call = Call::enter()?;
        let own = call.context()?.id;
        let peer = peer(&call, context)?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        let arguments = calls::cuCtxEnablePeerAccess::In { context: peer.id, flags };
        call.ask::<calls::cuCtxEnablePeerAccess::Call>(own, arguments).map(drop)
    }

    fn cuCtxDisablePeerAccess(context: CUcontext) {
        let call = Call::enter()?;
        let own = call.context()?.id;
        let arguments = calls::cuCtxDisablePeerAccess::In { context: peer(&call, context)?.id };
        call.ask::<calls::cuCtxDisablePeerAccess::Call>(own, arguments).map(drop)
    }
}
