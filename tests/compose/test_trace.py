"""Trace: evenly thinned, bounded, resumable."""

from hypothesis import given
from hypothesis import strategies as st

from thrifty.compose.trace import FRAMES, Trace


def filled(count, trace=None, first=0):
    trace = trace or Trace()
    for step in range(first, first + count):
        trace.add([{"step": step}])
    return trace


def test_short_histories_are_whole():
    assert [row["step"] for row in filled(FRAMES).rows()] == list(range(FRAMES))


@given(st.integers(0, 5 * FRAMES))
def test_long_histories_are_evenly_spaced(count):
    kept = [row["step"] for row in filled(count).rows()]
    assert len(kept) <= FRAMES
    every = kept[1] if len(kept) > 1 else 1
    assert kept == list(range(0, count, every))


def test_a_resumed_history_goes_on():
    first = filled(FRAMES + 3)
    resumed = filled(1000, Trace.from_state(first.state_dict()), first=FRAMES + 3)
    assert resumed.rows() == filled(FRAMES + 1003).rows()


def test_empty_frames_do_not_count():
    trace = Trace()
    trace.add([])
    assert trace.rows() == [] and trace.state_dict()["seen"] == 0
