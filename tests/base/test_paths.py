"""What an installation without a checkout holds."""

import re
import tomllib

import pytest

from tp4lib.base import paths

ROOT = paths.checkout()
SOURCES = [*ROOT.glob("tp4lib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
# Up to the first brace of an f-string; in a notebook's JSON the quotes are escaped.
ASKED = {
    found: path.name
    for path in SOURCES
    for found in re.findall(r"paths\.shared\(f?\\?\"([^\"{\\]+)", path.read_text("utf-8"))
}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_project_file_that_is_asked_for_is_packaged(name):
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    places = build["targets"]["wheel"]["force-include"]
    assert all(into == f"tp4lib/_share/{source}" for source, into in places.items())
    assert any(name == source or name.startswith(f"{source}/") for source in places), ASKED[name]
    assert paths.shared(name).exists()


def test_the_files_that_are_asked_for_are_found():
    assert {"notebooks", "data/us_places.csv", "benchmarks/results/word2vec_gensim.json"} <= set(ASKED)
