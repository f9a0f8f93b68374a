//! Functions of the program that run in a stream's order.
use super::cuda_pairs;
use crate::abi::{CUhostFn, CUstream, CUstreamCallback, Host, HostCall};
use crate::fence::refuse_capture;
use crate::objects::Stream;
use crate::session::Call;
use std::any::Any;
use std::ffi::c_uint;
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// Has a function run in a stream's order. A capture keeps what its argument points to, if that is this library's.
pub(super) fn launch(
    call: &Call,
    stream: &Stream,
    function: HostCall,
    data: Option<Arc<dyn Any + Send + Sync>>,
) -> Result<(), Code> {
    let captured = stream.capture() != 0;
    let functions = &call.session.host_functions;
    let cookie = functions.add(call.session, function, captured)?;
    let arguments = calls::cuLaunchHostFunc::In {
        stream: stream.word,
        cookie,
    };
    if let Err(code) = call.submit::<calls::cuLaunchHostFunc::Call>(stream.context, arguments) {
        functions.remove(cookie);
        return Err(code);
    }
    if captured {
        call.session
            .captures
            .keep(stream.capture(), [functions.keep(cookie, data)]);
    }
    stream.did_submit();
    Ok(())
}

cuda_pairs! {
    fn cuLaunchHostFunc / cuLaunchHostFunc_ptsz(stream: CUstream, function: Option<CUhostFn>, data: Host) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        launch(&call, &stream, HostCall::new(function, data)?, None)
    }

    fn cuStreamAddCallback / cuStreamAddCallback_ptsz(
        handle: CUstream, function: Option<CUstreamCallback>, data: Host, flags: c_uint,
    ) |null| {
        let call = Call::enter()?;
        let stream = call.stream(handle, null)?;
        let function = HostCall::of_stream(function, handle, data)?;
        if flags != 0 {
            return Err(result::INVALID_VALUE);
        }
        // A capture takes host functions only.
        refuse_capture(&stream)?;
        launch(&call, &stream, function, None)
    }
}
