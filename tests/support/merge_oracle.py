"""Merge plans the slow way: every plan there is, each run transfer by transfer."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import strategies as st

from thrifty.distributed import GradientProfile, TransferCost, TransferSample


def all_counts(n: int):
    """Every way to part n gradients into contiguous buckets."""
    for cuts in range(n):
        for places in combinations(range(1, n), cuts):
            edges = [0, *places, n]
            yield [j - i for i, j in pairwise(edges)]


def end_of(profile: GradientProfile, counts: list[int], cost: TransferCost, in_flight: int) -> float:
    """The end of the last transfer, from the definition: who may start when, and who has the wire."""
    at, channels, wire_free = 0, [0.0] * in_flight, 0.0
    for count in counts:
        ready = max(profile.ready_s[at : at + count])
        size = sum(profile.sizes_bytes[at : at + count])
        begin = max(ready, min(channels))
        channels.remove(min(channels))
        if in_flight == 1:
            wire_free = begin + float(cost.alone(size))
        else:
            wire_free = max(begin + float(cost.startup(size)), wire_free) + float(cost.wire(size))
        channels.append(wire_free)
        at += count
    return wire_free


@st.composite
def profiles(draw: st.DrawFn, most: int = 7) -> GradientProfile:
    """Gradients whose gaps and sizes span several orders, some of them zero."""
    n = draw(st.integers(1, most))
    gaps = draw(st.lists(st.floats(0.0, 5.0), min_size=n, max_size=n))
    sizes = draw(st.lists(st.sampled_from([0, 1, 10, 100, 400, 1000, 5000]), min_size=n, max_size=n))
    ready, at = [], 0.0
    for gap in gaps:
        at += gap
        ready.append(at)
    needed = draw(st.permutations([i / 2 for i in range(n)]))
    return GradientProfile(
        tuple(f"p{i}" for i in range(n)), tuple(sizes), tuple(ready), at + draw(st.floats(0, 1)), n / 2, tuple(needed)
    )


@st.composite
def costs(draw: st.DrawFn) -> TransferCost:
    """Piecewise costs, not always rising, with any share of start-up."""
    sizes = sorted(draw(st.sets(st.sampled_from([1, 5, 50, 200, 800, 3000, 9000]), min_size=1, max_size=5)))
    samples = []
    for size in sizes:
        alone = draw(st.floats(0.01, 10.0))
        samples.append(TransferSample(size, alone, alone * draw(st.floats(1.0, 2.0))))
    return TransferCost.from_samples(samples)
