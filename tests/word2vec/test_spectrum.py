"""Leading singular values and directions against a full decomposition."""

import pytest
import torch

from tp4lib.base.errors import InputError
from tp4lib.word2vec.spectrum import leading


@pytest.fixture(scope="module")
def matrix():
    """Singular values that fall like those of a trained limit, about the identity."""
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))[0] for _ in range(2)
    )
    return torch.eye(60, dtype=torch.float64) + left * (5 * 0.8 ** torch.arange(60)) @ right.T


@pytest.mark.parametrize("minus", [0.0, 1.0])
def test_it_equals_the_decomposition(matrix, minus):
    whole = matrix - minus * torch.eye(60, dtype=torch.float64)
    _, expected, rows = torch.linalg.svd(whole)
    values, directions = leading(matrix, 8, minus=minus, rounds=20)
    torch.testing.assert_close(values, expected[:8], rtol=1e-9, atol=0)
    overlap = (directions * rows[:8].T).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(directions.T @ directions, torch.eye(8, dtype=torch.float64))


def test_all_directions_and_other_shapes(matrix):
    for part in (matrix, matrix[:20], matrix[:, :20]):
        values, _ = leading(part, min(part.shape))
        torch.testing.assert_close(values, torch.linalg.svdvals(part), rtol=1e-9, atol=1e-12)


def test_other_precisions(matrix):
    expected = torch.linalg.svdvals(matrix)[:4]
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        values, directions = leading(matrix.to(dtype), 4)
        assert values.dtype == directions.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected, rtol=error, atol=0)


def test_more_directions_than_there_are(matrix):
    with pytest.raises(InputError, match="count = 61"):
        leading(matrix, 61)
