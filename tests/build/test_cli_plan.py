"""`thrifty plan` from the command line."""

import json
from pathlib import Path

import pytest
import torch

from thrifty.cli import main as cli


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *words])
    return int(ended.value.code or 0)


def test_a_plan_of_random_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "tiny_nets:net", "--input", "3,8,8", "--batch", "4", "--methods", "reuse", "--seconds", "0.01"]
    assert run(*words, "--json", str(tmp_path / "plan.json"), "--plot", str(tmp_path / "plan.svg")) == 0
    text = capsys.readouterr().out
    assert "tiny_nets:net, 4 images of (3, 8, 8): random images" in text
    assert "reuse" in text and "dense@bf16" in text
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["settings"]["batch"] == 4
    assert written["plan"]["options"][0]["name"] == "dense"
    assert (tmp_path / "plan.svg").exists()


def test_a_plan_of_real_images(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "tiny_nets:net", "--data", "fashion-mnist-slice", "--batch", "6", "--seconds", "0.01"]
    assert (
        run(*words, "--methods", "reuse", "--set", "reuse.measure=false", "--threads", str(torch.get_num_threads()))
        == 0
    )
    assert "6 images of (1, 28, 28): " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "3,8"], "--input 3,8: write channels, height and width"),
        (["--input", "3,8,9"], "and the image a square"),
        (["--model", "vgg18"], "unknown model 'vgg18'"),
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--methods", "reuse", "--set", "lsh.k=3"], "lsh is not among the methods reuse"),
        (["--plot", "plan.gif"], "name a .svg or a .png file"),
        (["--data", "no-such-set"], "no-such-set"),
        (["--seconds", "0"], "budget_s=0.0 must be above 0"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
