"""Dependencies: bounded on both sides, locked as tested, their licences listed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.scripts import script
from tp4lib.base import paths

ROOT = paths.checkout()
supply = script("supply", "tools")


def test_every_direct_dependency_has_a_lower_and_an_upper_bound():
    assert len(supply.direct()) > 20
    for name, bounds in supply.direct().items():
        assert {each.operator for each in SpecifierSet(bounds)} == {">=", "<"}, name


def test_the_lowest_versions_are_within_the_bounds():
    constraints = [Requirement(line) for line in supply.lowest().splitlines()]
    assert {each.name for each in constraints} == set(supply.direct())
    for each in constraints:
        (pin,) = each.specifier
        assert pin.version in SpecifierSet(supply.direct()[each.name]), each


def test_the_lock_holds_every_direct_dependency_within_its_bounds():
    lines = supply.LOCK.read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, bounds in supply.direct().items():
        assert locked[name.lower()] in SpecifierSet(bounds), f"{name}: run `python tools/supply.py lock`"
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[\w.]+", line), "names and versions alone"


def test_the_licence_of_every_direct_dependency_is_listed():
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w.]+) \| (.+) \|$", supply.LICENCES.read_text(), re.MULTILINE)
    listed = {supply._name(name): licence for name, _, licence in rows}
    for name in supply.direct():
        assert "not stated" not in listed.get(supply._name(name), "not stated"), (
            f"{name}: run `python tools/supply.py licences`"
        )


def test_what_the_makefile_installs_besides_is_within_its_bounds():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for name, bounds in supply.packages.OUTSIDE.items():
        (pin,) = re.findall(rf"\b{name}==([\w.]+)", makefile)
        assert pin in SpecifierSet(bounds)


def test_the_pythons_that_are_tested_are_those_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each]
    tested = re.search(r"^PYTHONS \?= (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1].split()
    allowed = [
        f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(project["requires-python"])
    ]
    assert [f"python{version}" for version in allowed] == tested
    assert [f"3.{each.rpartition('.')[2]}" for each in named] == allowed


@pytest.fixture
def make(tmp_path):
    """`make` in a copy of what it installs from, with a Python whose pip writes down what it was asked for."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    log, tool = tmp_path / "log", tmp_path / "python"
    tool.write_text(
        f"""#!/bin/sh
case "$1 $2" in
  "-c "*) exec {sys.executable} "$@";;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  *) echo "$PIP_CONSTRAINT|$*" >> {log};;
esac
"""
    )
    tool.chmod(0o755)

    def run(*arguments: str) -> list[str]:
        log.write_text("")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PIP_"))}
        line = ["make", f"PYTHON={tool}", *arguments]
        subprocess.run(line, cwd=tmp_path, env=environment, check=True, capture_output=True)
        return log.read_text().splitlines()

    return run


def test_the_lock_takes_effect_in_an_environment_that_is_there(make):
    """In a folder with a space in its name, and with as many jobs as make likes."""
    place = ("VENV=a b", "-j", "install")
    assert [line[0] for line in make(*place)] == ["|"] * 4
    assert make(*place) == []
    locked = make(*place, "LOCK=1")
    assert len(locked) == 4
    assert all(line.startswith("requirements.lock|-m pip install") for line in locked)
    assert any("learn2learn==" in line for line in locked)
    assert make(*place, "LOCK=1") == [] == make(*place), "what is locked will do"


def test_the_lock_holds_what_installs_and_builds():
    assert {"pip", "cython", "setuptools", "wheel", "learn2learn"} <= {
        line.split("==")[0] for line in supply.LOCK.read_text().splitlines()
    }
