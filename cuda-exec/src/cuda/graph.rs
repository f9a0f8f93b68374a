//! Graphs and what streams capture into them.
use super::Raw;
use super::group::group;
use super::node::{
    AllocParams, BatchMemOpParams, HostParams, KernelParams, Memcpy3d, NodeParams, UpdateInfo,
};
use std::ptr::null_mut;
use vgpu_protocol::result::Code;
use vgpu_protocol::structs::graph::EdgeData;

/// A CUDA_GRAPH_INSTANTIATE_PARAMS.
#[derive(Debug, Default)]
#[repr(C)]
pub struct InstantiateParams {
    pub flags: u64,
    pub upload_stream: Raw,
    pub error_node: Raw,
    pub outcome: i32,
}

/// A stream's part in a capture.
#[derive(Debug)]
pub struct CaptureInfo {
    /// A CUstreamCaptureStatus.
    pub status: i32,
    /// The capture's number.
    pub id: u64,
    /// The graph that it makes, 0 if there is none.
    pub graph: Raw,
    /// What the stream's next node will depend on.
    pub dependencies: Vec<(Raw, EdgeData)>,
}

/// CU_STREAM_CAPTURE_STATUS_ACTIVE.
pub const CAPTURE_ACTIVE: i32 = 1;

/// Nodes and the edges to them, as libcuda takes them.
#[derive(Debug, Default)]
pub struct Dependencies {
    nodes: Vec<Raw>,
    edges: Vec<EdgeData>,
}

