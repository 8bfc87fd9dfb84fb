"""The one exception for input that cannot work."""

import contextlib
import sys
from typing import NoReturn


class InputError(ValueError):
    """Input that cannot work, told in one line: what was wrong; what was expected; what to type next.

    The command line prints the line on stderr and exits with code 2, without a traceback.
    """


def fail(line: str) -> NoReturn:
    """End the command with one line on stderr and exit code 2."""
    with contextlib.suppress(OSError, ValueError):  # nobody can read it: the exit code still tells
        print(f"tp4: {' '.join(line.split())}", file=sys.stderr, flush=True)
    sys.exit(2)
