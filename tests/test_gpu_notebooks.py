"""Every notebook on a pretended GPU: no cell mixes devices, or asks of one what it cannot do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebook_on_gpu import NOTEBOOKS

NUMBERS = sorted(path.name[:2] for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
# Every operation passes through Python here: notebook 04 takes six minutes, all together half an hour.
QUICK = ("00", "01", "02", "03")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        number
        if number in QUICK
        else pytest.param(
            number,
            marks=pytest.mark.skipif("TP4_HEAVY" not in os.environ, reason="minutes each; set TP4_HEAVY=1"),
        )
        for number in NUMBERS
    ],
)
def test_every_cell_runs_on_a_gpu(number, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TP4_")}
    here = {
        "TP4_OUT": str(tmp_path),
        "TP4_CACHE": str(tmp_path / "cache"),
        "TP4_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.notebook_on_gpu", number],
        cwd=tmp_path, env=kept | here | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads(ran.stdout.splitlines()[-1])["launches"] > 0
