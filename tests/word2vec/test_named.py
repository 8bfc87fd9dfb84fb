"""A corpus can be a data set's name; a file of that name comes first."""

import json
from pathlib import Path

import torch

from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import run as runs
from tp4lib.word2vec.settings import RunSettings


def test_the_name_of_a_data_set_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(folder):
        settings = RunSettings(
            corpus=Path("text8"), out=tmp_path / folder, width="4", epochs=1, min_count=1, max_vocab=50,
            max_bytes=20_000,
        )  # fmt: skip
        runs.run(settings, torch.device("cpu"))

    run("named")
    told = json.loads((tmp_path / "named" / "metrics.json").read_text("utf-8"))
    assert told["data"][0]["title"] == datasets.find("text8").title
    (tmp_path / "text8").write_text("one two three four five six seven " * 500)
    run("file")
    told = json.loads((tmp_path / "file" / "metrics.json").read_text("utf-8"))
    assert told["data"][0]["source"] == "file"
    assert told["vocab_size"] == 7
