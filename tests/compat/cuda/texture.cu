// Texture objects: linear memory, pitched memory, arrays; filtering, addressing, normalised reads; layers, cubes, mipmaps.
#include "compat.h"

__global__ void fetch1(cudaTextureObject_t tex, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = tex1Dfetch<float>(tex, i - 2);
}
__global__ void sample2(cudaTextureObject_t tex, float *out, int n, float scale, float shift) {
    int x = threadIdx.x, y = blockIdx.x;
    out[y * n + x] = tex2D<float>(tex, x * scale + shift, y * scale + shift);
}
__global__ void sample3(cudaTextureObject_t tex, float *out) {
    int i = threadIdx.x;
    out[i] = tex3D<float>(tex, i * 0.13f, i * 0.07f, i * 0.05f);
}
__global__ void layered(cudaTextureObject_t tex, float *out) {
    int i = threadIdx.x;
    out[i] = tex2DLayered<float>(tex, i * 0.2f, 1.5f, i % 3);
}
__global__ void mipmapped(cudaTextureObject_t tex, float *out) {
    int i = threadIdx.x;
    out[i] = tex2DLod<float>(tex, (i % 8) / 8.0f, 0.5f, (i / 8) * 0.5f);
}

static cudaTextureObject_t make_texture(const cudaResourceDesc &resource, cudaTextureAddressMode address, cudaTextureFilterMode filter,
                                   bool normalised, cudaTextureReadMode read = cudaReadModeElementType) {
    cudaTextureDesc how = {};
    for (auto &mode : how.addressMode) mode = address;
    how.filterMode = filter;
    how.readMode = read;
    how.normalizedCoords = normalised;
    how.borderColor[0] = 9;
    how.maxMipmapLevelClamp = 10;
    how.mipmapFilterMode = filter;
    cudaTextureObject_t object;
    CHECK(cudaCreateTextureObject(&object, &resource, &how, nullptr));
    return object;
}

