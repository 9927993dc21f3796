"""Plans for training steps: contents kept by least cuts (`keeping`) where that fits, else in blocks (`planning`)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from thrifty.autodiff.keeping import Search
from thrifty.autodiff.plan import Plan, plan_of
from thrifty.autodiff.planning import block_plan, least_of_blocks
from thrifty.autodiff.trace import Trace

BLOCKS = (40, 24, 14)  # pieces that plans in blocks are made for; the search goes on from what these keep


def expected(trace: Trace) -> Trace:
    """The trace with a guess of what backward holds where it has not come to yet.

    A guess for those is three times the largest content there: a gradient that comes in, one that goes out, and one
    that is added to it.
    """
    guess = {}
    for place, (at, content) in enumerate(trace.saved):
        here = trace.makes[at] if at < len(trace.makes) else ()
        most = max(trace.nbytes[one] for one in (content, *here))
        guess[place] = trace.gradient_bytes.get(place, 3 * most)
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
