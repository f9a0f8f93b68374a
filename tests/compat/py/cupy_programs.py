# compat: limit 120
"""CuPy: arrays, kernels of one's own, streams, pools, NVIDIA's libraries."""

from compat import expect, main, need, save

numpy = need("numpy")
cupy = need("cupy")


def noise(*shape, kind="f4"):
    return cupy.asarray(numpy.random.RandomState(1).standard_normal(shape).astype(kind))


def case_elementwise():
    x, y = noise(300, 200), noise(200)
    save("sum", x + y * 2)
    save("where", cupy.where(x > 0, cupy.sqrt(cupy.abs(x)), -1))
    kernel = cupy.ElementwiseKernel("T x, T y", "T z", "z = x * x - y; if (i % 3 == 0) z += i;", "own")
    save("own", kernel(x, y))

    @cupy.fuse()
    def fused(a, b):
        return cupy.exp(-a * a) * b + 1

    save("fused", fused(x, y))
    save("index", x[::3, [1, 5, 7]])
    x[x < -1] = 0
    save("assigned", x)


def case_reduction():
    x = noise(257, 129)
    save("sums", [x.sum(), x.sum(0), x.mean(1), x.std(), x.argmax(1), x.min()])
    kernel = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "own_norm")
    save("own", kernel(x, axis=1))
    save("scan", cupy.cumsum(x, axis=0))
    save("sort", [cupy.sort(x, axis=1), cupy.argsort(x, axis=0)])
    save("histogram", cupy.histogram(x, bins=20)[0])
    save("unique", cupy.unique((x * 3).astype(int)))


def case_raw_kernel():
    code = r"""
    extern "C" __global__ void scale(const float *in, float *out, int n, float by) {
        extern __shared__ float part[];
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        part[threadIdx.x] = i < n ? in[i] : 0;
        __syncthreads();
        if (i < n) out[i] = part[blockDim.x - 1 - threadIdx.x] * by;
    }"""
    kernel = cupy.RawKernel(code, "scale")
    x, out = noise(1024), cupy.zeros(1024, "f4")
    kernel((8,), (128,), (x, out, numpy.int32(1024), numpy.float32(2.5)), shared_mem=512)
    save("out", out)
    save("attributes", [kernel.max_threads_per_block, kernel.num_regs, kernel.shared_size_bytes, kernel.local_size_bytes])
    kernel.max_dynamic_shared_size_bytes = 100000
    kernel((1,), (1024,), (x, out, numpy.int32(1024), numpy.float32(-1)), shared_mem=100000)
    save("much shared memory", out)


def case_raw_module():
    code = r"""
    __constant__ float factors[4];
    __device__ int counter;
    template <typename T> __global__ void apply(T *data, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) { data[i] = data[i] * factors[i & 3]; atomicAdd(&counter, 1); }
    }"""
    module = cupy.RawModule(code=code, options=("-std=c++17",), name_expressions=["apply<float>", "apply<double>"])
    factors = cupy.ndarray((4,), "f4", module.get_global("factors"))
    factors[...] = cupy.arange(4, dtype="f4") + 0.5
    for kind, name in (("f4", "apply<float>"), ("f8", "apply<double>")):
        x = noise(1000, kind=kind)
        module.get_function(name)((8,), (128,), (x, numpy.int32(1000)))
        save(name, x)
    save("counter", cupy.ndarray((1,), "i4", module.get_global("counter")))
    try:
        cupy.RawModule(code="nonsense").get_function("f")
        expect(False, "nonsense was compiled")
    except cupy.cuda.compiler.CompileException as error:
        save("error", str(error).splitlines()[0].split("(")[-1])


def case_streams():
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(4)]
    events, parts = [], []
    for at, stream in enumerate(streams):
        with stream:
            x = cupy.arange(100000, dtype="f4") * at
            parts.append(cupy.sqrt(x).sum())
            events.append(stream.record())
    cupy.cuda.Stream.null.use()
    for event in events:
        cupy.cuda.Stream.null.wait_event(event)
    save("parts", [part.get() for part in parts])
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    noise(500, 500).dot(noise(500, 500))
    end.record()
    end.synchronize()
    expect(cupy.cuda.get_elapsed_time(begin, end) >= 0, "time goes backwards")
    called = []
    streams[0].launch_host_func(called.append, 7)
    streams[0].synchronize()
    expect(called == [7], "the host function was not called")
    pinned = cupy.cuda.alloc_pinned_memory(4000)
    host = numpy.frombuffer(pinned, "f4", 1000)
    host[...] = 3
    with streams[1]:
        device = cupy.empty(1000, "f4")
        device.set(host, stream=streams[1])
        device *= 2
        device.get(stream=streams[1], out=host)
    streams[1].synchronize()
    save("pinned", host.copy())