int main() {
    const int N = 32;
    std::vector<float> image = compat::noise(N * N);
    float *out = compat::zeros<float>(4096);

    cudaResourceDesc linear = {};
    linear.resType = cudaResourceTypeLinear;
    linear.res.linear.devPtr = compat::device(image);
    linear.res.linear.desc = cudaCreateChannelDesc<float>();
    linear.res.linear.sizeInBytes = N * N * sizeof(float);
    cudaTextureObject_t tex = make_texture(linear, cudaAddressModeClamp, cudaFilterModePoint, false);
    fetch1<<<1, 64>>>(tex, out, 64);
    save("linear", compat::fetch(out, 64));
    CHECK(cudaDestroyTextureObject(tex));

    cudaArray_t array;
    cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();
    CHECK(cudaMallocArray(&array, &format, N, N));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, image.data(), N * sizeof(float), N * sizeof(float), N, cudaMemcpyHostToDevice));
    cudaResourceDesc of_array = {};
    of_array.resType = cudaResourceTypeArray;
    of_array.res.array.array = array;
    const cudaTextureAddressMode modes[] = {cudaAddressModeClamp, cudaAddressModeBorder, cudaAddressModeWrap, cudaAddressModeMirror};
    for (auto mode : modes) {
        for (auto filter : {cudaFilterModePoint, cudaFilterModeLinear}) {
            bool normalised = mode == cudaAddressModeWrap || mode == cudaAddressModeMirror;
            tex = make_texture(of_array, mode, filter, normalised);
            sample2<<<64, 64>>>(tex, out, 64, normalised ? 0.041f : 0.71f, normalised ? -0.3f : -3.2f);
            save("array " + std::to_string(int(mode)) + (filter == cudaFilterModeLinear ? " linear" : " point"), compat::fetch(out, 4096));
            cudaTextureDesc told;
            cudaResourceDesc told_of;
            CHECK(cudaGetTextureObjectTextureDesc(&told, tex));
            CHECK(cudaGetTextureObjectResourceDesc(&told_of, tex));
            EXPECT(told.addressMode[0] == mode && told.filterMode == filter && told_of.resType == cudaResourceTypeArray);
            EXPECT(told_of.res.array.array == array);
            CHECK(cudaDestroyTextureObject(tex));
        }
    }
    cudaExtent extent;
    unsigned flags;
    CHECK(cudaArrayGetInfo(&format, &extent, &flags, array));
    EXPECT(format.x == 32 && format.f == cudaChannelFormatKindFloat && extent.width == N && extent.height == N && flags == 0);
    std::vector<float> back(N * N);
    CHECK(cudaMemcpy2DFromArray(back.data(), N * sizeof(float), array, 0, 0, N * sizeof(float), N, cudaMemcpyDeviceToHost));
    EXPECT(back == image);
    CHECK(cudaFreeArray(array));

    unsigned char *pitched;
    size_t pitch;
    CHECK(cudaMallocPitch(&pitched, &pitch, N, N));
    save("pitch", pitch);
    std::vector<unsigned char> bytes(N * N);
    for (int i = 0; i < N * N; i++) bytes[i] = (unsigned char)(i * 31);
    CHECK(cudaMemcpy2D(pitched, pitch, bytes.data(), N, N, N, cudaMemcpyHostToDevice));
    cudaResourceDesc of_pitch = {};
    of_pitch.resType = cudaResourceTypePitch2D;
    of_pitch.res.pitch2D.devPtr = pitched;
    of_pitch.res.pitch2D.desc = cudaCreateChannelDesc<unsigned char>();
    of_pitch.res.pitch2D.width = of_pitch.res.pitch2D.height = N;
    of_pitch.res.pitch2D.pitchInBytes = pitch;
    tex = make_texture(of_pitch, cudaAddressModeClamp, cudaFilterModeLinear, true, cudaReadModeNormalizedFloat);
    sample2<<<64, 64>>>(tex, out, 64, 1 / 64.0f, 0);
    save("pitched", compat::fetch(out, 4096));
    CHECK(cudaDestroyTextureObject(tex));
    CHECK(cudaFree(pitched));

    format = cudaCreateChannelDesc<float>();
    cudaArray_t cube;
    cudaExtent size = make_cudaExtent(8, 8, 16);
    CHECK(cudaMalloc3DArray(&cube, &format, size));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(image.data(), 8 * sizeof(float), 8, 8);
    copy.dstArray = cube;
    copy.extent = size;
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    of_array.res.array.array = cube;
    tex = make_texture(of_array, cudaAddressModeClamp, cudaFilterModeLinear, false);
    sample3<<<1, 128>>>(tex, out);
    save("3d", compat::fetch(out, 128));
    CHECK(cudaDestroyTextureObject(tex));
    CHECK(cudaFreeArray(cube));

    cudaArray_t layers;
    size = make_cudaExtent(8, 8, 3);
    CHECK(cudaMalloc3DArray(&layers, &format, size, cudaArrayLayered));
    copy.dstArray = layers;
    copy.extent = size;
    CHECK(cudaMemcpy3D(&copy));
    of_array.res.array.array = layers;
    tex = make_texture(of_array, cudaAddressModeClamp, cudaFilterModeLinear, false);
    layered<<<1, 64>>>(tex, out);
    save("layered", compat::fetch(out, 64));
    CHECK(cudaDestroyTextureObject(tex));
    CHECK(cudaFreeArray(layers));

    cudaMipmappedArray_t pyramid;
    size = make_cudaExtent(16, 16, 0);
    CHECK(cudaMallocMipmappedArray(&pyramid, &format, size, 3));
    for (unsigned level = 0; level < 3; level++) {
        cudaArray_t part;
        CHECK(cudaGetMipmappedArrayLevel(&part, pyramid, level));
        size_t edge = 16 >> level;
        CHECK(cudaMemcpy2DToArray(part, 0, 0, image.data() + level * 7, edge * 4, edge * 4, edge, cudaMemcpyHostToDevice));
    }
    cudaResourceDesc of_pyramid = {};
    of_pyramid.resType = cudaResourceTypeMipmappedArray;
    of_pyramid.res.mipmap.mipmap = pyramid;
    tex = make_texture(of_pyramid, cudaAddressModeClamp, cudaFilterModeLinear, true);
    mipmapped<<<1, 48>>>(tex, out);
    save("mipmapped", compat::fetch(out, 48));
    CHECK(cudaDestroyTextureObject(tex));
    CHECK(cudaFreeMipmappedArray(pyramid));
    std::printf("texture: done\n");
}
