"""The notebooks: committed outputs belong to the committed source, form is kept, and every claim holds at preset ci."""

import ast
import csv
import json
import re
import subprocess
import sys
import tomllib
import types

import pytest

from tests import browsing, without_jupyter
from tests.ideas import idea_lines
from tp4lib.base import paths
from tp4lib.collection import reproduce
from tp4lib.collection.notebook_source import is_folded, source_digest

BOOKS = sorted((paths.checkout() / "notebooks").glob("*.ipynb"))
NAMES = [book.stem for book in BOOKS]


TRIES = {
    path.stem: tomllib.loads(path.read_text("utf-8"))["try"]
    for path in sorted((paths.checkout() / "tests" / "tries").glob("*.toml"))
}
"""The edits below "Try this" of each notebook, in order: ``quote`` stands in its item, ``edits`` are pairs of old and
new code, ``expect`` is what has to hold of the metrics then, ``until`` the id of the last cell that is needed."""


def load(name):
    return json.loads((paths.checkout() / "notebooks" / f"{name}.ipynb").read_text("utf-8"))


def code_cells(name):
    return [cell for cell in load(name)["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_those_of_the_committed_source(name):
    book = load(name)
    stamp = book["metadata"].get("tp4", {})
    advice = f"run `tp4 reproduce {name[:2]} --preset laptop --in-place`"
    assert stamp.get("source") == source_digest(book), f"outputs are older than the source: {advice}"
    assert stamp["preset"] == "laptop", advice
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), advice
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_come_from_real_data(name):
    """Data that a notebook shows at preset laptop are never drawn by a program."""
    outputs = json.dumps([cell["outputs"] for cell in code_cells(name)])
    assert "synthetic characters, drawn by this program" not in outputs
    if name[:2] in ("04", "05"):
        assert "embedded default" not in outputs.replace("questions: ", "", 1) or "wiki8" in outputs


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    book = load(name)
    path = paths.checkout() / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size < 400_000
    first, *_ = book["cells"]
    assert first["cell_type"] == "markdown"
    assert source(first).startswith(f"# {name[:2]} · ")
    assert all(f"| `{preset}` |" in source(first) for preset in ("ci", "laptop", "paper"))
    assert "| `class` |" in source(first)
    tagged = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assigned = {}
    for node in ast.parse(source(tagged[0])).body:
        assigned[node.targets[0].id] = ast.literal_eval(node.value)
    assert assigned == {"preset": "laptop", "seed": 0, "device": "auto", "data_dir": None}
    prose = "\n".join(source(cell) for cell in book["cells"] if cell["cell_type"] == "markdown")
    for heading in ("## What you saw", "## Try this", "## Exercises", "<details>"):
        assert heading in prose, heading
    assert prose.count("<details>") == prose.count("</details>")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_in_colab_and_nowhere_else(name, monkeypatch):
    first = code_cells(name)[0]
    assert first["metadata"]["tags"][0] == "colab"
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    exec(source(first), {})
    assert not ran
    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=lambda: {"tp4-main.zip": b"PK"})
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    exec(source(first), {})
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    project = tomllib.loads((paths.checkout() / "pyproject.toml").read_text("utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")  # docs/launch.py writes it into the cell
    assert ran[0] == [*pip, f"tp4lib[notebooks] @ git+{address}" if address else "./tp4-main.zip[notebooks]"]
    assert [command[:5] for command in ran[1:]] == [pip] * (2 if name.startswith("06") else 0)
    assert "Colab" in source(load(name)["cells"][0])


@pytest.mark.parametrize("name", NAMES)
def test_plumbing_stays_in_the_library(name):
    code = "\n".join(source(cell) for cell in code_cells(name))
    assert "sys.path" not in code
    assert not re.search(r"import \*", code)
    tree = ast.parse(re.sub(r"^[%!].*$", "", code, flags=re.MULTILINE))
    private = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)
    ]
    assert not private
    lines = [len(source(cell).splitlines()) / (1 + is_folded(cell)) for cell in code_cells(name)]
    assert max(lines) <= 45, "a cell fits one screen"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_reader_sees_is_ideas(name):
    book = load(name)
    ideas, seen = idea_lines(book)
    assert ideas > 0.75 * seen, f"{ideas} of {seen} visible lines of code are ideas; fold more"
    for cell in code_cells(name):
        tags = cell["metadata"].get("tags", [])
        assert ("hide-input" in tags) == is_folded(cell), "use tp4lib.collection.notebook_source.fold"
        if is_folded(cell):
            assert source(cell).startswith("# @title "), "Colab shows this line in the place of the code"
        wide = [line for line in source(cell).splitlines() if len(line) > 84]
        assert not wide
        for output in cell["outputs"]:
            text = "".join(output.get("data", {}).get("text/plain", ""))
            assert not re.fullmatch(r"[-+.\de]+|True|False|None", text), f"a stray value as output: {text}"


