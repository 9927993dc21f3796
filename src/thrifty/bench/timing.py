"""Fair timing: rivals take turns in one process, so that a clock that drifts or a neighbour that wakes hits them alike.

The order turns round by one place each round, or the first would always run on what the last left in the caches.
Medians with minimum and maximum are given, not means: noise only ever adds time.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Clock = Callable[[], float]


class Spread(NamedTuple):
    """Median, minimum and maximum of some timings in seconds."""

    median: float
    min: float
    max: float


def median_min_max(seconds: Sequence[float]) -> Spread:
    """The spread of some timings. Raises ValueError for none."""
    if not seconds:
        raise ValueError("no timings to summarise")
    return Spread(statistics.median(seconds), min(seconds), max(seconds))


def interleave(
    arms: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warmup: int = 1,
    synchronize: Callable[[], Any] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every arm `repeats` times in turn.

    Args:
        arms: what to call, by name.
        repeats: timed calls of each, at least 1.
        warmup: calls of each before, not timed.
        synchronize: waits for work that a call has left in flight on a device, inside the time.
        clock: seconds, for tests.

    Returns:
        Seconds of the calls by name, in the order of the calls. Garbage is collected between the calls, not in them.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: give 1 or more")
    names = list(arms)
    for _ in range(warmup):
        for name in names:
            _timed(arms[name], synchronize, clock)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats):
            first = turn % len(names) if names else 0
            for name in names[first:] + names[:first]:
                gc.collect(0)
                seconds[name].append(_timed(arms[name], synchronize, clock))
    finally:
        if collecting:
            gc.enable()
    return seconds


def calibrate(
    arms: Mapping[str, Callable[[], Any]],
    budget_s: float,
    *,
    least: int = 3,
    most: int = 200,
    synchronize: Callable[[], Any] | None = None,
    clock: Clock = time.perf_counter,
) -> int:
    """Repeats that fill about `budget_s` seconds with all arms, `least` to `most`.

    Calls every arm twice and goes by the second call, since the first one also pays for caches and lazy set-up; so
    `interleave` needs no further warm-up.
    """
    one_round = 0.0
    for call in arms.values():
        _timed(call, synchronize, clock)
        one_round += _timed(call, synchronize, clock)
    if one_round <= 0:
        return most
    return max(least, min(most, math.floor(budget_s / one_round)))


def _timed(call: Callable[[], Any], synchronize: Callable[[], Any] | None, clock: Clock) -> float:
    start = clock()
    call()
    if synchronize is not None:
        synchronize()
    return clock() - start
