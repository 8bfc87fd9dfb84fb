"""Where data come from: the order of places, honest labels, and downloads that are verified or not there."""

import hashlib
import http.server
import threading
import zipfile
from dataclasses import replace

import pytest

from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.collection.commands import data as data_command
from tp4lib.data import catalogue as datasets
from tp4lib.data import provenance

BODY = b"the quick brown fox " * 5000
GOOD = "sha256:" + hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one body. What servers do wrong is in test_trust_download."""

    def do_GET(self):
        if self.path == "/404":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_unreachable_host_is_one_line(tmp_path):
    with pytest.raises(InputError, match="TP4_DATA") as caught:
        datasets.download("http://127.0.0.1:9/x", tmp_path / "x", GOOD)
    assert "\n" not in str(caught.value)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An environment variable folder and a cache, both empty."""
    for name in ("env", "cache", "named"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TP4_DATA", str(tmp_path / "env"))
    monkeypatch.setenv("TP4_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_order_of_places(places):
    for name in ("cache", "env", "named"):
        (places / name / "text8").write_text("some words")
        found = datasets.find("text8", places / "named" if name == "named" else None)
        assert found.path == places / name / "text8"
        assert found.source == {"cache": "cache", "env": "TP4_DATA", "named": "data_dir"}[name]
        assert not found.is_embedded
        assert str(places) not in found.describe()


def test_find_downloads_into_the_cache_once(server, places, monkeypatch):
    remotes = {"text8.zip": (f"{server}/good", GOOD)}
    monkeypatch.setitem(datasets.DATASETS, "text8", replace(datasets.DATASETS["text8"], remotes=remotes))
    monkeypatch.setenv("TP4_OFFLINE", "0")
    first, second = datasets.find("text8"), datasets.find("text8")
    assert (first.source, second.source) == ("download", "cache")
    assert first.path.read_bytes() == BODY
    assert datasets.verify(second) == "ok"
    assert first.title == "text8, English Wikipedia (2006)"
    second.path.write_bytes(b"other")
    other = datasets.find("text8")
    assert datasets.verify(other) == "differs"
    assert other.title == "text8.zip, 5 bytes, of unknown digest"


def test_failed_download_falls_back_and_says_so(server, places, monkeypatch, capsys):
    remotes = {"images_background.zip": (f"{server}/404", GOOD)}
    monkeypatch.setitem(
        datasets.DATASETS, "omniglot", replace(datasets.DATASETS["omniglot"], remotes=remotes)
    )
    monkeypatch.setenv("TP4_OFFLINE", "0")
    found = datasets.find("omniglot")
    assert found.is_embedded
    assert found.synthetic
    assert "going on with synthetic characters" in capsys.readouterr().err


def test_embedded_wins_when_asked_for(places, monkeypatch):
    (places / "env" / "text8").write_text("some words")
    assert datasets.find("text8", "embedded").is_embedded
    monkeypatch.setenv("TP4_DATA", "embedded")
    assert datasets.find("text8").is_embedded
    assert datasets.find("text8").path.stat().st_size > 1_000_000


def test_folder_and_zip_forms_of_omniglot(places):
    (places / "env" / "omniglot").mkdir()
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(places / "env" / "omniglot" / f"{part}.zip", "w"):
            pass
    assert datasets.find("omniglot").path == places / "env" / "omniglot"


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("nosuch", None, "unknown data set 'nosuch'; expected one of text8"),
        ("omniglot", "named", "holds no omniglot; expected images_background.zip"),
        ("text8", "absent", "no data folder"),
    ],
)
def test_bad_requests(places, name, folder, message):
    with pytest.raises(InputError, match=message):
        datasets.find(name, None if folder is None else places / folder)


def test_questions_come_with_gensim(places):
    found = datasets.find("questions", places / "named")
    lines = found.path.read_text().splitlines()
    assert sum(not line.startswith(":") for line in lines) == 19544


def test_a_stand_in_comes_under_a_licence_of_its_own(places, capsys):
    """In what is found, in `tp4 data`, in every metrics.json, and in data/README.md."""
    table = (paths.checkout() / "data" / "README.md").read_text("utf-8")
    for name, dataset in datasets.DATASETS.items():
        found = datasets.find_local(name, datasets.EMBEDDED)
        assert provenance.source(found)["licence"] == found.licence == dataset.embedded[1]
        (row,) = [
            line for line in table.splitlines() if line.startswith(f"| `{name}` |") and "|---" not in line
        ][:1]
        assert dataset.licence in row
        assert found.licence.partition(",")[0] in row or "the same" in row
    assert datasets.find_local("cifar10", datasets.EMBEDDED).licence == "CC BY 4.0"
    (places / "env" / "text8").write_text("words")
    assert datasets.find_local("text8").licence == "CC BY-SA 3.0"
    data_command.data(data_dir=datasets.EMBEDDED)
    assert "licence: MIT, as this program; " in capsys.readouterr().out
