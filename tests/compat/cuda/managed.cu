// Managed memory: host and device take turns; a managed variable; memory attached to a stream; a linked list.
#include "compat.h"

struct Node {
    Node *next;
    int value;
};

__managed__ int total = 3;
__managed__ float array[64];

__global__ void twice(float *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] *= 2;
}
__global__ void walk(Node *node) {
    for (; node; node = node->next) total += node->value;
    for (int i = 0; i < 64; i++) array[i] = i * 0.25f;
}

int main() {
    const int N = 100000;
    float *data;
    CHECK(cudaMallocManaged(&data, N * sizeof(float)));
    for (int i = 0; i < N; i++) data[i] = float(i);
    for (int round = 0; round < 3; round++) {
        twice<<<(N + 255) / 256, 256>>>(data, N);
        CHECK(cudaDeviceSynchronize());
        EXPECT(data[N - 1] == float(N - 1) * float(2 << round));
        data[round] = -1;
    }
    save("data", data, N);

    Node *head = nullptr;
    for (int i = 0; i < 50; i++) {
        Node *node;
        CHECK(cudaMallocManaged(&node, sizeof(Node)));
        *node = Node{head, i};
        head = node;
    }
    walk<<<1, 1>>>(head);
    CHECK(cudaDeviceSynchronize());
    EXPECT(total == 3 + 50 * 49 / 2);
    EXPECT(array[63] == 15.75f);
    while (head) {
        Node *next = head->next;
        CHECK(cudaFree(head));
        head = next;
    }

    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    float *attached;
    CHECK(cudaMallocManaged(&attached, 4096, cudaMemAttachHost));
    for (int i = 0; i < 1024; i++) attached[i] = 1;
    CHECK(cudaStreamAttachMemAsync(stream, attached, 0, cudaMemAttachSingle));
    CHECK(cudaStreamSynchronize(stream));
    twice<<<4, 256, 0, stream>>>(attached, 1024);
    CHECK(cudaStreamSynchronize(stream));
    EXPECT(attached[1023] == 2);

    // Copies and fills take it as they take any memory.
    CHECK(cudaMemset(data, 0, 1000));
    CHECK(cudaMemcpy(data + 1000, attached, 4096, cudaMemcpyDefault));
    CHECK(cudaDeviceSynchronize());
    EXPECT(data[0] == 0 && data[1000] == 2);
    cudaPointerAttributes about;
    CHECK(cudaPointerGetAttributes(&about, data));
    EXPECT(about.type == cudaMemoryTypeManaged && about.devicePointer == data && about.hostPointer == data);
    int concurrent = 0;
    CHECK(cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, 0));
    if (concurrent) {
        cudaMemLocation here = {cudaMemLocationTypeDevice, 0};
        CHECK(cudaMemPrefetchAsync(data, N * sizeof(float), here, 0, stream));
        CHECK(cudaMemAdvise(data, N * sizeof(float), cudaMemAdviseSetReadMostly, here));
    }
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaFree(attached));
    CHECK(cudaFree(data));
    std::printf("managed: %d elements right\n", N);
}
