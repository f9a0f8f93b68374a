//! Graphs, what is in them, and their execution.
use super::{BAD_HANDLE, capture::page};
use crate::cuda::graph::InstantiateParams;
use crate::cuda::node::UpdateInfo;
use crate::dispatch::handlers_of;
use crate::graphs::{Graph, GraphExec, Nodes};
use crate::recording::{Recorded, To};
use crate::ring::{Consumer, Failure};
use crate::window::Work;
use std::sync::{Arc, PoisonError};
use vgpu_protocol::calls::{Wire, cuGraphLaunch, cuGraphUpload};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::graph::{Edge, NODE_NONE};
use zerocopy::IntoBytes;

/// CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH and _USE_NODE_PRIORITY. A graph that kernels launch by themselves would
/// run whenever they like.
const FLAGS: u64 = 1 | 8;

/// Has libcuda take a graph's work on a stream.
fn submit(
    ring: &Consumer,
    call: &vgpu_protocol::calls::Call,
    (exec, stream): (u32, u64),
    submit: impl FnOnce(&GraphExec, crate::cuda::Raw, &mut To<'_>) -> Result<(), Code>,
) -> Result<(), Failure> {
    let exec = ring.session.objects.graph_execs.get(exec).ok_or(BAD_HANDLE)?;
    let stream = ring.stream(stream)?;
    ring.submit(&stream, Work::data(call.turn), |raw, to| {
        let _busy = exec.busy.lock().unwrap_or_else(PoisonError::into_inner);
        submit(&exec, raw, to)
    })
}

/// A node that libcuda tells of, which may be none.
fn told_node(nodes: &mut Nodes, graph: &Arc<Graph>, raw: crate::cuda::Raw) -> Result<u32, Code> {
    // It may lie in a graph that is part of this one: then it has no name.
    match raw != 0
        && graph
            .context
            .session
            .cuda
            .graphs
            .nodes_of(graph.raw)?
            .contains(&raw)
    {
        true => nodes.name(graph, raw),
        false => Ok(NODE_NONE),
    }
}

handlers_of! {
    cuGraphInstantiateWithParams(ring, arguments) {
        let session = ring.session;
        if arguments.flags & !FLAGS != 0 {
            return Err(result::NOT_SUPPORTED.into());
        }
        let execs = &session.objects.graph_execs;
        execs.check_new(arguments.exec).map_err(|_| BAD_HANDLE)?;
        let context = ring.context()?;
        let mut nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let recorded = graph.recorded(|graph| graph.copy(session))?;
        let (mut raw, mut params) = (0, InstantiateParams { flags: arguments.flags, ..Default::default() });
        // SAFETY: places that outlive the call.
        let made = unsafe { session.cuda.graphs.graph_instantiate(&mut raw, graph.raw, &mut params) };
        let result = match made {
            Ok(()) => {
                let exec = GraphExec::new(context, raw, recorded);
                execs.insert(arguments.exec, exec).map_err(|_| BAD_HANDLE)?;
                result::SUCCESS
            }
            Err(code) => {
                session.look_at(code);
                code
            }
        };
        let error_node = told_node(&mut nodes, &graph, params.error_node)?;
        Ok(Out { result, outcome: params.outcome, error_node })
    }

    cuGraphLaunch(ring, arguments) {
        let session = ring.session;
        let exec = session.objects.graph_execs.get(arguments.exec);
        let gpu = exec.as_ref().map_or(0, |exec| exec.context.gpu);
        if let Some(exec) = &exec {
            super::admit_graphs(&exec.context)?;
        }
        submit(ring, cuGraphLaunch::Call::CALL, (arguments.exec, arguments.stream), |exec, stream, to| {
            if let To::Graph(recorded) = to {
                // It becomes a node with a copy of the graph.
                let mut copy = exec.recorded(|exec| exec.copy(session))?;
                session.cuda.graphs.graph_launch(exec.raw, stream)?;
                recorded.absorb(&mut copy);
                return Ok(());
            }
            session.cuda.graphs.graph_launch(exec.raw, stream)?;
            exec.recorded(|exec| session.pooled.launched(&exec.memory, &exec.frees));
            Ok(())
        })?;
        super::count_graphs(session, gpu);
        Ok(Out {})
    }

    cuGraphUpload(ring, arguments) {
        submit(ring, cuGraphUpload::Call::CALL, (arguments.exec, arguments.stream), |exec, stream, _| {
            ring.session.cuda.graphs.graph_upload(exec.raw, stream)
        })?;
        Ok(Out {})
    }

    /// Of a graph that is captured, or part of another one, only the id goes.
    cuGraphDestroy(ring, arguments) {
        let session = ring.session;
        let id = arguments.graph;
        let _had;
        let mut nodes = session.graphs.lock();
        let graphs = &session.objects.graphs;
        let graph = graphs.get(id).ok_or(BAD_HANDLE)?;
        nodes.forget(session, &graph);
        graphs.remove(id);
        _had = graph.all_that_it_has();
        drop(graph);
        Ok(Out {})
    }

    cuGraphExecDestroy(ring, arguments) {
        let id = arguments.exec;
        let exec = ring.session.objects.graph_execs.remove(id);
        exec.ok_or(BAD_HANDLE)?;
        Ok(Out {})
    }

    cuGraphGetNodes(ring, arguments, _blob, reply) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let all = session.cuda.graphs.nodes_of(graph.raw)?;
        reply.extend_from_slice(nodes.names(&graph, page(&all, arguments.first))?.as_bytes());
        Ok(Out { total: all.len() as u32 })
    }

    cuGraphGetRootNodes(ring, arguments, _blob, reply) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let all = session.cuda.graphs.roots_of(graph.raw)?;
        reply.extend_from_slice(nodes.names(&graph, page(&all, arguments.first))?.as_bytes());
        Ok(Out { total: all.len() as u32 })
    }

    cuGraphGetEdges(ring, arguments, _blob, reply) {
        let session = ring.session;
        let mut nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let all = session.cuda.graphs.edges_of(graph.raw)?;
        for &(from, to, data) in page(&all, arguments.first) {
            let edge = Edge { from: nodes.name(&graph, from)?, to: nodes.name(&graph, to)?, data };
            reply.extend_from_slice(edge.as_bytes());
        }
        Ok(Out { total: all.len() as u32 })
    }

    cuGraphCreate(ring, arguments) {
        let session = ring.session;
        let id = arguments.graph;
        session.objects.graphs.check_new(id).map_err(|_| BAD_HANDLE)?;
        let context = ring.context()?;
        let recorded = Recorded::nothing(session);
        let graph = Graph::owned(context, id, session.cuda.graphs.graph_create(arguments.flags)?, recorded);
        session.objects.graphs.insert(id, graph).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuGraphClone(ring, arguments) {
        let session = ring.session;
        let id = arguments.clone;
        session.objects.graphs.check_new(id).map_err(|_| BAD_HANDLE)?;
        let nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let recorded = graph.recorded(|graph| graph.copy(session))?;
        let clone = Graph::owned(graph.context.clone(), id, session.cuda.graphs.graph_clone(graph.raw)?, recorded);
        session.objects.graphs.insert(id, clone).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuGraphExecUpdate(ring, arguments) {
        let session = ring.session;
        let _before;
        let mut nodes = session.graphs.lock();
        let exec = session.objects.graph_execs.get(arguments.exec).ok_or(BAD_HANDLE)?;
        let graph = nodes.graph(session, arguments.graph)?;
        let mut info = UpdateInfo::default();
        let updated = {
            let _busy = exec.busy.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: a place that outlives the call.
            unsafe { session.cuda.graphs.exec_update(exec.raw, graph.raw, &mut info) }
        };
        _before = match updated {
            Ok(()) => Some(exec.name_instead(graph.named())),
            // Who knows how far it came.
            Err(_) => {
                exec.name(graph.named());
                None
            }
        };
        let result = updated.err().unwrap_or(result::SUCCESS);
        session.look_at(result);
        Ok(Out {
            result,
            outcome: info.outcome,
            error_node: told_node(&mut nodes, &graph, info.error_node)?,
            error_from: told_node(&mut nodes, &graph, info.error_from)?,
        })
    }

    cuGraphConditionalHandleCreate(ring, arguments) {
        let session = ring.session;
        let nodes = session.graphs.lock();
        let graph = nodes.graph(session, arguments.graph)?;
        let context = ring.context()?;
        let value = session.cuda.graphs.conditional_create(graph.raw, context.raw, arguments.initial, arguments.flags)?;
        graph.add_value(value);
        Ok(Out { value })
    }

    cuDeviceGraphMemTrim(ring, arguments) {
        let session = ring.session;
        let device = session.cuda.device(arguments.device)?;
        session.cuda.memories.graph_memory_trim(device)?;
        super::count_graphs(session, arguments.device);
        Ok(Out {})
    }

    cuDeviceGetGraphMemAttribute(ring, arguments) {
        let device = ring.session.cuda.device(arguments.device)?;
        let mut bytes = 0;
        // SAFETY: a place that outlives the call.
        unsafe { ring.session.cuda.memories.graph_memory_attribute(device, arguments.attribute, &mut bytes) }?;
        Ok(Out { bytes })
    }

    cuDeviceSetGraphMemAttribute(ring, arguments) {
        let device = ring.session.cuda.device(arguments.device)?;
        let mut bytes = arguments.most;
        // SAFETY: a place that outlives the call.
        unsafe { ring.session.cuda.graphs.set_memory_attribute(device, arguments.attribute, &mut bytes) }?;
        Ok(Out {})
    }

    cuGraphNodeGetType(ring, arguments) {
        let nodes = ring.session.graphs.lock();
        let (raw, _) = nodes.node(arguments.node)?;
        Ok(Out { kind: ring.session.cuda.graphs.node_type(raw)? })
    }
}
