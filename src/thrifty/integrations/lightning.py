"""Lightning: the methods as one callback.

    trainer = Trainer(callbacks=[ThriftyCallback([thrifty.Reuse()])], max_epochs=5)
    trainer.fit(module, loader)

The layers are exchanged in `setup`, before Lightning builds optimizers and wraps the module, once however often `fit`
is called. state_dict keys stay the stock ones, so checkpoints load with or without the callback.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from thrifty.compose import Applied, apply_
from thrifty.compose.apply import Filter
from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.integrations.step_loss import StepLoss


class ThriftyCallback(Callback):
    """Puts methods on the module that is fitted, and steps them.

    Args:
        methods: configs, as for `thrifty.apply_`.
        filter_fn: as for `thrifty.apply_`; names are those in the LightningModule.

    Attributes:
        applied: the account of what was changed; None before the first `fit`.

    `thrifty.remove_(module)` puts the stock layers back after `fit`.
    """

    def __init__(self, methods: Sequence[MethodConfig], *, filter_fn: Filter | None = None) -> None:
        super().__init__()
        self.methods, self.filter_fn = tuple(methods), filter_fn
        self.applied: Applied | None = None
        self._module: weakref.ref[LightningModule] | None = None
        self._loss = StepLoss()
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Exchange the layers, where a training begins. Raises what `thrifty.apply_` raises."""
        if stage != "fit" or (self._module is not None and self._module() is pl_module):
            return
        self.applied = apply_(pl_module, self.methods, filter_fn=self.filter_fn)
        self._module = weakref.ref(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take notice of where the training stands: a resumed one does not begin at 0."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the methods see the loss, once an optimizer step is done.

        Raises:
            UsageError: `training_step` returned no loss.
            NonFiniteError: the loss is not finite.
        """
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is None:
            raise UsageError("training_step returned no loss: return it, or a dictionary with the key 'loss'")
        self._loss.add(loss)  # Lightning has divided it by the number of batches of a step
        if trainer.global_step == self._step or self.applied is None:
            return
        self._step = trainer.global_step
        total = self._loss.take(mean=False)
        self.applied.step(trainer.strategy.reduce(total, reduce_op="mean"))

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into Lightning's checkpoint: plain data and tensors."""
        return {} if self.applied is None else self.applied.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over such a state. Raises CheckpointError when it is of other methods or another module."""
        if self.applied is not None and state_dict:
            self.applied.load_state_dict(state_dict)
