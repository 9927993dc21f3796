"""A training step in blocks: where it is cut, and what a plan must know of each block.

Cuts lie where few bytes are needed afterwards. All sets of contents are rows of booleans, so that bytes of unions and
differences are products with the vector of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from thrifty.autodiff.mincut import UNBOUNDED, Network
from thrifty.autodiff.trace import Trace

MOST_BLOCKS = 40
CALL_S = 2e-5  # what making an operation again costs beside the operation
SCALE = 1e12  # picoseconds: capacities are whole numbers
PRICES = 16

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
    sizes = np.array(trace.nbytes, dtype=np.int64)
    costs = np.array(trace.seconds) + CALL_S
    last = np.array(trace.last_reads(), dtype=np.int64)
    starts, state = _cuts(trace, last, most)
    count = len(starts) - 1
    block_of = np.searchsorted(np.array(starts), np.arange(operations + 1), side="right") - 1
    wanted = np.zeros((count, contents), dtype=np.bool_)
    for at, content in trace.saved:
        wanted[min(int(block_of[at]), count - 1), content] = True
    forward_s = np.array([costs[a:b].sum() for a, b in pairwise(starts)])
    gradients = np.zeros(count, dtype=np.int64)
    for place, nbytes in trace.gradient_bytes.items():
        block = min(int(block_of[trace.saved[place][0]]), count - 1)
        gradients[block] = max(gradients[block], nbytes)
    blocks = Blocks(starts, sizes, state, wanted, [], forward_s, [], gradients.tolist())
    for block in range(count):
        begin, end = starts[block], starts[block + 1]
        blocks.forward_bytes.append(_forward_bytes(trace, begin, end, last))
        blocks.options.append(_options(trace, blocks, block, costs))
    return blocks


def crossing(trace: Trace, pieces: int) -> set[int]:
    """The contents that are needed after one of the cuts and made before it, with cuts into so many pieces."""
    _, state = _cuts(trace, np.array(trace.last_reads(), dtype=np.int64), pieces)
    return set(map(int, np.flatnonzero(state[1:-1].any(axis=0))))


def _cuts(trace: Trace, last: NDArray[np.int64], most: int) -> tuple[list[int], Contents]:
    """Where to cut into at most so many pieces, and what crosses each cut."""
    operations = len(trace.operations)
    home = np.array(trace.home, dtype=np.int64)
    sizes = np.array(trace.nbytes, dtype=np.int64)
    change = np.zeros(operations + 2, dtype=np.int64)
    np.add.at(change, home + 1, sizes)
    np.add.at(change, last + 1, -sizes)
    alive = np.cumsum(change)[: operations + 1]  # bytes that are needed at the start of each operation
    starts = _starts(alive, np.array(trace.seconds) + CALL_S, most)
    at_cut = np.array(starts)[:, None]
    return starts, (home[None, :] < at_cut) & (last[None, :] >= at_cut)


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
    """Ways to keep less of a block: least cuts, at rising prices of a byte, as in `keeping`."""
    begin, end = blocks.starts[block], blocks.starts[block + 1]
    wanted, after = blocks.wanted[block], blocks.state[block + 1]
    at_hand = wanted | blocks.state[block]
    own = [content for at in range(begin, end) for content in trace.makes[at] if not after[content]]
    node = {content: 2 + place for place, content in enumerate(own)}
    first = 2 + len(own)
    network = Network(first + end - begin)
    priced = []
    for content in own:
        if wanted[content]:
            network.arc(0, node[content], UNBOUNDED)
        able = content not in trace.overwritten or trace.home[content] in trace.fixed
        arc = network.arc(node[content], first + trace.home[content] - begin, 0 if able else UNBOUNDED)
        if able:
            priced.append((arc, trace.nbytes[content]))
    for at in range(begin, end):
        lost = at in trace.fixed or any(trace.home[c] < begin and not at_hand[c] for c in trace.reads[at])
        network.arc(first + at - begin, 1, UNBOUNDED if lost else int(costs[at] * SCALE))
        for content in set(trace.reads[at]):
            if content in node:
                network.arc(first + at - begin, node[content], UNBOUNDED)
    others = wanted.copy()
    others[own] = False
    options = [Option(wanted.copy(), 0.0)]
    price = 1e-2 * float(costs[begin:end].sum()) / max(1, sum(trace.nbytes[content] for content in own))
    for _ in range(PRICES):
        for arc, nbytes in priced:
            network.set_capacity(arc, int(nbytes * price * SCALE))
        side = network.source_side()
        keep = others.copy()
        keep[[c for c in own if side[node[c]] and not side[first + trace.home[c] - begin]]] = True
        seconds = float(sum(costs[at] for at in range(begin, end) if side[first + at - begin]))
        if seconds > options[-1].seconds:
            options.append(Option(keep, seconds))
        price *= 2
    return options
