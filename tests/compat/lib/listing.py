"""Every public function of modules, called with some arguments: what a function takes is found by trying.

An argument that a function refuses is an error like any other; two calls that succeed are enough.
"""

import inspect

import numpy

from suite import first_line, save_array
from compat import save

ENOUGH = 2
# What does no computing, or gives what is not initialised, or depends on files, the time or this process.
WITHOUT = (
    "empty", "load", "save", "file", "show", "config", "print", "set_", "get_", "clear", "info", "who", "buffer", "memory", "stream", "alloc", "debug",
    "test", "import", "dlpack", "custom", "callback", "debugger", "register", "default_rng", "seed", "may_share", "shares", "from_pipe", "asnumpy", "put", "place", "copyto", "fill",
    "infeed", "outfeed", "axis_", "psum", "pmax", "pmin", "pmean", "all_gather", "all_to_all", "ppermute", "pshuffle", "pswapaxes", "pbroadcast", "pcast", "ragged_all", "create_token", "after_all", "rng_", "composite", "fuse", "disable", "enable",
)


def inputs(kind):
    """Arrays of numpy's, the same ones in every run."""
    random = numpy.random.RandomState(3)

    def array(*shape):
        if kind.kind == "b":
            return random.rand(*shape) < 0.5
        if kind.kind in "iu":
            return random.randint(0 if kind.kind == "u" else -9, 10, shape).astype(kind)
        values = random.standard_normal(shape)
        if kind.kind == "c":
            values = values + 1j * random.standard_normal(shape)
        return values.astype(kind)

    matrix, other, third = array(8, 8), array(8, 8), array(8, 8)
    symmetric = matrix @ matrix.conj().T + 8 * numpy.eye(8).astype(kind) if kind.kind in "fc" else matrix
    vector, second = array(20), array(20)
    return {
        "matrix": (matrix,), "two": (matrix, other), "number": (matrix, 2), "vector": (vector,), "vectors": (vector, second), "symmetric": (symmetric.astype(kind),),
        "three": (matrix, other, third), "index": (vector, numpy.array([1, 3, 5])), "shape": (6,), "list": ([vector, second],), "shapes": (matrix, (4, 16)),
        "axis": (matrix, 1, 0), "function": (vector, vector[:5]),
    }


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def call(function, kind, convert):
    def work(name):
        found = 0
        for how, arguments in inputs(numpy.dtype(kind)).items():
            if found == ENOUGH:
                break
            try:
                out = function(*[convert(one) for one in arguments])
                saved = 0
                for at, leaf in enumerate(leaves(out)):
                    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
                        save_array(f"{name} {how} {at}", leaf)
                    elif isinstance(leaf, (bool, int, float, complex, str)):
                        save(f"{name} {how} {at}", repr(leaf))
                    else:
                        continue
                    saved += 1
                found += saved > 0
            except Exception as error:
                save(f"{name} {how}", first_line(error))
                # One that breaks the context is the suite's to see.
                if "CUDA" in str(error) or "cuda" in type(error).__module__:
                    raise

    return work


def items(modules, kinds, convert):
    """(name, function to run) of all public functions; `convert` makes arguments of them."""
    taken = set()
    for path, module in modules:
        for name in sorted(dir(module)):
            function = getattr(module, name, None)
            if name.startswith("_") or not callable(function) or inspect.isclass(function) or inspect.ismodule(function):
                continue
            if any(part in name.lower() for part in WITHOUT) or id(function) in taken:
                continue
            taken.add(id(function))
            for kind in kinds:
                yield f"{path}.{name} {kind}", call(function, kind, convert)
