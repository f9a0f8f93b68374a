# compat: limit 400
# compat: restarts 40
# compat: parts 4
"""Every universal function of CuPy over all kinds of numbers, and its other public functions over some."""

import warnings

from compat import need, save
from suite import run, save_array

numpy = need("numpy")
cupy = need("cupy")
import listing

warnings.filterwarnings("ignore")
KINDS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]


def convert(value):
    if isinstance(value, list):
        return [convert(one) for one in value]
    return cupy.asarray(value) if isinstance(value, numpy.ndarray) else value


def universal(function, kind):
    def work(name):
        arrays = listing.inputs(numpy.dtype(kind))
        arguments = [convert(one) for one in (arrays["three"])[: function.nin]]
        out = function(*arguments)
        for at, one in enumerate(out if isinstance(out, tuple) else (out,)):
            save_array(f"{name} {at}", one)

    return work


def items():
    for path, module in (("cupy", cupy), ("special", need("cupyx.scipy.special"))):
        for name in sorted(dir(module)):
            function = getattr(module, name)
            if isinstance(function, cupy.ufunc):
                for kind in KINDS:
                    yield f"{path}.{name} {kind}", universal(function, kind)
    modules = [("cupy", cupy), ("linalg", cupy.linalg), ("fft", cupy.fft)]
    for name in ("ndimage", "linalg", "signal", "stats"):
        try:
            modules.append((f"scipy.{name}", __import__(f"cupyx.scipy.{name}", fromlist=[name])))
        except ImportError:
            pass
    known = cupy.ufunc
    for name, work in listing.items(modules, ["f4", "f8", "f2", "c8", "i4", "?"], convert):
        path, function = name.split(" ")[0].rsplit(".", 1)
        if not (path == "cupy" and isinstance(getattr(cupy, function, None), known)):
            yield name, work


def healthy():
    cupy.cuda.Device().synchronize()
    int(cupy.arange(3).sum())


if __name__ == "__main__":
    run(list(items()), healthy)
