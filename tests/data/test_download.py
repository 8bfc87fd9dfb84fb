"""Downloads from servers that do everything wrong: nothing but the whole, right file is ever kept."""

import contextlib
import hashlib
import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tp4lib.base.errors import InputError
from tp4lib.data import catalogue as datasets
from tp4lib.data import download as downloads
from tp4lib.data.contents import matches

BODY = bytes(range(256)) * 400
GOOD = "sha256:" + hashlib.sha256(BODY).hexdigest()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = b"Content-Length: %d\r\n" % len(BODY)


class Server(socketserver.ThreadingTCPServer):
    """Answers each path as `ANSWERS` says, and counts the requests."""

    daemon_threads = allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.going = [], threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(path)
        with contextlib.suppress(OSError):  # the client has gone
            ANSWERS[path](self, self.server.asked.count(path))

    def send(self, *parts, status=b"200 OK"):
        for part in (b"HTTP/1.1 ", status, b"\r\nConnection: close\r\n", *parts):
            self.wfile.write(part)

    def head(self, *lines, status=b"200 OK"):
        self.send(*lines, b"\r\n", status=status)

    def wait(self, seconds):
        self.server.going.wait(seconds)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def drip(h, _):
    h.head(WHOLE)
    for byte in BODY:
        h.wfile.write(bytes([byte]))
        h.wait(0.01)


def forever(h, _):
    h.head()
    while not h.server.going.is_set():
        h.wfile.write(BODY)


def reset(h, _):
    h.head(WHOLE)
    h.wfile.write(BODY[:1000])
    h.wait(0.05)
    h.reset()


def stall(h, _):
    h.head(WHOLE)
    h.wfile.write(BODY[:1000])
    h.wait(2)


def redirect(target):
    return lambda h, _: h.head(b"Location: %s\r\n" % target, status=b"302 Found")


def first(fault, then=lambda h, _: h.send(WHOLE, b"\r\n", BODY), times=1):
    """The fault at the first requests, and then the file."""
    return lambda h, count: (fault if count <= times else then)(h, count)


ANSWERS = {
    "/good": lambda h, _: h.send(WHOLE, b"\r\n", BODY),
    "/unsized": lambda h, _: h.send(b"\r\n", BODY),
    "/chunked": lambda h, _: h.send(CHUNKED, b"%x\r\n" % len(BODY), BODY, b"\r\n0\r\n\r\n"),
    "/moved": redirect(b"/good"),
    # -- faults --
    "/unsized-cut": lambda h, _: h.send(b"\r\n", BODY[:1000]),
    "/chunked-cut": lambda h, _: h.send(CHUNKED, b"%x\r\n" % len(BODY), BODY[:1000]),
    "/chunked-nonsense": lambda h, _: h.send(CHUNKED, b"zz\r\n", BODY[:1000]),
    "/more-told": lambda h, _: h.send(b"Content-Length: 999999\r\n\r\n", BODY),
    "/less-told": lambda h, _: h.send(b"Content-Length: 1000\r\n\r\n", BODY),
    "/nonsense-told": lambda h, _: h.send(b"Content-Length: a lot\r\n\r\n", BODY[:-1]),
    "/minus-told": lambda h, _: h.send(b"Content-Length: -5\r\n\r\n", BODY[:-1]),
    "/huge-told": lambda h, _: h.send(b"Content-Length: 99999999999\r\n\r\n", BODY),
    "/wrong": lambda h, _: h.send(WHOLE, b"\r\n", BODY[::-1]),
    "/empty": lambda h, _: h.send(b"Content-Length: 0\r\n\r\n"),
    "/reset": reset,
    "/reset-at-once": lambda h, _: h.reset(),
    "/no-http": lambda h, _: h.wfile.write(b"220 ftp ready\r\n"),
    "/silence": lambda h, _: h.wait(2),
    "/long-header": lambda h, _: h.send(b"X: " + b"a" * 70_000 + b"\r\n\r\n", BODY),
    "/many-headers": lambda h, _: h.send(b"X: a\r\n" * 200, b"\r\n", BODY),
    "/stall": stall,
    "/drip": drip,
    "/forever": forever,
    "/404": lambda h, _: h.head(status=b"404 Not Found"),
    "/500": lambda h, _: h.head(status=b"500 Internal Server Error"),
    "/503": lambda h, _: h.head(status=b"503 Service Unavailable"),
    "/to-file": redirect(b"file:///etc/hostname"),
    "/to-ftp": redirect(b"ftp://127.0.0.1/x"),
    "/to-data": redirect(b"data:text/plain,hello"),
    "/to-nonsense": redirect(b"http://a b\x01c/"),
    "/to-404": redirect(b"/404"),
    "/loop": redirect(b"/loop"),
    "/to-loop": redirect(b"/loop"),
    # -- faults that pass --
    "/503-once": first(lambda h, _: h.head(status=b"503 Service Unavailable")),
    "/reset-once": first(reset),
    "/stall-once": first(stall),
    "/cut-twice": first(lambda h, _: h.send(WHOLE, b"\r\n", BODY[:500]), times=2),
    "/proxied": lambda h, _: h.head(status=b"404 Not Found"),
    "http://nowhere.invalid/file": lambda h, _: h.send(WHOLE, b"\r\n", BODY),
}  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    for name in ("_TIMEOUT", "_PATIENCE"):
        monkeypatch.setattr(downloads, name, 0.3)
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)
    monkeypatch.setattr(downloads, "_MOST", 10 * len(BODY))
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield served
        served.going.set()
        served.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/good", "/unsized", "/chunked", "/moved"])