@pytest.mark.parametrize("name", NAMES)
def test_from_the_title_to_the_first_idea_is_one_screen(name):
    lines = 0
    for cell in load(name)["cells"]:
        if source(cell).startswith("## 1. "):
            break
        lines += 1 if is_folded(cell) else len(source(cell).splitlines())
    assert lines <= 35


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_those_of_the_file(name):
    words = tomllib.loads((paths.checkout() / "notebooks" / "captions" / f"{name}.toml").read_text("utf-8"))
    shown = set()
    for cell in code_cells(name):
        for output in cell["outputs"]:
            if figure := output.get("data", {}).get("application/vnd.tp4+json", {}).get("figure"):
                found = [
                    key for key in words if all(fits(words[key][k], figure[k]) for k in ("caption", "alt"))
                ]
                assert len(found) == 1, f"captions have changed since: {figure['caption']}"
                shown.add(found[0])
    assert shown == set(words)


def fits(template, text):
    """Whether ``text`` is ``template`` with its numbers filled in."""
    pattern = re.sub(r"\\\{.*?\\\}", ".+?", re.escape(" ".join(template.split())))
    return re.fullmatch(pattern, text) is not None


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_answered_below_and_exercises_are_coded(name):
    cells = load(name)["cells"]
    asked = [place for place, cell in enumerate(cells) if "**Predict, then run.**" in source(cell)]
    assert len(asked) >= 2
    for place, following in zip(asked, [*asked[1:], len(cells)]):
        after = [source(one) for one in cells[place + 1 : following] if one["cell_type"] == "code"]
        assert any("exercises.happened(" in code for code in after), source(cells[place])
    checks = "\n".join(source(cell) for cell in code_cells(name))
    assert checks.count("exercises.check(") >= 2
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    coded = re.findall(r"^\d+\. \*In code\* · ([★☆]{3}) · (\d+) minutes", prose, re.MULTILINE)
    assert len(coded) >= 2
    assert prose.count("<summary>Hint</summary>") >= len(coded)


