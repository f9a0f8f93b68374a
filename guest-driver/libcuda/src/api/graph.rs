//! Graphs that captures made, and their execution.
use super::{cuda, cuda_pairs};
use crate::abi::{CUgraph, CUgraphExec, CUstream, Out};
use crate::objects::Graph;
use crate::session::Call;
use vgpu_protocol::calls;
use vgpu_protocol::result;

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
        let exec = Graph { id, context: graph.context };
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
        call.submit::<calls::cuGraphLaunch::Call>(stream.context, arguments)?;
        stream.did_submit();
        Ok(())
    }
}
