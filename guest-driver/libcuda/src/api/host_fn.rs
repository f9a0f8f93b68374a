//! Functions of the program that run in a stream's order.
use super::cuda_pairs;
use crate::abi::{CUhostFn, CUstream, Host, HostCall};
use crate::session::Call;
use vgpu_protocol::calls;

cuda_pairs! {
    fn cuLaunchHostFunc / cuLaunchHostFunc_ptsz(stream: CUstream, function: Option<CUhostFn>, data: Host) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        let function = HostCall::new(function, data)?;
        let captured = stream.capture() != 0;
        let functions = &call.session.host_functions;
        let cookie = functions.add(call.session, function, captured)?;
        let arguments = calls::cuLaunchHostFunc::In { stream: stream.word, cookie };
        if let Err(code) = call.submit::<calls::cuLaunchHostFunc::Call>(stream.context, arguments) {
            functions.remove(cookie);
            return Err(code);
        }
        if captured {
            call.session.captures.keep(stream.capture(), [functions.keep(cookie)]);
        }
        stream.did_submit();
        Ok(())
    }
}
