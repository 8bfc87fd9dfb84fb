"""`benchmarks/gpu_accept.py`: what is done is not done again, and a step that fails loses no other."""

import json

import pytest

from tests.scripts import script
from tp4lib.base.errors import InputError


@pytest.fixture
def accept(tmp_path, monkeypatch):
    module, done = script("gpu_accept"), []

    def step(name, holds=True):
        def run(device, small):
            done.append(name)
            if name == "broken":
                raise RuntimeError("out of memory")
            return {"holds": holds}

        return module.Step(run, f"{name} holds", 1)

    monkeypatch.setattr(module, "STEPS", {name: step(name) for name in ("first", "broken", "last")})

    def main(*more):
        done.clear()
        code = module.main(["--device", "cpu", "--small", "--out", str(tmp_path / "out.json"), *more])
        return code, list(done)

    main.results = lambda: json.loads((tmp_path / "out.json").read_text())
    return main


def test_only_what_is_missing_is_done_again(accept):
    assert accept() == (1, ["first", "broken", "last"])
    assert accept.results()["steps"]["broken"]["error"] == "RuntimeError: out of memory"
    assert accept() == (1, ["broken"])
    assert accept("--only", "la") == (0, ["last"])


def test_a_file_of_another_card_is_kept(accept, tmp_path):
    (tmp_path / "out.json").write_text(json.dumps({"card": "another", "steps": {}}))
    with pytest.raises(InputError, match="is of another, this is none"):
        accept()
    assert accept.results() == {"card": "another", "steps": {}}


def test_it_says_what_it_knows(accept, capsys):
    assert accept("--list") == (0, [])
    assert "first" in capsys.readouterr().out
    with pytest.raises(InputError, match="no step begins with 'x'; expected one of first, broken, last"):
        accept("--only", "x")


def test_without_a_gpu_it_asks_for_one():
    with pytest.raises(InputError, match="try --small"):
        script("gpu_accept").main(["--device", "cpu"])


def test_the_speed_of_maml_can_be_taken(tmp_path):
    assert (
        script("gpu_accept").main(
            ["--device", "cpu", "--small", "--only", "maml", "--out", str(tmp_path / "x")]
        )
        == 0
    )
