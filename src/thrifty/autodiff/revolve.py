"""The optimal schedule for a chain of equal steps: binomial checkpointing.

Source: Griewank & Walther, Algorithm 799: revolve (ACM TOMS 26(1), 2000). With c snapshots, the start among them, n
steps can be reversed by t(n, c) = r n - C(c + r, r - 1) steps forward, where r is the least number with C(c + r, c) >=
n; the n steps that are taped come on top. `tests/autodiff/test_revolve.py` checks both functions against dynamic
programming.
"""

from __future__ import annotations

from math import comb

from thrifty.core.errors import UsageError


def repetitions(steps: int, snapshots: int) -> int:
    """The least r with C(snapshots + r, snapshots) >= steps: no step runs forward more than r times."""
    if steps < 1 or snapshots < 1:
        raise UsageError(f"steps={steps}, snapshots={snapshots}: each must be at least 1")
    r = 0
    while comb(snapshots + r, snapshots) < steps:
        r += 1
    return r


def forward_steps(steps: int, snapshots: int) -> int:
    """t(n, c): the fewest steps forward, without the taped ones."""
    r = repetitions(steps, snapshots)
    return r * steps - comb(snapshots + r, r - 1) if r else 0


def split(steps: int, snapshots: int) -> int:
    """Where the next snapshot goes: how many of `steps` to advance, with `snapshots` to use, the start among them."""
    if snapshots == 1 or steps == 1:
        return steps - 1
    r = repetitions(steps, snapshots)
    least = comb(snapshots + r - 2, snapshots) if r >= 2 else 1
    return min(max(least, steps - comb(snapshots + r - 1, snapshots - 1), 1), steps - 1)


def first_sweep(steps: int, snapshots: int) -> list[int]:
    """Steps at whose start the first sweep forward leaves its snapshots, 0 the first."""
    places = [0]
    while len(places) < snapshots and steps - places[-1] > 1:
        left = snapshots - len(places) + 1
        places.append(places[-1] + split(steps - places[-1], left))
    return places
