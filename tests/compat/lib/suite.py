"""Broad suites: many small items, of which each may fail by itself.

What an item finds is saved below its name, an error as text, `error: ...`. Which item is under way is written to a file: if the
process dies, `run.py` starts another one, which notes that and goes on behind it.
"""

import hashlib
import os
import re
import sys
import zlib
from pathlib import Path

from compat import FOLDER, save

GO_ON = 75
# Of larger results a digest and this many elements are saved.
MOST = 1 << 14


def first_line(error):
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"0x[0-9a-f]+", "0x#", f"error: {type(error).__name__}: {lines[0]}")


def save_array(name, value):
    """Saves an array of numpy's interface, of which a large one in parts."""
    if getattr(value, "size", 0) <= MOST:
        return save(name, value)
    import numpy

    value = numpy.ascontiguousarray(value.get() if hasattr(value, "get") else value)
    save(f"{name} digest", hashlib.sha256(value.tobytes()).hexdigest())
    return save(name, value.reshape(-1)[:: -(-value.size // MOST)])


def save_tensor(name, value):
    """The same of PyTorch's."""
    import torch

    if value.layout != torch.strided:
        value = value.to_dense()
    if value.numel() > MOST:
        value = value.detach().resolve_conj().resolve_neg().contiguous()
        data = value.cpu().view(torch.uint8) if value.dim() else value.cpu()
        save(f"{name} digest", hashlib.sha256(data.numpy().tobytes()).hexdigest())
        value = value.flatten()[:: -(-value.numel() // MOST)]
    return save(name, value)


def chosen(items, arguments):
    """The items of this part, `2/8 --share 0.25`: the same ones in every run."""
    part, parts = map(int, arguments[0].split("/"))
    share = float(arguments[arguments.index("--share") + 1]) if "--share" in arguments else 1
    some = [item for item in items if zlib.crc32(item[0].encode()) % 10000 < share * 10000]
    return some[part::parts]


def run(items, healthy, arguments=None):
    """Runs (name, function) one after the other; `healthy` raises if this process can no longer use the GPU."""
    items = chosen(items, sys.argv[1:] if arguments is None else arguments)
    progress = Path(FOLDER, "progress") if FOLDER else None
    at = 0
    if progress and progress.exists():
        at = int(progress.read_text())
        if at < len(items):
            save(items[at][0], "error: the process ended")
        at += 1
    failed = 0
    for at in range(at, len(items)):
        name, function = items[at]
        if progress:
            progress.write_text(str(at))
        try:
            function(name)
        except Exception as error:
            failed += 1
            save(name, first_line(error))
            try:
                healthy()
            except Exception as broken:
                print(f"after {name}: {broken}", file=sys.stderr, flush=True)
                os._exit(GO_ON)
    if progress:
        progress.write_text(str(len(items)))
    print(len(items), "items", flush=True)
    print(failed, "of them with an error", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Nothing that is taken down at the end is part of this.
    os._exit(0)
