"""One SGD step of Word2Vec as a formula: what every engine computes, in float64 on dense matrices.

With ``E`` (|V|, n) the embeddings, ``R`` (|V|, n) the readout, and, of a batch of B positions, ``C`` (B, |V|) the
means over contexts, ``Y`` (B, |V|) the one-hot targets and ``W`` (B, |V|) the weights of the negatives that are not
the target,

    S = C E R^T,   G = rate (Y (1 - sigmoid(S)) - W sigmoid(S)),
    E <- D_E E + C^T G R,   R <- D_R R + G^T C E.

``D`` multiplies a row by ``1 - rate wd`` once for each touch; a negative counts by its weight. Source: the
appendix on Word2Vec of the paper, and the word2vec program.
"""

import numpy as np

from tp4lib.word2vec.blocks import Block, context_pairs
from tp4lib.word2vec.settings import StepSettings


def reference_steps(
    E: np.ndarray, R: np.ndarray, block: Block, settings: StepSettings
) -> tuple[np.ndarray, np.ndarray, float]:
    """The matrices (|V|, n) after a block, at any n, and the sum of the losses of its positions. Slow: for tests."""
    loss = 0.0
    for i, rate in enumerate(block.rates):
        batch = range(i * block.batch_size, min((i + 1) * block.batch_size, len(block)))
        N, Y, W = (np.zeros((len(batch), len(E))) for _ in range(3))
        position, words = context_pairs(block, batch.start, batch.stop)
        np.add.at(N, (position - batch.start, words), 1.0)  # how often each window holds each word
        Y[np.arange(len(batch)), block.tokens[batch.start : batch.stop]] = 1
        for row, p in zip(W, batch):
            np.add.at(row, block.negatives[i if block.shared else p], block.weight)
        W *= 1 - Y  # a negative equal to the target is left out
        C = N / N.sum(1, keepdims=True)
        S = C @ E @ R.T
        loss += (Y * np.logaddexp(0, -S) + W * np.logaddexp(0, S)).sum()
        G = rate * (Y / (1 + np.exp(S)) - W / (1 + np.exp(-S)))
        to_context = settings.input_rate * (N if settings.window_gradient == "sum" else C)
        D_E = (1 - rate * settings.input_rate * settings.wd) ** N.sum(0)
        D_R = (1 - rate * settings.wd) ** (Y + W).sum(0)
        E, R = D_E[:, None] * E + to_context.T @ G @ R, D_R[:, None] * R + G.T @ C @ E
    return E, R, loss
