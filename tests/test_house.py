"""The library's structure: who may import whom, how large things may be, and that each name means one thing."""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import tp4lib

ROOT = Path(tp4lib.__file__).resolve().parent
TREES = {
    ".".join(("tp4lib", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
        file.read_text("utf-8")
    )
    for file in sorted(ROOT.rglob("*.py"))
}

# What each part may import besides itself and `base`. Arrows go down this list, never up.
MAY_IMPORT = {
    "base": "",
    "parametrization": "",
    "activations": "",
    "kernels": "activations",
    "linear_limit": "",
    "nn": "parametrization activations",
    "scale": "parametrization",
    "program": "nn parametrization activations",
    "pi_limit": "activations kernels",
    "data": "",
    "sweep": "nn scale",
    "coordcheck": "nn scale parametrization",
    "word2vec": "linear_limit pi_limit activations data",
    "maml": "linear_limit kernels pi_limit activations data",
    "collection": "word2vec maml data",
    "__main__": "word2vec",
}
EXCEPTIONS = {
    # Figures look alike everywhere; these are drawn when `.plot()` is called, where matplotlib is there.
    ("tp4lib.coordcheck.drawing", "tp4lib.collection.plotting"),
    # The bare command line shares its messages and exit codes with `tp4`.
    ("tp4lib.word2vec.__main__", "tp4lib.collection.cli"),
}
# Imports inside functions: the command line starts at once, and what needs more packages needs them only when used.
LATE = (
    "tp4lib.collection.cli", "tp4lib.collection.commands.",
    "tp4lib.collection.kernel_process", "tp4lib.coordcheck.", "tp4lib.word2vec.steps.on_triton",
    "tp4lib.scale.cheat_sheet", "tp4lib.__main__",
)  # fmt: skip
CORE = {"torch", "numpy", "tqdm", "tp4lib"}
# Packages that a core module uses where they are installed, and does without where they are not.
OPTIONAL = {
    "numba",
    "llvmlite",  # comes with numba
    "triton",
    "gensim",
    "matplotlib",
    "PIL",
    "sklearn",
    "torchvision",
    "IPython",
}

LARGE_FILE, LONG_FUNCTION, MANY_ARGUMENTS = 400, 60, 8
# Kernels and their launchers pass pointers, sizes and strides one by one; public signatures are a promise.
MAY_BE_LARGE = {
    "tp4lib.word2vec.steps.triton_code": "Triton kernels",
    "tp4lib.word2vec.steps.loops": "compiled loops",
    "tp4lib.nn.ABCLinear.__init__": "the settings of one layer, all with defaults",
    "tp4lib.nn.MLP.__init__": "the settings of a network, all with defaults",
    "tp4lib.pi_limit.network.PiMLP.__init__": "the settings of a network, all with defaults",
    "tp4lib.coordcheck.perceptrons.check": "the settings of an experiment",
    "tp4lib.word2vec.training.train": "where a run starts, is kept and is looked at; its settings by name",
    "tp4lib.collection.commands.reproduce.reproduce": "one parameter an option of the command",
}
# A word that is a function's natural name in two places that are never used together.
TWO_MEANINGS = {"main", "run", "load", "read", "check", "available"}


def imports(module: str):
    """(module imported, whether inside a function, line) of every import of ours in ``module``."""
    top = set(TREES[module].body)
    for node in ast.walk(TREES[module]):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in TREES else node.module for name in full]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            yield name, node not in top, node.lineno


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_part_is_in_the_table():
    assert {part(module) for module in TREES} - {""} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", [module for module in TREES if module != "tp4lib"])
def test_arrows(module):
    allowed = {part(module), "base", "", *MAY_IMPORT[part(module)].split()}
    wrong = [
        f"line {line}: {name}"
        for name, _, line in imports(module)
        if name.startswith("tp4lib") and part(name) not in allowed and (module, name) not in EXCEPTIONS
    ]
    assert not wrong


def test_no_circles_not_even_inside_functions():
    arrows = {
        module: {name for name, _, _ in imports(module) if name in TREES} - {module} for module in TREES
    }
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(arrows[module]):
                visit(name, [*path, module])
            done.add(module)

    for module in TREES:
        if module not in {"tp4lib"}:
            visit(module, [])


def test_imports_stand_at_the_top():
    wrong = [
        f"{module}, line {line}: {name}"
        for module in TREES
        if not module.startswith(LATE)
        for name, late, line in imports(module)
        if late and name.startswith("tp4lib")
    ]
    assert not wrong


@pytest.mark.parametrize("module", [module for module in TREES if part(module) not in ("collection", "")])
def test_the_core_needs_torch_numpy_and_tqdm_alone(module):
    used = {name.split(".")[0] for name, _, _ in imports(module)} - set(sys.stdlib_module_names) - CORE
    assert used <= OPTIONAL


def functions(module: str):
    """(full name, node) of every function and method."""

    def inside(node, name):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                full = f"{name}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield full, child
                yield from inside(child, full)

    yield from inside(TREES[module], module)


def too_large(module: str) -> list[str]:
    lines = max(getattr(node, "end_lineno", 0) for node in TREES[module].body) if TREES[module].body else 0
    found = [module] if lines > LARGE_FILE else []
    for name, node in functions(module):
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = len([a for a in arguments if a.arg not in ("self", "cls")])
        if node.end_lineno - node.lineno + 1 > LONG_FUNCTION or count > MANY_ARGUMENTS:
            found.append(name)
    return found


def test_files_and_functions_are_small():
    found = [name for module in TREES for name in too_large(module)]
    excused = [name for name in found if name.startswith(tuple(MAY_BE_LARGE))]
    assert sorted(set(found) - set(excused)) == []
    unused = [name for name in MAY_BE_LARGE if not any(each.startswith(name) for each in found)]
    assert not unused, "no longer large: take them out of MAY_BE_LARGE"


def test_one_name_one_thing():
    places = defaultdict(set)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places[node.name].add(module)
    twice = {
        name: sorted(where) for name, where in places.items() if len(where) > 1 and name not in TWO_MEANINGS
    }
    assert not twice


FRONT_DOOR = [
    "mup",
    "ntp",
    "MLP",
    "LinearLimit",
    "FiniteWidth",
    "InfiniteWidth",
    "PiMLP",
    "nngp",
    "ntk",
    "CBOW",
    "Corpus",
    "scale",
]


def test_the_front_door():
    for name in FRONT_DOOR:
        assert callable(getattr(tp4lib, name)), name
        assert name in dir(tp4lib)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tp4lib.nothing  # noqa: B018


@pytest.mark.parametrize("first", ["import tp4lib.scale", "pass"])
def test_scale_is_function_and_package(first):
    code = f"{first}\nfrom tp4lib import scale\nassert callable(scale)\nimport tp4lib.scale\n"
    code += "assert callable(tp4lib.scale.scale) and callable(tp4lib.scale)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_library_imports_nothing_else():
    code = "import sys; import tp4lib; print([m for m in ('torch', 'numpy', 'tqdm') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == "[]\n"


def test_the_library_runs_as_a_program(tmp_path):
    """``python -m tp4lib word2vec`` is ``python -m tp4lib.word2vec``; anything else is refused in one line."""

    def run(*arguments):
        line = [sys.executable, "-m", "tp4lib", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True)

    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text("a b c a b c " * 50)
    done = run("word2vec", "--corpus", text, "--out", out, "--width", 4, "--epochs", 1, "--subsample", 0)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "metrics.json").read_text())["vocab_size"] == 3
    done = run("maml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "expected python -m tp4lib word2vec" in done.stderr
