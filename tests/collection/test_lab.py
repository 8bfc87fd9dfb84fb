"""The landing page's interactive figure: its mathematics is the library's; it needs no kernel and no network."""

import json
import random

import numpy as np
import pytest
import torch

from tests import browsing
from tp4lib.base import paths
from tp4lib.parametrization import ABC, mup, ntp, standard

SCRIPT = paths.checkout() / "docs" / "_static" / "lab.js"


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The figure alone on a page, opened from a file."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.js").write_bytes(SCRIPT.read_bytes())
    (folder / "index.html").write_text(
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        "<title>lab</title><link rel='icon' href='data:,'></head><body><div data-tp4-lab></div>"
        "<script src='lab.js'></script></body></html>"
    )
    browser.get_log("browser")
    browser.get_log("performance")
    browsing.resize(browser, "phone")
    browser.get((folder / "index.html").as_uri())
    return browser


def parts(page, script, *arguments):
    """Run JavaScript with `root`, the figure's own document, and `arguments`."""
    return page.execute_script(
        f"const root = document.querySelector('[data-tp4-lab]').shadowRoot; {script}", *arguments
    )


def test_one_small_file_without_requests(page):
    assert SCRIPT.stat().st_size < 300_000
    assert not [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    urls = [
        message["params"]["request"]["url"]
        for message in (json.loads(entry["message"])["message"] for entry in page.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    assert all(url.startswith(("file:", "data:")) for url in urls)


def test_the_regime_is_that_of_the_library(page):
    rng = random.Random(0)
    points = [(p.a, p.b, p.c) for L in (1, 2, 3) for p in (mup(L), ntp(L), standard(L), standard(L, 1))]
    while len(points) < 10_000:
        L = rng.choice((1, 2, 3))
        draw = (lambda: rng.randint(-6, 6) / 4) if rng.random() < 0.7 else (lambda: rng.uniform(-1.5, 1.5))
        a, c = [draw() for _ in range(L + 1)], draw()
        b = [draw() for _ in range(L + 1)]
        if rng.random() < 0.9:  # stable at initialization, or nearly every point would be unstable
            b[:L] = [-a[0], *(0.5 - each for each in a[1:L])]
            if rng.random() < 0.5:  # on a face: 2 a_{L+1} + c = 1
                a[L] = (1 - c) / 2
        points.append((a, b, c))
    told = page.execute_script("return arguments[0].map(([a, b, c]) => tp4lab.regime(a, b, c))", points)
    expected = [ABC(a, b, c).regime for a, b, c in points]
    assert told == expected
    assert all(expected.count(kind) > 300 for kind in ("unstable", "trivial", "kernel"))
    assert expected.count("feature learning") > 50


def trained(page, width_or_nodes, kind, steps):
    """The page's function on its grid after training, by weights and shares made here, through autograd."""
    x = torch.tensor(page.execute_script("return tp4lab.INPUTS"), dtype=torch.float64)
    y = torch.tensor(page.execute_script("return tp4lab.TARGETS"), dtype=torch.float64)
    grid = torch.tensor(page.execute_script("return tp4lab.GRID"), dtype=torch.float64)
    weights, share, rate = width_or_nodes
    w = weights.clone().requires_grad_()

    def f(w, x):
        return (torch.tanh(x[:, None] * w[:, 0] + w[:, 1]) * w[:, 2] * share).sum(1)

    f0, grid0 = f(w, x).detach(), f(w, grid).detach()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(((f(w, x) - f0 - y) ** 2).mean() / 2, w)
        w.data -= rate * gradient
    return (f(w, grid) - grid0).detach().numpy()


def test_the_limit_in_mup_is_training_under_a_quadrature(page):
    nodes, mass = np.polynomial.hermite_e.hermegauss(16)
    mass = mass / mass.sum()
    weights = torch.tensor(np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3))
    share = torch.tensor(np.einsum("i,j,k->ijk", mass, mass, mass).reshape(-1))
    rate = page.execute_script("return tp4lab.RATE") / share[:, None]  # each node moves as one unit would
    ours = trained(page, (weights, share, rate), "muP", 10)
    theirs = page.execute_script(
        "const {w, mass} = tp4lab.quadrature(16); return [...tp4lab.train(w, 10, 'muP', mass).f]"
    )
    assert ours == pytest.approx(np.array(theirs), abs=1e-9)
    assert np.abs(ours).max() > 0.3, "something was learned"


def test_networks_approach_both_limits(page):
    """The limits are the library's business elsewhere; here: wide networks made by torch lie on the page's lines."""
    steps, n = 10, 40_000
    weights = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rate = page.execute_script("return tp4lab.RATE")
    for kind, share, lr in (("muP", 1 / n, rate * n), ("NTP", n**-0.5, rate)):
        network = trained(page, (weights, share, lr), kind, steps)
        limit = page.execute_script(
            "const [kind, steps] = arguments, nodes = tp4lab.quadrature(16);"
            "return [...(kind === 'muP' ? tp4lab.train(nodes.w, steps, kind, nodes.mass)"
            ": tp4lab.kernelLimit(steps, nodes)).f]",
            kind,
            steps,
        )
        assert np.abs(network - np.array(limit)).max() < 0.02, kind
    narrow = page.execute_script(
        "const nodes = tp4lab.quadrature(16), limit = tp4lab.train(nodes.w.slice(), 10, 'muP', nodes.mass).f;"
        "return [8, 512].map(n => [0, 1, 2, 3, 4, 5, 6, 7].map(seed =>"
        "tp4lab.rms(tp4lab.train(tp4lab.sampled(n, seed), 10, 'muP').f, limit)).reduce((s, d) => s + d / 8, 0))"
    )
    assert narrow[1] < narrow[0] / 4  # (8 / 512)^(1/2) = 1/8


def test_sliders_and_buttons_answer_to_the_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    def element(selector):
        return parts(page, "return root.querySelector(arguments[0])", selector)

    assert "Features are learned" in parts(page, "return root.querySelector('.verdict').textContent")
    element("[name=m]").send_keys(Keys.ARROW_UP)
    assert "Trivial" not in parts(page, "return root.querySelector('.verdict').textContent")
    element("[name=q]").send_keys(Keys.ARROW_UP)
    assert "Trivial" in parts(page, "return root.querySelector('.verdict').textContent")
    element("[name=q]").send_keys(Keys.HOME)
    assert "Unstable" in parts(page, "return root.querySelector('.verdict').textContent")
    parts(page, "return root.querySelectorAll('.named button')[1]").send_keys(Keys.ENTER)  # NTP
    assert "Kernel regime" in parts(page, "return root.querySelector('.verdict').textContent")

    before = parts(page, "return root.querySelector('p[data-kind=muP]').textContent")
    element("[name=width]").send_keys(Keys.END)
    page.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    assert parts(page, "return root.querySelector('output[name=width-shown]').textContent") == "n = 1024"
    assert parts(page, "return root.querySelector('p[data-kind=muP]').textContent") != before


def test_nothing_is_wider_than_a_phone(page):
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
