"""The numerical tests under other arithmetic: as if on other processors, and with other numbers of threads.

python tools/arithmetic.py [tests and options of pytest]

Each library chooses its code by the processor that it finds, and with it the order of its sums. Here each is told to
take the code of an older one, and each number of threads cuts sums in other places: a test that depends on the last bit
of a sum, or trains where rounding grows, fails in one of these.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_NUMBERS = (
    "base", "collection", "data", "test_formulas.py", "test_fuzz.py", "test_house.py", "test_notebooks.py",
)  # fmt: skip
"""Tests of files, commands and pages. Whatever is not named here runs, so that no new test is forgotten."""


def settings() -> dict[str, dict[str, str]]:
    """Environment variables of each arithmetic, by its name."""
    return {
        "torch without vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
        "MKL and oneDNN of the oldest processor": {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        "numba for any processor": {"NUMBA_CPU_NAME": "generic"},
        "numpy without AVX512": {"NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features(("AVX512", "X86_V4")))},
        "numpy without AVX2": {"NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features())},
        # Threads that spin while they wait for each other are very slow on a busy machine.
        **{f"{n} threads": {"OMP_NUM_THREADS": str(n), "OMP_WAIT_POLICY": "passive"} for n in (1, 2, 4)},
    }


def numpy_features(prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """What numpy would choose on this processor beyond what it needs on any; it refuses to disable other names."""
    try:
        from numpy._core import _multiarray_umath as core
    except ImportError:  # numpy 1
        from numpy.core import _multiarray_umath as core
    return [
        name for name in core.__cpu_dispatch__ if core.__cpu_features__[name] and name.startswith(prefixes)
    ]


def run(variables: dict[str, str], arguments: list[str]) -> tuple[int, str, float]:
    """Exit code, last line and seconds of the tests with these variables."""
    # A number or an expression that belongs to an option (-n 2, -m "not slow") names no test.
    named = [argument for argument in arguments if (ROOT / argument.split("::")[0]).exists()]
    apart = [] if named else [f"--ignore={ROOT / 'tests' / name}" for name in WITHOUT_NUMBERS]
    command = [sys.executable, "-m", "pytest", *apart, *arguments]
    began, last = time.monotonic(), ""
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as tests:
        for line in tests.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return tests.returncode, last, time.monotonic() - began


def main(arguments: list[str]) -> int:
    """Run all, report all, return the worst exit code."""
    codes, lines = [], []
    for name, variables in settings().items():
        told = " ".join(f"{key}={value!r}" for key, value in variables.items())
        print(f"\n---- {name}: {told}", flush=True)
        code, last, seconds = run(variables, arguments)
        codes.append(code)
        lines.append(f"{'passed' if code == 0 else 'FAILED'}  {name} ({told}): {last} [{seconds:.0f} s]")
    print("\n" + "\n".join(lines))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
