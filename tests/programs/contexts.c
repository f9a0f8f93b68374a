// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a context has as a whole: events behind all of its work, and waiting with all that comes.
#include "common.h"

enum {
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY = 224,
    ATOMIC_ADD = 0,
    ATOMIC_CAS = 9,
};
CUresult cuCtxRecordEvent(CUcontext context, CUevent event);
CUresult cuCtxWaitEvent(CUcontext context, CUevent event);
CUresult cuCtxGetExecAffinity(unsigned affinity[2], int kind);
CUresult cuDeviceGetHostAtomicCapabilities(unsigned *can, const unsigned *operations, unsigned count, CUdevice device);

static CUfunction spin;

static void spin_on(CUstream stream, CUdeviceptr out) {
    uint64_t nanoseconds = 150000000;
    void *params[] = {&out, &nanoseconds};
    CHECK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
}

// An event of the context comes behind the work of all its streams.
static void record(CUstream *streams, CUdeviceptr out) {
    CUevent event;
    CHECK(cuEventCreate(&event, 2));
    CHECK(cuEventQuery(event));
    spin_on(streams[0], out);
    spin_on(streams[1], out + 4);
    CHECK(cuCtxRecordEvent(context, event));
    CUresult now = cuEventQuery(event);
    EXPECT(now == CUDA_ERROR_NOT_READY, "at once it is %d", now);
    CHECK(cuEventSynchronize(event));
    CHECK(cuStreamQuery(streams[0]));
    CHECK(cuStreamQuery(streams[1]));
    CHECK(cuEventQuery(event));
    CHECK(cuEventDestroy_v2(event));
}

// All that comes waits for the event, also in streams that come.
static void wait(CUstream *streams, CUdeviceptr out) {
    CUevent event;
    CHECK(cuEventCreate(&event, 2));
    CHECK(cuMemsetD32_v2(out, 0, 2));
    CHECK(cuCtxSynchronize());
    spin_on(streams[0], out);
    CHECK(cuEventRecord(event, streams[0]));
    CHECK(cuCtxWaitEvent(context, event));
    CUstream late;
    CHECK(cuStreamCreate(&late, CU_STREAM_NON_BLOCKING));
    uint32_t *found;
    CHECK(cuMemHostAlloc((void **)&found, 8, 0));
    CHECK(cuMemcpyDtoHAsync_v2(&found[0], out, 4, streams[1]));
    CHECK(cuMemcpyDtoHAsync_v2(&found[1], out, 4, late));
    CHECK(cuStreamSynchronize(streams[1]));
    CHECK(cuStreamSynchronize(late));
    EXPECT(found[0] == 1 && found[1] == 1, "copied were %u and %u", found[0], found[1]);
    CHECK(cuMemFreeHost(found));
    CHECK(cuStreamDestroy_v2(late));
    CHECK(cuEventDestroy_v2(event));
}

static void refused(CUstream *streams) {
    CUcontext other;
    CUevent event, theirs, fresh;
    CHECK(cuEventCreate(&event, 2));
    CHECK(cuEventCreate(&fresh, 2));
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CHECK(cuEventCreate(&theirs, 2));
    EXPECT(cuCtxRecordEvent(NULL, event) == CUDA_ERROR_INVALID_CONTEXT, "there is no context");
    EXPECT(cuCtxRecordEvent(context, theirs) == CUDA_ERROR_INVALID_HANDLE, "the event is another context's");
    CHECK(cuCtxRecordEvent(other, theirs));
    CHECK(cuCtxWaitEvent(context, theirs));
    CHECK(cuCtxWaitEvent(context, fresh));
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuCtxSetCurrent(context));
    // A capture is ended by it.
    CUgraph graph = NULL;
    CHECK(cuStreamBeginCapture_v2(streams[0], 2));
    CUresult during = cuCtxRecordEvent(context, event);
    EXPECT(during == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "in a capture it gave %d", during);
    EXPECT(cuStreamEndCapture(streams[0], &graph) != CUDA_SUCCESS, "the capture went on");
    CHECK(cuCtxRecordEvent(context, event));
    CHECK(cuEventSynchronize(event));
    CHECK(cuEventDestroy_v2(event));
    CHECK(cuEventDestroy_v2(fresh));
}

int main(void) {
    setup();
    spin = kernel("spin");
    CUstream streams[2];
    for (int i = 0; i < 2; i++)
        CHECK(cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
    CUdeviceptr out = device_alloc(8);
    record(streams, out);
    wait(streams, out);
    refused(streams);
    unsigned operations[2] = {ATOMIC_ADD, ATOMIC_CAS}, can[2] = {~0u, ~0u};
    CHECK(cuDeviceGetHostAtomicCapabilities(can, operations, 2, device));
    EXPECT(can[0] < 0x80 && can[1] < 0x80, "what can be done is %x and %x", can[0], can[1]);
    operations[1] = 99;
    EXPECT(cuDeviceGetHostAtomicCapabilities(can, operations, 2, device) == CUDA_ERROR_INVALID_VALUE, "99 was taken");
    EXPECT(cuDeviceGetHostAtomicCapabilities(can, operations, 0, device) == CUDA_ERROR_INVALID_VALUE, "none was taken");
    unsigned affinity[2];
    CUresult limited = cuCtxGetExecAffinity(affinity, 0);
    EXPECT(limited == CUDA_SUCCESS || limited == CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "the multiprocessors gave %d", limited);
    printf("contexts: all right\n");
    return 0;
}
