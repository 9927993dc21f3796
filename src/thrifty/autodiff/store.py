"""The contents that a training step keeps within a limit: their bytes, and which to let go.

Source of the online rule: Kirisame et al., *Dynamic Tensor Rematerialization* (ICLR 2021), h = cost / (bytes *
staleness). Deviations: in the forward pass staleness is left out, in the backward pass it is the distance to the
content that is being asked for. Where a plan is followed (`plan`), it says what to keep instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.cells import Place, tensor_on
from thrifty.autodiff.errors import MemoryLimitError
from thrifty.autodiff.operations import user_line
from thrifty.autodiff.snapshot import changed_behind, version_of
from thrifty.autodiff.values import Content, Tie

HEADROOM = 0.05  # part of the limit that an eviction frees beyond need, so that evictions come in batches
TOLERANCE = 0.1  # part of the limit by which it may be passed before the step is refused
WALK = 50  # operations looked at to estimate what making a content again would cost


class Store:
    """Contents by the storage that holds them, those that are kept, and their bytes.

    Attributes:
        limit_bytes, most: the limit, in bytes or in kept contents; None where there is none.
        live_bytes, peak_bytes: of storages that the steps made: now, and at most; step_peak_bytes in this step.
        gradient_bytes: those among them that backward made.
        recomputed_ops, recomputed_s: operations called again, and their time by estimate.
        evicted: contents let go; forced: those among them in this step that no plan let go, for the limit was reached.
        handles: how many saved tensors of the autograd graph are alive.
        cells: id of a storage -> what is known of it.
        kept: the contents that are held.
        least_bytes: (bytes that are needed at once) -> (the least limit that would do, is the whole step known?);
            asked when a limit is too small.
        ahead: indices of the contents to keep while some are made again, by a plan in blocks; None without one.
        pending: index of a content -> how many groups are still to be made from it, by a plan in groups; else None.
        free: a proven plan is followed, so that the limit need not be looked at. counting: bytes are counted.
        partly: some of the step was not noted, for a plan needs nothing of it.
    """

    def __init__(self, limit_bytes: int | None, most: int | None) -> None:
        self.limit_bytes, self.most = limit_bytes, most
        self.live_bytes = self.peak_bytes = self.step_peak_bytes = self.gradient_bytes = 0
        self.recomputed_ops = self.evicted = self.forced = self.handles = 0
        self.recomputed_s = 0.0
        self.cells: dict[int, Tie] = {}
        self.kept: dict[int, Content] = {}
        self.ahead: set[int] | None = None
        self.pending: dict[int, int] | None = None
        self.free = self.partly = False
        self.counting = True
        self.least_bytes: Callable[[int], tuple[int, bool]] | None = None
        self._busy: set[int] = set()
        self._fresh: set[int] = (
            set()
        )  # contents that were just made, and that nobody holds but who makes others of them
        self._asked: int | None = None

    # -- what is there -------------------------------------------------------------------------------------------

    def tie(self, storage: Any, nbytes: int, gradient: bool = False) -> Tie:
        """Begin to follow a storage, and count so many bytes for as long as it lives."""
        tie = Tie(storage, self._gone)
        tie.key, tie.nbytes, tie.gradient, tie.content = id(storage), nbytes, gradient, None
        self.cells[tie.key] = tie
        if nbytes:
            if gradient:
                self.gradient_bytes += nbytes
            self.live_bytes += nbytes
            if self.live_bytes > self.step_peak_bytes:
                self.step_peak_bytes = self.live_bytes
                self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return tie

    def _gone(self, tie: Tie) -> None:
        if self.cells.get(tie.key) is tie:
            del self.cells[tie.key]
        tie.content = None
        self.live_bytes -= tie.nbytes
        if tie.gradient:
            self.gradient_bytes -= tie.nbytes

    def count(self, tensor: Tensor, gradient: bool) -> None:
        """Count the bytes of a tensor's storage while it lives, if that is not done yet; sparse ones have none."""
        if tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        if id(storage) not in self.cells:
            self.tie(storage, storage.nbytes(), gradient)

    def keep(self, content: Content, tensor: Tensor, place: Place) -> None:
        """Hold a content, as a tensor that lies at this place."""
        content.kept, content.kept_place = tensor, place
        self.kept[id(content)] = content

    def drop(self, content: Content) -> None:
        """Let go of a content."""
        content.kept = None
        self.kept.pop(id(content), None)

    def release(self, content: Content) -> None:
        """Nobody wants the content any more: let go of it, unless the plan holds it for others to be made from."""
        if self.pending is not None:
            if not self.pending.get(content.index):
                self.drop(content)
        elif self.ahead is None or content.index not in self.ahead:
            self.drop(content)

    def began(self, sources: Iterable[Content | None], indices: Iterable[int]) -> None:
        """A group was made from these contents: let go of those that nobody else waits for."""
        assert self.pending is not None
        for index in indices:
            self.pending[index] -= 1
        for content in sources:
            if content is not None and not content.wanted:
                self.release(content)

    def kept_bytes(self) -> int:
        """Bytes of the storages that are held."""
        return sum({id(c.kept.untyped_storage()): c.nbytes for c in self.kept.values() if c.kept is not None}.values())

    def begin(self) -> None:
        """A step begins: its peak is counted from here."""
        self.step_peak_bytes = self.live_bytes
        self.forced = 0

    def end(self) -> None:
        """The step is over: what lives on counts as found by the next, so that records do not pile up."""
        for content in list(self.kept.values()):
            if not content.wanted:
                self.drop(content)
        for tie in list(self.cells.values()):
            if isinstance(tie.content, Content) and not tie.content.wanted:
                tie.content = None

    def at_hand(self, content: Content) -> Tensor | None:
        """The content as a tensor if it is kept or somebody else keeps it alive. Raises ReplayError if it changed."""
        if content.kept is not None:
            if content.node is None and content.version != version_of(content.kept):
                raise changed_behind(content.kept)
            return content.kept
        storage = content.tie()
        if storage is None or content.tie.content is not content:
            return None
        return tensor_on(storage, content.place)

    # -- the limit -----------------------------------------------------------------------------------------------

    def near(self) -> bool:
        """True if the limit is watched and so near that one result may pass it."""
        return self.limit_bytes is not None and not self.free and 2 * self.live_bytes > self.limit_bytes

    def make_room(self, nbytes: int) -> None:
        """Let contents go until so many more bytes fit. Raises MemoryLimitError where they do not."""
        limit = self.limit_bytes
        if limit is None or self.free or self.live_bytes + nbytes <= limit:
            return
        target = limit * (1 - HEADROOM) - nbytes
        heap = [(self._score(c), at, c) for at, c in enumerate(self.kept.values()) if self.may_go(c) and _held_here(c)]
        heapq.heapify(heap)
        while self.live_bytes > target and heap:
            score, at, content = heapq.heappop(heap)
            now = self._score(content)
            if heap and now > score * 1.01 and now > heap[0][0]:
                heapq.heappush(heap, (now, at, content))
                continue
            self.drop(content)
            self.evicted += 1
            self.forced += 1
        needed = self.live_bytes + nbytes
        if needed > limit * (1 + TOLERANCE) and not self.partly:
            least, whole = self.least_bytes(needed) if self.least_bytes is not None else (needed, False)
            advice = f"about {least} bytes" if whole else f"at least {least} bytes; what follows is not known yet"
            raise MemoryLimitError(
                f"memory={limit} bytes is too small for this step: with all that can be let go, {needed} bytes are "
                f"needed here ({user_line()}); give it {advice}",
                needed_bytes=least,
            )

    def enforce_most(self) -> None:
        """Let the cheapest contents go while more are kept than allowed."""
        while self.most is not None and len(self.kept) > self.most:
            candidates = [content for content in self.kept.values() if self.may_go(content)]
            if not candidates:
                return
            self.drop(min(candidates, key=self._score))
            self.evicted += 1

    def may_go(self, content: Content) -> bool:
        """True if the content may be let go: it can be made again, and nothing is being made from it just now."""
        return content.node is not None and content.node.replayable and id(content) not in self._busy

    def _score(self, content: Content) -> float:
        """Seconds to make it again, with what it needs that is gone too, per byte; far ones go first in backward."""
        seconds, todo, seen = 0.0, [content], {id(content)}
        while todo and len(seen) < WALK:
            node = todo.pop().node
            if node is None:
                continue
            seconds += node.cost_s
            for read in node.reads:
                one = read.content
                if id(one) not in seen:
                    seen.add(id(one))
                    if one.node is not None and one.kept is None and one.tie() is None:
                        todo.append(one)
        distance = 1 if self._asked is None else abs(self._asked - content.index) + 1
        return seconds / (max(content.nbytes, 1) * distance)


def _held_here(content: Content) -> bool:
    """True if letting go of a kept content frees its bytes now: nobody else holds a tensor in its storage."""
    assert content.kept is not None
    # One count is that of the kept tensor, one that of the storage's Python object, which a tie follows.
    return bool(torch._C._storage_Use_Count(content.kept.untyped_storage()._cdata) <= 2)
