"""Dependencies: bounded on both sides, locked as tested, their licences listed."""

import importlib.util
import re

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tp4lib.base import paths

ROOT = paths.checkout()
spec = importlib.util.spec_from_file_location("supply", ROOT / "tools" / "supply.py")
supply = importlib.util.module_from_spec(spec)
spec.loader.exec_module(supply)


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
