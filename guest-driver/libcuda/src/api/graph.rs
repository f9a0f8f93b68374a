//! Graphs that captures made, and their execution.
use super::{cuda, cuda_pairs};
use crate::abi::{CUgraph, CUgraphExec, CUstream, Out};
use crate::fence::refuse_capture;
use crate::lock;
use crate::objects::Graph;
use crate::session::Call;
use std::sync::Arc;
use vgpu_protocol::calls;
use vgpu_protocol::result::{self, Code};

/// Keeps the host functions of an executable graph that is gone as long as runs of it may be under way.
fn retire(call: &Call, exec: &Graph) -> Result<(), Code> {
    let session = call.session;
    let launched = lock(&exec.launched);
    let points: Result<Vec<_>, _> = launched
        .iter()
        .map(|stream| match refuse_capture(stream) {
            Ok(()) => session.fence(call.thread, stream),
            // It was fenced before the capture.
            Err(_) => Ok(stream.last_fence()),
        })
        .collect();
    if !exec.functions.is_empty() {
        session
            .host_functions
            .retire(session, exec.functions.clone(), points?);
    }
    Ok(())
}

cuda! {
    fn cuGraphInstantiateWithFlags(place: Out<CUgraphExec>, graph: CUgraph, flags: u64) {
        let call = Call::enter()?;
        let session = call.session;
        place.check()?;
        let found = session.graphs.get(graph);
        let graph = found.ok_or(result::INVALID_VALUE)?;
        let id = session.graph_execs.reserve().ok_or(result::OUT_OF_MEMORY)?;
        let arguments = calls::cuGraphInstantiateWithFlags::In { graph: graph.id, flags, exec: id };
        if let Err(code) = call.ask::<calls::cuGraphInstantiateWithFlags::Call>(graph.context, arguments) {
            session.graph_execs.release(id);
            return Err(code);
        }
        let exec = Graph::new(id, graph.context, graph.functions.clone());
        place.set(session.graph_execs.insert(id, exec).handle())
    }

    fn cuGraphDestroy(graph: CUgraph) {
        let call = Call::enter()?;
        let entry = call.session.graphs.remove(graph).ok_or(result::INVALID_VALUE)?;
        let arguments = calls::cuGraphDestroy::In { graph: entry.id };
        let destroyed = call.submit::<calls::cuGraphDestroy::Call>(entry.context, arguments);
        call.session.graphs.release(entry.id);
        destroyed
    }

    fn cuGraphExecDestroy(exec: CUgraphExec) {
        let call = Call::enter()?;
        let entry = call.session.graph_execs.remove(exec).ok_or(result::INVALID_VALUE)?;
        let arguments = calls::cuGraphExecDestroy::In { exec: entry.id };
        let destroyed = call.submit::<calls::cuGraphExecDestroy::Call>(entry.context, arguments);
        call.session.graph_execs.release(entry.id);
        retire(&call, &entry)?;
        destroyed
    }
}

cuda_pairs! {
    fn cuGraphLaunch / cuGraphLaunch_ptsz(exec: CUgraphExec, stream: CUstream) |null| {
        let call = Call::enter()?;
        let stream = call.stream(stream, null)?;
        let found = call.session.graph_execs.get(exec);
        let exec = found.ok_or(result::INVALID_VALUE)?;
        let arguments = calls::cuGraphLaunch::In { exec: exec.id, stream: stream.word };
        if !exec.functions.is_empty() {
            let mut launched = lock(&exec.launched);
            if !launched.iter().any(|other| Arc::ptr_eq(other, &stream)) {
                launched.push(stream.clone());
            }
            // Launched in a capture, it becomes part of another graph.
            call.session.captures.keep(stream.capture(), exec.functions.iter().cloned());
        }
        call.submit::<calls::cuGraphLaunch::Call>(stream.context, arguments)?;
        stream.did_submit();
        Ok(())
    }
}
