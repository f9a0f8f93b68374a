// SPDX-License-Identifier: Apache-2.0 OR MIT
// The part of the CUDA driver's ABI that has to do with graphs.
#pragma once
#include "cuda_abi.h"

typedef struct CUgraphNode_st *CUgraphNode;

struct edge_data {
    unsigned char from_port, to_port, type, reserved[5];
};

struct kernel_params {
    CUfunction function;
    unsigned grid[3], block[3], shared;
    void **params, **extra;
    void *kernel;
    CUcontext context;
};

struct memset_params {
    CUdeviceptr to;
    size_t pitch;
    unsigned value, element;
    size_t width, height;
};

struct host_params {
    CUhostFn function;
    void *data;
};

struct copy_side {
    size_t x, y, z, lod;
    unsigned memory;
    void *host;
    CUdeviceptr device;
    void *array, *reserved;
    size_t pitch, rows;
};

struct copy_params {
    struct copy_side from, to;
    size_t width, height, depth;
};

struct alloc_params {
    unsigned type, handles, location_type;
    int location;
    uint64_t rest[9];
    const void *accesses;
    size_t accesses_len, bytes;
    CUdeviceptr pointer;
};

// CUDA_BATCH_MEM_OP_NODE_PARAMS.
struct words_params {
    CUcontext context;
    unsigned count;
    CUstreamBatchMemOpParams *operations;
    unsigned flags;
};

struct node_params {
    unsigned type;
    int reserved[3];
    union {
        uint64_t words[29];
        struct memset_params memset;
        struct kernel_params kernel;
        struct host_params host;
        struct alloc_params alloc;
        CUdeviceptr free;
        struct words_params words_of;
    };
    long long end;
};

struct instantiate_params {
    uint64_t flags;
    CUstream upload_stream;
    CUgraphNode error_node;
    int result;
};

struct update_info {
    int result;
    CUgraphNode error_node, error_from;
};

enum { HOST_MEMORY = 1, DEVICE_MEMORY = 2 };
enum { KERNEL, MEMCPY, MEMSET, HOST, GRAPH, EMPTY, WAIT_EVENT, EVENT_RECORD, MEM_ALLOC = 10, MEM_FREE };

CUresult cuStreamGetCaptureInfo_v2(CUstream stream, int *status, uint64_t *id, CUgraph *graph, const CUgraphNode **nodes,
                                   size_t *len);
CUresult cuStreamGetCaptureInfo_v3(CUstream stream, int *status, uint64_t *id, CUgraph *graph, const CUgraphNode **nodes,
                                   const struct edge_data **edges, size_t *len);
CUresult cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode *nodes, size_t len, unsigned flags);
CUresult cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode *nodes, const struct edge_data *edges,
                                              size_t len, unsigned flags);
CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *nodes,
                                     const struct edge_data *edges, size_t len, int mode);
CUresult cuGraphCreate(CUgraph *graph, unsigned flags);
CUresult cuGraphClone(CUgraph *clone, CUgraph graph);
CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *error, char *log, size_t len);
CUresult cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph, struct instantiate_params *params);
CUresult cuGraphExecGetFlags(CUgraphExec exec, uint64_t *flags);
CUresult cuGraphUpload(CUgraphExec exec, CUstream stream);
CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *len);
CUresult cuGraphGetRootNodes(CUgraph graph, CUgraphNode *nodes, size_t *len);
CUresult cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to, struct edge_data *edges, size_t *len);
CUresult cuGraphNodeGetType(CUgraphNode node, unsigned *type);
CUresult cuGraphDebugDotPrint(CUgraph graph, const char *path, unsigned flags);
CUresult cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, const struct edge_data *edges,
                           size_t len, struct node_params *params);
CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len,
                                 const struct kernel_params *params);
CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len,
                              const struct copy_params *params, CUcontext context);
CUresult cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len,
                              const struct memset_params *params, CUcontext context);
CUresult cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len,
                            const struct host_params *params);
CUresult cuGraphAddChildGraphNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len, CUgraph child);
CUresult cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len);
CUresult cuGraphAddEventRecordNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len, CUevent event);
CUresult cuGraphAddEventWaitNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t len, CUevent event);
CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode node, struct kernel_params *params);
CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const struct kernel_params *params);
CUresult cuGraphMemcpyNodeGetParams(CUgraphNode node, struct copy_params *params);
CUresult cuGraphMemcpyNodeSetParams(CUgraphNode node, const struct copy_params *params);
CUresult cuGraphMemsetNodeGetParams(CUgraphNode node, struct memset_params *params);
CUresult cuGraphMemsetNodeSetParams(CUgraphNode node, const struct memset_params *params);
CUresult cuGraphHostNodeGetParams(CUgraphNode node, struct host_params *params);
CUresult cuGraphHostNodeSetParams(CUgraphNode node, const struct host_params *params);
CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent *event);
CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event);
CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent *event);
CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *graph);
CUresult cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr *pointer);
CUresult cuGraphNodeSetParams(CUgraphNode node, struct node_params *params);
CUresult cuGraphNodeFindInClone(CUgraphNode *found, CUgraphNode node, CUgraph clone);
CUresult cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *nodes, size_t *len);
CUresult cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *nodes, size_t *len);
CUresult cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t len);
CUresult cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t len);
CUresult cuGraphDestroyNode(CUgraphNode node);
CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node, const struct kernel_params *params);
CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node, const struct memset_params *params,
                                        CUcontext context);
CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node, const struct copy_params *params,
                                        CUcontext context);
CUresult cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node, const struct host_params *params);
CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraph child);
CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event);
CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node, struct node_params *params);
CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *error, int *result);
CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, struct update_info *info);
CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode node, unsigned enabled);
CUresult cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode node, unsigned *enabled);
CUresult cuGraphAddBatchMemOpNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count,
                                  const struct words_params *params);
CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode node, struct words_params *params);
CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode node, const struct words_params *params);
CUresult cuGraphExecBatchMemOpNodeSetParams(CUgraphExec exec, CUgraphNode node, const struct words_params *params);
