"""Every size, count, seed, rate and scale that the theory modules take is refused in one way: `tp4lib.base.checks`."""

import doctest
import math
import re

import numpy as np
import pytest
import torch

from tp4lib import kernels
from tp4lib.activations import Hermite, dual
from tp4lib.base import checks, divergence
from tp4lib.base.errors import InputError
from tp4lib.coordcheck import perceptrons as coordcheck
from tp4lib.linear_limit import LinearLimit
from tp4lib.nn import MLP, ABCLinear, param_groups
from tp4lib.parametrization import ABC, mup, ntp, standard
from tp4lib.pi_limit.finite import PiNetwork
from tp4lib.pi_limit.layer import Rows
from tp4lib.pi_limit.network import PiMLP
from tp4lib.program import SGD, FiniteWidth, InfiniteWidth, train_mlp, train_rnn
from tp4lib.sweep import minibatches, sweep

X, Y = torch.eye(4, 3), torch.ones(4, 2)


def rows() -> Rows:
    made = Rows(dual("relu"), 3, 2)
    made.append(torch.ones(20, 3), torch.ones(20, 2))
    return made


def small_sweep(**options):
    make = lambda seed: MLP(3, 4, 2, mup(1), seed=seed)  # noqa: E731
    return sweep(**dict(make=make, rates=[0.1], seeds=[0], x=X, y=Y, steps=1, batch_size=2) | options)


def checked(**options):
    return coordcheck.check(
        mup(1), X, Y, **dict(widths=(4, 8, 16), seeds=1, steps=1, lr=0.1, tolerance=0.1) | options
    )


def program(train=train_mlp, **options):
    inputs = X if train is train_mlp else X[:, None]
    more = dict(parametrization=mup(1)) if train is train_mlp else {}
    return train(FiniteWidth(8), inputs, Y, **more | dict(steps=1) | options)


def stepped(net, **options):
    return net.loss_step(X, Y, **dict(lr=0.1) | options)


def pi_network() -> PiNetwork:
    return PiMLP(3, 2, 4, 1).sample(8)


FLAG = torch.float32  # a good dtype
# (what is called with one argument by name, its size-like arguments, its seeds, its finite numbers >= 0, its dtypes)
CALLS = {
    "ABCLinear": (
        lambda **o: ABCLinear(
            **dict(in_features=3, out_features=4, parametrization=mup(2), layer=1, base_width=2) | o
        ),
        ["in_features", "out_features", "layer", "base_width"], [], ["std"], ["dtype"],
    ),
    "MLP": (
        lambda **o: MLP(**dict(d_in=3, width=4, d_out=2, parametrization=mup(2)) | o),
        ["d_in", "width", "d_out", "base_width"], ["seed"], ["std"], ["dtype"],
    ),
    "param_groups": (
        lambda **o: param_groups(MLP(3, 4, 2, mup(2)), **dict(lr=0.1) | o), [], [], ["lr", "weight_decay"], [],
    ),
    "mup": (mup, ["L"], [], [], []),
    "ntk": (ntp, ["L"], [], [], []),
    "standard": (standard, ["L"], [], [], []),
    "nngp": (
        lambda **o: kernels.nngp(X, X, **dict(depth=1) | o), ["depth"], [], ["w_std", "b_std"], [],
    ),
    "ntk kernel": (
        lambda **o: kernels.ntk(X, X, **dict(depth=1) | o), ["depth"], [], ["w_std", "b_std"], [],
    ),
    "Hermite": (lambda **o: Hermite(torch.tanh, **o), ["terms", "nodes"], [], [], []),
    "Hermite.tail": (lambda **o: Hermite(torch.tanh, terms=4).tail(**o), [], [], ["s"], []),
    "Rows": (
        lambda **o: Rows(dual("relu"), **dict(rank=3, d_out=2) | o),
        ["rank", "d_out", "max_rows"], [], [], ["dtype", "storage"],
    ),
    "Rows.compress": (lambda **o: rows().compress(**dict(budget=5) | o), ["budget"], [], [], []),
    "PiMLP": (
        lambda **o: PiMLP(**dict(d_in=3, d_out=2, rank=4, depth=2) | o),
        ["d_in", "d_out", "rank", "depth", "max_rows"], ["seed"],
        ["sigma_in", "sigma_hidden", "sigma_out", "bias_scale"], ["dtype", "storage"],
    ),
    "PiMLP.loss_step": (
        lambda **o: stepped(PiMLP(3, 2, 4, 1), **o), [], [], ["lr", "clip", "weight_decay"], [],
    ),
    "PiMLP.sample": (lambda **o: PiMLP(3, 2, 4, 1).sample(**dict(width=8) | o), ["width"], ["seed"], [], []),
    "PiMLP.compress": (lambda **o: PiMLP(3, 2, 4, 2).compress(**o), ["budget"], [], [], []),
    "PiNetwork.loss_step": (lambda **o: stepped(pi_network(), **o), [], [], ["lr", "clip", "weight_decay"], []),
    "LinearLimit": (
        lambda **o: LinearLimit(**dict(d_in=3, d_out=2) | o),
        ["d_in", "d_out"], [], ["sigma_in", "sigma_out", "bias_scale"], ["dtype"],
    ),
    "LinearLimit.sample": (
        lambda **o: LinearLimit(3, 2).sample(**dict(width=8) | o), ["width"], ["seed"], [], [],
    ),
    "minibatches": (
        lambda **o: list(minibatches(**dict(count=4, batch_size=2, steps=1) | o)),
        ["count", "batch_size", "steps"], ["seed"], [], [],
    ),
    "sweep": (
        small_sweep, ["steps", "batch_size", "evaluate_every"], ["batch_seed"], ["blowup"], [],
    ),
    "Sweep.final_loss": (lambda **o: small_sweep().final_loss(**o), ["last"], [], [], []),
    "Sweep.optimum": (lambda **o: small_sweep().optimum(**o), ["last"], [], [], []),
    "coordcheck.check": (checked, ["seeds", "steps"], [], ["lr", "tolerance"], []),
    "CoordCheck.growth": (lambda **o: checked().growth(**o), ["step"], [], [], []),
    "FiniteWidth": (lambda **o: FiniteWidth(**dict(n=8) | o), ["n"], ["seed"], [], ["dtype"]),
    "InfiniteWidth": (
        lambda **o: InfiniteWidth(**dict(samples=32) | o), ["samples"], ["seed"], [], ["dtype"],
    ),
    "World.gaussian": (lambda **o: FiniteWidth(8).gaussian(**o), ["count"], [], ["std"], []),
    "World.matrix": (lambda **o: FiniteWidth(8).matrix(**o), [], [], ["std"], []),
    "train_mlp": (program, ["steps"], [], ["lr"], []),
    "train_rnn": (lambda **o: program(train_rnn, **o), ["steps"], [], ["lr"], []),
    "SGD": (SGD, [], [], ["momentum", "weight_decay"], []),
}  # fmt: skip
BAD = {  # for each kind of argument
    1: [2.5, True, -3, math.nan, math.inf, "4", 10**40 * -1],
    2: [2.5, True, -1, 2**63, "0"],
    3: [math.nan, math.inf, -1.0, True, "1", 10**400],
    4: [int, float, torch.int64, "float32"],
}
TABLE = [
    (call, argument, kind) for call, row in CALLS.items() for kind in BAD for argument in row[kind]
]  # fmt: skip


