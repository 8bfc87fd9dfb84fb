"""What each preset needs, as measured: time, memory and disk of every notebook.

The table, ``needs.json`` beside this file, is written from a real run by ``python tools/needs.py runs/ci``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

VOCABULARY, IMAGES = 67_897, 50_000
"""At preset paper: words of wiki8 that occur at least five times; training images of CIFAR-10."""
PAPER_PEAKS = {
    "04": 2 * 4 * VOCABULARY**2
    + 4 * 4 * VOCABULARY * 1024,  # embeddings and readout at infinity; 1,024 directions
    "05": 2 * 4 * VOCABULARY**2,
    "07": 3 * 8 * IMAGES**2,  # a kernel in float64 of all images, its sum with the ridge, its factor
}
"""Bytes that the largest notebooks hold on a GPU at preset paper, by formula; docs/gpu.md has the others."""
TABLE = Path(__file__).resolve().parent / "needs.json"


@dataclass(frozen=True)
class Needs:
    """Of one preset: seconds one notebook after the other; bytes of memory and of disk; where it was measured."""

    seconds: float
    memory: int
    disk: int
    measured: str


def needs(preset: str) -> Needs | None:
    """What ``tp4 reproduce --preset PRESET`` needs; None where it has not been measured.

    Memory is that of the largest notebook: the peaks of its kernel and of papermill's process, resident. tp4 itself
    adds little, because the libraries that it loads are shared with them. Several workers take several times as much.
    """
    entry = json.loads(TABLE.read_text("utf-8")).get(preset)
    if entry is None:
        return None
    notebooks = entry["notebooks"].values()
    return Needs(
        sum(each["seconds"] for each in notebooks),
        max(each["peak_memory_bytes"] for each in notebooks),
        sum(each["disk_bytes"] for each in notebooks),
        entry["measured"],
    )


def duration(seconds: float) -> str:
    """As the README, the site and `tp4 doctor` say it: "5 min", "3.0 h"."""
    return f"{max(round(seconds / 60), 1)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration_of(preset: str) -> str:
    """What the whole collection takes at a preset, on one core."""
    need = needs(preset)
    return duration(need.seconds) if need else "not measured"
