# compat: limit 400
# compat: restarts 40
# compat: parts 4
"""The public functions of JAX's numpy, lax, nn and special functions over some kinds of numbers."""

import os
import warnings

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# XLA measures which of several kernels is fastest, and they do not round alike.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")

from compat import DEVICE, need, skip
from suite import run

numpy = need("numpy")
jax = need("jax")
jnp = need("jax.numpy")
need("ml_dtypes")
import jax.scipy.linalg
import jax.scipy.special

import listing

warnings.filterwarnings("ignore")
if DEVICE == "cuda" and jax.default_backend() != "gpu":
    skip("JAX has no GPU")


def convert(value):
    if isinstance(value, list):
        return [convert(one) for one in value]
    return jnp.asarray(value) if isinstance(value, numpy.ndarray) else value


def healthy():
    int(jnp.arange(3).sum())


if __name__ == "__main__":
    modules = [("numpy", jnp), ("linalg", jnp.linalg), ("fft", jnp.fft), ("lax", jax.lax), ("nn", jax.nn), ("special", jax.scipy.special), ("scipy.linalg", jax.scipy.linalg)]
    run(list(listing.items(modules, ["f4", "f2", "c8", "i4", "?"], convert)), healthy)
