"""The merge plan with the earliest end, exactly, for any T(m): dynamic programming over contiguous buckets.

One in flight: the end of the first j gradients can only get later when that of the first i < j does, so

    F(j) = min over i < j of  max(F(i), r_j) + T(m_i..j)

is exact (the optimality that MG-WFBP's greedy rule lacks: it looks one gradient ahead), in O(L^2). Two in flight: see
`two_in_flight`.

Of plans that end at the same time, as all do that compute hides or that keep the wire busy throughout, two things
decide. One that ends sooner when transfers take longer than measured (`CAUTION`), or compute less, is better: it leaves
nothing to the last moment. And few buckets are better, as each costs work that T does not hold: from the last to the
first they are joined where that moves no end, neither as measured nor with transfers or compute that much slower.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from thrifty.distributed.chains import ROUNDING, chained, earlier, end, over
from thrifty.distributed.cost import Floats, TransferCost
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.schedule import check_in_flight
from thrifty.distributed.two_in_flight import paired

CAUTION = 1.5
"""How many times as long transfers may turn out to take: plans that are equal are told apart by this."""


def optimal_counts(profile: GradientProfile, cost: TransferCost, in_flight: int = 1) -> list[int]:
    """Gradients in each bucket of the plan that ends first.

    Args:
        profile: the gradients, in the order in which they become ready.
        cost: of one transfer.
        in_flight: transfers at a time, 1 or 2.

    Returns:
        Counts that add up to the number of gradients.
    """
    check_in_flight(in_flight)
    ready = np.asarray(profile.ready_s)
    total = np.concatenate([[0.0], np.cumsum(profile.sizes_bytes, dtype=float)])
    size = np.maximum(total[None, :] - total[:, None], 0.0)  # bytes of the gradients i..j-1 at [i, j]
    alone = cost.alone(size)
    if in_flight == 2:
        startup, wire = cost.startup(size), cost.wire(size)
        counts = paired(ready, startup, wire)
    else:
        startup, wire = np.zeros_like(alone), alone
        counts, _ = chained(ready, startup, wire)
    slow = CAUTION * startup, CAUTION * wire
    cautious, _ = earlier(
        [chained(ready, *slow)[0], chained(ready, np.zeros_like(alone), CAUTION * alone)[0]], ready, *slow
    )
    limit = end(counts, ready, startup, wire) * (1 + ROUNDING)
    if end(cautious, ready, startup, wire) <= limit:
        counts, _ = earlier([counts, cautious], ready, *slow)
    # Compute that takes longer, for one because transfers take from it, is transfers that take less.
    quick = startup / CAUTION, wire / CAUTION
    return _joined(counts, ready, [(startup, wire), slow, quick])


def _joined(counts: list[int], ready: Floats, times: list[tuple[Floats, Floats]]) -> list[int]:
    """The plan with neighbouring buckets joined wherever that moves its end under none of `times`, (startup, wire).

    The end is the largest of sums, so "it stays within the limit" comes down to a limit for p and one for q before
    each bucket, which are carried from the last bucket to the first.
    """
    edges = np.concatenate([[0], np.cumsum(counts)]).tolist()
    checks = [_Limits(edges, ready, startup, wire) for startup, wire in times]
    joined: list[int] = []
    at = len(counts)
    while at:
        first, j = at - 1, edges[at]
        while first and all(check.allows(first - 1, j) for check in checks):
            first -= 1
        for check in checks:
            check.settle(edges[first], j)
        joined.append(j - edges[first])
        at = first
    return joined[::-1]


class _Limits:
    """The latest p and q before the buckets that are settled, and what they are before each bucket of the plan."""

    def __init__(self, edges: list[int], ready: Floats, startup: Floats, wire: Floats) -> None:
        self._edges, self._ready, self._startup, self._wire = edges, ready, startup, wire
        self._states = [(0.0, 0.0)]
        for i, j in pairwise(edges):
            self._states.append((self._states[-1][1], over(self._states[-1], i, j, ready, startup, wire)))
        self._p, self._q = np.inf, self._states[-1][1] * (1 + ROUNDING)

    def allows(self, first: int, j: int) -> bool:
        """Whether one bucket from the plan's bucket `first` up to gradient `j` is over in time."""
        state = self._states[first]
        ends = over(state, self._edges[first], j, self._ready, self._startup, self._wire)
        return state[1] <= self._p and ends <= self._q

    def settle(self, i: int, j: int) -> None:
        """Make the gradients i..j-1 a bucket."""
        left = self._q - float(self._wire[i, j])
        self._p, self._q = left - float(self._startup[i, j]), min(self._p, left)
