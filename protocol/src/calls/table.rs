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
//!   holds up other programs: rationed apart), `forbidden` (the host's library refuses it beside a capture that it could disturb, and
//!   ends that), `blob_in`, `blob_out`. A `none` row has one that says why (`REASONS`).
//!
//! `for_each_call` hands the rows to a macro; everything else (this module's types and its `CALLS`, the
//! guest's exports and its `cuGetProcAddress`, the executor's dispatch, the tests) is made from them.
//!
//! Word conventions: streams as in [`crate::words::handle`]; pointers are addresses, host addresses lie in the
//! session's arena or in registered memory. `cuEventRecord` also writes `sequence` to fence word `slot` behind the event,
//! unless `sequence` is 0 (on a capturing stream, say).
//! `cuModuleLoadData`'s image lies in mapped memory and is copied once. `cuModuleGetFunction` carries the
//! kernel's name and answers with its parameters ([`crate::words::KernelParam`]), their number, and whether its code demands clusters (1).
//! `cuModuleLoadDataEx`'s blob is [`crate::words::JitOption`]s; `info_len` and `error_len` say how many bytes of each log are
//! wanted. It is answered even if the module was not loaded: `result` says so, and the blob is the information log, then the
//! error log, as long as the answer's words say.
//! A link's calls answer as that one does. `cuLinkCreate`'s blob is options, `cuLinkAddData`'s is `options` of them and a name.
//! `cuLinkComplete` says how many bytes the result has; called again with a place for just as many, it copies it there.
//! `cuLaunchKernel`'s blob is the packed parameters; `cuLaunchKernelEx`'s is `attributes` times a [`crate::words::LaunchAttribute`],
//! then those. In an attribute that names an event, the event's id stands in the place of its handle.
//! `cuStreamBatchMemOp`'s blob is [`crate::structs::BatchMemOp`]s. A stream that waits for a value may be behind one that writes it.
//! The blobs of arrays' calls are their descriptors in [`crate::structs`]; `cuTexObjectCreate`'s is a resource, how it is read, and,
//! if wanted, a view. A texture's and a surface's number is the host library's own, since kernels get it.
//! The blobs of the `cuTensorMap` calls are a [`crate::structs::TensorShape`], or the map that gets another address; the answer's is the map.
//! `cuModuleEnumerateFunctions` answers with names, each ended by a zero, from number `from` on, `told` of them.
//! `cuEventElapsedTime` answers with the bits of an f32.
//! `cuMemHostRegister`'s range lies in pages that were mapped with [`crate::virtio::MAP_PROGRAM`], and may begin and end inside of them.
//! `cuMemcpy3DAsync`'s blob is a [`crate::structs::Copy3D`], from which every copy of rows is made; those of `cuMemPoolSetAccess` and
//! `cuMemSetAccess` are [`crate::structs::Access`]es. `cuMemAddressReserve` may be asked for an address (`wanted`, 0 for any).
//! `cuDeviceGetP2PAtomicCapabilities`' and `cuDeviceGetHostAtomicCapabilities`' blobs are CUatomicOperations, and what can be done of each.
//! The blobs of the `cuIpc` calls are the handles that a guest's program sees: tokens of the host's. `left` says how often memory is
//! still open. So are those of the calls that export and import memory, pools and pointers; a program sees files with the first two
//! in them. `handle_types` is [`crate::structs::HANDLE_TYPE_FILE`] for what is to be exported, else 0.
//! `cuStreamIsCapturing` and the `Query` and `Synchronize` calls are for sessions in which a capture is under way: whether
//! they are allowed then, and what they do to the capture, only the host's library knows. Completion is told by fences.