def case_pools():
    pool = cupy.get_default_memory_pool()
    x = cupy.zeros(1 << 20, "u1")
    save("used", pool.used_bytes())
    del x
    pool.free_all_blocks()
    save("total", pool.total_bytes())
    with cupy.cuda.using_allocator(cupy.cuda.MemoryAsyncPool().malloc):
        save("async", cupy.arange(1000) * 3)
    with cupy.cuda.using_allocator(cupy.cuda.malloc_managed):
        save("managed", cupy.arange(1000) * 5)
    pool.set_limit(size=1 << 22)
    try:
        cupy.zeros(1 << 24, "u1")
        expect(False, "the pool has no limit")
    except cupy.cuda.memory.OutOfMemoryError:
        save("limit", "told")


def case_fft():
    for n in (64, 1000, 1009):
        x = noise(5, n)
        save(f"fft {n}", cupy.fft.fft(x))
        save(f"rfft {n}", cupy.fft.rfft(x.astype("f8")))
    save("fft2", cupy.fft.fft2(noise(64, 48)))
    save("fftn", cupy.fft.fftn(noise(16, 8, 12)))


def case_linalg():
    a = noise(60, 60, kind="f8")
    spd = a @ a.T + 60 * cupy.eye(60)
    save("solve", cupy.linalg.solve(a, noise(60, kind="f8")))
    save("cholesky", cupy.linalg.cholesky(spd))
    save("eigh", cupy.linalg.eigh(spd)[0])
    save("svd", cupy.linalg.svd(a)[1])
    save("qr", cupy.linalg.qr(a))
    save("inverse", cupy.linalg.inv(spd))
    save("tensordot", cupy.tensordot(noise(4, 5, 6), noise(6, 5, 3), axes=((1, 2), (1, 0))))
    save("half", noise(64, 64).astype("f2") @ noise(64, 64).astype("f2"))


def case_sparse():
    sparse = need("cupyx.scipy.sparse")
    dense = noise(200, 150)
    dense[cupy.abs(dense) < 1.5] = 0
    matrix = sparse.csr_matrix(dense)
    save("product", matrix @ noise(150, 7))
    save("vector", matrix @ noise(150))
    save("square", (matrix @ matrix.T).toarray())
    save("transposed", matrix.T.tocsr().toarray())
    expect(cupy.allclose(matrix @ noise(150), dense @ noise(150), atol=1e-3), "another product")


def case_random():
    cupy.random.seed(3)
    save("rand", cupy.random.rand(1000))
    save("randn", cupy.random.randn(1000))
    save("integers", cupy.random.randint(0, 100, 1000))
    save("permutation", cupy.random.permutation(1000))
    generator = cupy.random.default_rng(5)
    save("generator", [generator.random(1000), generator.standard_normal(1000), generator.integers(0, 9, 1000), generator.gamma(2, size=1000)])


def case_graph():
    stream = cupy.cuda.Stream(non_blocking=True)
    x = cupy.ones(1000, "f4")
    kernel = cupy.RawKernel('extern "C" __global__ void f(float *x) { x[threadIdx.x] = x[threadIdx.x] * 2 + 1; }', "f")
    kernel((1,), (1,), (cupy.ones(1, "f4"),))
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        for _ in range(3):
            kernel((1,), (1000,), (x,))
        graph = stream.end_capture()
        for _ in range(4):
            graph.launch()
        stream.synchronize()
    save("x", x)


def case_texture():
    from cupy.cuda import runtime, texture

    channel = texture.ChannelFormatDescriptor(32, 0, 0, 0, runtime.cudaChannelFormatKindFloat)
    array = texture.CUDAarray(channel, 32, 16)
    array.copy_from(noise(16, 32))
    resource = texture.ResourceDescriptor(runtime.cudaResourceTypeArray, cuArr=array)
    how = texture.TextureDescriptor((runtime.cudaAddressModeClamp,) * 2, runtime.cudaFilterModeLinear, runtime.cudaReadModeElementType)
    object_ = texture.TextureObject(resource, how)
    kernel = cupy.RawKernel('extern "C" __global__ void f(cudaTextureObject_t t, float *out) { out[blockIdx.x * 32 + threadIdx.x] = tex2D<float>(t, threadIdx.x + 0.7f, blockIdx.x + 0.2f); }', "f")
    out = cupy.zeros((16, 32), "f4")
    kernel((16,), (32,), (object_, out))
    save("out", out)


def case_device():
    device = cupy.cuda.Device(0)
    save("capability", device.compute_capability)
    differ = ("PciBusId", "PciDeviceId", "PciDomainId", "Managed", "Pageable", "Numa", "RDMA", "GPUDirect", "GpuPci")
    for name, value in sorted(device.attributes.items()):
        if not any(part.lower() in name.lower() for part in differ):
            save(name, int(value))
    free, total = device.mem_info
    expect(0 < free <= total, "memory")
    save("driver", cupy.cuda.runtime.driverGetVersion())


if __name__ == "__main__":
    main(globals())
