// SPDX-License-Identifier: Apache-2.0 OR MIT
// A stream's work captured into a graph, and the graph run many times.
#include "common.h"

enum { N = 4096, LAUNCHES = 10, REPLAYS = 20 };

int main(void) {
    setup();
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr p = device_alloc(N * sizeof(uint32_t));
    CHECK(cuMemsetD32_v2(p, 0, N));
    CHECK(cuCtxSynchronize());
    CUfunction increment = kernel("increment");
    uint32_t by = 3, n = N;
    void *params[] = {&p, &by, &n};
    int capturing = -1;
    CHECK(cuStreamIsCapturing(stream, &capturing));
    EXPECT(capturing == 0, "status %d before", capturing);
    CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    CHECK(cuStreamIsCapturing(stream, &capturing));
    EXPECT(capturing == 1, "status %d during", capturing);
    for (int i = 0; i < LAUNCHES; i++)
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
    CUgraph graph;
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuStreamIsCapturing(stream, &capturing));
    EXPECT(capturing == 0, "status %d after", capturing);
    CUgraphExec exec;
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    by = 1000; // what was captured stays as it was
    for (int i = 0; i < REPLAYS; i++)
        CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    static uint32_t got[N];
    CHECK(cuMemcpyDtoH_v2(got, p, sizeof got));
    for (int i = 0; i < N; i++)
        EXPECT(got[i] == 3u * LAUNCHES * REPLAYS, "element %d is %u, should be %u", i, got[i], 3u * LAUNCHES * REPLAYS);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuStreamDestroy_v2(stream));
    printf("capture: %d launches replayed %d times, right\n", LAUNCHES, REPLAYS);
    return 0;
}