/// Calls `$with!{ rows }` with all rows of the table.
#[macro_export]
macro_rules! for_each_call {
    ($($with:tt)::+) => {
        $($with)::+! {
            // Starting, errors, entry points.
            local 0 cuDriverGetVersion { cuDriverGetVersion: 2020 } {} () -> () [];
            local 0 cuGetErrorName { cuGetErrorName: 6000 } {} () -> () [];
            local 0 cuGetErrorString { cuGetErrorString: 6000 } {} () -> () [];
            local 0 cuGetExportTable { cuGetExportTable: 3000 } {} () -> () [];
            local 0 cuGetProcAddress { cuGetProcAddress: 11030, cuGetProcAddress_v2: 12000 } {} () -> () [];
            local 0 cuInit { cuInit: 2000 } {} () -> () [];
            // Devices.
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
            local 0 cuDeviceGetExecAffinitySupport { cuDeviceGetExecAffinitySupport: 11040 } {} () -> () [];
            none 0 cuDeviceGetLuid { cuDeviceGetLuid: 10000 } {} () -> () [windows];
            call 0x0110 cuDeviceGetTexture1DLinearMaxWidth { cuDeviceGetTexture1DLinearMaxWidth: 11010 } {} (format: i32, channels: u32, device: u32) -> (width: u64) [reply];
            call 0x0111 cuDeviceGetHostAtomicCapabilities { cuDeviceGetHostAtomicCapabilities: 13000 } {} (device: u32) -> () [reply unordered blob_in blob_out];
            // Contexts.
            call 0x0120 cuCtxCreate { cuCtxCreate_v2: 3020, cuCtxCreate_v3: 11040, cuCtxCreate_v4: 12050 } {} (flags: u32, device: u32, context: u32) -> () [reply driver];
            call 0x0121 cuCtxDestroy { cuCtxDestroy_v2: 4000 } {} (context: u32) -> () [reply driver];
            call 0x0122 cuCtxSynchronize { cuCtxSynchronize: 2000, cuCtxSynchronize_v2: 13000 } {} () -> () [reply];
            local 0 cuCtxGetApiVersion { cuCtxGetApiVersion: 3020 } {} () -> () [];
            local 0 cuCtxGetCurrent { cuCtxGetCurrent: 4000 } {} () -> () [];
            local 0 cuCtxGetDevice { cuCtxGetDevice: 2000, cuCtxGetDevice_v2: 13000 } {} () -> () [];
            local 0 cuCtxPopCurrent { cuCtxPopCurrent_v2: 4000 } {} () -> () [];
            local 0 cuCtxPushCurrent { cuCtxPushCurrent_v2: 4000 } {} () -> () [];
            local 0 cuCtxSetCurrent { cuCtxSetCurrent: 4000 } {} () -> () [];
            none 0 cuCtxAttach { cuCtxAttach: 2000 } {} () -> () [obsolete];
            none 0 cuCtxDetach { cuCtxDetach: 2000 } {} () -> () [obsolete];
            call 0x0123 cuCtxGetCacheConfig { cuCtxGetCacheConfig: 3020 } {} () -> (config: i32) [reply];
            local 0 cuCtxGetExecAffinity { cuCtxGetExecAffinity: 11040 } {} () -> () [];
            local 0 cuCtxGetFlags { cuCtxGetFlags: 7000 } {} () -> () [];
            local 0 cuCtxGetId { cuCtxGetId: 12000 } {} () -> () [];
            call 0x0124 cuCtxGetLimit { cuCtxGetLimit: 3010 } {} (limit: i32) -> (value: u64) [reply];
            none 0 cuCtxGetSharedMemConfig { cuCtxGetSharedMemConfig: 4020 } {} () -> () [obsolete];
            call 0x0125 cuCtxGetStreamPriorityRange { cuCtxGetStreamPriorityRange: 5050 } {} () -> (least: i32, greatest: i32) [reply];
            call 0x0126 cuCtxResetPersistingL2Cache { cuCtxResetPersistingL2Cache: 11000 } {} () -> () [reply];
            call 0x0127 cuCtxSetCacheConfig { cuCtxSetCacheConfig: 3020 } {} (config: i32) -> () [reply];
            local 0 cuCtxSetFlags { cuCtxSetFlags: 12010 } {} () -> () [];
            call 0x0128 cuCtxSetLimit { cuCtxSetLimit: 3010 } {} (limit: i32, value: u64) -> () [reply forbidden];
            call 0x0129 cuCtxRecordEvent { cuCtxRecordEvent: 12050 } {} (context: u32, event: u32) -> () [reply];
            call 0x012a cuCtxWaitEvent { cuCtxWaitEvent: 12050 } {} (context: u32, event: u32) -> () [reply];
            none 0 cuCtxSetSharedMemConfig { cuCtxSetSharedMemConfig: 4020 } {} () -> () [obsolete];
            local 0 cuDevicePrimaryCtxGetState { cuDevicePrimaryCtxGetState: 7000 } {} () -> () [];
            local 0 cuDevicePrimaryCtxRelease { cuDevicePrimaryCtxRelease: 7000, cuDevicePrimaryCtxRelease_v2: 11000 } {} () -> () [];
            local 0 cuDevicePrimaryCtxReset { cuDevicePrimaryCtxReset: 7000, cuDevicePrimaryCtxReset_v2: 11000 } {} () -> () [];
            local 0 cuDevicePrimaryCtxRetain { cuDevicePrimaryCtxRetain: 7000 } {} () -> () [];
            local 0 cuDevicePrimaryCtxSetFlags { cuDevicePrimaryCtxSetFlags: 7000, cuDevicePrimaryCtxSetFlags_v2: 11000 } {} () -> () [];
            // Modules.
            call 0x0140 cuModuleGetFunction { cuModuleGetFunction: 2000 } {} (module: u32, function: u32) -> (params: u32, clusters: u32) [reply blob_in blob_out];
            call 0x0141 cuModuleGetGlobal { cuModuleGetGlobal_v2: 3020 } {} (module: u32) -> (pointer: u64, bytes: u64) [reply blob_in];
            call 0x0142 cuModuleLoadData { cuModuleLoadData: 2000 } {} (image: u64, bytes: u64, module: u32) -> () [reply driver];
            call 0x0143 cuModuleUnload { cuModuleUnload: 2000 } {} (module: u32) -> () [reply driver];
            call 0x0144 cuModuleLoadDataEx { cuModuleLoadDataEx: 2010 } {} (image: u64, bytes: u64, module: u32, info_len: u32, error_len: u32) -> (result: i32, wall_time_bits: u32, threads: u32, info_said: u32, error_said: u32) [reply driver blob_in blob_out];
            local 0 cuModuleGetLoadingMode { cuModuleGetLoadingMode: 11070 } {} () -> () [];
            local 0 cuModuleLoad { cuModuleLoad: 2000 } {} () -> () [];
            local 0 cuModuleLoadFatBinary { cuModuleLoadFatBinary: 2000 } {} () -> () [];
            call 0x0145 cuModuleEnumerateFunctions { cuModuleEnumerateFunctions: 12040 } {} (module: u32, from: u32) -> (total: u32, told: u32) [reply blob_out];
            local 0 cuModuleGetFunctionCount { cuModuleGetFunctionCount: 12040 } {} () -> () [];
            none 0 cuModuleGetSurfRef { cuModuleGetSurfRef: 3000 } {} () -> () [obsolete];
            none 0 cuModuleGetTexRef { cuModuleGetTexRef: 2000 } {} () -> () [obsolete];
            // Libraries and kernels.
            local 0 cuKernelGetAttribute { cuKernelGetAttribute: 12000 } {} () -> () [];
            local 0 cuKernelGetFunction { cuKernelGetFunction: 12000 } {} () -> () [];
            local 0 cuKernelGetLibrary { cuKernelGetLibrary: 12050 } {} () -> () [];
            local 0 cuKernelGetName { cuKernelGetName: 12030 } {} () -> () [];
            local 0 cuKernelGetParamInfo { cuKernelGetParamInfo: 12040 } {} () -> () [];
            local 0 cuKernelSetAttribute { cuKernelSetAttribute: 12000 } {} () -> () [];
            local 0 cuKernelSetCacheConfig { cuKernelSetCacheConfig: 12000 } {} () -> () [];
            local 0 cuLibraryEnumerateKernels { cuLibraryEnumerateKernels: 12040 } {} () -> () [];
            local 0 cuLibraryGetGlobal { cuLibraryGetGlobal: 12000 } {} () -> () [];
            local 0 cuLibraryGetKernel { cuLibraryGetKernel: 12000 } {} () -> () [];
            local 0 cuLibraryGetKernelCount { cuLibraryGetKernelCount: 12040 } {} () -> () [];
            local 0 cuLibraryGetManaged { cuLibraryGetManaged: 12000 } {} () -> () [];
            local 0 cuLibraryGetModule { cuLibraryGetModule: 12000 } {} () -> () [];
            none 0 cuLibraryGetUnifiedFunction { cuLibraryGetUnifiedFunction: 12000 } {} () -> () [host_code];
            local 0 cuLibraryLoadData { cuLibraryLoadData: 12000 } {} () -> () [];
            local 0 cuLibraryLoadFromFile { cuLibraryLoadFromFile: 12000 } {} () -> () [];
            local 0 cuLibraryUnload { cuLibraryUnload: 12000 } {} () -> () [];
            // Functions, launches, occupancy.
            call 0x0180 cuFuncGetAttribute { cuFuncGetAttribute: 2020 } {} (attribute: i32, function: u32) -> (value: i32) [reply];
            call 0x0181 cuLaunchHostFunc { cuLaunchHostFunc: 10000 } { cuLaunchHostFunc_ptsz: 10000 } (stream: u64, cookie: u64) -> () [];
            call 0x0182 cuLaunchKernel { cuLaunchKernel: 4000 } { cuLaunchKernel_ptsz: 7000 } (function: u32, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: u64) -> () [turn blob_in];
            local 0 cuFuncGetModule { cuFuncGetModule: 11000 } {} () -> () [];
            local 0 cuFuncGetName { cuFuncGetName: 12030 } {} () -> () [];
            local 0 cuFuncGetParamInfo { cuFuncGetParamInfo: 12040 } {} () -> () [];
            call 0x0183 cuFuncIsLoaded { cuFuncIsLoaded: 12040 } {} (function: u32) -> (state: i32) [reply];
            call 0x0184 cuFuncLoad { cuFuncLoad: 12040 } {} (function: u32) -> () [reply driver];
            call 0x0185 cuFuncSetAttribute { cuFuncSetAttribute: 9000 } {} (function: u32, attribute: i32, value: i32) -> () [reply];
            none 0 cuFuncSetBlockShape { cuFuncSetBlockShape: 2000 } {} () -> () [obsolete];
            call 0x0186 cuFuncSetCacheConfig { cuFuncSetCacheConfig: 3000 } {} (function: u32, config: i32) -> () [reply];
            none 0 cuFuncSetSharedMemConfig { cuFuncSetSharedMemConfig: 4020 } {} () -> () [obsolete];
            none 0 cuFuncSetSharedSize { cuFuncSetSharedSize: 2000 } {} () -> () [obsolete];
            none 0 cuLaunch { cuLaunch: 2000 } {} () -> () [obsolete];
            local 0 cuLaunchCooperativeKernel { cuLaunchCooperativeKernel: 9000 } { cuLaunchCooperativeKernel_ptsz: 9000 } () -> () [];
            none 0 cuLaunchCooperativeKernelMultiDevice { cuLaunchCooperativeKernelMultiDevice: 9000 } {} () -> () [obsolete];
            none 0 cuLaunchGrid { cuLaunchGrid: 2000 } {} () -> () [obsolete];
            none 0 cuLaunchGridAsync { cuLaunchGridAsync: 2000 } {} () -> () [obsolete];
            call 0x0187 cuLaunchKernelEx { cuLaunchKernelEx: 11060 } { cuLaunchKernelEx_ptsz: 11060 } (function: u32, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: u64, attributes: u32) -> () [turn blob_in];
            call 0x0188 cuOccupancyAvailableDynamicSMemPerBlock { cuOccupancyAvailableDynamicSMemPerBlock: 10020 } {} (function: u32, blocks: i32, block: i32) -> (shared: u64) [reply];
            local 0 cuOccupancyMaxActiveBlocksPerMultiprocessor { cuOccupancyMaxActiveBlocksPerMultiprocessor: 6050 } {} () -> () [];
            call 0x0189 cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags { cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags: 7000 } {} (function: u32, block: i32, shared: u64, flags: u32) -> (blocks: i32) [reply];
            call 0x018a cuOccupancyMaxActiveClusters { cuOccupancyMaxActiveClusters: 11070 } {} (function: u32, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, attributes: u32) -> (clusters: i32) [reply blob_in];
            local 0 cuOccupancyMaxPotentialBlockSize { cuOccupancyMaxPotentialBlockSize: 6050 } {} () -> () [];
            local 0 cuOccupancyMaxPotentialBlockSizeWithFlags { cuOccupancyMaxPotentialBlockSizeWithFlags: 7000 } {} () -> () [];
            call 0x018b cuOccupancyMaxPotentialClusterSize { cuOccupancyMaxPotentialClusterSize: 11070 } {} (function: u32, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, attributes: u32) -> (size: i32) [reply blob_in];
            none 0 cuParamSetSize { cuParamSetSize: 2000 } {} () -> () [obsolete];
            none 0 cuParamSetTexRef { cuParamSetTexRef: 2000 } {} () -> () [obsolete];
            none 0 cuParamSetf { cuParamSetf: 2000 } {} () -> () [obsolete];
            none 0 cuParamSeti { cuParamSeti: 2000 } {} () -> () [obsolete];
            none 0 cuParamSetv { cuParamSetv: 2000 } {} () -> () [obsolete];
            // Linking at run time.
            call 0x01a0 cuLinkCreate { cuLinkCreate: 5050, cuLinkCreate_v2: 6050 } {} (info_len: u32, error_len: u32, link: u32) -> () [reply driver blob_in];
            call 0x01a1 cuLinkAddData { cuLinkAddData: 5050, cuLinkAddData_v2: 6050 } {} (link: u32, kind: i32, image: u64, bytes: u64, options: u32) -> (result: i32, wall_time_bits: u32, threads: u32, info_said: u32, error_said: u32) [reply driver blob_in blob_out];
            local 0 cuLinkAddFile { cuLinkAddFile: 5050, cuLinkAddFile_v2: 6050 } {} () -> () [];
            call 0x01a2 cuLinkComplete { cuLinkComplete: 5050 } {} (link: u32, to: u64, bytes: u64) -> (result: i32, wall_time_bits: u32, threads: u32, info_said: u32, error_said: u32, image_bytes: u64) [reply driver blob_out];
            call 0x01a3 cuLinkDestroy { cuLinkDestroy: 5050 } {} (link: u32) -> () [reply];
            // Streams.
            call 0x01b0 cuStreamBeginCapture { cuStreamBeginCapture_v2: 10010 } { cuStreamBeginCapture_v2_ptsz: 10010 } (stream: u64, mode: u32) -> () [reply];
            call 0x01b1 cuStreamCreate { cuStreamCreate: 2000 } {} (stream: u32, flags: u32, priority: i32) -> () [];
            call 0x01b2 cuStreamDestroy { cuStreamDestroy_v2: 4000 } {} (stream: u32) -> () [];
            call 0x01b3 cuStreamEndCapture { cuStreamEndCapture: 10000 } { cuStreamEndCapture_ptsz: 10000 } (stream: u64, graph: u32) -> () [reply];
            call 0x01b4 cuStreamWaitEvent { cuStreamWaitEvent: 3020 } { cuStreamWaitEvent_ptsz: 7000 } (stream: u64, event: u32, flags: u32) -> () [];
            call 0x01b5 cuThreadExchangeStreamCaptureMode { cuThreadExchangeStreamCaptureMode: 10010 } {} (mode: u32) -> () [];
            call 0x01b6 cuStreamIsCapturing { cuStreamIsCapturing: 10000 } { cuStreamIsCapturing_ptsz: 10000 } (stream: u64) -> (status: i32) [reply];
            call 0x01b7 cuStreamQuery { cuStreamQuery: 2000 } { cuStreamQuery_ptsz: 7000 } (stream: u64) -> () [reply];
            call 0x01b8 cuStreamSynchronize { cuStreamSynchronize: 2000 } { cuStreamSynchronize_ptsz: 7000 } (stream: u64) -> () [reply];
            local 0 cuStreamAddCallback { cuStreamAddCallback: 5000 } { cuStreamAddCallback_ptsz: 7000 } () -> () [];
            call 0x01b9 cuStreamCopyAttributes { cuStreamCopyAttributes: 11000 } { cuStreamCopyAttributes_ptsz: 11000 } (to: u64, from: u64) -> () [reply];
            local 0 cuStreamCreateWithPriority { cuStreamCreateWithPriority: 5050 } {} () -> () [];
            call 0x01ba cuStreamGetAttribute { cuStreamGetAttribute: 11000 } { cuStreamGetAttribute_ptsz: 11000 } (stream: u64, attribute: i32) -> () [reply blob_out];
            local 0 cuStreamGetCtx { cuStreamGetCtx: 9020, cuStreamGetCtx_v2: 12050 } { cuStreamGetCtx_ptsz: 9020, cuStreamGetCtx_v2_ptsz: 12050 } () -> () [];
            local 0 cuStreamGetDevice { cuStreamGetDevice: 12080 } { cuStreamGetDevice_ptsz: 12080 } () -> () [];
            local 0 cuStreamGetFlags { cuStreamGetFlags: 5050 } { cuStreamGetFlags_ptsz: 7000 } () -> () [];
            local 0 cuStreamGetId { cuStreamGetId: 12000 } { cuStreamGetId_ptsz: 12000 } () -> () [];
            local 0 cuStreamGetPriority { cuStreamGetPriority: 5050 } { cuStreamGetPriority_ptsz: 7000 } () -> () [];
            call 0x01bb cuStreamSetAttribute { cuStreamSetAttribute: 11000 } { cuStreamSetAttribute_ptsz: 11000 } (stream: u64, attribute: i32) -> () [reply blob_in];
            call 0x01c8 cuStreamBeginCaptureToGraph { cuStreamBeginCaptureToGraph: 12030 } { cuStreamBeginCaptureToGraph_ptsz: 12030 } (stream: u64, graph: u32, mode: u32) -> () [reply blob_in];
            call 0x01c9 cuStreamGetCaptureInfo { cuStreamGetCaptureInfo: 10010, cuStreamGetCaptureInfo_v2: 11030, cuStreamGetCaptureInfo_v3: 12030 } { cuStreamGetCaptureInfo_ptsz: 10010, cuStreamGetCaptureInfo_v2_ptsz: 11030, cuStreamGetCaptureInfo_v3_ptsz: 12030 } (stream: u64, named: u32, first: u32) -> (status: i32, id: u64, total: u32) [reply blob_out];
            call 0x01ca cuStreamUpdateCaptureDependencies { cuStreamUpdateCaptureDependencies: 11030, cuStreamUpdateCaptureDependencies_v2: 12030 } { cuStreamUpdateCaptureDependencies_ptsz: 11030, cuStreamUpdateCaptureDependencies_v2_ptsz: 12030 } (stream: u64, flags: u32) -> () [reply blob_in];
            // Events.
            call 0x01d0 cuEventCreate { cuEventCreate: 2000 } {} (event: u32, flags: u32) -> () [];
            call 0x01d1 cuEventDestroy { cuEventDestroy_v2: 4000 } {} (event: u32) -> () [];
            call 0x01d2 cuEventElapsedTime { cuEventElapsedTime: 2000, cuEventElapsedTime_v2: 12080 } {} (start: u32, end: u32) -> (milliseconds_bits: u32) [reply];
            call 0x01d3 cuEventRecord { cuEventRecord: 2000 } { cuEventRecord_ptsz: 7000 } (event: u32, stream: u64, slot: u32, sequence: u64) -> () [];
            call 0x01d4 cuEventQuery { cuEventQuery: 2000 } {} (event: u32) -> () [reply];
            call 0x01d5 cuEventSynchronize { cuEventSynchronize: 2000 } {} (event: u32) -> () [reply];
            call 0x01d6 cuEventRecordWithFlags { cuEventRecordWithFlags: 11010 } { cuEventRecordWithFlags_ptsz: 11010 } (event: u32, stream: u64, flags: u32) -> () [reply];
            // Operations of a stream on words of memory.
            call 0x01e0 cuStreamBatchMemOp { cuStreamBatchMemOp: 8000, cuStreamBatchMemOp_v2: 11070 } { cuStreamBatchMemOp_ptsz: 8000, cuStreamBatchMemOp_v2_ptsz: 11070 } (stream: u64, flags: u32) -> () [blob_in];
            call 0x01e1 cuStreamWaitValue32 { cuStreamWaitValue32: 8000, cuStreamWaitValue32_v2: 11070 } { cuStreamWaitValue32_ptsz: 8000, cuStreamWaitValue32_v2_ptsz: 11070 } (stream: u64, word: u64, value: u32, flags: u32) -> () [];
            call 0x01e2 cuStreamWaitValue64 { cuStreamWaitValue64: 9000, cuStreamWaitValue64_v2: 11070 } { cuStreamWaitValue64_ptsz: 9000, cuStreamWaitValue64_v2_ptsz: 11070 } (stream: u64, word: u64, value: u64, flags: u32) -> () [];
            call 0x01e3 cuStreamWriteValue32 { cuStreamWriteValue32: 8000, cuStreamWriteValue32_v2: 11070 } { cuStreamWriteValue32_ptsz: 8000, cuStreamWriteValue32_v2_ptsz: 11070 } (stream: u64, word: u64, value: u32, flags: u32) -> () [];
            call 0x01e4 cuStreamWriteValue64 { cuStreamWriteValue64: 9000, cuStreamWriteValue64_v2: 11070 } { cuStreamWriteValue64_ptsz: 9000, cuStreamWriteValue64_v2_ptsz: 11070 } (stream: u64, word: u64, value: u64, flags: u32) -> () [];
            // Memory: allocating and asking.
            call 0x01f0 cuMemAlloc { cuMemAlloc_v2: 3020 } {} (bytes: u64) -> (pointer: u64) [reply driver forbidden];
            call 0x01f1 cuMemFree { cuMemFree_v2: 3020 } {} (pointer: u64) -> () [reply driver forbidden];
            call 0x01f2 cuMemGetInfo { cuMemGetInfo_v2: 3020 } {} () -> (free: u64, total: u64) [reply unordered];
            local 0 cuMemAllocHost { cuMemAllocHost_v2: 3020 } {} () -> () [];
            local 0 cuMemFreeHost { cuMemFreeHost: 2000 } {} () -> () [];
            local 0 cuMemHostAlloc { cuMemHostAlloc: 2020 } {} () -> () [];
            local 0 cuMemHostGetDevicePointer { cuMemHostGetDevicePointer_v2: 3020 } {} () -> () [];
            local 0 cuMemHostGetFlags { cuMemHostGetFlags: 2030 } {} () -> () [];
            call 0x01f3 cuMemAllocPitch { cuMemAllocPitch_v2: 3020 } {} (width: u64, height: u64, element: u32) -> (pointer: u64, pitch: u64) [reply driver forbidden];
            local 0 cuMemGetAddressRange { cuMemGetAddressRange_v2: 3020 } {} () -> () [];
            none 0 cuMemGetHandleForAddressRange { cuMemGetHandleForAddressRange: 11070 } {} () -> () [descriptor];
            call 0x01f4 cuMemHostRegister { cuMemHostRegister_v2: 6050 } {} (pointer: u64, bytes: u64, flags: u32) -> () [reply driver forbidden];
            call 0x01f5 cuMemHostUnregister { cuMemHostUnregister: 4000 } {} (pointer: u64) -> () [reply driver forbidden];
            local 0 cuPointerGetAttribute { cuPointerGetAttribute: 4000 } {} () -> () [];
            local 0 cuPointerGetAttributes { cuPointerGetAttributes: 7000 } {} () -> () [];
            local 0 cuPointerSetAttribute { cuPointerSetAttribute: 6000 } {} () -> () [];
            // Copies.
            call 0x0210 cuMemcpyDtoDAsync { cuMemcpyDtoDAsync_v2: 3020 } { cuMemcpyDtoDAsync_v2_ptsz: 7000 } (to: u64, from: u64, bytes: u64, stream: u64) -> () [turn];
            call 0x0211 cuMemcpyDtoHAsync { cuMemcpyDtoHAsync_v2: 3020 } { cuMemcpyDtoHAsync_v2_ptsz: 7000 } (to: u64, from: u64, bytes: u64, stream: u64) -> () [];
            call 0x0212 cuMemcpyHtoDAsync { cuMemcpyHtoDAsync_v2: 3020 } { cuMemcpyHtoDAsync_v2_ptsz: 7000 } (to: u64, from: u64, bytes: u64, stream: u64) -> () [];
            local 0 cuMemcpy { cuMemcpy: 4000 } { cuMemcpy_ptds: 7000 } () -> () [];
            local 0 cuMemcpyAsync { cuMemcpyAsync: 4000 } { cuMemcpyAsync_ptsz: 7000 } () -> () [];
            local 0 cuMemcpyDtoD { cuMemcpyDtoD_v2: 3020 } { cuMemcpyDtoD_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyDtoH { cuMemcpyDtoH_v2: 3020 } { cuMemcpyDtoH_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyHtoD { cuMemcpyHtoD_v2: 3020 } { cuMemcpyHtoD_v2_ptds: 7000 } () -> () [];
            none 0 cuMemBatchDecompressAsync { cuMemBatchDecompressAsync: 12060 } { cuMemBatchDecompressAsync_ptsz: 12060 } () -> () [missing];
            local 0 cuMemcpy2D { cuMemcpy2D_v2: 3020 } { cuMemcpy2D_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpy2DAsync { cuMemcpy2DAsync_v2: 3020 } { cuMemcpy2DAsync_v2_ptsz: 7000 } () -> () [];
            local 0 cuMemcpy2DUnaligned { cuMemcpy2DUnaligned_v2: 3020 } { cuMemcpy2DUnaligned_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpy3D { cuMemcpy3D_v2: 3020 } { cuMemcpy3D_v2_ptds: 7000 } () -> () [];
            call 0x0213 cuMemcpy3DAsync { cuMemcpy3DAsync_v2: 3020 } { cuMemcpy3DAsync_v2_ptsz: 7000 } (stream: u64) -> () [turn blob_in];
            local 0 cuMemcpy3DBatchAsync { cuMemcpy3DBatchAsync: 12080, cuMemcpy3DBatchAsync_v2: 13000 } { cuMemcpy3DBatchAsync_ptsz: 12080, cuMemcpy3DBatchAsync_v2_ptsz: 13000 } () -> () [];
            local 0 cuMemcpy3DPeer { cuMemcpy3DPeer: 4000 } { cuMemcpy3DPeer_ptds: 7000 } () -> () [];
            local 0 cuMemcpy3DPeerAsync { cuMemcpy3DPeerAsync: 4000 } { cuMemcpy3DPeerAsync_ptsz: 7000 } () -> () [];
            local 0 cuMemcpyAtoA { cuMemcpyAtoA_v2: 3020 } { cuMemcpyAtoA_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyAtoD { cuMemcpyAtoD_v2: 3020 } { cuMemcpyAtoD_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyAtoH { cuMemcpyAtoH_v2: 3020 } { cuMemcpyAtoH_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyAtoHAsync { cuMemcpyAtoHAsync_v2: 3020 } { cuMemcpyAtoHAsync_v2_ptsz: 7000 } () -> () [];
            local 0 cuMemcpyBatchAsync { cuMemcpyBatchAsync: 12080, cuMemcpyBatchAsync_v2: 13000 } { cuMemcpyBatchAsync_ptsz: 12080, cuMemcpyBatchAsync_v2_ptsz: 13000 } () -> () [];
            local 0 cuMemcpyDtoA { cuMemcpyDtoA_v2: 3020 } { cuMemcpyDtoA_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyHtoA { cuMemcpyHtoA_v2: 3020 } { cuMemcpyHtoA_v2_ptds: 7000 } () -> () [];
            local 0 cuMemcpyHtoAAsync { cuMemcpyHtoAAsync_v2: 3020 } { cuMemcpyHtoAAsync_v2_ptsz: 7000 } () -> () [];
            local 0 cuMemcpyPeer { cuMemcpyPeer: 4000 } { cuMemcpyPeer_ptds: 7000 } () -> () [];
            local 0 cuMemcpyPeerAsync { cuMemcpyPeerAsync: 4000 } { cuMemcpyPeerAsync_ptsz: 7000 } () -> () [];
            // Fills.
            call 0x0230 cuMemsetD16Async { cuMemsetD16Async: 3020 } { cuMemsetD16Async_ptsz: 7000 } (to: u64, value: u32, count: u64, stream: u64) -> () [turn];
            call 0x0231 cuMemsetD32Async { cuMemsetD32Async: 3020 } { cuMemsetD32Async_ptsz: 7000 } (to: u64, value: u32, count: u64, stream: u64) -> () [turn];
            call 0x0232 cuMemsetD8Async { cuMemsetD8Async: 3020 } { cuMemsetD8Async_ptsz: 7000 } (to: u64, value: u32, count: u64, stream: u64) -> () [turn];
            local 0 cuMemsetD16 { cuMemsetD16_v2: 3020 } { cuMemsetD16_v2_ptds: 7000 } () -> () [];
            local 0 cuMemsetD32 { cuMemsetD32_v2: 3020 } { cuMemsetD32_v2_ptds: 7000 } () -> () [];
            local 0 cuMemsetD8 { cuMemsetD8_v2: 3020 } { cuMemsetD8_v2_ptds: 7000 } () -> () [];
            local 0 cuMemsetD2D16 { cuMemsetD2D16_v2: 3020 } { cuMemsetD2D16_v2_ptds: 7000 } () -> () [];
            call 0x0233 cuMemsetD2D16Async { cuMemsetD2D16Async: 3020 } { cuMemsetD2D16Async_ptsz: 7000 } (to: u64, pitch: u64, value: u32, width: u64, height: u64, stream: u64) -> () [turn];
            local 0 cuMemsetD2D32 { cuMemsetD2D32_v2: 3020 } { cuMemsetD2D32_v2_ptds: 7000 } () -> () [];
            call 0x0234 cuMemsetD2D32Async { cuMemsetD2D32Async: 3020 } { cuMemsetD2D32Async_ptsz: 7000 } (to: u64, pitch: u64, value: u32, width: u64, height: u64, stream: u64) -> () [turn];
            local 0 cuMemsetD2D8 { cuMemsetD2D8_v2: 3020 } { cuMemsetD2D8_v2_ptds: 7000 } () -> () [];
            call 0x0235 cuMemsetD2D8Async { cuMemsetD2D8Async: 3020 } { cuMemsetD2D8Async_ptsz: 7000 } (to: u64, pitch: u64, value: u32, width: u64, height: u64, stream: u64) -> () [turn];
            // Stream-ordered allocation and pools.
            call 0x0240 cuDeviceGetDefaultMemPool { cuDeviceGetDefaultMemPool: 11020 } {} (device: u32, pool: u32) -> () [reply];
            local 0 cuDeviceGetMemPool { cuDeviceGetMemPool: 11020 } {} () -> () [];
            local 0 cuDeviceSetMemPool { cuDeviceSetMemPool: 11020 } {} () -> () [];
            local 0 cuMemAllocAsync { cuMemAllocAsync: 11020 } { cuMemAllocAsync_ptsz: 11020 } () -> () [];
            call 0x0241 cuMemAllocFromPoolAsync { cuMemAllocFromPoolAsync: 11020 } { cuMemAllocFromPoolAsync_ptsz: 11020 } (bytes: u64, pool: u32, stream: u64) -> (pointer: u64) [reply];
            call 0x0242 cuMemFreeAsync { cuMemFreeAsync: 11020 } { cuMemFreeAsync_ptsz: 11020 } (pointer: u64, stream: u64) -> () [];
            local 0 cuMemGetDefaultMemPool { cuMemGetDefaultMemPool: 13000 } {} () -> () [];
            local 0 cuMemGetMemPool { cuMemGetMemPool: 13000 } {} () -> () [];
            call 0x0243 cuMemPoolCreate { cuMemPoolCreate: 11020 } {} (device: u32, most: u64, usage: u32, handle_types: u32, pool: u32) -> () [reply driver forbidden];
            call 0x0244 cuMemPoolDestroy { cuMemPoolDestroy: 11020 } {} (pool: u32) -> () [reply driver];
            call 0x0245 cuMemPoolGetAccess { cuMemPoolGetAccess: 11020 } {} (pool: u32, device: u32) -> (flags: u32) [reply];
            call 0x0246 cuMemPoolGetAttribute { cuMemPoolGetAttribute: 11020 } {} (pool: u32, attribute: i32) -> (value: u64) [reply forbidden];
            call 0x0247 cuMemPoolSetAccess { cuMemPoolSetAccess: 11020 } {} (pool: u32) -> () [reply driver blob_in];
            call 0x0248 cuMemPoolSetAttribute { cuMemPoolSetAttribute: 11020 } {} (pool: u32, attribute: i32, value: u64) -> () [reply forbidden];
            call 0x0249 cuMemPoolTrimTo { cuMemPoolTrimTo: 11020 } {} (pool: u32, keep: u64) -> () [reply driver forbidden];
            call 0x024a cuMemPoolExportPointer { cuMemPoolExportPointer: 11020 } {} (pointer: u64) -> () [reply driver blob_out];
            call 0x024b cuMemPoolExportToShareableHandle { cuMemPoolExportToShareableHandle: 11020 } {} (pool: u32) -> () [reply driver blob_out];
            call 0x024c cuMemPoolImportFromShareableHandle { cuMemPoolImportFromShareableHandle: 11020 } {} (pool: u32) -> (device: u32) [reply driver blob_in];
            call 0x024d cuMemPoolImportPointer { cuMemPoolImportPointer: 11020 } {} (pool: u32) -> (pointer: u64, bytes: u64) [reply driver blob_in];
            local 0 cuMemSetMemPool { cuMemSetMemPool: 13000 } {} () -> () [];
            // Managed memory.
            local 0 cuMemAdvise { cuMemAdvise: 8000, cuMemAdvise_v2: 12020 } {} () -> () [];
            local 0 cuMemAllocManaged { cuMemAllocManaged: 6000 } {} () -> () [];
            local 0 cuMemDiscardAndPrefetchBatchAsync { cuMemDiscardAndPrefetchBatchAsync: 13000 } { cuMemDiscardAndPrefetchBatchAsync_ptsz: 13000 } () -> () [];
            local 0 cuMemDiscardBatchAsync { cuMemDiscardBatchAsync: 13000 } { cuMemDiscardBatchAsync_ptsz: 13000 } () -> () [];
            local 0 cuMemPrefetchAsync { cuMemPrefetchAsync: 8000, cuMemPrefetchAsync_v2: 12020 } { cuMemPrefetchAsync_ptsz: 8000, cuMemPrefetchAsync_v2_ptsz: 12020 } () -> () [];
            local 0 cuMemPrefetchBatchAsync { cuMemPrefetchBatchAsync: 13000 } { cuMemPrefetchBatchAsync_ptsz: 13000 } () -> () [];
            local 0 cuMemRangeGetAttribute { cuMemRangeGetAttribute: 8000 } {} () -> () [];
            local 0 cuMemRangeGetAttributes { cuMemRangeGetAttributes: 8000 } {} () -> () [];
            local 0 cuStreamAttachMemAsync { cuStreamAttachMemAsync: 6000 } { cuStreamAttachMemAsync_ptsz: 7000 } () -> () [];
            // Virtual memory management, multicast.
            call 0x0270 cuMemAddressFree { cuMemAddressFree: 10020 } {} (pointer: u64, bytes: u64) -> () [reply driver];
            call 0x0271 cuMemAddressReserve { cuMemAddressReserve: 10020 } {} (bytes: u64, alignment: u64, wanted: u64) -> (pointer: u64) [reply driver];
            call 0x0272 cuMemCreate { cuMemCreate: 10020 } {} (bytes: u64, device: u32, compression: u32, rdma: u32, usage: u32, handle_types: u32, allocation: u32) -> () [reply driver];
            call 0x0273 cuMemGetAccess { cuMemGetAccess: 10020 } {} (pointer: u64, device: u32) -> (flags: u64) [reply];
            call 0x0274 cuMemGetAllocationGranularity { cuMemGetAllocationGranularity: 10020 } {} (device: u32, compression: u32, rdma: u32, usage: u32, handle_types: u32, option: u32) -> (bytes: u64) [reply unordered];
            local 0 cuMemGetAllocationPropertiesFromHandle { cuMemGetAllocationPropertiesFromHandle: 10020 } {} () -> () [];
            call 0x0275 cuMemMap { cuMemMap: 10020 } {} (pointer: u64, bytes: u64, offset: u64, allocation: u32) -> () [reply driver];
            none 0 cuMemMapArrayAsync { cuMemMapArrayAsync: 11010 } { cuMemMapArrayAsync_ptsz: 11010 } () -> () [missing];
            call 0x0276 cuMemRelease { cuMemRelease: 10020 } {} (allocation: u32) -> () [reply driver];
            local 0 cuMemRetainAllocationHandle { cuMemRetainAllocationHandle: 11000 } {} () -> () [];
            call 0x0277 cuMemSetAccess { cuMemSetAccess: 10020 } {} (pointer: u64, bytes: u64) -> () [reply driver blob_in];
            call 0x0278 cuMemUnmap { cuMemUnmap: 10020 } {} (pointer: u64, bytes: u64) -> () [reply driver];
            call 0x0279 cuMemExportToShareableHandle { cuMemExportToShareableHandle: 10020 } {} (allocation: u32) -> () [reply driver blob_out];
            call 0x027a cuMemImportFromShareableHandle { cuMemImportFromShareableHandle: 10020 } {} (allocation: u32) -> (device: u32, compression: u32, rdma: u32, usage: u32) [reply driver blob_in];
            none 0 cuMulticastAddDevice { cuMulticastAddDevice: 12010 } {} () -> () [hardware];
            none 0 cuMulticastBindAddr { cuMulticastBindAddr: 12010 } {} () -> () [hardware];
            none 0 cuMulticastBindMem { cuMulticastBindMem: 12010 } {} () -> () [hardware];
            none 0 cuMulticastCreate { cuMulticastCreate: 12010 } {} () -> () [hardware];
            none 0 cuMulticastGetGranularity { cuMulticastGetGranularity: 12010 } {} () -> () [hardware];
            none 0 cuMulticastUnbind { cuMulticastUnbind: 12010 } {} () -> () [hardware];
            // Peer access, IPC.
            call 0x0290 cuCtxDisablePeerAccess { cuCtxDisablePeerAccess: 4000 } {} (context: u32) -> () [reply driver];
            call 0x0291 cuCtxEnablePeerAccess { cuCtxEnablePeerAccess: 4000 } {} (context: u32, flags: u32) -> () [reply driver];
            call 0x0292 cuDeviceCanAccessPeer { cuDeviceCanAccessPeer: 4000 } {} (device: u32, peer: u32) -> (can: i32) [reply unordered];
            call 0x0293 cuDeviceGetP2PAtomicCapabilities { cuDeviceGetP2PAtomicCapabilities: 13000 } {} (device: u32, peer: u32) -> () [reply unordered blob_in blob_out];
            call 0x0294 cuDeviceGetP2PAttribute { cuDeviceGetP2PAttribute: 8000 } {} (attribute: i32, device: u32, peer: u32) -> (value: i32) [reply unordered];
            call 0x0295 cuIpcCloseMemHandle { cuIpcCloseMemHandle: 4010 } {} (pointer: u64) -> (left: u32) [reply driver];
            call 0x0296 cuIpcGetEventHandle { cuIpcGetEventHandle: 4010 } {} (event: u32) -> () [reply driver blob_out];
            call 0x0297 cuIpcGetMemHandle { cuIpcGetMemHandle: 4010 } {} (pointer: u64) -> () [reply driver blob_out];
            call 0x0298 cuIpcOpenEventHandle { cuIpcOpenEventHandle: 4010 } {} (event: u32) -> () [reply driver blob_in];
            call 0x0299 cuIpcOpenMemHandle { cuIpcOpenMemHandle_v2: 11000 } {} (flags: u32) -> (pointer: u64, bytes: u64) [reply driver blob_in];
            // Arrays.
            call 0x02a0 cuArray3DCreate { cuArray3DCreate_v2: 3020 } {} (array: u32) -> () [reply driver forbidden blob_in];
            call 0x02a1 cuArray3DGetDescriptor { cuArray3DGetDescriptor_v2: 3020 } {} (array: u32) -> () [reply blob_out];
            local 0 cuArrayCreate { cuArrayCreate_v2: 3020 } {} () -> () [];
            call 0x02a2 cuArrayDestroy { cuArrayDestroy: 2000 } {} (array: u32) -> () [reply driver];
            call 0x02a3 cuArrayGetDescriptor { cuArrayGetDescriptor_v2: 3020 } {} (array: u32) -> () [reply blob_out];
            call 0x02a4 cuArrayGetMemoryRequirements { cuArrayGetMemoryRequirements: 11060 } {} (array: u32, device: u32) -> () [reply blob_out];
            call 0x02a5 cuArrayGetPlane { cuArrayGetPlane: 11020 } {} (array: u32, index: u32, plane: u32) -> () [reply];
            call 0x02a6 cuArrayGetSparseProperties { cuArrayGetSparseProperties: 11010 } {} (array: u32) -> () [reply blob_out];
            call 0x02a7 cuMipmappedArrayCreate { cuMipmappedArrayCreate: 5000 } {} (levels: u32, mipmapped: u32) -> () [reply driver forbidden blob_in];
            call 0x02a8 cuMipmappedArrayDestroy { cuMipmappedArrayDestroy: 5000 } {} (mipmapped: u32) -> () [reply driver];
            call 0x02a9 cuMipmappedArrayGetLevel { cuMipmappedArrayGetLevel: 5000 } {} (mipmapped: u32, level: u32, array: u32) -> () [reply];
            call 0x02aa cuMipmappedArrayGetMemoryRequirements { cuMipmappedArrayGetMemoryRequirements: 11060 } {} (mipmapped: u32, device: u32) -> () [reply blob_out];
            call 0x02ab cuMipmappedArrayGetSparseProperties { cuMipmappedArrayGetSparseProperties: 11010 } {} (mipmapped: u32) -> () [reply blob_out];
            // Texture and surface objects, tensor maps.
            call 0x02c0 cuTensorMapEncodeTiled { cuTensorMapEncodeTiled: 12000 } {} (data_type: i32, rank: u32, address: u64, interleave: i32, swizzle: i32, promotion: i32, fill: i32) -> () [reply unordered blob_in blob_out];
            call 0x02c1 cuTensorMapEncodeIm2col { cuTensorMapEncodeIm2col: 12000 } {} (data_type: i32, rank: u32, address: u64, channels: u32, pixels: u32, interleave: i32, swizzle: i32, promotion: i32, fill: i32) -> () [reply unordered blob_in blob_out];
            call 0x02c2 cuTensorMapEncodeIm2colWide { cuTensorMapEncodeIm2colWide: 12080 } {} (data_type: i32, rank: u32, address: u64, lower: i32, upper: i32, channels: u32, pixels: u32, interleave: i32, mode: i32, swizzle: i32, promotion: i32, fill: i32) -> () [reply unordered blob_in blob_out];
            call 0x02c3 cuTensorMapReplaceAddress { cuTensorMapReplaceAddress: 12000 } {} (address: u64) -> () [reply unordered blob_in blob_out];
            call 0x02c4 cuSurfObjectCreate { cuSurfObjectCreate: 5000 } {} () -> (surface: u64) [reply forbidden blob_in];
            call 0x02c5 cuSurfObjectDestroy { cuSurfObjectDestroy: 5000 } {} (surface: u64) -> () [];
            local 0 cuSurfObjectGetResourceDesc { cuSurfObjectGetResourceDesc: 5000 } {} () -> () [];
            call 0x02c6 cuTexObjectCreate { cuTexObjectCreate: 5000 } {} () -> (texture: u64) [reply forbidden blob_in];
            call 0x02c7 cuTexObjectDestroy { cuTexObjectDestroy: 5000 } {} (texture: u64) -> () [];
            local 0 cuTexObjectGetResourceDesc { cuTexObjectGetResourceDesc: 5000 } {} () -> () [];
            call 0x02c8 cuTexObjectGetResourceViewDesc { cuTexObjectGetResourceViewDesc: 5000 } {} (texture: u64) -> () [reply blob_out];
            call 0x02c9 cuTexObjectGetTextureDesc { cuTexObjectGetTextureDesc: 5000 } {} (texture: u64) -> () [reply blob_out];
            // Graphs.
            call 0x02e0 cuGraphDestroy { cuGraphDestroy: 10000 } {} (graph: u32) -> () [];
            call 0x02e1 cuGraphExecDestroy { cuGraphExecDestroy: 10000 } {} (exec: u32) -> () [];
            call 0x02e2 cuGraphInstantiateWithParams { cuGraphInstantiateWithParams: 12000 } { cuGraphInstantiateWithParams_ptsz: 12000 } (graph: u32, flags: u64, exec: u32) -> (result: i32, outcome: i32, error_node: u32) [reply driver forbidden];
            call 0x02e3 cuGraphLaunch { cuGraphLaunch: 10000 } { cuGraphLaunch_ptsz: 10000 } (exec: u32, stream: u64) -> () [turn];
            call 0x02e4 cuGraphUpload { cuGraphUpload: 11010 } { cuGraphUpload_ptsz: 11010 } (exec: u32, stream: u64) -> () [turn];
            call 0x02e5 cuGraphGetNodes { cuGraphGetNodes: 10000 } {} (graph: u32, first: u32) -> (total: u32) [reply blob_out];
            call 0x02e6 cuGraphGetRootNodes { cuGraphGetRootNodes: 10000 } {} (graph: u32, first: u32) -> (total: u32) [reply blob_out];
            call 0x02e7 cuGraphGetEdges { cuGraphGetEdges: 10000, cuGraphGetEdges_v2: 12030 } {} (graph: u32, first: u32) -> (total: u32) [reply blob_out];
            call 0x02e8 cuGraphNodeGetType { cuGraphNodeGetType: 10000 } {} (node: u32) -> (kind: u32) [reply];
            call 0x02e9 cuGraphCreate { cuGraphCreate: 10000 } {} (graph: u32, flags: u32) -> () [reply];
            call 0x02ea cuGraphAddNode { cuGraphAddNode: 12020, cuGraphAddNode_v2: 12030 } {} (graph: u32, kind: u32, dependencies: u32) -> (node: u32, pointer: u64) [reply blob_in];
            call 0x02eb cuGraphAddDependencies { cuGraphAddDependencies: 10000, cuGraphAddDependencies_v2: 12030 } {} (graph: u32) -> () [reply blob_in];
            call 0x02ec cuGraphRemoveDependencies { cuGraphRemoveDependencies: 10000, cuGraphRemoveDependencies_v2: 12030 } {} (graph: u32) -> () [reply blob_in];
            call 0x02ed cuGraphNodeGetDependencies { cuGraphNodeGetDependencies: 10000, cuGraphNodeGetDependencies_v2: 12030 } {} (node: u32, first: u32) -> (total: u32) [reply blob_out];
            call 0x02ee cuGraphNodeGetDependentNodes { cuGraphNodeGetDependentNodes: 10000, cuGraphNodeGetDependentNodes_v2: 12030 } {} (node: u32, first: u32) -> (total: u32) [reply blob_out];
            call 0x02ef cuGraphDestroyNode { cuGraphDestroyNode: 10000 } {} (node: u32) -> (graph: u32) [reply];
            call 0x02f0 cuGraphChildGraphNodeGetGraph { cuGraphChildGraphNodeGetGraph: 10000 } {} (node: u32, graph: u32) -> (owner: u32) [reply];
            call 0x02f1 cuGraphClone { cuGraphClone: 10000 } {} (graph: u32, clone: u32) -> () [reply driver];
            call 0x02f2 cuGraphNodeFindInClone { cuGraphNodeFindInClone: 10000 } {} (node: u32, graph: u32) -> (found: u32) [reply];
            call 0x02f3 cuGraphNodeSetParams { cuGraphNodeSetParams: 12020 } {} (node: u32, kind: u32) -> (graph: u32) [reply blob_in];
            call 0x02f4 cuGraphExecNodeSetParams { cuGraphExecNodeSetParams: 12020 } {} (exec: u32, node: u32, kind: u32) -> () [reply blob_in];
            call 0x02f5 cuGraphExecUpdate { cuGraphExecUpdate: 10020, cuGraphExecUpdate_v2: 12000 } {} (exec: u32, graph: u32) -> (result: i32, outcome: i32, error_node: u32, error_from: u32) [reply driver];
            call 0x02f6 cuGraphNodeSetEnabled { cuGraphNodeSetEnabled: 11060 } {} (exec: u32, node: u32, enabled: u32) -> () [reply];
            call 0x02f7 cuGraphNodeGetEnabled { cuGraphNodeGetEnabled: 11060 } {} (exec: u32, node: u32) -> (enabled: u32) [reply];
            call 0x02f8 cuGraphKernelNodeGetParams { cuGraphKernelNodeGetParams: 10000, cuGraphKernelNodeGetParams_v2: 12000 } {} (node: u32) -> (graph: u32) [reply blob_out];
            call 0x02f9 cuGraphMemcpyNodeGetParams { cuGraphMemcpyNodeGetParams: 10000 } {} (node: u32) -> () [reply blob_out];
            call 0x02fa cuGraphMemsetNodeGetParams { cuGraphMemsetNodeGetParams: 10000 } {} (node: u32) -> () [reply blob_out];
            call 0x02fb cuGraphHostNodeGetParams { cuGraphHostNodeGetParams: 10000 } {} (node: u32) -> (cookie: u64) [reply];
            call 0x02fc cuGraphEventRecordNodeGetEvent { cuGraphEventRecordNodeGetEvent: 11010 } {} (node: u32) -> (event: u32) [reply];
            call 0x02fd cuGraphEventWaitNodeGetEvent { cuGraphEventWaitNodeGetEvent: 11010 } {} (node: u32) -> (event: u32) [reply];
            call 0x02fe cuGraphKernelNodeCopyAttributes { cuGraphKernelNodeCopyAttributes: 11000 } {} (node: u32, source: u32) -> () [reply];
            call 0x02ff cuGraphKernelNodeGetAttribute { cuGraphKernelNodeGetAttribute: 11000 } {} (node: u32, attribute: i32) -> () [reply blob_out];
            call 0x0300 cuGraphKernelNodeSetAttribute { cuGraphKernelNodeSetAttribute: 11000 } {} (node: u32, attribute: i32) -> () [reply blob_in];
            call 0x0301 cuGraphConditionalHandleCreate { cuGraphConditionalHandleCreate: 12030 } {} (graph: u32, initial: u32, flags: u32) -> (value: u64) [reply];
            call 0x0302 cuDeviceGraphMemTrim { cuDeviceGraphMemTrim: 11040 } {} (device: u32) -> () [reply driver];
            call 0x0303 cuDeviceGetGraphMemAttribute { cuDeviceGetGraphMemAttribute: 11040 } {} (device: u32, attribute: i32) -> (bytes: u64) [reply];
            call 0x0304 cuDeviceSetGraphMemAttribute { cuDeviceSetGraphMemAttribute: 11040 } {} (device: u32, attribute: i32, most: u64) -> () [reply];
            call 0x0305 cuGraphMemAllocNodeGetParams { cuGraphMemAllocNodeGetParams: 11040 } {} (node: u32) -> (pointer: u64, bytes: u64, device: u32) [reply];
            call 0x0306 cuGraphMemFreeNodeGetParams { cuGraphMemFreeNodeGetParams: 11040 } {} (node: u32) -> (pointer: u64) [reply];
            call 0x0307 cuGraphBatchMemOpNodeGetParams { cuGraphBatchMemOpNodeGetParams: 11070 } {} (node: u32) -> (graph: u32) [reply blob_out];
            local 0 cuGraphAddMemAllocNode { cuGraphAddMemAllocNode: 11040 } {} () -> () [];
            local 0 cuGraphAddMemFreeNode { cuGraphAddMemFreeNode: 11040 } {} () -> () [];
            local 0 cuGraphAddChildGraphNode { cuGraphAddChildGraphNode: 10000 } {} () -> () [];
            local 0 cuGraphAddEmptyNode { cuGraphAddEmptyNode: 10000 } {} () -> () [];
            local 0 cuGraphAddEventRecordNode { cuGraphAddEventRecordNode: 11010 } {} () -> () [];
            local 0 cuGraphAddEventWaitNode { cuGraphAddEventWaitNode: 11010 } {} () -> () [];
            local 0 cuGraphAddHostNode { cuGraphAddHostNode: 10000 } {} () -> () [];
            local 0 cuGraphAddKernelNode { cuGraphAddKernelNode: 10000, cuGraphAddKernelNode_v2: 12000 } {} () -> () [];
            local 0 cuGraphAddMemcpyNode { cuGraphAddMemcpyNode: 10000 } {} () -> () [];
            local 0 cuGraphAddMemsetNode { cuGraphAddMemsetNode: 10000 } {} () -> () [];
            local 0 cuGraphEventRecordNodeSetEvent { cuGraphEventRecordNodeSetEvent: 11010 } {} () -> () [];
            local 0 cuGraphEventWaitNodeSetEvent { cuGraphEventWaitNodeSetEvent: 11010 } {} () -> () [];
            local 0 cuGraphExecChildGraphNodeSetParams { cuGraphExecChildGraphNodeSetParams: 11010 } {} () -> () [];
            local 0 cuGraphExecEventRecordNodeSetEvent { cuGraphExecEventRecordNodeSetEvent: 11010 } {} () -> () [];
            local 0 cuGraphExecEventWaitNodeSetEvent { cuGraphExecEventWaitNodeSetEvent: 11010 } {} () -> () [];
            local 0 cuGraphExecHostNodeSetParams { cuGraphExecHostNodeSetParams: 10020 } {} () -> () [];
            local 0 cuGraphExecKernelNodeSetParams { cuGraphExecKernelNodeSetParams: 10010, cuGraphExecKernelNodeSetParams_v2: 12000 } {} () -> () [];
            local 0 cuGraphExecMemcpyNodeSetParams { cuGraphExecMemcpyNodeSetParams: 10020 } {} () -> () [];
            local 0 cuGraphExecMemsetNodeSetParams { cuGraphExecMemsetNodeSetParams: 10020 } {} () -> () [];
            local 0 cuGraphHostNodeSetParams { cuGraphHostNodeSetParams: 10000 } {} () -> () [];
            local 0 cuGraphKernelNodeSetParams { cuGraphKernelNodeSetParams: 10000, cuGraphKernelNodeSetParams_v2: 12000 } {} () -> () [];
            local 0 cuGraphMemcpyNodeSetParams { cuGraphMemcpyNodeSetParams: 10000 } {} () -> () [];
            local 0 cuGraphMemsetNodeSetParams { cuGraphMemsetNodeSetParams: 10000 } {} () -> () [];
            local 0 cuGraphDebugDotPrint { cuGraphDebugDotPrint: 11030 } {} () -> () [];
            local 0 cuGraphExecGetFlags { cuGraphExecGetFlags: 12000 } {} () -> () [];
            local 0 cuGraphInstantiate { cuGraphInstantiate: 10000, cuGraphInstantiate_v2: 11000 } {} () -> () [];
            local 0 cuGraphInstantiateWithFlags { cuGraphInstantiateWithFlags: 11040 } {} () -> () [];
            local 0 cuGraphAddBatchMemOpNode { cuGraphAddBatchMemOpNode: 11070 } {} () -> () [];
            none 0 cuGraphAddExternalSemaphoresSignalNode { cuGraphAddExternalSemaphoresSignalNode: 11020 } {} () -> () [graphics];
            none 0 cuGraphAddExternalSemaphoresWaitNode { cuGraphAddExternalSemaphoresWaitNode: 11020 } {} () -> () [graphics];
            local 0 cuGraphBatchMemOpNodeSetParams { cuGraphBatchMemOpNodeSetParams: 11070 } {} () -> () [];
            local 0 cuGraphExecBatchMemOpNodeSetParams { cuGraphExecBatchMemOpNodeSetParams: 11070 } {} () -> () [];
            none 0 cuGraphExecExternalSemaphoresSignalNodeSetParams { cuGraphExecExternalSemaphoresSignalNodeSetParams: 11020 } {} () -> () [graphics];
            none 0 cuGraphExecExternalSemaphoresWaitNodeSetParams { cuGraphExecExternalSemaphoresWaitNodeSetParams: 11020 } {} () -> () [graphics];
            none 0 cuGraphExternalSemaphoresSignalNodeGetParams { cuGraphExternalSemaphoresSignalNodeGetParams: 11020 } {} () -> () [graphics];
            none 0 cuGraphExternalSemaphoresSignalNodeSetParams { cuGraphExternalSemaphoresSignalNodeSetParams: 11020 } {} () -> () [graphics];
            none 0 cuGraphExternalSemaphoresWaitNodeGetParams { cuGraphExternalSemaphoresWaitNodeGetParams: 11020 } {} () -> () [graphics];
            none 0 cuGraphExternalSemaphoresWaitNodeSetParams { cuGraphExternalSemaphoresWaitNodeSetParams: 11020 } {} () -> () [graphics];
            local 0 cuGraphReleaseUserObject { cuGraphReleaseUserObject: 11030 } {} () -> () [];
            local 0 cuGraphRetainUserObject { cuGraphRetainUserObject: 11030 } {} () -> () [];
            local 0 cuUserObjectCreate { cuUserObjectCreate: 11030 } {} () -> () [];
            local 0 cuUserObjectRelease { cuUserObjectRelease: 11030 } {} () -> () [];
            local 0 cuUserObjectRetain { cuUserObjectRetain: 11030 } {} () -> () [];
            // Green contexts.
            none 0 cuCtxFromGreenCtx { cuCtxFromGreenCtx: 12040 } {} () -> () [primary];
            local 0 cuCtxGetDevResource { cuCtxGetDevResource: 12040 } {} () -> () [];
            none 0 cuDevResourceGenerateDesc { cuDevResourceGenerateDesc: 12040 } {} () -> () [primary];
            none 0 cuDevSmResourceSplitByCount { cuDevSmResourceSplitByCount: 12040 } {} () -> () [primary];
            local 0 cuDeviceGetDevResource { cuDeviceGetDevResource: 12040 } {} () -> () [];
            none 0 cuGreenCtxCreate { cuGreenCtxCreate: 12040 } {} () -> () [primary];
            none 0 cuGreenCtxDestroy { cuGreenCtxDestroy: 12040 } {} () -> () [primary];
            none 0 cuGreenCtxGetDevResource { cuGreenCtxGetDevResource: 12040 } {} () -> () [primary];
            none 0 cuGreenCtxGetId { cuGreenCtxGetId: 12090 } {} () -> () [primary];
            none 0 cuGreenCtxRecordEvent { cuGreenCtxRecordEvent: 12040 } {} () -> () [primary];
            none 0 cuGreenCtxStreamCreate { cuGreenCtxStreamCreate: 12050 } {} () -> () [primary];
            none 0 cuGreenCtxWaitEvent { cuGreenCtxWaitEvent: 12040 } {} () -> () [primary];
            local 0 cuStreamGetGreenCtx { cuStreamGetGreenCtx: 12040 } {} () -> () [];
            // The library's log, core dumps, profiler.
            none 0 cuCoredumpGetAttribute { cuCoredumpGetAttribute: 12010 } {} () -> () [files];
            none 0 cuCoredumpGetAttributeGlobal { cuCoredumpGetAttributeGlobal: 12010 } {} () -> () [files];
            none 0 cuCoredumpSetAttribute { cuCoredumpSetAttribute: 12010 } {} () -> () [files];
            none 0 cuCoredumpSetAttributeGlobal { cuCoredumpSetAttributeGlobal: 12010 } {} () -> () [files];
            local 0 cuLogsCurrent { cuLogsCurrent: 12090 } {} () -> () [];
            local 0 cuLogsDumpToFile { cuLogsDumpToFile: 12090 } {} () -> () [];
            local 0 cuLogsDumpToMemory { cuLogsDumpToMemory: 12090 } {} () -> () [];
            local 0 cuLogsRegisterCallback { cuLogsRegisterCallback: 12090 } {} () -> () [];
            local 0 cuLogsUnregisterCallback { cuLogsUnregisterCallback: 12090 } {} () -> () [];
            local 0 cuProfilerStart { cuProfilerStart: 4000 } {} () -> () [];
            local 0 cuProfilerStop { cuProfilerStop: 4000 } {} () -> () [];
            // Interoperation with graphics and other drivers.
            none 0 cuDestroyExternalMemory { cuDestroyExternalMemory: 10000 } {} () -> () [graphics];
            none 0 cuDestroyExternalSemaphore { cuDestroyExternalSemaphore: 10000 } {} () -> () [graphics];
            none 0 cuDeviceGetNvSciSyncAttributes { cuDeviceGetNvSciSyncAttributes: 10020 } {} () -> () [graphics];
            none 0 cuExternalMemoryGetMappedBuffer { cuExternalMemoryGetMappedBuffer: 10000 } {} () -> () [graphics];
            none 0 cuExternalMemoryGetMappedMipmappedArray { cuExternalMemoryGetMappedMipmappedArray: 10000 } {} () -> () [graphics];
            none 0 cuFlushGPUDirectRDMAWrites { cuFlushGPUDirectRDMAWrites: 11030 } {} () -> () [hardware];
            none 0 cuGraphicsMapResources { cuGraphicsMapResources: 3000 } { cuGraphicsMapResources_ptsz: 7000 } () -> () [graphics];
            none 0 cuGraphicsResourceGetMappedMipmappedArray { cuGraphicsResourceGetMappedMipmappedArray: 5000 } {} () -> () [graphics];
            none 0 cuGraphicsResourceGetMappedPointer { cuGraphicsResourceGetMappedPointer_v2: 3020 } {} () -> () [graphics];
            none 0 cuGraphicsResourceSetMapFlags { cuGraphicsResourceSetMapFlags_v2: 6050 } {} () -> () [graphics];
            none 0 cuGraphicsSubResourceGetMappedArray { cuGraphicsSubResourceGetMappedArray: 3000 } {} () -> () [graphics];
            none 0 cuGraphicsUnmapResources { cuGraphicsUnmapResources: 3000 } { cuGraphicsUnmapResources_ptsz: 7000 } () -> () [graphics];
            none 0 cuGraphicsUnregisterResource { cuGraphicsUnregisterResource: 3000 } {} () -> () [graphics];
            none 0 cuImportExternalMemory { cuImportExternalMemory: 10000 } {} () -> () [graphics];
            none 0 cuImportExternalSemaphore { cuImportExternalSemaphore: 10000 } {} () -> () [graphics];
            none 0 cuSignalExternalSemaphoresAsync { cuSignalExternalSemaphoresAsync: 10000 } { cuSignalExternalSemaphoresAsync_ptsz: 10000 } () -> () [graphics];
            none 0 cuWaitExternalSemaphoresAsync { cuWaitExternalSemaphoresAsync: 10000 } { cuWaitExternalSemaphoresAsync_ptsz: 10000 } () -> () [graphics];
            // Checkpoints and notifications.
            none 0 cuCheckpointProcessCheckpoint { cuCheckpointProcessCheckpoint: 12080 } {} () -> () [operator];
            none 0 cuCheckpointProcessGetRestoreThreadId { cuCheckpointProcessGetRestoreThreadId: 12080 } {} () -> () [operator];
            none 0 cuCheckpointProcessGetState { cuCheckpointProcessGetState: 12080 } {} () -> () [operator];
            none 0 cuCheckpointProcessLock { cuCheckpointProcessLock: 12080 } {} () -> () [operator];
            none 0 cuCheckpointProcessRestore { cuCheckpointProcessRestore: 12080 } {} () -> () [operator];
            none 0 cuCheckpointProcessUnlock { cuCheckpointProcessUnlock: 12080 } {} () -> () [operator];
            none 0 cuDeviceRegisterAsyncNotification { cuDeviceRegisterAsyncNotification: 12040 } {} () -> () [operator];
            none 0 cuDeviceUnregisterAsyncNotification { cuDeviceUnregisterAsyncNotification: 12040 } {} () -> () [operator];
            // Texture and surface references.
            none 0 cuSurfRefGetArray { cuSurfRefGetArray: 3000 } {} () -> () [obsolete];
            none 0 cuSurfRefSetArray { cuSurfRefSetArray: 3000 } {} () -> () [obsolete];
            none 0 cuTexRefCreate { cuTexRefCreate: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefDestroy { cuTexRefDestroy: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefGetAddress { cuTexRefGetAddress_v2: 3020 } {} () -> () [obsolete];
            none 0 cuTexRefGetAddressMode { cuTexRefGetAddressMode: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefGetArray { cuTexRefGetArray: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefGetBorderColor { cuTexRefGetBorderColor: 8000 } {} () -> () [obsolete];
            none 0 cuTexRefGetFilterMode { cuTexRefGetFilterMode: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefGetFlags { cuTexRefGetFlags: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefGetFormat { cuTexRefGetFormat: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefGetMaxAnisotropy { cuTexRefGetMaxAnisotropy: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefGetMipmapFilterMode { cuTexRefGetMipmapFilterMode: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefGetMipmapLevelBias { cuTexRefGetMipmapLevelBias: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefGetMipmapLevelClamp { cuTexRefGetMipmapLevelClamp: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefGetMipmappedArray { cuTexRefGetMipmappedArray: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefSetAddress { cuTexRefSetAddress_v2: 3020 } {} () -> () [obsolete];
            none 0 cuTexRefSetAddress2D { cuTexRefSetAddress2D_v3: 4010 } {} () -> () [obsolete];
            none 0 cuTexRefSetAddressMode { cuTexRefSetAddressMode: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefSetArray { cuTexRefSetArray: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefSetBorderColor { cuTexRefSetBorderColor: 8000 } {} () -> () [obsolete];
            none 0 cuTexRefSetFilterMode { cuTexRefSetFilterMode: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefSetFlags { cuTexRefSetFlags: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefSetFormat { cuTexRefSetFormat: 2000 } {} () -> () [obsolete];
            none 0 cuTexRefSetMaxAnisotropy { cuTexRefSetMaxAnisotropy: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefSetMipmapFilterMode { cuTexRefSetMipmapFilterMode: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefSetMipmapLevelBias { cuTexRefSetMipmapLevelBias: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefSetMipmapLevelClamp { cuTexRefSetMipmapLevelClamp: 5000 } {} () -> () [obsolete];
            none 0 cuTexRefSetMipmappedArray { cuTexRefSetMipmappedArray: 5000 } {} () -> () [obsolete];
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
            cuCtxDestroy cuCtxPopCurrent cuCtxPushCurrent cuDeviceTotalMem cuEGLApiInit
            cuEGLStreamConsumerAcquireFrame cuEGLStreamConsumerConnect cuEGLStreamConsumerConnectWithFlags
            cuEGLStreamConsumerDisconnect cuEGLStreamConsumerReleaseFrame cuEGLStreamProducerConnect
            cuEGLStreamProducerDisconnect cuEGLStreamProducerPresentFrame cuEGLStreamProducerReturnFrame
            cuEventDestroy cuGLCtxCreate cuGLCtxCreate_v2 cuGLGetDevices cuGLGetDevices_v2 cuGLInit
            cuGLMapBufferObject cuGLMapBufferObjectAsync cuGLMapBufferObjectAsync_v2
            cuGLMapBufferObjectAsync_v2_ptsz cuGLMapBufferObject_v2 cuGLMapBufferObject_v2_ptds
            cuGLRegisterBufferObject cuGLSetBufferObjectMapFlags cuGLUnmapBufferObject
            cuGLUnmapBufferObjectAsync cuGLUnregisterBufferObject cuGraphicsEGLRegisterImage
            cuGraphicsGLRegisterBuffer cuGraphicsGLRegisterImage cuGraphicsResourceGetMappedEglFrame
            cuGraphicsResourceGetMappedPointer cuGraphicsResourceSetMapFlags
            cuGraphicsVDPAURegisterOutputSurface cuGraphicsVDPAURegisterVideoSurface cuIpcOpenMemHandle
            cuMemAlloc cuMemAllocHost cuMemAllocPitch cuMemFree cuMemGetAddressRange
            cuMemGetAttribute cuMemGetAttribute_v2 cuMemGetInfo cuMemHostGetDevicePointer cuMemHostRegister
            cuMemcpy2D cuMemcpy2DAsync cuMemcpy2DUnaligned
            cuMemcpy3D cuMemcpy3DAsync cuMemcpyAtoA cuMemcpyAtoD cuMemcpyAtoH cuMemcpyAtoHAsync cuMemcpyDtoA
            cuMemcpyDtoD cuMemcpyDtoDAsync cuMemcpyDtoH cuMemcpyDtoHAsync cuMemcpyHtoA cuMemcpyHtoAAsync
            cuMemcpyHtoD cuMemcpyHtoDAsync cuMemsetD16 cuMemsetD2D16 cuMemsetD2D32 cuMemsetD2D8 cuMemsetD32
            cuMemsetD8 cuModuleGetGlobal cuProfilerInitialize cuStreamBeginCapture cuStreamBeginCapture_ptsz
            cuStreamDestroy cuTexRefGetAddress cuTexRefSetAddress cuTexRefSetAddress2D
            cuTexRefSetAddress2D_v2 cuVDPAUCtxCreate cuVDPAUCtxCreate_v2 cuVDPAUGetDevice
        }
    };
}
