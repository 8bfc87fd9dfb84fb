"""The benchmarks at a size for tests; of the full run, the path that a GPU takes is the one tested here."""

import json
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import script


@pytest.fixture(scope="module")
def benchmark():
    return script("word2vec")


@pytest.fixture
def text(tmp_path) -> Path:
    path, rng = tmp_path / "text.xz", np.random.default_rng(0)
    words = ["athens", "greece", "oslo", "norway", "paris", "france"] + [f"w{i}" for i in range(60)]
    path.write_bytes(
        lzma.compress(" ".join(words[i] for i in np.minimum(rng.zipf(1.2, 40_000) - 1, 65)).encode())
    )
    return path


@pytest.fixture
def full(benchmark, text, tmp_path, monkeypatch):
    """Run ``benchmarks/word2vec.py --full`` on a small text; return the numbers it wrote."""
    numbers = tmp_path / "numbers.json"
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


def test_both_libraries_train_on_the_whole_text(benchmark, text, tmp_path, monkeypatch):
    pytest.importorskip("gensim")
    seen, numbers = [], tmp_path / "numbers.json"
    speed = benchmark.gensim_speed

    def spied(path, size, width, workers):
        with benchmark.open_text(path) as file:
            seen.append(len(file.read(size).split()))
        return speed(path, size, width, workers)

    monkeypatch.setattr(benchmark, "gensim_speed", spied)
    monkeypatch.setattr(
        sys, "argv", ["word2vec.py", str(text), "--repeat", "1", "--threads", "1", "--out", str(numbers)]
    )
    benchmark.main()
    rows = json.loads(numbers.read_text())["result"]
    assert [row["columns"] for row in rows] == [64, 256, 1024, 66]
    for row in rows:
        assert row["ratios"] == {who: row[who] / row["gensim"] for who in ("tp4", "tp4_sum", "tp4_sum_64")}
        assert min(row["ratios"].values()) > 0
    assert seen == [40_000] * 4


def test_the_way_to_gensim_goes_on_where_it_stopped(text, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gensim")
    way, out = script("word2vec_gensim"), tmp_path / "way.json"

    def run(*more: str) -> dict:
        line = ["word2vec_gensim.py", str(text), "--epochs", "1", "--out", str(out), *more]
        monkeypatch.setattr(sys, "argv", line)
        way.main()
        return json.loads(out.read_text())

    first = run("--widths", "8")
    assert [row["change"] for row in first["runs"]] == list(way.RUNS)
    assert len({row["loss"] for row in first["runs"] if "loss" in row}) == len(way.RUNS) - 1  # all differ
    assert len({row["answered"] for row in first["runs"]}) == 1
    assert run("--widths", "8", "16")["runs"][: len(first["runs"])] == first["runs"]
    with pytest.raises(SystemExit) as end:
        run("--seed", "1")
    assert end.value.code == 2
    assert "other settings" in capsys.readouterr().err.splitlines()[-1]
