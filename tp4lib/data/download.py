"""Download a file whole or not at all: to a temporary file, checked, then renamed."""

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path
from tp4lib.base.progress import bar
from tp4lib.data.contents import matches

_TIMEOUT = 20.0  # seconds without a byte before a try is given up
_PATIENCE, _SLOWEST = 60.0, 60_000  # so many bytes have to come in so many seconds
_TRIES, _PAUSE = 3, 1.0  # tries where the server or the line failed; seconds between them, doubled each time
_MOST = 1 << 30  # bytes; the largest official file has a third of that
_CHUNK = 1 << 16


def download(url: str, target: Path, expected: str) -> None:
    """Download ``url`` to ``target`` atomically; keep it only if its digest is ``expected`` (``"sha256:..."``).

    What another try may cure (a stall, a broken line, an error of the server's own) is tried three times. Only http and
    https are spoken, also where a server redirects to; proxies are taken from the environment.

    Raises:
        InputError: unreachable, stalled, cut short, an HTTP error, or other bytes than expected.
    """
    hint = f"try again, or put {target.name} in a folder named by TP4_DATA"
    for part in target.parent.glob(f".{target.name}.*.part"):  # left by a download that was killed
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()
    for attempt in range(1, _TRIES + 1):
        desc = f"download {target.name}" + (f" (try {attempt} of {_TRIES})" if attempt > 1 else "")
        try:
            with atomic_path(target) as part:
                _transfer(url, part, desc)
                if not matches(part, expected):
                    raise InputError(
                        f"{url} does not have the expected {expected.split(':')[0]} digest; {hint}"
                    )
            return
        except _Broken as broken:
            if attempt == _TRIES or not broken.may_pass:
                tries = f" in {attempt} tries" if attempt > 1 else ""
                raise InputError(f"cannot download {url}{tries}: {broken}; {hint}") from None
        time.sleep(_PAUSE * 2 ** (attempt - 1))


class _Broken(Exception):
    """A transfer that failed, and whether another try may go better."""

    def __init__(self, reason: object, may_pass: bool) -> None:
        super().__init__(" ".join(str(reason).split())[:300] or type(reason).__name__)
        self.may_pass = may_pass


def _transfer(url: str, part: Path, desc: str) -> None:
    try:
        with _opener().open(url, timeout=_TIMEOUT) as response, open(part, "wb") as file:
            told = response.headers.get("Content-Length", "")
            size = int(told) if told.isascii() and told.isdigit() else None
            if (size or 0) > _MOST:
                raise _Broken(f"{size:,} bytes; at most {_MOST:,} are expected", False)
            with bar(total=size, desc=desc, unit="B") as progress:
                _copy(response, file, _MOST if size is None else size, progress.update)
            received = file.tell()
    except urllib.error.HTTPError as error:
        error.close()
        raise _Broken(f"{error.code} {error.reason}", error.code >= 500 or error.code in (408, 429)) from None
    except urllib.error.URLError as error:  # no connection was made: not the moment to insist
        raise _Broken(error.reason, False) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error, not isinstance(error, http.client.InvalidURL)) from None
    except ValueError as error:  # not an address
        raise _Broken(error, False) from None
    if size is not None and received != size:
        raise _Broken(f"cut short at {received} of {size} bytes", True)


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, most: int, report: Callable[[int], object]
) -> None:
    since, recent, left = time.monotonic(), 0, most
    while left and (chunk := response.read1(min(_CHUNK, left))):
        file.write(chunk)
        report(len(chunk))
        left, recent = left - len(chunk), recent + len(chunk)
        if (passed := time.monotonic() - since) > _PATIENCE:
            if recent < _SLOWEST:
                raise _Broken(f"stalled: {recent:,} bytes in {passed:.0f} seconds", True)
            since, recent = time.monotonic(), 0


def _opener() -> urllib.request.OpenerDirector:
    """urllib's own, without the handlers of file:, ftp: and data: addresses."""
    request, opener = urllib.request, urllib.request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
