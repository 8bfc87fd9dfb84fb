"""Characters drawn by this program, for when no real Omniglot is at hand."""

import numpy as np
import torch

SIZE = 28
_POINTS = 28  # samples along each stroke; the pen is wider than the gaps between them


def draw(classes: int = 300, drawers: int = 20, seed: int = 0) -> np.ndarray:
    """Draw an alphabet of random characters, each by several unsteady drawers.

    A character is two to four strokes, each a quadratic curve ``(1-t)^2 p + 2t(1-t) q + t^2 r`` between random
    points. A drawer moves every point a little, turns, stretches, slants and shifts the whole, and holds a pen of
    their own width: so two drawings of one character differ in the way that handwriting does, and what is learned on
    some characters (to ignore such differences) helps on others. This is **not** Omniglot: accuracies on it compare
    with each other, never with published ones.

    Returns:
        uint8 ``(classes, drawers, 28, 28)``, ink 255 on paper 0; the same seed draws the same alphabet.

    >>> draw(classes=3, drawers=2).shape
    (3, 2, 28, 28)
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    # Control points near a 3 x 3 grid, as letters have them: (classes, strokes, 3, 2). The first stroke's end starts
    # the second, as pens do.
    points = torch.randint(-1, 2, (classes, 4, 3, 2), generator=generator) + 0.2 * normal(classes, 4, 3, 2)
    points[:, 1, 0] = points[:, 0, 2]
    drawn = torch.arange(4) < torch.randint(2, 5, (classes, 1), generator=generator)  # (classes, strokes)

    t = torch.linspace(0, 1, _POINTS)
    curve = torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])  # (3, points on the stroke)
    grid = torch.linspace(-1.4, 1.4, SIZE)
    images = np.empty((classes, drawers, SIZE, SIZE), dtype=np.uint8)
    for drawer in range(drawers):
        unsteady = points + 0.1 * normal(classes, 4, 3, 2)
        turn, slant = 0.22 * normal(classes), 0.15 * normal(classes)
        stretch = torch.exp(0.15 * normal(classes, 2))
        affine = torch.stack(
            [turn.cos() * stretch[:, 0], slant - turn.sin(), turn.sin(), turn.cos() * stretch[:, 1]], dim=1
        ).view(classes, 2, 2)
        placed = 0.85 * torch.einsum("cij,cskj->cski", affine, unsteady) + 0.15 * normal(classes, 1, 1, 2)
        path = torch.einsum("csk...,kp->csp...", placed, curve)  # (classes, strokes, points, 2)
        path = torch.where(drawn[:, :, None, None], path, torch.tensor(9.0))  # off the paper: not drawn
        pen = 0.08 * torch.exp(0.15 * normal(classes))
        across = (path[..., 0].flatten(1)[:, :, None] - grid) ** 2  # (classes, points, 28)
        down = (path[..., 1].flatten(1)[:, :, None] - grid) ** 2
        for c in range(classes):  # one character at a time keeps the distances small in memory
            distance = (down[c][:, :, None] + across[c][:, None, :]).amin(dim=0).sqrt()
            ink = ((pen[c] - distance) / 0.09 + 0.5).clamp(0, 1)
            images[c, drawer] = (255 * ink).round().to(torch.uint8).numpy()
    return images
