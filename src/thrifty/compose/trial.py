"""A combination of methods and precision on a private copy of a model: one training step, to be run and measured.

The copy has an optimizer of its own with a learning rate of zero, so every step is like the first, and the random
numbers that the caller's training will draw are not touched.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from thrifty.compose.applied import Applied
from thrifty.compose.apply import NoEffectWarning, apply_
from thrifty.compose.layer_costs import SavedBytes
from thrifty.core.config import MethodConfig
from thrifty.core.errors import ModelError, ThriftyError, UsageError

LossFn = Callable[[nn.Module, Any], Tensor]
MakeOptimizer = Callable[[nn.Module], Optimizer]
PRECISIONS = ("none", "bf16")


@dataclass(frozen=True)
class Combination:
    """Methods for `apply_`, and the precision of the forward pass: `none` or `bf16` (autocast)."""

    methods: tuple[MethodConfig, ...] = ()
    amp: str = "none"

    @property
    def name(self) -> str:
        """As `thrifty train --methods` takes it."""
        name = "+".join(config.method for config in self.methods) or "dense"
        return name if self.amp == "none" else f"{name}@{self.amp}"

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context that a forward pass runs in."""
        if self.amp == "none":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


class Trial:
    """A copy of `model` under `combination`.

    Args:
        model: a stock model in training mode; it is copied.
        batch: what `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)` is the loss of one step.
        make_optimizer: makes the optimizer over the copy's trainable parameters.

    Attributes:
        applied: the handle of the methods; None without methods.

    Raises:
        UsageError, ModelError: as `apply_`; a model that cannot be copied, or whose step fails or ends in no number.
    """

    def __init__(
        self, model: nn.Module, batch: Any, combination: Combination, loss_fn: LossFn, make_optimizer: MakeOptimizer
    ) -> None:
        try:
            self.model = copy.deepcopy(model)
        except Exception as error:  # a model may hold anything
            raise ModelError(f"the model cannot be copied, which trying methods needs: {_words(error)}") from error
        self.batch, self.combination, self._loss_fn = batch, combination, loss_fn
        self.optimizer = make_optimizer(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.applied: Applied | None = None
        if combination.methods:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffectWarning)
                self.applied = apply_(self.model, combination.methods, optimizer=self.optimizer)
        self._device = next(self.model.parameters()).device

    def loss(self) -> Tensor:
        """The loss of one forward pass."""
        with self.combination.autocast(self._device):
            return self._loss_fn(self.model, self.batch)

    def step(self) -> float:
        """Run one training step, and return its seconds."""
        start = time.perf_counter()
        with self._telling():
            loss = self.loss()
            value = loss.item()
            self._backward(loss)
            self.optimizer.step()
            if self.applied is not None:
                self.applied.step(value)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - start

    def observe(self, seed: int = 0) -> tuple[list[Tensor], int]:
        """Gradients of one step, by parameter, and the bytes kept between its forward and its backward pass."""
        torch.manual_seed(seed)  # dropout draws alike in all combinations
        saved = SavedBytes(self.model)
        with self._telling():
            with saved.counting():
                loss = self.loss()
            saved.clear()
            self._backward(loss)
        return [
            torch.zeros(()) if p.grad is None else p.grad.detach().clone() for p in trainable(self.model)
        ], saved.bytes

    def _backward(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what failed: a model and its loss may raise anything."""
        try:
            yield
        except ThriftyError:
            raise
        except Exception as error:
            raise ModelError(f"a training step of {self.combination.name} fails: {_words(error)}") from error


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss of a batch (inputs, targets): cross-entropy for whole-number targets, else the mean square of the error.

    Raises:
        UsageError: a batch of another form.
    """
    if not (isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        raise UsageError("the batch is not (inputs, targets): give loss_fn, called with the model and the batch")
    inputs, targets = batch
    output = model(inputs)
    if not isinstance(output, Tensor):
        raise UsageError(
            f"the model returns {type(output).__name__}: give loss_fn, called with the model and the batch"
        )
    if targets.is_floating_point():
        return functional.mse_loss(output.float(), targets.float())
    classes_last = output.dim() == targets.dim() + 1 and output.shape[:-1] == targets.shape
    return functional.cross_entropy(output.flatten(0, -2) if classes_last else output, targets.flatten())


def default_optimizer(model: nn.Module) -> Optimizer:
    """SGD with momentum, in the quickest implementation that torch has."""
    return torch.optim.SGD(trainable(model), lr=0.0, momentum=0.9, fused=True)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of `model` that an optimizer changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """|found - exact| / |exact| over all tensors together; 0 where both are zero."""
    apart = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(found, exact, strict=True))
    whole = sum(float(b.float().square().sum()) for b in exact)
    return (apart / whole) ** 0.5 if whole else float(apart > 0)


def _words(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
