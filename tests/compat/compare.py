"""What programs save, and how the results of runs are compared.

A program saves named values into the folder $COMPAT_OUT: `results.bin` has their bytes one behind the other, `results.txt` one
line for each: name, type, number of bytes, offset, separated by tabs. Both only grow, so what a program saved before it
crashed is there. Types are numpy's short names (`f4`, `i8`, `c8` ...), `bf2` for bfloat16, `b1` for truth values, `s` for text.
"""

import array
import itertools
import math
import re
import struct
from pathlib import Path

# A result that differs between two native runs may differ from them by this many times as much.
FACTOR = 4

CODES = {
    "b1": "B", "u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "u8": "Q", "i8": "q",
    "f4": "f", "f8": "d", "c8": "f", "c16": "d",
}


def load(folder):
    """The results in `folder`: name -> (type, bytes)."""
    index, data = Path(folder, "results.txt"), Path(folder, "results.bin")
    if not index.exists():
        return {}
    content = data.read_bytes() if data.exists() else b""
    results = {}
    for line in index.read_text(errors="replace").splitlines():
        parts = line.split("\t")
        if len(parts) != 4:
            continue  # a line that a crash cut off
        name, kind, length, offset = parts[0], parts[1], int(parts[2]), int(parts[3])
        unique, count = name, 1
        while unique in results:
            count += 1
            unique = f"{name}#{count}"
        results[unique] = (kind, content[offset : offset + length])
    return results


def numbers(kind, data):
    """The values as numbers; complex ones as two each."""
    if kind == "f2":
        return struct.unpack(f"<{len(data) // 2}e", data)
    if kind == "bf2":
        halves = array.array("H", data)
        wide = array.array("I", (half << 16 for half in halves))
        return array.array("f", wide.tobytes())
    if kind not in CODES:
        raise ValueError(f"a result of the unknown type {kind}")
    return array.array(CODES[kind], data)


def gap(one, other):
    """How far two values are apart: 0 for two NaNs or two equal infinities."""
    if one == other or (one != one and other != other):
        return 0
    difference = abs(one - other)
    return math.inf if difference != difference else difference


def furthest(one, other):
    return max(map(gap, one, other), default=0)


def compare(natives, vgpu):
    """Compares a result of a vgpu run with those of native runs: (how, detail), where how is `bitwise` (the native runs agree
    in every bit, and it with them), `within` (they differ, and it by no more than FACTOR times as much), `varies` (of what
    differs natively nothing can be said), or `different`."""
    first = natives[0]
    if all(native == first for native in natives[1:]):
        if vgpu == first:
            return "bitwise", ""
        return "different", describe(first, vgpu)
    if any(native[0] != first[0] or len(native[1]) != len(first[1]) for native in natives) or first[0] == "s":
        return "varies", ""
    if vgpu[0] != first[0] or len(vgpu[1]) != len(first[1]):
        return "different", describe(first, vgpu)
    values = [numbers(*native) for native in natives]
    spread = max(furthest(one, other) for one, other in itertools.combinations(values, 2))
    if spread == math.inf:
        return "varies", ""
    away = max((min(gap(value, native) for native in column) for value, *column in zip(numbers(*vgpu), *values)), default=0)
    if away <= FACTOR * spread:
        return "within", f"off by {away:.3g}, native runs by {spread:.3g}"
    return "different", f"off by {away:.6g}, native runs differ by {spread:.6g}"


def describe(native, vgpu):
    """In a few words, how two results differ."""
    if native[0] != vgpu[0]:
        return f"type {vgpu[0]}, natively {native[0]}"
    if native[0] == "s":
        return differing_line(native[1].decode(errors="replace"), vgpu[1].decode(errors="replace"))
    if len(native[1]) != len(vgpu[1]):
        return f"{len(vgpu[1])} bytes, natively {len(native[1])}"
    one, other = numbers(*native), numbers(*vgpu)
    wrong = [at for at in range(len(one)) if one[at] != other[at] and not (one[at] != one[at] and other[at] != other[at])]
    if not wrong:
        return "equal as numbers, not in every bit"
    at = wrong[0]
    return f"{len(wrong)} of {len(one)} elements; element {at} is {other[at]!r}, natively {one[at]!r}"


def differing_line(native, vgpu):
    for at, (one, other) in enumerate(itertools.zip_longest(native.splitlines(), vgpu.splitlines()), 1):
        if one != other:
            return f"line {at}: {other!r}, natively {one!r}"
    return "other ends of lines"


UNITS = r"(?:[munµ]?s(?:ec(?:onds?)?)?|[KMGT]i?[Bb](?:ytes)?(?:/s(?:ec)?)?|[KMGT]?flops?(?:/s)?|[KMGT]?Hz|fps|%)"
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
TIMES = re.compile(rf"{NUMBER}(?=\s*[(\[]?\s*{UNITS}\b)", re.IGNORECASE)
SPEAKS_OF_TIME = re.compile(r"time|elapsed|bandwidth|throughput|performance|speed|latency|seconds|clock", re.IGNORECASE)
ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


def masked(text):
    """Text without what differs from run to run: times, rates, addresses."""
    lines = []
    for line in text.splitlines():
        line = ADDRESS.sub("0x#", line)
        line = re.sub(NUMBER, "#", line) if SPEAKS_OF_TIME.search(line) else TIMES.sub("#", line)
        lines.append(re.sub(r"[ \t]+", " ", line).rstrip())
    return "\n".join(lines)
