"""The packages that the collection promises are there, and the core needs none but its own."""

import importlib
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from tp4lib import paths


@pytest.mark.parametrize(
    "name", ["jupyter", "torch", "matplotlib", "seaborn", "learn2learn", "gensim", "papermill", "torchvision"]
)
@pytest.mark.filterwarnings("ignore")
def test_promised_packages_import(name, capfd):
    importlib.import_module(name)


CORE = """
import importlib, pkgutil, sys
class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Closed())
import tp4lib
outside = {{"plotting", "report", "reproduce", "gallery", "cli", "commands"}}
for module in pkgutil.walk_packages(tp4lib.__path__, "tp4lib."):
    if module.name.split(".")[1] not in outside and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_the_core_imports_with_torch_numpy_and_tqdm_alone():
    blocked = ["gensim", "scipy", "sklearn", "matplotlib", "seaborn", "pandas", "papermill", "typer", "learn2learn",
               "numba", "PIL", "torchvision", "IPython", "ipywidgets", "nbformat", "mup"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CORE.format(blocked=blocked)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


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
