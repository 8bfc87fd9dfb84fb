"""How far float32 is from float64 in each engine: the same start, the same data, the same random choices.

    python benchmarks/precision.py

Each case trains twice and compares: by how much the losses differ (the largest difference over the run, over the loss),
and the final parameters or outputs (Frobenius norm of the difference, over that of the *movement* in training, so that
a start that hardly moves hides nothing). Sizes are small; it takes minutes on one core.
Writes ``benchmarks/results/precision.json``.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tp4lib import kernels
from tp4lib.base.files import out_dir, write_json
from tp4lib.data import catalogue as datasets
from tp4lib.data import drawn_characters as synthetic
from tp4lib.data import omniglot
from tp4lib.data.images import load, one_hot
from tp4lib.linear_limit import LinearLimit
from tp4lib.maml import kernel_fomaml
from tp4lib.maml import pi_fomaml as pi
from tp4lib.maml.fomaml import LinearFOMAML
from tp4lib.nn import MLP
from tp4lib.parametrization import mup, ntp
from tp4lib.pi_limit.network import PiMLP
from tp4lib.program import FiniteWidth, InfiniteWidth, train_mlp
from tp4lib.sweep.stack import Stack
from tp4lib.word2vec import CBOW, Corpus
from tp4lib.word2vec.training import train

HERE = Path(__file__).resolve().parent
F32, F64 = torch.float32, torch.float64
Case = tuple[np.ndarray, Tensor, Tensor]  # losses, what training changed, what it was at the start


def word2vec(corpus: Corpus, width: float, dtype: torch.dtype, **options) -> Case:
    """Two epochs of CBOW."""
    start = CBOW(len(corpus.vocab), width, dtype=dtype).embeddings.double()
    done = train(corpus, width, epochs=2, dtype=dtype, device="cpu", lr=0.05, **options)
    found = torch.cat([done.model.embeddings, done.model.readout], 1).double()
    losses = np.array([epoch["loss"] for epoch in done.history])
    return losses, found, torch.cat([start, torch.zeros_like(start)], 1)


def maml(make: Callable, dtype: torch.dtype, steps: int = 100) -> Case:
    """Meta-steps of 16 tasks on synthetic characters; the logits of fresh tasks are compared."""
    images = synthetic.draw(classes=60, drawers=6)
    tasks = omniglot.Tasks(images[:50], dtype=dtype)
    fresh = omniglot.Tasks(images[50:], seed=1, dtype=dtype).batch(64)
    learner = make(tasks, dtype)
    start = learner.predict(fresh, 5).double()
    losses = [float(learner.outer_step(tasks.batch(16))) for _ in range(steps)]
    return np.array(losses), learner.predict(fresh, 5).double(), start


def linear(width: float) -> Callable:
    def make(_, dtype: torch.dtype) -> LinearFOMAML:
        limit = LinearLimit(784, 5, 1.0, 1 / 32, 1.0, dtype=F64)
        network = (limit if width == math.inf else limit.sample(int(width))).to(dtype)
        return LinearFOMAML(network)

    return make


def pi_maml(_, dtype: torch.dtype) -> pi.PiFOMAML:
    network = PiMLP(784, 5, 60, 1, sigma_in=0.2, bias_scale=1.0, dtype=dtype)
    return pi.PiFOMAML(network, lr=1.0)


def pilimit(depth: int, activation: str, dtype: torch.dtype, steps: int = 60) -> Case:
    """Full-batch steps on digits; outputs are compared."""
    images = load("digits", train_size=100, dtype=dtype)
    x, y = images.train_x / 8, one_hot(images.train_y, dtype=dtype)
    net = PiMLP(64, 10, 50, depth, activation, sigma_out=1.0, dtype=dtype)
    start = net(x).detach().double()
    losses = [float(net.loss_step(x, y, 0.1)) for _ in range(steps)]
    return np.array(losses), net(x).detach().double(), start


def program(world: Callable, parametrization, dtype: torch.dtype) -> Case:
    """Eight steps of a tanh perceptron of two hidden layers; outputs are compared."""
    g = torch.Generator().manual_seed(5)
    xi, y = (torch.randn(4, k, generator=g, dtype=F64).to(dtype) for k in (3, 1))
    found = train_mlp(world(dtype=dtype), xi, y, parametrization(2), lr=0.5, steps=8)
    return found.losses.double().numpy(), found.outputs[-1].double(), found.outputs[0].double()


def stack(optimizer: str, dtype: torch.dtype, steps: int = 60) -> Case:
    """The engine of sweeps: three rates at once on digits, weights compared."""
    images = load("digits", train_size=256, dtype=dtype)
    x, y = images.train_x, one_hot(images.train_y, dtype=dtype)
    model = MLP(64, 128, 10, mup(2), seed=0).double().to(dtype)
    rates = [0.02, 0.05, 0.1] if optimizer == "sgd" else [0.001, 0.003, 0.01]
    members = Stack([model], [0, 0, 0], rates, optimizer)
    start, losses = members(x).detach().double(), []
    for _ in range(steps):
        each = (members(x) - y).square().sum(-1).mean(-1) / 2
        losses.append(float(each.detach().double().mean()))
        members.step(each)
    return np.array(losses), members(x).detach().double(), start


def kernel(function: Callable, depth: int, dtype: torch.dtype) -> Case:
    """A kernel matrix of digits; nothing is trained."""
    x = load("digits", train_size=200, dtype=dtype).train_x
    K = function(x, x, depth).double()
    return np.ones(1), K, torch.zeros_like(K)


def cases() -> Iterator[tuple[str, torch.dtype, Callable[[torch.dtype], Case]]]:
    text = datasets.find("text8", datasets.EMBEDDED).path
    corpus = Corpus.load(text, max_vocab=500, max_bytes=600_000)
    for engine in ("numba", "torch"):
        for width in (64, math.inf):
            for kind in ("shared", "per-position"):
                batch = {"batch_size": 1} if (engine, kind) == ("numba", "per-position") else {}
                more = dict(engine=engine, negatives=kind, **batch)
                yield (
                    f"word2vec, {engine}, {kind} negatives, width {width}",
                    F32,
                    lambda dtype, w=width, m=more: word2vec(corpus, w, dtype, **m),
                )
    yield (
        "word2vec, torch, shared negatives, width inf, bfloat16 storage",
        torch.bfloat16,
        lambda dtype: word2vec(corpus, math.inf, dtype, engine="torch", negatives="shared"),
    )
    for width in (32, math.inf):
        yield f"MAML, linear, width {width}", F32, lambda dtype, w=width: maml(linear(w), dtype)
    for limit in ("gp", "ntk"):
        for activation in ("linear", "relu"):
            yield (
                f"MAML, {limit} limit, {activation}",
                F32,
                lambda dtype, a=(limit, activation): maml(
                    lambda tasks, _: kernel_fomaml.kernel_learner(*a, tasks), dtype, steps=40
                ),
            )
    yield "MAML, pi-limit, relu, rank 60", F32, lambda dtype: maml(pi_maml, dtype, steps=40)
    for depth, activation in ((1, "relu"), (3, "relu"), (2, "erf")):
        yield (
            f"pi-limit, {activation}, depth {depth}",
            F32,
            lambda dtype, d=depth, a=activation: pilimit(d, a, dtype),
        )
    worlds = {
        "width 512": lambda dtype: FiniteWidth(512, dtype=dtype),
        "width infinity, 4,000 samples": lambda dtype: InfiniteWidth(4000, dtype=dtype),
    }
    for where, world in worlds.items():
        for parametrization in (mup, ntp):
            yield (
                f"program, {parametrization.__name__}, {where}",
                F32,
                lambda dtype, w=world, p=parametrization: program(w, p, dtype),
            )
    for optimizer in ("sgd", "adam"):
        yield f"sweep, {optimizer}", F32, lambda dtype, o=optimizer: stack(o, dtype)
    for function in (kernels.nngp, kernels.ntk):
        yield f"kernel {function.__name__}, depth 3", F32, lambda dtype, f=function: kernel(f, 3, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    rows, begun = [], time.monotonic()
    for name, dtype, run in cases():
        if only not in name:
            continue
        losses, found, _ = run(dtype)
        exact_losses, exact, start = run(F64)
        rows.append(
            {
                "case": name,
                "dtype": str(dtype).removeprefix("torch."),
                "loss": float(np.abs(losses / exact_losses - 1).max()),
                "change": float((found - exact).norm() / (exact - start).norm()),
            }
        )
        print(f"{name:66} loss {rows[-1]['loss']:.1e}  change {rows[-1]['change']:.1e}", flush=True)
    if not only:
        write_json(
            out_dir(HERE / "results") / "precision.json",
            {
                "cases": rows,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "machine": platform.machine(),
                "minutes": round((time.monotonic() - begun) / 60, 1),
            },
        )


if __name__ == "__main__":
    main()
