#!/usr/bin/env python3
"""Runs CUDA programs natively and over vgpu and compares all that they find. See README.md."""

import argparse
import datetime
import fnmatch
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compare
import programs as all_programs

# Exit statuses by which a program says more than right or wrong.
SKIP = 77
GO_ON = 75
# What comes of a program that ran to be compared; a run without any says nothing.
RAN = {"passed", "FAILED", "saved"}
# How often a program runs natively again when only vgpu differed: two equal runs do not prove that all are, still less as the
# second finds what the first compiled. Those that follow compile for themselves.
MORE_NATIVE_RUNS = 2


class NotReached(Exception):
    """The time for all programs is over."""


class Run:
    """One run of a program: its status, what it printed and saved, its folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        told = json.loads((self.folder / "status.json").read_text())
        self.status, self.seconds, self.restarts = told["status"], told["seconds"], told["restarts"]
        self.stdout = (self.folder / "stdout").read_text(errors="replace")
        self.results = compare.load(self.folder)

    def ended(self):
        if self.status is None:
            return "timed out"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    def why(self):
        """How it ended, and its last words: those of a check if it was one that failed."""
        errors = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
        said = self.stdout.strip().splitlines()
        by_itself = said and (said[-1].startswith("skip: ") or ".cu:" in said[-1] or ".h:" in said[-1])
        words = (said if by_itself else errors or said or [""])[-1]
        return f"{self.ended()}: {words}" if words else self.ended()


def execute(program, folder, environment, options):
    """Runs a program, in new processes as long as it asks for them."""
    folder.mkdir(parents=True)
    environment = dict(environment, COMPAT_OUT=str(folder), PYTHONPATH=str(all_programs.HERE / "lib"))
    limit = program.limit * options.limit_factor
    start, restarts = time.monotonic(), 0
    left = lambda: options.end - time.monotonic()
    if left() <= 0:
        raise NotReached
    with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
        while True:
            process = subprocess.Popen(
                program.command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment,
                cwd=folder if not program.foreign else os.path.dirname(program.command[0]), start_new_session=True,
            )
            try:
                status = process.wait(min(limit, max(left(), 0)))
            except subprocess.TimeoutExpired:
                status = None
            cut_off = status is None and left() <= 0
            # What it started ends with it.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            if cut_off:
                raise NotReached
            goes_on = status == GO_ON or ((status is None or status < 0) and program.restarts)
            if not goes_on or restarts == program.restarts:
                break
            restarts += 1
    seconds = time.monotonic() - start
    (folder / "status.json").write_text(json.dumps({"status": status, "seconds": seconds, "restarts": restarts}))
    return Run(folder)


class Outcome:
    """What came of a program."""

    def __init__(self, program):
        self.name = program.name
        self.verdict, self.why = "", ""
        self.counts = dict.fromkeys(["bitwise", "within", "varies", "different"], 0)
        self.differences, self.closest = [], []
        self.native_seconds = self.vgpu_seconds = None
        self.native_errors = 0

    def how(self):
        words = {"bitwise": "bitwise", "within": "within native spread", "varies": "vary natively", "different": "DIFFERENT"}
        parts = [f"{count} {words[how]}" for how, count in self.counts.items() if count]
        if self.native_errors:
            parts.append(f"of them {self.native_errors} the same error")
        return ", ".join(parts)


def results_of(run, program):
    """All that is compared of a run: what it saved, printed, and how it ended."""
    results = dict(run.results)
    results["(stdout)"] = ("s", compare.masked(run.stdout).encode())
    if program.foreign:
        results["(end)"] = ("s", run.ended().encode())
    return results


def told(result):
    """A result that is text, such as an error, to be said behind something else."""
    kind, value = result
    return f": {value.decode(errors='replace')}" if kind == "s" else ""


def judge(outcome, natives, vgpu, program):
    """Compares a vgpu run with native runs."""
    outcome.counts = dict.fromkeys(outcome.counts, 0)
    outcome.differences, outcome.closest, outcome.native_errors = [], [], 0
    native_results, results = [results_of(run, program) for run in natives], results_of(vgpu, program)
    for name in dict.fromkeys([*native_results[0], *results]):
        of_natives = [one[name] for one in native_results if name in one]
        if len(of_natives) < len(natives):
            # Not every native run has it.
            how, detail = ("varies", "") if of_natives else ("different", "natively there is no such result" + told(results[name]))
        elif name not in results:
            how, detail = "different", "missing"
        else:
            how, detail = compare.compare(of_natives, results[name])
        outcome.counts[how] += 1
        if how == "bitwise" and of_natives[0][0] == "s" and of_natives[0][1].startswith(b"error: "):
            outcome.native_errors += 1
        if how == "different":
            outcome.differences.append((name, detail))
        elif how == "within":
            outcome.closest.append((name, detail))


def examine(program, base, options, native_environment, vgpu_environment):
    """Runs one program as often as needed and says what came of it."""
    outcome = Outcome(program)
    if program.left_out:
        outcome.verdict, outcome.why = "skipped", program.left_out
        return outcome
    if program.broken:
        outcome.verdict, outcome.why = "not built", program.broken
        return outcome
    own = base / program.name.replace("/", "+")
    if options.only_vgpu:
        saved = Path(options.expected) / own.name
        natives = [Run(folder) for folder in sorted(saved.glob("native*"))]
        if not natives:
            outcome.verdict, outcome.why = "native fails", f"no native run is saved in {saved}"
            return outcome
        vgpu = None
    else:
        natives, vgpu = [execute(program, own / "native1", native_environment, options)], None
    outcome.native_seconds = natives[0].seconds

    def native_is_no_measure():
        for run in natives:
            if run.status == SKIP:
                outcome.verdict, outcome.why = "skipped", run.why()
                return True
            if run.status != 0 and not (program.foreign and run.status is not None):
                outcome.verdict, outcome.why = "native fails", run.why()
                return True
        return False

    if native_is_no_measure():
        return outcome
    if options.only_native:
        execute(program, own / "native2", native_environment, options)
        outcome.verdict = "saved"
        return outcome
    vgpu = execute(program, own / "vgpu", vgpu_environment, options)
    outcome.vgpu_seconds = vgpu.seconds
    if not options.only_vgpu:
        natives.append(execute(program, own / "native2", native_environment, options))
        if native_is_no_measure():
            return outcome
    judge(outcome, natives, vgpu, program)
    while outcome.differences and not options.only_vgpu and len(natives) < 2 + MORE_NATIVE_RUNS:
        name = f"native{len(natives) + 1}"
        more = execute(program, own / name, with_caches(native_environment, own / "caches" / name), options)
        if more.status != natives[0].status:
            break
        natives.append(more)
        judge(outcome, natives, vgpu, program)
    if vgpu.status != 0 and not program.foreign:
        outcome.verdict, outcome.why = "FAILED", vgpu.why()
    elif outcome.differences:
        name, detail = outcome.differences[0]
        outcome.verdict, outcome.why = "FAILED", f"{name}: {detail}"
    else:
        outcome.verdict = "passed"
        if len(natives) > 2:
            outcome.why = f"native runs differ only in {len(natives)}"
    if vgpu.restarts > natives[0].restarts:
        outcome.why += f" ({vgpu.restarts} restarts, natively {natives[0].restarts})"
    with open(own / "differences.txt", "w") as file:
        for name, detail in outcome.differences:
            print(f"different\t{name}\t{detail}", file=file)
        for name, detail in outcome.closest:
            print(f"within\t{name}\t{detail}", file=file)
    return outcome


def libcuda(environment, python):
    """Which libcuda a program gets, and what it says of itself."""
    ask = (
        "import ctypes\nlib = ctypes.CDLL('libcuda.so.1')\nversion = ctypes.c_int()\nlib.cuDriverGetVersion(ctypes.byref(version))\n"
        "path = [line.split()[-1] for line in open('/proc/self/maps') if 'libcuda.so' in line][0]\n"
        "status = lib.cuInit(0)\ncount = ctypes.c_int()\nlib.cuDeviceGetCount(ctypes.byref(count))\n"
        "name = ctypes.create_string_buffer(96)\n"
        "status == 0 and count.value and lib.cuDeviceGetName(name, 96, 0)\n"
        "print(path, f'version {version.value}, cuInit {status}, {count.value} GPUs, {name.value.decode()}', sep='\\t')"
    )
    done = subprocess.run([python, "-c", ask], env=environment, capture_output=True, text=True, timeout=120)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return "", (done.stderr.strip().splitlines() or ["no answer"])[-1]
    path, said = lines[-1].split("\t")
    return path, said


def with_settings(settings):
    """This process' environment with settings; folders for libraries and programs come before those that are there."""
    environment = dict(os.environ)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            sys.exit(f"{setting}: KEY=VALUE is expected")
        if key in ("LD_LIBRARY_PATH", "PATH") and environment.get(key):
            value = f"{value}:{environment[key]}"
        environment[key] = value
    return environment


