"""Which contents of a training step to keep, and which to make again when, for a limit in bytes: dynamic programming.

Source: Beaumont et al., *Optimal checkpointing for heterogeneous chains* (rotor, 2019), whose recursion over pairs of
blocks and room this is, and *Rockmate* (ICML 2023), which gives a block several ways to be kept. Deviations: a state is
the set of contents that cross a cut, so skip connections need no chain; sizes are of unions of sets.

C(s, t, m) is the least time spent on making contents again while blocks s to t are run forward and reversed in m bytes
beside the state at s:

    C(s, t, m) = min over  options o of s:  again(o) + C(s + 1, t, m - bytes(o)),   if block s can be reversed in m
                           s < k <= t:      forward(s .. k - 1) + C(k, t, m - bytes(state k)) + C(s, k - 1, m)

Cost: n^2 / 2 pairs of n <= 40 blocks, at `SLOTS` sizes of room each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thrifty.autodiff.blocks import MOST_BLOCKS, Blocks, Contents, cut
from thrifty.autodiff.plan import Plan
from thrifty.autodiff.trace import Trace

SLOTS = 250


def block_plan(trace: Trace, limit_bytes: int, most: int = MOST_BLOCKS) -> Plan | None:
    """The plan of the recursion for a step like this one within so many bytes; None if there is none."""
    blocks = cut(trace, most)
    room = limit_bytes - trace.outside_bytes
    plan = None
    for more in range(1, 5):
        if room <= 0:
            break
        table = _Table(blocks, room)
        if not np.isfinite(table.cost[0][blocks.count - 1][-1]):
            break
        plan = table.plan(trace)
        if plan.peak_bytes <= limit_bytes:
            break
        room -= more * (plan.peak_bytes - limit_bytes)  # sizes are rounded to slots in the table
    return plan


def least_of_blocks(trace: Trace, most_bytes: int) -> int | None:
    """The smallest limit that such a plan could keep; None if it is above `most_bytes`."""
    blocks = cut(trace)
    table = _Table(blocks, most_bytes)
    possible = np.flatnonzero(np.isfinite(table.cost[0][blocks.count - 1]))
    return (int(possible[0]) + 1) * table.slot + trace.outside_bytes if len(possible) else None


class _Table:
    """C(s, t, m) and the choices that lead there."""

    def __init__(self, blocks: Blocks, room_bytes: int) -> None:
        self.blocks = blocks
        self.slot = max(1, -(-room_bytes // SLOTS))
        self.room = max(0, room_bytes // self.slot)
        count = blocks.count
        none = np.zeros(self.room + 1)
        self.cost: list[list[NDArray[np.float64]]] = [[none] * count for _ in range(count)]
        self.choice: list[list[NDArray[np.int64]]] = [[none.astype(np.int64)] * count for _ in range(count)]
        self._option_slots = [
            [self._slots(option.keep | blocks.state[at + 1], at) for option in blocks.options[at]]
            for at in range(count)
        ]
        for s in reversed(range(count)):
            for t in range(s, count):
                self._solve(s, t)

    def _slots(self, contents: Contents, block: int) -> int:
        """Slots, to the nearest, for a set of contents beside the state at a block."""
        return round(self.blocks.size(contents & ~self.blocks.state[block]) / self.slot)

    def _shift(self, cost: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
        """cost(m - slots), infinite where that is negative."""
        if slots == 0:
            return cost
        shifted = np.full(self.room + 1, np.inf)
        if slots <= self.room:
            shifted[slots:] = cost[: self.room + 1 - slots]
        return shifted

    def _solve(self, s: int, t: int) -> None:
        """Fill in C(s, t, .): choice -1 - o is option o of s, k a split before block k."""
        blocks = self.blocks
        rooms = np.arange(self.room + 1)
        reversed_bytes = blocks.size(blocks.wanted[s] & ~blocks.state[s]) + blocks.backward_bytes[s]
        possible = rooms * self.slot >= max(reversed_bytes, blocks.forward_bytes[s])
        best = np.full(self.room + 1, np.inf)
        choice = np.full(self.room + 1, -1)
        if s == t:
            best[possible] = 0.0
        else:
            for at, option in enumerate(blocks.options[s]):
                found = self._shift(self.cost[s + 1][t], self._option_slots[s][at]) + option.seconds
                better = possible & (found < best)
                best[better], choice[better] = found[better], -1 - at
            forward_s = 0.0
            least = 0
            for k in range(s + 1, t + 1):
                forward_s += float(blocks.forward_s[k - 1])
                before = blocks.size(blocks.state[k - 1] & ~blocks.state[s])
                least = max(least, before + blocks.forward_bytes[k - 1])
                found = forward_s + self._shift(self.cost[k][t], self._slots(blocks.state[k], s)) + self.cost[s][k - 1]
                better = (rooms * self.slot >= least) & (found < best)
                best[better], choice[better] = found[better], k
        self.cost[s][t], self.choice[s][t] = best, choice

    def plan(self, trace: Trace) -> Plan:
        """Follow the choices from all blocks in all the room."""
        blocks = self.blocks
        count, contents = blocks.count, len(trace.nbytes)
        at: list[Contents] = [np.zeros(contents, dtype=np.bool_) for _ in range(count)]
        forward = self._follow(0, count - 1, self.room, np.zeros(contents, dtype=np.bool_), at)
        operations = np.arange(len(trace.operations) + 1)
        found = np.searchsorted(np.array(blocks.starts), operations, side="right") - 1
        block = np.minimum(found, count - 1).tolist()
        peak = max(blocks.size(held) + nbytes for held, nbytes in zip(at, blocks.backward_bytes, strict=True))
        return Plan(
            trace.operations, trace.makes, trace.nbytes, [block[at] for at, _ in trace.saved], forward.tolist(),
            [set(map(int, np.flatnonzero(held))) for held in at],
            float(self.cost[0][count - 1][-1]), float(blocks.forward_s.sum()), peak + trace.outside_bytes, None,
        )  # fmt: skip

    def _follow(self, s: int, t: int, room: int, held: Contents, at: list[Contents]) -> Contents:
        """Fill in `at` for blocks s to t; returns what the pass over them leaves."""
        blocks = self.blocks
        left: list[tuple[int, int, int, Contents]] = []  # (block, last block of its pass, room, held) to reverse
        held = held | blocks.state[s]
        while s < t:
            choice = int(self.choice[s][t][room])
            if choice < 0:
                option = blocks.options[s][-1 - choice]
                left.append((s, s, -1, held))
                room -= self._option_slots[s][-1 - choice]
                held = held | option.keep | blocks.state[s + 1]
                s += 1
            else:
                left.append((s, choice - 1, room, held))
                room -= self._slots(blocks.state[choice], s)
                held = held | blocks.state[choice]
                s = choice
        held = held | blocks.wanted[t]
        at[t] = held
        for start, stop, room_there, before in reversed(left):
            if room_there < 0:
                at[start] = before | blocks.wanted[start]
            else:
                self._follow(start, stop, room_there, before, at)
        return held
