"""What the compiler makes of the three Triton kernels for an NVIDIA GPU; needs no GPU.

    python benchmarks/triton_code.py                   # as they are launched
    python benchmarks/triton_code.py --columns 32 --warps 8 --dtype bfloat16

For compute capability 9.0 (H100, H200): shared memory, registers and bytes spilled to memory of a thread, instructions.
Instructions are those in the code, each once, times warps, for one position and column of a tile: loops over negatives
and positions of a batch run them more often, equally for all tiles of one size.
"""

import argparse
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tp4lib.word2vec.steps import on_triton, triton_code

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
STORED = {"float32": "fp32", "bfloat16": "bf16"}
NUMBERS = ("i", "total", "batch", "n", "stride", "K", "window", "seed")
REALS = (
    "partial", "S", "loss", "weight", "rate", "G", "room", "shrink_in", "shrink_out", "input_rate", "own_touches",
    "context_touches",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """Of a kernel: bytes of shared memory, registers and spilled bytes of a thread, and instructions."""

    shared: int
    registers: int
    spilled: int
    instructions: int
    per_number: float


def compile_all(dtype: str, columns: int = on_triton.COLUMNS, warps: int | None = None) -> dict[str, Made]:
    """Compile every kernel as `on_triton.triton_steps` launches it, for parameters of ``dtype``."""
    tile = dict(POSITIONS=on_triton.POSITIONS, EDGE=16, COLUMNS=columns, FLOAT=tl.float32)
    tile |= dict(PRECISION=on_triton.PRECISION)
    launch = on_triton.LAUNCH | (dict(num_warps=warps) if warps else {})
    constants = {
        "forward": tile | dict(NEGATIVES=on_triton.NEGATIVES),
        "gradients": dict(POSITIONS=16, NEGATIVES=256, FLOAT=tl.float32),
        "update": tile | dict(SUM=False, ROUND=dtype == "bfloat16"),
    }
    return {
        name: _made(name, fixed, launch if name != "gradients" else {}, STORED[dtype])
        for name, fixed in constants.items()
    }


def _made(name: str, constants: dict[str, Any], launch: dict[str, Any], stored: str) -> Made:
    kernel = getattr(triton_code, name)

    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        if argument in NUMBERS:
            return "i32"
        return f"*{stored}" if argument in ("E", "R") else "*fp32" if argument in REALS else "*i32"

    kinds = {argument: kind(argument) for argument in kernel.arg_names}
    # All addresses are multiples of 16 bytes, and rows begin at memory lines.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if kinds[argument].startswith("*") or argument == "stride"
    }
    fixed = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    done = triton.compile(
        ASTSource(kernel, kinds, fixed, aligned), target=GPUTarget("cuda", 90, 32), options=launch
    )
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder) / "ptx", Path(folder) / "cubin"
        ptx.write_text(done.asm["ptx"])
        cubin.write_bytes(done.asm["cubin"])
        told = _told(TOOLS / "ptxas", "-v", "--gpu-name=sm_90a", "-o", "/dev/null", ptx)
        code = _told(TOOLS / "nvdisasm", "-c", cubin)
    count = len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE))
    numbers = constants["POSITIONS"] * constants.get("COLUMNS", constants.get("NEGATIVES"))
    return Made(
        shared=done.metadata.shared,
        registers=int(re.search(r"Used (\d+) registers", told)[1]),
        spilled=int(re.search(r"(\d+) bytes spill stores", told)[1]),
        instructions=count,
        per_number=round(count * launch.get("num_warps", 4) / numbers, 2),
    )


def _told(*command: Any) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return ran.stdout + ran.stderr


def main() -> None:
    """Print a line for each kernel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=STORED, default="float32")
    parser.add_argument("--columns", type=int, default=on_triton.COLUMNS)
    parser.add_argument("--warps", type=int)
    chosen = parser.parse_args()
    for name, made in compile_all(chosen.dtype, chosen.columns, chosen.warps).items():
        print(f"{name:10s}" + ", ".join(f"{key} {value}" for key, value in asdict(made).items()))


if __name__ == "__main__":
    main()
