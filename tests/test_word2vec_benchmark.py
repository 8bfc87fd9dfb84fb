"""The benchmark of the full run, at a size for tests: the path that a GPU takes is the one tested here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "word2vec.py"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text"
    rng = np.random.default_rng(0)
    words = ["athens", "greece", "oslo", "norway", "paris", "france"] + [f"w{i}" for i in range(60)]
    path.write_text(" ".join(words[i] for i in np.minimum(rng.zipf(1.2, 20_000) - 1, 65)))
    return path


def bench(text, tmp_path, *more):
    line = [sys.executable, str(SCRIPT), str(text), "--full", "--epochs", "2", "--batch-size", "64", "--max-vocab", "50",
            "--shared-negatives", "16", "--out", str(tmp_path / "numbers.json"), *map(str, more)]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, env=os.environ)
    written = tmp_path / "numbers.json"
    return done, json.loads(written.read_text())["result"] if written.exists() else None


def test_the_full_run_measures_counts_and_goes_on(text, tmp_path):
    done, first = bench(text, tmp_path, "--out-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert first["vocab_size"] == 50
    assert first["bytes_moved"] == first["positions"] * first["rows_per_position"] * 2 * 4 * 50
    assert first["bandwidth"] == first["bytes_moved"] / first["training_seconds"]
    assert len(first["evaluation_seconds"]) == 2
    assert first["training_seconds"] + sum(first["evaluation_seconds"]) <= first["wall_seconds"]
    assert first["history"][-1]["answered"] > 0
    done, again = bench(text, tmp_path, "--out-dir", tmp_path / "run")
    assert again["resumed"]
    assert again["history"] == first["history"]
    assert again["evaluation_seconds"] == []


def test_bytes_are_counted_without_training(text, tmp_path):
    done, single = bench(text, tmp_path, "--dry-run", "--device", "cuda")
    assert done.returncode == 0, done.stderr
    _, half = bench(text, tmp_path, "--dry-run", "--dtype", "bfloat16")
    assert "history" not in single
    assert half["bytes_moved"] == single["bytes_moved"] / 2
    assert single["bytes_parameters"] == 2 * 50 * 50 * 4


def test_bad_input_is_one_line(text, tmp_path):
    done, result = bench(text, tmp_path, "--engine", "triton", "--device", "cpu")
    assert done.returncode == 2
    assert result is None
    assert done.stderr.count("\n") == 1
    assert "the triton engine needs" in done.stderr
