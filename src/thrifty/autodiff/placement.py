"""Which snapshots to keep while the program runs: the rules that are asked at the end of every step.

The length of the program is not known while it runs. `Online` keeps the number of repetitions minimal for every length:
Wang, Moin & Iaccarino, *Minimal repetition dynamic checkpointing algorithm for unsteady adjoint calculation* (SIAM J.
Sci. Comput. 31(4), 2009). Where the length is known from an earlier call, `Known` puts them where revolve would.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2

from thrifty.autodiff.marks import Mark
from thrifty.autodiff.revolve import first_sweep
from thrifty.autodiff.stepping import Stepping


def logarithmic(steps: int) -> int:
    """Snapshots that `memory="log"` allows for so many steps."""
    return max(4, ceil(1.4 * log2(max(steps, 2))))


TAPED_BYTES = 256 << 10
MOST_TAPED = 64


def small_steps(step_bytes: int) -> int:
    """How many steps are taken as one under `memory="log"`: taping them all at once costs a few hundred kB at most."""
    return min(MOST_TAPED, max(1, TAPED_BYTES // (3 * max(step_bytes, 1))))


class Online:
    """A mark at every step; when there are too many, one goes that a later one of a higher level makes dispensable,
    or else the newest takes its predecessor's place, one level up.

    Levels never rise from one mark to the next but at the newest of a higher level, so that those which it makes
    dispensable lie in a row before it.

    Args:
        full: (recorder, bytes that marks hold) -> are there as many as allowed?
        stride: (bytes of the largest step) -> how many steps are taken as one.
        weigh: count the bytes that marks hold; else they are 0 here.

    Attributes:
        most: marks that were held at once.
    """

    def __init__(
        self, full: Callable[[Stepping, int], bool], stride: Callable[[int], int] | None = None, weigh: bool = False
    ) -> None:
        self.full, self.stride, self.weigh = full, stride, weigh
        self.most = 1
        self._spare = self._end = 0  # dispensable ones, and the index after the last of them
        self._marked_bytes = 0

    def __call__(self, recorder: Stepping) -> None:
        """At the end of a step: keep the state or not, drop others."""
        snapshots = recorder.snapshots
        if self.stride is not None and recorder.program.steps % self.stride(recorder.largest_step_bytes):
            return
        new = recorder.snapshot()
        while self.full(recorder, self._marked_bytes) and len(snapshots) > 1:
            if self._spare:
                self._spare -= 1
                self._end -= 1
                self._drop(snapshots, self._end)
            else:
                new.level = max(new.level, snapshots[-1].level + 1)
                self._drop(snapshots, len(snapshots) - 1)
        if self.weigh:
            self._marked_bytes += new.follow(snapshots[-1])
        if new.level:
            self._end = first = len(snapshots)
            while first > 1 and snapshots[first - 1].level < new.level:
                first -= 1
            self._spare = self._end - first
        snapshots.append(new)
        if len(snapshots) > self.most:
            self.most = len(snapshots)

    def _drop(self, snapshots: list[Mark], at: int) -> None:
        dropped = snapshots.pop(at)
        if self.weigh:
            self._marked_bytes -= dropped.extra_bytes
            if at < len(snapshots):
                after = snapshots[at]
                self._marked_bytes -= after.extra_bytes
                self._marked_bytes += after.follow(snapshots[at - 1])


class Known:
    """Snapshots where revolve puts them for `steps` steps, and one that follows the run; `Online` beyond."""

    def __init__(self, steps: int, snapshots: int, stride: int) -> None:
        self._places = {stride * place for place in first_sweep(-(-steps // stride), snapshots)}
        self._last, self._allowed = steps - 1, snapshots
        self._beyond = Online(lambda recorder, _: len(recorder.snapshots) >= snapshots)
        self.most = 1

    def __call__(self, recorder: Stepping) -> None:
        """At the end of a step: keep the state or not."""
        step = recorder.program.steps
        if step > self._last:
            self._beyond(recorder)
        elif step in self._places or step == self._last:
            recorder.snapshots.append(recorder.snapshot())
        self.most = max(self.most, len(recorder.snapshots))
