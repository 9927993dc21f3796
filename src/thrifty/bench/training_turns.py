"""Trainings that take turns, an epoch each, so that a machine whose speed drifts treats all alike.

Each is a run of `thrifty.train` in a folder of its own, which continues bit for bit after a kill. What is finished is
not trained again. A run's folder bears a digest of its settings: other settings are other runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.data import ImageData
    from thrifty.train import TrainConfig


@dataclass(frozen=True)
class Training:
    """One arm under one seed.

    Attributes:
        arm: its name in the table.
        config: of a run with this one arm, `out` included.
    """

    arm: str
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(str(self.config.out))

    def record(self) -> dict[str, Any] | None:
        """The run's record as far as it got; None before it was begun."""
        from thrifty.train.folder import RESULT, read_record

        return read_record(self.folder) if (self.folder / RESULT).is_file() else None

    def state(self) -> dict[str, Any]:
        """The arm's part of the record; `status` is `pending` before the run was begun."""
        record = self.record()
        return record["arms"][0] if record else {"status": "pending", "epochs": []}

    def over(self) -> bool:
        """Whether nothing is left to train: it finished, or had to stop for good."""
        state = self.state()
        return state["status"] == "finished" or (state["status"] == "stopped" and not state.get("resumable"))


def make_training(arm: str, config: TrainConfig, parent: Path) -> Training:
    """Give a run its folder below `parent`. Raises UsageError where its arm or the settings of that are not known."""
    from thrifty.train.arms import parse_arms
    from thrifty.train.resume import settings_of

    parse_arms(config)
    settings = {**settings_of(config), "data_root": None}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{arm.replace(' ', '-')}-seed{config.seed}-{digest}"
    return Training(arm, replace(config, out=str(parent / name)))


def forget(trainings: Sequence[Training]) -> None:
    """Remove the runs, so that they are trained anew."""
    for training in trainings:
        shutil.rmtree(training.folder, ignore_errors=True)


def train_in_turn(trainings: list[Training], data: ImageData, *, command: str, console: Console) -> None:
    """Train what is not over, an epoch of each at a time.

    Raises:
        KeyboardInterrupt: a run was asked to stop; it goes on from there when this is called again.
        ThriftyError: as `thrifty.train.run` does.
    """
    from thrifty.train import Turn, run
    from thrifty.train.checkpoint import thin
    from thrifty.train.display import Display
    from thrifty.train.folder import checkpoints

    Display(console).headings()
    waiting = [training for training in trainings if not training.over()]
    while waiting:
        for training in list(waiting):
            done = len(training.state()["epochs"])
            config = replace(training.config, resume=training.record() is not None)
            outcome = run(config, command=command, console=console, turn=Turn(data, done + 1))
            if outcome.interrupted:
                console.print("interrupted: the same command goes on from here", markup=False)
                raise KeyboardInterrupt
            if training.over():
                waiting.remove(training)
                thin(checkpoints(training.folder, training.state()["name"]))
