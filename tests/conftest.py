"""What all tests share: no download, no progress bars, and nothing that they leave behind outside temporary folders."""

import os
import tempfile
from pathlib import Path

import pytest

from tests import untouched

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = tempfile.TemporaryDirectory(prefix="tp4-tests-", ignore_cleanup_errors=True)

# Before any test module imports the library: tests never reach out, and keep the terminal readable.
WATCHED = [ROOT, *untouched.places()]
untouched.away(Path(OUTSIDE.name))
os.environ["TP4_OFFLINE"] = "1"
os.environ["TP4_PROGRESS"] = "0"
for name in ("TP4_DATA", "TP4_DEVICE", "TP4_COMMAND"):
    os.environ.pop(name, None)
os.environ.setdefault("MPLBACKEND", "agg")
# The tests' matrices are small: one thread is as fast, and a busy machine does not make threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # with several processes, the one that waits for all of them
        config.pluginmanager.register(untouched.Untouched(WATCHED), "untouched")


def pytest_collection_modifyitems(config, items):
    if hasattr(
        config, "workerinput"
    ):  # what takes longest comes first, so that no other process waits for it
        items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; tests that need it are skipped, and say why, where there is none."""
    from tests import browsing

    driver = browsing.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks of 1,000 tokens in the training of Word2Vec, so that there are four in an epoch of a short text."""
    from tp4lib.word2vec import training

    real = training.Sampler
    monkeypatch.setattr(training, "Sampler", lambda *a, **k: real(*a, **k, block_tokens=1000))
