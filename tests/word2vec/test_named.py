"""A corpus can be a data set's name; a file of that name comes first."""

import json

from tp4lib.data import catalogue as datasets
from tp4lib.word2vec import run as runs


def test_the_name_of_a_data_set_is_found(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    options = dict(
        width="4", epochs=1, min_count=1, max_vocab=50, max_bytes=20_000, questions=None, save_dim=None,
        device=torch.device("cpu"), save_vectors_=True,
    )  # fmt: skip
    runs.run(runs.Path("text8"), tmp_path / "named", **options)
    told = json.loads((tmp_path / "named" / "metrics.json").read_text("utf-8"))
    assert told["data"][0]["title"] == datasets.find("text8").title
    (tmp_path / "text8").write_text("one two three four five six seven " * 500)
    runs.run(runs.Path("text8"), tmp_path / "file", **options)
    told = json.loads((tmp_path / "file" / "metrics.json").read_text("utf-8"))
    assert told["data"][0]["source"] == "file"
    assert told["vocab_size"] == 7
