"""Which contents of a training step to keep, within a limit in bytes, where no operation need run more than twice.

To keep the contents K costs the operations that make the rest again, with whatever of their inputs is not kept either.
For a price per byte, the K of least cost is a least cut: a content that is needed is on the source's side; it is kept
where the operation that made it is on the sink's side, at the arc's capacity price * bytes, and that operation costs
its seconds where it is on the source's side. The price rises until what is held at any time (`timeline`) fits. Where
groups would grow too large, what crosses some cuts is kept in any case.

Choices that fit or almost do, and those of the plans in blocks, are then bettered by keeping one content more or less
at a time.

Source: that a choice of what to recompute is a least cut is from He & Yu, *Transcending runtime-memory tradeoffs in
checkpointing by being fusion aware* (MLSys 2023), who cut bytes; here seconds are cut too, by a price, and bytes are
counted over time. Cost: some 20 cuts for each way of cutting, 0.1 to 5 s in all.
"""

from __future__ import annotations

from collections.abc import Iterable

from thrifty.autodiff.blocks import SCALE, crossing
from thrifty.autodiff.mincut import UNBOUNDED, Network
from thrifty.autodiff.timeline import Choice, Timeline
from thrifty.autodiff.trace import Trace

CUTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # pieces, between which everything is kept
LARGE = 800  # operations, from which on fewer ways are tried
_PRICES = 24
_HALVINGS = 6
_CLIMBS = 4
_TRIES = 400_000  # operations looked at while climbing


class _Cut:
    """The network of a step, for one set of contents that are kept in any case."""

    def __init__(self, timeline: Timeline, free: set[int]) -> None:
        trace = timeline.trace
        contents = len(trace.nbytes)
        self._home, self._first_operation = trace.home, 2 + contents
        network = self._network = Network(2 + contents + len(trace.operations))
        self._priced: list[tuple[int, int]] = []
        for content, at in enumerate(trace.home):
            if content in timeline.wanted:
                network.arc(0, 2 + content, UNBOUNDED)
            able = content not in trace.overwritten or at in trace.fixed  # those are copied
            arc = network.arc(2 + content, self._first_operation + at, 0 if able else UNBOUNDED)
            if able and content not in free:
                self._priced.append((arc, trace.nbytes[content]))
        for at, reads in enumerate(trace.reads):
            cost = UNBOUNDED if at in trace.fixed else int(timeline.costs[at] * SCALE)
            network.arc(self._first_operation + at, 1, cost)
            for content in set(reads):
                network.arc(self._first_operation + at, 2 + content, UNBOUNDED)

    def kept(self, price: float) -> set[int]:
        """The contents to keep where a byte costs so many seconds; the price may only rise from call to call."""
        for arc, nbytes in self._priced:
            self._network.set_capacity(arc, int(nbytes * price * SCALE))
        side = self._network.source_side()
        first = self._first_operation
        return {content for content, at in enumerate(self._home) if side[2 + content] and not side[first + at]}

    def state(self) -> list[int]:
        """For `restore`, so that the price may fall."""
        return self._network.state()

    def restore(self, state: list[int]) -> None:
        """Go back."""
        self._network.restore(state)


class Search:
    """The best choice found for a limit, from least cuts and from choices that are known.

    Attributes:
        best: it; None if none fits.
        least_bytes: the smallest peak that was met.
    """

    def __init__(self, trace: Trace, limit_bytes: int, known: Iterable[set[int]]) -> None:
        self.best: Choice | None = None
        self.least_bytes: int | None = None
        self._limit = limit_bytes
        self._timeline = Timeline(trace)
        self._tries = _TRIES // max(1, len(trace.operations))
        if not self._timeline.wanted:
            return
        large = len(trace.operations) > LARGE
        starts = [choice for kept in known if (choice := self._judge(kept)) is not None]
        for pieces in CUTS:
            if pieces > len(trace.operations):
                break
            if large and self.best is not None and pieces > 4:
                break
            free = crossing(trace, pieces)
            starts += self._sweep(_Cut(self._timeline, free))
        starts.sort(key=self._rank)
        for start in starts[:_CLIMBS]:
            self._climb(start)

    def _judge(self, kept: set[int]) -> Choice | None:
        """The choice, noted if it fits and is the best so far; None if it cannot be."""
        choice = self._timeline.choose(kept)
        if choice is not None:
            peak = choice.peak_bytes
            self.least_bytes = peak if self.least_bytes is None else min(peak, self.least_bytes)
            if peak <= self._limit and (self.best is None or choice.again_s < self.best.again_s):
                self.best = choice
        return choice

    def _rank(self, choice: Choice) -> tuple[float, float]:
        """Less is better: bytes above the limit first, then seconds."""
        return max(0, choice.peak_bytes - self._limit), choice.again_s

    def _sweep(self, cut: _Cut) -> list[Choice]:
        """Raise the price until the choice fits; returns what fits, and what almost does."""
        trace = self._timeline.trace
        found = [self._judge(cut.kept(0.0))]
        price = 1e-3 * sum(self._timeline.costs) / max(1, sum(trace.nbytes))
        low, low_price = cut.state(), 0.0
        for _ in range(_PRICES):
            choice = self._judge(cut.kept(price))
            found.append(choice)
            if choice is not None and choice.peak_bytes <= self._limit:
                high = price
                break
            low, low_price = cut.state(), price
            price *= 2
        else:
            high = low_price
        for _ in range(_HALVINGS if high > low_price else 0):
            middle = (low_price + high) / 2
            cut.restore(low)
            choice = self._judge(cut.kept(middle))
            found.append(choice)
            if choice is None or choice.peak_bytes > self._limit:
                low, low_price = cut.state(), middle
            else:
                high = middle
        return sorted((choice for choice in found if choice is not None), key=self._rank)[:2]

    def _climb(self, choice: Choice) -> None:
        """Keep one content more, or one less, for as long as that makes it better."""
        trace = self._timeline.trace
        small = self._limit // 200
        while self._tries > 0:
            inside = {c for group in choice.groups for at in group.operations for c in trace.makes[at]}
            moves = [c for c in inside | choice.kept if trace.nbytes[c] > small and c not in trace.overwritten]
            best = choice
            moves.sort(key=lambda c: -trace.nbytes[c])
            for content in moves[: self._tries]:
                self._tries -= 1
                other = self._judge(choice.kept ^ {content})
                if other is not None and self._rank(other) < self._rank(best):
                    best = other
            if best is choice:
                return
            choice = best
