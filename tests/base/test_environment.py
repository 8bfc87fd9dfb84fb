"""The packages that the collection promises are there, and the core needs none but its own."""

import importlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tp4lib.base import packages, paths
from tp4lib.collection.commands import doctor


@pytest.mark.parametrize(
    "name", ["jupyter", "torch", "matplotlib", "seaborn", "learn2learn", "gensim", "papermill", "torchvision"]
)
@pytest.mark.filterwarnings("ignore")
def test_promised_packages_import(name, capfd):
    importlib.import_module(name)


# Run in a process of its own: packages that are to be missing are not found, as where they were never installed.
HIDE = """
import sys
from importlib.machinery import PathFinder
hidden, find = set(sys.argv.pop(1).split(",")), PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.split(".")[0] in hidden else find(name, path, target)
)
"""

CORE = """
import importlib, os, pkgutil, tp4lib
def imported(module):
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{module}: {type(error).__name__}: {error}"
modules = [m.name for m in pkgutil.walk_packages(tp4lib.__path__, "tp4lib.") if not m.name.endswith("__main__")]
need_more = ("tp4lib.collection.plotting", "tp4lib.collection.commands", "tp4lib.collection.options",
             "tp4lib.coordcheck.drawing", "tp4lib.word2vec.steps.triton_code")
modules = [m for m in modules if not m.startswith(need_more)]
"""

ALL_AT_ONCE = CORE + "print(*filter(None, map(imported, modules)), sep='\\n')"
# What all share, and takes seconds, is imported once; each package is hidden in a child of its own.
ONE_BY_ONE = (
    CORE
    + """
import torch.func, tqdm, numba
for package in sys.argv[1].split(","):
    if os.fork() == 0:
        hidden = {package}
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]
        print(*(f"without {package}, {line}\\n" for line in map(imported, modules) if line), end="", flush=True)
        os._exit(0)
    os.wait()
"""
)

OPTIONAL = {"IPython", "ipykernel", "triton"} | {
    packages.module_of(package.name) for package in packages.declared() if package.group == "notebooks"
}


CLI = "from tp4lib.collection import cli; cli.main()"


def run_hidden(packages, code, *arguments, cwd=None):
    line = [sys.executable, "-c", HIDE + code, ",".join(packages), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd)


def test_the_core_imports_with_torch_numpy_and_tqdm_alone():
    assert {"numba", "scipy", "sklearn", "PIL", "typer", "latex2mathml", "learn2learn"} < OPTIONAL
    done = run_hidden(OPTIONAL, ALL_AT_ONCE)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.slow
def test_the_core_imports_without_any_one_of_the_others():
    done = run_hidden([], ONE_BY_ONE, ",".join(OPTIONAL))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("package", ["latex2mathml", "ipykernel", "gym", "torch", "numba", "typer"])
