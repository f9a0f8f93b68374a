//! Launching kernels.
use super::cuda_pairs;
use crate::abi::{CUfunction, CUstream, Host, In};
use crate::objects::Function;
use crate::session::{Call, NullStream};
use std::ffi::c_uint;
use vgpu_protocol::calls::cuLaunchKernel as wire;
use vgpu_protocol::limits::KERNEL_PARAMS_LEN_MAX;
use vgpu_protocol::result::{self, Code};

/// CU_LAUNCH_PARAM_END, _BUFFER_POINTER and _BUFFER_SIZE.
const PARAM_END: usize = 0;
const PARAM_BUFFER_POINTER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

/// Where a launch's parameters come from.
enum Params {
    /// One pointer per parameter.
    Each(In<Host>),
    /// All of them, packed.
    Packed(Host, usize),
}

impl Params {
    fn new(function: &Function, each: In<Host>, extra: In<usize>) -> Result<Self, Code> {
        if !each.is_null() {
            if !extra.is_null() {
                return Err(result::INVALID_VALUE);
            }
            for i in 0..function.params.len() {
                if each.at(i)?.is_null() {
                    return Err(result::INVALID_VALUE);
                }
            }
            return Ok(Self::Each(each));
        }
        if extra.is_null() {
            return if function.params.is_empty() {
                Ok(Self::Each(each))
            } else {
                Err(result::INVALID_VALUE)
            };
        }
        let (mut buffer, mut size) = (0, 0);
        for at in (0..).step_by(2) {
            match extra.at(at)? {
                PARAM_END => break,
                PARAM_BUFFER_POINTER => buffer = extra.at(at + 1)?,
                PARAM_BUFFER_SIZE => {
                    // SAFETY: the value of this entry is the address of a size_t.
                    let place = unsafe { Host::new(extra.at(at + 1)?) };
                    let bytes = place.bytes(size_of::<usize>())?;
                    size = bytes
                        .iter()
                        .rev()
                        .fold(0, |word, &byte| word << 8 | usize::from(byte));
                }
                _ => return Err(result::INVALID_VALUE),
            }
        }
        if size > KERNEL_PARAMS_LEN_MAX
            || (size > 0 && buffer == 0)
            || (buffer == 0 && function.params_len > 0)
        {
            return Err(result::INVALID_VALUE);
        }
        // SAFETY: the value of CU_LAUNCH_PARAM_BUFFER_POINTER is the address of the packed parameters.
        Ok(Self::Packed(unsafe { Host::new(buffer) }, size))
    }

    fn len(&self, function: &Function) -> usize {
        match self {
            Self::Each(_) => function.params_len,
            Self::Packed(_, size) => *size,
        }
    }

    fn pack(&self, function: &Function, to: &mut [u8]) {
        match *self {
            Self::Each(each) => {
                // Gaps between parameters carry nothing of this process.
                to.fill(0);
                for (i, param) in function.params.iter().enumerate() {
                    let place = &mut to[param.offset as usize..][..param.size as usize];
                    // The array was checked to be there and to hold no null.
                    if let Ok(bytes) = each.at(i).and_then(|at| at.bytes(param.size as usize)) {
                        place.copy_from_slice(bytes);
                    }
                }
            }
            Self::Packed(buffer, size) => {
                if let Ok(bytes) = buffer.bytes(size) {
                    to.copy_from_slice(bytes);
                }
            }
        }
    }
}

struct Launch {
    function: CUfunction,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: CUstream,
}

fn launch(launch: &Launch, each: In<Host>, extra: In<usize>, null: NullStream) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    let found = call.session.functions.get(launch.function);
    let function = found.ok_or(result::INVALID_HANDLE)?;
    let stream = call.work_stream(&context, launch.stream, null)?;
    // Kernel and stream belong together; the current context may be another.
    if function.context != stream.context {
        return Err(result::INVALID_HANDLE);
    }
    // In a capture a launch beyond them invalidates the capture, so the host's library is to see it.
    let captures = call.session.captures.any();
    if !captures && !context.limits.allow(launch.grid, launch.block) {
        return Err(result::INVALID_VALUE);
    }
    let params = Params::new(&function, each, extra)?;
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
    let arguments = wire::In {
        function: function.id,
        grid_x,
        grid_y,
        grid_z,
        block_x,
        block_y,
        block_z,
        shared: launch.shared,
        stream: stream.word,
    };
    let len = params.len(&function);
    // Outside a capture the shape is within the device's limits, and this product fits.
    let threads = block_x.wrapping_mul(block_y).wrapping_mul(block_z);
    let proven = function.proven.covers(threads, launch.shared) && len == function.params_len;
    if proven && !captures {
        call.submit_with::<wire::Call>(stream.context, arguments, len, |to| params.pack(&function, to))?;
    } else {
        let mut packed = vec![0; len];
        params.pack(&function, &mut packed);
        call.submit_answered::<wire::Call>(stream.context, arguments, &packed)?;
        function.proven.learn(threads, launch.shared);
    }
    stream.did_submit();
    Ok(())
}

cuda_pairs! {
    fn cuLaunchKernel / cuLaunchKernel_ptsz(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: CUstream,
        params: In<Host>, extra: In<usize>,
    ) |null| {
        let grid = [grid_x, grid_y, grid_z];
        let block = [block_x, block_y, block_z];
        launch(&Launch { function, grid, block, shared, stream }, params, extra, null)
    }
}
