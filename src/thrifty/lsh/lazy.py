"""Optimizers that touch only the rows that have a gradient, and are the dense ones all the same.

With a million classes and a few thousand of them in a batch, a dense optimizer spends more time on rows without a
gradient than the layer takes. A lazy one leaves them alone and, before a row is read or updated again, does at once
what the dense one would have done meanwhile: decay, momentum that runs out, bias correction. So every row that is read
is where the dense optimizer has it (to rounding).

What is read has to be caught up first. `watch(model)` sees to that for `nn.Embedding(sparse=True)`,
`nn.EmbeddingBag(sparse=True)` and thrifty's own layers, and before a state_dict is taken; whoever reads weights in
another way calls `flush()` before.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.errors import UsageError
from thrifty.ops._stages import StageSeconds

_EXACT = ("last", "history")


class LazyOptimizer(torch.optim.Optimizer):
    """What the lazy optimizers share: rows, the steps they have seen, and who reads them.

    Gradients may be sparse (rows) or dense (all rows). A parameter is a matrix of rows, its first dimension.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        for name, value in defaults.items():
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{type(self).__name__}: {name} must be a finite number from 0 on, got {value}")
        super().__init__(params, defaults)
        self._sinks: dict[int, StageSeconds] = {}

    def begin(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Make the state of a parameter at its first gradient."""
        raise NotImplementedError

    def skip(self, p_ND: Tensor, rows: Tensor, state: dict[str, Any], settings: Any) -> None:
        """Bring rows up to `state["step"]`."""
        raise NotImplementedError

    def move(self, p_ND: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Do one step for rows that are up to date."""
        raise NotImplementedError

    def move_whole(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Do one step for parameters with dense gradients, which are up to date; `last` may stay as it is."""
        for p in params:
            matrix = matrix_of(p)
            self.move(matrix, torch.arange(len(matrix), device=p.device), dense_gradient(p), self.state[p], group)

    def settings(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What a skipped step depends on besides what `history` holds; a change of it brings all rows up to date."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step for every parameter with a gradient.

        Raises:
            UsageError: for a complex parameter, or a sparse gradient that is not one of rows.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            whole: dict[int, list[Tensor]] = {}  # by sink: what has a dense gradient is moved by one call
            for p in group["params"]:
                if p.grad is not None:
                    with self._timed(id(p)):
                        self._step_one(p, group)
                    if not p.grad.is_sparse:
                        whole.setdefault(id(self._sinks.get(id(p))), []).append(p)
            for params in whole.values():
                with self._timed(id(params[0])):
                    self.move_whole(params, group)
                for p in params:
                    self.state[p]["whole"] = self.state[p]["step"]  # no row has skipped a step
        return loss

    @torch.no_grad()
    def catch_up(self, p: Tensor, rows: Tensor | None = None, *, unique: bool = False) -> None:
        """Bring rows of a parameter to where the dense optimizer has them; all rows where `rows` is None.

        Args:
            p: a parameter of this optimizer; others are left alone.
            rows: int64, any shape.
            unique: whether the caller knows that each row is named once.
        """
        state = self.state.get(p)
        if not state or "last" not in state or state.get("whole") == state["step"]:
            return
        if rows is None:
            rows = torch.arange(len(state["last"]), device=p.device)
        elif not unique:
            rows = rows.unique()
        self.skip(matrix_of(p), rows.reshape(-1), state, state["settings"])

    def flush(self) -> None:
        """Bring all rows of all parameters up to date."""
        for group in self.param_groups:
            for p in group["params"]:
                self.catch_up(p)

    def watch(self, model: nn.Module) -> None:
        """Catch up with the rows that layers of `model` are about to read, and with all before a state_dict is taken.

        Embeddings with sparse gradients and thrifty's own layers name the rows they read; other layers need no watch,
        as their gradients are dense.
        """
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
                module.register_forward_pre_hook(_BeforeEmbedding(self))
            elif isinstance(readers := getattr(module, "readers", None), list):
                readers.append(self.catch_up)
                stages: Any = module.stages
                self._sinks.update((id(p), stages) for p in module.parameters(recurse=False))
        model.register_state_dict_pre_hook(_BeforeState(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._sinks = getattr(self, "_sinks", {})  # torch calls this to load a state, too

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; torch would turn counters and histories into the parameters' dtype."""
        super().load_state_dict(dict(state_dict))
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        mine = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, mine, strict=True):
            for key in _EXACT:
                if key in state_dict["state"].get(index, {}):
                    device = "cpu" if key == "history" else p.device
                    self.state[p][key] = state_dict["state"][index][key].to(device).clone()

    def _timed(self, key: int) -> AbstractContextManager[None]:
        sink = self._sinks.get(key)
        return nullcontext() if sink is None else sink.timed("optimizer")

    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        """Bring a parameter up to date and begin its step, and end it too where its gradient is one of rows."""
        state = self.state[p]
        if p.is_complex():
            raise UsageError(f"{type(self).__name__} takes real parameters; view complex ones with view_as_real")
        if not p.is_contiguous():
            raise UsageError(f"{type(self).__name__} takes contiguous parameters, got strides {p.stride()}")
        settings = self.settings(group)
        if not state:
            state.update(step=0, last=torch.zeros(matrix_of(p).shape[0], dtype=torch.int32, device=p.device))
            state["settings"] = settings
            self.begin(p, state, group)
        if settings != state["settings"]:
            self.catch_up(p)
            state["settings"] = settings
        if not p.grad.is_sparse:  # type: ignore[union-attr]
            self.catch_up(p)
            state["step"] += 1
            return
        rows, gradient = _rows_and_gradient(p, type(self).__name__)
        if state.get("whole") == state["step"]:
            state["last"].fill_(state["step"])
        else:
            self.skip(matrix_of(p), rows, state, settings)
        state["step"] += 1
        self.move(matrix_of(p), rows, gradient, state, group)


class _Hook:
    """A hook of a model that knows an optimizer. It keeps neither alive, and copies of the model have none."""

    def __init__(self, optimizer: LazyOptimizer | None = None) -> None:
        self.optimizer = (lambda: None) if optimizer is None else weakref.ref(optimizer)

    def __deepcopy__(self, memo: Any) -> Any:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class _BeforeEmbedding(_Hook):
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        optimizer = self.optimizer()
        if optimizer is not None:
            optimizer.catch_up(module.weight, inputs[0])  # type: ignore[arg-type]


class _BeforeState(_Hook):
    def __call__(self, *_: Any) -> None:
        optimizer = self.optimizer()
        if optimizer is not None:
            optimizer.flush()


def grown(history: Tensor, step: int) -> Tensor:
    """A history (H, S) with room for `step`, doubled so that adding steps costs little."""
    if step < history.shape[1]:
        return history
    wider = history.new_zeros(history.shape[0], max(64, 2 * history.shape[1]))
    wider[:, : history.shape[1]] = history
    return wider


def matrix_of(p: Tensor) -> Tensor:
    """A parameter as a matrix of rows (N, D), sharing its memory; a single number is one row."""
    if p.dim() == 0:
        return p.detach().view(1, 1)
    return p.detach().view(p.shape[0], math.prod(p.shape[1:]))


def dense_gradient(p: Tensor) -> Tensor:
    """The dense gradient of a parameter, as a matrix like `matrix_of(p)` and of its dtype."""
    assert p.grad is not None
    return p.grad.detach().reshape(matrix_of(p).shape).to(p.dtype)


def _rows_and_gradient(p: Tensor, name: str) -> tuple[Tensor, Tensor]:
    gradient = p.grad
    assert gradient is not None
    if gradient.sparse_dim() != 1:
        raise UsageError(
            f"{name} takes sparse gradients of rows, got one with {gradient.sparse_dim()} sparse dimensions"
        )
    if not _ascending(gradient._indices()[0]):
        gradient = gradient.coalesce()
    values = gradient._values()
    return gradient._indices()[0], values.reshape(len(values), -1).to(p.dtype)


def _ascending(rows: Tensor) -> bool:
    """Whether each row occurs once, in order: then there is nothing to sum up, whatever the tensor's flag says."""
    return bool((rows[1:] > rows[:-1]).all())
