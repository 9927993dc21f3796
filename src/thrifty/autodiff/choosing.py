"""Plans for training steps: contents kept by least cuts (`keeping`) where that fits, else in blocks (`planning`)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

import torch

from thrifty.autodiff.keeping import Search
from thrifty.autodiff.operations import Operation
from thrifty.autodiff.plan import Plan, plan_of
from thrifty.autodiff.planning import block_plan, least_of_blocks
from thrifty.autodiff.trace import Trace

BLOCKS = (40, 24, 14)  # pieces that plans in blocks are made for; the search goes on from what these keep


# operators whose derivatives make nothing in between, although no operator is named after them, with _backward
_AT_ONCE = {
    "aten::_log_softmax", "aten::_softmax", "aten::_to_copy", "aten::add", "aten::addmm", "aten::bmm", "aten::cat",
    "aten::clone", "aten::mean", "aten::mm", "aten::mul", "aten::relu", "aten::sub", "aten::sum",
}  # fmt: skip


@lru_cache(maxsize=4096)
def _reversed_at_once(operation: Operation) -> bool:
    if operation.name in _AT_ONCE:
        return True
    return bool(torch._C._jit_get_schemas_for_operator(f"{operation.name}_backward"))


def expected(trace: Trace) -> Trace:
    """The trace with a guess of what backward holds where it has not come to yet.

    Held while an operation is reversed: gradients of what it made and read, of what was made before it and is read
    after it, and of parameters that nothing after it reads; and one more of the largest, where the derivative's formula
    has several operations.
    """
    last = trace.last_reads()
    count = len(trace.operations)
    change = [0] * (count + 2)
    for content, home in enumerate(trace.home):
        if last[content] > home + 1:
            change[home + 1] += trace.nbytes[content]
            change[last[content]] -= trace.nbytes[content]
    for at, nbytes in trace.leaves.values():
        change[0] += nbytes
        change[at + 1] -= nbytes
    crossing = list(accumulate(change))

    def reversing(at: int) -> int:
        here = [trace.nbytes[content] for content in {*trace.reads[at], *trace.makes[at]}]
        return crossing[at] + sum(here) + (0 if _reversed_at_once(trace.operations[at]) else max(here, default=0))

    guess = {}
    for place, (at, content) in enumerate(trace.saved):
        # It was saved by the operation before, or by the one that followed.
        most = max([2 * trace.nbytes[content], *(reversing(one) for one in (at - 1, at) if 0 <= one < count)])
        guess[place] = trace.gradient_bytes.get(place, most)
    return replace(trace, gradient_bytes=guess)


def evened(trace: Trace) -> Trace:
    """The trace with the least time of all operations that do the same to as many bytes, for noise only adds time."""
    least: dict[tuple[object, ...], float] = defaultdict(lambda: float("inf"))
    kinds = []
    for at, operation in enumerate(trace.operations):
        sizes = tuple(trace.nbytes[content] for content in (*trace.reads[at], *trace.makes[at]))
        kind = (id(operation), len(trace.reads[at]), *sizes)
        kinds.append(kind)
        least[kind] = min(least[kind], trace.seconds[at])
    return replace(trace, seconds=[least[kind] for kind in kinds])


def make_plan(trace: Trace, limit_bytes: int) -> Plan | None:
    """The plan for a step like this one within so many bytes; None if there is none."""
    trace = evened(trace)
    pieces = {min(most, len(trace.operations)) for most in BLOCKS}
    blocks = [block_plan(trace, limit_bytes, most) for most in sorted(pieces)]
    found = [plan for plan in blocks if plan is not None]
    kept = [{content for content, keep in enumerate(plan.forward) if keep} for plan in found]
    best = Search(trace, limit_bytes, kept).best
    if best is not None:
        return plan_of(trace, best)
    return min(found, key=lambda plan: plan.again_s, default=None)


def least_bytes(trace: Trace, most_bytes: int) -> int | None:
    """The smallest limit that a step like this one could keep; None if it is above `most_bytes`."""
    blocks = least_of_blocks(trace, most_bytes)
    groups = Search(evened(trace), 1, ()).least_bytes
    found = [nbytes for nbytes in (blocks, groups) if nbytes is not None and nbytes <= most_bytes]
    return min(found, default=None)
