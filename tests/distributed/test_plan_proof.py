"""The proof for two transfers in flight, by itself: both implementations against every plan there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_oracle import all_counts, costs, profiles

from thrifty._load_native import native, reason
from thrifty.distributed import GradientProfile, TransferCost, two_in_flight
from thrifty.distributed.chains import end
from thrifty.distributed.two_in_flight import _frontier, _joined, _proven, _proven_natively, _searched, paired

PROOFS = [
    pytest.param(_proven, id="reference"),
    pytest.param(
        _proven_natively, id="native", marks=pytest.mark.skipif(native is None, reason=f"native kernels: {reason}")
    ),
]


def times(profile: GradientProfile, cost: TransferCost):
    """As the planner makes them: when each gradient is ready, and start-up and wire of every bucket."""
    total = np.concatenate([[0.0], np.cumsum(profile.sizes_bytes, dtype=float)])
    size = np.maximum(total[None, :] - total[:, None], 0.0)
    return np.asarray(profile.ready_s), cost.startup(size), cost.wire(size)


@pytest.mark.parametrize("prove", PROOFS)
@settings(max_examples=150, deadline=None)
@given(profile=profiles(), cost=costs(), above=st.sampled_from([1e-9, 0.01, 0.3, 5.0]))
def test_the_best_of_all_plans_is_found_below_any_bound_above_it(prove, profile, cost, above):
    of = times(profile, cost)
    best = min(end(counts, *of) for counts in all_counts(len(profile.names)))
    found = prove(*of, best * (1 + above))
    assert sum(found) == len(profile.names)
    assert end(found, *of) == pytest.approx(best, rel=1e-11)


@pytest.mark.parametrize("prove", PROOFS)
@settings(max_examples=100, deadline=None)
@given(profile=profiles(), cost=costs(), below=st.sampled_from([1e-9, 0.01, 0.3, 0.9]))
def test_no_plan_is_found_below_the_best(prove, profile, cost, below):
    of = times(profile, cost)
    best = min(end(counts, *of) for counts in all_counts(len(profile.names)))
    assert prove(*of, best * (1 - below)) is None
    assert prove(*of, best) is None, "clearly before the bound"


@pytest.mark.parametrize("native_module", ["reference", "native"])
def test_long_plans_are_equally_good_whoever_proves_them(native_module, monkeypatch):
    """A start-up far above the gaps between gradients: staircases are joined, and low bounds refuted."""
    if native_module == "reference":
        monkeypatch.setattr(two_in_flight, "native", None)
    elif native is None:
        pytest.skip(f"native kernels: {reason}")
    for seed, expected in enumerate(WHOLE):
        of = long_problem(seed)
        assert end(paired(*of), *of) == pytest.approx(expected, rel=1e-9)


def long_problem(seed: int):
    """Sixty gradients of very unequal size, in 60 ms or so; start-ups of 20 ms and 1 GB/s."""
    random = np.random.default_rng(seed)
    ready, sizes = np.cumsum(random.exponential(1.0, 60)), random.lognormal(1.0, 2.0, 60)
    total = np.concatenate([[0.0], np.cumsum(sizes)])
    size = np.maximum(total[None, :] - total[:, None], 0.0)
    cost = TransferCost.linear(20.0, 0.02)
    return ready, cost.startup(size), cost.wire(size)


def unpruned(ready, startup, wire) -> float:
    """The end of the best plan by keeping, of each prefix, all pairs that no other pair beats, with no bound at all."""
    states = [[(0.0, 0.0)]]
    for j in range(1, len(ready) + 1):
        found = sorted(
            (q, max(max(ready[j - 1], p) + startup[i, j], q) + wire[i, j]) for i in range(j) for p, q in states[i]
        )
        kept, least = [], np.inf
        for p, q in found:
            if q < least:
                kept.append((p, q))
                least = q
        states.append(kept)
    return min(q for _, q in states[-1])


WHOLE = [unpruned(*long_problem(seed)) for seed in range(3)]


@settings(max_examples=100, deadline=None)
@given(profiles(), costs())
def test_the_search_finds_a_plan_and_with_few_gradients_the_best(profile, cost):
    of = times(profile, cost)
    found = _searched(*of)
    assert sum(found) == len(profile.names) and min(found) > 0
    if len(found) < 4:
        return
    ends = sorted(end(counts, *of) for counts in all_counts(len(profile.names)))
    assert end(found, *of) <= ends[len(ends) // 2]


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(points)
def test_a_frontier_is_what_nothing_beats(pairs):
    first, second = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    kept = [pairs[at] for at in _frontier(first, second)]
    beaten = {a for a in pairs for b in pairs if b != a and b[0] <= a[0] and b[1] <= a[1]}
    assert kept == sorted(set(pairs) - beaten, key=lambda pair: pair[1])


@given(points)
def test_joined_steps_leave_room_for_all_that_had_room(pairs):
    first, second = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    steps = _frontier(-first, -second)
    p, q = first[steps], second[steps]
    less_p, less_q = _joined(p, q)
    assert len(less_p) == min(len(p), two_in_flight.STEPS) and set(less_p) <= set(p) and set(less_q) <= set(q)
    assert all(any(a <= P and b <= Q for P, Q in zip(less_p, less_q, strict=True)) for a, b in zip(p, q, strict=True))