@pytest.mark.parametrize("name", NAMES)
def test_every_try_says_what_to_expect_and_is_in_the_list_that_is_tried(name):
    prose = "\n".join(source(cell) for cell in load(name)["cells"] if cell["cell_type"] == "markdown")
    section = re.search(r"^## Try this\n(.*?)(?=^## )", prose, re.MULTILINE | re.DOTALL)[1]
    items = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    listed = TRIES[name]
    assert len(items) == len(listed)
    code = "\n".join(source(cell) for cell in code_cells(name))
    for item, one in zip(items, listed, strict=True):
        assert item.count("<summary>What to expect</summary>") == 1
        assert one["quote"] in item, "what is tried is what the notebook says"
        for old, _ in one["edits"]:
            assert code.count(old) == 1, old
        assert one["expect"]


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_alt_text_and_links_lead_somewhere(name):
    images = 0
    for cell in code_cells(name):
        for output in cell["outputs"]:
            page = "".join(output.get("data", {}).get("text/html", ""))
            for tag in re.findall(r"<img[^>]*>", page):
                images += 1
                assert re.search(r'alt="[^"]{10,}"', tag)
            assert "image/png" not in output.get("data", {}), (
                "show figures with report.show: it adds caption and alt text"
            )
    assert images > 0
    prose = "\n".join(source(cell) for cell in load(name)["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", prose):
        assert (paths.checkout() / "notebooks" / target).is_file(), target


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Every notebook at preset ci, as `make figures` runs it."""
    out = tmp_path_factory.mktemp("ci")
    lines = []
    outcomes = reproduce.run(BOOKS, reproduce.Plan("ci", out), say=lines.append)
    failed = {outcome.notebook: outcome.error for outcome in outcomes if outcome.error}
    assert not failed, "\n".join(failed.values())
    return out, json.loads((out / "metrics.json").read_text())["notebooks"]


def test_the_collection_runs_and_leaves_its_figures(collection):
    out, reports = collection
    assert sorted(reports) == NAMES
    page = (out / "index.html").read_text()
    for name, report in reports.items():
        assert report["figures"]
        assert report["metrics"]
        for figure in report["figures"]:
            assert len(figure["caption"]) > 20
            assert len(figure["alt"]) > 20
            assert (out / name / f"{figure['name']}.svg").is_file()
            assert (out / name / f"{figure['name']}.png").is_file()
            assert (out / name / f"{figure['name']}.pdf").read_bytes().startswith(b"%PDF")
            head, *rows = csv.reader((out / name / f"{figure['name']}.csv").read_text("utf-8").splitlines())
            assert len(head) >= 2, f"{figure['name']}: what it shows is not told"
            assert rows
            assert f"{name}/{figure['name']}.svg" in page


def test_the_page_of_the_run_reads_well(collection, browser):
    pages, wrong = browsing.inspect(browser, collection[0])
    assert pages == ["index.html"]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_what_to_expect_of_a_try_is_what_happens(collection, tmp_path, name):
    """Each edit is made and run at preset ci; ``m`` are its metrics, ``m_theory`` theory's, ``base`` those without."""
    runs = []
    for one in TRIES[name]:
        book = code_cells(name)
        # No more cells than the metrics need.
        last = [cell["id"] for cell in book].index(one["until"]) if "until" in one else len(book)
        runs.append([edited(source(cell), one["edits"]) for cell in book[: last + 1]])
    base = metrics(collection, name)
    for reported, one in zip(without_jupyter.metrics_of(runs, tmp_path), TRIES[name], strict=True):
        m = {key: metric["value"] for key, metric in reported.items()}
        theory = {key: metric["theory"] for key, metric in reported.items() if "theory" in metric}
        for claim in one["expect"]:
            known = {"m": m, "base": base, "m_theory": theory}
            assert eval(claim, known), (one["quote"], claim, m, base)


def edited(code, edits):
    for old, new in edits:
        code = code.replace(old, new)
    return code


def metrics(collection, name):
    return {key: metric["value"] for key, metric in collection[1][name]["metrics"].items()}


def said(collection, name):
    book = json.loads((collection[0] / f"{name}.ipynb").read_text("utf-8"))
    return json.dumps([cell.get("outputs") for cell in book["cells"]], ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "exercise"),
    [
        ("00_start_here", 4),
        ("01_abc_parametrizations", 5),
        ("02_max_learning_rate", 4),
        ("02_max_learning_rate", 5),
        ("04_word2vec_limit", 5),
        ("04_word2vec_limit", 6),
        ("05_word2vec_pca", 3),
        ("05_word2vec_pca", 4),
        ("09_mup_for_your_model", 4),
        ("09_mup_for_your_model", 5),
        ("10_transformer_of_width_infinity", 4),
        ("10_transformer_of_width_infinity", 5),
        ("11_pretraining", 3),
        ("11_pretraining", 4),
    ],
)
def test_the_solutions_pass_their_checks(collection, name, exercise):
    assert f"exercise {exercise}: right" in said(collection, name)


@pytest.mark.parametrize("name", ["01_abc_parametrizations", "03_width_to_infinity"])
def test_sliders_say_where_they_are_in_a_run_without_a_reader(collection, name):
    assert "In a live session (jupyter lab), sliders for" in said(collection, name)
    assert "application/vnd.jupyter.widget-view+json" not in said(collection, name)


def test_00_width_n_approaches_the_limit(collection):
    m = metrics(collection, "00_start_here")
    assert m["convergence/slope"] == pytest.approx(-0.5, abs=0.1)
    assert m["features/relative change of the kernel"] > 0.3
    assert m["limit/training accuracy"] > 80


