"""PCA and separation against scikit-learn, and what random embeddings must score."""

import math

import numpy as np
import pytest
import torch
from sklearn import decomposition, metrics, model_selection, neighbors

from tp4lib.base.errors import InputError
from tp4lib.word2vec.corpus import Vocabulary
from tp4lib.word2vec.figure1 import pca, separation
from tp4lib.word2vec.places import us_places


def _two_groups(n, distance, dimensions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, dimensions, generator=generator, dtype=torch.float64)
    group = torch.arange(n) < n // 3  # groups of different size
    points[group, 0] += distance
    return points, group


@pytest.mark.parametrize("shape", [(30, 7), (20, 500)])
def test_pca_equals_scikit_learn(shape):
    points = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.diag(
        torch.linspace(3, 1, shape[1], dtype=torch.float64)
    )
    ours, peer = pca(points, 4), decomposition.PCA(4, svd_solver="full").fit(points.numpy())
    theirs = peer.transform(points.numpy())
    assert np.allclose(np.abs(ours.scores.numpy()), np.abs(theirs), atol=1e-9)
    assert np.allclose(np.abs(ours.components.numpy()), np.abs(peer.components_), atol=1e-9)
    assert np.allclose(ours.explained.numpy(), peer.explained_variance_ratio_)


def test_pca_is_one_picture_whatever_the_rotation():
    """Points rotated in space, as the same network in another basis is, have the same scores, sign included."""
    points, _ = _two_groups(25, 2.0, 40)
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    assert torch.allclose(pca(points, 3).scores, pca(points @ rotation + 5.0, 3).scores)


def test_all_components_keep_every_distance():
    points, _ = _two_groups(12, 1.0, 300)
    scores = pca(points).scores
    assert scores.shape == (12, 11)
    assert torch.allclose(torch.cdist(scores, scores), torch.cdist(points, points))


@pytest.mark.parametrize(("distance", "dimensions"), [(0.0, 2), (1.0, 2), (3.0, 2), (1.5, 30)])
def test_accuracy_and_silhouette_equal_scikit_learn(distance, dimensions):
    points, group = _two_groups(45, distance, dimensions)
    ours = separation(points, group, shuffles=1)
    x, y = points.numpy(), group.numpy()
    guesses = model_selection.cross_val_predict(
        neighbors.NearestCentroid(), x, y, cv=model_selection.LeaveOneOut()
    )
    assert ours.accuracy == pytest.approx(100 * metrics.balanced_accuracy_score(y, guesses))
    assert ours.silhouette == pytest.approx(metrics.silhouette_score(x, y))


def test_gap_is_the_distance_in_standard_deviations():
    points, group = _two_groups(3_000, 3.0, 2)
    assert separation(points, group, shuffles=1).gap == pytest.approx(3.0, abs=0.12)
    # For two unit Gaussians d apart, the nearest centroid is right with probability Phi(d / 2).
    expected = 50 * (1 + math.erf(1.5 / math.sqrt(2)))
    assert separation(points, group, shuffles=1).accuracy == pytest.approx(expected, abs=1.5)


def test_groups_of_one_kind_score_what_chance_scores():
    """Random embeddings, as in the NTK limit, do not separate: p-values over many draws are uniform."""
    p_values = []
    for seed in range(60):
        points, group = _two_groups(30, 0.0, 2, seed=seed)
        result = separation(points, group, shuffles=99, seed=seed)
        p_values.append(result.p_value)
        assert 35 < result.chance < 60
    assert 0.35 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) <= 0.2) < 0.4


def test_well_separated_groups_reach_the_smallest_p_value():
    points, group = _two_groups(30, 8.0, 2)
    result = separation(points, group, shuffles=199)
    assert (result.accuracy, result.p_value) == (100.0, 1 / 200)
    assert result.silhouette > 0.6
    assert result == separation(points, group, shuffles=199)  # the same seed, the same numbers


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="3 principal components of 3 points"):
        pca(torch.eye(3), 3)
    with pytest.raises(InputError, match="groups of 1 and 3"):
        separation(torch.eye(4), torch.tensor([True, False, False, False]))


def test_places_are_those_of_the_vocabulary():
    places = us_places(
        Vocabulary(["texas", "of", "boston", "ohio", "washington", "chicago"], [6, 5, 4, 3, 2, 1])
    )
    assert [(p.word, p.kind, p.state, p.id) for p in places] == [
        ("chicago", "city", "illinois", 5),
        ("boston", "city", "massachusetts", 2),
        ("texas", "state", "texas", 0),
        ("ohio", "state", "ohio", 3),
    ]