def test_reproduce_says_what_is_missing_before_it_runs_anything(package, tmp_path):
    done = run_hidden([package], CLI, "reproduce", "00", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == (
        f"tp4: {package} is not installed; expected the packages that tp4 declares; run `make install`\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("torch", ["word2vec", "--corpus", "x", "--out", "out"]),
        ("numpy", ["word2vec", "--corpus", "x", "--out", "out"]),
        ("tqdm", ["teach", "00"]),
        ("typer", ["--help"]),
    ],
)
def test_a_missing_package_ends_any_command_in_one_line(package, arguments, tmp_path):
    done = run_hidden([package], CLI, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    *_, last = done.stderr.splitlines()  # torch itself may warn before that it has no numpy
    assert last.startswith(f"tp4: {package} is not installed; ")


def test_doctor_lists_every_declared_package_and_names_what_is_missing():
    hidden = {"torch": "torch", "PIL": "pillow", "latex2mathml": "latex2mathml", "ipykernel": "ipykernel"}
    done = run_hidden(hidden, CLI, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    for package in packages.declared():
        assert re.search(rf"\b{package.name}\b", said.replace("- ", "-")), package.name
    assert "missing: torch; run `make install`" in said
    assert re.search(r"missing: ipykernel, pillow, latex2mathml; run `make install`", said)
    assert "learn2learn 0.2.0" in said
    assert "not found out" not in said


def test_doctor_tells_versions_outside_of_the_bounds(monkeypatch):
    monkeypatch.setattr(packages, "declared", lambda: [
        packages.Package("numpy", ">=1.26,<2", "core"), packages.Package("torch", ">=99", "core"),
        packages.Package("tqdm", ">=4,<5", "core"),
    ])  # fmt: skip
    (said,) = doctor._packages()
    assert re.search(r"outside the tested versions: numpy 2\S* \(expected >=1.26,<2\), torch \S+ \(exp", said)


def test_the_declared_packages_are_those_of_the_metadata(monkeypatch):
    """In a checkout they are read from pyproject.toml, elsewhere from the metadata of the installed package."""
    lines = [
        "numpy<3,>=1.26",
        "jupyter[all]<2,>=1.1; extra == 'notebooks'",
        'mup (<2,>=1.0) ; extra == "test"',
        "x.y>=1; python_version > '3' and extra == 'docs'",
    ]
    monkeypatch.setattr(packages.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(packages.paths, "checkout", lambda: None)
    found = [
        (package.name, package.bounds, package.group, package.command) for package in packages.declared()
    ]
    assert found == [
        ("numpy", ">=1.26,<3", "core", "pip install numpy"),
        ("jupyter", ">=1.1,<2", "notebooks", "pip install 'tp4lib[notebooks]'"),
        ("mup", ">=1.0,<2", "test", "pip install 'tp4lib[test]'"),
        ("x.y", ">=1", "docs", "pip install 'tp4lib[docs]'"),
        ("learn2learn", ">=0.2.0,<0.2.1", "notebooks", "pip install 'tp4lib[notebooks]'"),
    ]


def test_names_of_modules_are_those_of_the_installed_packages():
    """The one table that is typed agrees with what the installed packages say."""
    there = set(metadata.packages_distributions())
    for package in packages.declared():
        if package.version and package.name not in packages._ONLY_NAMES_OTHERS:
            assert packages.module_of(package.name) in there, package.name


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("x", name="PIL.Image"), "pillow is not installed; .* run `make install`"),
        (ModuleNotFoundError("x", name="joblib"), "joblib is not installed"),
        (ModuleNotFoundError("x", name="_lzma"), "this Python lacks its own module '_lzma'"),
        (
            ImportError("Numba needs NumPy 2.4 or less", name="numba.core"),
            "numba cannot be imported .Numba needs",
        ),
        (ModuleNotFoundError("x", name="tp4lib.nothing"), None),
        (ImportError("x", name="tp4lib.nn"), None),
    ],
)
def test_what_is_said_of_an_import_that_failed(error, words):
    line = packages.explained(error)
    assert line is None if words is None else re.match(words, line)


@pytest.mark.parametrize("version", ["2.6", "2.14.1+cpu", "2.6.0rc1", "2.10.dev3"])
def test_versions_within_bounds(version):
    bounds = ">=2.6,<3"
    assert packages.within(version, bounds)
    assert not packages.within(f"1{version}", bounds)
    assert SpecifierSet(bounds).contains(version.partition("+")[0], prereleases=True) == ("rc" not in version)


def test_the_conda_environment_asks_for_what_the_package_asks_for():
    root = paths.checkout()
    environment = yaml.safe_load((root / "environment.yml").read_text("utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    ours = {
        r.name: r.specifier
        for r in map(Requirement, project["dependencies"] + extras["notebooks"] + extras["test"])
    }
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    *named, editable = pip
    assert editable == "-e .[notebooks,test]"
    for requirement in map(Requirement, named):
        assert ours[requirement.name] == requirement.specifier, requirement
    python = next(item for item in environment["dependencies"] if str(item).startswith("python="))
    assert Requirement(f"python{project['requires-python']}").specifier.contains(
        python.removeprefix("python=")
    )
