"""Learning rate over the steps of a run, by name: a function of the step alone, for any length of run."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_WARM_UP = 0.05
_RISE = 0.25
_START = 0.04


def one_cycle(progress: float) -> float:
    """Up by a cosine from 0.04 to 1 in the first quarter, then down by a cosine to 0 (Smith, arXiv 1708.07120)."""
    if progress < _RISE:
        return _between(_START, 1.0, progress / _RISE)
    return _between(1.0, 0.0, (progress - _RISE) / (1.0 - _RISE))


def cosine(progress: float) -> float:
    """A linear warm-up over the first twentieth, then half a cosine to 0 (Loshchilov & Hutter, arXiv 1608.03983)."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return _between(1.0, 0.0, (progress - _WARM_UP) / (1.0 - _WARM_UP))


def step(progress: float) -> float:
    """1, from the middle on 0.1, in the last quarter 0.01."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


_SHAPES: dict[str, Callable[[float], float]] = {"one-cycle": one_cycle, "cosine": cosine, "step": step}
SCHEDULES = tuple(_SHAPES)


def make(name: str, optimizer: Optimizer, *, steps: int) -> LambdaLR:
    """Scale the optimizer's learning rate by the schedule `name`; step it after each of `steps` optimizer steps.

    Training step k of n (from 0) is taken at progress (k + 0.5) / n, so that no step has a rate of exactly zero.
    """
    shape = _SHAPES[name]
    return LambdaLR(optimizer, lambda k: shape(min((k + 0.5) / steps, 1.0)))


def rate(optimizer: Optimizer) -> float:
    """The learning rate that the next step uses."""
    return float(optimizer.param_groups[0]["lr"])


def _between(start: float, end: float, way: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * way)) / 2.0
