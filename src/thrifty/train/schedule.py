"""Learning rate over the steps of a run, by name: a function of the step alone, for any length of run."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from thrifty.distributed.recipe import polynomial

_WARM_UP = {"cosine": 0.05, "poly": 0.1}
_RISE = 0.25
_START = 0.04


def one_cycle(progress: float, warm_up: float) -> float:
    """Up by a cosine from 0.04 to 1 in the first quarter, then down by a cosine to 0 (Smith, arXiv 1708.07120)."""
    if progress < _RISE:
        return _between(_START, 1.0, progress / _RISE)
    return _between(1.0, 0.0, (progress - _RISE) / (1.0 - _RISE))


def cosine(progress: float, warm_up: float) -> float:
    """A linear warm-up, a twentieth by default, then half a cosine to 0 (Loshchilov & Hutter, arXiv 1608.03983)."""
    if progress < warm_up:
        return progress / warm_up
    return _between(1.0, 0.0, (progress - warm_up) / (1.0 - warm_up))


def step(progress: float, warm_up: float) -> float:
    """1, from the middle on 0.1, in the last quarter 0.01."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "step": step,
    "poly": polynomial,
}
SCHEDULES = tuple(_SHAPES)


def make(name: str, optimizer: Optimizer, *, steps: int, warm_up: float | None = None) -> LambdaLR:
    """Scale the optimizer's learning rate by the schedule `name`; step it after each of `steps` optimizer steps.

    Training step k of n (from 0) is taken at progress (k + 0.5) / n, so that no step has a rate of exactly zero.
    `warm_up` is the share of the steps in which the rate rises, for schedules that can choose it.
    """
    shape = _SHAPES[name]
    rising = _WARM_UP.get(name, 0.0) if warm_up is None else warm_up
    return LambdaLR(optimizer, lambda k: shape(min((k + 0.5) / steps, 1.0), rising))


def rate(optimizer: Optimizer) -> float:
    """The learning rate that the next step uses."""
    return float(optimizer.param_groups[0]["lr"])


def _between(start: float, end: float, way: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * way)) / 2.0