impl Dependencies {
    /// One more.
    pub fn push(&mut self, node: Raw, edge: EdgeData) {
        self.nodes.push(node);
        self.edges.push(edge);
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// The nodes.
    pub fn nodes(&self) -> *const Raw {
        self.nodes.as_ptr()
    }
    /// The edges; null if they are all plain ones.
    pub fn edges(&self) -> *const EdgeData {
        match self.edges.iter().all(|edge| *edge == EdgeData::default()) {
            true => std::ptr::null(),
            false => self.edges.as_ptr(),
        }
    }
}

group! {
    /// Functions of these topics.
    Graphs {
        raw stream_capture_info = "cuStreamGetCaptureInfo_v3" (
            stream: Raw, status: *mut i32, id: *mut u64, graph: *mut Raw, dependencies: *mut *const Raw,
            edges: *mut *const EdgeData, len: *mut usize);
        raw stream_begin_capture_to_graph = "cuStreamBeginCaptureToGraph" (
            stream: Raw, graph: Raw, dependencies: *const Raw, edges: *const EdgeData, len: usize, mode: i32);
        raw stream_update_capture_dependencies = "cuStreamUpdateCaptureDependencies_v2" (
            stream: Raw, dependencies: *const Raw, edges: *const EdgeData, len: usize, flags: u32);
        first graph_create = "cuGraphCreate" (flags: u32) -> Raw;
        first graph_clone = "cuGraphClone" (graph: Raw) -> Raw;
        raw graph_instantiate = "cuGraphInstantiateWithParams" (exec: *mut Raw, graph: Raw, params: *mut InstantiateParams);
        plain graph_launch = "cuGraphLaunch" (exec: Raw, stream: Raw);
        plain graph_upload = "cuGraphUpload" (exec: Raw, stream: Raw);
        plain graph_destroy = "cuGraphDestroy" (graph: Raw);
        plain graph_exec_destroy = "cuGraphExecDestroy" (exec: Raw);
        raw graph_nodes = "cuGraphGetNodes" (graph: Raw, nodes: *mut Raw, len: *mut usize);
        raw graph_root_nodes = "cuGraphGetRootNodes" (graph: Raw, nodes: *mut Raw, len: *mut usize);
        raw graph_edges = "cuGraphGetEdges_v2" (
            graph: Raw, from: *mut Raw, to: *mut Raw, edges: *mut EdgeData, len: *mut usize);
        raw graph_add_edges = "cuGraphAddDependencies_v2" (
            graph: Raw, from: *const Raw, to: *const Raw, edges: *const EdgeData, len: usize);
        raw graph_remove_edges = "cuGraphRemoveDependencies_v2" (
            graph: Raw, from: *const Raw, to: *const Raw, edges: *const EdgeData, len: usize);
        raw graph_add_node = "cuGraphAddNode_v2" (
            node: *mut Raw, graph: Raw, dependencies: *const Raw, edges: *const EdgeData, len: usize,
            params: *mut NodeParams);
        last node_type = "cuGraphNodeGetType" (node: Raw) -> u32;
        plain node_destroy = "cuGraphDestroyNode" (node: Raw);
        raw node_dependencies = "cuGraphNodeGetDependencies_v2" (
            node: Raw, nodes: *mut Raw, edges: *mut EdgeData, len: *mut usize);
        raw node_dependent_nodes = "cuGraphNodeGetDependentNodes_v2" (
            node: Raw, nodes: *mut Raw, edges: *mut EdgeData, len: *mut usize);
        first node_find_in_clone = "cuGraphNodeFindInClone" (node: Raw, clone: Raw) -> Raw;
        last child_graph = "cuGraphChildGraphNodeGetGraph" (node: Raw) -> Raw;
        raw node_set_params = "cuGraphNodeSetParams" (node: Raw, params: *mut NodeParams);
        raw kernel_params = "cuGraphKernelNodeGetParams_v2" (node: Raw, params: *mut KernelParams);
        raw memcpy_params = "cuGraphMemcpyNodeGetParams" (node: Raw, params: *mut Memcpy3d);
        raw memset_params = "cuGraphMemsetNodeGetParams" (node: Raw, params: *mut [u64; 5]);
        raw batch_mem_op_params = "cuGraphBatchMemOpNodeGetParams" (node: Raw, params: *mut BatchMemOpParams);
        last host_params = "cuGraphHostNodeGetParams" (node: Raw) -> HostParams;
        raw alloc_params = "cuGraphMemAllocNodeGetParams" (node: Raw, params: *mut AllocParams);
        last freed_memory = "cuGraphMemFreeNodeGetParams" (node: Raw) -> u64;
        last recorded_event = "cuGraphEventRecordNodeGetEvent" (node: Raw) -> Raw;
        last awaited_event = "cuGraphEventWaitNodeGetEvent" (node: Raw) -> Raw;
        plain kernel_copy_attributes = "cuGraphKernelNodeCopyAttributes" (to: Raw, from: Raw);
        raw kernel_get_attribute = "cuGraphKernelNodeGetAttribute" (node: Raw, attribute: i32, value: *mut [u64; 8]);
        raw kernel_set_attribute = "cuGraphKernelNodeSetAttribute" (node: Raw, attribute: i32, value: *const [u64; 8]);
        raw exec_set_params = "cuGraphExecNodeSetParams" (exec: Raw, node: Raw, params: *mut NodeParams);
        raw exec_update = "cuGraphExecUpdate_v2" (exec: Raw, graph: Raw, info: *mut UpdateInfo);
        plain exec_set_enabled = "cuGraphNodeSetEnabled" (exec: Raw, node: Raw, enabled: u32);
        last exec_get_enabled = "cuGraphNodeGetEnabled" (exec: Raw, node: Raw) -> u32;
        first conditional_create = "cuGraphConditionalHandleCreate" (graph: Raw, context: Raw, initial: u32, flags: u32) -> u64;
        raw set_memory_attribute = "cuDeviceSetGraphMemAttribute" (device: i32, attribute: i32, bytes: *mut u64);
    }
}

/// A list that libcuda copies out: its length first, then as much of it.
fn list<T: Default + Clone>(
    mut get: impl FnMut(*mut T, *mut usize) -> Result<(), Code>,
) -> Result<Vec<T>, Code> {
    let mut len = 0;
    get(std::ptr::null_mut(), &mut len)?;
    let mut all = vec![T::default(); len];
    if len > 0 {
        get(all.as_mut_ptr(), &mut len)?;
        all.truncate(len);
    }
    Ok(all)
}

// Every unsafe block below passes places that outlive the call, and arrays with their lengths.
impl Graphs {
    /// What a stream captures.
    pub fn capture_info(&self, stream: Raw) -> Result<CaptureInfo, Code> {
        let (mut status, mut id, mut graph, mut len) = (0, 0, 0, 0);
        let (mut nodes, mut edges): (*const Raw, *const EdgeData) = (std::ptr::null(), std::ptr::null());
        // SAFETY: see above.
        unsafe {
            self.stream_capture_info(
                stream,
                &mut status,
                &mut id,
                &mut graph,
                &mut nodes,
                &mut edges,
                &mut len,
            )
        }?;
        if status != CAPTURE_ACTIVE {
            (graph, len) = (0, 0);
        }
        let dependencies = (0..len)
            .map(|i| {
                // SAFETY: libcuda's arrays are that long, and stay until the stream's next call, which cannot come while the
                // graphs are locked; the second is null if all edges are plain ones.
                unsafe {
                    let edge = if edges.is_null() {
                        EdgeData::default()
                    } else {
                        *edges.add(i)
                    };
                    (*nodes.add(i), edge)
                }
            })
            .collect();
        Ok(CaptureInfo {
            status,
            id,
            graph,
            dependencies,
        })
    }

