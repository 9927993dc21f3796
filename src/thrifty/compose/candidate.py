"""One combination that a plan tries, and what was found out about it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.compose.looks import Looks
from thrifty.compose.trial import Combination, LossFn, MakeOptimizer, Trial, relative_error
from thrifty.core.errors import ModelError, ThriftyError
from thrifty.core.surgery import LayerReport

DENSE = "dense: "  # begins the verdict on a layer that a method leaves as it is
SETTLING_STEPS = 8  # in which methods measure for themselves: not timed
PLAIN_SETTLING_STEPS = 2  # without methods
LEAST_STEPS, MOST_STEPS = 5, 50


class Candidate:
    """A combination on a copy of the model; one that cannot be tried has a reason and no trial.

    Attributes:
        speedup: dense seconds of a training step over its own, medians of the same turns.
        step_s: its seconds, where a dense step takes as long as it did in the first turns.
        unrest: the median over the shortest: how much the machine was disturbed.
        gradient_error: against dense, on the same batch and random numbers.
        saved_bytes: kept between the forward and the backward pass.
        changed_layers: by the methods.
    """

    def __init__(
        self, model: nn.Module, batch: Any, combination: Combination, loss_fn: LossFn, make_optimizer: MakeOptimizer
    ) -> None:
        self.combination = combination
        self.trial: Trial | None = None
        self.reason = ""
        self.step_s: float | None = None
        self.speedup: float | None = None
        self.unrest = 1.0
        self.saved_bytes: int | None = None
        self.gradient_error = 0.0
        self._gradients: list[Tensor] = []
        self._reports: list[LayerReport] = []
        self._error: ThriftyError | None = None
        try:
            self.trial = Trial(model, batch, combination, loss_fn, make_optimizer)
            self._gradients, self.saved_bytes = self.trial.observe()
        except ThriftyError as error:
            self._give_up(error)
        if self.trial is not None and self.trial.applied is not None:
            self._reports = self.trial.applied.layers
        if self.trial is not None and combination.methods and not self.changed_layers:
            self._give_up(ModelError("it changes no layer of this model"))

    @cached_property
    def looks(self) -> dict[str, dict[str, Any]]:
        """What the methods tell of their layers on the batch, by layer; made at first use, after the timed steps."""
        trial = self.trial
        if trial is None or trial.applied is None:
            return {}
        with Looks(trial.model, trial.applied) as looks, torch.no_grad():
            if looks.any():
                trial.loss()
        return looks.found()

    def look(self, layer: str) -> dict[str, Any] | None:
        """What is told of the layer of that name; None where nothing is."""
        names = next(((row.name, *row.aliases) for row in self._reports if layer in (row.name, *row.aliases)), ())
        return next((self.looks[name] for name in names if name in self.looks), None)

    @property
    def changed_layers(self) -> int:
        """How many layers the methods changed."""
        return sum(layer.action != "dense" for layer in self._reports)

    def trial_or_raise(self) -> Trial:
        """The trial. Raises the error that there is none for."""
        if self.trial is None:
            raise self._error or ModelError(self.reason)
        return self.trial

    def compare(self, dense: Candidate) -> None:
        """Find the gradient error."""
        if self.trial is not None:
            self.gradient_error = relative_error(self._gradients, dense._gradients)
            self._gradients = []

    def helps(self) -> bool:
        """Whether a step is faster than dense."""
        return self.speedup is not None and self.speedup > 1.0

    def settle(self) -> bool:
        """Run the steps that are not timed; False where one fails."""
        try:
            for _ in range(SETTLING_STEPS if self.combination.methods else PLAIN_SETTLING_STEPS):
                self.trial_or_raise().step()
        except ThriftyError as error:
            self._give_up(error)
            return False
        if self.trial is not None and self.trial.applied is not None:
            self.trial.applied.counters(reset=True)
        return True

    def verdict(self, layer: str) -> tuple[str, float | None]:
        """What the method did with the layer of that name, and its stages' seconds a step; empty for no candidate."""
        found = next((row for row in self._reports if layer in (row.name, *row.aliases)), None)
        if found is None:
            return "", None
        if found.action == "dense":
            return DENSE + found.reason, None
        applied = None if self.trial is None else self.trial.applied
        if applied is None:
            return f"changed, and given up: {self.reason}", None
        told = [event.what for event in applied.events if event.layer == found.name]
        counters = applied.counters()[found.name]
        seconds = sum(counters.stages_s.values()) / counters.steps if counters.steps else None
        return "; ".join(("changed", *told)), seconds

    def _give_up(self, error: ThriftyError) -> None:
        self._error, self.reason, self.trial = error, str(error), None


def take_turns(candidates: Sequence[Candidate], budget_s: float) -> int:
    """Time steps of all candidates in turn, the first being dense; return how many of each."""
    able = [one for one in candidates if one.trial is not None and one.settle()]
    seconds: dict[int, list[float]] = {id(one): [] for one in able}
    start, turns = time.perf_counter(), 0
    while able and turns < MOST_STEPS and (turns < LEAST_STEPS or time.perf_counter() - start < budget_s):
        first = turns % len(able)  # or the first would always run on what the last left in the caches
        for one in able[first:] + able[:first]:
            seconds[id(one)].append(one.trial_or_raise().step())
        turns += 1
    medians = {id(one): statistics.median(seconds[id(one)]) for one in able}
    dense, dense_s = candidates[0], medians[id(candidates[0])]
    dense.step_s = dense.step_s or dense_s
    for one in able:
        one.unrest = max(one.unrest, medians[id(one)] / min(seconds[id(one)]))
        one.speedup = dense_s / medians[id(one)]
        one.step_s = dense.step_s / one.speedup  # so that turns at different times, on a drifting clock, compare
    return turns
