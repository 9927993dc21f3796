"""TensorBoard event files, where the extra is installed: loss and rate by step, accuracies by epoch."""

import importlib.util
from pathlib import Path
from typing import Any

from thrifty.core.errors import UsageError

_EVERY_STEPS = 10


def check_installed() -> None:
    """Raise UsageError unless TensorBoard can be written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the extra: pip install 'thrifty[tensorboard]'")


class Events:
    """The event files of one arm; does nothing when `folder` is None."""

    def __init__(self, folder: Path | None, *, step: int) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run wrote beyond its checkpoint is overwritten by the steps that are done again.
            self._writer = SummaryWriter(str(folder), purge_step=step)

    def step(self, step: int, loss: float, rate: float) -> None:
        """Write the loss and the rate of every tenth step."""
        if self._writer is not None and step % _EVERY_STEPS == 0:
            self._writer.add_scalar("train/loss", loss, step)
            self._writer.add_scalar("train/learning_rate", rate, step)

    def epoch(self, step: int, row: dict[str, Any]) -> None:
        """Write the row of an epoch that ended with `step`."""
        if self._writer is not None:
            for key in ("train_accuracy", "test_accuracy", "test_loss", "train_s"):
                self._writer.add_scalar(f"epoch/{key}", row[key], step)

    def close(self) -> None:
        """Write what is pending and close the files."""
        if self._writer is not None:
            self._writer.close()
