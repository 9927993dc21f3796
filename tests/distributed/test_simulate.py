"""Simulated steps: against the formulas, against events in simulated time, and against what was published."""

import numpy as np
import pytest
from hypothesis import given, settings
from merge_oracle import costs, profiles

from thrifty.core.errors import UsageError
from thrifty.distributed import GradientProfile, make_plan
from thrifty.distributed.collectives import Link, group_sizes, halving_doubling, hierarchical, ring
from thrifty.distributed.schedule import timeline
from thrifty.distributed.simulate import RULES, sweep
from thrifty.distributed.stragglers import Unevenness, simulate_steps

LINK = Link(latency_s=1e-5, bytes_per_s=1e9, add_bytes_per_s=1e10)
PROFILE = GradientProfile(
    tuple("edcba"), (4_000_000, 100, 2_000_000, 300_000, 50), (0.01, 0.012, 0.03, 0.04, 0.05), 0.05, 0.025,
    (0.02, 0.02, 0.01, 0.005, 0.0),
)  # fmt: skip


def test_the_formulas():
    m = 1e6
    assert ring(4, LINK).alone(m) == pytest.approx(6e-5 + m * 0.75 * 2.1e-9)
    assert halving_doubling(8, LINK).alone(m) == pytest.approx(6e-5 + m * 7 / 8 * 2.1e-9)
    assert halving_doubling(9, LINK).alone(m) == pytest.approx(8e-5 + m * (7 / 8 * 2.1e-9 + 2e-9))
    near = Link(1e-5, 1e9, local_latency_s=1e-6, local_bytes_per_s=1e10, add_bytes_per_s=1e10)
    expected = 12e-6 + 6e-5 + m * (0.75 * (4e-10 + 1e-10) + 0.75 * 2.1e-9)
    assert hierarchical(16, near, 4).alone(m) == pytest.approx(expected)
    assert hierarchical(6, LINK, 1).alone(m) == pytest.approx(ring(6, LINK).alone(m))


def test_one_worker_sends_nothing_and_steps_never_shrink():
    points = sweep(PROFILE, LINK, [1, 2, 16, 1024])
    for point in points:
        if point.workers == 1:
            assert point.efficiency == 1 and point.step_s == PROFILE.compute_s
        else:
            assert point.step_s >= PROFILE.compute_s and point.efficiency == pytest.approx(
                PROFILE.compute_s / point.step_s
            )
    assert {point.rule for point in points} == set(RULES)
    for workers in (2, 16, 1024):
        for algorithm in ("ring", "halving-doubling", "hierarchical"):
            of = {p.rule: p.step_s for p in points if (p.workers, p.algorithm) == (workers, algorithm)}
            all_reduce = [of[rule] for rule in RULES if rule not in ("dear", "optimal-split")]
            assert of["optimal"] == min(all_reduce) and of["optimal-split"] <= of["dear"]


def test_at_scale_latency_makes_the_hierarchy_win():
    points = sweep(PROFILE, LINK, [4096], rules=["optimal"])
    of = {point.algorithm: point for point in points}
    assert of["hierarchical"].step_s - PROFILE.compute_s < (of["ring"].step_s - PROFILE.compute_s) / 5
    assert of["hierarchical"].group in group_sizes(4096)


def test_a_group_that_does_not_divide_is_left_out():
    points = sweep(PROFILE, LINK, [6, 8], algorithms=["hierarchical"], rules=["optimal"], group=4)
    assert [(point.workers, point.group) for point in points] == [(8, 4)]


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"workers": [0]}, "from 1 to 4096"),
        ({"workers": [5000]}, "from 1 to 4096"),
        ({"workers": []}, "from 1 to 4096"),
        ({"algorithms": ["tree"]}, "no all-reduce is called 'tree'"),
        ({"rules": ["best"]}, "no rule is called 'best'"),
        ({"group": 0}, "a group has at least 1 worker"),
    ],
)
def test_what_cannot_be_simulated(keywords, message):
    with pytest.raises(UsageError, match=message):
        sweep(PROFILE, LINK, **{"workers": [2], **keywords})
    with pytest.raises(UsageError, match="positive bandwidth"):
        Link(1e-6, 0.0)
    with pytest.raises(UsageError, match="jitter is 0 or more"):
        Unevenness(jitter=-1)
    with pytest.raises(UsageError, match="groups of 4 do not part 6"):
        hierarchical(6, LINK, 4)


@pytest.mark.parametrize("in_flight", [1, 2])
@settings(max_examples=50, deadline=None)
@given(profiles(), costs())
def test_without_jitter_events_are_the_recurrence(in_flight, profile, cost):
    pytest.importorskip("simpy")
    counts = make_plan(profile, cost, in_flight=in_flight).counts
    steps = simulate_steps(profile, counts, cost, 3, Unevenness(), in_flight=in_flight, steps=2)
    expected = profile.forward_s + max(timeline(profile, counts, cost, in_flight).over_s, profile.backward_s)
    assert steps == pytest.approx([expected, expected], rel=1e-9)


def test_jitter_and_stragglers_cost_more_the_more_workers_there_are():
    pytest.importorskip("simpy")
    cost = ring(4, LINK)
    counts = make_plan(PROFILE, cost).counts

    def mean(workers: int, uneven: Unevenness) -> float:
        return float(np.mean(simulate_steps(PROFILE, counts, cost, workers, uneven, steps=40, seed=3)))

    even = mean(4, Unevenness())
    assert even < mean(4, Unevenness(jitter=0.1)) < mean(400, Unevenness(jitter=0.1)) < 2 * even
    assert mean(4, Unevenness(straggler_share=0.02)) < mean(400, Unevenness(straggler_share=0.02))
    again = [simulate_steps(PROFILE, counts, cost, 8, Unevenness(0.2), steps=3, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
