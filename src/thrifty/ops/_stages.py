"""Who is told how long a stage took.

A layer opens a sink around its forward pass; every op below it adds its seconds to that sink, under the name of the
stage it belongs to. An op remembers the sink it ran under, so that its backward pass reports to the same layer.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

STAGES = ("hash", "group", "centroid", "gemm", "gather", "scatter", "conv")


class Route(NamedTuple):
    """Which way an exact product went: the share of nonzeros, whether only those were multiplied, and the seconds."""

    share: float
    skipped: bool
    seconds: float


class StageSeconds(dict[str, float]):
    """What the ops of one layer report: seconds by stage since it was last cleared, and more that is taken apart.

    Attributes:
        routes: the last route of each direction (`ops.skip_conv2d`).
        step_s: seconds of all stages since the last training step.
        macs: multiply-adds of exact products since they were last taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[str, Route] = {}
        self.step_s = 0.0
        self.macs = 0

    def add(self, stage: str, seconds: float) -> None:
        self[stage] = self.get(stage, 0.0) + seconds
        self.step_s += seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def went(self, direction: str, route: Route, dense_macs: int) -> None:
        """Take notice of an exact product of so many multiply-adds, were it dense."""
        self.routes[direction] = route
        self.macs += round(dense_macs * route.share) if route.skipped else dense_macs

    def end_step(self) -> tuple[dict[str, Route], float]:
        """The routes and seconds of the step that ends now, once."""
        ended = self.routes, self.step_s
        self.routes, self.step_s = {}, 0.0
        return ended


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
    sink = _sink.get()
    with nullcontext() if sink is None else sink.timed(stage):
        yield
