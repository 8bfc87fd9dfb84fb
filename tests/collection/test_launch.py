"""Opening notebooks without installing: one address, and everything that follows from it; containers."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import types

import pytest

from tests.scripts import script
from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.collection.notebook_source import source_digest

ROOT = paths.checkout()
ADDRESS = "https://github.com/someone/tp4"
launch = script("launch", "docs")


@pytest.fixture
def copy(tmp_path):
    """A copy of what the address is written to."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def books(root):
    return {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in sorted((root / "notebooks").glob("*.ipynb"))
    }


def first_code(book):
    return next(cell for cell in book["cells"] if cell["cell_type"] == "code")


def test_one_address_reaches_every_notebook_and_no_output_grows_old(copy, monkeypatch):
    before = books(copy)
    changed = launch.apply(copy, ADDRESS)
    assert len(changed) == 1 + len(before)
    assert launch.apply(copy, ADDRESS) == []
    assert tomllib.loads((copy / "pyproject.toml").read_text("utf-8"))["project"]["urls"] == {
        "Repository": ADDRESS
    }
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    for name, book in books(copy).items():
        opening = "".join(book["cells"][0]["source"])
        page = f"notebooks/{name}.ipynb"
        assert f"](https://colab.research.google.com/github/someone/tp4/blob/main/{page})" in opening
        assert f"](https://mybinder.org/v2/gh/someone/tp4/main?urlpath=lab/tree/{page})" in opening
        assert "upload this" not in opening
        ran.clear()
        exec("".join(first_code(book)["source"]), {})
        assert ran[0][-1] == f"tp4lib[notebooks] @ git+{ADDRESS}"
        # What installs the library changes no result: a digest that fitted fits.
        fitted = before[name]["metadata"]["tp4"]["source"] == source_digest(before[name])
        assert fitted == (book["metadata"]["tp4"]["source"] == source_digest(book))
        for cell in (book["cells"][0], first_code(book)):
            cell["source"] = ""
        for cell in (before[name]["cells"][0], first_code(before[name])):
            cell["source"] = ""
        assert book["cells"] == before[name]["cells"], "nothing else has changed"


def test_another_address_takes_the_place_of_the_first(copy):
    launch.apply(copy, ADDRESS)
    launch.apply(copy, "https://github.com/other/fork")
    for path in [copy / "pyproject.toml", *(copy / "notebooks").glob("*.ipynb")]:
        text = path.read_text("utf-8")
        assert "someone" not in text
        assert "other/fork" in text


@pytest.mark.parametrize("address", ["", "tp4", "https://example.org/a/b", "https://github.com/a", "a b"])
def test_what_is_no_address_is_refused(address, copy):
    with pytest.raises(InputError, match=r"expected one such as https://github\.com/OWNER/tp4"):
        launch.apply(copy, address)


def test_pages_say_what_to_do_without_an_address_and_show_badges_with_one():
    assert "upload" in launch.badges("")
    assert "`python docs/launch.py https://github.com/OWNER/tp4`" in launch.note("")
    shown = launch.badges(ADDRESS)
    assert re.findall(r"\[!\[Open in (\w+)\]", shown) == ["Colab", "Binder", "Codespaces"]
    assert shown.count("someone/tp4") == 3
    assert "upload" not in launch.note(ADDRESS)


def test_the_committed_files_follow_from_the_committed_address():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    for book in books(ROOT).values():
        opening, install = ("".join(cell["source"]) for cell in (book["cells"][0], first_code(book)))
        assert ("[Open in Colab]" in opening) == ("git+" in install) == bool(address)


def test_the_container_has_torch_for_cpus_and_the_python_that_is_tested():
    lines = (ROOT / "Dockerfile").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    minor = int(re.search(r"^FROM python:3\.(\d+)-", lines, re.MULTILINE)[1])
    low, high = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    assert low <= minor < high
    assert (
        lines.index("https://download.pytorch.org/whl/cpu")
        < lines.index("COPY")
        < lines.index("make install")
    )
    place = "/somewhere/else"
    done = subprocess.run(
        ["make", "-n", "install", f"VENV={place}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"\"{place}/bin/python\" -m pip install -q -e '.[notebooks,test]'" in done.stdout
    about = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    build = about["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert about["remoteUser"] == re.search(r"^ARG NB_USER=(\w+)", lines, re.MULTILINE)[1]
