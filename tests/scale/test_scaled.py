"""muP for any module: exact against Microsoft's package and against networks of copied neurons, and honest refusals."""

import copy
import doctest
import itertools
import json
import math
import re

import mup as microsoft
import pytest
import torch
from torch import nn

from tests import networks
from tests.networks import GPT, VIT_ROLES, cross_entropy, vision_transformer
from tp4lib.base import paths, tables
from tp4lib.base.errors import InputError
from tp4lib.nn import MLP, param_groups
from tp4lib.parametrization import ABC, mean_field, mup, ntp, standard
from tp4lib.scale import Scaled, cheat_sheet, roles, scale
from tp4lib.scale import scaled as module
from tp4lib.sweep import any_module as sweep_any
from tp4lib.sweep import options as sweep_options
from tp4lib.sweep import rates as sweep_rates

DATA = {
    "perceptron": (networks.perceptron, networks.samples((6,), 5, dtype=torch.float64)),
    "convolutional": (networks.convolutional, networks.samples((2, 6, 6), 5, dtype=torch.float64)),
    "GPT": (GPT, networks.words(5)),
}


@pytest.fixture
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def losses(model, optimizer, batches, steps, loss=cross_entropy):
    found = []
    for step in range(steps):
        value = loss(model, *batches[step % len(batches)])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


# -- against Microsoft's mup --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("factor", [2, 4])
def test_equal_to_microsofts_mup_to_the_bit(name, optimizer, factor, float64):
    make, batches = DATA[name]
    torch.manual_seed(0)
    ours = scale(make, factor * 16, 16, mup(2))
    build = lambda width: make(width, readout=microsoft.MuReadout)  # noqa: E731
    theirs = microsoft.set_base_shapes(build(factor * 16), build(16), delta=build(32))
    with torch.no_grad():  # their readout divides by the width in the forward pass, ours has it in the weight
        for (key, p), q in zip(theirs.named_parameters(), ours.model.parameters(), strict=True):
            p.copy_(q * (factor if ours.rows[key].role == "output" else 1))
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    vectors = [p for p in theirs.parameters() if p.dim() == 1]
    decay = 0.3 if optimizer == "adamw" else 0.0
    if optimizer == "sgd":
        a = torch.optim.SGD(ours.groups(0.1, "sgd"), momentum=0.9)
        b = microsoft.MuSGD(theirs.parameters(), lr=0.1, momentum=0.9)
    else:
        impl = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
        a = impl(ours.groups(2**-6, "adam", decay, eps=1e-300))
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        b = microsoft.MuAdam(groups, impl=impl, lr=2**-6, eps=1e-300)
    found = losses(ours.model, a, batches, 25)
    assert found == losses(theirs, b, batches, 25)
    assert found[-1] < found[0]


def test_a_seed_gives_the_weights_that_microsofts_mup_has(float64):
    """Not only the training: torch's own initialization, scaled by either, is the same to the bit."""
    for make in (networks.perceptron, networks.convolutional, GPT):
        torch.manual_seed(3)
        ours = scale(make, 256, 64, mup(2))
        torch.manual_seed(3)
        build = lambda width, make=make: make(width, readout=microsoft.MuReadout)  # noqa: E731
        theirs = build(256)
        microsoft.set_base_shapes(theirs, build(64), delta=build(128))
        for (name, p), q in zip(theirs.named_parameters(), ours.model.parameters(), strict=True):
            if p.numel() > 3000:  # of fewer numbers the scale is only known to their noise
                assert torch.equal(p, q * (4 if ours.rows[name].role == "output" else 1)), name


# -- against a network of copied neurons: every rule at once, exactly ---------------------------------------


def widened(make, base, factor, fold=None, said=None, interleave=False):
    """The base network, and one of `factor` copies of each of its neurons, which computes the same function.

    A sum over copied inputs is `factor` times too large, so weights are divided by the growth of their fan-in: this is
    what Adam's rates are multiplied by.
    """
    torch.manual_seed(1)
    small = scale(make, base, base, mup(2), said, fold)
    wide = scale(make, factor * base, base, mup(2), said, fold)
    with torch.no_grad():
        for (name, p), q in zip(wide.model.named_parameters(), small.model.parameters(), strict=True):
            for axis, (new, old) in enumerate(zip(p.shape, q.shape, strict=True)):
                times = new // old
                repeats = [times if a == axis else 1 for a in range(q.dim())]
                q = q.repeat_interleave(times, axis) if interleave else q.repeat(repeats)
            p.copy_(q * wide.rows[name].adam)
    return small, wide


