"""The gallery and a run's own page, as a reader sees them: built once from the committed notebooks, opened in a browser."""

import importlib.util
import os
import subprocess
import sys

import browsing
import pytest

from tp4lib import gallery, paths

ROOT = paths.checkout()
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sphinx_book_theme") is None,
    reason="the gallery's packages are not installed; install them with `pip install -e '.[docs]'`",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the committed notebooks."""
    out = tmp_path_factory.mktemp("gallery") / "html"
    done = subprocess.run(
        [sys.executable, str(DOCS / "build.py"), "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return out


@pytest.mark.slow
def test_every_page_of_the_gallery_reads_well(browser, site):
    pages, wrong = browsing.inspect(browser, site)
    assert len(pages) > 50
    assert not wrong, "\n".join(wrong)