def with_caches(environment, folder):
    """Compilers' caches of each side's own, so that each compiles for itself."""
    names = ["TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUPY_CACHE_DIR", "CUDA_CACHE_PATH"]
    return dict(environment, **{name: str(folder / name.lower()) for name in names})


def cell(text, width=160):
    text = " ".join(str(text).split()).replace("|", "\\|")
    return text if len(text) <= width else text[: width - 3] + "..."


def report(outcomes, header):
    """The Markdown report."""
    lines = ["# CUDA programs, natively and over vgpu", ""] + header + [""]
    counts = {}
    for outcome in outcomes:
        counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
    lines += [", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) + ".", ""]
    lines += ["| program | outcome | results | native s | vgpu s | |", "| --- | --- | --- | --- | --- | --- |"]
    seconds = lambda value: "" if value is None else f"{value:.1f}"
    for one in outcomes:
        times = f"{seconds(one.native_seconds)} | {seconds(one.vgpu_seconds)}"
        lines.append(f"| {one.name} | {one.verdict} | {one.how()} | {times} | {cell(one.why)} |")
    differing = [one for one in outcomes if len(one.differences) > 1]
    if differing:
        lines += ["", "## What differs"]
    for one in differing:
        lines += ["", f"{one.name}:", ""]
        lines += [f"- `{name}`: {cell(detail)}" for name, detail in one.differences[:100]]
        if len(one.differences) > 100:
            lines.append(f"- and {len(one.differences) - 100} more")
    return "\n".join(lines) + "\n"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vgpu-env", metavar="KEY=VALUE", action="append", default=[], help="a setting for the vgpu runs; LD_LIBRARY_PATH and PATH are put before what is there")
    parser.add_argument("--native-env", metavar="KEY=VALUE", action="append", default=[], help="a setting for the native runs")
    parser.add_argument("--list", action="store_true", help="list the programs and end")
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[], help="only programs whose names match, such as 'cuda/*'")
    parser.add_argument("--not", metavar="PATTERN", action="append", default=[], dest="without", help="leave these out")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument("--keep", metavar="DIR", help="keep what every run printed and saved here")
    parser.add_argument("--only-native", action="store_true", help="run natively only, and keep the results (with --keep)")
    parser.add_argument("--only-vgpu", action="store_true", help="run over vgpu only, and compare with --expected")
    parser.add_argument("--expected", metavar="DIR", help="what --keep kept in an earlier native run")
    parser.add_argument("--extra", metavar="DIR", help="also run all executables below DIR: status and output are compared")
    parser.add_argument("--only-extra", action="store_true", help="run nothing but those")
    parser.add_argument("--extra-limit", type=float, default=60, metavar="SECONDS", help="how long each of those may take")
    parser.add_argument("--share", type=float, default=0.25, help="how much of the broad suites runs, 0 to 1")
    parser.add_argument("--limit-factor", type=float, default=1, help="multiplies all time limits")
    parser.add_argument("--within", type=float, default=float("inf"), metavar="SECONDS", help="what has not ended by then is not reached, and not counted")
    parser.add_argument("--markdown", metavar="FILE", help="write the report here")
    parser.add_argument("--python", default=sys.executable, help="the Python that has PyTorch, CuPy, JAX")
    parser.add_argument("--nvcc", help="the CUDA compiler")
    parser.add_argument("--arch", default="90", help="the GPU's compute capability, 90 by default")
    parser.add_argument("--build", metavar="DIR", help="where compiled programs go")
    parser.add_argument("--no-build", action="store_true", help="use what is compiled there")
    options = parser.parse_args()
    options.end = time.monotonic() + options.within
    if options.only_vgpu and not options.expected:
        parser.error("--only-vgpu needs --expected")
    if options.only_native and not options.keep:
        parser.error("--only-native needs --keep")
    if options.only_extra and not options.extra:
        parser.error("--only-extra needs --extra")
    return options


