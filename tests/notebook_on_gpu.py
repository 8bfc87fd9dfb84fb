"""The cells of a notebook at preset ci on the pretended GPU: ``python -m tests.notebook_on_gpu 04``.

Prints a line of JSON: how many kernels were launched, and the bytes that were held at most.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from unittest import mock

from tests import pretend_cuda
from tests.without_jupyter import execute

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run(number: str) -> dict[str, int]:
    """Execute the notebook whose name begins with ``number``; whatever a cell raises, this raises."""
    import torch

    import tp4lib.word2vec.training  # noqa: F401 - before the device is pretended, as a compiler is asked for
    from tp4lib.word2vec.steps import on_triton

    on_triton.lacking = lambda: "a GPU"
    torch.set_num_threads(1)
    apply = torch.nn.Module._apply

    def keeping_ties(module, *arguments):
        """On a real GPU a parameter that two modules share stays one: `Module.to` exchanges its data in place."""
        uses = {}
        for part in module.modules():
            for key, p in part._parameters.items():
                uses.setdefault(p, []).append((part._parameters, key))
        apply(module, *arguments)
        for (first, key), *others in uses.values():
            for place, name in others:
                place[name] = first[key]
        return module

    (path,) = NOTEBOOKS.glob(f"{number}*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    with pretend_cuda.device() as gpu, mock.patch.object(torch.nn.Module, "_apply", keeping_ties):
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        execute(code, preset="ci", device="cuda")
        return {"launches": gpu.launches.total(), "peak": gpu.peak}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ |= {"MPLBACKEND": "agg", "TP4_PROGRESS": "0"}
    print(json.dumps(run(sys.argv[1])))
