# compat: limit 180
"""Kernels in Triton, compiled and launched by it."""

from compat import expect, main, need, save

torch = need("torch")
triton = need("triton")
tl = need("triton.language")


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def softmax_kernel(x, out, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + at, mask=at < width, other=-float("inf"))
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * stride + at, values / tl.sum(values, axis=0), mask=at < width)


@triton.autotune(
    configs=[triton.Config({"M_BLOCK": m, "N_BLOCK": n, "K_BLOCK": 32}, num_warps=w, num_stages=3) for m, n, w in ((64, 64, 4), (128, 64, 4), (64, 128, 8))],
    key=["M", "N", "K"],
)
@triton.jit
def matmul_kernel(a, b, c, M, N, K, M_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr):
    rows = tl.program_id(0) * M_BLOCK + tl.arange(0, M_BLOCK)
    columns = tl.program_id(1) * N_BLOCK + tl.arange(0, N_BLOCK)
    inner = tl.arange(0, K_BLOCK)
    total = tl.zeros((M_BLOCK, N_BLOCK), dtype=tl.float32)
    for k in range(0, K, K_BLOCK):
        left = tl.load(a + rows[:, None] * K + (k + inner)[None, :], mask=rows[:, None] < M, other=0.0)
        right = tl.load(b + (k + inner)[:, None] * N + columns[None, :], mask=columns[None, :] < N, other=0.0)
        total += tl.dot(left, right)
    tl.store(c + rows[:, None] * N + columns[None, :], total, mask=(rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def attention_kernel(q, k, v, out, scale, LENGTH: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    head = tl.program_id(1) * LENGTH * WIDTH
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = tl.arange(0, WIDTH)
    query = tl.load(q + head + rows[:, None] * WIDTH + wide[None, :])
    highest = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
    weight = tl.zeros((BLOCK,), dtype=tl.float32)
    total = tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for at in range(0, LENGTH, BLOCK):
        columns = at + tl.arange(0, BLOCK)
        keys = tl.load(k + head + columns[None, :] * WIDTH + wide[:, None])
        scores = tl.dot(query, keys) * scale
        higher = tl.maximum(highest, tl.max(scores, 1))
        scores = tl.exp(scores - higher[:, None])
        fade = tl.exp(highest - higher)
        weight = weight * fade + tl.sum(scores, 1)
        values = tl.load(v + head + columns[:, None] * WIDTH + wide[None, :])
        total = total * fade[:, None] + tl.dot(scores.to(tl.float16), values)
        highest = higher
    tl.store(out + head + rows[:, None] * WIDTH + wide[None, :], total / weight[:, None])


@triton.jit
def histogram_kernel(x, bins, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0)
    tl.atomic_add(bins + value, 1, mask=at < n)


def case_add():
    torch.manual_seed(0)
    x, y = torch.randn(98765, device="cuda"), torch.randn(98765, device="cuda")
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(98765, 1024),)](x, y, out, 98765, BLOCK=1024)
    expect(torch.equal(out, x + y), "another sum")
    save("out", out)


def case_softmax():
    torch.manual_seed(1)
    x = torch.randn(300, 781, device="cuda")
    out = torch.empty_like(x)
    softmax_kernel[(300,)](x, out, 781, x.stride(0), BLOCK=1024)
    expect(torch.allclose(out, torch.softmax(x, 1), atol=1e-5), "another result")
    save("out", out)


def case_matmul():
    torch.manual_seed(2)
    M, N, K = 500, 300, 256
    a, b = torch.randn(M, K, device="cuda", dtype=torch.float16), torch.randn(K, N, device="cuda", dtype=torch.float16)
    c = torch.empty(M, N, device="cuda")
    matmul_kernel[lambda how: (triton.cdiv(M, how["M_BLOCK"]), triton.cdiv(N, how["N_BLOCK"]))](a, b, c, M, N, K)
    expect(torch.allclose(c, a.float() @ b.float(), atol=0.1), "another product")
    save("c", c)


def case_attention():
    torch.manual_seed(3)
    q, k, v = (torch.randn(4, 256, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    out = torch.empty(4, 256, 64, device="cuda")
    attention_kernel[(4, 4)](q, k, v, out, 0.125, LENGTH=256, WIDTH=64, BLOCK=64)
    right = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0].float()
    expect(torch.allclose(out, right, atol=0.02), "another result")
    save("out", out)


def case_atomics():
    x = torch.arange(100000, device="cuda", dtype=torch.int32) * 7919 % 64
    bins = torch.zeros(64, device="cuda", dtype=torch.int32)
    histogram_kernel[(triton.cdiv(100000, 512),)](x, bins, 100000, BLOCK=512)
    expect(torch.equal(bins.long(), torch.bincount(x.long(), minlength=64)), "another count")
    save("bins", bins)


def case_driver():
    """What Triton asks of the driver."""
    target = triton.runtime.driver.active.get_current_target()
    save("target", f"{target.backend} {target.arch} {target.warp_size}")
    told = triton.runtime.driver.active.utils.get_device_properties(0)
    for name in ("max_shared_mem", "max_num_regs", "multiprocessor_count", "warpSize"):
        if name in told:
            save(name, told[name])


if __name__ == "__main__":
    main(globals())
