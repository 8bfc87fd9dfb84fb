"""Principal components of a few embeddings, and how well two groups of them come apart.

Source: Figure 1 of the paper shows the first two principal components of cities and states. The scores here turn "the
two groups separate" into numbers that can be compared with chance.
"""

from dataclasses import dataclass

import torch

from tp4lib.base import checks
from tp4lib.base.checks import whole
from tp4lib.base.errors import InputError
from tp4lib.word2vec.spectrum import signs


@dataclass(frozen=True)
class PCA:
    """Result of `pca`."""

    scores: torch.Tensor  # (N, k) coordinates of the points along the components
    components: torch.Tensor  # (k, n) orthonormal directions, most variance first
    explained: torch.Tensor  # (k,) share of the total variance along each


def pca(points: torch.Tensor, k: int | None = None) -> PCA:
    """Principal components: with ``X`` the points less their mean and ``X = A diag(s) B^T``, scores ``A diag(s)``.

    Works in float64. The sign of each component is such that its score of largest size is positive.

    Args:
        points: (N, n), N at least 2; n may be far larger than N, as at width infinity.
        k: components wanted; all ``min(N - 1, n)`` by default, a rotation that keeps every distance.

    >>> pca(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 1).scores[:, 0].abs().round(decimals=6).tolist()
    [2.5, 2.5]
    """
    most = min(len(points) - 1, points.shape[1])
    k = most if k is None else whole("k", k, least=0, example=2)
    if not 1 <= k <= most:
        raise InputError(
            f"{k} principal components of {len(points)} points in {points.shape[1]} dimensions; expected between 1 "
            f"and {most}; ask for fewer, or give more points"
        )
    centred = points.double() - points.double().mean(0)
    left, size, right = torch.linalg.svd(centred, full_matrices=False)
    scores = left * size
    sign = signs(scores)
    explained = size.square() / size.square().sum().clamp_min(torch.finfo(size.dtype).tiny)
    return PCA((scores * sign)[:, :k], (right * sign[:, None])[:k], explained[:k])


@dataclass(frozen=True)
class Separation:
    """Result of `separation`.

    Attributes:
        accuracy: percent of points nearer to the centroid of their own group than to the other's, each point left out
            of its own centroid; mean of the two groups, so that guessing gives 50.
        chance: the same with the labels shuffled, mean over shuffles, percent.
        p_value: share of shuffles (the true labels counted as one) that reach ``accuracy``.
        silhouette: mean over points of ``(b - a) / max(a, b)``, a and b the mean distances to the own group's other
            points and to the other group; in [-1, 1], about 0 where groups are mixed.
        gap: distance between the two centroids, in units of the standard deviation of the points around their
            centroids along the line between them.
    """

    accuracy: float
    chance: float
    p_value: float
    silhouette: float
    gap: float


def separation(points: torch.Tensor, group: torch.Tensor, shuffles: int = 1000, seed: int = 0) -> Separation:
    """How well two groups of points come apart: leave-one-out nearest centroid, silhouette, and chance.

    Args:
        points: (N, k) coordinates. group: (N,) bool, True for the one group; two points in each at least.
        shuffles: random labellings that say what chance gives, at least 1.

    >>> line = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> separation(line, torch.tensor([True, True, False, False])).accuracy
    100.0
    """
    points, group = points.double(), group.bool()
    shuffles, seed = whole("shuffles", shuffles, example=1000), checks.seed(seed)
    if len(group) != len(points) or min(int(group.sum()), int((~group).sum())) < 2:
        raise InputError(
            f"groups of {int(group.sum())} and {int((~group).sum())} for {len(points)} points; expected two or more in "
            "each; give more points"
        )
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(group), generator=generator) for _ in range(shuffles)])
    scores = _left_out_accuracy(points, torch.cat([group[None], group[orders]]))
    accuracy, shuffled = float(scores[0]), scores[1:]
    # Accuracies are sums of fractions: equal ones may differ in the last digit.
    p_value = (1 + int((shuffled >= accuracy - 1e-9).sum())) / (1 + shuffles)
    return Separation(
        accuracy, float(shuffled.mean()), p_value, _silhouette(points, group), _gap(points, group)
    )


def _left_out_accuracy(points: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(S,) balanced accuracy in percent of the nearest centroid, for each of S labellings (S, N)."""
    is_in = torch.stack([groups, ~groups]).double()  # (2, S, N)
    count = is_in.sum(2, keepdim=True)
    total = is_in @ points  # (2, S, k)
    # Without point i, the centroid of its group is (total - x_i) / (count - 1); the other is unchanged.
    square = points.square().sum(1)
    inner = total @ points.T  # (2, S, N): total . x_i
    norm = total.square().sum(2, keepdim=True)
    other = square - 2 * inner / count + norm / count**2
    own = (count / (count - 1)) ** 2 * other  # |x - (T - x)/(c - 1)| = c/(c - 1) |x - T/c|
    right = (own < other.flip(0)).double()
    return 50.0 * (right * is_in).sum(2).div(count[:, :, 0]).sum(0)


def _silhouette(points: torch.Tensor, group: torch.Tensor) -> float:
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    same = group[:, None] == group[None, :]
    own = (distance * same).sum(1) / (same.sum(1) - 1)
    other = (distance * ~same).sum(1) / (~same).sum(1)
    return float(((other - own) / torch.maximum(own, other).clamp_min(torch.finfo(own.dtype).tiny)).mean())


def _gap(points: torch.Tensor, group: torch.Tensor) -> float:
    one, two = points[group], points[~group]
    between = one.mean(0) - two.mean(0)
    length = float(between.norm())
    if length == 0:
        return 0.0
    along = between / length
    residual = torch.cat([(one - one.mean(0)) @ along, (two - two.mean(0)) @ along])
    return length / max(float(residual.square().sum().div(len(points) - 2).sqrt()), 1e-300)
