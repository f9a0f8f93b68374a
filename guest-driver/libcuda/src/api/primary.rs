//! The devices' primary contexts.
use super::context::{check_flags, destroy, make, told_flags};
use super::cuda;
use super::device::gpu;
use crate::abi::{CUcontext, CUdevice, Out};
use crate::handles::Entry;
use crate::objects::Context;
use crate::session::Call;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vgpu_protocol::result::{self, Code};

/// Ends a device's primary context, if it exists; who has retained it keeps what it has.
fn end(call: &Call, device: CUdevice) -> Result<(), Code> {
    let context = call.session.primaries.of(device as usize).context.take();
    context.map_or(Ok(()), |context| destroy(call, &context))
}

/// The handle of a device's primary context, which need not exist.
pub fn primary_handle(call: &Call, device: CUdevice) -> Result<CUcontext, Code> {
    gpu(call, device)?;
    let (_, handle) = call
        .session
        .primaries
        .of(device as usize)
        .name(&call.session.contexts)?;
    Ok(handle)
}

/// A device's primary context, if it exists.
pub fn primary_of(call: &Call, device: usize) -> Option<Arc<Entry<Context>>> {
    call.session.primaries.of(device).context.clone()
}

/// Has a device's primary context exist.
pub(super) fn retain(call: &Call, device: CUdevice) -> Result<Arc<Entry<Context>>, Code> {
    gpu(call, device)?;
    let primaries = &call.session.primaries;
    let _change = primaries.change(device as usize);
    let mut primary = primaries.of(device as usize);
    let (id, handle) = primary.name(&call.session.contexts)?;
    let context = match primary.context.clone() {
        Some(context) => context,
        None => {
            // What a fault has ended does not come back.
            let alive = call.session.area.status();
            alive.map_err(|_| result::DEVICE_UNAVAILABLE)?;
            let flags = primary.flags;
            drop(primary);
            let made = make(call, (id, Some(handle)), device, flags)?;
            primary = primaries.of(device as usize);
            primary.context = Some(made.clone());
            made
        }
    };
    primary.retained += 1;
    Ok(context)
}

/// Takes one retaining back.
pub(super) fn release(device: CUdevice) -> Result<(), Code> {
    let call = Call::local()?;
    gpu(&call, device)?;
    let _change = call.session.primaries.change(device as usize);
    let mut primary = call.session.primaries.of(device as usize);
    primary.retained = primary.retained.checked_sub(1).ok_or(result::INVALID_CONTEXT)?;
    let is_last = primary.retained == 0;
    drop(primary);
    if is_last { end(&call, device) } else { Ok(()) }
}

fn reset(device: CUdevice) -> Result<(), Code> {
    let call = Call::local()?;
    gpu(&call, device)?;
    let _change = call.session.primaries.change(device as usize);
    end(&call, device)
}

fn set_flags(device: CUdevice, flags: c_uint) -> Result<(), Code> {
    let call = Call::enter()?;
    gpu(&call, device)?;
    check_flags(flags)?;
    let mut primary = call.session.primaries.of(device as usize);
    primary.flags = flags;
    if let Some(context) = &primary.context {
        context.flags.store(flags, Ordering::Relaxed);
    }
    Ok(())
}

cuda! {
    fn cuDevicePrimaryCtxRetain(place: Out<CUcontext>, device: CUdevice) {
        let call = Call::local()?;
        gpu(&call, device)?;
        place.check()?;
        place.set(retain(&call, device)?.handle())
    }

    fn cuDevicePrimaryCtxRelease(device: CUdevice) {
        release(device)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) {
        release(device)
    }

    fn cuDevicePrimaryCtxReset(device: CUdevice) {
        reset(device)
    }

    fn cuDevicePrimaryCtxReset_v2(device: CUdevice) {
        reset(device)
    }

    fn cuDevicePrimaryCtxSetFlags(device: CUdevice, flags: c_uint) {
        set_flags(device, flags)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint) {
        set_flags(device, flags)
    }

    fn cuDevicePrimaryCtxGetState(device: CUdevice, flags: Out<c_uint>, active: Out<c_int>) {
        let call = Call::local()?;
        gpu(&call, device)?;
        let primary = call.session.primaries.of(device as usize);
        let now = primary.context.as_deref().map(|context| told_flags(context));
        flags.set_if_wanted(now.unwrap_or(primary.flags));
        active.set_if_wanted(primary.context.is_some().into());
        Ok(())
    }
}
