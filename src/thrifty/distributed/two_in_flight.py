"""The merge plan with the earliest end when two transfers are in flight, exactly, for any T(m).

What follows the first j gradients depends on the ends (p, q) of the last two buckets, and never gets better when one of
them gets later. So for each j the pairs that no other pair of j beats in both are kept, and no other can lead to an
optimum. What keeps them few:

- With any number in flight p does not matter, which gives in O(L^2) a plan that is often the optimum already, and else
  a least end that none can beat.
- Backwards from an end that is to be beaten, the pairs of each j from which it still can be are a staircase in p and q.
  Its steps are as many as the pairs, so neighbours are joined down to `STEPS`, which lets a few more pairs live.
- The nearer that end lies to the optimum the fewer pairs live, and ends below the optimum cost little to refute: it is
  looked for under a rising bound.

`_proven` is that proof; the native kernel `pair_plan` is the same in a tenth of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thrifty._load_native import native
from thrifty.distributed.chains import ROUNDING, chained, earlier
from thrifty.distributed.cost import Floats

KEPT = 3
"""Pairs of each prefix in the search for a first plan."""
STEPS = 8
"""Of a staircase."""
SHARES = (0.05, 0.15, 0.3, 0.5, 0.75, 1.0)
"""Of the gap between the least end and that of the first plan: bounds under which an optimum is looked for."""


def paired(ready: Floats, startup: Floats, wire: Floats) -> list[int]:
    """Gradients in each bucket of the plan that ends first with two in flight; arguments as in `chains`."""
    chain, least = chained(ready, startup, wire)
    serial, _ = chained(ready, np.zeros_like(wire), startup + wire)
    known, bound = earlier([chain, serial], ready, startup, wire)
    prove = _proven if native is None else _proven_natively
    if native is None and bound > least * (1 + ROUNDING):  # else no limit on what is in flight would do better
        known, bound = earlier([known, _searched(ready, startup, wire)], ready, startup, wire)
    for share in SHARES:
        if bound <= least * (1 + ROUNDING):
            break
        found = prove(ready, startup, wire, least + share * (bound - least))
        if found is not None:
            return found
    return known


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


def _proven_natively(ready: Floats, startup: Floats, wire: Floats, bound: float) -> list[int] | None:
    """As `_proven`."""
    counts = np.zeros(len(ready), dtype=np.int64)
    buckets = native.pair_plan(*map(np.ascontiguousarray, (ready, startup, wire)), bound * (1 - ROUNDING), counts)
    return counts[:buckets].tolist() or None


def _proven(ready: Floats, startup: Floats, wire: Floats, bound: float) -> list[int] | None:
    """The plan that ends first, or None when none ends clearly before `bound`."""
    n = len(ready)
    stairs = _staircases(ready, startup, wire, bound * (1 - ROUNDING))
    if not len(stairs[0][0]):
        return None
    # What a bucket waits for anyway: of what lies before it differences do not matter.
    soonest = ready + startup[:n, 1:].min(axis=1, where=np.triu(np.ones((n, n), dtype=bool)), initial=np.inf)
    soonest = np.minimum(soonest, np.append(ready[1:], np.inf))
    # Pairs (p, q) of all prefixes so far, with the prefix they belong to and the pair they came from.
    before, last = np.zeros(1), np.zeros(1)
    prefix, parent = np.zeros(1, dtype=int), np.full(1, -1)
    for j in range(1, n + 1):
        begun = np.maximum(ready[j - 1], before) + startup[prefix, j]
        over = np.maximum(begun, last) + wire[prefix, j]
        possible = np.flatnonzero(_below(stairs[j], last, over))
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


Stairs = tuple[Floats, Floats]
"""Steps (P, Q), P rising and Q falling: a pair (p, q) is below when p <= P and q <= Q for one of them."""


def _staircases(ready: Floats, startup: Floats, wire: Floats, bound: float) -> list[Stairs]:
    """For each prefix the pairs from which the end can be at `bound`, or somewhat more than these.

    A bucket i..j that is over by Q, with q by P before it, needs p + startup + wire and q + wire by Q, and q by P.
    """
    n = len(ready)
    first_p, first_q = _soonest(ready, startup, wire)
    # Steps of all prefixes so far, filled from the end.
    size = STEPS * n + 1
    limit_p, limit_q, prefix = np.empty(size), np.empty(size), np.empty(size, dtype=int)
    stairs: list[Stairs] = [(np.empty(0), np.empty(0))] * n + [(np.array([np.inf]), np.array([bound]))]
    limit_p[-1], limit_q[-1], prefix[-1] = np.inf, bound, n
    top = size - 1
    for i in range(n - 1, -1, -1):
        j = prefix[top:]
        left = limit_q[top:] - wire[i, j]
        p, q = left - startup[i, j], np.minimum(limit_p[top:], left)
        alive = (ready[j - 1] <= p) & (first_p[i] <= p) & (first_q[i] <= q)
        p, q = p[alive], q[alive]
        steps = _frontier(-p, -q)
        p, q = _joined(p[steps], q[steps])
        top -= len(p)
        limit_p[top : top + len(p)], limit_q[top : top + len(p)], prefix[top : top + len(p)] = p, q, i
        stairs[i] = p, q
    return stairs


def _soonest(ready: Floats, startup: Floats, wire: Floats) -> tuple[Floats, Floats]:
    """The earliest p and q after each prefix, each by itself, with any number in flight."""
    n = len(ready)
    p, q = np.zeros(n + 1), np.zeros(n + 1)
    for j in range(1, n + 1):
        p[j] = q[:j].min()
        q[j] = (np.maximum(ready[j - 1] + startup[:j, j], q[:j]) + wire[:j, j]).min()
    return p, q


def _joined(p: Floats, q: Floats) -> Stairs:
    """At most `STEPS` steps that no pair below the given ones is above: neighbours joined where they differ least."""
    while len(p) > STEPS:
        at = int(np.argmin((p[1:] - p[:-1]) * (q[:-1] - q[1:])))
        p, q = np.delete(p, at), np.delete(q, at + 1)
    return p, q


def _below(stairs: Stairs, p: Floats, q: Floats) -> NDArray[np.bool_]:
    limit_p, limit_q = stairs[0][::-1], stairs[1][::-1]
    step = np.searchsorted(limit_q, q)  # of the steps with room for q the one with the most room for p
    return p <= np.append(limit_p, -np.inf)[step]


def _frontier(first: Floats, second: Floats) -> NDArray[np.int_]:
    """Places of the pairs (first, second) that no other pair beats or equals in both."""
    order = np.lexsort((first, second))
    kept = first[order]
    earlier = np.minimum.accumulate(np.concatenate([[np.inf], kept]))[:-1]
    return order[kept < earlier]