def test_every_way_to_send_a_whole_file(server, tmp_path, path):
    downloads.download(server.url(path), tmp_path / "x", GOOD)
    assert (tmp_path / "x").read_bytes() == BODY
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("path", "tries", "says"),
    [
        ("/unsized-cut", 1, "sha256 digest"),
        ("/chunked-cut", 3, "IncompleteRead"),
        ("/chunked-nonsense", 3, "IncompleteRead"),
        ("/more-told", 3, "cut short at 102400 of 999999 bytes"),
        ("/less-told", 1, "sha256 digest"),
        ("/nonsense-told", 1, "sha256 digest"),
        ("/minus-told", 1, "sha256 digest"),
        ("/huge-told", 1, "99,999,999,999 bytes; at most"),
        ("/wrong", 1, "sha256 digest"),
        ("/empty", 1, "sha256 digest"),
        ("/reset", 3, "reset by peer"),
        ("/reset-at-once", 3, "reset by peer"),
        ("/no-http", 3, "220 ftp ready"),
        ("/silence", 3, "timed out"),
        ("/long-header", 3, "header"),
        ("/many-headers", 3, "headers"),
        ("/stall", 3, "timed out"),
        ("/drip", 3, "stalled"),
        ("/forever", 1, "sha256 digest"),
        ("/404", 1, "404 Not Found"),
        ("/500", 3, "500 Internal Server Error"),
        ("/503", 3, "503 Service Unavailable"),
        ("/to-file", 1, "not allowed"),
        ("/to-ftp", 1, "unknown url type: ftp"),
        ("/to-data", 1, "not allowed"),
        ("/to-nonsense", 1, "cannot download"),
        ("/to-404", 1, "404 Not Found"),
        ("/loop", 1, "infinite loop"),
        ("/to-loop", 1, "infinite loop"),
    ],
)
def test_a_faulty_server_leaves_nothing_and_a_second_run_works(server, tmp_path, path, tries, says):
    begun = time.monotonic()
    with pytest.raises(InputError, match=says) as caught:
        downloads.download(server.url(path), tmp_path / "x", GOOD)
    assert "\n" not in str(caught.value)
    assert ("in 3 tries" in str(caught.value)) == (tries == 3)
    assert "TP4_DATA" in str(caught.value)
    assert server.asked.count(path) == (5 if path == "/loop" else tries)  # urllib follows a loop four times
    assert not os.listdir(tmp_path)
    assert time.monotonic() - begun < 20
    downloads.download(server.url("/good"), tmp_path / "x", GOOD)
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "tries"), [("/503-once", 2), ("/reset-once", 2), ("/stall-once", 2), ("/cut-twice", 3)]
)
def test_faults_that_pass_are_sat_out(server, tmp_path, path, tries):
    downloads.download(server.url(path), tmp_path / "x", GOOD)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.asked.count(path) == tries
    assert os.listdir(tmp_path) == ["x"]


def test_a_failed_download_leaves_an_older_file_alone(server, tmp_path):
    (tmp_path / "x").write_bytes(b"older")
    with pytest.raises(InputError):
        downloads.download(server.url("/reset"), tmp_path / "x", GOOD)
    assert (tmp_path / "x").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "nonsense", "http://[::1", ""]
)
def test_only_http_is_spoken(tmp_path, url):
    with pytest.raises(InputError, match="cannot download"):
        downloads.download(url, tmp_path / "x", GOOD)
    assert not os.listdir(tmp_path)


def test_no_connection_is_not_insisted_on(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_PAUSE", 1e6)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but not listening
        with pytest.raises(InputError, match="refused"):
            downloads.download(f"http://127.0.0.1:{nobody.getsockname()[1]}/x", tmp_path / "x", GOOD)


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.setenv("no_proxy", "")
    downloads.download("http://nowhere.invalid/file", tmp_path / "x", GOOD)
    assert (tmp_path / "x").read_bytes() == BODY


def test_one_file_of_two_is_no_data_set_and_the_second_run_fetches_the_other(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TP4_CACHE", str(tmp_path))
    monkeypatch.setenv("TP4_OFFLINE", "0")

    def remotes(*paths):
        names = ("images_background.zip", "images_evaluation.zip")
        found = {name: (server.url(path), GOOD) for path, name in zip(paths, names)}
        # The bodies are no zips: that they are what was expected is all that is looked at here.
        changed = replace(datasets.DATASETS["omniglot"], remotes=found, read=as_expected)
        monkeypatch.setitem(datasets.DATASETS, "omniglot", changed)

    def as_expected(path, official):
        same = all(matches(path / name, each) for name, each in official.items())
        return {"title": "zips", "sha256": "", "official": same}

    remotes("/good", "/404")
    with pytest.raises(InputError, match="404"):
        datasets.fetch("omniglot")
    assert datasets.find_local("omniglot").is_embedded
    remotes("/404", "/good")  # the first is there already
    assert datasets.fetch("omniglot").source == "download"
    assert datasets.verify(datasets.find_local("omniglot")) == "ok"


def test_killed_in_mid_download_it_starts_anew(server, tmp_path):
    code = (
        "from tp4lib.data import download as downloads; import sys, pathlib; "
        "downloads.download(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    for round_ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", code, server.url("/stall"), str(tmp_path / "x"), GOOD],
            stderr=subprocess.DEVNULL,
        ) as process:
            while len(server.asked) <= round_ and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.05)
            process.kill()
    assert not (tmp_path / "x").exists()
    left = [tmp_path / name for name in os.listdir(tmp_path)]
    assert all(path.suffix == ".part" for path in left)
    for path in left[1:]:
        os.utime(path, (0, 0))
    downloads.download(server.url("/good"), tmp_path / "x", GOOD)
    assert (tmp_path / "x").read_bytes() == BODY
    # What is old goes; what is new may be another process's.
    assert {tmp_path / name for name in os.listdir(tmp_path)} == {tmp_path / "x", *left[:1]}
