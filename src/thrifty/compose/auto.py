"""`auto_`: plan, use the best combination, and keep watching; what turns out slower is undone.

The first steps of training run dense and are timed, as the caller's loop runs them, with its data and its optimizer.
Then the methods are switched on, and the median of a window of steps is compared. Every thousand steps the methods are
switched off for a few steps and compared again. So what is lost to a wrong choice is a window of steps, and what is
lost to watching is half a percent.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from thrifty.compose.applied import Applied
from thrifty.compose.apply import apply_, remove_
from thrifty.compose.planning import Plan, plan
from thrifty.compose.trial import PRECISIONS, Combination, LossFn, MakeOptimizer, trainable
from thrifty.core.config import MethodConfig
from thrifty.core.counters import Event
from thrifty.core.errors import CheckpointError, UsageError

FORMAT = 1
DENSE_STEPS, DENSE_DROPPED = 6, 2  # steps of a dense spell, and those at its begin that are not compared
SETTLING_STEPS = 12  # of the methods, after they are switched on for the first time
WINDOW = 24  # steps of which the median is taken
WATCH_EVERY = 1000  # steps between dense spells
TOLERANCE = 1.03  # times the dense seconds a step may take


class Auto:
    """A model under the best combination of its plan; `autocast` and `step` belong into the training loop.

    Attributes:
        plan: what was measured beforehand.
        combination: what is used when it is not switched off.
        applied: the handle of the methods; None without methods, and once they were undone.
        events: every move so far, those of the methods included.
        undone: whether the combination proved slower in training, and was taken off for good.
        steps: how often `step` was called.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Plan,
        optimizer: Optimizer | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        choice = found.choice
        self.plan, self.combination = found, Combination(choice.methods, choice.amp)
        self.events: list[Event] = []
        self.undone, self.steps = False, 0
        self._model, self._clock = model, clock
        self._device = next(model.parameters()).device
        self.applied: Applied | None = None
        if choice.methods:
            self.applied = apply_(model, choice.methods, optimizer=optimizer)
        self._last: float | None = None
        self._dense_s: list[float] = []
        self._ours_s: list[float] = []
        self._switch(self._dense_spell)

    def __repr__(self) -> str:
        state = "undone" if self.undone else "off for comparison" if self._dense_spell else "on"
        return f"Auto({self.combination.name}, {state}, {self.steps} steps)"

    @property
    def _watching(self) -> bool:
        return not self.undone and self.combination.name != "dense"

    @property
    def _dense_spell(self) -> bool:
        """Whether the step under way is one of those that run dense to be compared."""
        return self._watching and self.steps % WATCH_EVERY < DENSE_STEPS

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for the forward pass and the loss of the step under way."""
        if self.undone or self._dense_spell:
            return nullcontext()
        return self.combination.autocast(self._device)

    def step(self, loss: torch.Tensor | float) -> list[Event]:
        """Take notice of a training step that is done, after `optimizer.step()`; return the moves made.

        Raises:
            UsageError, NonFiniteError: as `Applied.step`.
        """
        now = self._clock()
        was_dense = self._dense_spell
        moves = self.applied.step(loss) if self.applied is not None and not was_dense else []
        self._note(now, was_dense)
        self.steps += 1
        moves.extend(self._compare())
        if self._watching and self._dense_spell != was_dense:
            self._switch(self._dense_spell)
        self.events.extend(moves)
        return moves

    def _note(self, now: float, was_dense: bool) -> None:
        """Keep the seconds of the step that ends, where it is one to compare."""
        seconds = None if self._last is None else now - self._last
        self._last = now
        if seconds is None or not self._watching:
            return
        at = self.steps % WATCH_EVERY
        if was_dense:
            if at == 0:
                self._dense_s = []
            if at >= DENSE_DROPPED:
                self._dense_s.append(seconds)
        elif self.steps >= DENSE_STEPS + SETTLING_STEPS and at > DENSE_STEPS:
            self._ours_s = [*self._ours_s[1 - WINDOW :], seconds]

    def _compare(self) -> list[Event]:
        """Undo the combination where it is slower; looked at when a first window, or a dense spell, is complete."""
        first = DENSE_STEPS + SETTLING_STEPS + WINDOW
        due = self.steps == first or (self.steps > first and self.steps % WATCH_EVERY == DENSE_STEPS)
        if not (due and self._watching and self._dense_s and self._ours_s):
            return []
        dense_s, ours_s = statistics.median(self._dense_s), statistics.median(self._ours_s)
        if ours_s <= TOLERANCE * dense_s:
            return []
        self._undo()
        reason = f"a step takes {1e3 * ours_s:.1f} ms, dense {1e3 * dense_s:.1f} ms"
        return [Event(self.steps, f"{self.combination.name} is undone", reason)]

    def _undo(self) -> None:
        self._switch(False)
        self.undone = True
        if self.applied is not None:
            remove_(self._model)
            self.applied = None

    def _switch(self, off: bool) -> None:
        if self.applied is not None:
            self.applied.suspend() if off else self.applied.resume()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs besides the model and the optimizer, as `Applied.state_dict`."""
        return {
            "format": FORMAT,
            "combination": self.combination.name,
            "undone": self.undone,
            "steps": self.steps,
            "dense_s": list(self._dense_s),
            "ours_s": list(self._ours_s),
            "applied": self.applied.state_dict() if self.applied is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a training of the same model; its decisions stand, whatever this plan says.

        Raises:
            CheckpointError: when the state is damaged, or of another combination; nothing is changed.
        """
        try:
            if state["format"] != FORMAT or state["combination"] != self.combination.name:
                raise CheckpointError(
                    f"the checkpoint was made with {state['combination']}, the plan of this run chose "
                    f"{self.combination.name}: hand the plan of that run to auto_"
                )
            undone, steps = bool(state["undone"]), int(state["steps"])
            dense_s, ours_s = [float(s) for s in state["dense_s"]], [float(s) for s in state["ours_s"]]
            if not undone and self.applied is not None:
                self.applied.load_state_dict(state["applied"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the state of auto_ is damaged ({error!r}); load another checkpoint") from error
        self.steps, self._dense_s, self._ours_s, self._last = steps, dense_s, ours_s, None
        if undone and not self.undone:
            self._undo()
        self._switch(self._dense_spell)


def auto_(
    model: nn.Module,
    batch: Any = None,
    *,
    optimizer: Optimizer | None = None,
    methods: Sequence[MethodConfig] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    loss_fn: LossFn | None = None,
    max_error: float = 0.1,
    budget_s: float = 20.0,
    progress: Callable[[str], None] | None = None,
    found: Plan | None = None,
) -> Auto:
    """Find the best combination for `model` on batches like `batch`, put it on the model, and watch over it.

        auto = thrifty.auto_(model, (images, labels), optimizer=optimizer)
        for images, labels in loader:
            with auto.autocast():
                loss = cross_entropy(model(images), labels)
            ...
            auto.step(loss)

    Args:
        model: a stock model; it is changed in place.
        batch: see `plan`; not needed with `found`.
        optimizer: the live optimizer; trials are timed with one of its kind.
        methods, precisions, loss_fn, max_error, budget_s, progress: see `plan`.
        found: a plan made before, as by the run that is being resumed, instead of a new one.

    Raises:
        UsageError, ModelError: as `plan` and `apply_` do; the model is as it was then.
    """
    if found is None:
        if batch is None:
            raise UsageError("auto_ needs a batch to try the methods on, or a plan made before: auto_(model, batch)")
        found = plan(
            model, batch, methods=methods, precisions=precisions, loss_fn=loss_fn, max_error=max_error,
            budget_s=budget_s, progress=progress, make_optimizer=_alike(optimizer),
        )  # fmt: skip
    return Auto(model, found, optimizer)


def _alike(optimizer: Optimizer | None) -> MakeOptimizer | None:
    """Make optimizers of the same kind and settings."""
    if optimizer is None:
        return None
    kind, settings = type(optimizer), dict(optimizer.defaults)
    return lambda model: kind(trainable(model), **settings)
