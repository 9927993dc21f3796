"""What a training step holds from operation to operation, for a choice of contents to keep.

What is not kept is made again in groups: a group is all that hangs together through contents which are not kept, and
it is made in one go when backward first asks for something of it, so that no operation runs more than twice. A kept
content goes when autograd has let go of it and every group that begins from it has been made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thrifty.autodiff.blocks import CALL_S
from thrifty.autodiff.trace import Trace


@dataclass
class Group:
    """Contents that are made again together.

    Attributes:
        operations: that are called again, in order.
        sources: kept contents that they begin from.
        contents: that autograd saved, and that they make.
        asked: which of the saved contents is the first of them that backward asks for.
    """

    operations: list[int] = field(default_factory=list)
    sources: set[int] = field(default_factory=set)
    contents: set[int] = field(default_factory=set)
    asked: int = -1


@dataclass
class Choice:
    """A choice of contents to keep, and what comes of it.

    Attributes:
        kept: those that are kept and needed.
        groups: what is made again.
        again_s: the time for that.
        peak_bytes: most bytes alive.
        held: per saved content, bytes that are kept and that were made again, when backward asks for it.
    """

    kept: set[int]
    groups: list[Group]
    again_s: float
    peak_bytes: int
    held: tuple[NDArray[np.int64], NDArray[np.int64]]


class Timeline:
    """A step's trace, made ready to judge choices."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.last = trace.last_reads()
        self.count = len(trace.operations)
        self.wanted: dict[int, int] = {}  # content -> where in `saved` it is first, the last that backward asks for
        self.first_asked: dict[int, int] = {}  # content -> where it is last
        for place, (_, content) in enumerate(trace.saved):
            self.wanted.setdefault(content, place)
            self.first_asked[content] = place
        self.costs = [seconds + CALL_S for seconds in trace.seconds]
        self._backward = np.full(len(trace.saved), -1, dtype=np.int64)
        for place, nbytes in trace.gradient_bytes.items():
            self._backward[place] = nbytes
        # What the program itself holds while the forward pass runs.
        self._forward_until = [until - (content in trace.overwritten) for content, until in enumerate(self.last)]

    def choose(self, kept: Iterable[int]) -> Choice | None:
        """Judge a choice; None if it leaves out what cannot be made again."""
        trace = self.trace
        able = set(kept)
        used: set[int] = set()
        again: set[int] = set()
        todo = list(self.wanted)
        while todo:
            content = todo.pop()
            if content in able:
                used.add(content)
                continue
            at = trace.home[content]
            if at not in again:
                if at in trace.fixed:
                    return None
                again.add(at)
                todo.extend(trace.reads[at])
        # What is made again anyway need not be kept.
        used = {content for content in used if trace.home[content] not in again}
        groups = self._groups(used, again)
        seconds = sum(self.costs[at] for at in again)
        peak, held = self._peak(used, groups)
        return Choice(used, groups, seconds, peak, held)

    def _groups(self, kept: set[int], again: set[int]) -> list[Group]:
        trace = self.trace
        parent = {at: at for at in again}

        def root(at: int) -> int:
            while parent[at] != at:
                parent[at] = parent[parent[at]]
                at = parent[at]
            return at

        for at in again:
            for content in trace.reads[at]:
                if content not in kept:
                    parent[root(trace.home[content])] = root(at)
        groups: dict[int, Group] = {}
        for at in sorted(again):
            group = groups.setdefault(root(at), Group())
            group.operations.append(at)
            group.sources.update(content for content in trace.reads[at] if content in kept)
            for content in trace.makes[at]:
                if content in self.wanted:
                    group.contents.add(content)
                    group.asked = max(group.asked, self.first_asked[content])
        return list(groups.values())

    def _peak(self, kept: set[int], groups: list[Group]) -> tuple[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        trace, count = self.trace, len(self.trace.saved)
        nbytes = trace.nbytes
        low = {content: self.wanted.get(content, count) for content in kept}
        for group in groups:
            for content in group.sources:
                low[content] = min(low[content], group.asked)
        steps = np.zeros(count + 1, dtype=np.int64)
        for content, at in low.items():
            steps[at] += nbytes[content]
        holds = np.cumsum(steps)[:count]
        steps[:] = 0
        for group in groups:
            for content in group.contents:
                steps[self.wanted[content]] += nbytes[content]
                steps[group.asked + 1] -= nbytes[content]
        again = np.cumsum(steps)[:count]
        seen = self._backward >= 0
        most = int((holds + again + self._backward)[seen].max(initial=0))
        for group in groups:
            own = sum(nbytes[content] for content in group.contents)
            entering = trace.entering_bytes.get(group.asked, max(0, int(self._backward[group.asked])))
            there = int(holds[group.asked] + again[group.asked]) - own + entering
            most = max(most, there + self._sweep_bytes(group))
        return max(most + trace.outside_bytes, self._forward_peak(kept)), (holds, again)

    def _sweep_bytes(self, group: Group) -> int:
        """Most bytes that making the group again holds beside its sources."""
        trace = self.trace
        inside = set(group.operations)
        until: dict[int, int] = {}
        for at in group.operations:
            for content in trace.reads[at]:
                if trace.home[content] in inside:
                    until[content] = at
        live = most = 0
        for at in group.operations:
            live += sum(trace.nbytes[content] for content in trace.makes[at])
            most = max(most, live)
            gone = [c for c in (*trace.reads[at], *trace.makes[at]) if until.get(c, at) == at]
            for content in set(gone):
                if content not in group.contents and trace.home[content] in inside:
                    live -= trace.nbytes[content]
        return most

    def _forward_peak(self, kept: set[int]) -> int:
        """Most bytes alive in the forward pass: what is kept, and what the program still reads."""
        steps = np.zeros(self.count + 2, dtype=np.int64)
        for content, at in enumerate(self.trace.home):
            steps[at] += self.trace.nbytes[content]
            if content not in kept:
                steps[max(at, self._forward_until[content]) + 1] -= self.trace.nbytes[content]
        return int(np.cumsum(steps).max())
