"""`thrifty train --memory`: every step within a limit, the numbers of an unlimited run."""

import json
from pathlib import Path

import numpy as np
import pytest

from thrifty.core.errors import UsageError
from thrifty.train import TrainConfig, run
from thrifty.train.run import Turn
from thrifty.train.trial import load_data

FIXED = {"methods": "reuse@bf16", "settings": ("reuse.measure=false",)}


def losses(asked: TrainConfig, arm: str) -> bytes:
    return np.load(Path(asked.out) / "losses" / f"{arm}.npy").tobytes()


def arms(asked: TrainConfig) -> dict:
    record = json.loads((Path(asked.out) / "result.json").read_text())
    return {arm["name"]: arm for arm in record["arms"]}


@pytest.fixture
def free(config):
    """A run that has a limit which nothing comes near to, and so tells what it needs."""
    asked = config("free", memory="1GiB", **FIXED)
    assert run(asked).exit_code == 0
    return asked


def tight(asked: TrainConfig) -> str:
    """A limit below what the dense arm keeps when it may; its backward pass alone needs 0.65 of that."""
    return f"{int(0.75 * arms(asked)['dense']['memory']['step_peak_bytes'])}B"


def test_a_limit_changes_no_number(config, free):
    plain, limited = config("plain", **FIXED), config("limited", memory=tight(free), **FIXED)
    assert run(plain).exit_code == run(limited).exit_code == 0
    for arm in ("dense", "reuse@bf16"):
        assert losses(plain, arm) == losses(free, arm) == losses(limited, arm)
        assert arms(plain)[arm]["memory"] is None
    found = arms(limited)["dense"]["memory"]
    assert found["recomputed_ops"] > 0 and found["step_peak_bytes"] <= 1.1 * int(tight(free)[:-1])


def test_a_limited_run_resumes_bit_for_bit_and_its_counts_go_on(config, free):
    whole, parted = (config(name, memory=tight(free), **FIXED) for name in ("whole", "parted"))
    assert run(whole).exit_code == 0
    data = load_data(parted.resolved())
    run(parted, turn=Turn(data, until_epoch=1))
    before = arms(parted)["dense"]["memory"]["recomputed_ops"]
    again = TrainConfig(**{**vars(parted), "resume": True})
    assert run(again).exit_code == 0
    assert losses(again, "dense") == losses(whole, "dense")
    assert arms(again)["dense"]["memory"]["recomputed_ops"] > before > 0


def test_a_limit_that_is_too_small_stops_the_arm_with_what_it_needs(config):
    asked = config("small", memory="10B")
    assert run(asked).exit_code == 1
    assert "too small for this step" in arms(asked)["dense"]["message"]


def test_a_resumed_run_keeps_its_limit(config, free, thrifty):
    found = thrifty("train", "--resume", "--out", str(free.out), "--memory", "2GiB")
    assert found.returncode == 1 and "--memory 1GiB, not 2GiB" in found.stdout + found.stderr


def test_limits_that_cannot_be_meant():
    with pytest.raises(UsageError, match="give bytes with their unit"):
        TrainConfig(memory="a lot")
    with pytest.raises(UsageError, match=r"checkpointing and torch\.compile cannot be on one model: compiled code"):
        TrainConfig(memory="1GiB", compile=True)
