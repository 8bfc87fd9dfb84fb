"""What one call of `tp4 reproduce` is asked for, checked before anything is written."""

import dataclasses
import os
from pathlib import Path

from tp4lib.base import checks
from tp4lib.base import device as devices
from tp4lib.base.errors import InputError
from tp4lib.collection.presets import PRESETS, SHIPPED
from tp4lib.data import catalogue as datasets
from tp4lib.data.catalogue import EMBEDDED

# Wall-clock limits per notebook, generous: a run on a loaded machine must not be cut off.
TIMEOUTS = {"ci": 15 * 60, "class": 15 * 60, "laptop": 3 * 3600, "paper": 48 * 3600}
# Every library that starts threads of its own, so that notebooks that run at once do not take each other's cores.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How notebooks are run, and where their results go.

    At presets ``ci`` and ``class`` the embedded data are used unless ``data_dir`` is given, so that the run depends on
    nothing outside the environment.

    Attributes:
        out: folder of the results.
        data_dir: where real data are; the notebooks see it as ``$TP4_DATA``.
        workers: notebooks at once; the numbers do not depend on it.
        threads: CPU threads of each notebook; the numbers depend on it a little, by the order of sums.
        timeout: seconds a notebook may take; default `TIMEOUTS`.
        in_place: also write the outputs, with the digest of the source, into the notebook they came from.
        resume: keep the notebooks that an earlier run with the same arguments, sources, data and versions has finished.
    """

    preset: str
    out: Path
    data_dir: Path | None = None
    device: str = "auto"
    seed: int = 0
    workers: int = 1
    threads: int = 1
    timeout: float | None = None
    in_place: bool = False
    resume: bool = False

    def check(self) -> str:
        """Refuse what cannot run; returns the device that ``device`` means here."""
        if self.preset not in PRESETS:
            raise InputError(
                f"unknown preset {self.preset!r}; expected one of {', '.join(PRESETS)}; try --preset ci"
            )
        # The largest seed that NumPy's and scikit-learn's generators take.
        checks.whole("--seed", self.seed, least=0, most=2**32 - 1, example=0)
        checks.whole("--workers", self.workers, example=2)
        checks.whole("--threads", self.threads, example=1)
        if self.timeout is not None:
            # At most three years, in seconds: an operating system's clock takes no infinity.
            checks.real("--timeout", self.timeout, above=0, most=1e8, example=TIMEOUTS[self.preset])
        told, place = "--data-dir", self.data_dir
        if place is None and self.preset not in SHIPPED:  # what the notebooks will look at
            told, place = "TP4_DATA", os.environ.get("TP4_DATA")
        if place and str(place) != EMBEDDED:
            datasets.require_any(place, told)
        return str(devices.resolve(self.device))

    def environment(self, device: str) -> dict[str, str]:
        """The notebooks' environment variables; ``device`` is what `check` has returned."""
        data = EMBEDDED if self.preset in SHIPPED else None
        if self.data_dir is not None:
            data = os.path.realpath(self.data_dir)
        return {
            "TP4_COMMAND": f"tp4 reproduce --preset {self.preset}",  # unless the command line has told more
            **os.environ,
            "TP4_DEVICE": device,
            "MPLBACKEND": "agg",
            "PYTHONWARNINGS": "ignore",
            **dict.fromkeys(_THREADS, str(self.threads)),
            **({"TP4_DATA": data} if data is not None else {}),
        }
