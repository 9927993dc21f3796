"""The closed forms of binomial checkpointing, against dynamic programming over all splits."""

from functools import cache

import pytest

from thrifty.autodiff.revolve import first_sweep, forward_steps, split
from thrifty.core.errors import UsageError


@cache
def fewest(steps, snapshots):
    """Advance to a split, reverse what lies behind it with one snapshot less, then what lies before it."""
    if steps == 1:
        return 0
    if snapshots == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest(steps - m, snapshots - 1) + fewest(m, snapshots) for m in range(1, steps))


@cache
def by_split(steps, snapshots):
    if steps == 1:
        return 0
    m = split(steps, snapshots)
    if snapshots == 1:
        return m + by_split(steps - 1, 1)
    return m + by_split(steps - m, snapshots - 1) + by_split(m, snapshots)


def test_closed_form_and_split_are_optimal():
    for steps in range(1, 60):
        for snapshots in range(1, 9):
            assert forward_steps(steps, snapshots) == fewest(steps, snapshots) == by_split(steps, snapshots)


@pytest.mark.parametrize(
    ("steps", "snapshots", "published"),
    [(1024, 10, 3755), (1024, 22, 2772), (1024, 66, 1980), (256, 8, 804), (256, 18, 558), (256, 34, 476)],
)
def test_published_counts(steps, snapshots, published):
    assert forward_steps(steps, snapshots) == published


def test_first_sweep_places_all_snapshots_in_order():
    places = first_sweep(1024, 10)
    assert places[0] == 0 and len(places) == 10
    assert places == sorted(set(places)) and places[-1] < 1024


def test_no_steps_or_no_snapshots_is_an_error():
    with pytest.raises(UsageError, match="at least 1"):
        forward_steps(0, 3)
