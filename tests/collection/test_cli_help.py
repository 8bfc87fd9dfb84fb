"""What ``tp4 --help``, every command's help and ``tp4 doctor`` look like in a terminal of 80 columns."""

import json
import re
import subprocess
import sys

import pytest
import typer

from tests.scripts import script
from tp4lib.base import paths
from tp4lib.base.errors import InputError
from tp4lib.collection import cli, needs
from tp4lib.collection.commands import doctor
from tp4lib.collection.presets import PRESETS
from tp4lib.collection.reproduce import notebooks

renewal = script("needs", "tools")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setenv("TP4_PROGRESS", "0")


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_fits_80_columns_and_names_every_option_in_full(capsys, command):
    text = printed(capsys, *filter(None, [command]), "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    if command is not None:
        for parameter in typer.main.get_command(cli.build()).commands[command].params:
            if parameter.param_type_name == "option":
                assert parameter.help, (command, parameter.name)
                for name in parameter.opts:
                    assert name in text, (command, name)


def test_each_command_says_in_one_line_what_it_does(capsys):
    text = printed(capsys, "--help")
    for name in cli.COMMANDS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {name} ")]
        assert line.endswith("."), line
        assert not line.endswith("..."), f"{name}: its first sentence is too long for 80 columns"


def test_doctor_tells_what_is_here_and_what_presets_need(capsys, monkeypatch):
    monkeypatch.setenv("TP4_DATA", "embedded")
    text = printed(capsys, "doctor")
    assert max(map(len, text.splitlines())) <= 80
    for word in (
        "torch 2",
        "cores",
        "GPU",
        "text8",
        "omniglot",
        "compiler",
        *(f"{preset}: " for preset in PRESETS),
    ):
        assert word in text, word
    assert "not found out" not in text


def test_doctor_goes_on_where_something_is_broken(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TP4_DATA", "/nowhere")
    (tmp_path / "needs.json").write_text("{")
    monkeypatch.setattr(needs, "TABLE", tmp_path / "needs.json")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: 1 / 0)
    text = printed(capsys, "doctor")
    assert text.count("not found out") == 3
    assert "TP4_DATA=/nowhere: it is not there" in " ".join(text.split())
    assert "torch 2" in text


def merged(workers: int = 1, **changes) -> dict:
    runs = {path.stem: {"seconds": 60.0, "ok": True, "peak_memory_bytes": (i + 1) << 20, "disk_bytes": 100}
            for i, path in enumerate(notebooks())}  # fmt: skip
    runs[max(runs)] |= changes
    return {
        "runs": runs,
        "preset": "laptop",
        "runner": {"workers": workers},
        "environment": {"threads": 1, "python": "3.11", "versions": {"torch": "2.6"}},
    }


def mine() -> dict:
    """As many notebooks as the collection has, one of them another."""
    run = merged()
    run["runs"]["99_mine"] = run["runs"].pop(min(run["runs"]))
    return run


def test_needs_are_those_of_a_whole_run(tmp_path, monkeypatch):
    folder, table = tmp_path / "run", tmp_path / "needs.json"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(merged()))
    assert renewal.main(folder, table) == "laptop"
    monkeypatch.setattr(needs, "TABLE", table)
    found, count = needs.needs("laptop"), len(notebooks())
    assert (found.seconds, found.memory, found.disk) == (60 * count, count << 20, 100 * count)
    assert needs.needs("paper") is None


@pytest.mark.parametrize(
    "run",
    [
        merged(workers=2),
        merged(ok=False),
        merged(peak_memory_bytes=None),
        merged(seconds=float("nan")),
        merged(disk_bytes=-1),
        mine(),
        {},
        {"runs": {}},
        {"runs": [], "runner": {}, "environment": 0},
    ],
)
def test_needs_of_part_of_a_run_are_refused(run):
    with pytest.raises(InputError, match="expected the"):
        renewal.measured(run, 2)


def test_a_file_that_is_no_run_or_no_table_is_refused_in_one_line(tmp_path):
    table = tmp_path / "needs.json"
    for content in (None, "", "[]", "{", '{"preset": "mine"}'):
        if content is not None:
            (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(InputError, match="tells of no run"):
            renewal.main(tmp_path, table)
    (tmp_path / "metrics.json").write_text(json.dumps(merged()))
    table.write_text("[]")
    with pytest.raises(InputError, match="is damaged"):
        renewal.main(tmp_path, table)
    assert table.read_text() == "[]"


def test_times_are_one_truth(capsys, monkeypatch):
    """The README, the help and the doctor say what the table of measurements says; no page has a time typed by hand."""
    monkeypatch.setenv("TP4_DATA", "embedded")
    readme = (paths.checkout() / "README.md").read_text("utf-8")
    doctor_says, help_says = (
        printed(capsys, "doctor"),
        " ".join(printed(capsys, "reproduce", "--help").split()),
    )
    for preset in json.loads(needs.TABLE.read_text()):
        told = needs.duration_of(preset)
        assert f"{preset}: {told}, " in doctor_says
        assert f"{preset} ({told})" in help_says
        assert f"| `{preset}` | {told} |" in readme
    readme = re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", readme, flags=re.DOTALL)
    for page in (
        readme,
        *((paths.checkout() / "docs" / name).read_text("utf-8") for name in ("run.md", "index.md")),
    ):
        assert not re.search(r"\b(\d+(\.\d)?|an|under an) (hours?|h|min)\b", page)


def test_the_table_that_ships_covers_the_collection():
    table = json.loads(needs.TABLE.read_text())
    assert "ci" in table
    for preset, entry in table.items():
        assert set(entry["notebooks"]) == {path.stem for path in notebooks()}, "see tools/needs.py"
        found = needs.needs(preset)
        assert 2**28 < found.memory < 2**36


@pytest.mark.skipif(doctor._gpu() is not None, reason="a GPU is asked through torch")
def test_without_a_gpu_the_doctor_imports_nothing_that_takes_seconds():
    code = "import sys\nfrom tp4lib.collection.commands.doctor import doctor\ndoctor()\n" \
           "print(*{'torch', 'gensim', 'scipy', 'matplotlib'} & set(sys.modules), file=sys.stderr)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"
