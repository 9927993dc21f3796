"""The plan is the optimum: against every plan there is, and against every rule, for any T(m)."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from merge_oracle import all_counts, costs, end_of, profiles

from thrifty.core.errors import UsageError
from thrifty.distributed import GradientProfile, MergePlan, TransferCost, compare, make_plan
from thrifty.distributed.optimum import CAUTION, optimal_counts
from thrifty.distributed.overlap import dear_s, reversed_forward, split_optimum_s
from thrifty.distributed.rules import RIVALS, capped
from thrifty.distributed.schedule import timeline


@pytest.mark.parametrize("in_flight", [1, 2])
@settings(max_examples=150, deadline=None)
@given(profiles(), costs())
def test_no_plan_ends_earlier_and_joining_buckets_would_cost(in_flight, profile, cost):
    counts = optimal_counts(profile, cost, in_flight)
    ends = {tuple(other): end_of(profile, other, cost, in_flight) for other in all_counts(len(profile.names))}
    best = min(ends.values())
    assert ends[tuple(counts)] <= best * (1 + 1e-9)
    others = [scaled(cost, CAUTION), scaled(cost, 1 / CAUTION)]
    for k in range(len(counts) - 1):
        joined = [*counts[:k], counts[k] + counts[k + 1], *counts[k + 2 :]]
        later = [
            end_of(profile, joined, other, in_flight) > end_of(profile, counts, other, in_flight) * (1 - 1e-9)
            for other in others
        ]
        assert any(later) or ends[tuple(joined)] > best * (1 - 1e-9)


def scaled(cost: TransferCost, factor: float) -> TransferCost:
    return TransferCost(cost.sizes_bytes, *(tuple(factor * t for t in of) for of in (cost.alone_s, cost.both_s)))


def test_of_plans_that_compute_hides_the_one_that_leaves_nothing_to_the_last_moment():
    """Ten gradients that are hidden one by one, or nine at a time just so: slower transfers must not undo the plan."""
    profile = GradientProfile(
        tuple(f"p{i}" for i in range(10)), (100,) * 10, tuple(float(i + 1) for i in range(10)), 10.0, 5.0, (0.0,) * 10
    )
    cost = TransferCost.linear(0.0, 0.001)
    counts = optimal_counts(profile, cost)
    slow = timeline(profile, counts, TransferCost.linear(0.0, 0.0015), 1).over_s
    assert counts[-1] == 1 and slow == pytest.approx(10.15)


@pytest.mark.parametrize("in_flight", [1, 2])
@settings(max_examples=100, deadline=None)
@given(profiles(), costs())
def test_the_recurrence_is_the_definition(in_flight, profile, cost):
    for counts in all_counts(min(len(profile.names), 5)):
        counts = [*counts, len(profile.names) - 5] if len(profile.names) > 5 else counts
        found = timeline(profile, counts, cost, in_flight)
        assert found.over_s == pytest.approx(end_of(profile, counts, cost, in_flight), rel=1e-12)
        assert all(start >= ready for start, ready in zip(found.start_s, found.ready_s, strict=True))


@pytest.mark.parametrize("in_flight", [1, 2])
@settings(max_examples=100, deadline=None)
@given(profiles(most=12), costs())
def test_no_rule_predicts_less(in_flight, profile, cost):
    found = compare(profile, cost, in_flight=in_flight)
    assert set(found) == {"optimal", *RIVALS, "dear", "optimal-split"}
    for rule in RIVALS:
        assert found["optimal"] <= found[rule] * (1 + 1e-9), rule
    assert found["optimal-split"] <= found["dear"] * (1 + 1e-9)


@pytest.mark.parametrize("in_flight", [1, 2])
@settings(max_examples=60, deadline=None)
@given(profiles(most=5), costs())
def test_parting_the_all_reduce_is_planned_as_well_as_it_can_be(in_flight, profile, cost):
    """Both halves by brute force; the forward half in forward time, not backwards as the code has it."""
    half = cost.split()
    scattered = min(end_of(profile, counts, half, in_flight) for counts in all_counts(len(profile.names)))
    if in_flight == 2:  # the oracle below has one channel
        assert split_optimum_s(profile, cost, 2) >= scattered - 1e-9
        return
    order = sorted(range(len(profile.names)), key=lambda i: profile.needed_s[i])
    uses = [profile.needed_s[i] for i in order]
    layers = np.diff([*uses, profile.forward_s])
    best = min(_forward(order, counts, layers, uses[0], profile, half) for counts in all_counts(len(order)))
    expected = scattered + max(0.0, best - profile.forward_s)
    assert split_optimum_s(profile, cost, 1) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def _forward(order, counts, layers, first_use, profile, half):
    """End of a forward pass that begins with the all-gathers: each layer waits for its bucket."""
    at, arrived, done = 0, 0.0, first_use
    for count in counts:
        arrived += float(half.alone(sum(profile.sizes_bytes[i] for i in order[at : at + count])))
        for layer in layers[at : at + count]:
            done = max(done, arrived) + layer
        at += count
    return done


def test_reversed_forward_lists_what_is_needed_last_first():
    profile = GradientProfile(("c", "b", "a"), (3, 2, 1), (1.0, 2.0, 3.0), 3.0, 6.0, (4.0, 1.0, 0.0))
    back = reversed_forward(profile)
    assert back.names == ("c", "b", "a")
    assert back.ready_s == (2.0, 5.0, 6.0)


def test_where_the_greedy_rule_gathers_everything_the_optimum_does_not():
    """A start-up above the largest gap between gradients: each merge justifies the next."""
    n = 160
    profile = GradientProfile(
        tuple(f"p{i}" for i in range(n)), (600_000,) * n, tuple(0.001 * (i + 1) for i in range(n)), 0.16, 0.08,
        (0.0,) * n,
    )  # fmt: skip
    cost = TransferCost.linear(7.04e-3, 0.964e-9)
    greedy, optimal = make_plan(profile, cost, rule="mg-wfbp"), make_plan(profile, cost)
    assert len(greedy.buckets) == 1 and len(optimal.buckets) > 3
    assert optimal.predicted_s < 0.8 * greedy.predicted_s


def test_buckets_close_when_they_reach_their_cap_and_the_last_cap_goes_on():
    assert capped([3, 3, 3, 3, 3], [3, 5]) == [1, 2, 2]
    assert capped([3, 3, 3], [100]) == [3]
    assert capped([9, 1, 1], [1]) == [1, 1, 1]
    assert capped([3, 3, 1], [6]) == [2, 1]


def test_a_plan_holds_every_gradient_once_in_order_and_travels():
    profile = GradientProfile(("c", "b", "a"), (30, 20, 10), (1.0, 2.0, 3.0), 3.0, 1.0, (0.5, 0.2, 0.0))
    plan = make_plan(profile, TransferCost.linear(0.5, 0.01), in_flight=2)
    assert [name for bucket in plan.buckets for name in bucket] == ["c", "b", "a"]
    assert sum(plan.bucket_bytes) == profile.total_bytes
    assert MergePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("in_flight", [1, 2])
def test_four_hundred_gradients(in_flight):
    random = np.random.default_rng(0)
    n = 400
    ready = np.cumsum(random.exponential(1e-3, n))
    profile = GradientProfile(
        tuple(f"p{i}" for i in range(n)), tuple(int(size) for size in random.lognormal(11, 2, n)),
        tuple(ready.tolist()), float(ready[-1]), 0.2, (0.0,) * n,
    )  # fmt: skip
    cost = TransferCost.linear(2e-3, 1e-9)
    plan = make_plan(profile, cost, in_flight=in_flight)
    assert sum(plan.counts) == n
    # Moving any edge by one gradient does not help.
    for k in range(len(plan.counts) - 1):
        for shift in (-1, 1):
            counts = list(plan.counts)
            counts[k], counts[k + 1] = counts[k] + shift, counts[k + 1] - shift
            if min(counts) > 0:
                assert timeline(profile, counts, cost, in_flight).over_s >= plan.predicted_s * (1 - 1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda p, c: make_plan(p, c, rule="best"),
            "no merge rule is called 'best'; choose one of optimal, per-tensor",
        ),
        (lambda p, c: make_plan(p, c, in_flight=3), "in flight are 1 or 2, got 3"),
        (lambda p, c: timeline(p, [1], c), r"buckets of \[1\] gradients do not part 2 gradients"),
        (lambda p, c: timeline(p, [2, 0], c), "do not part"),
        (lambda p, c: MergePlan.from_dict({"buckets": []}), "merge plan lacks the field"),
        (lambda p, c: GradientProfile.from_dict({**p.to_dict(), "names": ["a"]}), "a size and two times for each"),
        (lambda p, c: GradientProfile.from_dict({**p.to_dict(), "names": ["a", "a"]}), "each parameter once"),
        (lambda p, c: GradientProfile.from_dict({**p.to_dict(), "ready_s": [2.0, 1.0]}), "in which they become ready"),
        (lambda p, c: GradientProfile.from_dict({**p.to_dict(), "ready_s": [1.0, 9.0]}), "after the backward pass"),
        (lambda p, c: GradientProfile.from_dict({**p.to_dict(), "ready_s": [-1.0, 1.0]}), "not negative"),
        (lambda p, c: p.taking(0.0), "takes more than"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    profile = GradientProfile(("b", "a"), (20, 10), (1.0, 2.0), 2.0, 1.0, (0.5, 0.0))
    with pytest.raises(UsageError, match=message):
        call(profile, TransferCost.linear(1.0, 1.0))


def test_dear_hides_what_an_all_reduce_cannot():
    """One large gradient that is ready last: half of its transfer moves into the next forward pass."""
    profile = GradientProfile(("a",), (1000,), (2.0,), 2.0, 10.0, (9.0,))
    cost = TransferCost.linear(0.0, 0.001)
    assert make_plan(profile, cost).predicted_s == pytest.approx(3.0)
    assert dear_s(profile, cost) == pytest.approx(2.5)
