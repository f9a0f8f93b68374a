"""Tests of the comparison and of run.py, without a GPU: python3 test_run.py"""

import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import compare
import programs

HERE = Path(__file__).resolve().parent


def floats(*values):
    return ("f4", struct.pack(f"<{len(values)}f", *values))


def text(value):
    return ("s", value.encode())


class Comparison(unittest.TestCase):
    def how(self, natives, vgpu):
        return compare.compare(natives, vgpu)[0]

    def test_equal_native_runs_ask_for_every_bit(self):
        one = floats(1, 2, float("nan"))
        self.assertEqual(self.how([one, one], one), "bitwise")
        self.assertEqual(self.how([one, one], floats(1, 2.0000002, float("nan"))), "different")
        self.assertEqual(self.how([floats(0.0), floats(0.0)], floats(-0.0)), "different")

    def test_native_runs_that_differ_allow_as_much(self):
        natives = [floats(1, 2), floats(1, 2.25)]
        self.assertEqual(self.how(natives, floats(1, 3.25)), "within")
        self.assertEqual(self.how(natives, floats(1, 3.26)), "different")
        self.assertEqual(self.how(natives, floats(1, float("nan"))), "different")
        self.assertEqual(self.how(natives, floats(1)), "different")

    def test_a_nan_that_comes_and_goes_natively_says_nothing(self):
        self.assertEqual(self.how([floats(1), floats(float("nan"))], floats(7)), "varies")

    def test_texts_and_types(self):
        self.assertEqual(self.how([text("a"), text("a")], text("b")), "different")
        self.assertEqual(self.how([text("a"), text("b")], text("c")), "varies")
        self.assertEqual(self.how([floats(1), floats(1)], ("i4", floats(1)[1])), "different")

    def test_narrow_numbers(self):
        self.assertEqual(list(compare.numbers("bf2", struct.pack("<2H", 0x3F80, 0xC000))), [1.0, -2.0])
        self.assertEqual(list(compare.numbers("f2", struct.pack("<2e", 0.5, -4))), [0.5, -4.0])
        self.assertRaises(ValueError, compare.numbers, "x9", b"")

    def test_what_was_saved_before_a_crash_is_there(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "results.bin").write_bytes(b"abcdefgh")
            Path(folder, "results.txt").write_text("one\ts\t3\t0\none\ts\t2\t3\ncut o")
            self.assertEqual(compare.load(folder), {"one": text("abc"), "one#2": text("de")})

    def test_times_and_addresses_are_masked(self):
        self.assertEqual(compare.masked("took 1.25 ms for 7 items at 0x7f00deadbeef"), "took # ms for 7 items at 0x#")
        self.assertEqual(compare.masked("Bandwidth: 12.5\nvalue 12.5"), "Bandwidth: #\nvalue 12.5")
        self.assertNotEqual(compare.masked("sum 5"), compare.masked("sum 6"))


# A library that says it is CUDA's, with no GPU.
LIBRARY = "int cuDriverGetVersion(int *v) { *v = 13000; return 0; } int cuInit(unsigned f) { return 0; } int cuDeviceGetCount(int *n) { *n = 0; return 0; }"


