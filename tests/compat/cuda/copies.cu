// Copies and fills of lines, planes and boxes, in all directions.
#include "compat.h"

int main() {
    const size_t W = 100, H = 37, D = 5;
    std::vector<unsigned char> host(W * H * D), back(W * H * D), small(20 * 10);
    for (size_t i = 0; i < host.size(); i++) host[i] = (unsigned char)(i * 13 + i / 256);

    unsigned char *plane;
    size_t pitch;
    CHECK(cudaMallocPitch(&plane, &pitch, W, H));
    save("pitch", pitch);
    CHECK(cudaMemset2D(plane, pitch, 7, W, H));
    CHECK(cudaMemcpy2D(plane, pitch, host.data(), W, W, H, cudaMemcpyHostToDevice));
    CHECK(cudaMemset2D(plane + 3 * pitch + 5, pitch, 200, 10, 4));
    CHECK(cudaMemcpy2D(back.data(), W, plane, pitch, W, H, cudaMemcpyDeviceToHost));
    EXPECT(back[3 * W + 5] == 200 && back[6 * W + 14] == 200 && back[7 * W + 5] == host[7 * W + 5]);
    save("2d", back.data(), W * H);
    CHECK(cudaMemcpy2D(small.data(), 20, plane + 2 * pitch + 1, pitch, 20, 10, cudaMemcpyDefault));
    save("part", small);

    cudaExtent extent = make_cudaExtent(W, H, D);
    cudaPitchedPtr box, other;
    CHECK(cudaMalloc3D(&box, extent));
    CHECK(cudaMalloc3D(&other, extent));
    save("box pitch", box.pitch);
    EXPECT(box.xsize == W && box.ysize == H);
    CHECK(cudaMemset3D(other, 99, extent));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(host.data(), W, W, H);
    copy.dstPtr = box;
    copy.extent = extent;
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    copy = {};
    copy.srcPtr = box;
    copy.srcPos = make_cudaPos(4, 3, 1);
    copy.dstPtr = other;
    copy.dstPos = make_cudaPos(10, 20, 2);
    copy.extent = make_cudaExtent(50, 10, 3);
    copy.kind = cudaMemcpyDeviceToDevice;
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaMemcpy3DAsync(&copy, stream));
    CHECK(cudaStreamSynchronize(stream));
    copy = {};
    copy.srcPtr = other;
    copy.dstPtr = make_cudaPitchedPtr(back.data(), W, W, H);
    copy.extent = extent;
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaMemcpy3D(&copy));
    EXPECT(back[0] == 99 && back[(2 * H + 20) * W + 10] == host[(1 * H + 3) * W + 4]);
    save("3d", back);

    cudaArray_t array;
    cudaChannelFormatDesc format = cudaCreateChannelDesc<unsigned char>();
    CHECK(cudaMallocArray(&array, &format, W, H));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, plane, pitch, W, H, cudaMemcpyDeviceToDevice));
    CHECK(cudaMemcpy2DFromArrayAsync(back.data(), W, array, 0, 0, W, H, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    save("from array", back.data(), W * H);
    CHECK(cudaFreeArray(array));

    // Lines: fills of every size at odd places, overlapping ends, nothing at all.
    unsigned char *line = compat::zeros<unsigned char>(10000);
    CHECK(cudaMemset(line + 1, 0xab, 3001));
    CHECK(cudaMemsetAsync(line + 5000, 0xcd, 17, stream));
    CHECK(cudaMemcpyAsync(line + 6001, line + 1, 999, cudaMemcpyDeviceToDevice, stream));
    CHECK(cudaMemcpyAsync(line + 8000, host.data() + 3, 1001, cudaMemcpyHostToDevice, stream));
    CHECK(cudaMemcpy(line, line, 0, cudaMemcpyDefault));
    CHECK(cudaStreamSynchronize(stream));
    save("line", compat::fetch(line, 10000));

    // Much at once, through pageable memory.
    std::vector<uint32_t> big(24 << 20), big_back(24 << 20);
    for (size_t i = 0; i < big.size(); i++) big[i] = uint32_t(i * 2654435761u);
    uint32_t *big_device = compat::device(big);
    CHECK(cudaMemcpy(big_back.data(), big_device, big.size() * 4, cudaMemcpyDeviceToHost));
    EXPECT(big == big_back);

    save("no such kind", cudaMemcpy(line, host.data(), 10, cudaMemcpyKind(9)));
    save("wide pitch", cudaMemcpy2D(plane, pitch, host.data(), 10, W, H, cudaMemcpyHostToDevice));
    cudaGetLastError();
    std::printf("copies: done\n");
}
