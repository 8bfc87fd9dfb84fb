"""The benchmark of the full run, at a size for tests: the path that a GPU takes is the one tested here."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "word2vec.py"


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("word2vec_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


@pytest.fixture
def full(benchmark, tmp_path, monkeypatch):
    """Run ``benchmarks/word2vec.py --full`` on a small text; return the numbers it wrote."""
    text, numbers = tmp_path / "text", tmp_path / "numbers.json"
    rng = np.random.default_rng(0)
    words = ["athens", "greece", "oslo", "norway", "paris", "france"] + [f"w{i}" for i in range(60)]
    text.write_text(" ".join(words[i] for i in np.minimum(rng.zipf(1.2, 20_000) - 1, 65)))
    monkeypatch.setattr(benchmark, "copy_bandwidth", lambda device: 1e9)

    def run(*more) -> dict:
        line = ["word2vec.py", text, "--full", "--epochs", 2, "--batch-size", 64, "--max-vocab", 50,
                "--shared-negatives", 16, "--out", numbers, *more]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(x) for x in line])
        benchmark.main()
        return json.loads(numbers.read_text())["result"]

    return run


def test_the_full_run_measures_counts_and_goes_on(full, tmp_path):
    first = full("--out-dir", tmp_path / "run")
    assert first["vocab_size"] == 50
    assert first["bytes_moved"] == first["positions"] * first["rows_per_position"] * 2 * 4 * 50
    assert first["bandwidth"] == first["bytes_moved"] / first["training_seconds"]
    assert len(first["evaluation_seconds"]) == 2
    assert first["training_seconds"] + sum(first["evaluation_seconds"]) <= first["wall_seconds"]
    assert first["history"][-1]["answered"] > 0
    again = full("--out-dir", tmp_path / "run")
    assert again["resumed"]
    assert again["history"] == first["history"]
    assert again["evaluation_seconds"] == []


def test_bytes_are_counted_without_training(full):
    single = full("--dry-run", "--device", "cuda")
    half = full("--dry-run", "--dtype", "bfloat16")
    assert "history" not in single
    assert half["bytes_moved"] == single["bytes_moved"] / 2
    assert single["bytes_parameters"] == 2 * 50 * 50 * 4


def test_bad_input_is_one_line(full, capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as end:
        full("--engine", "triton", "--device", "cpu")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the triton engine needs" in error