class Runner(unittest.TestCase):
    """run.py with executables that know nothing of CUDA."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.base = Path(cls.scratch.name)
        for name, code in {
            "value": 'printf("value %s\\n", getenv("VALUE"));',
            "status": 'return atoi(getenv("VALUE"));',
            "crash": 'if (atoi(getenv("VALUE")) == 2) abort();',
            "hang": 'if (atoi(getenv("VALUE")) == 2) sleep(60);',
            "random": 'printf("%d\\n", getpid());',
            # Chooses something when it compiles.
            "compiled": 'return system("mkdir -p $CUPY_CACHE_DIR && cd $CUPY_CACHE_DIR && { [ -f chosen ] || echo $$ > chosen; } && cat chosen");',
        }.items():
            source = f"#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\nint main(void) {{ {code} return 0; }}"
            (cls.base / "extra").mkdir(exist_ok=True)
            cls.compile(source, cls.base / "extra" / name)
        for side in ("one", "other"):
            (cls.base / side).mkdir()
            cls.compile(LIBRARY, cls.base / side / "libcuda.so.1", "-shared", "-fPIC")

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    @staticmethod
    def compile(source, output, *flags):
        subprocess.run(["gcc", "-x", "c", "-", "-o", str(output), *flags], input=source, text=True, check=True)

    def run_all(self, value, *more):
        command = [sys.executable, str(HERE / "run.py"), "--only-extra", "--extra", str(self.base / "extra"), "--extra-limit", "2"]
        command += ["--native-env", f"LD_LIBRARY_PATH={self.base}/one", "--vgpu-env", f"LD_LIBRARY_PATH={self.base}/other"]
        command += ["--native-env", "VALUE=1", "--vgpu-env", f"VALUE={value}", *more]
        done = subprocess.run(command, capture_output=True, text=True)
        verdicts = {}
        for line in done.stdout.splitlines():
            if line.startswith("| extra/"):
                cells = [one.strip() for one in line.strip("|").split("|")]
                verdicts[cells[0].removeprefix("extra/")] = (cells[1], cells[-1])
        return done, verdicts

    def test_what_is_equal_passes(self):
        done, verdicts = self.run_all(1)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual({verdict for verdict, _ in verdicts.values()}, {"passed"})
        self.assertEqual(len(verdicts), 6)

    def test_what_differs_fails(self):
        done, verdicts = self.run_all(2)
        self.assertEqual(done.returncode, 1)
        failed = {name: why for name, (verdict, why) in verdicts.items() if verdict == "FAILED"}
        self.assertEqual(set(failed), {"value", "status", "crash", "hang"})
        self.assertIn("value 2", failed["value"])
        self.assertIn("SIGABRT", failed["crash"])
        self.assertIn("timed out", failed["hang"])

    def test_kept_native_runs_are_compared_with_later(self):
        kept = self.base / "kept"
        done, _ = self.run_all(1, "--only-native", "--keep", str(kept))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        later = ["--only-vgpu", "--expected", str(kept), "--keep", str(self.base / "later"), "--only", "value"]
        self.assertEqual(self.run_all(1, *later)[0].returncode, 0)
        self.assertEqual(self.run_all(2, *later)[0].returncode, 1)

    def run_built(self, folder, *more):
        """Runs cuda/vadd.static as it is built in a folder, with no compiler for it."""
        command = [sys.executable, str(HERE / "run.py"), "--build", str(folder), "--no-build", "--only", "cuda/vadd.static"]
        command += ["--native-env", f"LD_LIBRARY_PATH={self.base}/one", "--vgpu-env", f"LD_LIBRARY_PATH={self.base}/other", *more]
        return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, PATH="/usr/bin:/bin"))

    def test_what_is_built_runs_without_a_compiler(self):
        built, kept = self.base / "built", self.base / "built-native"
        built.mkdir()
        (built / "vadd.static").write_bytes((self.base / "extra" / "value").read_bytes())
        (built / "vadd.static").chmod(0o755)
        saved = self.run_built(built, "--only-native", "--keep", str(kept), "--native-env", "VALUE=1")
        self.assertEqual(saved.returncode, 0, saved.stdout + saved.stderr)
        later = ["--only-vgpu", "--expected", str(kept)]
        for value, status in ((1, 0), (2, 1)):
            done = self.run_built(built, *later, "--vgpu-env", f"VALUE={value}")
            self.assertEqual(done.returncode, status, done.stdout + done.stderr)
            self.assertIn("FAILED" if status else "passed", done.stdout)

    def test_a_run_in_which_nothing_ran_says_so(self):
        empty = self.base / "empty"
        empty.mkdir(exist_ok=True)
        for more in ([], ["--only-native", "--keep", str(self.base / "nothing")], ["--only-vgpu", "--expected", str(empty)]):
            done = self.run_built(empty, *more)
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertIn("nothing ran", done.stderr)
            self.assertIn(f"is not in {empty}", done.stdout)

    def test_one_libcuda_is_not_compared_with_itself(self):
        done, verdicts = self.run_all(1, "--vgpu-env", f"LD_LIBRARY_PATH={self.base}/one")
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(verdicts, {})


class Sources(unittest.TestCase):
    def test_programs_are_found(self):
        with tempfile.TemporaryDirectory() as folder:
            found = [*programs.cuda_programs("/nonexistent/nvcc", "90", Path(folder), sys.executable), *programs.python_programs("python3", 0.5)]
        names = [one.name for one in found]
        self.assertEqual(len(names), len(set(names)))
        self.assertIn("cuda/vadd.static", names)
        self.assertIn("py/torch_ops.7", names)

    def test_python_programs_have_no_errors_of_syntax(self):
        for source in [*HERE.glob("*.py"), *HERE.glob("py/*.py"), *HERE.glob("lib/*.py")]:
            compile(source.read_text(), str(source), "exec")

    def test_a_suite_goes_on_behind_what_broke_it(self):
        with tempfile.TemporaryDirectory() as folder:
            code = (
                "import os, suite\nfrom compat import save\n"
                "items = [(str(n), (lambda name: os.abort()) if n == 2 else (lambda name: save(name, name))) for n in range(5)]\n"
                "suite.run(items, lambda: None, ['0/1'])"
            )
            environment = dict(os.environ, COMPAT_OUT=folder, PYTHONPATH=str(HERE / "lib"))
            runs = [subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode for _ in range(2)]
            self.assertEqual(runs, [-6, 0])
            self.assertEqual(list(compare.load(folder)), ["0", "1", "2", "3", "4"])
            self.assertEqual(compare.load(folder)["2"][1], b"error: the process ended")


if __name__ == "__main__":
    unittest.main()