@pytest.mark.parametrize(("call", "argument", "kind"), TABLE, ids=lambda value: str(value))
def test_what_cannot_be_a_size_seed_number_or_type_is_one_line(call, argument, kind):
    function = CALLS[call][0]
    for value in BAD[kind]:
        with pytest.raises(InputError) as caught:
            function(**{argument: value})
        line = str(caught.value)
        assert re.match(rf"{argument}(\[0\])? = .*; expected .*; try {argument}(\[0\])?=", line), line
        assert "\n" not in line


def test_the_table_is_long_and_its_calls_work():
    assert len(TABLE) > 70
    for call, (function, *_) in CALLS.items():
        if call not in ("mup", "ntk", "standard", "Sweep.optimum", "PiMLP.compress"):
            if call == "Hermite.tail":
                assert function(s=1.0) < 1
            else:
                function()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda bad: ABC([0, bad], [0, 0], 0), "a_2"),
        (lambda bad: standard(2, lr_exponent=bad), "lr_exponent"),
        (lambda bad: mup(1).shift(bad), "t"),
        (lambda bad: MLP(3, 4, 2, mup(1), multipliers=[1.0, bad]), "multiplier"),
        (lambda bad: PiMLP(3, 2, 4, 1, multipliers=[1.0, bad]), "multipliers[1]"),
        (lambda bad: rows().decay(bad), "factor"),
        (lambda bad: small_sweep(rates=[0.1, bad]), "rates[1]"),
        (lambda bad: small_sweep(seeds=[0, bad]), "seeds[1]"),
        (lambda bad: checked(widths=(4, bad)), "widths[1]"),
        (lambda bad: checked(seeds=[0, bad]), "seeds[1]"),
        (lambda bad: program(std=[1.0, bad]), "std[1]"),
        (lambda bad: program(train_rnn, std=[1.0, bad, 1.0]), "std[1]"),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "1", True])
def test_numbers_in_lists_are_named_with_their_place(make, name, bad):
    if name == "multiplier" and bad is None:
        pytest.skip("None among multipliers keeps the default")
    with pytest.raises(InputError) as caught:
        make(bad)
    assert re.match(rf"{re.escape(name)} = .*; expected ", str(caught.value)), caught.value


def test_numpys_whole_numbers_are_sizes_and_stay_exact():
    assert LinearLimit(np.int64(3), np.int32(2)).U.shape == (5, 3)
    assert mup(np.int64(2)) == mup(2)
    assert PiMLP(np.int64(3), 2, np.int64(4), 1, seed=np.int64(0)).U.shape == (4, 3)


@pytest.mark.parametrize("module", [checks, divergence], ids=lambda module: module.__name__)
def test_docstring_examples(module):
    results = doctest.testmod(module)
    assert results.attempted >= 4
    assert results.failed == 0
