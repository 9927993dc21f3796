"""accelerate: methods on a model that an Accelerator is about to prepare.

    methods = apply_with(accelerator, model, [thrifty.Reuse()], optimizer=optimizer)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in loader:
        with accelerator.accumulate(model):
            ...                                   # your own step
            methods.step(loss)

The methods' state travels with `accelerator.save_state` and `load_state`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from thrifty.compose import Applied, apply_
from thrifty.compose.apply import Filter
from thrifty.core.config import MethodConfig
from thrifty.core.counters import Event
from thrifty.integrations.step_loss import StepLoss


class AcceleratedMethods:
    """The handle that belongs into a loop under accelerate; made by `apply_with`.

    Attributes:
        applied: the account of what was changed.
    """

    def __init__(self, accelerator: Accelerator, applied: Applied) -> None:
        self.applied = applied
        self._accelerator, self._loss = accelerator, StepLoss()

    def step(self, loss: Tensor) -> list[Event]:
        """Let the methods see the loss of one batch; they move when the batch completes an optimizer step.

        Args:
            loss: as given to `accelerator.backward`, a tensor with one element.

        Raises:
            NonFiniteError: the loss, averaged over batches and processes, is not finite.
        """
        self._loss.add(loss)
        if not self._accelerator.sync_gradients:
            return []
        return self.applied.step(self._accelerator.reduce(self._loss.take(mean=True), reduction="mean"))


def apply_with(
    accelerator: Accelerator,
    model: nn.Module,
    methods: Sequence[MethodConfig],
    *,
    optimizer: Any = None,
    filter_fn: Filter | None = None,
) -> AcceleratedMethods:
    """Put methods on `model`; call it before `accelerator.prepare`.

    Args:
        accelerator: registers the methods' state for its checkpoints.
        model: not yet prepared.
        methods: configs, as for `thrifty.apply_`.
        optimizer: as for `thrifty.apply_`.
        filter_fn: as for `thrifty.apply_`.

    Raises:
        UsageError, ModelError: as `thrifty.apply_`; a prepared model on several processes is refused.
    """
    applied = apply_(model, methods, optimizer=optimizer, filter_fn=filter_fn)
    accelerator.register_for_checkpointing(applied)
    return AcceleratedMethods(accelerator, applied)