def test_01_exponents_and_polyhedron(collection):
    report = collection[1]["01_abc_parametrizations"]["metrics"]
    exponents = {key: m for key, m in report.items() if key.startswith("feature change/exponent/")}
    assert len(exponents) == 6
    for key, m in exponents.items():
        assert m["value"] == pytest.approx(m["theory"], abs=0.15), key
    assert report["maximal/the one with the largest readout is muP"]["value"] == 1
    assert report["slices/squares that learn features/u = 1, p1 = 0"]["value"] > 30
    assert report["polyhedron/points where inequalities and theorem disagree"]["value"] == 0
    assert report["symmetry/largest difference of losses in an orbit"]["value"] < 1e-9
    assert report["symmetry/difference to another orbit"]["value"] > 0.1


def test_02_largest_rate_falls_in_sp_and_stays_in_mup(collection):
    report = collection[1]["02_max_learning_rate"]["metrics"]
    laws = {key: m for key, m in report.items() if key.startswith("slope of 2\u2215λ/")}
    assert len(laws) == 8  # all layers, and each alone, in two parametrizations
    for key, m in laws.items():
        wide = 0.35 if key.endswith("alone") else 0.15  # ten outputs and 128 units
        assert m["value"] == pytest.approx(m["theory"], abs=wide), key
    m = metrics(collection, "02_max_learning_rate")
    assert m["slope/SP"] == pytest.approx(-1, abs=0.35)
    assert m["slope/muP"] == pytest.approx(0, abs=0.35)


def test_03_ordinary_networks_approach_the_program_of_width_infinity(collection):
    report = collection[1]["03_width_to_infinity"]["metrics"]
    m = metrics(collection, "03_width_to_infinity")
    assert m["deviation/slope"] == pytest.approx(-0.5, abs=0.15)
    assert m["coordinates/slope of the distance to the law"] == pytest.approx(-0.5, abs=0.15)
    assert m["ablation/with the correction"] < 3 * m["ablation/noise of the mean"]
    assert m["ablation/without"] > 10 * m["ablation/noise of the mean"]
    for name, exponent in (("muP", 0), ("NTP", -0.5)):
        assert m[f"movement/{name}/features, slope"] == pytest.approx(exponent, abs=0.15)
    assert m["movement/muP/kernel, limit"] > 0.3
    assert m["movement/NTP/kernel, limit"] == 0
    assert m["closed form/NNGP, relative error"] < 0.01
    assert m["closed form/NTK, relative error"] < 0.02
    assert m["program/ours by hand against train_mlp"] < 1e-10
    assert m["mean field/slope"] == pytest.approx(-0.5, abs=0.15)
    assert m["mean field/share near the middle of a quadrant, width infinity"] > 0.7  # a third at the start
    for key, moment in report.items():
        if key.startswith("semicircle/"):
            assert moment["value"] == pytest.approx(moment["theory"], rel=1e-9), key


def test_04_word2vec_converges_and_learns(collection):
    m = metrics(collection, "04_word2vec_limit")
    assert m["convergence/slope"] == pytest.approx(-0.5, abs=0.15)
    assert m["movement/NTK_slope"] == pytest.approx(-0.5, abs=0.15)
    assert m["movement/muP_slope"] == pytest.approx(0, abs=0.15)
    above = [m[f"loss_above_limit/width_{width}"] for width in (16, 64, 256)]
    assert above[0] > above[1] > above[2] > 0
    assert m["change of f/NTK/readout"] == pytest.approx(m["change of f/NTK/embeddings"], rel=0.3)
    assert m["rate/drift/SP"] < -0.5 < m["rate/drift/muP"]


def test_05_ntk_limit_keeps_its_random_start(collection):
    m = metrics(collection, "05_word2vec_pca")
    assert abs(m["separation/NTK_limit/silhouette"]) < 0.05
    # The mean of 100 draws that differ by 20.
    assert m["separation/NTK_limit/accuracy"] == pytest.approx(50, abs=8)
    assert m["separation/NTK_limit/largest"] > 70


