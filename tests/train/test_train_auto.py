"""The arm `auto`: it trains with what a plan chose, and a run that goes on keeps to that."""

import functools
import json

import pytest

from thrifty.cli import main as cli
from thrifty.compose.planning import plan
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.report import costs, load
from thrifty.train import TrainConfig, choice, run

SMALL = {
    "model": "tiny_nets:net", "limit_train": 32, "limit_test": 20, "batch_size": 8, "epochs": 1, "methods": "auto",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Plans that take as few steps as plans can."""
    monkeypatch.setattr(choice, "try_methods", functools.partial(plan, budget_s=0.01))


def test_auto_trains_with_the_best_of_its_plan(quick, tmp_path, monkeypatch):
    outcome = run(TrainConfig(**SMALL, out=str(tmp_path / "run")))
    record = json.loads((outcome.folder / "result.json").read_text())
    dense, auto = record["arms"]
    assert (dense["name"], auto["name"]) == ("dense", "auto")
    assert auto["status"] == "finished"
    best = next(option for option in record["plan"]["options"] if option["name"] == record["plan"]["best"])
    assert [method["_type"] for method in auto["methods"]] == [method["_type"] for method in best["methods"]]
    assert (auto["amp"] or "none") == best["amp"]
    assert {option["name"] for option in record["plan"]["options"]} >= {"dense", "reuse", "lsh", "dense@bf16"}

    told = costs.told(load(outcome.folder))
    assert told.startswith(f"The plan chose {best['name']} and expected ") and "in training a step took " in told

    def again(*arguments, **settings):
        raise AssertionError("a run that goes on tries nothing")

    monkeypatch.setattr(choice, "try_methods", again)
    resumed = run(TrainConfig(**SMALL, out=str(tmp_path / "run"), resume=True))
    assert resumed.record["arms"][1]["methods"] == auto["methods"]
    record["arms"][1]["methods"] = [{"_type": "Magic"}]
    (outcome.folder / "result.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="does not say what the arm auto uses"):
        run(TrainConfig(**SMALL, out=str(tmp_path / "run"), resume=True))


def test_a_run_without_auto_has_no_plan(tmp_path):
    outcome = run(TrainConfig(**{**SMALL, "methods": "none"}, out=str(tmp_path / "run")))
    assert outcome.record["plan"] is None


@pytest.mark.parametrize("word", ["auto@bf16", "auto+reuse"])
def test_auto_goes_with_nothing(word, tmp_path):
    with pytest.raises(UsageError, match="auto"):
        run(TrainConfig(**{**SMALL, "methods": word}, out=str(tmp_path / "run")))


def test_the_flag_and_methods_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--auto", "--methods", "reuse"])
    assert ended.value.code == 2
    assert "leave out --methods" in capsys.readouterr().err


def test_the_flag_is_the_arm(quick, tmp_path):
    words = ["--model", "tiny_nets:net", "--limit-train", "16", "--limit-test", "10", "--batch-size", "8"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--auto", *words, "--epochs", "1", "--out", str(tmp_path / "run")])
    assert ended.value.code == 0
    assert [arm["name"] for arm in json.loads((tmp_path / "run" / "result.json").read_text())["arms"]] == [
        "dense",
        "auto",
    ]
