"""`plan`: what each method would save on this model, this batch and this machine, before anything is changed.

Everything is measured on copies, in real training steps: the dense step layer by layer, each method and precision by
itself, then together those that helped. The rivals take turns, so that a machine whose speed drifts treats them alike.
What a method saves may change as training goes on (zeros become more frequent, tables fuller): a plan speaks of the
weights as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

from thrifty.compose.candidate import Candidate, take_turns
from thrifty.compose.catalog import config_type, method_names
from thrifty.compose.layer_costs import LayerCost, layer_costs
from thrifty.compose.trial import (
    PRECISIONS,
    Combination,
    LossFn,
    MakeOptimizer,
    default_loss,
    default_optimizer,
)
from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.core.inspection import refuse_wrapped

_COST = tuple(field.name for field in fields(LayerCost))
WORTHWHILE = 1.03  # times as fast as dense, before a combination is preferred to dense


@dataclass(frozen=True)
class Option:
    """One combination, measured.

    Attributes:
        name: as `thrifty train --methods` takes it. methods, amp: what it is made of.
        step_s: seconds of a training step, with the optimizer: the dense median over `speedup`. None where it could
            not run.
        speedup: dense seconds over its seconds.
        saved_bytes: kept between the forward and the backward pass.
        gradient_error: |g - g_dense| / |g_dense| over all parameters, on the same batch.
        changed_layers: how many layers the methods changed.
        reason: why it is out of the question; empty where it is not.
    """

    name: str
    methods: tuple[MethodConfig, ...]
    amp: str
    step_s: float | None = None
    speedup: float | None = None
    saved_bytes: int | None = None
    gradient_error: float | None = None
    changed_layers: int = 0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The option as plain data."""
        return {**asdict(self), "methods": [config.to_dict() for config in self.methods]}


@dataclass(frozen=True)
class PlannedLayer:
    """One layer: its dense cost, and what each method would do with it, by the method's name.

    Attributes:
        cost: of the stock layer.
        verdicts: `changed`, or why the method leaves it dense.
        method_s: seconds of a step that the method's own stages took in the layer, where it is changed; they may
            include the activation and the pool behind it.
        looks: what the method tells of the layer on this batch, where it is changed; see `registry.Method.look`.
    """

    cost: LayerCost
    verdicts: dict[str, str] = field(default_factory=dict)
    method_s: dict[str, float] = field(default_factory=dict)
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def dense_s(self) -> float:
        """Seconds of the stock layer, forward and backward."""
        return self.cost.forward_s + self.cost.backward_s

    def to_dict(self) -> dict[str, Any]:
        """The layer as plain data."""
        return {**self.cost.to_dict(), "verdicts": self.verdicts, "method_s": self.method_s,
                "looks": self.looks}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What was measured, and what follows.

    Attributes:
        options: every combination that was tried, dense first.
        layers: in the order in which they run.
        best: name of the fastest option whose gradient error is at most `max_error`, dense where none is worth it.
        max_error: largest gradient error that was allowed.
        sent_bytes: of float32 gradients that data parallelism would send a step.
        steps: timed steps of each option.
        unrest: the largest median over the shortest step of an option; much above 1 the machine was busy with
            other things, and the seconds are not to be trusted.
    """

    options: tuple[Option, ...]
    layers: tuple[PlannedLayer, ...]
    best: str
    max_error: float
    sent_bytes: int
    steps: int
    unrest: float = 1.0

    def __getitem__(self, name: str) -> Option:
        """The option of that name. Raises UsageError for another."""
        for option in self.options:
            if option.name == name:
                return option
        raise UsageError(f"no option '{name}' was tried; tried: {', '.join(option.name for option in self.options)}")

    @property
    def choice(self) -> Option:
        """The option called `best`."""
        return self[self.best]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "best": self.best, "max_error": self.max_error, "sent_bytes": self.sent_bytes, "steps": self.steps,
            "unrest": self.unrest,
            "options": [option.to_dict() for option in self.options],
            "layers": [layer.to_dict() for layer in self.layers],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Build the plan that `to_dict` described.

        Raises:
            UsageError: when `data` is not such a dictionary, or holds a config that is not known here.
        """
        for name in method_names():
            config_type(name)  # imported, its config is known
        try:
            options = [
                Option(**{**row, "methods": tuple(map(MethodConfig.from_dict, row["methods"]))})
                for row in data["options"]
            ]
            layers = [
                PlannedLayer(
                    LayerCost(**{key: row[key] for key in _COST}),
                    dict(row["verdicts"]),
                    dict(row["method_s"]),
                    dict(row.get("looks", {})),
                )
                for row in data["layers"]
            ]
            rest = {key: data[key] for key in ("best", "max_error", "sent_bytes", "steps", "unrest")}
        except (KeyError, TypeError) as error:
            raise UsageError(f"this is not a plan as Plan.to_dict writes it: {error!r}") from error
        found = cls(options=tuple(options), layers=tuple(layers), **rest)
        _ = found.choice  # there is one
        return found


