"""Runs that take turns train as if each were alone; a compiled run trains on the stock model's weights."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from thrifty.train import Turn, load_weights, run
from thrifty.train.trial import load_data

SETTINGS = ('reuse.stages=[{"length":8,"bits":4}]', "reuse.measure=false")  # by the clock no two runs would be equal
REUSE = {"methods": "reuse", "baseline": "none", "settings": SETTINGS}


def arm_of(config):
    return json.loads((Path(config.out) / "result.json").read_text())["arms"][0]


@pytest.mark.parametrize("settings", [{"methods": "none"}, REUSE], ids=["dense", "reuse"])
def test_turns_end_where_one_go_ends(config, settings):
    whole, first, second = (config(name, **settings) for name in ("whole", "first", "second"))
    assert run(whole).exit_code == 0
    data = load_data(whole)
    for epoch in (1, 2, 3):
        for one in (first, second):
            outcome = run(dataclasses.replace(one, resume=epoch > 1), turn=Turn(data, epoch))
            state = arm_of(one)
            assert len(state["epochs"]) == epoch and not outcome.interrupted
            assert state["status"] == ("finished" if epoch == 3 else "stopped")
            assert epoch == 3 or (state["resumable"] and state["message"] == f"paused after epoch {epoch} of 3")
    arm = arm_of(whole)["name"]
    expected = np.load(Path(whole.out) / "losses" / f"{arm}.npy").tobytes()
    for one in (first, second):
        assert np.load(Path(one.out) / "losses" / f"{arm}.npy").tobytes() == expected
        weights, wanted = load_weights(one.out, arm), load_weights(whole.out, arm)
        assert all(weights[key].equal(wanted[key]) for key in wanted)
    assert outcome.record["status"] == "finished"


def test_a_turn_that_is_already_over_trains_nothing(config):
    one = config("one", methods="none")
    data = load_data(one)
    run(one, turn=Turn(data, 2))
    before = arm_of(one)
    again = run(dataclasses.replace(one, resume=True), turn=Turn(data, 1))
    assert again.record["arms"][0]["epochs"] == before["epochs"]
    assert again.record["arms"][0]["steps"] == before["steps"]


def test_turns_announce_an_arm_once(config, capsys):
    one = config("one", methods="none")
    data = load_data(one)
    for epoch in (1, 2):
        run(dataclasses.replace(one, resume=epoch > 1), turn=Turn(data, epoch))
    shown = capsys.readouterr().out
    assert shown.count("parameters") == 1 and "1/3" in shown and "2/3" in shown and "going on" not in shown


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_run_trains_on_stock_weights(thrifty, image_folder, config):
    plain, compiled = config("plain", methods="none", epochs=1), config("compiled")
    assert run(plain).exit_code == 0
    done = thrifty(
        "train", "--compile", "--model", "tiny_nets:net", "--data", str(image_folder), "--methods", "none",
        "--batch-size", "8", "--epochs", "1", "--no-augment", "--threads", "1", "--out", compiled.out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = arm_of(compiled)
    assert state["timed_steps"] == state["steps"] - 1 == 6 and state["compile_s"] > 0
    assert list(load_weights(compiled.out)) == list(load_weights(plain.out)), "the keys are the stock model's"
    assert arm_of(plain)["compile_s"] == 0.0 and arm_of(plain)["timed_steps"] == 7
