"""All methods in one training step: layers, precision, data parallelism, checkpointing, each at its place in `rules`.

    training = thrifty.together(model, [thrifty.Reuse(), thrifty.Precision("bf16")], optimizer=optimizer)
    for images, labels in batches:
        loss = training.step(lambda: criterion(training(images), labels))

The loop, the schedule of the learning rate, testing and saving stay the user's own: this is a step, not a trainer. Each
part is what it is by itself (`apply_`, `MixedPrecision`, `data_parallel`, `checkpointing`), and whoever wants to see
the lines in between writes them in the order of the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from thrifty.autodiff import Checkpointing, MemoryLimit, checkpointing
from thrifty.compose import rules
from thrifty.compose.applied import Applied
from thrifty.compose.apply import Filter, apply_
from thrifty.compose.merged import merge_gradients
from thrifty.core.config import MethodConfig
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.core.inspection import makes_sparse_gradients, refuse_wrapped
from thrifty.core.lockstep import apart
from thrifty.core.optimizers import Lazy, check_optimizer
from thrifty.core.registry import method_of
from thrifty.distributed import MergedGradients
from thrifty.distributed.precision import MixedPrecision, Precision, check_fits

_WHOLE = (Precision, MergedGradients, MemoryLimit)
"""What is placed around the layers here; all other methods are `apply_`'s."""


