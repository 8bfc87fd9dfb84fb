"""The README's commands and its Python run as they stand, in the environment it makes; its numbers are measured."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tp4lib.base import paths

ROOT = paths.checkout()
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that looks like a checkout after `make figures`: `.venv` is the environment of these tests."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv" / "bin").mkdir(parents=True)
    for tool in Path(sys.executable).parent.iterdir():
        if tool.name != "activate":
            (folder / ".venv" / "bin" / tool.name).symlink_to(tool)
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
    for target in wanted:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_commands_run_as_they_stand(place):
    """All of them in order, in one shell, but for JupyterLab, which does not end."""
    commands = [line for line in COMMANDS if not line.startswith("jupyter lab")]
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=place,
        env=environment(TP4_OUT=""),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for out in re.findall(r"--out (\S+)", "\n".join(commands)):
        assert any((place / out).iterdir()), f"{out} is empty"
    assert (place / "runs" / "first" / "index.html").is_file()


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
        process.wait(timeout=30)
        process.stderr.close()


def test_python_runs_as_it_stands(place):
    """After the commands, whose vectors it reads."""
    if not (place / "runs" / "w2v" / "vectors.bin").is_file():
        pytest.skip("the commands that make its vectors did not run; run the whole file")
    for kind, block in BLOCKS:
        if kind == "python":
            subprocess.run(
                [sys.executable, "-c", block], cwd=place, env=environment(), check=True, timeout=120
            )


def test_generated_parts_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("gallery_measured", ROOT / "docs" / "measured.py")
    measured = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measured)
    assert "<!-- begin notebooks -->" in README
    assert measured.renewed(README) == README, "run `python docs/measured.py` and commit the README"


def test_every_link_leads_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
