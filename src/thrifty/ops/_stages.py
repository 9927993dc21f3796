"""Who is told how long a stage took.

A layer opens a sink around its forward pass; every op below it adds its seconds to that sink, under the name of the
stage it belongs to. An op remembers the sink it ran under, so that its backward pass reports to the same layer.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

STAGES = ("hash", "group", "centroid", "gemm", "gather", "scatter")


class StageSeconds(dict[str, float]):
    """Seconds spent by stage since it was last cleared."""

    def add(self, stage: str, seconds: float) -> None:
        self[stage] = self.get(stage, 0.0) + seconds


_sink: ContextVar[StageSeconds | None] = ContextVar("thrifty_stage_sink", default=None)


def current() -> StageSeconds | None:
    """The sink that ops report to now, or None when nobody listens."""
    return _sink.get()


@contextmanager
def report_to(sink: StageSeconds | None) -> Iterator[None]:
    """Send the stage seconds of every op run inside the block to `sink`."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Book the seconds of the block, which is no op, under `stage`."""
    sink, start = _sink.get(), time.perf_counter()
    try:
        yield
    finally:
        if sink is not None:
            sink.add(stage, time.perf_counter() - start)