WIDENED = {
    "perceptron": (networks.perceptron, "samples", {}),
    "convolution with BatchNorm": (lambda w: nn.Sequential(
        nn.Conv2d(6, w, 1), nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, w, 1), nn.ReLU(), nn.Flatten(), nn.Linear(w, 5)
    ), "pixels", {}),
    "GPT, more heads": (GPT, "words", {}),
    "GPT, wider heads": (lambda w: GPT(w, heads=2), "words", dict(fold={"*.q.*": 0.5}, interleave=True)),
    "GPT, tied readout": (lambda w: GPT(w, tied=True), "words", dict(fold={"ln_f.*": 1})),
    "vision Transformer, wider heads": (lambda w: vision_transformer(w, 2), "images", dict(
        said=VIT_ROLES, fold={"*.in_proj_*": 0.25, "*.out_proj.weight": -0.25}, interleave=True)),
    "recurrent": (lambda w: Recurrent(w), "sequences", dict(interleave=True)),
}  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm, self.readout = nn.LSTM(4, width, num_layers=2, batch_first=True), nn.Linear(width, 5)

    def forward(self, x):
        return self.readout(self.lstm(x)[0][:, -1])


BATCHES = {
    "samples": networks.samples((6,), 3, dtype=torch.float64),
    "pixels": networks.samples((6, 1, 1), 3, dtype=torch.float64),
    "images": networks.samples((3, 8, 8), 3, dtype=torch.float64),
    "sequences": networks.samples((5, 4), 3, dtype=torch.float64),
    "words": networks.words(3),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("name", WIDENED)
def test_a_network_of_copied_neurons_trains_like_the_base_network(name, optimizer, float64):
    """Rates, weight decay and Adam's eps (here as large as the gradients), at all roles, in one equality."""
    make, kind, how = WIDENED[name]
    found = []
    for net in widened(make, 16, 3, **how):
        net.model.train()
        if optimizer == "sgd":
            moves = torch.optim.SGD(net.groups(0.05, "sgd", weight_decay=0.1), momentum=0.9)
        else:
            kinds = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
            groups = net.groups(0.01, optimizer, weight_decay=0.1, eps=1e-3)
            moves = getattr(torch.optim, kinds[optimizer])(groups)
        found.append(losses(net.model, moves, BATCHES[kind], 10))
    assert found[1] == pytest.approx(found[0], rel=1e-8)
    assert abs(found[0][-1] - found[0][0]) > 1e-2  # it did train


def test_an_eps_that_is_not_scaled_is_noticed(float64):
    """The equality above is sharp: the same with one eps for all groups is another training."""
    found = []
    for net in widened(networks.perceptron, 16, 3):
        moves = torch.optim.Adam([g | {"eps": 1e-3} for g in net.groups(0.01)])
        found.append(losses(net.model, moves, BATCHES["samples"], 10))
    assert found[1] != pytest.approx(found[0], rel=1e-4)


# -- roles and factors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda w: nn.Linear(3, w), "weight input, bias vector"),
        (lambda w: nn.Linear(w, 3), "weight output, bias finite"),
        (lambda w: nn.Conv2d(w, w, 3, groups=4), "weight hidden, bias vector"),
        (lambda w: nn.Conv2d(w, w, 3, groups=w), "weight input, bias vector"),
        (lambda w: nn.ConvTranspose2d(3, w, 3), "weight input, bias vector"),
        (lambda w: nn.ConvTranspose2d(w, 3, 3), "weight output, bias finite"),
        (lambda w: nn.ConvTranspose1d(w, w, 3, groups=w), "weight input, bias vector"),
        (lambda w: nn.BatchNorm2d(w), "weight vector, bias vector"),
        (lambda w: nn.LayerNorm((w, 4)), "weight vector, bias vector"),
        (lambda w: nn.Embedding(9, w), "weight input"),
        (lambda w: nn.GRUCell(3, w), "weight_ih input, weight_hh hidden, bias_ih vector, bias_hh vector"),
        (lambda w: nn.MultiheadAttention(w, w // 8), "in_proj_weight hidden, in_proj_bias vector"),
        (lambda w: nn.MultiheadAttention(w, w // 8), "out_proj.weight hidden, out_proj.bias vector"),
        (lambda w: nn.MultiheadAttention(w, w // 8, kdim=3, vdim=w), "q_proj_weight hidden, k_proj_weight input"),
    ],
)  # fmt: skip
def test_roles_are_read_off_the_shapes(make, expected):
    rows = scale(make, 64, 32, mup(2)).rows
    for line in expected.split(", "):
        name, role = line.split(" ")
        assert rows[name].role == role


def test_factors_are_those_of_tensor_programs_v():
    rows = scale(networks.perceptron, 64, 16, mup(2)).rows
    factors = {name: (row.init, row.sgd, row.adam, row.eps) for name, row in rows.items()}
    assert factors["0.weight"] == factors["0.bias"] == (1, 4, 1, 1 / 4)
    assert factors["2.weight"] == (1 / 2, 1, 1 / 4, 1 / 4)
    assert factors["6.weight"] == (1 / 4, 1 / 4, 1 / 4, 1)


@pytest.mark.parametrize("p", [mup(2), standard(2), ntp(3), standard(2, lr_exponent=1), mup(4).shift(0.3)])
def test_every_abc_by_its_own_exponents(p):
    """A multiplier m^-a of layer l goes into initialization and rates; points of one orbit are one parametrization."""
    rows, m = scale(networks.perceptron, 64, 16, p).rows, 4.0
    for name, l in (("0.weight", 0), ("2.weight", 1), ("6.weight", -1)):  # noqa: E741
        a, b = p.a[l], p.b[l]
        assert rows[name].init == pytest.approx(m ** -(a + b))
        assert rows[name].sgd == pytest.approx(m ** -(p.c + 2 * a))
        assert rows[name].adam == pytest.approx(m ** -(p.adam_exponents[l] + a))


def test_rectangular_growth():
    def make(width):
        return nn.Sequential(
            nn.Linear(3, width), nn.Linear(width, width * width // 16), nn.Linear(width * width // 16, 2)
        )

    row = scale(make, 64, 16, mup(2)).rows["1.weight"]
    assert row.growth == (16, 4)
    assert (row.init, row.sgd, row.adam, row.eps) == (1 / 2, 4, 1 / 4, 1 / 16)
    assert scale(make, 64, 16, standard(2)).rows["1.weight"].sgd == 1
    with pytest.raises(InputError, match="grows 16 times along out and 4 times along in"):
        scale(make, 64, 16, ntp(2))


def test_the_users_own_initialization_is_kept():
    """Whatever power of the width it has by itself: here a constant one, zeros and ones."""

    def make(width):
        model = networks.perceptron(width)
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(model[-1].weight)
        return model

    torch.manual_seed(0)
    model = scale(make, 256, 16, mup(2)).model
    assert model[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model[2].weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert not model[-1].weight.any()
    assert torch.equal(scale(lambda w: nn.LayerNorm(w), 256, 16, mup(2)).model.weight, torch.ones(256))


def test_at_the_base_width_nothing_changes_and_random_numbers_are_those_of_make():
    torch.manual_seed(5)
    plain, after = GPT(32), torch.get_rng_state()
    torch.manual_seed(5)
    net = scale(GPT, 32, 32, mup(2))
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), net.model.parameters(), strict=True))
    torch.manual_seed(5)
    GPT(64)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    scale(GPT, 64, 32, mup(2))
    assert torch.equal(torch.get_rng_state(), after)


def test_a_make_that_the_meta_device_cannot_run_is_called_for_real():
    def make(width):
        assert torch.linspace(0, 1, 2)[1].item() == 1  # as torchvision's stochastic depth does
        return networks.perceptron(width)

    assert scale(make, 32, 16, mup(2)).rows["2.weight"].role == "hidden"


# -- groups -------------------------------------------------------------------------------------------------


def test_rate_times_decay_is_one_number_and_vectors_have_none():
    net = scale(GPT, 64, 16, mup(2))
    for kind in ("sgd", "adam", "adamw"):
        for group in net.groups(0.01, kind, weight_decay=0.1):
            decays = {
                net.rows[name].decays for name, p in net.parameters() if any(p is q for q in group["params"])
            }
            assert len(decays) == 1
            assert group["lr"] * group["weight_decay"] == pytest.approx(1e-3 if decays.pop() else 0)
    assert sum(len(g["params"]) for g in net.groups(0.01)) == len(list(net.model.parameters()))


def test_adam_decays_as_adamw_does():
    """The groups say that decay is decoupled: with L2 in the gradient no power of the width would be right."""
    found = []
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        torch.manual_seed(0)
        net = scale(GPT, 32, 16, mup(2))
        found.append(losses(net.model, kind(net.groups(0.01, weight_decay=0.3)), networks.words(3), 5))
    assert found[0] == found[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "adagrad"])
def test_a_perceptron_trains_as_in_its_own_abc_layers(optimizer, float64):
    """Multipliers in the forward pass (`nn.param_groups`) or in initialization and rates (`scale`): one training."""
    torch.manual_seed(0)
    with_multipliers = MLP(6, 64, 5, mup(2), base_width=16, seed=0)
    plain = nn.Sequential(*(nn.Linear(*sizes, bias=False) for sizes in ((6, 64), (64, 64), (64, 5))))
    for ours, theirs in zip(plain, with_multipliers.layers, strict=True):
        ours.weight.data = theirs.multiplier * theirs.weight.detach()
    make = lambda w: nn.Sequential(*(nn.Linear(*s, bias=False) for s in ((6, w), (w, w), (w, 5))))  # noqa: E731
    network = nn.Sequential(plain[0], nn.ReLU(), plain[1], nn.ReLU(), plain[2])
    names = dict(zip(("0.weight", "2.weight", "4.weight"), ("0.weight", "1.weight", "2.weight"), strict=True))
    rows = {name: scale(make, 64, 16, mup(2)).rows[row] for name, row in names.items()}
    kind = {"sgd": "SGD", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}[optimizer]
    eps = {} if optimizer == "sgd" else {"eps": 1e-300}
    a = getattr(torch.optim, kind)(Scaled(network, rows).groups(0.01, optimizer, 0.1, eps=1e-300))
    b = getattr(torch.optim, kind)(param_groups(with_multipliers, 0.01, optimizer, 0.1), **eps)
    batches = networks.samples((6,), 3, dtype=torch.float64)
    found = losses(network, a, batches, 10)
    assert found == pytest.approx(losses(with_multipliers, b, batches, 10), rel=1e-9)
    assert abs(found[-1] - found[0]) > 1e-3


def test_the_table_reads_well():
    table = scale(GPT, 64, 16, mup(2)).table()
    lines = {line[0]: line[1:] for line in table.body}
    assert lines["blocks.*.up.weight"][:8] == ["128 × 64", "hidden", "4", "0.5", "1", "0.25", "4", "0.25"]
    assert lines["ln_f.bias"][6] == "none"
    assert "TP V, Table 3: output" in str(table)
    assert table._repr_html_().count("<tr>") == len(table.body) + 1


# -- what has to survive ------------------------------------------------------------------------------------


def test_copies_and_state_dicts():
    torch.manual_seed(0)
    net = scale(GPT, 32, 16, mup(2))
    assert type(net.model) is GPT
    assert set(net.model.state_dict()) == set(GPT(32).state_dict())
    twin, fresh = Scaled(copy.deepcopy(net.model), net.rows), GPT(32)
    fresh.load_state_dict(net.model.state_dict())
    batches = networks.words(3)
    expected = losses(net.model, torch.optim.AdamW(net.groups(0.01)), batches, 5)
    for other in (twin, Scaled(fresh, net.rows)):
        assert losses(other.model, torch.optim.AdamW(other.groups(0.01)), batches, 5) == expected


def test_save_and_load(tmp_path):
    net = scale(GPT, 32, 16, mup(2))
    net.save(tmp_path / "scale.json")
    again = Scaled.load(tmp_path / "scale.json", torch.nn.parallel.DataParallel(net.model))
    assert again.rows == net.rows
    assert [g["lr"] for g in again.groups(0.01)] == [g["lr"] for g in net.groups(0.01)]
    with pytest.raises(InputError, match="expected the model of the table"):
        Scaled.load(tmp_path / "scale.json", GPT(64))
    for text in ("", "[]", "{}", json.dumps({"rows": {"a": {"shape": 3}}})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="expected a table that"):
            Scaled.load(tmp_path / "bad.json", GPT(32))


def test_autocast():
    torch.manual_seed(0)
    net = scale(GPT, 32, 16, mup(2))
    moves = torch.optim.AdamW(net.groups(0.01))

    def loss(model, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(model, x, y)

    found = losses(net.model, moves, networks.words(3), 20, loss)
    assert found[-1] < found[0] - 0.1
    assert all(p.dtype == torch.float32 for p in net.model.parameters())


@pytest.mark.slow
def test_compiled_networks_train_alike():
    batches, found = networks.words(3), []
    for compiled in (False, True):
        torch.manual_seed(0)
        net = scale(GPT, 32, 16, mup(2))
        model = torch.compile(net.model, backend="aot_eager") if compiled else net.model
        assert {name for name, _ in Scaled(model, net.rows).parameters()} == set(net.rows)
        found.append(losses(model, torch.optim.AdamW(net.groups(0.01)), batches, 5))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def _trained(rank, of, wrap):
    """Parameters after three steps on every `of`-th row. SGD: Adam would blow up the rounding of a zero gradient."""
    torch.manual_seed(0)
    net = scale(GPT, 32, 16, mup(2))
    net = Scaled(wrap(net.model), net.rows)
    moves = torch.optim.SGD(net.groups(0.1, "sgd", weight_decay=0.1), momentum=0.9)
    losses(net.model, moves, [(x[rank::of], y[rank::of]) for x, y in networks.words(3)], 3)
    return [p.detach().clone() for p in net.model.parameters()]


def _worker(rank, store, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = _trained(rank, 2, nn.parallel.DistributedDataParallel)
    if rank == 0:
        torch.save(found, out)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    arguments = (tmp_path / "store", tmp_path / "parameters.pt")
    torch.multiprocessing.start_processes(_worker, arguments, nprocs=2, start_method="spawn")
    for p, q in zip(_trained(0, 1, lambda model: model), torch.load(arguments[1]), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


# -- refusals -----------------------------------------------------------------------------------------------


class Bare(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape))


def tied(width):
    return GPT(width, tied=True)


count = itertools.count()
REFUSED = {
    "ignores the width": (lambda w: nn.Linear(3, 4), {}, "use the argument of make in its layers"),
    "changes its structure": (
        lambda w: nn.Sequential(*[nn.Linear(w, w) for _ in range(w // 16)]), {}, "keep depth and options fixed"),
    "changes its dimensions": (lambda w: Bare(*[w] * (w // 16)), {}, "structure changes with width"),
    "draws its shapes": (lambda w: nn.Linear(w, w + next(count)), {}, "two calls of make(16) differ"),
    "an axis that grows late": (lambda w: nn.Linear(w, max(w, 48)), {"width": 64}, "48, 48, 64 at 16, 32, 64"),
    "base above the width": (GPT, {"base": 64}, "try base=32"),
    "a float as width": (GPT, {"width": 32.0}, "expected a whole number"),
    "a module for make": (GPT(16), {}, "expected a function of the width"),
    "make fails": (lambda w: nn.MultiheadAttention(w, 3), {}, "make(32) raises AssertionError"),
    "make returns nothing": (lambda w: None, {}, "make(32) is a NoneType"),
    "lazy": (lambda w: nn.LazyLinear(w), {}, "run a batch through the model in make"),
    "no ABC": (GPT, {"p": "mup"}, "expected an ABC"),
    "hidden layers that differ": (GPT, {"p": ABC([0, 0, 1, 0], [0, 1, 0, 0], 0)}, "expected one for all"),
    "one hidden layer": (GPT, {"p": mean_field()}, "try mup(2)"),
    "a class token": (lambda w: Bare(1, 1, w), {}, "try roles={'w': 'input'}"),
    "a random vector": (lambda w: Bare(w), {}, "try roles={'w': 'input'}"),
    "two axes that grow alike": (lambda w: Bare(w, 3 * w), {}, "try roles={'w': 'hidden'}"),
    "two axes that grow unlike": (lambda w: Bare(w, w + 1), {}, "try roles={'w': (0, 1)}"),
    "three axes": (lambda w: Bare(w, w, w), {}, "try roles={'w': (0, 1)}"),
    "a bilinear form": (lambda w: nn.Bilinear(w, w, 3), {}, "try roles={'weight': 'hidden'}"),
    "rows of an embedding": (lambda w: nn.Embedding(w, 8), {}, "try roles={'weight': 'input'}"),
    "tied": (tied, {}, "try roles={'wte.weight': 'input'}, fold={'ln_f.*': 1}"),
    "tied in SP": (tied, {"p": standard(2)}, "try roles={'wte.weight': 'input'}"),
    "wider heads": (lambda w: nn.MultiheadAttention(w, 2), {}, "fold={'in_proj_*': 0.25, 'out_proj.weight': -0.25}"),
    "vision Transformer": (vision_transformer, {}, "'encoder.pos_embedding': 'input'}"),
    "role of no parameter": (GPT, {"roles": {"head.wieght": "output"}}, "try 'head.weight'"),
    "fold of no parameter": (GPT, {"fold": {"*.query.*": 0.5}}, "fits no parameter"),
    "an unknown role": (GPT, {"roles": {"head.weight": "last"}}, "expected input, vector, hidden, output, finite"),
    "an axis too many": (GPT, {"roles": {"head.weight": (0, 2)}}, "axes 0 .. 1"),
    "a fold that is no number": (GPT, {"fold": {"*.q.*": math.nan}}, "expected a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line(what):
    make, change, message = REFUSED[what]
    arguments = {"width": 32, "base": 16, "p": mup(2)} | change
    with pytest.raises(InputError) as error:
        scale(make, arguments.pop("width"), arguments.pop("base"), arguments.pop("p"), **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "what", ["a class token", "a random vector", "two axes that grow alike", "two axes that grow unlike", "tied",
             "tied in SP", "wider heads", "vision Transformer", "a bilinear form", "rows of an embedding"]
)  # fmt: skip
def test_what_the_refusal_says_to_type_works(what):
    make, change, _ = REFUSED[what]
    p = change.get("p", mup(2))
    with pytest.raises(InputError) as error:
        scale(make, 32, 16, p)
    typed = re.search(r"try ((?:roles|fold)=.*\})", str(error.value))[1]
    assert scale(make, 32, 16, p, **eval(f"dict({typed})")).rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(lr=-1), "lr = -1"),
        (dict(lr=math.nan), "lr = nan"),
        (dict(lr=0.1, optimizer="lion"), "try optimizer='adam'"),
        (dict(lr=0.1, weight_decay=-1), "weight_decay = -1"),
        (dict(lr=0.1, eps=None), "eps = None"),
    ],
)
def test_bad_numbers_in_groups(arguments, message):
    with pytest.raises(InputError, match=message):
        scale(GPT, 32, 16, mup(2)).groups(**arguments)


@pytest.mark.parametrize("of", [module, roles, tables, cheat_sheet, sweep_any, sweep_options, sweep_rates])
def test_docstring_examples(of):
    results = doctest.testmod(of)
    assert results.attempted
    assert not results.failed


def test_the_page_of_the_documentation_is_what_abc_says():
    path = paths.checkout() / "docs" / "mup_cheat_sheet.md"
    assert path.read_text("utf-8") == cheat_sheet.page(), "run `python -m tp4lib.scale.cheat_sheet`"
    rows = scale(networks.perceptron, 32, 16, mup(2)).rows
    for name, words in (("0.weight", "input"), ("2.weight", "hidden"), ("6.weight", "output")):
        (line,) = [x for x in cheat_sheet.page().splitlines() if x.startswith(f"| {words}") and "fan" in x]
        shown = [cell.strip(" $") for cell in line.split("|")[3:-1]]
        value = {"1": 1, "m": 2, "1/m": 1 / 2, "m^{-1/2}": 2**-0.5}
        row = rows[name]
        factors = [row.init, row.sgd, row.adam, 1 / row.adam, row.eps]
        assert [value[cell] for cell in shown] == pytest.approx(factors)
