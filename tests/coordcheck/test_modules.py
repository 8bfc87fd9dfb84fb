"""The coordinate check of any module: right about muP, SP and NTP; and blame names each planted bug."""

import doctest
import math

import numpy as np
import pytest
import torch
from torch import nn

import tp4lib.coordcheck
from tests import networks
from tests.networks import GPT, VIT_ROLES, cross_entropy, vision_transformer
from tp4lib.base import ledger, powers
from tp4lib.base.errors import InputError
from tp4lib.coordcheck import blame, check_module
from tp4lib.coordcheck import blaming as blame_module
from tp4lib.coordcheck import modules as modulecheck
from tp4lib.coordcheck.modules import ModuleCheck
from tp4lib.parametrization import mup, ntp, standard
from tp4lib.sweep import drift

WIDTHS, WIDER = (32, 64, 128, 256), (64, 128, 256, 512)
NETWORKS = {
    "GPT": (GPT, networks.words(4), None),
    "ViT": (vision_transformer, networks.samples((3, 8, 8), 4), VIT_ROLES),
    "CNN with BatchNorm": (networks.convolutional, networks.samples((2, 6, 6), 4), None),
}
LR = {("GPT", "sgd"): 0.1, ("ViT", "sgd"): 0.05, ("CNN with BatchNorm", "sgd"): 0.3}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", NETWORKS)
def test_powers_are_0_in_mup_and_not_in_sp(name, optimizer):
    make, batches, roles = NETWORKS[name]
    lr = LR.get((name, optimizer), 2**-8)
    how = dict(loss=cross_entropy, batches=batches, lr=lr, optimizer=optimizer, seeds=2, roles=roles)
    widths = WIDTHS if name == "GPT" else WIDER
    found = check_module(make, widths, widths[0], mup(2), **how)
    assert max(abs(power) for power in found.powers.values()) <= 0.15, found.table()
    assert found.ok
    starts = [powers.power_of_width(np.array(widths), sizes)[0] for sizes in found.start.values()]
    assert max(power for power in starts if power is not None) < 0.1
    other = check_module(make, widths, widths[0], standard(2), **how)
    assert not other.ok
    assert max(other.powers.values()) > 0.3 or (other.diverged_at >= 0).any()


def test_the_kernel_regime_is_predicted_too():
    found = check_module(
        GPT, WIDTHS, 32, ntp(2), cross_entropy, networks.words(4), 2**-8, seeds=2, tolerance=0.2
    )
    assert found.predicted["blocks.0.up"] == -0.5
    assert found.predicted["head"] == 0
    assert found.ok, found.table()


