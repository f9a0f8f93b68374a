//! The one table of CUDA calls: every function of the driver ABI, once.
//!
//! A row is `mode number name { symbols } { per-thread symbols } (arguments) -> (results) [flags];`
//!
//! * `mode`: `call` crosses the wire; `local` is answered by the guest's library alone, or made of other calls;
//!   `none` is exported and answers CUDA_ERROR_NOT_SUPPORTED.
//! * `number`: the operation in a record's header; 0 where there is none.
//! * `name`: CUDA's name without a version, as `cuGetProcAddress` takes it.
//! * `symbols`: the ABI symbols of that name, each with the CUDA version (1000 × major + 10 × minor) that
//!   brought it; then those whose null stream is the per-thread default stream.
//! * `arguments`, `results`: one word each ([`crate::words`]). Objects are named by ids that the guest chooses.
//! * `flags`: `reply` (the guest waits for the answer; for any other call it may), `turn` (needs the GPU's compute engine), `unordered`
//!   (does not have to follow what other rings of the session submitted), `driver` (takes locks of the whole driver, so that it
//!   holds up other programs: rationed apart), `blob_in`, `blob_out`.
//!
//! [`for_each_call`] hands the rows to a macro; everything else (this module's types and [`CALLS`], the
//! guest's exports and its `cuGetProcAddress`, the executor's dispatch, the tests) is made from them.
//!
//! Word conventions: streams as in [`crate::words::handle`]; pointers are addresses, host addresses lie in the
//! session's arena. `cuEventRecord` also writes `sequence` to fence word `slot` behind the event,
//! unless `sequence` is 0 (on a capturing stream, say).
//! `cuModuleLoadData`'s image lies in mapped memory and is copied once. `cuModuleGetFunction` carries the
//! kernel's name and answers with its parameters ([`crate::words::KernelParam`]) and their number.
//! `cuModuleLoadDataEx`'s blob is [`crate::words::JitOption`]s; `info_len` and `error_len` say how many bytes of each log are
//! wanted. It is answered even if the module was not loaded: `result` says so, and the blob is the information log, then the
//! error log, as long as the answer's words say.
//! `cuLaunchKernel`'s blob is the packed parameters. `cuEventElapsedTime` answers with the bits of an f32.
//! `cuStreamIsCapturing` and the `Query` and `Synchronize` calls are for sessions in which a capture is under way: whether
//! they are allowed then, and what they do to the capture, only the host's library knows. Completion is told by fences.
use crate::limits::WORDS_MAX;
use crate::words::{Word, Words};

