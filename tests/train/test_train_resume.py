"""A killed run that is continued equals an unbroken one, byte for byte; and what is in the way of continuing."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_nets
import torch

from thrifty.core.errors import CheckpointError, UsageError
from thrifty.train import TrainConfig, load_weights, run
from thrifty.train.config import flag

STEPS_PER_EPOCH = 7
STEPS = 3 * STEPS_PER_EPOCH
REUSE = (
    "reuse.patience=3", "reuse.smoothing_steps=2", 'reuse.stages=[{"length":8,"bits":4}]',
    "reuse.measure=false",  # by the clock no two runs would be equal
)  # fmt: skip


def words(config: TrainConfig) -> list[str]:
    """The command line that asks for `config`."""
    found = ["train"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is True:
            found.append(flag(field.name))
        elif field.name == "settings":
            found += [word for setting in value for word in ("--set", setting)]
        elif value != field.default:
            found += [flag(field.name), str(value)]
    return [word for word in found if word not in ("--no-augment", "--channels-last")]


def resume(config: TrainConfig):
    return run(dataclasses.replace(config, resume=True))


def record(config: TrainConfig) -> dict[str, Any]:
    return json.loads((Path(config.out) / "result.json").read_text())


def losses(config: TrainConfig, arm: str) -> np.ndarray:
    return np.load(Path(config.out) / "losses" / f"{arm}.npy")


def same_weights(a: TrainConfig, b: TrainConfig, arm: str) -> bool:
    one, other = load_weights(a.out, arm), load_weights(b.out, arm)
    return list(one) == list(other) and all(
        one[key].stride() == other[key].stride() and one[key].numpy().tobytes() == other[key].numpy().tobytes()
        for key in one
    )


def results(config: TrainConfig, arm: str) -> list:
    found = next(state for state in record(config)["arms"] if state["name"] == arm)
    assert found["status"] == "finished"
    keys = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")
    rows = [[row[key] for key in keys] for row in found["epochs"]]
    return [rows, found["events"], found["steps"], found["macs"], found["dense_macs"]]


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("dense", {"schedule": "cosine", "nesterov": True}),
        ("dense", {"optimizer": "adamw", "label_smoothing": 0.1, "amp": "bf16"}),
        ("reuse", {"methods": "reuse", "baseline": "none", "settings": REUSE}),
    ],
    ids=["sgd", "adamw-bf16", "reuse"],
)
def test_killed_run_continues_bit_for_bit(thrifty, config, capsys, arm, settings):
    whole, broken = config("whole", **settings), config("broken", **settings)
    assert run(whole).exit_code == 0

    # The 12th step lies inside the second epoch, and the last checkpoint is that of step 10.
    killed = thrifty(*words(broken), **{tiny_nets.KILL_AT: "12"})
    assert killed.returncode == -signal.SIGKILL
    assert record(broken)["status"] == "running"
    capsys.readouterr()
    assert resume(broken).exit_code == 0
    assert "going on after step 10 of 21" in capsys.readouterr().out

    assert losses(broken, arm).tobytes() == losses(whole, arm).tobytes()
    assert len(losses(whole, arm)) == STEPS
    assert same_weights(whole, broken, arm)
    assert results(whole, arm) == results(broken, arm)
    if arm == "reuse":
        moves = record(whole)["arms"][0]["events"]
        assert moves and moves[-1]["step"] < STEPS, "the controller must have moved, or this shows little"


def test_run_of_several_arms_killed_twice_does_not_redo_what_is_done(thrifty, config, capsys):
    arms = {"methods": "reuse,dense@bf16", "settings": REUSE}
    whole, broken = config("whole", **arms), config("broken", **arms)
    assert run(whole).exit_code == 0
    killed = thrifty(*words(broken), **{tiny_nets.KILL_AT: str(STEPS + 10)})
    assert killed.returncode == -signal.SIGKILL
    assert [arm["status"] for arm in record(broken)["arms"]] == ["finished", "running", "pending"]
    first = (Path(broken.out) / "checkpoints" / "dense" / "last.pt").stat()
    # Everything but the folder is taken from the record.
    again = thrifty("train", "--resume", "--out", broken.out, **{tiny_nets.KILL_AT: "7"})
    assert again.returncode == -signal.SIGKILL
    capsys.readouterr()
    assert resume(broken).exit_code == 0
    shown = capsys.readouterr().out
    assert "dense: finished before" in shown and "going on after step 14 of 21" in shown
    assert (Path(broken.out) / "checkpoints" / "dense" / "last.pt").stat() == first
    for arm in ("dense", "reuse", "dense@bf16"):
        assert same_weights(whole, broken, arm)
        assert results(whole, arm) == results(broken, arm)
    assert record(broken)["status"] == "finished"
    assert len(record(broken)["resumed"]) == 2


def test_interrupted_run_says_how_to_go_on_and_does(thrifty, config):
    whole, broken = config("whole"), config("broken")
    assert run(whole).exit_code == 0
    interrupted = thrifty(*words(broken), **{tiny_nets.SIGNAL_AT: "9"})
    assert interrupted.returncode == 130
    assert f"go on with: thrifty train --resume --out {broken.out}" in interrupted.stdout
    assert record(broken)["status"] == "stopped"
    assert "step 9 of 21" in record(broken)["arms"][0]["message"]
    assert resume(broken).exit_code == 0
    assert same_weights(whole, broken, "dense")
    assert results(whole, "dense") == results(broken, "dense")


@pytest.fixture
def broken(config, monkeypatch) -> TrainConfig:
    """A run that was interrupted in its second epoch."""
    monkeypatch.setenv(tiny_nets.SIGNAL_AT, "10")
    monkeypatch.setattr(tiny_nets._SignalAt, "steps", 0)
    asked = config("broken")
    assert run(asked).exit_code == 130
    monkeypatch.delenv(tiny_nets.SIGNAL_AT)
    return asked


def snapshot(config: TrainConfig) -> dict[str, bytes]:
    files = Path(config.out).rglob("*")
    return {str(path): path.read_bytes() for path in files if path.is_file() and path.name != ".lock"}


def checkpoints(config: TrainConfig) -> list[Path]:
    return [Path(config.out) / "checkpoints" / "dense" / name for name in ("last.pt", "previous.pt")]


def test_damaged_newest_checkpoint_falls_back_loudly_to_the_one_before(broken, capsys):
    last = checkpoints(broken)[0]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, in the middle of some tensor
    last.write_bytes(content)
    assert resume(broken).exit_code == 0
    shown = capsys.readouterr().out
    assert "warning: " in shown and "going on from previous.pt" in shown and "going on after step 8" in shown


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "truncate"])
def test_when_every_checkpoint_is_damaged_they_are_left_alone(broken, damage):
    for path in checkpoints(broken):
        path.write_bytes(path.read_bytes()[:-100] if damage == "truncate" else damage)
    before = [path.read_bytes() for path in checkpoints(broken)]
    with pytest.raises(CheckpointError, match=r"last\.pt .*previous\.pt .*--overwrite") as caught:
        resume(broken)
    assert "\n" not in str(caught.value)
    assert [path.read_bytes() for path in checkpoints(broken)] == before


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_checkpoint_never_runs_code(broken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in checkpoints(broken):
        torch.save({"format": 1, "identity": {}, "state": Evil()}, path)
    with pytest.raises(CheckpointError):
        resume(broken)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "cifarnet"}, "--model tiny_nets:net, not cifarnet"),
        ({"batch_size": 4}, "--batch-size 8, not 4"),
        ({"seed": 1}, "--seed 0, not 1"),
        ({"methods": "reuse"}, "--methods none, not reuse"),
    ],
)
def test_other_settings_are_another_run(broken, changed, message):
    before = snapshot(broken)
    with pytest.raises(CheckpointError, match=message):
        resume(dataclasses.replace(broken, **changed))
    assert snapshot(broken) == before


def test_other_images_are_another_run(broken, image_folder, tmp_path):
    fewer = shutil.copytree(image_folder, tmp_path / "elsewhere" / image_folder.name)
    next(fewer.glob("train/class1/*.png")).unlink()
    asked = Path(broken.out) / "result.json"
    content = json.loads(asked.read_text())
    content["settings"]["data"] = str(fewer)
    asked.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="train images 60, not 59"):
        resume(dataclasses.replace(broken, data=str(fewer)))


def test_command_line_tells_another_model_in_one_line_and_touches_nothing(thrifty, broken):
    before = snapshot(broken)
    resumed = thrifty("train", "--resume", "--out", broken.out, "--model", "cifarnet")
    assert resumed.returncode == 1
    assert resumed.stderr.startswith("error: ") and resumed.stderr.count("\n") == 1
    assert "--model tiny_nets:net, not cifarnet" in resumed.stderr
    assert snapshot(broken) == before


def test_checkpoint_of_another_model_in_the_same_place(broken, config):
    other = config("other", model="lstm", epochs=1)
    assert run(other).exit_code == 0
    checkpoints(broken)[0].write_bytes(checkpoints(other)[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"belongs to another run .*model is lstm, not tiny_nets:net"):
        resume(broken)


def test_nothing_to_resume(config, tmp_path):
    with pytest.raises(UsageError, match="nothing to resume"):
        resume(config("absent"))
    assert not (tmp_path / "absent").exists()


def test_damaged_record_is_told(broken):
    (Path(broken.out) / "result.json").write_text('{"settings": ')
    with pytest.raises(CheckpointError, match=r"result\.json cannot be read"):
        resume(broken)


def test_finished_run_is_not_trained_again(config, capsys):
    asked = config("done", limit_steps=3)
    assert run(asked).exit_code == 0
    before = [path.stat() for path in checkpoints(asked) if path.exists()]
    capsys.readouterr()
    assert resume(asked).exit_code == 0
    assert "dense: finished before" in capsys.readouterr().out
    assert [path.stat() for path in checkpoints(asked) if path.exists()] == before