    /// The graph that a stream captures, if its capture has not failed.
    pub fn captured_graph(&self, stream: Raw) -> Result<Option<Raw>, Code> {
        let (mut status, mut graph) = (0, 0);
        let (id, nodes, edges, len) = (null_mut(), null_mut(), null_mut(), null_mut());
        // SAFETY: see above; what is not asked for has no place.
        unsafe { self.stream_capture_info(stream, &mut status, id, &mut graph, nodes, edges, len) }?;
        Ok((status == CAPTURE_ACTIVE).then_some(graph))
    }

    /// The nodes of a graph.
    pub fn nodes_of(&self, graph: Raw) -> Result<Vec<Raw>, Code> {
        // SAFETY: see above.
        list(|nodes, len| unsafe { self.graph_nodes(graph, nodes, len) })
    }

    /// Those that depend on no other.
    pub fn roots_of(&self, graph: Raw) -> Result<Vec<Raw>, Code> {
        // SAFETY: see above.
        list(|nodes, len| unsafe { self.graph_root_nodes(graph, nodes, len) })
    }

    /// The edges of a graph: from where, to where.
    pub fn edges_of(&self, graph: Raw) -> Result<Vec<(Raw, Raw, EdgeData)>, Code> {
        let mut len = 0;
        // SAFETY: see above.
        unsafe { self.graph_edges(graph, null_mut(), null_mut(), null_mut(), &mut len) }?;
        let (mut from, mut to) = (vec![0; len], vec![0; len]);
        let mut edges = vec![EdgeData::default(); len];
        if len > 0 {
            // SAFETY: see above.
            unsafe {
                self.graph_edges(
                    graph,
                    from.as_mut_ptr(),
                    to.as_mut_ptr(),
                    edges.as_mut_ptr(),
                    &mut len,
                )
            }?;
        }
        let all = from.into_iter().zip(to).zip(edges).take(len);
        Ok(all.map(|((from, to), edge)| (from, to, edge)).collect())
    }

    /// The nodes before a node, or those behind it.
    pub fn neighbours(&self, node: Raw, behind: bool) -> Result<Vec<(Raw, EdgeData)>, Code> {
        let get = |nodes, edges, len| {
            // SAFETY: see above.
            unsafe {
                match behind {
                    false => self.node_dependencies(node, nodes, edges, len),
                    true => self.node_dependent_nodes(node, nodes, edges, len),
                }
            }
        };
        let mut len = 0;
        get(null_mut(), null_mut(), &mut len)?;
        let (mut nodes, mut edges) = (vec![0; len], vec![EdgeData::default(); len]);
        if len > 0 {
            get(nodes.as_mut_ptr(), edges.as_mut_ptr(), &mut len)?;
        }
        Ok(nodes.into_iter().zip(edges).take(len).collect())
    }
}