/// Calls `$with!{ rows }` with all rows of the table.
#[macro_export]
macro_rules! for_each_call {
    ($($with:tt)::+) => {
        $($with)::+! {
            call 0x0100 cuCtxCreate { cuCtxCreate_v2: 3020, cuCtxCreate_v3: 11040, cuCtxCreate_v4: 12050 } {} (flags: u32, device: u32, context: u32) -> () [reply driver];
            call 0x0101 cuCtxDestroy { cuCtxDestroy_v2: 4000 } {} (context: u32) -> () [reply driver];
            call 0x0102 cuEventCreate { cuEventCreate: 2000 } {} (event: u32, flags: u32) -> () [];
            call 0x0103 cuEventDestroy { cuEventDestroy_v2: 4000 } {} (event: u32) -> () [];
            call 0x0104 cuEventElapsedTime { cuEventElapsedTime: 2000, cuEventElapsedTime_v2: 12080 } {} (start: u32, end: u32) -> (milliseconds_bits: u32) [reply];
            call 0x0105 cuEventRecord { cuEventRecord: 2000 } { cuEventRecord_ptsz: 7000 } (event: u32, stream: u64, slot: u32, sequence: u64) -> () [];
            call 0x0106 cuFuncGetAttribute { cuFuncGetAttribute: 2020 } {} (attribute: i32, function: u32) -> (value: i32) [reply];
            call 0x0107 cuGraphDestroy { cuGraphDestroy: 10000 } {} (graph: u32) -> () [];
            call 0x0108 cuGraphExecDestroy { cuGraphExecDestroy: 10000 } {} (exec: u32) -> () [];
            call 0x0109 cuGraphInstantiateWithFlags { cuGraphInstantiateWithFlags: 11040 } {} (graph: u32, flags: u64, exec: u32) -> () [reply driver];
            call 0x010a cuGraphLaunch { cuGraphLaunch: 10000 } { cuGraphLaunch_ptsz: 10000 } (exec: u32, stream: u64) -> () [turn];
            call 0x010b cuLaunchHostFunc { cuLaunchHostFunc: 10000 } { cuLaunchHostFunc_ptsz: 10000 } (stream: u64, cookie: u64) -> () [];
            call 0x010c cuLaunchKernel { cuLaunchKernel: 4000 } { cuLaunchKernel_ptsz: 7000 } (function: u32, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: u64) -> () [turn blob_in];
            call 0x010d cuMemAlloc { cuMemAlloc_v2: 3020 } {} (bytes: u64) -> (pointer: u64) [reply driver];
            call 0x010e cuMemFree { cuMemFree_v2: 3020 } {} (pointer: u64) -> () [reply driver];
            call 0x010f cuMemGetInfo { cuMemGetInfo_v2: 3020 } {} () -> (free: u64, total: u64) [reply unordered];
            call 0x0110 cuMemcpyDtoDAsync { cuMemcpyDtoDAsync_v2: 3020 } { cuMemcpyDtoDAsync_v2_ptsz: 7000 } (to: u64, from: u64, bytes: u64, stream: u64) -> () [turn];
            call 0x0111 cuMemcpyDtoHAsync { cuMemcpyDtoHAsync_v2: 3020 } { cuMemcpyDtoHAsync_v2_ptsz: 7000 } (to: u64, from: u64, bytes: u64, stream: u64) -> () [];
            call 0x0112 cuMemcpyHtoDAsync { cuMemcpyHtoDAsync_v2: 3020 } { cuMemcpyHtoDAsync_v2_ptsz: 7000 } (to: u64, from: u64, bytes: u64, stream: u64) -> () [];
            call 0x0113 cuMemsetD16Async { cuMemsetD16Async: 3020 } { cuMemsetD16Async_ptsz: 7000 } (to: u64, value: u32, count: u64, stream: u64) -> () [turn];
            call 0x0114 cuMemsetD32Async { cuMemsetD32Async: 3020 } { cuMemsetD32Async_ptsz: 7000 } (to: u64, value: u32, count: u64, stream: u64) -> () [turn];
            call 0x0115 cuMemsetD8Async { cuMemsetD8Async: 3020 } { cuMemsetD8Async_ptsz: 7000 } (to: u64, value: u32, count: u64, stream: u64) -> () [turn];
            call 0x0116 cuModuleGetFunction { cuModuleGetFunction: 2000 } {} (module: u32, function: u32) -> (params: u32) [reply blob_in blob_out];
            call 0x0117 cuModuleGetGlobal { cuModuleGetGlobal_v2: 3020 } {} (module: u32) -> (pointer: u64, bytes: u64) [reply blob_in];
            call 0x0118 cuModuleLoadData { cuModuleLoadData: 2000 } {} (image: u64, bytes: u64, module: u32) -> () [reply driver];
            call 0x0119 cuModuleUnload { cuModuleUnload: 2000 } {} (module: u32) -> () [reply driver];
            call 0x011a cuStreamBeginCapture { cuStreamBeginCapture_v2: 10010 } { cuStreamBeginCapture_v2_ptsz: 10010 } (stream: u64, mode: u32) -> () [reply];
            call 0x011b cuStreamCreate { cuStreamCreate: 2000 } {} (stream: u32, flags: u32, priority: i32) -> () [];
            call 0x011c cuStreamDestroy { cuStreamDestroy_v2: 4000 } {} (stream: u32) -> () [];
            call 0x011d cuStreamEndCapture { cuStreamEndCapture: 10000 } { cuStreamEndCapture_ptsz: 10000 } (stream: u64, graph: u32) -> () [reply];
            call 0x011e cuStreamWaitEvent { cuStreamWaitEvent: 3020 } { cuStreamWaitEvent_ptsz: 7000 } (stream: u64, event: u32, flags: u32) -> () [];
            call 0x011f cuThreadExchangeStreamCaptureMode { cuThreadExchangeStreamCaptureMode: 10010 } {} (mode: u32) -> () [];
            call 0x0120 cuEventQuery { cuEventQuery: 2000 } {} (event: u32) -> () [reply];
            call 0x0121 cuModuleLoadDataEx { cuModuleLoadDataEx: 2010 } {} (image: u64, bytes: u64, module: u32, info_len: u32, error_len: u32) -> (result: i32, wall_time_bits: u32, threads: u32, info_said: u32, error_said: u32) [reply driver blob_in blob_out];
            call 0x0122 cuStreamIsCapturing { cuStreamIsCapturing: 10000 } { cuStreamIsCapturing_ptsz: 10000 } (stream: u64) -> (status: i32) [reply];
            call 0x0123 cuStreamQuery { cuStreamQuery: 2000 } { cuStreamQuery_ptsz: 7000 } (stream: u64) -> () [reply];
            call 0x0124 cuCtxSynchronize { cuCtxSynchronize: 2000, cuCtxSynchronize_v2: 13000 } {} () -> () [reply];
            call 0x0125 cuEventSynchronize { cuEventSynchronize: 2000 } {} (event: u32) -> () [reply];
            call 0x0126 cuStreamSynchronize { cuStreamSynchronize: 2000 } { cuStreamSynchronize_ptsz: 7000 } (stream: u64) -> () [reply];
            local 0 cuCtxGetApiVersion { cuCtxGetApiVersion: 3020 } {} () -> () [];
            local 0 cuCtxGetCurrent { cuCtxGetCurrent: 4000 } {} () -> () [];
            local 0 cuCtxGetDevice { cuCtxGetDevice: 2000, cuCtxGetDevice_v2: 13000 } {} () -> () [];
            local 0 cuCtxPopCurrent { cuCtxPopCurrent_v2: 4000 } {} () -> () [];
            local 0 cuCtxPushCurrent { cuCtxPushCurrent_v2: 4000 } {} () -> () [];
            local 0 cuCtxSetCurrent { cuCtxSetCurrent: 4000 } {} () -> () [];
            local 0 cuDeviceComputeCapability { cuDeviceComputeCapability: 2000 } {} () -> () [];
            local 0 cuDeviceGet { cuDeviceGet: 2000 } {} () -> () [];
            local 0 cuDeviceGetAttribute { cuDeviceGetAttribute: 2000 } {} () -> () [];
            local 0 cuDeviceGetByPCIBusId { cuDeviceGetByPCIBusId: 4010 } {} () -> () [];
            local 0 cuDeviceGetCount { cuDeviceGetCount: 2000 } {} () -> () [];
            local 0 cuDeviceGetName { cuDeviceGetName: 2000 } {} () -> () [];
            local 0 cuDeviceGetPCIBusId { cuDeviceGetPCIBusId: 4010 } {} () -> () [];
            local 0 cuDeviceGetProperties { cuDeviceGetProperties: 2000 } {} () -> () [];
            local 0 cuDeviceGetUuid { cuDeviceGetUuid: 9020, cuDeviceGetUuid_v2: 11040 } {} () -> () [];
            local 0 cuDeviceTotalMem { cuDeviceTotalMem_v2: 3020 } {} () -> () [];
            local 0 cuDriverGetVersion { cuDriverGetVersion: 2020 } {} () -> () [];
            local 0 cuGetErrorName { cuGetErrorName: 6000 } {} () -> () [];
            local 0 cuGetErrorString { cuGetErrorString: 6000 } {} () -> () [];
            local 0 cuGetExportTable { cuGetExportTable: 3000 } {} () -> () [];
            local 0 cuGetProcAddress { cuGetProcAddress: 11030, cuGetProcAddress_v2: 12000 } {} () -> () [];
            local 0 cuInit { cuInit: 2000 } {} () -> () [];
            local 0 cuMemAllocHost { cuMemAllocHost_v2: 3020 } {} () -> () [];
            local 0 cuMemFreeHost { cuMemFreeHost: 2000 } {} () -> () [];
            local 0 cuMemHostAlloc { cuMemHostAlloc: 2020 } {} () -> () [];
            local 0 cuMemHostGetDevicePointer { cuMemHostGetDevicePointer_v2: 3020 } {} () -> () [];
            local 0 cuMemHostGetFlags { cuMemHostGetFlags: 2030 } {} () -> () [];
            local 0 cuMemcpy { cuMemcpy: 4000 } { cuMemcpy_ptds: 7000 } () -> () [];
            local 0 cuMemcpyAsync { cuMemcpyAsync: 4000 } { cuMemcpyAsync_ptsz: 7000 } () -> () [];
            local 0 cuMemcpyDtoD { cuMemcpyDtoD_v2: 3020 } { cuMemcpyDtoD_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyDtoH { cuMemcpyDtoH_v2: 3020 } { cuMemcpyDtoH_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyHtoD { cuMemcpyHtoD_v2: 3020 } { cuMemcpyHtoD_v2_ptds: 7000 } () -> () [];
            local 0 cuMemsetD16 { cuMemsetD16_v2: 3020 } { cuMemsetD16_v2_ptds: 7000 } () -> () [];
            local 0 cuMemsetD32 { cuMemsetD32_v2: 3020 } { cuMemsetD32_v2_ptds: 7000 } () -> () [];
            local 0 cuMemsetD8 { cuMemsetD8_v2: 3020 } { cuMemsetD8_v2_ptds: 7000 } () -> () [];
            local 0 cuModuleGetLoadingMode { cuModuleGetLoadingMode: 11070 } {} () -> () [];
            local 0 cuModuleLoad { cuModuleLoad: 2000 } {} () -> () [];
            local 0 cuModuleLoadFatBinary { cuModuleLoadFatBinary: 2000 } {} () -> () [];
            none 0 cuArray3DCreate { cuArray3DCreate_v2: 3020 } {} () -> () [];
            none 0 cuArray3DGetDescriptor { cuArray3DGetDescriptor_v2: 3020 } {} () -> () [];
            none 0 cuArrayCreate { cuArrayCreate_v2: 3020 } {} () -> () [];
            none 0 cuArrayDestroy { cuArrayDestroy: 2000 } {} () -> () [];
            none 0 cuArrayGetDescriptor { cuArrayGetDescriptor_v2: 3020 } {} () -> () [];
            none 0 cuArrayGetMemoryRequirements { cuArrayGetMemoryRequirements: 11060 } {} () -> () [];
            none 0 cuArrayGetPlane { cuArrayGetPlane: 11020 } {} () -> () [];
            none 0 cuArrayGetSparseProperties { cuArrayGetSparseProperties: 11010 } {} () -> () [];
            none 0 cuCheckpointProcessCheckpoint { cuCheckpointProcessCheckpoint: 12080 } {} () -> () [];
            none 0 cuCheckpointProcessGetRestoreThreadId { cuCheckpointProcessGetRestoreThreadId: 12080 } {} () -> () [];
            none 0 cuCheckpointProcessGetState { cuCheckpointProcessGetState: 12080 } {} () -> () [];
            none 0 cuCheckpointProcessLock { cuCheckpointProcessLock: 12080 } {} () -> () [];
            none 0 cuCheckpointProcessRestore { cuCheckpointProcessRestore: 12080 } {} () -> () [];
            none 0 cuCheckpointProcessUnlock { cuCheckpointProcessUnlock: 12080 } {} () -> () [];
            none 0 cuCoredumpGetAttribute { cuCoredumpGetAttribute: 12010 } {} () -> () [];
            none 0 cuCoredumpGetAttributeGlobal { cuCoredumpGetAttributeGlobal: 12010 } {} () -> () [];
            none 0 cuCoredumpSetAttribute { cuCoredumpSetAttribute: 12010 } {} () -> () [];
            none 0 cuCoredumpSetAttributeGlobal { cuCoredumpSetAttributeGlobal: 12010 } {} () -> () [];
            none 0 cuCtxAttach { cuCtxAttach: 2000 } {} () -> () [];
            none 0 cuCtxDetach { cuCtxDetach: 2000 } {} () -> () [];
            none 0 cuCtxDisablePeerAccess { cuCtxDisablePeerAccess: 4000 } {} () -> () [];
            none 0 cuCtxEnablePeerAccess { cuCtxEnablePeerAccess: 4000 } {} () -> () [];
            none 0 cuCtxFromGreenCtx { cuCtxFromGreenCtx: 12040 } {} () -> () [];
            none 0 cuCtxGetCacheConfig { cuCtxGetCacheConfig: 3020 } {} () -> () [];
            none 0 cuCtxGetDevResource { cuCtxGetDevResource: 12040 } {} () -> () [];
            none 0 cuCtxGetExecAffinity { cuCtxGetExecAffinity: 11040 } {} () -> () [];
            none 0 cuCtxGetFlags { cuCtxGetFlags: 7000 } {} () -> () [];
            none 0 cuCtxGetId { cuCtxGetId: 12000 } {} () -> () [];
            none 0 cuCtxGetLimit { cuCtxGetLimit: 3010 } {} () -> () [];
            none 0 cuCtxGetSharedMemConfig { cuCtxGetSharedMemConfig: 4020 } {} () -> () [];
            none 0 cuCtxGetStreamPriorityRange { cuCtxGetStreamPriorityRange: 5050 } {} () -> () [];
            none 0 cuCtxRecordEvent { cuCtxRecordEvent: 12050 } {} () -> () [];
            none 0 cuCtxResetPersistingL2Cache { cuCtxResetPersistingL2Cache: 11000 } {} () -> () [];
            none 0 cuCtxSetCacheConfig { cuCtxSetCacheConfig: 3020 } {} () -> () [];
            none 0 cuCtxSetFlags { cuCtxSetFlags: 12010 } {} () -> () [];
            none 0 cuCtxSetLimit { cuCtxSetLimit: 3010 } {} () -> () [];
            none 0 cuCtxSetSharedMemConfig { cuCtxSetSharedMemConfig: 4020 } {} () -> () [];
            none 0 cuCtxWaitEvent { cuCtxWaitEvent: 12050 } {} () -> () [];
            none 0 cuDestroyExternalMemory { cuDestroyExternalMemory: 10000 } {} () -> () [];
            none 0 cuDestroyExternalSemaphore { cuDestroyExternalSemaphore: 10000 } {} () -> () [];
            none 0 cuDevResourceGenerateDesc { cuDevResourceGenerateDesc: 12040 } {} () -> () [];
            none 0 cuDevSmResourceSplitByCount { cuDevSmResourceSplitByCount: 12040 } {} () -> () [];
            none 0 cuDeviceCanAccessPeer { cuDeviceCanAccessPeer: 4000 } {} () -> () [];
            none 0 cuDeviceGetDefaultMemPool { cuDeviceGetDefaultMemPool: 11020 } {} () -> () [];
            none 0 cuDeviceGetDevResource { cuDeviceGetDevResource: 12040 } {} () -> () [];
            none 0 cuDeviceGetExecAffinitySupport { cuDeviceGetExecAffinitySupport: 11040 } {} () -> () [];
            none 0 cuDeviceGetGraphMemAttribute { cuDeviceGetGraphMemAttribute: 11040 } {} () -> () [];
            none 0 cuDeviceGetHostAtomicCapabilities { cuDeviceGetHostAtomicCapabilities: 13000 } {} () -> () [];
            none 0 cuDeviceGetLuid { cuDeviceGetLuid: 10000 } {} () -> () [];
            none 0 cuDeviceGetMemPool { cuDeviceGetMemPool: 11020 } {} () -> () [];
            none 0 cuDeviceGetNvSciSyncAttributes { cuDeviceGetNvSciSyncAttributes: 10020 } {} () -> () [];
            none 0 cuDeviceGetP2PAtomicCapabilities { cuDeviceGetP2PAtomicCapabilities: 13000 } {} () -> () [];
            none 0 cuDeviceGetP2PAttribute { cuDeviceGetP2PAttribute: 8000 } {} () -> () [];
            none 0 cuDeviceGetTexture1DLinearMaxWidth { cuDeviceGetTexture1DLinearMaxWidth: 11010 } {} () -> () [];
            none 0 cuDeviceGraphMemTrim { cuDeviceGraphMemTrim: 11040 } {} () -> () [];
            none 0 cuDevicePrimaryCtxGetState { cuDevicePrimaryCtxGetState: 7000 } {} () -> () [];
            none 0 cuDevicePrimaryCtxRelease { cuDevicePrimaryCtxRelease_v2: 11000 } {} () -> () [];
            none 0 cuDevicePrimaryCtxReset { cuDevicePrimaryCtxReset_v2: 11000 } {} () -> () [];
            none 0 cuDevicePrimaryCtxRetain { cuDevicePrimaryCtxRetain: 7000 } {} () -> () [];
            none 0 cuDevicePrimaryCtxSetFlags { cuDevicePrimaryCtxSetFlags_v2: 11000 } {} () -> () [];
            none 0 cuDeviceRegisterAsyncNotification { cuDeviceRegisterAsyncNotification: 12040 } {} () -> () [];
            none 0 cuDeviceSetGraphMemAttribute { cuDeviceSetGraphMemAttribute: 11040 } {} () -> () [];
            none 0 cuDeviceSetMemPool { cuDeviceSetMemPool: 11020 } {} () -> () [];
            none 0 cuDeviceUnregisterAsyncNotification { cuDeviceUnregisterAsyncNotification: 12040 } {} () -> () [];
            none 0 cuEventRecordWithFlags { cuEventRecordWithFlags: 11010 } { cuEventRecordWithFlags_ptsz: 11010 } () -> () [];
            none 0 cuExternalMemoryGetMappedBuffer { cuExternalMemoryGetMappedBuffer: 10000 } {} () -> () [];
            none 0 cuExternalMemoryGetMappedMipmappedArray { cuExternalMemoryGetMappedMipmappedArray: 10000 } {} () -> () [];
            none 0 cuFlushGPUDirectRDMAWrites { cuFlushGPUDirectRDMAWrites: 11030 } {} () -> () [];
            none 0 cuFuncGetModule { cuFuncGetModule: 11000 } {} () -> () [];
            none 0 cuFuncGetName { cuFuncGetName: 12030 } {} () -> () [];
            none 0 cuFuncGetParamInfo { cuFuncGetParamInfo: 12040 } {} () -> () [];
            none 0 cuFuncIsLoaded { cuFuncIsLoaded: 12040 } {} () -> () [];
            none 0 cuFuncLoad { cuFuncLoad: 12040 } {} () -> () [];
            none 0 cuFuncSetAttribute { cuFuncSetAttribute: 9000 } {} () -> () [];
            none 0 cuFuncSetBlockShape { cuFuncSetBlockShape: 2000 } {} () -> () [];
            none 0 cuFuncSetCacheConfig { cuFuncSetCacheConfig: 3000 } {} () -> () [];
            none 0 cuFuncSetSharedMemConfig { cuFuncSetSharedMemConfig: 4020 } {} () -> () [];
            none 0 cuFuncSetSharedSize { cuFuncSetSharedSize: 2000 } {} () -> () [];
            none 0 cuGraphAddBatchMemOpNode { cuGraphAddBatchMemOpNode: 11070 } {} () -> () [];
            none 0 cuGraphAddChildGraphNode { cuGraphAddChildGraphNode: 10000 } {} () -> () [];
            none 0 cuGraphAddDependencies { cuGraphAddDependencies_v2: 12030 } {} () -> () [];
            none 0 cuGraphAddEmptyNode { cuGraphAddEmptyNode: 10000 } {} () -> () [];
            none 0 cuGraphAddEventRecordNode { cuGraphAddEventRecordNode: 11010 } {} () -> () [];
            none 0 cuGraphAddEventWaitNode { cuGraphAddEventWaitNode: 11010 } {} () -> () [];
            none 0 cuGraphAddExternalSemaphoresSignalNode { cuGraphAddExternalSemaphoresSignalNode: 11020 } {} () -> () [];
            none 0 cuGraphAddExternalSemaphoresWaitNode { cuGraphAddExternalSemaphoresWaitNode: 11020 } {} () -> () [];
            none 0 cuGraphAddHostNode { cuGraphAddHostNode: 10000 } {} () -> () [];
            none 0 cuGraphAddKernelNode { cuGraphAddKernelNode_v2: 12000 } {} () -> () [];
            none 0 cuGraphAddMemAllocNode { cuGraphAddMemAllocNode: 11040 } {} () -> () [];
            none 0 cuGraphAddMemFreeNode { cuGraphAddMemFreeNode: 11040 } {} () -> () [];
            none 0 cuGraphAddMemcpyNode { cuGraphAddMemcpyNode: 10000 } {} () -> () [];
            none 0 cuGraphAddMemsetNode { cuGraphAddMemsetNode: 10000 } {} () -> () [];
            none 0 cuGraphAddNode { cuGraphAddNode_v2: 12030 } {} () -> () [];
            none 0 cuGraphBatchMemOpNodeGetParams { cuGraphBatchMemOpNodeGetParams: 11070 } {} () -> () [];
            none 0 cuGraphBatchMemOpNodeSetParams { cuGraphBatchMemOpNodeSetParams: 11070 } {} () -> () [];
            none 0 cuGraphChildGraphNodeGetGraph { cuGraphChildGraphNodeGetGraph: 10000 } {} () -> () [];
            none 0 cuGraphClone { cuGraphClone: 10000 } {} () -> () [];
            none 0 cuGraphConditionalHandleCreate { cuGraphConditionalHandleCreate: 12030 } {} () -> () [];
            none 0 cuGraphCreate { cuGraphCreate: 10000 } {} () -> () [];
            none 0 cuGraphDebugDotPrint { cuGraphDebugDotPrint: 11030 } {} () -> () [];
            none 0 cuGraphDestroyNode { cuGraphDestroyNode: 10000 } {} () -> () [];
            none 0 cuGraphEventRecordNodeGetEvent { cuGraphEventRecordNodeGetEvent: 11010 } {} () -> () [];
            none 0 cuGraphEventRecordNodeSetEvent { cuGraphEventRecordNodeSetEvent: 11010 } {} () -> () [];
            none 0 cuGraphEventWaitNodeGetEvent { cuGraphEventWaitNodeGetEvent: 11010 } {} () -> () [];
            none 0 cuGraphEventWaitNodeSetEvent { cuGraphEventWaitNodeSetEvent: 11010 } {} () -> () [];
            none 0 cuGraphExecBatchMemOpNodeSetParams { cuGraphExecBatchMemOpNodeSetParams: 11070 } {} () -> () [];
            none 0 cuGraphExecChildGraphNodeSetParams { cuGraphExecChildGraphNodeSetParams: 11010 } {} () -> () [];
            none 0 cuGraphExecEventRecordNodeSetEvent { cuGraphExecEventRecordNodeSetEvent: 11010 } {} () -> () [];
            none 0 cuGraphExecEventWaitNodeSetEvent { cuGraphExecEventWaitNodeSetEvent: 11010 } {} () -> () [];
            none 0 cuGraphExecExternalSemaphoresSignalNodeSetParams { cuGraphExecExternalSemaphoresSignalNodeSetParams: 11020 } {} () -> () [];
            none 0 cuGraphExecExternalSemaphoresWaitNodeSetParams { cuGraphExecExternalSemaphoresWaitNodeSetParams: 11020 } {} () -> () [];
            none 0 cuGraphExecGetFlags { cuGraphExecGetFlags: 12000 } {} () -> () [];
            none 0 cuGraphExecHostNodeSetParams { cuGraphExecHostNodeSetParams: 10020 } {} () -> () [];
            none 0 cuGraphExecKernelNodeSetParams { cuGraphExecKernelNodeSetParams_v2: 12000 } {} () -> () [];
            none 0 cuGraphExecMemcpyNodeSetParams { cuGraphExecMemcpyNodeSetParams: 10020 } {} () -> () [];
            none 0 cuGraphExecMemsetNodeSetParams { cuGraphExecMemsetNodeSetParams: 10020 } {} () -> () [];
            none 0 cuGraphExecNodeSetParams { cuGraphExecNodeSetParams: 12020 } {} () -> () [];
            none 0 cuGraphExecUpdate { cuGraphExecUpdate_v2: 12000 } {} () -> () [];
            none 0 cuGraphExternalSemaphoresSignalNodeGetParams { cuGraphExternalSemaphoresSignalNodeGetParams: 11020 } {} () -> () [];
            none 0 cuGraphExternalSemaphoresSignalNodeSetParams { cuGraphExternalSemaphoresSignalNodeSetParams: 11020 } {} () -> () [];
            none 0 cuGraphExternalSemaphoresWaitNodeGetParams { cuGraphExternalSemaphoresWaitNodeGetParams: 11020 } {} () -> () [];
            none 0 cuGraphExternalSemaphoresWaitNodeSetParams { cuGraphExternalSemaphoresWaitNodeSetParams: 11020 } {} () -> () [];
            none 0 cuGraphGetEdges { cuGraphGetEdges_v2: 12030 } {} () -> () [];
            none 0 cuGraphGetNodes { cuGraphGetNodes: 10000 } {} () -> () [];
            none 0 cuGraphGetRootNodes { cuGraphGetRootNodes: 10000 } {} () -> () [];
            none 0 cuGraphHostNodeGetParams { cuGraphHostNodeGetParams: 10000 } {} () -> () [];
            none 0 cuGraphHostNodeSetParams { cuGraphHostNodeSetParams: 10000 } {} () -> () [];
            none 0 cuGraphInstantiate { cuGraphInstantiate_v2: 11000 } {} () -> () [];
            none 0 cuGraphInstantiateWithParams { cuGraphInstantiateWithParams: 12000 } { cuGraphInstantiateWithParams_ptsz: 12000 } () -> () [];
            none 0 cuGraphKernelNodeCopyAttributes { cuGraphKernelNodeCopyAttributes: 11000 } {} () -> () [];
            none 0 cuGraphKernelNodeGetAttribute { cuGraphKernelNodeGetAttribute: 11000 } {} () -> () [];
            none 0 cuGraphKernelNodeGetParams { cuGraphKernelNodeGetParams_v2: 12000 } {} () -> () [];
            none 0 cuGraphKernelNodeSetAttribute { cuGraphKernelNodeSetAttribute: 11000 } {} () -> () [];
            none 0 cuGraphKernelNodeSetParams { cuGraphKernelNodeSetParams_v2: 12000 } {} () -> () [];
            none 0 cuGraphMemAllocNodeGetParams { cuGraphMemAllocNodeGetParams: 11040 } {} () -> () [];
            none 0 cuGraphMemFreeNodeGetParams { cuGraphMemFreeNodeGetParams: 11040 } {} () -> () [];
            none 0 cuGraphMemcpyNodeGetParams { cuGraphMemcpyNodeGetParams: 10000 } {} () -> () [];
            none 0 cuGraphMemcpyNodeSetParams { cuGraphMemcpyNodeSetParams: 10000 } {} () -> () [];
            none 0 cuGraphMemsetNodeGetParams { cuGraphMemsetNodeGetParams: 10000 } {} () -> () [];
            none 0 cuGraphMemsetNodeSetParams { cuGraphMemsetNodeSetParams: 10000 } {} () -> () [];
            none 0 cuGraphNodeFindInClone { cuGraphNodeFindInClone: 10000 } {} () -> () [];
            none 0 cuGraphNodeGetDependencies { cuGraphNodeGetDependencies_v2: 12030 } {} () -> () [];
            none 0 cuGraphNodeGetDependentNodes { cuGraphNodeGetDependentNodes_v2: 12030 } {} () -> () [];
            none 0 cuGraphNodeGetEnabled { cuGraphNodeGetEnabled: 11060 } {} () -> () [];
            none 0 cuGraphNodeGetType { cuGraphNodeGetType: 10000 } {} () -> () [];
            none 0 cuGraphNodeSetEnabled { cuGraphNodeSetEnabled: 11060 } {} () -> () [];
            none 0 cuGraphNodeSetParams { cuGraphNodeSetParams: 12020 } {} () -> () [];
            none 0 cuGraphReleaseUserObject { cuGraphReleaseUserObject: 11030 } {} () -> () [];
            none 0 cuGraphRemoveDependencies { cuGraphRemoveDependencies_v2: 12030 } {} () -> () [];
            none 0 cuGraphRetainUserObject { cuGraphRetainUserObject: 11030 } {} () -> () [];
            none 0 cuGraphUpload { cuGraphUpload: 11010 } { cuGraphUpload_ptsz: 11010 } () -> () [];
            none 0 cuGraphicsMapResources { cuGraphicsMapResources: 3000 } { cuGraphicsMapResources_ptsz: 7000 } () -> () [];
            none 0 cuGraphicsResourceGetMappedMipmappedArray { cuGraphicsResourceGetMappedMipmappedArray: 5000 } {} () -> () [];
            none 0 cuGraphicsResourceGetMappedPointer { cuGraphicsResourceGetMappedPointer_v2: 3020 } {} () -> () [];
            none 0 cuGraphicsResourceSetMapFlags { cuGraphicsResourceSetMapFlags_v2: 6050 } {} () -> () [];
            none 0 cuGraphicsSubResourceGetMappedArray { cuGraphicsSubResourceGetMappedArray: 3000 } {} () -> () [];
            none 0 cuGraphicsUnmapResources { cuGraphicsUnmapResources: 3000 } { cuGraphicsUnmapResources_ptsz: 7000 } () -> () [];
            none 0 cuGraphicsUnregisterResource { cuGraphicsUnregisterResource: 3000 } {} () -> () [];
            none 0 cuGreenCtxCreate { cuGreenCtxCreate: 12040 } {} () -> () [];
            none 0 cuGreenCtxDestroy { cuGreenCtxDestroy: 12040 } {} () -> () [];
            none 0 cuGreenCtxGetDevResource { cuGreenCtxGetDevResource: 12040 } {} () -> () [];
            none 0 cuGreenCtxGetId { cuGreenCtxGetId: 12090 } {} () -> () [];
            none 0 cuGreenCtxRecordEvent { cuGreenCtxRecordEvent: 12040 } {} () -> () [];
            none 0 cuGreenCtxStreamCreate { cuGreenCtxStreamCreate: 12050 } {} () -> () [];
            none 0 cuGreenCtxWaitEvent { cuGreenCtxWaitEvent: 12040 } {} () -> () [];
            none 0 cuImportExternalMemory { cuImportExternalMemory: 10000 } {} () -> () [];
            none 0 cuImportExternalSemaphore { cuImportExternalSemaphore: 10000 } {} () -> () [];
            none 0 cuIpcCloseMemHandle { cuIpcCloseMemHandle: 4010 } {} () -> () [];
            none 0 cuIpcGetEventHandle { cuIpcGetEventHandle: 4010 } {} () -> () [];
            none 0 cuIpcGetMemHandle { cuIpcGetMemHandle: 4010 } {} () -> () [];
            none 0 cuIpcOpenEventHandle { cuIpcOpenEventHandle: 4010 } {} () -> () [];
            none 0 cuIpcOpenMemHandle { cuIpcOpenMemHandle_v2: 11000 } {} () -> () [];
            none 0 cuKernelGetAttribute { cuKernelGetAttribute: 12000 } {} () -> () [];
            none 0 cuKernelGetFunction { cuKernelGetFunction: 12000 } {} () -> () [];
            none 0 cuKernelGetLibrary { cuKernelGetLibrary: 12050 } {} () -> () [];
            none 0 cuKernelGetName { cuKernelGetName: 12030 } {} () -> () [];
            none 0 cuKernelGetParamInfo { cuKernelGetParamInfo: 12040 } {} () -> () [];
            none 0 cuKernelSetAttribute { cuKernelSetAttribute: 12000 } {} () -> () [];
            none 0 cuKernelSetCacheConfig { cuKernelSetCacheConfig: 12000 } {} () -> () [];
            none 0 cuLaunch { cuLaunch: 2000 } {} () -> () [];
            none 0 cuLaunchCooperativeKernel { cuLaunchCooperativeKernel: 9000 } { cuLaunchCooperativeKernel_ptsz: 9000 } () -> () [];
            none 0 cuLaunchCooperativeKernelMultiDevice { cuLaunchCooperativeKernelMultiDevice: 9000 } {} () -> () [];
            none 0 cuLaunchGrid { cuLaunchGrid: 2000 } {} () -> () [];
            none 0 cuLaunchGridAsync { cuLaunchGridAsync: 2000 } {} () -> () [];
            none 0 cuLaunchKernelEx { cuLaunchKernelEx: 11060 } { cuLaunchKernelEx_ptsz: 11060 } () -> () [];
            none 0 cuLibraryEnumerateKernels { cuLibraryEnumerateKernels: 12040 } {} () -> () [];
            none 0 cuLibraryGetGlobal { cuLibraryGetGlobal: 12000 } {} () -> () [];
            none 0 cuLibraryGetKernel { cuLibraryGetKernel: 12000 } {} () -> () [];
            none 0 cuLibraryGetKernelCount { cuLibraryGetKernelCount: 12040 } {} () -> () [];
            none 0 cuLibraryGetManaged { cuLibraryGetManaged: 12000 } {} () -> () [];
            none 0 cuLibraryGetModule { cuLibraryGetModule: 12000 } {} () -> () [];
            none 0 cuLibraryGetUnifiedFunction { cuLibraryGetUnifiedFunction: 12000 } {} () -> () [];
            none 0 cuLibraryLoadData { cuLibraryLoadData: 12000 } {} () -> () [];
            none 0 cuLibraryLoadFromFile { cuLibraryLoadFromFile: 12000 } {} () -> () [];
            none 0 cuLibraryUnload { cuLibraryUnload: 12000 } {} () -> () [];
            none 0 cuLinkAddData { cuLinkAddData_v2: 6050 } {} () -> () [];
            none 0 cuLinkAddFile { cuLinkAddFile_v2: 6050 } {} () -> () [];
            none 0 cuLinkComplete { cuLinkComplete: 5050 } {} () -> () [];
            none 0 cuLinkCreate { cuLinkCreate_v2: 6050 } {} () -> () [];
            none 0 cuLinkDestroy { cuLinkDestroy: 5050 } {} () -> () [];
            none 0 cuLogsCurrent { cuLogsCurrent: 12090 } {} () -> () [];
            none 0 cuLogsDumpToFile { cuLogsDumpToFile: 12090 } {} () -> () [];
            none 0 cuLogsDumpToMemory { cuLogsDumpToMemory: 12090 } {} () -> () [];
            none 0 cuLogsRegisterCallback { cuLogsRegisterCallback: 12090 } {} () -> () [];
            none 0 cuLogsUnregisterCallback { cuLogsUnregisterCallback: 12090 } {} () -> () [];
            none 0 cuMemAddressFree { cuMemAddressFree: 10020 } {} () -> () [];
            none 0 cuMemAddressReserve { cuMemAddressReserve: 10020 } {} () -> () [];
            none 0 cuMemAdvise { cuMemAdvise_v2: 12020 } {} () -> () [];
            none 0 cuMemAllocAsync { cuMemAllocAsync: 11020 } { cuMemAllocAsync_ptsz: 11020 } () -> () [];
            none 0 cuMemAllocFromPoolAsync { cuMemAllocFromPoolAsync: 11020 } { cuMemAllocFromPoolAsync_ptsz: 11020 } () -> () [];
            none 0 cuMemAllocManaged { cuMemAllocManaged: 6000 } {} () -> () [];
            none 0 cuMemAllocPitch { cuMemAllocPitch_v2: 3020 } {} () -> () [];
            none 0 cuMemBatchDecompressAsync { cuMemBatchDecompressAsync: 12060 } { cuMemBatchDecompressAsync_ptsz: 12060 } () -> () [];
            none 0 cuMemCreate { cuMemCreate: 10020 } {} () -> () [];
            none 0 cuMemDiscardAndPrefetchBatchAsync { cuMemDiscardAndPrefetchBatchAsync: 13000 } { cuMemDiscardAndPrefetchBatchAsync_ptsz: 13000 } () -> () [];
            none 0 cuMemDiscardBatchAsync { cuMemDiscardBatchAsync: 13000 } { cuMemDiscardBatchAsync_ptsz: 13000 } () -> () [];
            none 0 cuMemExportToShareableHandle { cuMemExportToShareableHandle: 10020 } {} () -> () [];
            none 0 cuMemFreeAsync { cuMemFreeAsync: 11020 } { cuMemFreeAsync_ptsz: 11020 } () -> () [];
            none 0 cuMemGetAccess { cuMemGetAccess: 10020 } {} () -> () [];
            none 0 cuMemGetAddressRange { cuMemGetAddressRange_v2: 3020 } {} () -> () [];
            none 0 cuMemGetAllocationGranularity { cuMemGetAllocationGranularity: 10020 } {} () -> () [];
            none 0 cuMemGetAllocationPropertiesFromHandle { cuMemGetAllocationPropertiesFromHandle: 10020 } {} () -> () [];
            none 0 cuMemGetDefaultMemPool { cuMemGetDefaultMemPool: 13000 } {} () -> () [];
            none 0 cuMemGetHandleForAddressRange { cuMemGetHandleForAddressRange: 11070 } {} () -> () [];
            none 0 cuMemGetMemPool { cuMemGetMemPool: 13000 } {} () -> () [];
            none 0 cuMemHostRegister { cuMemHostRegister_v2: 6050 } {} () -> () [];
            none 0 cuMemHostUnregister { cuMemHostUnregister: 4000 } {} () -> () [];
            none 0 cuMemImportFromShareableHandle { cuMemImportFromShareableHandle: 10020 } {} () -> () [];
            none 0 cuMemMap { cuMemMap: 10020 } {} () -> () [];
            none 0 cuMemMapArrayAsync { cuMemMapArrayAsync: 11010 } { cuMemMapArrayAsync_ptsz: 11010 } () -> () [];
            none 0 cuMemPoolCreate { cuMemPoolCreate: 11020 } {} () -> () [];
            none 0 cuMemPoolDestroy { cuMemPoolDestroy: 11020 } {} () -> () [];
            none 0 cuMemPoolExportPointer { cuMemPoolExportPointer: 11020 } {} () -> () [];
            none 0 cuMemPoolExportToShareableHandle { cuMemPoolExportToShareableHandle: 11020 } {} () -> () [];
            none 0 cuMemPoolGetAccess { cuMemPoolGetAccess: 11020 } {} () -> () [];
            none 0 cuMemPoolGetAttribute { cuMemPoolGetAttribute: 11020 } {} () -> () [];
            none 0 cuMemPoolImportFromShareableHandle { cuMemPoolImportFromShareableHandle: 11020 } {} () -> () [];
            none 0 cuMemPoolImportPointer { cuMemPoolImportPointer: 11020 } {} () -> () [];
            none 0 cuMemPoolSetAccess { cuMemPoolSetAccess: 11020 } {} () -> () [];
            none 0 cuMemPoolSetAttribute { cuMemPoolSetAttribute: 11020 } {} () -> () [];
            none 0 cuMemPoolTrimTo { cuMemPoolTrimTo: 11020 } {} () -> () [];
            none 0 cuMemPrefetchAsync { cuMemPrefetchAsync_v2: 12020 } { cuMemPrefetchAsync_v2_ptsz: 12020 } () -> () [];
            none 0 cuMemPrefetchBatchAsync { cuMemPrefetchBatchAsync: 13000 } { cuMemPrefetchBatchAsync_ptsz: 13000 } () -> () [];
            none 0 cuMemRangeGetAttribute { cuMemRangeGetAttribute: 8000 } {} () -> () [];
            none 0 cuMemRangeGetAttributes { cuMemRangeGetAttributes: 8000 } {} () -> () [];
            none 0 cuMemRelease { cuMemRelease: 10020 } {} () -> () [];
            none 0 cuMemRetainAllocationHandle { cuMemRetainAllocationHandle: 11000 } {} () -> () [];
            none 0 cuMemSetAccess { cuMemSetAccess: 10020 } {} () -> () [];
            none 0 cuMemSetMemPool { cuMemSetMemPool: 13000 } {} () -> () [];
            none 0 cuMemUnmap { cuMemUnmap: 10020 } {} () -> () [];
            none 0 cuMemcpy2D { cuMemcpy2D_v2: 3020 } { cuMemcpy2D_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpy2DAsync { cuMemcpy2DAsync_v2: 3020 } { cuMemcpy2DAsync_v2_ptsz: 7000 } () -> () [];
            none 0 cuMemcpy2DUnaligned { cuMemcpy2DUnaligned_v2: 3020 } { cuMemcpy2DUnaligned_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpy3D { cuMemcpy3D_v2: 3020 } { cuMemcpy3D_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpy3DAsync { cuMemcpy3DAsync_v2: 3020 } { cuMemcpy3DAsync_v2_ptsz: 7000 } () -> () [];
            none 0 cuMemcpy3DBatchAsync { cuMemcpy3DBatchAsync_v2: 13000 } { cuMemcpy3DBatchAsync_v2_ptsz: 13000 } () -> () [];
            none 0 cuMemcpy3DPeer { cuMemcpy3DPeer: 4000 } { cuMemcpy3DPeer_ptds: 7000 } () -> () [];
            none 0 cuMemcpy3DPeerAsync { cuMemcpy3DPeerAsync: 4000 } { cuMemcpy3DPeerAsync_ptsz: 7000 } () -> () [];
            none 0 cuMemcpyAtoA { cuMemcpyAtoA_v2: 3020 } { cuMemcpyAtoA_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpyAtoD { cuMemcpyAtoD_v2: 3020 } { cuMemcpyAtoD_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpyAtoH { cuMemcpyAtoH_v2: 3020 } { cuMemcpyAtoH_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpyAtoHAsync { cuMemcpyAtoHAsync_v2: 3020 } { cuMemcpyAtoHAsync_v2_ptsz: 7000 } () -> () [];
            none 0 cuMemcpyBatchAsync { cuMemcpyBatchAsync_v2: 13000 } { cuMemcpyBatchAsync_v2_ptsz: 13000 } () -> () [];
            none 0 cuMemcpyDtoA { cuMemcpyDtoA_v2: 3020 } { cuMemcpyDtoA_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpyHtoA { cuMemcpyHtoA_v2: 3020 } { cuMemcpyHtoA_v2_ptds: 7000 } () -> () [];
            none 0 cuMemcpyHtoAAsync { cuMemcpyHtoAAsync_v2: 3020 } { cuMemcpyHtoAAsync_v2_ptsz: 7000 } () -> () [];
            none 0 cuMemcpyPeer { cuMemcpyPeer: 4000 } { cuMemcpyPeer_ptds: 7000 } () -> () [];
            none 0 cuMemcpyPeerAsync { cuMemcpyPeerAsync: 4000 } { cuMemcpyPeerAsync_ptsz: 7000 } () -> () [];
            none 0 cuMemsetD2D16 { cuMemsetD2D16_v2: 3020 } { cuMemsetD2D16_v2_ptds: 7000 } () -> () [];
            none 0 cuMemsetD2D16Async { cuMemsetD2D16Async: 3020 } { cuMemsetD2D16Async_ptsz: 7000 } () -> () [];
            none 0 cuMemsetD2D32 { cuMemsetD2D32_v2: 3020 } { cuMemsetD2D32_v2_ptds: 7000 } () -> () [];
            none 0 cuMemsetD2D32Async { cuMemsetD2D32Async: 3020 } { cuMemsetD2D32Async_ptsz: 7000 } () -> () [];
            none 0 cuMemsetD2D8 { cuMemsetD2D8_v2: 3020 } { cuMemsetD2D8_v2_ptds: 7000 } () -> () [];
            none 0 cuMemsetD2D8Async { cuMemsetD2D8Async: 3020 } { cuMemsetD2D8Async_ptsz: 7000 } () -> () [];
            none 0 cuMipmappedArrayCreate { cuMipmappedArrayCreate: 5000 } {} () -> () [];
            none 0 cuMipmappedArrayDestroy { cuMipmappedArrayDestroy: 5000 } {} () -> () [];
            none 0 cuMipmappedArrayGetLevel { cuMipmappedArrayGetLevel: 5000 } {} () -> () [];
            none 0 cuMipmappedArrayGetMemoryRequirements { cuMipmappedArrayGetMemoryRequirements: 11060 } {} () -> () [];
            none 0 cuMipmappedArrayGetSparseProperties { cuMipmappedArrayGetSparseProperties: 11010 } {} () -> () [];
            none 0 cuModuleEnumerateFunctions { cuModuleEnumerateFunctions: 12040 } {} () -> () [];
            none 0 cuModuleGetFunctionCount { cuModuleGetFunctionCount: 12040 } {} () -> () [];
            none 0 cuModuleGetSurfRef { cuModuleGetSurfRef: 3000 } {} () -> () [];
            none 0 cuModuleGetTexRef { cuModuleGetTexRef: 2000 } {} () -> () [];
            none 0 cuMulticastAddDevice { cuMulticastAddDevice: 12010 } {} () -> () [];
            none 0 cuMulticastBindAddr { cuMulticastBindAddr: 12010 } {} () -> () [];
            none 0 cuMulticastBindMem { cuMulticastBindMem: 12010 } {} () -> () [];
            none 0 cuMulticastCreate { cuMulticastCreate: 12010 } {} () -> () [];
            none 0 cuMulticastGetGranularity { cuMulticastGetGranularity: 12010 } {} () -> () [];
            none 0 cuMulticastUnbind { cuMulticastUnbind: 12010 } {} () -> () [];
            none 0 cuOccupancyAvailableDynamicSMemPerBlock { cuOccupancyAvailableDynamicSMemPerBlock: 10020 } {} () -> () [];
            none 0 cuOccupancyMaxActiveBlocksPerMultiprocessor { cuOccupancyMaxActiveBlocksPerMultiprocessor: 6050 } {} () -> () [];
            none 0 cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags { cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags: 7000 } {} () -> () [];
            none 0 cuOccupancyMaxActiveClusters { cuOccupancyMaxActiveClusters: 11070 } {} () -> () [];
            none 0 cuOccupancyMaxPotentialBlockSize { cuOccupancyMaxPotentialBlockSize: 6050 } {} () -> () [];
            none 0 cuOccupancyMaxPotentialBlockSizeWithFlags { cuOccupancyMaxPotentialBlockSizeWithFlags: 7000 } {} () -> () [];
            none 0 cuOccupancyMaxPotentialClusterSize { cuOccupancyMaxPotentialClusterSize: 11070 } {} () -> () [];
            none 0 cuParamSetSize { cuParamSetSize: 2000 } {} () -> () [];
            none 0 cuParamSetTexRef { cuParamSetTexRef: 2000 } {} () -> () [];
            none 0 cuParamSetf { cuParamSetf: 2000 } {} () -> () [];
            none 0 cuParamSeti { cuParamSeti: 2000 } {} () -> () [];
            none 0 cuParamSetv { cuParamSetv: 2000 } {} () -> () [];
            none 0 cuPointerGetAttribute { cuPointerGetAttribute: 4000 } {} () -> () [];
            none 0 cuPointerGetAttributes { cuPointerGetAttributes: 7000 } {} () -> () [];
            none 0 cuPointerSetAttribute { cuPointerSetAttribute: 6000 } {} () -> () [];
            none 0 cuSignalExternalSemaphoresAsync { cuSignalExternalSemaphoresAsync: 10000 } { cuSignalExternalSemaphoresAsync_ptsz: 10000 } () -> () [];
            none 0 cuStreamAddCallback { cuStreamAddCallback: 5000 } { cuStreamAddCallback_ptsz: 7000 } () -> () [];
            none 0 cuStreamAttachMemAsync { cuStreamAttachMemAsync: 6000 } { cuStreamAttachMemAsync_ptsz: 7000 } () -> () [];
            none 0 cuStreamBatchMemOp { cuStreamBatchMemOp_v2: 11070 } { cuStreamBatchMemOp_v2_ptsz: 11070 } () -> () [];
            none 0 cuStreamBeginCaptureToGraph { cuStreamBeginCaptureToGraph: 12030 } { cuStreamBeginCaptureToGraph_ptsz: 12030 } () -> () [];
            none 0 cuStreamCopyAttributes { cuStreamCopyAttributes: 11000 } { cuStreamCopyAttributes_ptsz: 11000 } () -> () [];
            none 0 cuStreamCreateWithPriority { cuStreamCreateWithPriority: 5050 } {} () -> () [];
            none 0 cuStreamGetAttribute { cuStreamGetAttribute: 11000 } { cuStreamGetAttribute_ptsz: 11000 } () -> () [];
            none 0 cuStreamGetCaptureInfo { cuStreamGetCaptureInfo_v3: 12030 } { cuStreamGetCaptureInfo_v3_ptsz: 12030 } () -> () [];
            none 0 cuStreamGetCtx { cuStreamGetCtx_v2: 12050 } { cuStreamGetCtx_v2_ptsz: 12050 } () -> () [];
            none 0 cuStreamGetDevice { cuStreamGetDevice: 12080 } { cuStreamGetDevice_ptsz: 12080 } () -> () [];
            none 0 cuStreamGetFlags { cuStreamGetFlags: 5050 } { cuStreamGetFlags_ptsz: 7000 } () -> () [];
            none 0 cuStreamGetGreenCtx { cuStreamGetGreenCtx: 12040 } {} () -> () [];
            none 0 cuStreamGetId { cuStreamGetId: 12000 } { cuStreamGetId_ptsz: 12000 } () -> () [];
            none 0 cuStreamGetPriority { cuStreamGetPriority: 5050 } { cuStreamGetPriority_ptsz: 7000 } () -> () [];
            none 0 cuStreamSetAttribute { cuStreamSetAttribute: 11000 } { cuStreamSetAttribute_ptsz: 11000 } () -> () [];
            none 0 cuStreamUpdateCaptureDependencies { cuStreamUpdateCaptureDependencies_v2: 12030 } { cuStreamUpdateCaptureDependencies_v2_ptsz: 12030 } () -> () [];
            none 0 cuStreamWaitValue32 { cuStreamWaitValue32_v2: 11070 } { cuStreamWaitValue32_v2_ptsz: 11070 } () -> () [];
            none 0 cuStreamWaitValue64 { cuStreamWaitValue64_v2: 11070 } { cuStreamWaitValue64_v2_ptsz: 11070 } () -> () [];
            none 0 cuStreamWriteValue32 { cuStreamWriteValue32_v2: 11070 } { cuStreamWriteValue32_v2_ptsz: 11070 } () -> () [];
            none 0 cuStreamWriteValue64 { cuStreamWriteValue64_v2: 11070 } { cuStreamWriteValue64_v2_ptsz: 11070 } () -> () [];
            none 0 cuSurfObjectCreate { cuSurfObjectCreate: 5000 } {} () -> () [];
            none 0 cuSurfObjectDestroy { cuSurfObjectDestroy: 5000 } {} () -> () [];
            none 0 cuSurfObjectGetResourceDesc { cuSurfObjectGetResourceDesc: 5000 } {} () -> () [];
            none 0 cuSurfRefGetArray { cuSurfRefGetArray: 3000 } {} () -> () [];
            none 0 cuSurfRefSetArray { cuSurfRefSetArray: 3000 } {} () -> () [];
            none 0 cuTensorMapEncodeIm2col { cuTensorMapEncodeIm2col: 12000 } {} () -> () [];
            none 0 cuTensorMapEncodeIm2colWide { cuTensorMapEncodeIm2colWide: 12080 } {} () -> () [];
            none 0 cuTensorMapEncodeTiled { cuTensorMapEncodeTiled: 12000 } {} () -> () [];
            none 0 cuTensorMapReplaceAddress { cuTensorMapReplaceAddress: 12000 } {} () -> () [];
            none 0 cuTexObjectCreate { cuTexObjectCreate: 5000 } {} () -> () [];
            none 0 cuTexObjectDestroy { cuTexObjectDestroy: 5000 } {} () -> () [];
            none 0 cuTexObjectGetResourceDesc { cuTexObjectGetResourceDesc: 5000 } {} () -> () [];
            none 0 cuTexObjectGetResourceViewDesc { cuTexObjectGetResourceViewDesc: 5000 } {} () -> () [];
            none 0 cuTexObjectGetTextureDesc { cuTexObjectGetTextureDesc: 5000 } {} () -> () [];
            none 0 cuTexRefCreate { cuTexRefCreate: 2000 } {} () -> () [];
            none 0 cuTexRefDestroy { cuTexRefDestroy: 2000 } {} () -> () [];
            none 0 cuTexRefGetAddress { cuTexRefGetAddress_v2: 3020 } {} () -> () [];
            none 0 cuTexRefGetAddressMode { cuTexRefGetAddressMode: 2000 } {} () -> () [];
            none 0 cuTexRefGetArray { cuTexRefGetArray: 2000 } {} () -> () [];
            none 0 cuTexRefGetBorderColor { cuTexRefGetBorderColor: 8000 } {} () -> () [];
            none 0 cuTexRefGetFilterMode { cuTexRefGetFilterMode: 2000 } {} () -> () [];
            none 0 cuTexRefGetFlags { cuTexRefGetFlags: 2000 } {} () -> () [];
            none 0 cuTexRefGetFormat { cuTexRefGetFormat: 2000 } {} () -> () [];
            none 0 cuTexRefGetMaxAnisotropy { cuTexRefGetMaxAnisotropy: 5000 } {} () -> () [];
            none 0 cuTexRefGetMipmapFilterMode { cuTexRefGetMipmapFilterMode: 5000 } {} () -> () [];
            none 0 cuTexRefGetMipmapLevelBias { cuTexRefGetMipmapLevelBias: 5000 } {} () -> () [];
            none 0 cuTexRefGetMipmapLevelClamp { cuTexRefGetMipmapLevelClamp: 5000 } {} () -> () [];
            none 0 cuTexRefGetMipmappedArray { cuTexRefGetMipmappedArray: 5000 } {} () -> () [];
            none 0 cuTexRefSetAddress { cuTexRefSetAddress_v2: 3020 } {} () -> () [];
            none 0 cuTexRefSetAddress2D { cuTexRefSetAddress2D_v3: 4010 } {} () -> () [];
            none 0 cuTexRefSetAddressMode { cuTexRefSetAddressMode: 2000 } {} () -> () [];
            none 0 cuTexRefSetArray { cuTexRefSetArray: 2000 } {} () -> () [];
            none 0 cuTexRefSetBorderColor { cuTexRefSetBorderColor: 8000 } {} () -> () [];
            none 0 cuTexRefSetFilterMode { cuTexRefSetFilterMode: 2000 } {} () -> () [];
            none 0 cuTexRefSetFlags { cuTexRefSetFlags: 2000 } {} () -> () [];
            none 0 cuTexRefSetFormat { cuTexRefSetFormat: 2000 } {} () -> () [];
            none 0 cuTexRefSetMaxAnisotropy { cuTexRefSetMaxAnisotropy: 5000 } {} () -> () [];
            none 0 cuTexRefSetMipmapFilterMode { cuTexRefSetMipmapFilterMode: 5000 } {} () -> () [];
            none 0 cuTexRefSetMipmapLevelBias { cuTexRefSetMipmapLevelBias: 5000 } {} () -> () [];
            none 0 cuTexRefSetMipmapLevelClamp { cuTexRefSetMipmapLevelClamp: 5000 } {} () -> () [];
            none 0 cuTexRefSetMipmappedArray { cuTexRefSetMipmappedArray: 5000 } {} () -> () [];
            none 0 cuUserObjectCreate { cuUserObjectCreate: 11030 } {} () -> () [];
            none 0 cuUserObjectRelease { cuUserObjectRelease: 11030 } {} () -> () [];
            none 0 cuUserObjectRetain { cuUserObjectRetain: 11030 } {} () -> () [];
            none 0 cuWaitExternalSemaphoresAsync { cuWaitExternalSemaphoresAsync: 10000 } { cuWaitExternalSemaphoresAsync_ptsz: 10000 } () -> () [];
        }
    };
}

/// Calls `$with!{ symbols }` with the symbols of the ABI that no row has: earlier versions of functions, and
/// graphics interoperation that comes with other headers. They are exported, answer CUDA_ERROR_NOT_SUPPORTED,
/// and `cuGetProcAddress` does not know them.
#[macro_export]
macro_rules! for_each_old_symbol {
    ($($with:tt)::+) => {
        $($with)::+! {
            cuArray3DCreate cuArray3DGetDescriptor cuArrayCreate cuArrayGetDescriptor cuCtxCreate
            cuCtxDestroy cuCtxPopCurrent cuCtxPushCurrent cuDevicePrimaryCtxRelease cuDevicePrimaryCtxReset
            cuDevicePrimaryCtxSetFlags cuDeviceTotalMem cuEGLApiInit cuEGLStreamConsumerAcquireFrame
            cuEGLStreamConsumerConnect cuEGLStreamConsumerConnectWithFlags cuEGLStreamConsumerDisconnect
            cuEGLStreamConsumerReleaseFrame cuEGLStreamProducerConnect cuEGLStreamProducerDisconnect
            cuEGLStreamProducerPresentFrame cuEGLStreamProducerReturnFrame cuEventDestroy cuGLCtxCreate
            cuGLCtxCreate_v2 cuGLGetDevices cuGLGetDevices_v2 cuGLInit cuGLMapBufferObject
            cuGLMapBufferObjectAsync cuGLMapBufferObjectAsync_v2 cuGLMapBufferObjectAsync_v2_ptsz
            cuGLMapBufferObject_v2 cuGLMapBufferObject_v2_ptds cuGLRegisterBufferObject
            cuGLSetBufferObjectMapFlags cuGLUnmapBufferObject cuGLUnmapBufferObjectAsync
            cuGLUnregisterBufferObject cuGraphAddDependencies cuGraphAddKernelNode cuGraphAddNode
            cuGraphExecKernelNodeSetParams cuGraphExecUpdate cuGraphGetEdges cuGraphInstantiate
            cuGraphKernelNodeGetParams cuGraphKernelNodeSetParams cuGraphNodeGetDependencies
            cuGraphNodeGetDependentNodes cuGraphRemoveDependencies cuGraphicsEGLRegisterImage
            cuGraphicsGLRegisterBuffer cuGraphicsGLRegisterImage cuGraphicsResourceGetMappedEglFrame
            cuGraphicsResourceGetMappedPointer cuGraphicsResourceSetMapFlags
            cuGraphicsVDPAURegisterOutputSurface cuGraphicsVDPAURegisterVideoSurface cuIpcOpenMemHandle
            cuLinkAddData cuLinkAddFile cuLinkCreate cuMemAdvise cuMemAlloc cuMemAllocHost cuMemAllocPitch
            cuMemFree cuMemGetAddressRange cuMemGetAttribute cuMemGetAttribute_v2 cuMemGetInfo
            cuMemHostGetDevicePointer cuMemHostRegister cuMemPrefetchAsync cuMemPrefetchAsync_ptsz
            cuMemcpy2D cuMemcpy2DAsync cuMemcpy2DUnaligned cuMemcpy3D cuMemcpy3DAsync cuMemcpy3DBatchAsync
            cuMemcpy3DBatchAsync_ptsz cuMemcpyAtoA cuMemcpyAtoD cuMemcpyAtoH cuMemcpyAtoHAsync
            cuMemcpyBatchAsync cuMemcpyBatchAsync_ptsz cuMemcpyDtoA cuMemcpyDtoD cuMemcpyDtoDAsync
            cuMemcpyDtoH cuMemcpyDtoHAsync cuMemcpyHtoA cuMemcpyHtoAAsync cuMemcpyHtoD cuMemcpyHtoDAsync
            cuMemsetD16 cuMemsetD2D16 cuMemsetD2D32 cuMemsetD2D8 cuMemsetD32 cuMemsetD8 cuModuleGetGlobal
            cuProfilerInitialize cuProfilerStart cuProfilerStop cuStreamBatchMemOp cuStreamBatchMemOp_ptsz
            cuStreamBeginCapture cuStreamBeginCapture_ptsz cuStreamDestroy cuStreamGetCaptureInfo
            cuStreamGetCaptureInfo_ptsz cuStreamGetCaptureInfo_v2 cuStreamGetCaptureInfo_v2_ptsz
            cuStreamGetCtx cuStreamGetCtx_ptsz cuStreamUpdateCaptureDependencies
            cuStreamUpdateCaptureDependencies_ptsz cuStreamWaitValue32 cuStreamWaitValue32_ptsz
            cuStreamWaitValue64 cuStreamWaitValue64_ptsz cuStreamWriteValue32 cuStreamWriteValue32_ptsz
            cuStreamWriteValue64 cuStreamWriteValue64_ptsz cuTexRefGetAddress cuTexRefSetAddress
            cuTexRefSetAddress2D cuTexRefSetAddress2D_v2 cuVDPAUCtxCreate cuVDPAUCtxCreate_v2
            cuVDPAUGetDevice
        }
    };
}

/// Who answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It crosses the wire.
    Call,
    /// The guest's library alone.
    Local,
    /// Nobody: CUDA_ERROR_NOT_SUPPORTED.
    None,
}

/// An exported function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name in the library.
    pub name: &'static str,
    /// CUDA version that brought it.
    pub since: u32,
    /// Whether its null stream is the per-thread default stream.
    pub per_thread: bool,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Who answers it.
    pub mode: Mode,
    /// The operation, 0 if it does not cross the wire.
    pub op: u16,
    /// Name without a version.
    pub name: &'static str,
    /// Its exported functions.
    pub symbols: &'static [Symbol],
    /// Argument words.
    pub arguments: usize,
    /// Result words.
    pub results: usize,
    /// The guest waits for the answer.
    pub reply: bool,
    /// It needs the GPU's compute engine.
    pub turn: bool,
    /// It need not follow what other rings submitted.
    pub unordered: bool,
    /// It takes locks of the whole driver: a limit of its own rations it.
    pub driver: bool,
    /// Its record carries a blob.
    pub blob_in: bool,
    /// Its reply carries a blob.
    pub blob_out: bool,
}

/// What one call puts into its record and its reply.
pub trait Wire {
    /// The operation in the record's header.
    const OP: u16;
    /// The row.
    const CALL: &'static Call;
    /// Argument words.
    type In: Words;
    /// Result words.
    type Out: Words;
}

const fn mode(name: &str) -> Mode {
    match name.as_bytes() {
        b"call" => Mode::Call,
        b"local" => Mode::Local,
        b"none" => Mode::None,
        _ => panic!("a row's mode is call, local or none"),
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn has(flags: &[&str], flag: &str) -> bool {
    let mut i = 0;
    let mut found = false;
    while i < flags.len() {
        assert!(
            same(flags[i], "reply")
                || same(flags[i], "turn")
                || same(flags[i], "unordered")
                || same(flags[i], "driver")
                || same(flags[i], "blob_in")
                || same(flags[i], "blob_out"),
            "a row's flag is unknown"
        );
        found |= same(flags[i], flag);
        i += 1;
    }
    found
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($field:ident : $type:ty),* }) => {
        $(#[$doc])*
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $(pub $field: $type),* }
        impl Words for $name {
            const LEN: usize = <[&str]>::len(&[$(stringify!($field)),*]);
            fn put(&self, to: &mut [u64; WORDS_MAX]) {
                let words: [u64; Self::LEN] = [$(self.$field.to_word()),*];
                to[..Self::LEN].copy_from_slice(&words);
            }
            fn take(words: &[u64]) -> Option<Self> {
                let [$($field),*] = words else { return None };
                Some(Self { $($field: Word::from_word(*$field)?),* })
            }
        }
    };
}

macro_rules! table {
    ($($mode:ident $op:literal $name:ident { $($symbol:ident : $since:literal),* } { $($pt:ident : $pts:literal),* }
       ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
        /// Every row of the table.
        pub const CALLS: &[Call] = &[$(Call {
            mode: mode(stringify!($mode)),
            op: $op,
            name: stringify!($name),
            symbols: &[
                $(Symbol { name: stringify!($symbol), since: $since, per_thread: false },)*
                $(Symbol { name: stringify!($pt), since: $pts, per_thread: true },)*
            ],
            arguments: <[&str]>::len(&[$(stringify!($a)),*]),
            results: <[&str]>::len(&[$(stringify!($r)),*]),
            reply: has(&[$(stringify!($flag)),*], "reply"),
            turn: has(&[$(stringify!($flag)),*], "turn"),
            unordered: has(&[$(stringify!($flag)),*], "unordered"),
            driver: has(&[$(stringify!($flag)),*], "driver"),
            blob_in: has(&[$(stringify!($flag)),*], "blob_in"),
            blob_out: has(&[$(stringify!($flag)),*], "blob_out"),
        }),*];
        $(row! { $mode $op $name ($($a : $at),*) ($($r : $rt),*) })*
    };
}

macro_rules! row {
    (call $op:literal $name:ident ($($a:ident : $at:ty),*) ($($r:ident : $rt:ty),*)) => {
        #[doc = concat!("What `", stringify!($name), "` puts on the wire.")]
        #[allow(non_snake_case)]
        pub mod $name {
            use super::*;
            words! { /// Its arguments.
                In { $($a : $at),* } }
            words! { /// Its results.
                Out { $($r : $rt),* } }
            /// Names the call where a type is wanted.
            #[derive(Clone, Copy, Debug)]
            pub struct Call;
            impl Wire for Call {
                const OP: u16 = $op;
                const CALL: &'static super::Call = by_op($op);
                type In = In;
                type Out = Out;
            }
            /// The operation in the record's header.
            pub const OP: u16 = $op;
        }
    };
    ($mode:ident $op:literal $name:ident () ()) => {
        const _: () = assert!($op == 0, "only a call has a number");
    };
}

for_each_call!(table);

const fn by_op(op: u16) -> &'static Call {
    let mut i = 0;
    while i < CALLS.len() {
        if CALLS[i].op == op {
            return &CALLS[i];
        }
        i += 1;
    }
    panic!("every number in the table has a row")
}

/// The row of the call with this operation.
pub fn find_op(op: u16) -> Option<&'static Call> {
    let i = usize::from(op.checked_sub(OP_FIRST)?);
    CALLS.get(i).filter(|call| call.op == op)
}

/// The row of the call with this unversioned name.
pub fn find_name(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}

/// The number of the first call; the calls that cross the wire come first in the table, numbered in order.
pub const OP_FIRST: u16 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_rise_by_one_and_names_are_unique() {
        let numbered: Vec<_> = CALLS.iter().filter(|c| c.mode == Mode::Call).collect();
        for (i, call) in numbered.iter().enumerate() {
            assert_eq!(usize::from(call.op), usize::from(OP_FIRST) + i, "{}", call.name);
            assert_eq!(find_op(call.op).map(|c| c.name), Some(call.name));
        }
        let mut names = HashSet::new();
        assert!(CALLS.iter().all(|c| names.insert(c.name)));
        let mut symbols = HashSet::new();
        assert!(
            CALLS
                .iter()
                .flat_map(|c| c.symbols)
                .all(|s| symbols.insert(s.name))
        );
        assert!(CALLS.iter().all(|c| !c.symbols.is_empty()));
    }

    #[test]
    fn only_a_call_that_is_answered_has_results() {
        for call in CALLS {
            assert!(
                call.reply || (call.results == 0 && !call.blob_out),
                "{}",
                call.name
            );
            assert!(
                call.arguments <= WORDS_MAX && call.results <= WORDS_MAX,
                "{}",
                call.name
            );
        }
    }

    macro_rules! round_trips {
        ($($mode:ident $op:literal $name:ident { $($s:ident : $v:literal),* } { $($p:ident : $w:literal),* }
           ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
            $(round_trip! { $mode $name ($($a : $at),*) ($($r : $rt),*) })*
        };
    }
    macro_rules! round_trip {
        (call $name:ident ($($a:ident : $at:ty),*) ($($r:ident : $rt:ty),*)) => {
            #[allow(non_snake_case)]
            mod $name {
                use crate::calls::$name::{In, Out};
                use crate::words::Words;
                use proptest::prelude::*;
                proptest! {
                    #![proptest_config(ProptestConfig::with_cases(64))]
                    #[test]
                    fn round_trip($($a: $at,)* $($r: $rt,)* other in any::<[u64; crate::limits::WORDS_MAX]>()) {
                        let mut words = other;
                        let arguments = In { $($a),* };
                        arguments.put(&mut words);
                        prop_assert_eq!(In::take(&words[..In::LEN]), Some(arguments));
                        prop_assert_eq!(In::take(&words[..In::LEN + 1]), None);
                        if In::LEN > 0 {
                            prop_assert_eq!(In::take(&words[..In::LEN - 1]), None);
                        }
                        let results = Out { $($r),* };
                        results.put(&mut words);
                        prop_assert_eq!(Out::take(&words[..Out::LEN]), Some(results));
                        // Whatever the words are, decoding them again gives the same words or nothing.
                        if let Some(decoded) = In::take(&other[..In::LEN]) {
                            let mut again = other;
                            decoded.put(&mut again);
                            prop_assert_eq!(again, other);
                        }
                    }
                }
            }
        };
        ($mode:ident $name:ident () ()) => {};
    }
    mod generated {
        for_each_call!(round_trips);
    }
}
