"""Nonlinear CBOW in the pi-limit: against the linear engine, and against brute force."""

import doctest

import numpy as np
import pytest
import torch

from tp4lib.word2vec import nonlinear as pi
from tp4lib.word2vec.blocks import Sampler
from tp4lib.word2vec.corpus import Corpus
from tp4lib.word2vec.model import CBOW
from tp4lib.word2vec.nonlinear import PiCBOW, contexts

F64 = torch.float64


def text(words: int = 3000, seed: int = 0) -> Corpus:
    """Two topics of five words each, in turns of 20 words."""
    rng = np.random.default_rng(seed)
    topic = np.repeat(rng.integers(0, 2, words // 20), 20)
    return Corpus.from_words([f"w{5 * t + rng.integers(5)}" for t in topic])


def sampler(corpus: Corpus, **options) -> Sampler:
    options = dict(window=3, num_negatives=5, subsample=0, batch_size=16, lr=0.05, epochs=2) | options
    return Sampler(corpus.vocab, corpus.ids, **options)


def test_contexts_are_means_over_the_window_without_the_target():
    corpus = text(200)
    block = sampler(corpus).block(0, 0)
    found, target = contexts(block, 5, 12, torch.empty(0, len(corpus.vocab), dtype=F64))
    for row, i in enumerate(range(5, 12)):
        words = [block.tokens[j] for j in range(block.first[i], block.last[i]) if j != i]
        expected = np.bincount(words, minlength=len(corpus.vocab)) / len(words)
        assert torch.allclose(found[row], torch.from_numpy(expected))
        assert target[row] == block.tokens[i]


def test_linear_at_full_rank_is_the_linear_engine_with_all_negatives():
    """CBOW(|V|, inf) stepped by hand with expected negatives has the scores of the identity's pi-limit."""
    corpus = text()
    model = PiCBOW(corpus.vocab, len(corpus.vocab), "identity", negatives=5, max_rows=200, dtype=F64)
    linear = CBOW(len(corpus.vocab), "inf", dtype=F64)
    E, R = linear.embeddings.clone(), linear.readout.clone()
    q = torch.from_numpy(corpus.vocab.counts**0.75)
    q = 5 * q / q.sum()
    block = sampler(corpus).block(0, 0)
    for index in range(30):
        C, target = contexts(block, 16 * index, 16 * index + 16, model.network.U)
        rate = float(block.rates[index])
        model.network.loss_step(C, target, rate, loss=model.loss)
        S = C @ E @ R.T
        W = q.repeat(16, 1)
        G = -W * torch.sigmoid(S)
        G[torch.arange(16), target] = 1 - torch.sigmoid(S[torch.arange(16), target])
        E, R = E + rate * C.T @ G @ R, R + rate * G.T @ C @ E
        assert torch.allclose(model.logits(C), C @ E @ R.T, atol=1e-6)
    assert (
        len(model.network.layers[0].compressions) > 1
    )  # |V| rows carry a linear readout: compression is exact


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_it_learns_the_topics(activation):
    corpus = text(6000)
    model = PiCBOW(corpus.vocab, 16, activation, negatives=5, max_rows=1500)
    held = sampler(text(1000, seed=1)).block(0, 0)
    before = model.mean_loss(held)
    losses = model.train(sampler(corpus, epochs=3, lr=0.1))
    assert losses[-1] < losses[0]
    assert model.mean_loss(held) < before - 0.1
    unit = torch.nn.functional.normalize(model.embeddings, dim=1)
    order = np.array([int(word[1:]) // 5 for word in corpus.vocab.words])
    same = torch.from_numpy(order[:, None] == order[None])
    similarity = unit @ unit.T
    off = ~torch.eye(len(order), dtype=bool)
    assert similarity[same & off].mean() > similarity[~same].mean() + 0.2


def test_the_examples_in_the_documentation():
    results = doctest.testmod(pi)
    assert (results.attempted > 0, results.failed) == (True, 0)
