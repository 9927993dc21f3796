"""T(m): through its samples, linear between and above, and the parts that two transfers share or not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.errors import UsageError
from thrifty.distributed import TransferCost, TransferSample
from thrifty.distributed.measure_transfers import without_dips

SECONDS = st.floats(1e-6, 1.0)
SAMPLES = st.lists(
    st.tuples(st.integers(1, 10**8), SECONDS, SECONDS).map(lambda parts: TransferSample(*parts)), min_size=1, max_size=8
)


def test_through_the_samples_linear_between_constant_below_and_as_steep_above():
    cost = TransferCost.from_samples([TransferSample(100, 1.0, 1.5), TransferSample(300, 2.0, 4.0)])
    assert cost.alone([0, 100, 200, 300, 500]).tolist() == [1.0, 1.0, 1.5, 2.0, 3.0]
    assert cost.wire([100, 200, 300]).tolist() == [0.5, 1.25, 2.0]
    assert cost.startup([100, 200, 300]).tolist() == [0.5, 0.25, 0.0]


def test_the_straight_line():
    cost = TransferCost.linear(1e-3, 1e-9)
    sizes = np.array([0.0, 1e3, 1e6, 1e10])
    assert np.allclose(cost.alone(sizes), 1e-3 + 1e-9 * sizes, rtol=1e-12)
    assert np.allclose(cost.wire(sizes), 1e-9 * sizes, rtol=1e-9)
    assert np.allclose(cost.startup(sizes), 1e-3, rtol=1e-9)
    assert cost.fitted() == pytest.approx((1e-3, 1e-9))
    assert TransferCost.linear(0.0, 1e-9).fitted() == pytest.approx((0.0, 1e-9))
    assert TransferCost.linear(1e-3, 0.0).fitted() == pytest.approx((1e-3, 0.0))


@given(SAMPLES)
def test_any_samples_give_times_that_make_sense(samples):
    cost = TransferCost.from_samples(samples)
    sizes = np.array([0.0, 1.0, 1e3, 1e6, 1e9, *(sample.size_bytes for sample in samples)])
    alone, wire, startup = cost.alone(sizes), cost.wire(sizes), cost.startup(sizes)
    assert (alone > 0).all() and (wire >= 0).all() and (startup >= 0).all()
    assert np.allclose(wire + startup, alone)
    assert min(cost.fitted()) >= 0
    for sample in samples:
        assert cost.alone(sample.size_bytes) <= sample.alone_s * (1 + 1e-12)


@given(SAMPLES)
def test_it_travels_as_plain_data(samples):
    cost = TransferCost.from_samples(samples)
    assert TransferCost.from_dict(json.loads(json.dumps(cost.to_dict()))) == cost


def test_half_of_it_is_half():
    cost = TransferCost.from_samples([TransferSample(100, 1.0, 1.5), TransferSample(300, 2.0, 4.0)])
    assert cost.split().alone(200) == cost.alone(200) / 2
    assert cost.split().wire(200) == cost.wire(200) / 2


def test_the_line_that_published_rules_see_is_not_drowned_by_large_sizes():
    samples = [TransferSample(2.0**k, 2e-4 + 2.0**k * 1e-9, 3e-4 + 2.0**k * 2e-9) for k in range(10, 27)]
    startup, per_byte = TransferCost.from_samples(samples).fitted()
    assert startup == pytest.approx(2e-4, rel=1e-6) and per_byte == pytest.approx(1e-9, rel=1e-6)


@pytest.mark.parametrize(
    "parts, message",
    [
        (((), (), ()), "at least one"),
        (((1.0,), (1.0, 2.0), (1.0,)), "as many sizes as times"),
        (((2.0, 1.0), (1.0, 1.0), (1.0, 1.0)), "must rise"),
        (((1.0,), (-1.0,), (1.0,)), "not negative"),
        (((1.0,), (float("nan"),), (1.0,)), "finite"),
        (((1.0,), (1.0,), (3.0,)), "no more than twice"),
        (((1.0,), (1.0,), (0.5,)), "no less than one"),
    ],
)
def test_what_cannot_be_a_cost_is_refused(parts, message):
    with pytest.raises(UsageError, match=message):
        TransferCost(*parts)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_measured_dips_are_taken_out_and_the_rest_is_left(times):
    samples = [TransferSample(1024.0 * 2**i, alone, alone + both) for i, (alone, both) in enumerate(times)]
    kept = without_dips(samples)
    assert [sample.size_bytes for sample in kept] == [sample.size_bytes for sample in samples]
    for name in ("alone_s", "both_s"):
        found, measured = ([getattr(sample, name) for sample in which] for which in (kept, samples))
        assert found == sorted(found)
        assert found == [min(measured[i:]) for i in range(len(measured))]
    assert TransferCost.from_samples(kept).alone(1e9) >= TransferCost.from_samples(kept).alone(1024)
