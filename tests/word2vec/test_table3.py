"""Several widths on one text: each resumes from its own folder, and none from another's settings."""

import math
import types

import numpy as np
import pytest
import torch

from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec import table3 as study
from tp4lib.word2vec.training import train


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TP4_PROGRESS", "0")


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    return Corpus.from_words([f"w{i}" for i in np.minimum(rng.zipf(1.3, 3000), 30)])


SETTINGS = dict(epochs=1, subsample=0.0, device="cpu", lr=0.01)  # from 0.1 on it diverges


def test_each_width_is_trained_as_if_alone(corpus, tmp_path):
    trained = study.train_widths(corpus, [4, math.inf], tmp_path, **SETTINGS)
    assert list(trained) == [4, math.inf]
    for width, run in trained.items():
        alone = train(corpus, width, **SETTINGS)
        assert torch.equal(run.model.embeddings, alone.model.embeddings)


def test_a_finished_run_is_read_again_and_other_settings_start_afresh(corpus, tmp_path, monkeypatch):
    scored = []

    def evaluate(embeddings):
        scored.append(embeddings.shape[1])
        return types.SimpleNamespace(accuracy=1.0, correct=1, answered=2, total=3)

    first = study.train_widths(corpus, [4, 6], tmp_path, evaluate=evaluate, **SETTINGS)
    again = study.train_widths(corpus, [6], tmp_path, evaluate=evaluate, **SETTINGS)
    assert scored == [4, 6], "nothing is trained or scored twice"
    assert again[6].history == first[6].history
    assert torch.equal(again[6].model.readout, first[6].model.readout)
    faster = study.train_widths(corpus, [6], tmp_path, evaluate=evaluate, **SETTINGS | dict(lr=0.02))
    assert scored == [4, 6, 6]
    assert not torch.equal(faster[6].model.embeddings, first[6].model.embeddings)


def test_an_interrupted_width_goes_on_and_the_ones_before_it_are_kept(corpus, tmp_path, monkeypatch):
    unbroken = study.train_widths(corpus, [4, 6], tmp_path / "whole", **SETTINGS)

    class Stop(Exception):
        pass

    stops = [True]

    def stop_at_six(embeddings):
        if embeddings.shape[1] == 6 and stops:
            raise Stop
        return types.SimpleNamespace(accuracy=1.0, correct=1, answered=2, total=3)

    with pytest.raises(Stop):
        study.train_widths(corpus, [4, 6], tmp_path / "broken", evaluate=stop_at_six, **SETTINGS)
    kept = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "broken").iterdir())
    assert kept[0] == "width-4"
    stops.clear()
    resumed = study.train_widths(corpus, [4, 6], tmp_path / "broken", evaluate=stop_at_six, **SETTINGS)
    for width in (4, 6):
        assert torch.equal(resumed[width].model.embeddings, unbroken[width].model.embeddings)


def test_initializations_can_differ_while_windows_and_negatives_are_the_same(corpus, tmp_path):
    options = SETTINGS | dict(seed=3)
    runs = [study.train_widths(corpus, [4, math.inf], tmp_path, start_seed=s, **options) for s in (3, 4, 4)]
    alone = study.train_widths(corpus, [4, math.inf], tmp_path, **options)
    assert torch.equal(runs[0][4].model.embeddings, alone[4].model.embeddings)
    assert not torch.equal(runs[1][4].model.embeddings, alone[4].model.embeddings)
    assert torch.equal(runs[1][4].model.embeddings, runs[2][4].model.embeddings)
    assert all(torch.equal(run[math.inf].model.embeddings, alone[math.inf].model.embeddings) for run in runs)
    start = CBOW(len(corpus.vocab), 4, seed=4)
    by_hand = train(corpus, 4, start=start, **options)
    assert torch.equal(runs[1][4].model.embeddings, by_hand.model.embeddings)
