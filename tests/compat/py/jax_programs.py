# compat: limit 240
"""JAX: compiled functions, gradients, loops, NVIDIA's libraries below XLA."""

import os

# As much memory as is needed, so that others may run beside it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# XLA measures which of several kernels is fastest, and they do not round alike.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")

from compat import DEVICE, expect, main, need, save, skip

jax = need("jax")
jnp = need("jax.numpy")
if DEVICE == "cuda" and jax.default_backend() != "gpu":
    skip("JAX has no GPU")


def noise(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def case_matmul():
    for kind in (jnp.float32, jnp.bfloat16, jnp.float16):
        a, b = noise(0, 300, 200).astype(kind), noise(1, 200, 150).astype(kind)
        save(str(kind.__name__), jax.jit(jnp.matmul)(a, b).astype(jnp.float32))
    save("highest", jnp.dot(noise(0, 100, 100), noise(1, 100, 100), precision="highest"))


def case_gradient():
    sizes = [20, 64, 64, 5]
    weights = [(noise(at, a, b) * 0.1, jnp.zeros(b)) for at, (a, b) in enumerate(zip(sizes, sizes[1:]))]
    x, y = noise(10, 128, 20), jax.random.randint(jax.random.key(11), (128,), 0, 5)

    def loss(weights):
        h = x
        for w, b in weights[:-1]:
            h = jnp.tanh(h @ w + b)
        out = h @ weights[-1][0] + weights[-1][1]
        return -jnp.mean(jax.nn.log_softmax(out)[jnp.arange(128), y])

    step = jax.jit(lambda weights: jax.tree.map(lambda w, g: w - 0.3 * g, weights, jax.grad(loss)(weights)))
    losses = []
    for _ in range(20):
        losses.append(loss(weights))
        weights = step(weights)
    expect(losses[-1] < losses[0], "it does not learn")
    save("losses", jnp.stack(losses))
    save("weights", weights[0][0])


def case_convolution():
    x, w = noise(0, 4, 32, 32, 8), noise(1, 3, 3, 8, 16)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    save("out", jax.jit(convolve)(x, w))
    save("gradient", jax.jit(jax.grad(lambda w: jnp.sum(jnp.square(convolve(x, w)))))(w))


def case_loops():
    def body(carry, x):
        carry = jnp.tanh(carry @ w + x)
        return carry, carry.sum()

    w = noise(0, 32, 32) * 0.2
    last, sums = jax.jit(lambda x: jax.lax.scan(body, jnp.zeros(32), x))(noise(1, 100, 32))
    save("scan", [last, sums])
    save("while", jax.jit(lambda x: jax.lax.while_loop(lambda s: s.sum() < 1000, lambda s: s * 1.5 + 1, x))(jnp.ones(10)))
    save("cond", jax.jit(lambda p, x: jax.lax.cond(p, jnp.sin, jnp.cos, x))(True, jnp.arange(5.0)))
    save("vmap", jax.jit(jax.vmap(lambda a, b: jnp.dot(a, b)))(noise(2, 30, 40), noise(3, 30, 40)))


def case_pmap():
    out = jax.pmap(lambda x: jax.lax.psum(x * 2, "all"), axis_name="all", devices=jax.devices()[:1])(jnp.arange(10.0)[None])
    save("out", out)


def case_fft():
    save("fft", jnp.fft.fft(noise(0, 5, 1000)))
    save("rfft2", jnp.fft.rfft2(noise(1, 64, 48)))
    save("there and back", jnp.fft.ifft(jnp.fft.fft(noise(2, 127))).real)


def case_random():
    key = jax.random.key(42)
    save("uniform", jax.random.uniform(key, (1000,)))
    save("normal", jax.random.normal(key, (1000,)))
    save("choice", jax.random.choice(key, 100, (50,), replace=False))
    save("categorical", jax.random.categorical(key, jnp.zeros((20, 10))))
    save("gamma", jax.random.gamma(key, 2.0, (500,)))


def case_linalg():
    a = noise(0, 50, 50)
    spd = a @ a.T + 50 * jnp.eye(50)
    save("cholesky", jnp.linalg.cholesky(spd))
    save("solve", jnp.linalg.solve(a, noise(1, 50)))
    save("eigh", jnp.linalg.eigh(spd)[0])
    save("svd", jnp.linalg.svd(a, compute_uv=False))
    save("qr", jnp.linalg.qr(a))


def case_sorting():
    x = noise(0, 200, 300)
    save("sort", jnp.sort(x, axis=1))
    save("argsort", jnp.argsort(x, axis=0))
    save("top", jax.lax.top_k(x, 9))
    save("segments", jax.ops.segment_sum(x[:, 0], jnp.arange(200) % 7, 7))
    save("cumulative", jnp.cumsum(x, 0))


def case_attention():
    q, k, v = (noise(at, 2, 128, 4, 64).astype(jnp.bfloat16) for at in range(3))
    save("xla", jax.nn.dot_product_attention(q, k, v, is_causal=True).astype(jnp.float32))
    if DEVICE == "cuda":
        save("cudnn", jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn").astype(jnp.float32))


def case_callback():
    def host(x):
        return (x * 2 + 1).astype(x.dtype)

    x = noise(0, 100)
    save("out", jax.jit(lambda x: jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + 1)(x))


def case_devices():
    device = jax.devices()[0]
    save("platform", device.platform)
    save("count", jax.device_count())
    if DEVICE == "cuda":
        save("capability", device.compute_capability)


def case_preallocated():
    """With most of the GPU's memory taken at the start, as JAX does by itself."""
    import subprocess
    import sys

    code = "import jax.numpy as jnp\nfrom compat import save\nsave('out', jnp.arange(1000.0).reshape(20, 50) @ jnp.ones((50, 3)))"
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="true", XLA_PYTHON_CLIENT_MEM_FRACTION="0.3"), timeout=200)
    expect(done.returncode == 0, f"it ended with {done.returncode}")


if __name__ == "__main__":
    main(globals())
