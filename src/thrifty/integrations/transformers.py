"""The Hugging Face Trainer: methods on the model of a Trainer.

    trainer = Trainer(model=model, args=arguments, train_dataset=images)
    applied = apply_to_trainer(trainer, [thrifty.Reuse()])
    trainer.train()

Callbacks of the Trainer see neither the loss of a step nor a way to keep tensors, so the trainer's `training_step` is
listened to, and the methods' state lies as `thrifty.pt` beside its other files in every checkpoint folder.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from thrifty.compose import Applied, apply_
from thrifty.compose.apply import Filter
from thrifty.core import tensors_file
from thrifty.core.atomic import write_bytes
from thrifty.core.config import MethodConfig
from thrifty.core.errors import CheckpointError
from thrifty.integrations.step_loss import StepLoss

STATE_NAME = "thrifty.pt"


def apply_to_trainer(trainer: Trainer, methods: Sequence[MethodConfig], *, filter_fn: Filter | None = None) -> Applied:
    """Put methods on `trainer.model`, before `trainer.train()`, and have the trainer step them.

    Args:
        trainer: a Trainer that has not begun to train.
        methods: configs, as for `thrifty.apply_`.
        filter_fn: as for `thrifty.apply_`.

    Returns:
        The account of what was changed; its `step` is called by the trainer, not by you.

    Raises:
        UsageError, ModelError: as `thrifty.apply_`; a model that the trainer has wrapped already is refused.
    """
    model = trainer.model_wrapped if trainer.model_wrapped is not None else trainer.model
    applied = apply_(model, methods, optimizer=trainer.optimizer, filter_fn=filter_fn)
    trainer.add_callback(_Steps(trainer, applied))
    return applied


class _Steps(TrainerCallback):
    """Hands the loss of every optimizer step to the methods, and keeps their state with the checkpoints."""

    def __init__(self, trainer: Trainer, applied: Applied) -> None:
        self._trainer, self._applied, self._loss = trainer, applied, StepLoss()
        inner = trainer.training_step

        def training_step(*positional: Any, **keywords: Any) -> torch.Tensor:
            loss: torch.Tensor = inner(*positional, **keywords)
            self._loss.add(loss)  # the trainer has divided it by the batches, or by the items, of a step
            return loss

        trainer.training_step = training_step  # type: ignore[method-assign]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self._resume(_folder(args, state) / STATE_NAME)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        total = self._loss.take(mean=False)
        if total is not None:
            self._applied.step(self._trainer.accelerator.reduce(total, reduction="mean"))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            memory = io.BytesIO()
            torch.save(self._applied.state_dict(), memory)
            write_bytes(_folder(args, state) / STATE_NAME, memory.getvalue())

    def _resume(self, path: Path) -> None:
        if not path.exists():
            warnings.warn(f"{path} is not there, so the methods begin anew while the training goes on", stacklevel=2)
            return
        try:
            self._applied.load_state_dict(tensors_file.read(path))
        except (tensors_file.DamagedFileError, OSError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): remove it, and the methods begin anew") from error


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
