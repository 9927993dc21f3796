"""Keeps the plan of a training step from one step to the next.

The first two steps are held within the limit by the online rule and noted; if they did the same, a plan is made. The
next steps follow it, the first of them with every byte counted: where that passes the limit, the plan is made anew for
less, and where that does not help, it is followed with the limit watched. A step that does something else falls back
to the online rule, and noting begins again; a plan takes long to make, so after every fall more equal steps are wanted
before the next.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from thrifty.autodiff.choosing import expected, make_plan
from thrifty.autodiff.plan import Plan
from thrifty.autodiff.trace import Trace

_TRIES = 3
_REMEMBERED = 16


class Planner:
    """The plan for the steps of one `checkpointing`.

    Attributes:
        plan: to follow, or None.
        proven: a step that followed it was counted and stayed within the limit.
        peak_bytes: of that step.
        trace: of the last step that was noted.
        steady: no step has left a plan so far, so that what a plan does not need is not noted either.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.plan: Plan | None = None
        self.proven = False
        self.peak_bytes = 0
        self.steady = True
        self.trace: Trace | None = None
        self._target = limit_bytes
        self._tries = 0
        self._equal, self._wanted = 0, 1  # equal pairs of steps in a row, and how many are wanted
        self._guessed = False

    def guess(self, trace: Trace) -> Plan | None:
        """A plan for the way back of a first step, none of which is known yet. None for later ones: they differ."""
        if self._guessed:
            return None
        self._guessed = True
        return make_plan(expected(trace), self.limit_bytes)

    def noted(self, trace: Trace) -> None:
        """A step was noted from its beginning to its end."""
        last, self.trace = self.trace, trace
        self._equal = self._equal + 1 if last is not None and last.same(trace) else 0
        if last is None or self._equal < self._wanted:
            return
        trace.merge(last)
        self._target, self._tries, self.proven = self.limit_bytes, 0, False
        self.plan = make_plan(trace, self._target)

    def followed(self, peak_bytes: int, forced: bool) -> None:
        """A step followed the plan. This was its peak as far as it was counted; `forced` if more had to be let go."""
        if self.proven or self.plan is None:
            return
        if not forced and peak_bytes <= self.limit_bytes:
            self.proven, self.peak_bytes = True, peak_bytes
        elif self._tries < _TRIES and self.trace is not None:
            self._tries += 1
            self._target -= max(peak_bytes - self.limit_bytes, self.limit_bytes // 50)
            # Without a better one it is followed as it is, and the limit is looked after.
            self.plan = make_plan(self.trace, self._target) or self.plan

    def left(self) -> None:
        """A step did something else than the plan foresaw."""
        self.steady = False
        self._equal, self._wanted = 0, 2 * self._wanted
        self.plan = self.trace = None
        self.proven = False


class _Planners(threading.local):
    def __init__(self) -> None:
        self.known: OrderedDict[tuple[int, str], Planner] = OrderedDict()


_planners = _Planners()


def planner_for(limit_bytes: int, line: str) -> Planner:
    """The planner for this limit and this line of the user's, which a loop comes back to."""
    known = _planners.known
    key = limit_bytes, line
    if key not in known:
        known[key] = Planner(limit_bytes)
        if len(known) > _REMEMBERED:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]
