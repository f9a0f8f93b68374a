"""Which programs there are, and how the CUDA ones are built.

A program says what it needs in lines of its source that begin with `// compat:` or `# compat:`:

    variants static shared ptds    how a .cu is built, a program each: with the runtime inside, with libcudart.so, with a
                                   default stream per thread (the first two)
    nvcc FLAGS                     more flags
    code FLAGS                     for which GPU, instead of machine code and PTX; ARCH stands for its number
    with FILES                     more sources
    toolkit RELEASE                the first that has what it calls (12.5); an earlier compiler leaves it out
    libraries NAMES                libraries to link (`cublas` for -lcublas); also found in the packages that pip installs
    limit SECONDS                  how long it may take (60)
    restarts N                     goes on in a new process, up to N times, when one dies: see lib/suite.py
    parts N                        a program each of N, called with `i/N`

A Python program is called once for each of its functions `case_NAME`, with NAME.
"""

import dataclasses
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARK = re.compile(r"^(?://|#) compat: (\w+) (.+)$", re.MULTILINE)
CASE = re.compile(r"^def case_(\w+)\(", re.MULTILINE)
VARIANTS = {"static": ["--cudart", "static"], "shared": ["--cudart", "shared"], "ptds": ["--default-stream", "per-thread"]}


@dataclasses.dataclass
class Program:
    name: str
    command: list
    limit: float = 60
    restarts: int = 0
    # What must run before: a compiler.
    build: list = None
    # Why it cannot run.
    broken: str = ""
    # Why it need not run here.
    left_out: str = ""
    # A program that saves nothing of its own: any exit status is right if it is the native one.
    foreign: bool = False


def marks(source):
    """What a source says of itself: word -> rest of the line."""
    return dict(MARK.findall(source.read_text()))


def python_programs(python, share):
    for source in sorted((HERE / "py").glob("*.py")):
        said = marks(source)
        options = dict(limit=float(said.get("limit", 60)), restarts=int(said.get("restarts", 0)))
        command = [python, str(source)]
        parts = int(said.get("parts", 0))
        if parts:
            runs = {str(part): [f"{part}/{parts}", "--share", str(share)] for part in range(parts)}
        else:
            runs = {case: [case] for case in CASE.findall(source.read_text())}
        for run, arguments in runs.items():
            yield Program(f"py/{source.stem}.{run}", command + arguments, **options)


def toolkit(nvcc):
    """The toolkit's folder, the compiler and its release, or None."""
    found = nvcc or shutil.which("nvcc") or next(
        (str(path) for path in sorted(Path("/usr/local").glob("cuda*/bin/nvcc"), reverse=True)), None
    )
    # nvcc may be a link into another folder.
    return (Path(found).resolve().parent.parent, found, release_of(found)) if found else None


def release_of(nvcc):
    """Of a compiler; None of one that does not run, as whoever compiles with it is told."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    told = re.search(r"release ([0-9.]+)", said)
    return release(told[1]) if told else None


def release(text):
    """Such as 12.4, to compare."""
    return tuple(map(int, text.split(".")))


def package_folders(python):
    """Folders of NVIDIA's libraries that pip installed for that Python."""
    asked = subprocess.run([python, "-c", r"import sys; print(*sys.path, sep='\n')"], capture_output=True, text=True)
    folders = []
    for entry in asked.stdout.splitlines():
        folders += sorted(Path(entry or ".", "nvidia").glob("*/lib"))
    return [folder.parent for folder in folders]


def library_flags(names, home, packages, links):
    """Flags to compile with and link libraries: from the toolkit, else from pip's packages, which lack the `.so` links."""
    flags, rpaths = [], []
    for name in names:
        if any((home / folder / f"lib{name}.so").exists() for folder in ("lib64", "lib", "targets/x86_64-linux/lib")):
            flags.append(f"-l{name}")
            continue
        for package in packages:
            files = sorted((package / "lib").glob(f"lib{name}.so*"))
            if files:
                links.mkdir(parents=True, exist_ok=True)
                link = links / f"lib{name}.so"
                link.unlink(missing_ok=True)
                link.symlink_to(files[0])
                flags.append(f"-l{name}")
                rpaths.append(str(package / "lib"))
                # Behind the toolkit's own headers, which are not to be mixed with those of another release.
                flags += ["-isystem", str(package / "include")]
                break
        else:
            flags.append(f"-l{name}")  # the linker says what is missing
    if rpaths:
        flags += ["-L", str(links)]
    for rpath in dict.fromkeys(rpaths):
        flags += ["-Xlinker", f"-rpath={rpath}", "-Xlinker", f"-rpath-link={rpath}"]
    return flags


def cuda_programs(nvcc, arch, folder, python, built=False):
    """The CUDA programs, compiled ones in a folder; if all are built already, no compiler is looked for."""
    found, packages = (None, []) if built else (toolkit(nvcc), package_folders(python))
    for source in sorted((HERE / "cuda").glob("*.cu")):
        said = marks(source)
        for variant in said.get("variants", "static shared").split():
            name = f"cuda/{source.stem}.{variant}"
            program = Program(name, [str(folder / f"{source.stem}.{variant}")], limit=float(said.get("limit", 60)))
            if not found:
                if not built:
                    program.broken = "there is no nvcc: say where with --nvcc"
                elif not Path(program.command[0]).is_file():
                    program.broken = f"is not in {folder}: say where with --build"
                yield program
                continue
            home, compiler, toolkits = found
            if toolkits and toolkits < release(said.get("toolkit", "0")):
                program.left_out = f"needs the compiler of CUDA {said['toolkit']}"
                yield program
                continue
            code = said.get("code", "-gencode arch=compute_ARCH,code=[sm_ARCH,compute_ARCH]").replace("ARCH", arch)
            program.build = [compiler, "-std=c++17", "-O2", *code.split()]
            program.build += VARIANTS[variant] + ["-o", program.command[0], str(source)]
            program.build += [str(source.parent / file) for file in said.get("with", "").split()] + said.get("nvcc", "").split()
            for lib in ("lib64", "lib"):
                if (home / lib).is_dir():
                    program.build += ["-L", str(home / lib)]
                    if variant == "shared":
                        program.build += ["-Xlinker", f"-rpath={home / lib}"]
            program.build += library_flags(said.get("libraries", "").split(), home, packages, folder / "links")
            yield program


def build(programs, jobs):
    """Compiles those that are to be; what does not compile is broken, and says why."""

    def compile(program):
        output = Path(program.command[0])
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(program.build, capture_output=True, text=True)
        except OSError as error:
            program.broken = f"cannot run {program.build[0]}: {error.strerror}"
            return
        output.with_suffix(output.suffix + ".log").write_text(" ".join(program.build) + "\n" + done.stdout + done.stderr)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower() or "cannot" in line]
            program.broken = "does not compile: " + (lines[0] if lines else f"status {done.returncode}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile, [program for program in programs if program.build and not program.broken]))


def foreign_programs(folder, limit):
    """Executables that others built, as they are."""
    for path in sorted(Path(folder).rglob("*")):
        is_program = path.is_file() and path.stat().st_mode & 0o111 and path.read_bytes()[:4] == b"\x7fELF"
        if is_program and ".so" not in path.name:
            yield Program(f"extra/{path.relative_to(folder)}", [str(path.resolve())], limit=limit, foreign=True)
