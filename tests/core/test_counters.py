"""Counters: sums, means over what was observed, snapshots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.counters import STAGES, LayerCounters
from thrifty.core.errors import CheckpointError

passes = st.fixed_dictionaries(
    {
        "steps": st.integers(0, 3),
        "macs": st.integers(0, 10**12),
        "dense_macs": st.integers(0, 10**12),
        "remaining_ratio": st.none() | st.floats(0, 1),
        "error": st.none() | st.floats(0, 1),
        "stages_s": st.none() | st.dictionaries(st.sampled_from(STAGES), st.floats(0, 1)),
    }
)


@given(st.lists(passes))
def test_sums_and_means(rows):
    counters = LayerCounters()
    for row in rows:
        counters.add(**row)
    assert counters.steps == sum(row["steps"] for row in rows)
    assert counters.macs == sum(row["macs"] for row in rows)
    assert counters.dense_macs == sum(row["dense_macs"] for row in rows)
    for name in ("remaining_ratio", "error"):
        seen = [row[name] for row in rows if row[name] is not None]
        assert getattr(counters, name) == (pytest.approx(sum(seen) / len(seen)) if seen else None)
    for stage in STAGES:
        seconds = sum((row["stages_s"] or {}).get(stage, 0.0) for row in rows)
        assert counters.stages_s.get(stage, 0.0) == pytest.approx(seconds)
    assert LayerCounters.from_dict(counters.to_dict()) == counters


def test_snapshots_are_independent_and_reset_is_in_place():
    counters = LayerCounters()
    counters.add(steps=1, error=0.5, stages_s={"hash": 1.0})
    snapshot = counters.copy()
    counters.add(steps=1, stages_s={"hash": 1.0})
    assert snapshot.steps == 1 and snapshot.stages_s == {"hash": 1.0}
    counters.reset()
    assert counters == LayerCounters() and counters.error is None
    assert snapshot.error == 0.5


@pytest.mark.parametrize("state", [{}, {"stages_s": {}, "other": 1}, {"stages_s": 3}, {"stages_s": "abc"}])
def test_damaged_states(state):
    with pytest.raises(CheckpointError, match="damaged"):
        LayerCounters.from_dict(state)
