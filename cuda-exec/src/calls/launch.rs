//! Launching kernels.
use super::unknown;
use crate::cuda::Grid;
use crate::dispatch::Handle;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use std::borrow::Cow;
use vgpu_protocol::calls::{Wire, cuLaunchKernel};

impl Handle for cuLaunchKernel::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuLaunchKernel::In,
        blob: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuLaunchKernel::Out, Failure> {
        let a = arguments;
        let session = ring.session;
        let function = session.objects.functions.get(a.function);
        let function = function.ok_or_else(|| unknown(cuLaunchKernel::OP, a.function))?;
        let stream = ring.stream(cuLaunchKernel::OP, a.stream)?;
        // A buffer of another length than the kernel's is libcuda's to judge, but it never reads past ours.
        let needed = function.params_len();
        let params = match blob.len() < needed {
            true => Cow::Owned([blob, &vec![0; needed - blob.len()]].concat()),
            false => Cow::Borrowed(blob),
        };
        let grid = Grid {
            blocks: [a.grid_x, a.grid_y, a.grid_z],
            threads: [a.block_x, a.block_y, a.block_z],
            shared: a.shared,
        };
        ring.submit(&stream, Work::data(cuLaunchKernel::Call::CALL.turn), |raw| {
            session
                .cuda
                .launch_kernel(function.raw, grid, raw, &params, blob.len())
        })?;
        Ok(cuLaunchKernel::Out {})
    }
}