def plan(
    model: nn.Module,
    batch: Any,
    *,
    methods: Sequence[MethodConfig] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    loss_fn: LossFn | None = None,
    make_optimizer: MakeOptimizer | None = None,
    max_error: float = 0.1,
    budget_s: float = 20.0,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Measure what `methods` and `precisions` would bring to training `model` on batches like `batch`.

    The model, its buffers and the random number generators stay as they are.

    Args:
        model: a stock model, neither wrapped nor compiled nor changed.
        batch: one training batch, (inputs, targets) where there is no `loss_fn`.
        methods: configs to try; the methods that `apply_` knows with their own defaults where None.
        precisions: `none` and `bf16`, or one of them.
        loss_fn: `loss_fn(model, batch)` is the loss; cross-entropy or mean square error where None.
        make_optimizer: makes the optimizer of a copy of the model, to be timed with the step; its learning rate is set
            to zero. SGD with momentum where None.
        max_error: gradient error up to which a combination may be called the best.
        budget_s: about how long the timed steps may take together.
        progress: told what is being tried.

    Raises:
        UsageError: for settings out of range, or a batch that the default loss cannot take.
        ModelError: for a model that is wrapped or compiled, cannot be copied, or fails on the batch.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"plan takes a torch.nn.Module, got {type(model).__name__}")
    refuse_wrapped(model, "thrifty.plan")
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions:
        raise UsageError(f"precisions={list(precisions)}: choose among {', '.join(PRECISIONS)}")
    if not budget_s > 0 or not max_error >= 0:
        raise UsageError(f"budget_s={budget_s} must be above 0, and max_error={max_error} at least 0")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("the model has no parameter that is trained")
    configs = [config_type(name)() for name in method_names()] if methods is None else list(methods)
    singles = [Combination((config,)) for config in configs]
    singles += [Combination((), precision) for precision in precisions if precision != "none"]
    say = progress or (lambda _: None)

    def candidate(combination: Combination) -> Candidate:
        say(combination.name)
        return Candidate(model, batch, combination, loss_fn or default_loss, make_optimizer or default_optimizer)

    with torch.random.fork_rng():
        dense = candidate(Combination())
        dense.trial_or_raise().step()  # what is made on first use is not a layer's cost
        costs = layer_costs(dense.trial_or_raise().model, dense.trial_or_raise().loss)
        tried = [candidate(single) for single in singles]
        for one in tried:
            one.compare(dense)
        steps = take_turns([dense, *tried], budget_s / 2)
        union = _union(one for one in tried if one.helps())
        if union is not None:
            tried.append(candidate(union))
            tried[-1].compare(dense)
            steps = min(steps, take_turns([dense, tried[-1]], budget_s / 2))
    options = tuple(_option(one, max_error) for one in (dense, *tried))
    fit = [option for option in options[1:] if not option.reason and (option.speedup or 0.0) >= WORTHWHILE]
    best = max(fit, key=lambda option: option.speedup or 0.0, default=options[0])
    sent_bytes = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layers = tuple(_layer(cost, tried[: len(configs)]) for cost in costs)
    unrest = max(one.unrest for one in (dense, *tried))
    return Plan(options, layers, best.name, max_error, sent_bytes, steps, unrest)


def _union(helped: Iterable[Candidate]) -> Combination | None:
    """All that helped together; None where that is a single one, or none."""
    parts = [one.combination for one in helped]
    if len(parts) < 2:
        return None
    methods = tuple(config for part in parts for config in part.methods)
    return Combination(methods, next((part.amp for part in parts if part.amp != "none"), "none"))


def _option(candidate: Candidate, max_error: float) -> Option:
    reason = candidate.reason
    if not reason and candidate.gradient_error > max_error:
        reason = f"gradient error {candidate.gradient_error:.2g} is above {max_error:.2g}"
    return Option(
        candidate.combination.name, candidate.combination.methods, candidate.combination.amp, candidate.step_s,
        candidate.speedup, candidate.saved_bytes, candidate.gradient_error, candidate.changed_layers, reason,
    )  # fmt: skip


def _layer(cost: LayerCost, singles: Iterable[Candidate]) -> PlannedLayer:
    layer = PlannedLayer(cost)
    for single in singles:
        method = single.combination.methods[0].method
        verdict, seconds = single.verdict(cost.layer)
        if verdict:
            layer.verdicts[method] = verdict
        if seconds is not None:
            layer.method_s[method] = seconds
        look = single.look(cost.layer)
        if look is not None:
            layer.looks[method] = look
    return layer
