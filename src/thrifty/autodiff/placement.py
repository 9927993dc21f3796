"""Which snapshots to keep while the program runs: the rules that are asked at the end of every step.

The length of the program is not known while it runs. `Online` keeps the number of repetitions minimal for every length:
Wang, Moin & Iaccarino, *Minimal repetition dynamic checkpointing algorithm for unsteady adjoint calculation* (SIAM J.
Sci. Comput. 31(4), 2009). Where the length is known from an earlier call, `Known` puts them where revolve would.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2

from thrifty.autodiff.recorder import Recorder
from thrifty.autodiff.revolve import first_sweep
from thrifty.autodiff.snapshot import Snapshot


def logarithmic(steps: int) -> int:
    """Snapshots that `memory="log"` allows for so many steps."""
    return max(4, ceil(1.4 * log2(max(steps, 2))))


TAPED_BYTES = 256 << 10
MOST_TAPED = 64


def small_steps(step_bytes: int) -> int:
    """How many steps are taken as one under `memory="log"`: taping them all at once costs a few hundred kB at most."""
    return min(MOST_TAPED, max(1, TAPED_BYTES // (3 * max(step_bytes, 1))))


class Online:
    """A snapshot at every step; when there are too many, one goes that a later one of a higher level makes dispensable,
    or else the newest takes its predecessor's place, one level up.

    Attributes:
        full: (recorder) -> are there as many snapshots as allowed?
        merge: take small steps as one.
    """

    def __init__(self, full: Callable[[Recorder], bool], merge: bool = False) -> None:
        self.full, self.merge = full, merge
        self.most = 1

    def __call__(self, recorder: Recorder) -> None:
        """At the end of a step: keep the state or not, drop others."""
        snapshots = recorder.snapshots
        if self.merge and recorder.program.steps % small_steps(recorder.largest_step_bytes):
            return
        new = recorder.snapshot()
        while self.full(recorder) and len(snapshots) > 1:
            at = _dispensable(snapshots)
            if at is None:
                new.level = max(new.level, snapshots.pop().level + 1)
            else:
                del snapshots[at]
                if at < len(snapshots):
                    snapshots[at].follow(snapshots[at - 1])
        new.follow(snapshots[-1])
        snapshots.append(new)
        self.most = max(self.most, len(snapshots))


def _dispensable(snapshots: list[Snapshot]) -> int | None:
    """The latest snapshot, the first excepted, with one of a higher level after it."""
    highest = -1
    for at in range(len(snapshots) - 1, 0, -1):
        level = snapshots[at].level
        if level < highest:
            return at
        highest = max(highest, level)
    return None


class Known:
    """Snapshots where revolve puts them for `steps` steps, and one that follows the run; `Online` beyond."""

    def __init__(self, steps: int, snapshots: int, stride: int) -> None:
        self._places = {stride * place for place in first_sweep(-(-steps // stride), snapshots)}
        self._last, self._allowed = steps - 1, snapshots
        self._beyond = Online(lambda recorder: len(recorder.snapshots) >= snapshots)
        self.most = 1

    def __call__(self, recorder: Recorder) -> None:
        """At the end of a step: keep the state or not."""
        step = recorder.program.steps
        if step > self._last:
            self._beyond(recorder)
        elif step in self._places or step == self._last:
            recorder.snapshots.append(recorder.snapshot())
        self.most = max(self.most, len(recorder.snapshots))