def choose(options, base):
    found = []
    if not options.only_extra:
        folder = Path(options.build or base / "build").resolve()
        found += all_programs.cuda_programs(options.nvcc, options.arch, folder, options.python, options.no_build)
        found += all_programs.python_programs(options.python, options.share)
    if options.extra:
        found += all_programs.foreign_programs(options.extra, options.extra_limit)
    matches = lambda name, patterns: any(fnmatch.fnmatch(name, pattern) or pattern in name for pattern in patterns)
    return [one for one in found if (not options.only or matches(one.name, options.only)) and not matches(one.name, options.without)]


def main():
    options = parse_arguments()
    base = Path(options.keep or tempfile.mkdtemp(prefix="vgpu-compat-")).resolve()
    chosen = choose(options, base)
    if options.list:
        print("\n".join(one.name for one in chosen))
        return 0
    if not chosen:
        sys.exit("no program has such a name")
    base.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(base / "caches", ignore_errors=True)
    native_environment = with_caches(with_settings(options.native_env), base / "caches/native")
    vgpu_environment = with_caches(with_settings(options.vgpu_env), base / "caches/vgpu")
    now = datetime.datetime.now(datetime.timezone.utc)
    header = [f"{now:%Y-%m-%d %H:%M} UTC, Linux {platform.release()}, {os.cpu_count()} CPUs, share {options.share}."]
    paths = {}
    for side, environment, wanted in (("native", native_environment, not options.only_vgpu), ("vgpu", vgpu_environment, not options.only_native)):
        if wanted:
            paths[side], said = libcuda(environment, options.python)
            header.append(f"{side.capitalize()}: `{paths[side] or 'no libcuda'}`, {said}.")
    print("\n".join(header), flush=True)
    if len(set(paths.values())) < len(paths):
        sys.exit("both sides have the same libcuda: nothing would be compared (--vgpu-env LD_LIBRARY_PATH=...)")
    if not options.no_build:
        all_programs.build(chosen, os.cpu_count())
    for one in chosen:
        shutil.rmtree(base / one.name.replace("/", "+"), ignore_errors=True)

    printing = threading.Lock()

    def work(program):
        try:
            outcome = examine(program, base, options, native_environment, vgpu_environment)
        except NotReached:
            outcome = Outcome(program)
            outcome.verdict = "not reached"
        with printing:
            print(f"{outcome.verdict:<12} {outcome.name:<40} {outcome.how()}  {cell(outcome.why, 200)}", flush=True)
        return outcome

    with ThreadPoolExecutor(max(options.jobs, 1)) as pool:
        # Those that may take longest first, so that none is left to run alone at the end.
        pending = {one.name: pool.submit(work, one) for one in sorted(chosen, key=lambda one: -one.limit)}
        outcomes = [pending[one.name].result() for one in chosen]
    text = report(outcomes, header)
    print("\n" + text)
    if options.markdown:
        Path(options.markdown).write_text(text)
    if not options.keep:
        shutil.rmtree(base)
    verdicts = {one.verdict for one in outcomes}
    if verdicts.isdisjoint(RAN):
        sys.exit("nothing ran: each program was skipped, was not built or has no native run to be compared with")
    return 1 if "FAILED" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
