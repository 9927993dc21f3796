"""The contents that a training step keeps within a limit: their bytes, which to let go, and how to make one again.

Source of the online rule: Kirisame et al., *Dynamic Tensor Rematerialization* (ICLR 2021), h = cost / (bytes *
staleness). Deviations: in the forward pass staleness is left out, in the backward pass it is the distance to the
content that is being asked for. Where a plan is followed (`plan`), it says what to keep instead.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from thrifty.autodiff.cells import Place, place_of, tensor_on
from thrifty.autodiff.errors import MemoryLimitError, ReplayError
from thrifty.autodiff.operations import Operation, flat_outputs, user_line
from thrifty.autodiff.snapshot import changed_behind, version_of
from thrifty.autodiff.values import Content, Node, Read, Tie
from thrifty.ops._stages import report_to

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
        evicted: contents let go.
        handles: how many saved tensors of the autograd graph are alive.
        cells: id of a storage -> what is known of it.
        kept: the contents that are held.
        least_bytes: asked for the least limit that would do, when one is too small.
        ahead: indices of the contents to keep while some are made again, by plan; None without one.
    """

    def __init__(self, limit_bytes: int | None, most: int | None) -> None:
        self.limit_bytes, self.most = limit_bytes, most
        self.live_bytes = self.peak_bytes = self.step_peak_bytes = self.gradient_bytes = 0
        self.recomputed_ops = self.evicted = self.handles = 0
        self.recomputed_s = 0.0
        self.cells: dict[int, Tie] = {}
        self.kept: dict[int, Content] = {}
        self.ahead: set[int] | None = None
        self.least_bytes: Callable[[], int | None] | None = None
        self._busy: set[int] = set()
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
        if self.ahead is None or content.index not in self.ahead:
            self.drop(content)

    def kept_bytes(self) -> int:
        """Bytes of the storages that are held."""
        return sum({id(c.kept.untyped_storage()): c.nbytes for c in self.kept.values() if c.kept is not None}.values())

    def begin(self) -> None:
        """A step begins: its peak is counted from here."""
        self.step_peak_bytes = self.live_bytes

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

    # -- making contents again -----------------------------------------------------------------------------------

    def get(self, content: Content, others: Iterable[Content] = ()) -> Tensor:
        """The content as a tensor, made again if need be from the nearest contents at hand, and the others with it."""
        found = self.at_hand(content)
        if found is not None:
            return found
        self._asked = content.index
        values: dict[int, Tensor] = {}
        nodes = self._plan([content, *others], values)
        uses: dict[int, int] = {id(content): 1}
        for node in nodes:
            for read in node.reads:
                uses[id(read.content)] = uses.get(id(read.content), 0) + 1
        self._busy = set(values)
        try:
            with report_to(None):  # a layer that books its seconds has booked these operations once
                for node in nodes:
                    self._run_again(node, values, uses)
                    for read in node.reads:
                        key = id(read.content)
                        uses[key] -= 1
                        if not uses[key]:
                            values.pop(key, None)
                            self._busy.discard(key)
            return values[id(content)]
        finally:
            self._busy, self._asked = set(), None

    def _plan(self, contents: list[Content], values: dict[int, Tensor]) -> list[Node]:
        """The nodes to run, in the order they ran; fills `values` with the contents at hand that they begin from."""
        nodes: dict[int, Node] = {}
        todo = contents
        while todo:
            target = todo.pop()
            node = target.node
            if id(target) in values or (node is not None and id(node) in nodes):
                continue
            at_hand = self.at_hand(target)
            if at_hand is not None:
                values[id(target)] = at_hand
                continue
            if node is None or not node.replayable:
                name = node.operation.name if node is not None else "what the step was given"
                raise ReplayError(
                    f"{name} cannot be had again{f' ({node.line})' if node is not None else ''}: it wrote to a large "
                    "tensor in place; do that outside of checkpointing()"
                )
            nodes[id(node)] = node
            todo.extend(read.content for read in node.reads if read.copy is None)
        return sorted(nodes.values(), key=lambda node: node.order)

    def _run_again(self, node: Node, values: dict[int, Tensor], uses: dict[int, int]) -> None:
        makes = [(at, made) for at, reference in node.makes if (made := reference()) is not None]
        self.make_room(sum(made.nbytes for _, made in makes))
        written = {id(read) for read in written_reads(node)}
        private: dict[int, Tensor] = {}

        def give(read: Read) -> Tensor:
            base = read.copy if read.copy is not None else values[id(read.content)]
            if id(read) in written:
                base = private[id(read)] = _whole(base)
            return at_place(base, read.place)

        if node.flat is not None:
            args, kwargs = list(node.arguments), node.keywords
            for at in node.flat:
                args[at] = give(args[at])
        else:
            args, kwargs = pytree.tree_map_only(Read, give, (node.arguments, node.keywords), is_leaf=is_read)
        generator, state = node.random if node.random is not None else (None, None)
        before = generator.get_state() if generator is not None else None
        try:
            if generator is not None:
                generator.set_state(state)
            flat = flat_outputs(node.operation.function(*args, **kwargs))
        finally:
            if generator is not None:
                generator.set_state(before)
        self.recomputed_ops += 1
        self.recomputed_s += node.cost_s
        for at, made in makes:
            tensor = flat[at] if at >= 0 else private[id(node.reads[-1 - at])]
            self.count(tensor, gradient=False)
            if uses.get(id(made)):
                values[id(made)] = tensor
                self._busy.add(id(made))
            if made.wanted if self.ahead is None else made.index in self.ahead:
                self.keep(made, tensor, place_of(tensor))
        self.enforce_most()

    # -- the limit -----------------------------------------------------------------------------------------------

    def make_room(self, nbytes: int) -> None:
        """Let contents go until so many more bytes fit. Raises MemoryLimitError where they do not."""
        limit = self.limit_bytes
        if limit is None or self.live_bytes + nbytes <= limit:
            return
        target = limit * (1 - HEADROOM) - nbytes
        heap = [(self._score(c), at, c) for at, c in enumerate(self.kept.values()) if self.may_go(c)]
        heapq.heapify(heap)
        while self.live_bytes > target and heap:
            score, at, content = heapq.heappop(heap)
            now = self._score(content)
            if heap and now > score * 1.01 and now > heap[0][0]:
                heapq.heappush(heap, (now, at, content))
                continue
            self.drop(content)
            self.evicted += 1
        needed = self.live_bytes + nbytes
        if needed > limit * (1 + TOLERANCE):
            least = max(needed, (self.least_bytes() if self.least_bytes is not None else None) or 0)
            raise MemoryLimitError(
                f"memory={limit} bytes is too small for this step: with all that can be let go, {needed} bytes are in "
                f"use ({user_line()}); give it about {least} bytes",
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


@functools.lru_cache(maxsize=4096)
def disjoint(one: Place, other: Place, nbytes: int) -> bool:
    """True if the two places in a storage of so many bytes have no element in common."""
    if one[3] != other[3]:
        return False
    with _disable_current_modes(), torch.no_grad():
        marks = torch.zeros(nbytes // one[3].itemsize, dtype=torch.bool)
        marks.as_strided(*one[:3]).fill_(True)
        return not bool(marks.as_strided(*other[:3]).any())


def is_read(value: Any) -> bool:
    """True for a Read, which a tree of arguments holds as a leaf."""
    return isinstance(value, Read)


def written_reads(node: Node) -> list[Read]:
    """The Reads that the operation writes to."""
    op: Operation = node.operation
    if not op.changes:
        return []
    if node.flat is not None:
        return [node.arguments[at] for at in op.writes if at in node.flat]
    found = [node.arguments[at] for at in op.writes if at < len(node.arguments)]
    found += [node.keywords[name] for name in op.writes_by_name if name in node.keywords]
    return [one for one in pytree.tree_leaves(found, is_leaf=is_read) if isinstance(one, Read)]


def at_place(base: Tensor, place: Place) -> Tensor:
    """The place in the storage of `base`."""
    size, stride, offset, dtype, conj, neg = place
    if conj or neg or dtype != base.dtype or base.is_conj():
        return tensor_on(base.untyped_storage(), place)
    return base.as_strided(size, stride, offset)


def _whole(tensor: Tensor) -> Tensor:
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    copy = tensor.as_strided((count,), (1,), 0).clone()
    return copy.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
