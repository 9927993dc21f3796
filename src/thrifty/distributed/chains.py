"""Chains of buckets under times given for every bucket there could be: their ends, and the one that ends first.

`startup` and `wire` are (n + 1, n + 1): at [i, j] the seconds of a bucket of the gradients i..j-1, of which start-ups
run side by side and the wire carries one at a time. `ready` (n,) says when each gradient is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thrifty.distributed.cost import Floats

ROUNDING = 1e-12
"""Relative; two ends that differ by less are the same."""


def chained(ready: Floats, startup: Floats, wire: Floats) -> tuple[list[int], float]:
    """The plan that ends first, and its end, when any number of start-ups may run side by side."""
    n = len(ready)
    ended = np.zeros(n + 1)
    cut = np.zeros(n + 1, dtype=int)
    for j in range(1, n + 1):
        ends = np.maximum(ready[j - 1] + startup[:j, j], ended[:j]) + wire[:j, j]
        cut[j] = np.argmin(ends)
        ended[j] = ends[cut[j]]
    return _counts(cut, n), float(ended[n])


def _counts(cut: NDArray[np.int_], n: int) -> list[int]:
    counts = []
    while n:
        counts.append(int(n - cut[n]))
        n = int(cut[n])
    return counts[::-1]


def earlier(plans: list[list[int]], ready: Floats, startup: Floats, wire: Floats) -> tuple[list[int], float]:
    """The plan among `plans` that ends first with two in flight, and its end."""
    ends = [end(counts, ready, startup, wire) for counts in plans]
    return plans[int(np.argmin(ends))], min(ends)


def end(counts: list[int], ready: Floats, startup: Floats, wire: Floats) -> float:
    """When the last of buckets of `counts` gradients is over, with two in flight."""
    state, i = (0.0, 0.0), 0
    for count in counts:
        state = (state[1], over(state, i, i + count, ready, startup, wire))
        i += count
    return state[1]


def over(state: tuple[float, float], i: int, j: int, ready: Floats, startup: Floats, wire: Floats) -> float:
    """When the bucket i..j-1 is over, `state` being the ends of the two before it."""
    before, last = state
    return float(max(max(ready[j - 1], before) + startup[i, j], last) + wire[i, j])
