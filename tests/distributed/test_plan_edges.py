"""What a plan rests on, number by number: defaults, published constants, profiles, greedy merging, joining."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from merge_oracle import all_counts, costs, profiles

from thrifty.core.errors import UsageError
from thrifty.distributed import GradientProfile, TransferCost, make_plan
from thrifty.distributed.chains import chained, end
from thrifty.distributed.optimum import _joined
from thrifty.distributed.overlap import DEAR_CAP_BYTES, dear_s, split_optimum_s
from thrifty.distributed.rules import DDP_CAP_BYTES, DDP_FIRST_BYTES, THRESHOLD_BYTES, mg_wfbp
from thrifty.distributed.schedule import timeline
from thrifty.distributed.two_in_flight import _soonest

PROFILE = GradientProfile(("c", "b", "a"), (30, 20, 10), (0.1, 0.2, 0.3), 0.3, 0.2, (0.2, 0.1, 0.0))
COST = TransferCost.linear(0.5, 0.01)


def test_one_transfer_at_a_time_is_the_default_and_is_named_to_change_it():
    assert make_plan(PROFILE, COST) == make_plan(PROFILE, COST, in_flight=1) != make_plan(PROFILE, COST, in_flight=2)
    large = replace(PROFILE, sizes_bytes=(30 << 20,) * 3)  # a bucket of DeAR's each
    assert dear_s(large, COST) == dear_s(large, COST, 1) != dear_s(large, COST, 2)
    assert split_optimum_s(PROFILE, COST) == split_optimum_s(PROFILE, COST, 1) != split_optimum_s(PROFILE, COST, 2)
    assert timeline(PROFILE, [1, 1, 1], COST) == timeline(PROFILE, [1, 1, 1], COST, 1)
    with pytest.raises(TypeError):
        make_plan(PROFILE, COST, 1)


def test_the_caps_are_those_of_the_others():
    assert (DDP_FIRST_BYTES, DDP_CAP_BYTES) == (1_048_576, 26_214_400)
    assert (DEAR_CAP_BYTES, THRESHOLD_BYTES) == (26_214_400, 4_194_304)


@pytest.mark.parametrize("made", [PROFILE, COST, make_plan(PROFILE, COST), timeline(PROFILE, [3], COST)])
def test_what_was_measured_or_planned_stays_as_it_is(made):
    field = next(iter(made.__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(made, field, None)


def test_a_profile_on_another_machine_and_in_other_numbers():
    slow = PROFILE.taking(1.0)
    assert slow == PROFILE.scaled(2.0)
    assert slow.ready_s == (0.2, 0.4, 0.6) and slow.needed_s == (0.4, 0.2, 0.0)
    assert (slow.backward_s, slow.forward_s, slow.compute_s) == (0.6, 0.4, 1.0)
    assert PROFILE.taking(0.25).compute_s == pytest.approx(0.25)
    assert PROFILE.sent_as(2).sizes_bytes == (15, 10, 5) and PROFILE.sent_as(2, now=1).sizes_bytes == (60, 40, 20)
    assert PROFILE.total_bytes == 60
    idle = replace(PROFILE, backward_s=1.0, forward_s=3.0).scaled(0.5)
    assert (idle.backward_s, idle.forward_s) == (0.5, 1.5), "what comes after the last gradient and use is kept"
    still = replace(PROFILE, ready_s=(0.0,) * 3, needed_s=(0.0,) * 3, backward_s=0.0, forward_s=0.0)
    with pytest.raises(UsageError, match="takes more than 0"):
        still.taking(1.0)
    with pytest.raises(UsageError, match="after the forward pass"):
        replace(PROFILE, forward_s=0.15)


def test_the_straight_line_has_no_part_below_zero():
    assert COST.sizes_bytes == (0.0, 2.0**30) and COST.alone(100.0) == pytest.approx(1.5)
    assert COST.fitted() == pytest.approx((0.5, 0.01))
    steep = TransferCost((1.0, 2.0, 4.0), (0.1, 1.0, 4.0), (0.1, 1.0, 4.0))
    weight = np.array([10.0, 1.0, 0.25])
    by_hand = (np.array([0.1, 2.0, 16.0]) * weight**2).sum() / (np.array([1.0, 4.0, 16.0]) * weight**2).sum()
    assert steep.fitted() == pytest.approx((0.0, by_hand))
    falling = TransferCost((1.0, 2.0), (2.0, 1.0), (2.0, 1.0))
    assert falling.fitted() == pytest.approx(((2 / 4 + 1) / (1 / 4 + 1), 0.0))


@settings(max_examples=200, deadline=None)
@given(profiles(), costs())
def test_the_greedy_rule_from_its_description(profile, cost):
    startup, per_byte = cost.fitted()
    n = len(profile.names)
    merged = [False] * n  # into the next one

    def run():
        """Start and end of each gradient's transfer; what was merged takes no time of its own."""
        at, held, found = 0.0, 0.0, []
        for k in range(n):
            held += profile.sizes_bytes[k]
            begin = max(at, profile.ready_s[k])
            at = begin + (0.0 if merged[k] else startup + per_byte * held)
            found.append((begin, at))
            held = held if merged[k] else 0.0
        return found

    for k in range(n - 1):
        begin, over = run()[k]
        ready = profile.ready_s[k + 1]
        merged[k] = ready < over and (begin > ready or ready - begin < startup)
    counts, count = [], 0
    for last in (not into for into in merged):
        count += 1
        if last:
            counts.append(count)
            count = 0
    assert mg_wfbp(profile, cost) == counts


def times(profile, cost):
    total = np.concatenate([[0.0], np.cumsum(profile.sizes_bytes, dtype=float)])
    size = np.maximum(total[None, :] - total[:, None], 0.0)
    return np.asarray(profile.ready_s), cost.startup(size), cost.wire(size)


@settings(max_examples=100, deadline=None)
@given(profiles(most=6), costs())
def test_joining_moves_no_end(profile, cost):
    ready, startup, wire = times(profile, cost)
    both = [(startup, wire), (2 * startup, 2 * wire)]
    for counts in all_counts(len(profile.names)):
        joined = _joined(counts, ready, both)
        edges = set(np.cumsum(counts))
        assert set(np.cumsum(joined)) <= edges and sum(joined) == sum(counts)
        for of in both:
            assert end(joined, ready, *of) <= end(counts, ready, *of) * (1 + 1e-9)


def test_what_compute_hides_is_joined():
    ready = np.array([0.0, 0.0, 0.0, 10.0])
    size = np.maximum(np.arange(5.0)[None, :] - np.arange(5.0)[:, None], 0.0)
    for startup in (0.0, 0.5):
        of = np.full((5, 5), startup), size
        assert _joined([1, 1, 1, 1], ready, [of]) == [3, 1]


@settings(max_examples=100, deadline=None)
@given(profiles(), costs())
def test_soonest_is_the_end_of_each_prefix_with_any_number_in_flight(profile, cost):
    ready, startup, wire = times(profile, cost)
    p, q = _soonest(ready, startup, wire)
    ends = [0.0] + [
        chained(ready[:j], startup[: j + 1, : j + 1], wire[: j + 1, : j + 1])[1] for j in range(1, len(ready) + 1)
    ]
    assert q.tolist() == pytest.approx(ends)
    assert p.tolist() == pytest.approx([0.0] + [min(ends[:j]) for j in range(1, len(ends))])
