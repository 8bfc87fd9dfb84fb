"""A headless Chromium that looks at pages as a reader does, and says what is wrong with them."""

import contextlib
import functools
import html.parser
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    # A browser that does not call home: what is requested is what the page requests.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    "--no-first-run",
)

LOOK = Path(__file__).with_suffix(".js").read_text("utf-8")


def start(profile: Path) -> Any:
    """A browser with a fresh profile; the test is skipped, with the reason, where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium; install it with `make test`")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        missing = " and ".join(
            name for name, path in (("chromium", browser), ("chromedriver", driver)) if not path
        )
        pytest.skip(
            f"no {missing} on this machine; install it with `apt-get install chromium chromium-driver`"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Named, so that selenium does not look for a driver to download.
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_script_timeout(300)  # a busy machine is no fault of the page
    chrome.get("about:blank")
    chrome.get_log("performance")  # what the browser's own first page loads
    return chrome


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """``folder`` on a free port of this machine, as an address without the last slash."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def resize(browser: Any, size: str) -> None:
    width, height = SIZES[size]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"},
    )


def paint(browser: Any, scheme: str) -> None:
    """What the reader's system prefers: "light" or "dark"."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )


def visit(browser: Any, base: str, page: str) -> tuple[list[str], dict[str, set[str]]]:
    """Open a page at every size, light and dark: what is wrong, and what it links to (page -> anchors)."""
    wrong: list[str] = []
    targets: dict[str, set[str]] = {}
    for size in SIZES:
        resize(browser, size)
        browser.get(f"{base}/{page}")
        for scheme in ("light", "dark"):
            paint(browser, scheme)
            seen = browser.execute_async_script(LOOK)
            assert seen["dark"] == (scheme == "dark")
            seen["cut"] = seen["cut"] if size == "phone" else []
            wrong += [f"{page} ({size}, {scheme}): {line}" for line in _complaints(seen)]
            for link in seen["links"]:
                address, anchor = urldefrag(link)
                if address.startswith(base):
                    targets.setdefault(unquote(urlsplit(address).path).lstrip("/"), set()).add(
                        unquote(anchor)
                    )
        wrong += [f"{page} ({size}): {line}" for line in _traffic(browser, base)]
    return wrong, targets


def _complaints(seen: dict[str, Any]) -> Iterator[str]:
    if not seen["title"] or seen["headings"] != 1:
        yield f"title {seen['title']!r}, {seen['headings']} headings of the first order"
    if seen["typeset"] < seen["math"]:
        yield f"{seen['math']} formulas, {seen['typeset']} typeset"
    for what in ("errors", "raw"):
        yield from (f"formula not typeset: {line}" for line in seen[what])
    for image in seen["images"]:
        if not image["loaded"]:
            yield f"image does not load: {image['src']}"
        if len(image["alt"].strip()) < 10:
            yield f"image without alt text: {image['src']}"
    if seen["scroll"] > 1:
        yield f"scrolls sideways by {seen['scroll']} px: {seen['overflow']}"
    yield from (f"contrast {line}" for line in seen["faint"])
    yield from (f"a table has to be scrolled sideways: {line}" for line in seen["cut"])


def _traffic(browser: Any, base: str) -> Iterator[str]:
    """Console messages, and requests that leave the site or fail, since the last call."""
    for entry in browser.get_log("browser"):
        if entry["level"] in ("SEVERE", "WARNING"):
            yield f"console: {entry['message']}"
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith((base, "data:", "blob:")):
                yield f"request to another host: {url}"


class _Places(html.parser.HTMLParser):
    """The places of a page that a link can name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.update(value for key, value in attrs if key in ("id", "name") and value)


def inspect(browser: Any, root: Path) -> tuple[list[str], list[str]]:
    """Open every page under ``root``: the pages, and everything that is wrong with them."""
    pages = sorted(
        str(path.relative_to(root)) for path in root.rglob("*.html") if "_static" not in path.parts
    )
    wrong, links = [], {}
    with served(root) as base:
        list(_traffic(browser, base))  # of the tests before, which share the browser
        for page in pages:
            found, links[page] = visit(browser, base, page)
            wrong += found
    places = {page: _Places((root / page).read_text("utf-8")).found for page in pages}
    return pages, wrong + broken(root, links, places)


def broken(root: Path, links: dict[str, dict[str, set[str]]], ids: dict[str, set[str]]) -> list[str]:
    """Links of pages (page -> target -> anchors) that lead to no file, or to no place in a page."""
    wrong = []
    for page, targets in links.items():
        for target, anchors in targets.items():
            file = target or "index.html"
            if not (root / file).is_file():
                wrong.append(f"{page}: broken link to {target}")
            elif file in ids:
                wrong += [
                    f"{page}: no place #{anchor} in {file}" for anchor in anchors - ids[file] - {"", "top"}
                ]
    return wrong
