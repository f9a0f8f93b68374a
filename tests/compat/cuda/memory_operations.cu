// The stream writes and waits for values in memory; copies given as a batch; flags between kernel and host.
#include "compat.h"

__global__ void answer(volatile int *question, volatile int *reply) {
    while (*question == 0) {
    }
    *reply = *question * 2;
    __threadfence_system();
}

int main() {
    CHECK(cudaFree(0));
    auto write32 = compat::driver<decltype(&cuStreamWriteValue32)>("cuStreamWriteValue32");
    auto wait32 = compat::driver<decltype(&cuStreamWaitValue32)>("cuStreamWaitValue32");
    auto write64 = compat::driver<decltype(&cuStreamWriteValue64)>("cuStreamWriteValue64");
    auto batch = compat::driver<decltype(&cuStreamBatchMemOp)>("cuStreamBatchMemOp");
    cudaStream_t one, other;
    CHECK(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    uint32_t *flags = compat::zeros<uint32_t>(16), *pinned;
    CHECK(cudaMallocHost(&pinned, 64));
    std::memset(pinned, 0, 64);
    CUdeviceptr flag = (CUdeviceptr)flags, host = (CUdeviceptr)pinned;
    CHECK(wait32(one, flag, 5, CU_STREAM_WAIT_VALUE_GEQ));
    CHECK(write32(one, flag + 4, 11, 0));
    CHECK(write32(other, flag, 7, 0));
    CHECK(cudaStreamSynchronize(one));
    CHECK(write64(one, flag + 8, 0x123456789abcdef0ull, 0));
    CHECK(wait32(one, host, 1, CU_STREAM_WAIT_VALUE_EQ));
    CHECK(write32(one, host + 4, 99, 0));
    save("waits", cudaStreamQuery(one));
    *(volatile uint32_t *)pinned = 1;
    CHECK(cudaStreamSynchronize(one));
    EXPECT(pinned[1] == 99);
    CUstreamBatchMemOpParams operations[2] = {};
    operations[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    operations[0].writeValue.address = flag + 16;
    operations[0].writeValue.value = 21;
    operations[1].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    operations[1].waitValue.address = flag + 16;
    operations[1].waitValue.value = 21;
    operations[1].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    CHECK(batch(other, 2, operations, 0));
    CHECK(cudaStreamSynchronize(other));
    save("flags", compat::fetch(flags, 16));

    // A kernel that runs while the host answers it.
    pinned[8] = pinned[9] = 0;
    answer<<<1, 1, 0, one>>>((int *)pinned + 8, (int *)pinned + 9);
    usleep(10000);
    ((volatile uint32_t *)pinned)[8] = 21;
    for (int i = 0; i < 500000 && ((volatile uint32_t *)pinned)[9] != 42; i++) usleep(10);
    EXPECT(((volatile uint32_t *)pinned)[9] == 42);
    CHECK(cudaStreamSynchronize(one));

    std::vector<float> a = compat::noise(1000, 1), b = compat::noise(500, 2), back(1500);
#if CUDART_VERSION >= 13000
    float *device = compat::zeros<float>(1500);
    // Its stream does not wait for the one in which that is cleared.
    CHECK(cudaDeviceSynchronize());
    const void *sources[] = {a.data(), b.data()};
    void *targets[] = {device, device + 1000};
    size_t sizes[] = {4000, 2000}, first[] = {0};
    cudaMemcpyAttributes how[1] = {};
    how[0].srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    CHECK(cudaMemcpyBatchAsync(targets, sources, sizes, 2, how, first, 1, one));
    CHECK(cudaMemcpyAsync(back.data(), device, 6000, cudaMemcpyDeviceToHost, one));
    CHECK(cudaStreamSynchronize(one));
    EXPECT(back[999] == a[999] && back[1499] == b[499]);
    save("batch", back);
#endif
    std::printf("memory_operations: done\n");
}
