//! What parts of a device a context has: all of it, and all devices are alike.

use super::abi::{CUcontext, CUdevice, CUstream, DefaultStream, Out, api};
use super::context::context;
use super::device::{MULTIPROCESSORS, device};
use super::error::{self, Result};
use super::stream::stream;

/// CU_DEV_RESOURCE_TYPE_SM
const SM: u32 = 1;

/// `CUdevResource`, of multiprocessors
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DevResource {
    kind: u32,
    internal: [u8; 92],
    count: u32,
    least: u32,
    alignment: u32,
    rest: [u8; 36],
}

fn whole(kind: u32) -> Result<DevResource> {
    if kind != SM {
        return Err(error::INVALID_RESOURCE_TYPE);
    }
    Ok(DevResource {
        kind,
        internal: [0; 92],
        count: MULTIPROCESSORS as u32,
        // Of compute capability 9.0.
        least: 8,
        alignment: 8,
        rest: [0; 36],
    })
}

api! { SYMBOLS;
    fn cuDeviceGetDevResource(ordinal: CUdevice, out: Out<DevResource>, kind: u32) {
        device(ordinal)?;
        out.set(whole(kind)?)
    }

    fn cuCtxGetDevResource(handle: CUcontext, out: Out<DevResource>, kind: u32) {
        if handle == 0 {
            return Err(error::INVALID_CONTEXT);
        }
        context(handle)?;
        out.set(whole(kind)?)
    }

    fn cuStreamGetGreenCtx(handle: CUstream, out: Out<usize>) {
        stream(handle, DefaultStream::Legacy)?;
        out.set(0)
    }
}
