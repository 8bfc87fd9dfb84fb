"""What all tests share: no download, no progress bars, a cache of their own."""

import os

import pytest

# Before any test module imports the library: tests never reach out, and keep the terminal readable.
os.environ["TP4_OFFLINE"] = "1"
os.environ["TP4_PROGRESS"] = "0"
os.environ.pop("TP4_DATA", None)
os.environ.pop("TP4_OUT", None)
os.environ.setdefault("MPLBACKEND", "agg")
# The tests' matrices are small: one thread is as fast, and a busy machine does not make threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; tests that need it are skipped, and say why, where there is none."""
    import browsing

    driver = browsing.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
