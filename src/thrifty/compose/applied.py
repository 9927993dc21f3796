"""What `apply_` hands back: the account of what was changed, and the handle that keeps the methods moving."""

import math
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from thrifty.compose.trace import Trace
from thrifty.core.config import MethodConfig
from thrifty.core.counters import Event, LayerCounters
from thrifty.core.errors import CheckpointError, NonFiniteError, UsageError
from thrifty.core.inspection import refuse_wrapped
from thrifty.core.lockstep import apart, mean_over
from thrifty.core.registry import ChangedLayer, Controller, Measuring, containers, method_of
from thrifty.core.surgery import LayerReport, retype, swap

FORMAT = 1


class ApartWarning(UserWarning):
    """Several processes run, and were not told to move together."""


class Applied:
    """The methods on one model.

    It belongs to the model that was given to `apply_`: a deep copy of the model works and counts on its own, without
    a handle.

    Attributes:
        methods: the configs, in the order in which they were applied.
        layers: a report for every candidate layer, changed or left dense with a reason.
        events: every move that a controller made so far.
        steps: how often `step` was called, resumed training included.
    """

    def __init__(
        self,
        methods: Sequence[MethodConfig],
        layers: Sequence[LayerReport],
        changed: Mapping[str, ChangedLayer],
        controllers: Mapping[str, Controller],
        model: nn.Module,
        group: Any = None,
    ) -> None:
        self.methods = tuple(methods)
        self.layers = list(layers)
        self.events: list[Event] = []
        self.steps = 0
        self._changed = dict(changed)
        self._controllers = dict(controllers)
        self._trace = Trace()
        self._model = weakref.ref(model)  # a handle keeps no model alive
        self._stock: dict[nn.Module, nn.Module] = {}
        self._group = group

    def __repr__(self) -> str:
        names = ", ".join(config.method for config in self.methods)
        return f"Applied({names}: {len(self._changed)} of {len(self.layers)} layers changed, {self.steps} steps)"

    def step(self, loss: torch.Tensor | float) -> list[Event]:
        """Let the controllers see the loss of the training step just done, and return the moves they made.

        Call it once per training step, after `optimizer.step()`. Where `apply_` was given a group, all of its ranks
        call it: they move together, by the mean of their losses and of what they measured.

        Args:
            loss: the step's loss, a number or a tensor with one element, which is read (on an accelerator, this waits).

        Raises:
            UsageError: when `loss` has more than one element.
            NonFiniteError: when `loss`, or that of another rank, is not finite; nothing has moved then.
            DistributedError: when a rank of the group was lost.
        """
        value = self._agreed(_number(loss))
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss is {value}: lower the learning rate or look at the input data")
        step = self.steps + 1
        self._trace.add(
            [
                {"step": step, "layer": name, **row}
                for name, layer in self._changed.items()
                if (row := layer.trace_row()) is not None
            ]
        )
        moves = [event for controller in self._controllers.values() for event in controller.step(step, value)]
        self.steps = step
        self.events.extend(moves)
        return moves

    def _agreed(self, loss: float) -> float:
        """The loss, and what controllers measured, as means over the group."""
        if self._group is None:
            if not self.steps and apart():
                warnings.warn(
                    "torch.distributed runs several processes, and this one's methods move by themselves: "
                    "apply_(..., group=torch.distributed.group.WORLD) keeps those that train one model together",
                    ApartWarning,
                    stacklevel=3,
                )
            return loss
        measuring = [c for c in self._controllers.values() if isinstance(c, Measuring)]
        measured = [controller.measured() for controller in measuring]
        loss, *means = mean_over(self._group, [loss, *(value for values in measured for value in values)])
        for controller, values in zip(measuring, measured, strict=True):
            controller.agree(means[: len(values)])
            means = means[len(values) :]
        return loss

    @property
    def suspended(self) -> bool:
        """Whether the stock layers are in place for the time being."""
        return bool(self._stock)

    def suspend(self) -> None:
        """Put the stock layers in place until `resume`; the methods keep their state. Does nothing when suspended."""
        model = self._model()
        if self._stock or model is None:
            return
        refuse_wrapped(model, "Applied.suspend")
        self._stock = {layer: layer.to_stock() for layer in self._changed.values()}  # type: ignore[misc]  # modules
        swap(model, self._stock)
        retype(model, containers(), list(self._stock.values()))

    def resume(self) -> None:
        """Put the changed layers back in place after `suspend`. Does nothing when they are."""
        model, stock = self._model(), self._stock
        if not stock or model is None:
            return
        refuse_wrapped(model, "Applied.resume")
        for layer, of_layer in stock.items():
            layer.train(of_layer.training)
        swap(model, {of_layer: layer for layer, of_layer in stock.items()})
        for config in self.methods:
            of_method = [layer for layer in stock if getattr(layer, "method", None) == config.method]
            retype(model, method_of(config).containers, of_method)
        self._stock = {}

    def counters(self, *, reset: bool = False) -> dict[str, LayerCounters]:
        """Return a snapshot of every changed layer's counters by layer name; with `reset`, they start again at zero."""
        snapshot = {name: layer.counters.copy() for name, layer in self._changed.items()}
        if reset:
            for layer in self._changed.values():
                layer.counters.reset()
        return snapshot

    def trace(self, *, reset: bool = False) -> list[dict[str, Any]]:
        """Return the sampled history: rows `{"step", "layer", "stage", "remaining_ratio", "error"}`, in order of steps.

        The rows are evenly thinned when training is long; with `reset`, the history starts anew.
        """
        rows = self._trace.rows()
        if reset:
            self._trace.clear()
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs besides the model and the optimizer.

        Plain data, and tensors where a controller has some: `torch.load(weights_only=True)` reads it.
        """
        return {
            "format": FORMAT,
            "methods": [config.to_dict() for config in self.methods],
            "steps": self.steps,
            "events": [asdict(event) for event in self.events],
            "counters": {name: layer.counters.to_dict() for name, layer in self._changed.items()},
            "trace": self._trace.state_dict(),
            "controllers": {name: controller.state_dict() for name, controller in self._controllers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same methods on the same layers.

        Raises:
            CheckpointError: when the state is damaged, or of other methods, settings or layers; nothing is changed.
        """
        try:
            self._check_origin(state)
            steps = int(state["steps"])
            events = [Event(**event) for event in state["events"]]
            counters = {name: LayerCounters.from_dict(state["counters"][name]) for name in self._changed}
            trace = Trace.from_state(state["trace"])
            self._load_controllers(state["controllers"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the methods' state is damaged ({error!r}); load another checkpoint") from error
        for name, layer in self._changed.items():
            layer.counters.assign(counters[name])
        self.steps, self.events, self._trace = steps, events, trace

    def _load_controllers(self, states: Mapping[str, Any]) -> None:
        before = {name: controller.state_dict() for name, controller in self._controllers.items()}
        try:
            for name, controller in self._controllers.items():
                controller.load_state_dict(states[name])
        except Exception:
            for name, controller in self._controllers.items():
                controller.load_state_dict(before[name])
            raise

    def _check_origin(self, state: Mapping[str, Any]) -> None:
        if state["format"] != FORMAT:
            raise CheckpointError(f"the methods' state has format {state['format']!r}, this thrifty reads {FORMAT}")
        mine = [config.to_dict() for config in self.methods]
        if state["methods"] != mine:
            theirs = ", ".join(str(config) for config in state["methods"])
            raise CheckpointError(f"the checkpoint was made with {theirs or 'no method'}: apply the same methods first")
        if set(state["counters"]) != set(self._changed):
            differing = ", ".join(sorted(set(state["counters"]) ^ set(self._changed)))
            raise CheckpointError(f"the checkpoint is of another model; layers in only one of the two: {differing}")


def _number(loss: torch.Tensor | float) -> float:
    if isinstance(loss, torch.Tensor) and loss.numel() != 1:
        raise UsageError(f"step() takes the loss as one number, got a tensor of shape {tuple(loss.shape)}: reduce it")
    return float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss)