def test_a_model_in_the_style_of_hugging_face():
    """A dict as batch, a dict as output, transposed layers, a tied head: not a line of it changed."""

    def make(width):
        return networks.LMHeadModel(networks.Config(width, width // 8))

    batches = [{"input_ids": x, "labels": y} for x, y in networks.words(4)]
    how = dict(loss=lambda model, batch: model(**batch)["loss"], batches=batches, lr=2**-9, seeds=2)
    with pytest.raises(InputError, match=r"'transformer.h.\*.attn.c_attn.weight': 'hidden'"):
        check_module(make, WIDTHS, 32, standard(2), **how, roles={"*.wte.weight": "input"})
    with pytest.raises(InputError, match=r"fold=\{'transformer.ln_f.\*': 1\}"):
        check_module(make, WIDTHS, 32, mup(2), **how, roles={"*.c_*.weight": (1, 0)})
    found = check_module(
        make, WIDTHS, 32, mup(2), **how, roles={"*.c_*.weight": (1, 0)}, fold={"transformer.ln_f.*": 1}
    )
    assert found.powers["lm_head"] == pytest.approx(0, abs=0.15)
    assert abs(found.powers["transformer.h.0"]) < 0.15
    # The gain before the readout has the readout's 1/m, so its own output is predicted to shrink.
    assert found.powers["transformer.ln_f"] == pytest.approx(-1, abs=0.15)
    assert found.ok, found.table()


# -- planted bugs -------------------------------------------------------------------------------------------


def rate(name, factor):
    """The optimizer of someone who gives one parameter the wrong power of the width."""

    def make(net, lr):
        p, m = net.model.get_parameter(name), max(net.rows[name].growth)
        others = [g | {"params": [q for q in g["params"] if q is not p]} for g in net.groups(lr, eps=1e-18)]
        return torch.optim.Adam(
            [*others, {"params": [p], "lr": lr * net.rows[name].adam * m**factor, "eps": 1e-18}]
        )

    return make


def start(name, factor):
    def make(net, lr):
        with torch.no_grad():
            net.model.get_parameter(name).mul_(max(net.rows[name].growth) ** factor)
        return torch.optim.Adam(net.groups(lr, eps=1e-18))

    return make


class Tied(GPT):
    def __init__(self, width):
        super().__init__(width, tied=True)


BUGS = {
    "a matrix with the rate of the base": (dict(optimizer=rate("blocks.0.down.weight", 1)), "blocks.0.down.weight"),
    "a readout with the rate of the base": (dict(optimizer=rate("head.weight", 1)), "head.weight"),
    "an embedding taken for hidden": (dict(optimizer=rate("wte.weight", -1)), "wte.weight"),
    "a gain taken for hidden": (dict(optimizer=rate("blocks.0.ln2.weight", -1)), "blocks.0.ln2.weight"),
    "a matrix initialized with a constant": (dict(optimizer=start("blocks.0.up.weight", 0.5)), "blocks.0.up.weight"),
    "a readout initialized as in SP": (dict(optimizer=start("head.weight", 0.5)), "head.weight"),
    "logits q k / sqrt(d) with wider heads": (
        dict(make=lambda w: GPT(w, heads=1), lr=2**-10), "blocks.0.q.weight or blocks.0.k.weight or blocks.0.q.bias"),
    "a tied readout without its 1/m": (dict(make=Tied, roles={"wte.weight": "input"}), "wte.weight"),
}  # fmt: skip
HOW = dict(make=GPT, widths=WIDTHS, base=32, parametrization=mup(2), loss=cross_entropy, batches=networks.words(4),
           lr=2**-8, seeds=2)  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_blame_names_the_planted_bug(bug):
    change, name = BUGS[bug]
    found = blame(**HOW | change)
    assert found.worst in name.split(" or "), found.table()
    assert "TO BLAME" in found.table()


@pytest.mark.parametrize(
    "change",
    [
        dict(),
        dict(make=lambda w: GPT(w, heads=1), lr=2**-10, fold={"*.q.*": 0.5}),
        dict(make=Tied, fold={"ln_f.*": 1}),
        dict(optimizer="sgd", lr=0.1),
        dict(
            make=vision_transformer,
            widths=WIDER,
            base=64,
            lr=2**-9,
            batches=NETWORKS["ViT"][1],
            roles=VIT_ROLES,
        ),
    ],
    ids=["GPT", "wider heads", "tied", "SGD", "ViT"],
)
def test_blame_finds_nothing_where_nothing_is_wrong(change):
    found = blame(**HOW | change)
    assert found.ok, found.table()
    assert found.worst is None


def test_blame_of_sp_names_a_matrix():
    found = blame(**HOW | dict(parametrization=standard(2)))
    assert found.worst.endswith("weight")
    assert max(found.values()) > 0.7


# -- any optimizer, any parametrization, by hand too --------------------------------------------------------


def test_muP_by_hand_or_by_another_library_is_checked_as_it_is():
    import mup as microsoft

    def make(width):
        model = GPT(width, readout=microsoft.MuReadout)
        return microsoft.set_base_shapes(
            model, GPT(32, readout=microsoft.MuReadout), delta=GPT(64, readout=microsoft.MuReadout)
        )

    how = HOW | dict(make=make, parametrization=None)
    right = dict(optimizer=lambda net, lr: microsoft.MuAdam(net.model.parameters(), lr=lr, eps=1e-18))
    wrong = dict(optimizer=lambda net, lr: torch.optim.Adam(net.model.parameters(), lr=lr, eps=1e-18))
    assert check_module(**how | right).ok
    assert not check_module(**how | wrong).ok
    with pytest.raises(InputError, match="expected optimizer to be a function"):
        check_module(**how)


def test_another_optimizer():
    found = check_module(**HOW | dict(optimizer=lambda net, lr: torch.optim.NAdam(net.groups(lr, eps=1e-18))))
    assert found.ok, found.table()


def test_dropout_draws_the_same_masks_and_nothing_global_changes():
    def make(width):
        return nn.Sequential(nn.Linear(6, width), nn.Dropout(0.5), nn.Tanh(), nn.Linear(width, 5))

    batches, state = networks.samples((6,), 2), torch.get_rng_state()
    found = [check_module(make, WIDTHS, 32, mup(2), cross_entropy, batches, 2**-8, seeds=2) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert found[0].powers == found[1].powers
    assert found[0].powers["1"] == pytest.approx(found[0].powers["0"], abs=0.1)


def test_divergence_is_told_with_width_and_step():
    how = dict(make=networks.perceptron, batches=networks.samples((6,), 2), optimizer="sgd", lr=1e4)
    found = check_module(**HOW | how | dict(parametrization=standard(2)))
    assert not found.ok
    assert "DIVERGED, first at width" in found.table()
    assert "nan" not in found.table().lower()


def test_verdicts_on_exact_powers():
    n = np.array(WIDTHS, float)[:, None]
    sizes = {"flat": 0.0, "grows": 0.5, "shrinks": -0.5}
    change = {name: n**power * np.ones((1, 3)) for name, power in sizes.items()}
    start = dict.fromkeys(sizes, np.ones((4, 3)))
    none = np.full((4, 3), -1)
    found = ModuleCheck("muP", WIDTHS, start, change, dict.fromkeys(sizes, 0.0), none, 0.15)
    assert {name: found.verdict(name) for name in sizes} == {
        "flat": "ok",
        "grows": "BLOWS UP",
        "shrinks": "FREEZES",
    }
    assert found.powers == pytest.approx(sizes, abs=1e-12)
    blown = ModuleCheck(
        "muP", WIDTHS, {"flat": n * np.ones((1, 3))}, {"flat": change["flat"]}, {"flat": 0.0}, none, 0.15
    )
    assert blown.verdict("flat") == "BLOWS UP AT INITIALIZATION"
    noisy = {"noisy": (n / 100) ** [0.4, -0.4, 0.0]}  # three seeds of which each has another power
    found = ModuleCheck("muP", WIDTHS, {"noisy": np.ones((4, 3))}, noisy, {"noisy": 0.0}, none, 1e-3)
    assert found.verdict("noisy") == "ok, but noisy"


def test_the_plot_labels_the_faults():
    found = check_module(**HOW | dict(parametrization=standard(2), widths=(32, 64, 128)))
    figure = found.plot()
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert any(name in words for name in found.powers if found.verdict(name).isupper())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(widths=(32, 64)), "three or more, increasing"),
        (dict(widths=(64, 32, 128)), "three or more, increasing"),
        (dict(widths=(32, 64, 128.0)), "widths = 128.0"),
        (dict(batches=[]), "no batches"),
        (dict(steps=0), "steps = 0"),
        (dict(seeds=1.5), "seeds = 1.5"),
        (dict(lr=math.inf), "lr = inf"),
        (dict(optimizer="lion"), "optimizer = 'lion'"),
        (dict(tolerance=0), "tolerance = 0"),
        (dict(loss=lambda model, x, y: model(x)), "expected one number"),
        (dict(base=64), "base = 64 is above width = 32"),
        (dict(roles={"nothing": "input"}), "fits no parameter"),
    ],
)
@pytest.mark.parametrize("function", [check_module, blame])
def test_bad_input_is_one_line(function, change, message):
    with pytest.raises(InputError) as error:
        function(**HOW | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_front_door():
    assert tp4lib.coordcheck.check_module is modulecheck.check_module
    assert tp4lib.coordcheck.blame is blame_module.blame


@pytest.mark.parametrize("of", [modulecheck, powers, drift, ledger])
def test_docstring_examples(of):
    results = doctest.testmod(of)
    assert results.attempted
    assert not results.failed


def test_optimum_and_drift():
    octaves = np.arange(-8.0, -3)
    assert drift.optimum(octaves, 1 + (octaves[:, None] + [5.7, 6.2]) ** 2) == pytest.approx([-5.7, -6.2])
    for bad in ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 2, 1, math.inf, math.inf], [math.inf] * 5):
        with pytest.raises(InputError, match="a minimum with an inside"):
            drift.optimum(octaves, np.array(bad, float)[:, None])
    slope, error = drift.drift_per_doubling(np.array([1, 2, 4]), np.array([[0, 0], [-1, -0.8], [-2, -1.6]]))
    assert slope == pytest.approx(-0.9)
    assert error == pytest.approx(0.1)


def test_ledger_begins_anew_with_other_settings_and_refuses_what_is_none(tmp_path):
    path = tmp_path / "folder" / "numbers.json"
    first = ledger.Ledger(path, {"steps": 1})
    assert first.get("a", lambda: math.inf) == math.inf
    assert ledger.Ledger(path, {"steps": 1}).get("a", lambda: 3.0) == math.inf
    assert ledger.Ledger(path, {"steps": 2}).get("a", lambda: 3.0) == 3.0
    with pytest.raises(InputError, match="b is not a number"):
        first.get("b", lambda: math.nan)
    path.write_text("[")
    with pytest.raises(InputError, match="is no ledger"):
        ledger.Ledger(path, {})
