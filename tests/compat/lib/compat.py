"""What the Python programs use: results are saved for the comparison (see ../compare.py)."""

import importlib
import os
import sys
import traceback
from pathlib import Path

SKIP = 77
# The suite's programs can be tried on a CPU; what compares them is then nothing of CUDA's.
DEVICE = os.environ.get("COMPAT_DEVICE", "cuda")
FOLDER = os.environ.get("COMPAT_OUT")


def skip(why):
    print("skip:", why, flush=True)
    # Libraries that are half loaded may not hold this up.
    os._exit(SKIP)


def need(name):
    """A module, without which the program is skipped."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        skip(f"{name}: {error}")


def save_bytes(name, kind, data):
    if FOLDER is None:
        return
    with open(Path(FOLDER, "results.bin"), "ab") as values, open(Path(FOLDER, "results.txt"), "a") as index:
        offset = values.seek(0, os.SEEK_END)
        values.write(data)
        index.write(f"{' '.join(str(name).split())}\t{kind}\t{len(data)}\t{offset}\n")


def save(name, value):
    """Saves text, a number, an array of any library, or a (nested) list or dictionary of them."""
    if isinstance(value, (str, type(None))):
        return save_bytes(name, "s", str(value).encode())
    if isinstance(value, dict):
        for key, one in value.items():
            save(f"{name}.{key}", one)
        return None
    if isinstance(value, (list, tuple)):
        for at, one in enumerate(value):
            save(f"{name}.{at}", one)
        return None
    if type(value).__module__.split(".")[0] == "torch":
        return save_tensor(name, value)
    import numpy

    if hasattr(value, "get") and type(value).__module__.startswith("cupy"):
        value = value.get()
    kind, array = numpy_kind(numpy.ascontiguousarray(value))
    return save_bytes(name, kind, array.tobytes())


def numpy_kind(array):
    import numpy

    if array.dtype.name == "bfloat16":
        return "bf2", array
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        # A narrow float of another package, or a structure: its bytes.
        return ("s", numpy.array(repr(array.tolist()).encode())) if array.dtype.kind in "USO" else ("u1", array)
    return f"{array.dtype.kind}{array.dtype.itemsize}", array


def save_tensor(name, value):
    import torch

    if not isinstance(value, torch.Tensor):
        return save_bytes(name, "s", str(value).encode())
    value = value.detach()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout != torch.strided:
        value = value.to_dense()
    value = value.resolve_conj().resolve_neg().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return save_bytes(name, "bf2", value.view(torch.int16).numpy().tobytes())
    if value.dtype == torch.complex32:
        return save_bytes(name, "f2", torch.view_as_real(value).contiguous().numpy().tobytes())
    try:
        kind, array = numpy_kind(value.numpy())
    except TypeError:
        # fp8 and the like, which numpy does not know.
        kind, array = "u1", value.view(torch.uint8).numpy()
    return save_bytes(name, kind, array.tobytes())


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def main(names):
    """Runs the function `case_NAME` that the command line names, or all."""
    cases = {name[5:]: function for name, function in names.items() if name.startswith("case_")}
    for wanted in sys.argv[1:] or cases:
        try:
            cases[wanted]()
        except Exception:
            traceback.print_exc()
            sys.stdout.flush()
            sys.exit(1)
        print(wanted, "done", flush=True)
