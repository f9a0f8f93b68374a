# compat: limit 180
"""PyTorch above NVIDIA's libraries: products of matrices, linear algebra, transforms, sparse and low-precision numbers."""

from compat import DEVICE, expect, main, need, save

torch = need("torch")


def case_products():
    torch.manual_seed(0)
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64):
        for m, n, k in ((64, 64, 64), (257, 129, 63), (1000, 10, 500)):
            a, b = torch.randn(m, k, device=DEVICE, dtype=kind), torch.randn(k, n, device=DEVICE, dtype=kind)
            save(f"{kind} {m} {n} {k}", a @ b)
    save("batch", torch.bmm(torch.randn(10, 33, 44, device=DEVICE), torch.randn(10, 44, 55, device=DEVICE)))
    torch.backends.cuda.matmul.allow_tf32 = True
    save("tf32", torch.randn(256, 256, device=DEVICE) @ torch.randn(256, 256, device=DEVICE))
    save("einsum", torch.einsum("bij,bkj->ik", torch.randn(4, 20, 30, device=DEVICE), torch.randn(4, 25, 30, device=DEVICE)))


def case_narrow():
    """8-bit floating point and integer products."""
    torch.manual_seed(1)
    a = torch.randn(64, 128, device=DEVICE).to(torch.float8_e4m3fn)
    b = torch.randn(96, 128, device=DEVICE).to(torch.float8_e4m3fn)
    one = torch.tensor(1.0, device=DEVICE)
    save("fp8", torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16))
    x, y = (torch.randint(-100, 100, (64, 64), device=DEVICE, dtype=torch.int8) for _ in range(2))
    save("int8", torch._int_mm(x, y))


def case_linalg():
    torch.manual_seed(2)
    for kind in (torch.float32, torch.float64, torch.complex64):
        a = torch.randn(3, 40, 40, device=DEVICE, dtype=kind)
        spd = a @ a.mH + 40 * torch.eye(40, device=DEVICE, dtype=kind)
        b = torch.randn(3, 40, 5, device=DEVICE, dtype=kind)
        save(f"{kind} cholesky", torch.linalg.cholesky(spd))
        save(f"{kind} solve", torch.linalg.solve(a, b))
        save(f"{kind} inverse", torch.linalg.inv(spd))
        save(f"{kind} qr", torch.linalg.qr(a))
        save(f"{kind} eigh", torch.linalg.eigvalsh(spd))
        save(f"{kind} svd", torch.linalg.svdvals(a))
        save(f"{kind} det", torch.linalg.slogdet(spd))
        save(f"{kind} lstsq", torch.linalg.lstsq(a, b).solution)
        save(f"{kind} lu", torch.linalg.lu_factor(a))
    save("eig", torch.linalg.eigvals(torch.randn(20, 20, device=DEVICE)).abs().sort().values)
    big = torch.randn(600, 600, device=DEVICE)
    save("big", torch.linalg.svdvals(big))
    try:
        torch.linalg.cholesky(-torch.eye(5, device=DEVICE))
        expect(False, "no error came")
    except torch.linalg.LinAlgError as error:
        save("error", str(error))


def case_fft():
    torch.manual_seed(3)
    for n in (64, 100, 127, 1024, 30000):
        x = torch.randn(3, n, device=DEVICE)
        save(f"rfft {n}", torch.fft.rfft(x))
        expect(torch.allclose(torch.fft.irfft(torch.fft.rfft(x), n=n), x, atol=1e-4), "there and back is elsewhere")
    save("fft2", torch.fft.fft2(torch.randn(2, 60, 48, device=DEVICE, dtype=torch.complex64)))
    save("fftn", torch.fft.fftn(torch.randn(8, 9, 10, device=DEVICE, dtype=torch.float64)))
    save("stft", torch.stft(torch.randn(4000, device=DEVICE), 256, window=torch.hann_window(256, device=DEVICE), return_complex=True))


def case_sparse():
    torch.manual_seed(4)
    dense = torch.randn(200, 300, device=DEVICE) * (torch.rand(200, 300, device=DEVICE) < 0.05)
    other = torch.randn(300, 40, device=DEVICE)
    for name, matrix in (("coo", dense.to_sparse()), ("csr", dense.to_sparse_csr())):
        product = matrix @ other
        save(name, product)
        expect(torch.allclose(product, dense @ other, atol=1e-3), f"{name}: another product")
    coo = dense.to_sparse().coalesce()
    save("sum", torch.sparse.sum(coo, 1))
    save("product", torch.sparse.mm(coo, coo.t()))
    save("softmax", torch.sparse.softmax(coo, 1))


def case_sparse_half():
    """Two of four elements, which tensor cores skip."""
    from torch.sparse import to_sparse_semi_structured

    torch.manual_seed(5)
    a = torch.tensor([0, 0, 1, 1], device=DEVICE, dtype=torch.float16).tile((128, 32)) * torch.randn(128, 128, device=DEVICE, dtype=torch.float16)
    b = torch.randn(128, 64, device=DEVICE, dtype=torch.float16)
    save("product", to_sparse_semi_structured(a) @ b)


def case_nested():
    torch.manual_seed(6)
    nested = torch.nested.nested_tensor([torch.randn(n, 16, device=DEVICE) for n in (3, 7, 5)], layout=torch.jagged)
    linear = torch.nn.Linear(16, 8).to(DEVICE)
    save("out", list(linear(nested).unbind()))


def case_extension():
    """A kernel of one's own, compiled at run time by PyTorch."""
    if not hasattr(torch.cuda, "_compile_kernel"):
        from compat import skip

        skip("this PyTorch cannot compile kernels")
    kernel = torch.cuda._compile_kernel('extern "C" __global__ void f(float *x, int n) { int i = blockIdx.x * 256 + threadIdx.x; if (i < n) x[i] = x[i] * 3 + i; }', "f")
    x = torch.ones(1000, device="cuda")
    kernel((4, 1, 1), (256, 1, 1), (x, 1000))
    save("x", x)


def case_dlpack():
    cupy = need("cupy")
    x = torch.arange(100, device="cuda", dtype=torch.float32)
    y = cupy.from_dlpack(x)
    y *= 2
    cupy.cuda.Device().synchronize()
    save("torch", x)
    save("back", torch.from_dlpack(y + 1))


def case_profiler():
    """A profiler that may find nothing of the GPU's, and marks for one: what runs under them is the same."""
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.manual_seed(9)
    x = torch.randn(200, 200, device=DEVICE)
    torch.cuda.nvtx.range_push("marked")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        with record_function("work"):
            save("product", torch.relu(x @ x))
        torch.cuda.synchronize()
    torch.cuda.nvtx.range_pop()
    expect(any(event.key == "work" for event in profiler.key_averages()), "the profiler saw nothing")
    save("after", torch.relu(x @ x).sum(0))


if __name__ == "__main__":
    main(globals())
