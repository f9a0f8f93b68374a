//! What parts of a device a context has. Green contexts, which have some of them, are not offered: every context has all.
//! cuBLAS asks before it does anything else (13.10, of CUDA 13.5), and takes a refusal for an error.
use super::context::find;
use super::cuda;
use super::device::gpu;
use crate::abi::{CUcontext, CUdevice, CUstream, Out};
use crate::session::{Call, NullStream};
use std::ffi::c_uint;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::GpuInfo;

/// CU_DEV_RESOURCE_TYPE_SM: multiprocessors.
const SM: c_uint = 1;
/// MULTIPROCESSOR_COUNT and COMPUTE_CAPABILITY_MAJOR.
const MULTIPROCESSORS: usize = 16;
const MAJOR: usize = 75;

/// A CUdevResource of multiprocessors, and of these CUdevSmResource.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DevResource {
    kind: c_uint,
    _internal: [u8; 92],
    count: c_uint,
    /// The fewest that can be a part, and of what a part's number is a multiple.
    least: c_uint,
    alignment: c_uint,
    _rest: [u8; 36],
}

const _: () = assert!(size_of::<DevResource>() == 144);

impl DevResource {
    /// All that a device has, if that is asked for.
    fn whole(gpu: &GpuInfo, kind: c_uint) -> Result<Self, Code> {
        if kind != SM {
            return Err(result::INVALID_RESOURCE_TYPE);
        }
        let (least, alignment) = match gpu.attributes[MAJOR] {
            ..=7 => (2, 2),
            8 => (4, 2),
            _ => (8, 8),
        };
        Ok(Self {
            kind,
            _internal: [0; 92],
            count: gpu.attributes[MULTIPROCESSORS] as c_uint,
            least,
            alignment,
            _rest: [0; 36],
        })
    }
}

cuda! {
    fn cuDeviceGetDevResource(device: CUdevice, resource: Out<DevResource>, kind: c_uint) {
        let gpu = gpu(&Call::local()?, device)?;
        resource.check()?.set(DevResource::whole(gpu, kind)?)
    }

    fn cuCtxGetDevResource(context: CUcontext, resource: Out<DevResource>, kind: c_uint) {
        let call = Call::local()?;
        // Not the current one, as elsewhere.
        let context = if context == 0 { Err(result::INVALID_CONTEXT) } else { find(&call, context) };
        let device = context?.device;
        resource.check()?.set(DevResource::whole(gpu(&call, device as CUdevice)?, kind)?)
    }

    fn cuStreamGetGreenCtx(stream: CUstream, context: Out<usize>) {
        let call = Call::enter()?;
        call.stream(stream, NullStream::Legacy)?;
        context.set(0)
    }
}
