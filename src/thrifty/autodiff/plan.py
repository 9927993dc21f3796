"""What a planned training step follows."""

from __future__ import annotations

from dataclasses import dataclass

from thrifty.autodiff.operations import Operation
from thrifty.autodiff.timeline import Choice
from thrifty.autodiff.trace import Trace

_STAGES = 40


@dataclass
class Groups:
    """What is made again together, and what need not be noted at all.

    Attributes:
        contents: of each group.
        of: content -> its group.
        sources: of each group, kept contents that it begins from.
        pending: content -> how many groups begin from it.
        noted: per operation, is it noted? Nothing is made again from what the others did, but what is kept.
        first: per operation, how many contents there were before it.
    """

    contents: list[list[int]]
    of: dict[int, int]
    sources: list[list[int]]
    pending: dict[int, int]
    noted: list[bool]
    first: list[int]


@dataclass
class Plan:
    """What to hold when.

    Attributes:
        operations, makes, nbytes: of the step that it is made for.
        block: of each content that autograd saved, in the order of saving.
        forward: per content, is it kept in the forward pass?
        at: per block, the contents that are at hand while it is reversed.
        again_s: seconds spent on making contents again, as planned; step_s those of the forward pass.
        peak_bytes: as planned.
        groups: where contents are made again in groups, these; the blocks are then for the picture only.
    """

    operations: list[Operation]
    makes: list[tuple[int, ...]]
    nbytes: list[int]
    block: list[int]
    forward: list[bool]
    at: list[set[int]]
    again_s: float
    forward_s: float
    peak_bytes: int
    groups: Groups | None


def plan_of(trace: Trace, choice: Choice) -> Plan:
    """The plan that carries out a choice."""
    count = len(trace.operations)
    again = {at for group in choice.groups for at in group.operations}
    wanted = {content for _, content in trace.saved}
    noted = [
        at in again or any(c in trace.overwritten and c in wanted for c in made) for at, made in enumerate(trace.makes)
    ]
    first = [0]
    for made in trace.makes:
        first.append(first[-1] + len(made))
    pending: dict[int, int] = {}
    for group in choice.groups:
        for content in group.sources:
            pending[content] = pending.get(content, 0) + 1
    groups = Groups(
        [sorted(group.contents, reverse=True) for group in choice.groups],
        {content: number for number, group in enumerate(choice.groups) for content in group.contents},
        [sorted(group.sources) for group in choice.groups], pending, noted, first,
    )  # fmt: skip
    stage = max(1, -(-(count + 1) // _STAGES))
    low: dict[int, int] = {}
    for place, content in trace.saved:
        low[content] = min(place, low.get(content, place))
    at: list[set[int]] = []
    for number in range(count // stage + 1):
        begin, end = number * stage, (number + 1) * stage
        here = {content for content in choice.kept if trace.home[content] < end}
        for group in choice.groups:
            if trace.saved[group.asked][0] >= begin:
                here |= {content for content in group.contents if low[content] < end}
        at.append(here)
    forward = [content in choice.kept for content in range(len(trace.nbytes))]
    forward_s = sum(trace.seconds)
    return Plan(
        trace.operations, trace.makes, trace.nbytes, [], forward, at, choice.again_s, forward_s, choice.peak_bytes,
        groups,
    )  # fmt: skip
