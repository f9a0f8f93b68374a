//! Graphs.
use super::{BAD_HANDLE, unknown};
use crate::dispatch::Handle;
use crate::handles::GraphExec;
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use vgpu_protocol::calls::{
    Wire, cuGraphDestroy, cuGraphExecDestroy, cuGraphInstantiateWithFlags, cuGraphLaunch,
};
use vgpu_protocol::result;

/// CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH and _USE_NODE_PRIORITY. A graph that kernels launch by themselves would
/// run whenever they like.
const FLAGS: u64 = 1 | 8;

impl Handle for cuGraphInstantiateWithFlags::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuGraphInstantiateWithFlags::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuGraphInstantiateWithFlags::Out, Failure> {
        let cuGraphInstantiateWithFlags::In { graph, flags, exec } = arguments;
        let session = ring.session;
        if flags & !FLAGS != 0 {
            return Err(result::NOT_SUPPORTED.into());
        }
        let graph = session.objects.graphs.get(graph).ok_or(BAD_HANDLE)?;
        session
            .objects
            .graph_execs
            .check_new(exec)
            .map_err(|_| BAD_HANDLE)?;
        let context = ring.context()?;
        let raw = session.cuda.graph_instantiate(graph.raw, flags)?;
        session
            .objects
            .graph_execs
            .insert(exec, GraphExec { context, raw })
            .map_err(|_| BAD_HANDLE)?;
        Ok(cuGraphInstantiateWithFlags::Out {})
    }
}

impl Handle for cuGraphLaunch::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuGraphLaunch::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuGraphLaunch::Out, Failure> {
        let cuGraphLaunch::In { exec, stream } = arguments;
        let session = ring.session;
        let exec = session
            .objects
            .graph_execs
            .get(exec)
            .ok_or_else(|| unknown(cuGraphLaunch::OP, exec))?;
        let stream = ring.stream(cuGraphLaunch::OP, stream)?;
        ring.submit(&stream, Work::data(cuGraphLaunch::Call::CALL.turn), |raw| {
            session.cuda.graph_launch(exec.raw, raw)
        })?;
        Ok(cuGraphLaunch::Out {})
    }
}

impl Handle for cuGraphDestroy::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuGraphDestroy::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuGraphDestroy::Out, Failure> {
        let id = arguments.graph;
        ring.session
            .objects
            .graphs
            .remove(id)
            .ok_or_else(|| unknown(cuGraphDestroy::OP, id))?;
        Ok(cuGraphDestroy::Out {})
    }
}

impl Handle for cuGraphExecDestroy::Call {
    fn handle(
        ring: &mut Consumer,
        arguments: cuGraphExecDestroy::In,
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<cuGraphExecDestroy::Out, Failure> {
        let id = arguments.exec;
        ring.session
            .objects
            .graph_execs
            .remove(id)
            .ok_or_else(|| unknown(cuGraphExecDestroy::OP, id))?;
        Ok(cuGraphExecDestroy::Out {})
    }
}