class Together:
    """The methods at work in one training; made by `together`.

    Attributes:
        model: as given, with its layers changed; for testing and saving.
        optimizer: as given.
        applied: the account of the changed layers; None where no method changes layers.
        precision: in which the model computes; of fp32 where none was asked for.
        memory: the checkpointing of all steps, which tells peak and recomputation; None without a limit.
    """

    def __init__(
        self, model: nn.Module, methods: Sequence[MethodConfig], optimizer: Any, group: Any, filter_fn: Filter | None
    ) -> None:
        whole = {type(config): config for config in methods if isinstance(config, _WHOLE)}
        layers = [config for config in methods if not isinstance(config, _WHOLE)]
        policy, limit, merge = (whole.get(kind) for kind in (Precision, MemoryLimit, MergedGradients))
        self.model, self.optimizer, self._group = model, optimizer, group
        self._merge = merge if merge is not None and apart() else None
        if self._merge is not None and group is None:
            from torch.distributed import group as known

            self._group = known.WORLD
        self.applied: Applied | None = None
        if layers:
            self.applied = apply_(model, layers, optimizer=optimizer, filter_fn=filter_fn, group=self._group)
        assert policy is None or isinstance(policy, Precision)
        self.precision = MixedPrecision(policy or Precision(), model, optimizer, group=self._group)
        self.memory: Checkpointing | None = checkpointing(limit.memory) if isinstance(limit, MemoryLimit) else None
        self._called: nn.Module = model

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Call the model, through what wraps it for data parallelism."""
        return self._called(*inputs, **keywords)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that steps compute in, for testing in the same."""
        return self.precision.autocast()

    def step(self, loss: Callable[[], Tensor]) -> Tensor:
        """Do one training step: forward and backward pass, update, and the moves of the methods.

        Args:
            loss: computes the loss of a batch with this object in place of the model, as one number. Called once; in
                the first step with merged gradients some times more, to measure.

        Returns:
            The loss, without its graph; with data parallelism this process's own.

        Raises:
            UsageError: a loss that is not one number.
            MemoryLimitError: a limit that is too small for the step.
            NonFiniteError: the loss is not finite, with a method that changes layers.
            DistributedError: a worker was lost.
        """
        if self._merge is not None:
            self._wrap(loss)
        with nullcontext() if self.memory is None else self.memory:
            found = self._loss(loss)
            self.precision.zero_grad()
            self.precision.backward(found)
        self.precision.step()
        value = found.detach()
        if self.applied is not None:
            self.applied.step(value)
        return value

    def _loss(self, loss: Callable[[], Tensor]) -> Tensor:
        with self.precision.autocast():
            found = loss()
        if not isinstance(found, Tensor) or found.numel() != 1:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(f"step() takes a function that returns the loss as one number, got {what}: reduce it")
        return found

    def _wrap(self, loss: Callable[[], Tensor]) -> None:
        """Measure on the first batch, and wrap the model."""
        assert isinstance(self._merge, MergedGradients)
        self._called, _ = merge_gradients(
            self.model, lambda: self._loss(loss), self._merge, applied=self.applied, group=self._group
        )
        self._merge = None

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs, as tensors and plain data: `torch.load(weights_only=True)` reads it.

        `state["model"]` has the stock keys, and fp32 masters in place of 16-bit weights.
        """
        return {
            "model": self.precision.weights(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "methods": self.applied.state_dict() if self.applied is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over such a state of the same methods.

        Raises:
            CheckpointError: when it is damaged, or of other methods or another model; the training is of no use then.
        """
        try:
            if (state["methods"] is None) != (self.applied is None):
                raise CheckpointError("the checkpoint was made with other methods: give the same to thrifty.together")
            self.precision.load_state_dict(state["precision"])
            self.precision.load_weights(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.applied is not None:
                self.applied.load_state_dict(state["methods"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"the checkpoint does not fit this training ({reason}): load another") from error


def together(
    model: nn.Module,
    methods: Sequence[MethodConfig],
    *,
    optimizer: Any,
    group: Any = None,
    filter_fn: Filter | None = None,
) -> Together:
    """Put any combination of methods on one training, each at its place; see `rules` for the order and its reasons.

    Args:
        model: not yet wrapped or compiled, in fp32; changed in place.
        methods: configs, each once: `Reuse`, `LSH`, `Precision`, `MergedGradients`, `MemoryLimit`. None of them is fine
            too: the steps are then those of torch, bit for bit.
        optimizer: over the model's parameters.
        group: the processes that train together; with `MergedGradients` all of the world where None. On a single
            process there is nothing to merge, and the same program runs.
        filter_fn: see `apply_`.

    Returns:
        What runs a training step: `loss = training.step(lambda: criterion(training(images), labels))`.

    Raises:
        UsageError: methods that cannot go together, and what to do; a foreign optimizer.
        ModelError: a model that is wrapped or compiled, or that a method is already on.
    """
    if not isinstance(methods, Sequence) or isinstance(methods, str):
        raise UsageError('together takes a list of method configs, for example [thrifty.Reuse(), Precision("bf16")]')
    if not isinstance(model, nn.Module):
        raise UsageError(f"together takes a torch.nn.Module, got {type(model).__name__}")
    refuse_wrapped(model, "thrifty.together")
    for config in methods:
        if (instead := method_of(config).instead) and not isinstance(config, _WHOLE):
            raise UsageError(instead)
    check_optimizer(optimizer, model)
    rules.check([config.method for config in methods], _taking_part(model, methods, optimizer))
    for config in methods:
        if isinstance(config, Precision):
            check_fits(config, model, optimizer)
        elif isinstance(config, MergedGradients):
            _check_joined()
    return Together(model, methods, optimizer, group, filter_fn)


def _taking_part(model: nn.Module, methods: Sequence[MethodConfig], optimizer: Any) -> set[str]:
    """The rows of the table that are no methods."""
    found = {rules.OPTIMIZER}
    if isinstance(optimizer, Lazy):
        found.add(rules.LAZY)
    if makes_sparse_gradients(model):
        found.add(rules.SPARSE)
    if any(isinstance(config, Precision) and config.half_weights for config in methods):
        found.add(rules.HALF_WEIGHTS)
    return found


def _check_joined() -> None:
    size = os.environ.get("WORLD_SIZE", "1")
    if size not in ("", "1") and not apart():
        raise UsageError(
            f"WORLD_SIZE={size} is set and no group is joined: call thrifty.distributed.join() before thrifty.together"
        )
