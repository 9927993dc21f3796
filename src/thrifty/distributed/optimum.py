"""The merge plan with the earliest end, exactly, for any T(m): dynamic programming over contiguous buckets.

One in flight: the end of the first j gradients can only get later when that of the first i < j does, so

    F(j) = min over i < j of  max(F(i), r_j) + T(m_i..j)

is exact (the optimality that MG-WFBP's greedy rule lacks: it looks one gradient ahead), in O(L^2).

Two in flight: what follows depends on the ends (p, q) of the last two buckets, and never gets better when one of them
gets later. So for each j the pairs that no other pair of j beats in both are kept, and no other can lead to an optimum.
What keeps them few: with any number in flight p does not matter, which gives a plan in O(L^2) that is often the optimum
already, and else the latest q and p from which a known plan can still be beaten.

Of plans that end at the same time, as all do that compute hides, two things decide. One that ends sooner when
transfers take longer than measured (`CAUTION`) is better: it leaves nothing to the last moment. And few buckets are
better, as each costs work that T does not hold: from the last to the first they are joined where that moves neither
end.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from thrifty.distributed.cost import Floats, TransferCost
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.schedule import check_in_flight

ROUNDING = 1e-12
"""Relative; two ends that differ by less are the same."""
CAUTION = 1.5
"""How many times as long transfers may turn out to take: plans that are equal are told apart by this."""
KEPT = 3
"""Pairs of each prefix in the search for a first plan."""
SHARES = (0.1, 1.0)
"""Of the gap between the least end and that of the first plan: bounds under which an optimum is looked for."""


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
        counts = _paired(ready, startup, wire)
    else:
        startup, wire = np.zeros_like(alone), alone
        counts, _ = _chained(ready, startup, wire)
    slow = CAUTION * startup, CAUTION * wire
    cautious, _ = _earlier(
        [_chained(ready, *slow)[0], _chained(ready, np.zeros_like(alone), CAUTION * alone)[0]], ready, *slow
    )
    limit = _end(counts, ready, startup, wire) * (1 + ROUNDING)
    if _end(cautious, ready, startup, wire) <= limit:
        counts, _ = _earlier([counts, cautious], ready, *slow)
    return _joined(counts, ready, [(startup, wire), slow])


def _chained(ready: Floats, startup: Floats, wire: Floats) -> tuple[list[int], float]:
    """The plan that ends first, and its end, when any number of start-ups may run side by side."""
    n = len(ready)
    over = np.zeros(n + 1)
    cut = np.zeros(n + 1, dtype=int)
    for j in range(1, n + 1):
        ends = np.maximum(ready[j - 1] + startup[:j, j], over[:j]) + wire[:j, j]
        cut[j] = np.argmin(ends)
        over[j] = ends[cut[j]]
    return _counts(cut, n), float(over[n])


def _counts(cut: NDArray[np.int_], n: int) -> list[int]:
    counts = []
    while n:
        counts.append(int(n - cut[n]))
        n = int(cut[n])
    return counts[::-1]


def _paired(ready: Floats, startup: Floats, wire: Floats) -> list[int]:
    """The plan that ends first with two in flight."""
    chained, least = _chained(ready, startup, wire)
    serial, _ = _chained(ready, np.zeros_like(wire), startup + wire)
    known, bound = _earlier([chained, serial], ready, startup, wire)
    if bound > least * (1 + ROUNDING):  # else no limit on what is in flight would do better
        known, bound = _earlier([known, _searched(ready, startup, wire)], ready, startup, wire)
    # The nearer a bound lies to the optimum the fewer pairs are left; one that lies below costs little.
    for share in SHARES:
        if bound <= least * (1 + ROUNDING):
            break
        found = _proven(ready, startup, wire, least + share * (bound - least))
        if found is not None:
            return found
    return known


def _earlier(plans: list[list[int]], ready: Floats, startup: Floats, wire: Floats) -> tuple[list[int], float]:
    ends = [_end(counts, ready, startup, wire) for counts in plans]
    return plans[int(np.argmin(ends))], min(ends)


def _searched(ready: Floats, startup: Floats, wire: Floats) -> list[int]:
    """A good plan: as the proof, but of each prefix only the `KEPT` pairs with the earliest q that trade p for q."""
    n = len(ready)
    before, last = np.full((n + 1, KEPT), np.inf), np.full((n + 1, KEPT), np.inf)
    parent = np.zeros((n + 1, KEPT), dtype=int)
    before[0, 0] = last[0, 0] = 0.0
    for j in range(1, n + 1):
        begun = np.maximum(ready[j - 1], before[:j]) + startup[:j, j, None]
        over = (np.maximum(begun, last[:j]) + wire[:j, j, None]).ravel()
        first = last[:j].ravel()
        for k in range(KEPT):
            at = int(np.argmin(over))
            if not np.isfinite(over[at]):
                break
            before[j, k], last[j, k], parent[j, k] = first[at], over[at], at
            over[first >= first[at]] = np.inf
    counts, j, k = [], n, 0
    while j:
        i, k = divmod(int(parent[j, k]), KEPT)
        counts.append(j - i)
        j = i
    return counts[::-1]


def _proven(ready: Floats, startup: Floats, wire: Floats, bound: float) -> list[int] | None:
    """The plan that ends first, or None when none ends clearly before `bound`."""
    n = len(ready)
    bound *= 1 - ROUNDING
    latest_p, latest_q = _latest(ready, startup, wire, bound)
    # What a bucket waits for anyway: of what lies before it differences do not matter.
    soonest = ready + startup[:n, 1:].min(axis=1, where=np.triu(np.ones((n, n), dtype=bool)), initial=np.inf)
    soonest = np.minimum(soonest, np.append(ready[1:], np.inf))
    # Pairs (p, q) of all prefixes so far, with the prefix they belong to and the pair they came from.
    before, last = np.zeros(1), np.zeros(1)
    prefix, parent = np.zeros(1, dtype=int), np.full(1, -1)
    for j in range(1, n + 1):
        begun = np.maximum(ready[j - 1], before) + startup[prefix, j]
        over = np.maximum(begun, last) + wire[prefix, j]
        possible = np.flatnonzero((over <= latest_q[j]) & (last <= latest_p[j]))
        p, q = last[possible], over[possible]
        if j < n:
            p, q = np.maximum(p, ready[j]), np.maximum(q, soonest[j])
        kept = _frontier(p, q)
        before, last = np.concatenate([before, p[kept]]), np.concatenate([last, q[kept]])
        prefix = np.concatenate([prefix, np.full(len(kept), j)])
        parent = np.concatenate([parent, possible[kept]])
    whole = np.flatnonzero(prefix == n)
    if not len(whole):
        return None
    at = int(whole[np.argmin(last[whole])])
    counts = []
    while parent[at] >= 0:
        counts.append(int(prefix[at] - prefix[parent[at]]))
        at = int(parent[at])
    return counts[::-1]


def _latest(ready: Floats, startup: Floats, wire: Floats, bound: float) -> tuple[Floats, Floats]:
    """The latest p and q after each prefix from which the end can be at `bound`, if p and q alone mattered."""
    n = len(ready)
    latest_p, latest_q = np.full(n + 1, -np.inf), np.full(n + 1, -np.inf)
    latest_p[n], latest_q[n] = np.inf, bound
    for j in range(n - 1, -1, -1):
        left = latest_q[j + 1 :] - wire[j, j + 1 :]
        in_time = ready[j:] + startup[j, j + 1 :] <= left
        latest_q[j] = left.max(initial=-np.inf, where=in_time)
        latest_p[j] = (left - startup[j, j + 1 :]).max(initial=-np.inf, where=in_time)
    return latest_p, latest_q


def _frontier(first: Floats, second: Floats) -> NDArray[np.int_]:
    """Places of the pairs (first, second) that no other pair beats or equals in both."""
    order = np.lexsort((first, second))
    kept = first[order]
    earlier = np.minimum.accumulate(np.concatenate([[np.inf], kept]))[:-1]
    return order[kept < earlier]


def _end(counts: list[int], ready: Floats, startup: Floats, wire: Floats) -> float:
    state, i = (0.0, 0.0), 0
    for count in counts:
        state = (state[1], _over(state, i, i + count, ready, startup, wire))
        i += count
    return state[1]


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
            self._states.append((self._states[-1][1], _over(self._states[-1], i, j, ready, startup, wire)))
        self._p, self._q = np.inf, self._states[-1][1] * (1 + ROUNDING)

    def allows(self, first: int, j: int) -> bool:
        """Whether one bucket from the plan's bucket `first` up to gradient `j` is over in time."""
        state = self._states[first]
        over = _over(state, self._edges[first], j, self._ready, self._startup, self._wire)
        return state[1] <= self._p and over <= self._q

    def settle(self, i: int, j: int) -> None:
        """Make the gradients i..j-1 a bucket."""
        left = self._q - float(self._wire[i, j])
        self._p, self._q = left - float(self._startup[i, j]), min(self._p, left)


def _over(state: tuple[float, float], i: int, j: int, ready: Floats, startup: Floats, wire: Floats) -> float:
    before, last = state
    return float(max(max(ready[j - 1], before) + startup[i, j], last) + wire[i, j])
