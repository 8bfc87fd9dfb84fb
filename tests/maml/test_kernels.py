"""Kernel FOMAML against parameter-space FOMAML: of linear models, of linearised networks, and of wide ones."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from tp4lib import kernels
from tp4lib.base.errors import InputError
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import omniglot
from tp4lib.maml import kernel_fomaml, kernel_spaces, train
from tp4lib.maml.kernel_fomaml import KernelFOMAML, kernel_learner
from tp4lib.maml.kernel_spaces import FeatureSpace, GramSpace, limit_kernel
from tp4lib.maml.reference import ReferenceMAML

F64 = torch.float64
D = 28 * 28


@pytest.fixture(scope="module")
def characters() -> np.ndarray:
    return synthetic.draw(classes=9, drawers=4)


def deal(images: np.ndarray, seed: int = 0) -> omniglot.Tasks:
    return omniglot.Tasks(images, seed=seed, dtype=F64)


class Linear(nn.Module):
    """f(x) = [x, c] theta from theta = 0."""

    def __init__(self, constant: float = 0.0) -> None:
        super().__init__()
        self.theta, self.constant = nn.Parameter(torch.zeros(D + 1, 5, dtype=F64)), constant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.theta[:-1] + self.constant * self.theta[-1]


def test_the_linear_gp_is_logistic_regression_on_pixels(characters):
    """Features x and a constant: the same parameters, to rounding, after 20 clipped meta-steps of the plain way."""
    tasks = deal(characters)
    plain = ReferenceMAML(Linear(constant=0.7), lr=0.2, inner_steps=2)
    ours = kernel_learner("gp", "linear", tasks, lr=0.2, sigma_in=1.0, bias_scale=0.7)
    ours.inner_steps = 2
    clipped = 0
    for _ in range(20):
        batch = tasks.batch(4)
        clipped += torch.stack([g.norm() for g in plain.gradients(batch)]).norm() > 0.5
        losses = plain.outer_step(batch), ours.outer_step(batch)
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    assert clipped >= 5  # so that the norm of functions is held to the norm of parameters
    # phi = [x, 0.7] in both, but here the constant feature is part of phi.
    assert torch.allclose(ours.coefficients, plain.network.theta, atol=1e-12)
    asked = deal(synthetic.draw(classes=6, drawers=4, seed=1)).batch(7)
    assert torch.allclose(ours.predict(asked, 20), plain.predict(asked, 20), atol=1e-10)


@pytest.mark.parametrize("turned", [False, True])
def test_coefficients_of_images_are_the_primal_in_other_coordinates(characters, turned):
    tasks = deal(omniglot.rotations(characters) if turned else characters)
    kernel = limit_kernel("ntk", "linear", 0.9, 1.1, 0.6)
    gram, primal = GramSpace(tasks.table, kernel, F64), FeatureSpace(kernel, D, tasks.table.device, F64)
    assert gram.turns == (4 if turned else 1)
    learners = [KernelFOMAML(space, lr=0.3) for space in (gram, primal)]
    for _ in range(10):
        batch = tasks.batch(8)
        losses = [learner.outer_step(batch).item() for learner in learners]
        assert losses[0] == pytest.approx(losses[1], abs=1e-11)
    theta = primal.features(gram.images).T @ learners[0].coefficients
    assert torch.allclose(theta, learners[1].coefficients, atol=1e-12)
    asked = deal(synthetic.draw(classes=6, drawers=4, seed=1)).batch(5)
    assert torch.allclose(learners[0].predict(asked, 3), learners[1].predict(asked, 3), atol=1e-10)


class Network(nn.Module):
    """One output of ``V relu(U x + b) / sqrt(n)`` as a function of its trained weights U, V."""

    def __init__(
        self, width: int, sigma_in: float, sigma_out: float, bias_scale: float, seed: int, outputs: int = 1
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, dtype=F64, generator=generator)  # noqa: E731
        self.U = nn.Parameter(sigma_in * draw(width, D))
        self.V = nn.Parameter(sigma_out * draw(outputs, width))
        self.register_buffer("b", bias_scale * draw(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.U.T + self.b) @ self.V.T / math.sqrt(len(self.b))


class Linearized(nn.Module):
    """f_c(x) = J(x) . w_c, J the gradient of a network's output at its start, one w_c an output, from 0."""

    def __init__(self, features) -> None:
        super().__init__()
        self.features = features
        self.w = nn.Parameter(torch.zeros(features(torch.zeros(1, D, dtype=F64)).shape[1], 5, dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x) @ self.w


def test_descent_in_the_ntk_is_training_the_linearized_network(characters):
    network = Network(6, 1.0, 1.0, 0.5, seed=3)
    start = {name: p.detach() for name, p in network.named_parameters()}

    def features(x: torch.Tensor) -> torch.Tensor:
        jacobian = vmap(jacrev(lambda p, row: functional_call(network, p, (row,))[0]), (None, 0))(start, x)
        return torch.cat([j.flatten(1) for j in jacobian.values()], dim=1)

    tasks = deal(characters)
    plain = ReferenceMAML(Linearized(features), lr=0.3)
    ours = KernelFOMAML(GramSpace(tasks.table, lambda a, b: features(a) @ features(b).T, F64), lr=0.3)
    for _ in range(4):
        batch = tasks.batch(3)
        assert plain.outer_step(batch).item() == pytest.approx(ours.outer_step(batch).item(), abs=1e-10)
    asked = deal(synthetic.draw(classes=6, drawers=4, seed=1)).batch(4)
    expected = plain.predict(asked, 3)
    assert expected.std() > 0.1
    assert torch.allclose(ours.predict(asked, 3), expected, atol=1e-9)


class Moved(nn.Module):
    """net(w) - net(w_0): a network whose outputs start at 0, as the kernel's do. ``readout`` trains V alone."""

    def __init__(self, network: Network, readout: bool) -> None:
        super().__init__()
        self.V = nn.Parameter(network.V.detach().clone())
        self.U = nn.Parameter(network.U.detach().clone()) if not readout else network.U.detach()
        self.network, self.start = [network], {name: p.detach() for name, p in network.named_parameters()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        now = functional_call(self.network[0], {"U": self.U, "V": self.V}, (x,))
        return now - functional_call(self.network[0], self.start, (x,))


@pytest.mark.parametrize("limit", ["gp", "ntk"])
def test_wide_networks_converge_to_the_kernel_learner(characters, limit):
    """Real networks, all steps of MAML in their weights: wider is closer, about like width^(-1/2)."""
    scales = dict(sigma_in=0.3, sigma_out=0.5, bias_scale=0.4)
    asked = deal(synthetic.draw(classes=6, drawers=4, seed=1)).batch(10)
    errors = []
    for width in (64, 1024):
        tasks = deal(characters)
        ours = kernel_learner(limit, "relu", tasks, lr=0.3, **scales)
        network = Network(width, **scales, seed=width, outputs=5)
        plain = ReferenceMAML(Moved(network, readout=limit == "gp"), lr=0.3)
        for _ in range(3):
            batch = tasks.batch(3)
            ours.outer_step(batch)
            plain.outer_step(batch)
        exact = ours.predict(asked, 3)
        errors.append(((plain.predict(asked, 3) - exact).norm() / exact.norm()).item())
    assert errors[1] < 0.4, errors
    assert errors[1] < 0.5 * errors[0], errors  # 16 times wider: a quarter


@pytest.mark.parametrize("limit", ["gp", "ntk"])
def test_kernels_are_those_of_the_kernel_module(limit):
    x, y = torch.rand(2, 7, 20, dtype=F64)
    exact = {"gp": kernels.nngp, "ntk": kernels.ntk}[limit]
    for activation, name in [("relu", "relu"), ("erf", "erf"), ("linear", "identity")]:
        assert torch.allclose(limit_kernel(limit, activation)(x, y), exact(x, y, 1, name), atol=1e-12)


@pytest.mark.parametrize("turned", [False, True])
def test_the_gram_table_in_tiles_in_half_precision_and_absent(characters, turned, monkeypatch):
    monkeypatch.setattr(kernel_spaces, "_TILE", 10)  # 36 images: tiles of 10, 10, 10 and 6
    tasks = deal(omniglot.rotations(characters) if turned else characters)
    kernel = limit_kernel("ntk", "relu", 1.0, 1.0, 1.0)
    room = len(tasks.table) ** 2 // (4 if turned else 1)
    whole, half, none = (GramSpace(tasks.table, kernel, F64, budget) for budget in (8 * room, 2 * room, 0))
    assert (whole.gram.dtype, half.gram.dtype, none.gram) == (F64, torch.float16, None)
    alpha = torch.randn(len(tasks.table), 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    alpha[::3] = 0
    index = torch.randperm(len(tasks.table), generator=torch.Generator().manual_seed(1))[:25]
    x = whole.images[index]
    direct = kernel(x, whole.images) @ alpha
    assert torch.allclose(whole.values(alpha, x, index), direct, rtol=1e-7, atol=1e-6)
    assert torch.allclose(none.values(alpha, x, index), direct, rtol=1e-7, atol=1e-6)
    error = half.values(alpha, x, index) - direct
    assert error.abs().max() < 1e-3 * (kernel(x, whole.images) @ alpha.abs()).max()


def test_evaluation_images_are_worked_out_once_and_never_stale(characters, monkeypatch):
    tasks = deal(characters)
    learner = kernel_learner("gp", "relu", tasks, lr=0.3)
    others = deal(synthetic.draw(classes=6, drawers=4, seed=1))
    first, second = others.batch(40), others.batch(40)
    for step in range(3):
        for batch in (first, second, first):
            direct = learner.space.kernel(batch.x.flatten(0, 1), learner.space.images) @ learner.coefficients
            assert torch.allclose(learner.predict(batch, 0).flatten(0, 1),
                                  direct.view(40, 10, 5)[:, 5:].flatten(0, 1), atol=1e-9)  # fmt: skip
        if step == 1:  # rows for which there is no room are computed
            monkeypatch.setattr(kernel_spaces, "STORED_ROWS", 3)
            learner.space._store, learner.space._stored = None, {}
        learner.outer_step(tasks.batch(8))
    assert len(learner.space._stored) == 3


def test_the_mean_gradient_over_all_assignments_of_labels_is_zero(characters):
    """From f = 0, where labels are alike: what one assignment teaches, the 119 others take back."""
    tasks = deal(characters)
    batch = tasks.batch(1)
    space = GramSpace(tasks.table, limit_kernel("ntk", "relu"), F64)
    total, size = torch.zeros(len(tasks.table), 5, dtype=F64), 0.0
    for labels in itertools.permutations(range(5)):
        learner = KernelFOMAML(space, lr=1.0, clip=None)
        y = torch.tensor(labels).repeat(2)[None]
        learner.outer_step(omniglot.Batch(batch.x, y, batch.index, 5, 5))
        total += learner.coefficients
        size = max(size, learner.coefficients.abs().max().item())
    assert size > 0.01
    assert total.abs().max() < 1e-12


def test_training_resumes_to_the_same_numbers(characters, tmp_path):
    def run(steps: list[int], folder) -> tuple[KernelFOMAML, train.History]:
        for number, end in enumerate(steps):
            tasks = deal(characters)
            learner = kernel_learner("ntk", "relu", tasks)
            questions = train.batches(deal(synthetic.draw(classes=6, drawers=4, seed=1)), 16)
            options = dict(epoch_steps=2, meta_batch=4, save_to=folder / "c.npz", resume=number > 0)
            if end < 6:

                class Stop(Exception):
                    pass

                step, count = learner.outer_step, itertools.count(1)

                def stopping(batch, step=step, count=count, end=end):
                    if next(count) > end:
                        raise Stop
                    return step(batch)

                learner.outer_step = stopping
                with pytest.raises(Stop):
                    train.fit(learner, tasks, questions, meta_steps=6, **options)
            else:
                history = train.fit(learner, tasks, questions, meta_steps=6, **options)
        return learner, history

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unbroken, broken = run([6], tmp_path / "a"), run([3, 6], tmp_path / "b")
    assert broken[1].epochs == unbroken[1].epochs
    assert torch.equal(broken[0].coefficients, unbroken[0].coefficients)


def test_bad_input_is_refused_in_one_line(characters):
    tasks = deal(characters)
    for limit, activation, words in [
        ("mup", "relu", "expected gp or ntk"),
        ("gp", "swish", "expected one of relu"),
    ]:
        with pytest.raises(InputError) as caught:
            kernel_learner(limit, activation, tasks)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_settings_reach_the_learner(characters):
    learner = kernel_learner(
        "gp", "linear", deal(characters), lr=0.03, sigma_in=2.0, bias_scale=0.0, inner_lr=0.2
    )
    assert (learner.lr, learner.inner_lr) == (0.03, 0.2)
    assert (learner.space.scale, learner.space.constant) == (4.0, 0.0)
    assert learner.settings["sigma_in"] == 2.0
    assert set(kernel_fomaml.SETTINGS) == {(k, a) for k in ("gp", "ntk") for a in ("relu", "linear")}
