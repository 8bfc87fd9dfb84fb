"""Settings from environment variables: one reader for each kind of value, so that each is understood in one way.

>>> import os
>>> os.environ["TP4_OFFLINE"] = "no"
>>> flag("TP4_OFFLINE")
False
"""

import os

from tp4lib.base import checks
from tp4lib.base.errors import InputError

VARIABLES = {
    "TP4_DATA": "folder with real data sets, or `embedded` for those that ship with the environment",
    "TP4_CACHE": "folder for downloads and derived files",
    "TP4_OUT": "folder of one run's results; `tp4 reproduce` sets it",
    "TP4_OFFLINE": "1 for no downloads",
    "TP4_PROGRESS": "0 for no progress bars",
}
"""What a user may set, with what it means."""

_FLAGS = ("TP4_OFFLINE", "TP4_PROGRESS")
# Set by tp4 for the processes that it starts.
_INTERNAL = ("TP4_ASKED", "TP4_COMMAND", "TP4_DEVICE", "TP4_PARENT")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def flag(name: str, default: bool = False) -> bool:
    """Whether the variable ``name`` is switched on: 1, true, yes or on; 0, false, no or off; in any case of letters.

    Unset and empty are ``default``.

    Raises:
        InputError: any other value.
    """
    value = os.environ.get(name, "").strip().lower()
    if value in ("", *_YES, *_NO):
        return value in _YES if value else default
    raise InputError(f"{name}={os.environ[name]}; expected 1 or 0; try {name}=1, or unset {name}")


def whole_number(name: str, default: int, least: int = 0) -> int:
    """The whole number in the variable ``name``, such as torchrun's ``WORLD_SIZE``; ``default`` where unset or empty.

    Raises:
        InputError: no whole number, or one below ``least``.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    # int() would take "1_0" and digits of other scripts, which no other program that reads the variable does.
    number = (
        int(value) if value.isascii() and value.removeprefix("-").isdigit() and len(value) < 20 else value
    )
    return checks.whole(name, number, least, example=default)


def check() -> None:
    """Read every switch once, so that nonsense is refused before a run rather than in the middle of it."""
    for name in _FLAGS:
        flag(name)


def unknown() -> list[str]:
    """Variables whose names look like tp4's but mean nothing: a misspelt setting has no effect."""
    tests = ("TP4_FUZZ", "TP4_HEAVY")
    return sorted(
        name for name in os.environ
        if name.startswith("TP4_") and name not in (*VARIABLES, *_INTERNAL) and not name.startswith(tests)
    )  # fmt: skip
