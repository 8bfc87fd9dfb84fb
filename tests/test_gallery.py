"""The gallery and a run's own page, as a reader sees them: built once from the committed notebooks, opened in a browser."""

import html.parser
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = browsing.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


class Ids(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.update(value for key, value in attrs if key in ("id", "name") and value)


def inspect(browser, root):
    """Every page under ``root`` opened; everything that is wrong."""
    pages = sorted(str(path.relative_to(root)) for path in root.rglob("*.html") if "_static" not in path.parts)
    wrong, links = [], {}
    with browsing.served(root) as base:
        for page in pages:
            found, links[page] = browsing.visit(browser, base, page)
            wrong += found
    ids = {page: Ids((root / page).read_text("utf-8")).found for page in pages}
    return pages, wrong + browsing.broken(root, links, ids)


@pytest.mark.slow
def test_every_page_of_the_gallery_reads_well(browser, site):
    pages, wrong = inspect(browser, site)
    assert len(pages) > 50
    assert not wrong, "\n".join(wrong)