def test_05_the_picture_comes_closer_to_that_of_width_infinity(collection):
    m = metrics(collection, "05_word2vec_pca")
    assert m["convergence/slope"] == pytest.approx(-0.5, abs=0.15)
    assert m["loss/width_inf"] < m["loss/width_64"]


def test_06_features_beat_kernels(collection):
    report = collection[1]["06_maml_omniglot"]["metrics"]
    assert report["limit/largest difference from autograd after 3 meta-steps"]["value"] < 1e-9
    assert report["kernel/mean meta-gradient over assignments of labels, relative"]["value"] < 1e-9


def test_07_pi_limits_converge_and_move_their_features(collection):
    m = metrics(collection, "07_pi_limits")
    assert m["by hand/difference of losses after 10 steps"] < 1e-12
    assert m["kernel/largest difference to a million units"] < 3e-3
    assert m["convergence/slope, depth 1"] == pytest.approx(-0.5, abs=0.2)
    assert m["convergence/slope, depth 2"] == pytest.approx(-0.5, abs=0.25)
    assert m["convergence/slope, depth 3"] < -0.3
    assert m["feature change/slope, NTK"] == pytest.approx(-1, abs=0.3)
    assert m["feature change/slope, π-network"] == pytest.approx(0, abs=0.15)
    assert m["feature change/π-limit"] > 0.3
    assert m["rank/100"] > m["rank/10"]
    assert m["growth/bounded/rows"] < 0.2 * m["growth/unbounded/rows"]
    assert m["growth/bounded/accuracy"] == pytest.approx(m["growth/unbounded/accuracy"], abs=1.5)
    for learner in ("ReLU π-limit", "linear limit"):
        assert m[f"omniglot/{learner}"] > 50
    # Scores start at 0, a loss of about 18. So little text hardly teaches more than how frequent words are.
    for network in ("linear", "ReLU"):
        assert m[f"words/{network}/loss on unread text"] < m["words/no context/loss on unread text"] + 0.4


def test_08_optimum_stays_in_mup_and_drifts_in_sp(collection):
    m = metrics(collection, "08_mu_transfer")
    for key, value in m.items():
        if key.startswith("drift/muP"):
            assert abs(value) < 0.4, key
        if key.startswith("drift/SP"):
            assert value < -0.35, key


def test_09_any_module_in_mup_passes_its_check_and_planted_bugs_are_found(collection):
    report = collection[1]["09_mup_for_your_model"]["metrics"]
    m = metrics(collection, "09_mup_for_your_model")
    assert m["check/muP, largest power"] < 0.15
    assert m["check/muP, smallest power"] > -0.25  # narrow networks: at preset laptop it is above -0.15
    assert m["check/SP, largest power"] > 0.5
    assert abs(m["drift/muP"]) < 0.4
    assert m["drift/SP"] < -0.7
    assert abs(m["blame/right network, furthest off"]) < 0.25
    for bug, name in {
        "one rate for all": "weight",
        "readout initialized again": "head.weight, start",
        "one matrix forgotten": "blocks.0.down.weight, step",
        "wider heads, logits / √d": "effect",
        "tied readout without its 1/m": "wte.weight, start",
    }.items():
        assert name in report[f"blame/{bug}"]["note"]
    for model in ("torchvision's ViT", "in Hugging Face's style"):
        assert m[f"others/{model}, muP, passes"]
        assert not m[f"others/{model}, SP, passes"]
    assert m["decay/ratio of the widest to the base"] == pytest.approx(1)
    for schedule, spoilt in {"LambdaLR": False, "OneCycleLR to RATE": True}.items():
        ratio = m[f"schedule/{schedule}, ratio over muP's"]
        assert (ratio > 1.5) if spoilt else ratio == pytest.approx(1), schedule


