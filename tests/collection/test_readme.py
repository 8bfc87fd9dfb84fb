"""The commands and the Python of the README and of docs/run.md run as they stand, in the environment that the README
makes; the README's numbers are measured."""

import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from tests.scripts import script
from tp4lib.base import paths

ROOT = paths.checkout()
README = (ROOT / "README.md").read_text("utf-8")
RUN = (ROOT / "docs" / "run.md").read_text("utf-8")
BLOCKS, MORE = (
    re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for page in (README, RUN)
)
COMMANDS, OTHERS = (
    [line for kind, block in blocks if kind == "bash" for line in block.splitlines()]
    for blocks in (BLOCKS, MORE)
)
# What eight GPUs do with a text of a gigabyte, one process does here with a piece of it.
SMALLER = {
    "--nproc-per-node=8": "--nproc-per-node=1", "--min-count 10": "--min-count 10 --max-bytes 400000",
    "--epochs 5": "--epochs 1", "--save-dim 300": "--save-dim 30",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that looks like a checkout after `make figures`: `.venv` is the environment of these tests."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv" / "bin").mkdir(parents=True)
    for tool in Path(sys.executable).parent.iterdir():
        if tool.name not in ("activate", "tp4"):
            (folder / ".venv" / "bin" / tool.name).symlink_to(tool)
    # The command as the installer makes it from this pyproject; the one that is installed may be of an earlier version.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, function = project["scripts"]["tp4"].split(":")
    command = folder / ".venv" / "bin" / "tp4"
    command.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
    command.chmod(0o755)
    # The environment's own script would put the environment's folder first: the same, under its first name.
    (folder / ".venv" / "bin" / "activate").write_text(f'export PATH="{folder}/.venv/bin:$PATH"\n')
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    return folder


def environment(**more):
    return os.environ | {"PYTHONPATH": str(ROOT), "TP4_OFFLINE": "1", "TP4_PROGRESS": "0"} | more


def test_the_two_commands_are_targets_of_make():
    first = next(block for kind, block in BLOCKS if kind == "")
    wanted = {line.split()[1] for line in first.splitlines()}
    assert wanted == {"figures", "test"}
    assert {kind for kind, _ in BLOCKS} == {"", "bash", "python", "bibtex"}
    assert [block for kind, block in BLOCKS if kind == ""] == [first], "every other command is run below"
    for target, last in (("figures", "reproduce --preset ci --out runs/ci"), ("test", "-m pytest")):
        apart = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", "-n", "--no-print-directory", target]
        done = subprocess.run(command, cwd=ROOT, env=apart, check=True, capture_output=True, text=True)
        assert last in done.stdout.splitlines()[-1]


def run(place, commands: list[str]) -> str:
    """Their output; all of them in order, in one shell, with `.venv` activated."""
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(["source .venv/bin/activate", *commands])],
        cwd=place,
        env=environment(TP4_OUT=""),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for out in re.findall(r"--out (\S+)", "\n".join(commands)):
        assert any((place / out).iterdir()), f"{out} is empty"
    return done.stdout


def test_commands_run_as_they_stand(place):
    """But for JupyterLab, which does not end, and sizes that need eight GPUs."""
    commands = [line for line in COMMANDS if not line.startswith("jupyter lab")]
    assert commands[0] == "source .venv/bin/activate"
    assert sum(line.startswith("torchrun") for line in commands) == 1
    for size, smaller in SMALLER.items():
        commands = [line.replace(size, smaller) if line.startswith("torchrun") else line for line in commands]
    printed = run(place, commands)
    assert len(re.findall(r"^ +-?\d\.\d{4}  \w+$", printed, re.MULTILINE)) == 10, "neighbours"
    assert (place / "runs" / "first" / "index.html").is_file()
    assert (place / "runs" / "fil9" / "vectors.bin").is_file()


def test_commands_of_the_page_run_as_they_stand(place):
    printed = run(place, OTHERS)
    assert re.search(r"own.txt, width 32, \d words: ", printed)
    assert (place / "results" / "index.html").is_file()


def test_jupyter_lab_starts(place):
    line = next(line for line in COMMANDS if line.startswith("jupyter lab"))
    notebook = shlex.split(line)[-1]
    assert (place / notebook).is_file()
    process = subprocess.Popen(
        ["bash", "-c", f". .venv/bin/activate; exec {line} --no-browser --allow-root --port 0"],
        cwd=place,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    ending = threading.Timer(120, process.kill)  # a server that says nothing ends the reading below
    ending.start()
    try:
        seen = []
        for text in process.stderr:
            seen.append(text)
            if "is running at" in text:
                break
        else:
            pytest.fail("".join(seen)[-2000:])
        assert any("Serving notebooks" in text and text.rstrip().endswith("notebooks") for text in seen)
    finally:
        ending.cancel()
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # how soon a server ends is not ours to test
            process.kill()
            process.wait(timeout=30)
        process.stderr.close()


def test_python_runs_as_it_stands(place):
    """After the commands, whose vectors it reads."""
    if not (place / "runs" / "w2v" / "vectors.bin").is_file():
        pytest.skip("the commands that make its vectors did not run; run the whole file")
    for kind, block in BLOCKS + MORE:
        if kind == "python":
            subprocess.run(
                [sys.executable, "-c", block], cwd=place, env=environment(), check=True, timeout=120
            )


def test_generated_parts_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    measured = script("measured", "docs")
    assert "<!-- begin notebooks -->" in README
    assert measured.renewed(README) == README, "run `python docs/measured.py` and commit the README"


def test_every_link_leads_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
