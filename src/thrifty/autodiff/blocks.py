"""A training step in blocks: where it is cut, and what a plan must know of each block.

Cuts lie where few bytes are needed afterwards. All sets of contents are rows of booleans, so that bytes of unions and
differences are products with the vector of sizes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from thrifty.autodiff.trace import Trace

MOST_BLOCKS = 40
CALL_S = 1e-5  # what making an operation again costs beside the operation
LEVELS = (0.75, 0.5, 0.25)  # parts of a block's saved bytes that an option may keep

Contents = NDArray[np.bool_]


@dataclass
class Option:
    """A way to leave a block in the forward pass: keep these contents of it, and make the others again for so long."""

    keep: Contents
    seconds: float


@dataclass
class Blocks:
    """A step of n blocks.

    Attributes:
        starts: operation that each begins with, and one past the last.
        nbytes: of each content.
        state: (n + 1, contents) what is needed at the start of each that was made before it.
        wanted: (n, contents) what autograd saved in each.
        options: of each, the one that keeps everything first.
        forward_s: to run each again.
        forward_bytes: most that running each holds beside its state.
        backward_bytes: most that backward itself holds in each.
    """

    starts: list[int]
    nbytes: NDArray[np.int64]
    state: Contents
    wanted: Contents
    options: list[list[Option]]
    forward_s: NDArray[np.float64]
    forward_bytes: list[int]
    backward_bytes: list[int]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.starts) - 1

    def size(self, contents: Contents) -> int:
        """Bytes of a set of contents."""
        return int(self.nbytes @ contents)


def cut(trace: Trace, most: int = MOST_BLOCKS) -> Blocks:
    """Cut a step into blocks."""
    operations, contents = len(trace.operations), len(trace.nbytes)
    home = np.array(trace.home, dtype=np.int64)
    sizes = np.array(trace.nbytes, dtype=np.int64)
    last = home.copy()  # the last operation that reads each, or before which autograd saves it
    for at, reads in enumerate(trace.reads):
        for content in reads:
            last[content] = max(last[content], at)
    for at, content in trace.saved:
        last[content] = max(last[content], min(at, operations - 1))
    change = np.zeros(operations + 2, dtype=np.int64)
    np.add.at(change, home + 1, sizes)
    np.add.at(change, last + 1, -sizes)
    alive = np.cumsum(change)[: operations + 1]  # bytes that are needed at the start of each operation
    costs = np.array(trace.seconds) + CALL_S
    starts = _starts(alive, costs, most)
    count = len(starts) - 1
    at_cut = np.array(starts)[:, None]
    state = (home[None, :] < at_cut) & (last[None, :] >= at_cut)
    block_of = np.searchsorted(np.array(starts), np.arange(operations + 1), side="right") - 1
    wanted = np.zeros((count, contents), dtype=np.bool_)
    for at, content in trace.saved:
        wanted[min(int(block_of[at]), count - 1), content] = True
    forward_s = np.array([costs[a:b].sum() for a, b in pairwise(starts)])
    gradients = np.zeros(count, dtype=np.int64)
    for at, nbytes in trace.gradient_bytes.items():
        block = min(int(block_of[at]), count - 1)
        gradients[block] = max(gradients[block], nbytes)
    blocks = Blocks(starts, sizes, state, wanted, [], forward_s, [], gradients.tolist())
    for block in range(count):
        begin, end = starts[block], starts[block + 1]
        blocks.forward_bytes.append(_forward_bytes(trace, begin, end, last))
        blocks.options.append(_options(trace, blocks, block, costs))
    return blocks


def _starts(alive: NDArray[np.int64], costs: NDArray[np.float64], most: int) -> list[int]:
    """Cut into windows of equal cost, in each where the fewest bytes are alive."""
    operations = len(costs)
    if operations <= most:
        return list(range(operations + 1))
    windows = np.searchsorted(np.cumsum(costs) / costs.sum(), np.arange(1, most) / most)
    edges = [0, *sorted({int(w) + 1 for w in windows if 0 < w + 1 < operations}), operations]
    starts = [0]
    for low, high in pairwise(edges):
        best = low + int(np.argmin(alive[low:high]))
        if best > starts[-1]:
            starts.append(best)
    return [*starts, operations]


def _forward_bytes(trace: Trace, begin: int, end: int, last: NDArray[np.int64]) -> int:
    """Most bytes alive while the operations run, of what they make, if nothing is kept."""
    live = most = 0
    ends: dict[int, int] = {}
    for at in range(begin, end):
        for content in trace.makes[at]:
            live += trace.nbytes[content]
            until = int(last[content])
            ends[until] = ends.get(until, 0) + trace.nbytes[content]
        most = max(most, live)
        live -= ends.pop(at, 0)
    return most


def _options(trace: Trace, blocks: Blocks, block: int, costs: NDArray[np.float64]) -> list[Option]:
    """Ways to keep less of a block: let go, one after the other, what is cheapest to make again per byte."""
    begin = blocks.starts[block]
    wanted = blocks.wanted[block]
    options = [Option(wanted.copy(), 0.0)]
    at_hand = {int(c) for c in np.flatnonzero(wanted | blocks.state[block])}
    own = [c for c in map(int, np.flatnonzero(wanted & ~blocks.state[block])) if trace.home[c] >= begin]
    full = sum(trace.nbytes[c] for c in own)
    kept, levels = full, list(LEVELS)
    again: set[int] = set()  # operations that must run again

    def score(content: int) -> tuple[float, set[int]]:
        needs = _needs(trace, content, at_hand - {content}, begin)
        if needs is None:
            return float("inf"), set()
        return sum(costs[at] for at in needs - again) / max(trace.nbytes[content], 1), needs

    heap = [(score(content)[0], content) for content in own]
    heapq.heapify(heap)
    while heap and levels:
        before, content = heapq.heappop(heap)
        now, needs = score(content)
        if now == float("inf"):
            continue
        if heap and now > 1.01 * before and now > heap[0][0]:
            heapq.heappush(heap, (now, content))
            continue
        at_hand.discard(content)
        again |= needs
        kept -= trace.nbytes[content]
        if kept <= levels[0] * full:
            levels = [level for level in levels if kept > level * full]
            keep = np.zeros_like(wanted)
            keep[list(at_hand)] = True
            options.append(Option(keep & wanted, float(sum(costs[at] for at in again))))
    return options


def _needs(trace: Trace, content: int, at_hand: set[int], begin: int) -> set[int] | None:
    """The operations that make a content from those at hand; None if the block alone cannot."""
    needs: set[int] = set()
    todo = [content]
    while todo:
        one = todo.pop()
        if one in at_hand:
            continue
        at = trace.home[one]
        if at < begin:
            return None
        if at not in needs:
            needs.add(at)
            todo.extend(trace.reads[at])
    return needs