def test_09_the_stored_numbers_are_those_that_mup_promises():
    """At preset laptop: no module is further than 0.15 from theory's power, the best rate drifts by at most 0.15."""
    tables = [
        output["data"].get("application/vnd.tp4+json", {}).get("metrics")
        for cell in code_cells("09_mup_for_your_model")
        for output in cell["outputs"]
        if "data" in output
    ]
    (report,) = filter(None, tables)
    m = {key: metric["value"] for key, metric in report.items()}
    for key in ("check/muP, largest power", "check/muP, smallest power", "drift/muP"):
        assert abs(m[key]) <= 0.15, key
    assert m["check/SP, largest power"] > 0.5
    assert m["drift/SP"] <= -0.7  # a minimum that is not bracketed has stopped the run
    named = {
        key: metric["note"] for key, metric in report.items() if key.startswith("blame/") and "note" in metric
    }
    assert len(named) == 5
    assert not any(note.startswith("None") for note in named.values())


def test_10_ordinary_transformers_approach_the_one_of_width_infinity(collection):
    m = metrics(collection, "10_transformer_of_width_infinity")
    assert m["program/ours by hand against train_transformer"] < 1e-4  # float32
    assert m["deviation/standard error of the slope"] < 0.05
    assert m["deviation/slope"] == pytest.approx(-0.5, abs=0.1)
    for key, errors in m.items():
        # Narrower ones have a bias of order 1/n.
        if re.match(r"mean/width (128|256)|optimizer/\w+/mean at width", key):
            assert errors < 2, key
    assert m["attention/largest change at width infinity"] > 0.1
    assert m["coordinates/slope of the distance to the law"] == pytest.approx(-0.5, abs=0.1)
    for what, exponent in (("features", -0.5), ("attention", -1)):
        assert m[f"movement/muP/{what}, slope"] == pytest.approx(0, abs=0.15)
        assert m[f"movement/NTP/{what}, slope"] == pytest.approx(exponent, abs=0.15)
    assert m["ablation/without Zdot, distance to the limit"] > 10 * m["ablation/noise of the limit"]
    assert (
        m["ablation/networks to the limit without Zdot"] > 3 * m["ablation/networks to the limit with Zdot"]
    )


def test_10_copying_adam_and_depth_have_limits(collection):
    m = metrics(collection, "10_transformer_of_width_infinity")
    start, end = (m[f"copying/attention on the word to copy, {when}"] for when in ("start", "end"))
    assert end > 1.5 * start
    assert m["copying/right on unseen sequences, width infinity"] > 50  # of three words
    for name in ("sgd", "momentum", "adam"):
        assert m[f"optimizer/{name}/slope"] == pytest.approx(-0.5, abs=0.1), name
    assert m["optimizer/adam/without Zdot"] > 10 * m["optimizer/adam/noise of the limit"]
    assert m["depth/slope, linear and deep"] == pytest.approx(-1, abs=0.15)  # free of noise
    assert m["depth/slope, deep"] < -0.3
    for key in ("minibatches of 3, momentum 0.9", "recurrent, 3 times"):
        assert m[f"more/{key}/slope from 64 to 512"] == pytest.approx(-0.5, abs=0.15), key
    assert m["noise/slope in the samples"] < -0.35


def test_11_pretraining_is_lost_in_the_limit_of_ntp_and_kept_in_that_of_mup(collection):
    m = metrics(collection, "11_pretraining")
    for name in ("muP", "NTP"):
        assert m[f"by hand/{name}, difference from nn.MLP"] < 1e-12
    assert m["by hand/fine-tuning, difference from autograd"] < 1e-12
    assert m["initialization/slope of f, muP"] == pytest.approx(-0.5, abs=0.1)
    assert m["initialization/size of f, muP limit"] == 0
    for what, exponent in (("features", -0.5), ("feature kernel", -1)):
        assert m[f"movement/{what}, muP, slope"] == pytest.approx(0, abs=0.15)
        assert m[f"movement/{what}, NTP, slope"] == pytest.approx(exponent, abs=0.2)
    assert m["theorem/distance of outputs, NTP, slope"] < -0.55  # -1 at the widths of preset laptop
    assert m["theorem/distance of outputs, muP, slope"] == pytest.approx(0, abs=0.15)
    assert m["theorem/distance of outputs, NTP limit"] == 0
    assert m["theorem/distance of outputs, muP limit"] > 0.3
    for shots in (1, 5):
        assert m[f"gain/NTP width inf, {shots}-shot"] == 0
        assert m[f"gain/muP width inf, {shots}-shot"] > 1
