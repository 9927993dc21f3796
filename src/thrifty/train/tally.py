"""What an arm has done so far, in plain numbers: everything that a checkpoint needs besides the tensors."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from thrifty.core.errors import CheckpointError


@dataclass
class Tally:
    """Sums of one arm; the seconds are of the steps that count, so work that a kill undid is not in them.

    Attributes:
        epoch: whole epochs done, tested and recorded.
        epoch_step: steps done of the epoch in progress.
        step: steps done in all.
        samples: training images seen in all.
        loss_sum: sum over the images of the epoch in progress.
        correct: images of the epoch in progress that were classified rightly, in training.
        seen: images of the epoch in progress.
        learning_rate: of the last step.
        train_s: seconds of forward, backward and update.
        compile_s: seconds of the steps that compiled the model; they are not in `train_s`.
        timed_steps: steps whose seconds are in `train_s`.
        data_s: seconds of waiting for batches.
        eval_s: seconds of testing.
        peak_bytes: highest peak memory so far.
        step_peak_bytes: most bytes that a step made, under a limit of memory; 0 without one.
        recomputed_ops: operations that were called again under it.
        sent_bytes: of gradients that each worker sent to the others.
        looks: what the methods tell of their layers since the last test, by layer; see `compose.looks`.
        losses: loss of every step.
        epochs: a row an epoch, as in `result.json`.
    """

    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    learning_rate: float = 0.0
    train_s: float = 0.0
    compile_s: float = 0.0
    timed_steps: int = 0
    data_s: float = 0.0
    eval_s: float = 0.0
    peak_bytes: int = 0
    step_peak_bytes: int = 0
    recomputed_ops: int = 0
    sent_bytes: int = 0
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def add_step(self, *, loss: float, correct: int, images: int, learning_rate: float) -> None:
        """Count one training step of `images` images with the mean `loss`."""
        self.epoch_step += 1
        self.step += 1
        self.samples += images
        self.loss_sum += loss * images
        self.correct += correct
        self.seen += images
        self.learning_rate = learning_rate
        self.losses.append(loss)

    def end_epoch(self, *, test_loss: float, test_accuracy: float) -> dict[str, Any]:
        """Close the epoch in progress and return its row."""
        self.epoch += 1
        row = {
            "epoch": self.epoch,
            "train_loss": self.loss_sum / self.seen,
            "train_accuracy": self.correct / self.seen,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "train_s": self.train_s,
            "data_s": self.data_s,
            "eval_s": self.eval_s,
            "learning_rate": self.learning_rate,
        }
        self.epochs.append(row)
        self.epoch_step, self.loss_sum, self.correct, self.seen = 0, 0.0, 0, 0
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain data, the losses as one float64 tensor."""
        return {**asdict(self), "losses": torch.tensor(self.losses, dtype=torch.float64)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Tally":
        """Build the tally that `state_dict` described. Raises CheckpointError when a field is missing or unknown."""
        if set(state) != {item.name for item in fields(cls)}:
            raise CheckpointError("the checkpoint's sums are of another version of thrifty: start anew")
        return cls(**{**state, "losses": state["losses"].tolist()})
