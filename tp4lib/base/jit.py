"""Numba, where it is installed, with a folder for its compiled functions that can be written.

Import ``numba`` from here; it is None on the bare core. Numba keeps compiled functions beside their source, and refuses
to define them where it can write neither there nor at home.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.base.files import out_dir


def _choose_folder() -> None:
    """Set ``$NUMBA_CACHE_DIR`` where the installation is read-only; has to happen before numba is imported."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        try:
            out_dir(chosen)
        except InputError:
            raise InputError(
                f"NUMBA_CACHE_DIR={chosen} cannot be written; expected a folder that can; unset it, or choose another"
            ) from None
        return
    try:
        out_dir(Path(__file__).parent / "__pycache__")
    except InputError:
        os.environ["NUMBA_CACHE_DIR"] = str(paths.cache_dir() / "numba")


_choose_folder()
try:
    import numba
except ImportError:  # the bare core runs on torch alone
    numba = None
except ValueError as error:
    raise InputError(
        f"numba does not start ({error}); expected settings that it can use; unset NUMBA_NUM_THREADS, or correct it"
    ) from error


@contextlib.contextmanager
def announced() -> Iterator[None]:
    """Say once that functions are being compiled; say nothing where they are read from numba's cache."""
    if numba is None:
        yield
        return
    from numba.core import event

    class Line(event.Listener):
        said = False

        def on_start(self, event: object) -> None:
            if not self.said:
                print("tp4: compiling the loops, once on this machine ...", file=sys.stderr, flush=True)
            self.said = True

        def on_end(self, event: object) -> None:
            pass

    with event.install_listener("numba:compile", Line()):
        yield
