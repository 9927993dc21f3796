"""The merge plan with the earliest end, exactly, for any T(m): dynamic programming over contiguous buckets.

One in flight: the end of the first j gradients can only get later when that of the first i < j does, so

    F(j) = min over i < j of  max(F(i), r_j) + T(m_i..j)

is exact (the optimality that MG-WFBP's greedy rule lacks: it looks one gradient ahead), in O(L^2).

Two in flight: what follows depends on the ends (p, q) of the last two buckets, and never gets better when one of them
gets later. So for each j the pairs that no other pair of j beats in both are kept, and no other can lead to an optimum.
A pair is also dropped when even a lower bound of what remains brings it past a plan that is already known.

Of plans that end at the same time those with few buckets are better: each costs work that T does not hold. So, from the
last to the first, buckets are joined as long as the end stays where it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thrifty.distributed.cost import Floats, TransferCost
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.schedule import check_in_flight, timeline

ROUNDING = 1e-12
"""Relative; two ends that differ by less are the same."""


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
    counts = _serial(ready, alone)
    startup, wire = 0 * alone, alone
    if in_flight == 2:
        startup, wire = cost.startup(size), cost.wire(size)
        bound = timeline(profile, counts, cost, 2).over_s * (1 + ROUNDING)
        counts = _paired(ready, startup, wire, bound)
    return _joined(counts, ready, startup, wire)


def _serial(ready: Floats, seconds: Floats) -> list[int]:
    n = len(ready)
    over = np.zeros(n + 1)
    cut = np.zeros(n + 1, dtype=int)
    for j in range(1, n + 1):
        ends = np.maximum(over[:j], ready[j - 1]) + seconds[:j, j]
        cut[j] = np.argmin(ends)
        over[j] = ends[cut[j]]
    return _counts(cut, n)


def _counts(cut: NDArray[np.int_], n: int) -> list[int]:
    counts = []
    while n:
        counts.append(int(n - cut[n]))
        n = int(cut[n])
    return counts[::-1]


def _paired(ready: Floats, startup: Floats, wire: Floats, bound: float) -> list[int]:
    """The counts; `bound` is the end of a plan that exists."""
    n = len(ready)
    rest = _least_wire(wire)
    # Pairs (p, q) of all prefixes so far, with the prefix they belong to and the pair they came from.
    before, last = np.zeros(1), np.zeros(1)
    prefix, parent = np.zeros(1, dtype=int), np.full(1, -1)
    for j in range(1, n + 1):
        begun = np.maximum(ready[j - 1], before) + startup[prefix, j]
        over = np.maximum(begun, last) + wire[prefix, j]
        chosen = _frontier(last, over, np.flatnonzero(over + rest[j] <= bound))
        before, last = np.concatenate([before, last[chosen]]), np.concatenate([last, over[chosen]])
        prefix = np.concatenate([prefix, np.full(len(chosen), j)])
        parent = np.concatenate([parent, chosen])
    whole = np.flatnonzero(prefix == n)
    at = int(whole[np.argmin(last[whole])])
    counts = []
    while parent[at] >= 0:
        counts.append(int(prefix[at] - prefix[parent[at]]))
        at = int(parent[at])
    return counts[::-1]


def _frontier(first: Floats, second: Floats, among: NDArray[np.int_]) -> NDArray[np.int_]:
    """Those of the places `among` whose pair (first, second) no other pair beats or equals in both."""
    order = among[np.lexsort((first[among], second[among]))]
    kept = first[order]
    earlier = np.minimum.accumulate(np.concatenate([[np.inf], kept]))[:-1]
    return order[kept < earlier]


def _least_wire(wire: Floats) -> Floats:
    """Least seconds of wire for the gradients from j on, for every j: any plan needs at least these after prefix j."""
    n = len(wire) - 1
    rest = np.zeros(n + 1)
    for j in range(n - 1, -1, -1):
        rest[j] = (wire[j, j + 1 :] + rest[j + 1 :]).min()
    return rest


def _joined(counts: list[int], ready: Floats, startup: Floats, wire: Floats) -> list[int]:
    """The plan with neighbouring buckets joined wherever that does not move its end.

    The end is the largest of sums, so "it stays within the limit" comes down to a limit for p and one for q before
    each bucket, which are carried from the last bucket to the first.
    """
    edges = np.concatenate([[0], np.cumsum(counts)]).tolist()
    states = [(0.0, 0.0)]  # (p, q) before each bucket
    for i, j in zip(edges, edges[1:], strict=False):
        states.append((states[-1][1], _over(states[-1], i, j, ready, startup, wire)))
    limit_p, limit_q = np.inf, states[-1][1] * (1 + ROUNDING)
    joined: list[int] = []
    at = len(counts)
    while at:
        first, j = at - 1, edges[at]
        while first:
            state = states[first - 1]
            if state[1] > limit_p or _over(state, edges[first - 1], j, ready, startup, wire) > limit_q:
                break
            first -= 1
        i = edges[first]
        joined.append(j - i)
        limit_p, limit_q = (
            limit_q - float(startup[i, j]) - float(wire[i, j]),
            min(limit_p, limit_q - float(wire[i, j])),
        )
        at = first
    return joined[::-1]


def _over(state: tuple[float, float], i: int, j: int, ready: Floats, startup: Floats, wire: Floats) -> float:
    before, last = state
    return float(max(max(ready[j - 1], before) + startup[i, j], last) + wire[i, j])
