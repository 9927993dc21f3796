"""How to make contents of a training step again: their operations are called, from the nearest contents at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from thrifty.autodiff.cells import place_of
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.operations import flat_outputs
from thrifty.autodiff.places import at_place, is_read, whole, written_reads
from thrifty.autodiff.store import Store
from thrifty.autodiff.values import Content, Node, Read
from thrifty.ops._stages import report_to


class Rematerialiser(Store):
    """A store that can make again what it has let go."""

    def get(self, content: Content, others: Iterable[Content] = (), last: bool = False) -> Tensor:
        """The content as a tensor, made again if need be from the nearest contents at hand, and the others with it.

        `last` says that nothing will be made again by the same operations, so that they let go of what they read.
        """
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
        self._fresh = set()
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
                    if last:
                        node.arguments, node.keywords, node.reads, node.replayable = (), {}, [], False
            return values[id(content)]
        finally:
            self._busy, self._fresh, self._asked = set(), set(), None

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
        if not self.free:
            self.make_room(sum(made.nbytes for _, made in makes))
        private: dict[int, Tensor] = {}
        if node.flat is not None and not node.operation.changes:  # the common case, for speed
            args, kwargs = list(node.arguments), node.keywords
            for at in node.flat:
                read = args[at]
                args[at] = at_place(values[id(read.content)] if read.copy is None else read.copy, read.place)
        else:
            args, kwargs = self._given(node, values, uses, private)
        if node.random is None:
            result = node.operation.function(*args, **kwargs)
        else:
            generator, state = node.random
            before = generator.get_state()
            try:
                generator.set_state(state)
                result = node.operation.function(*args, **kwargs)
            finally:
                generator.set_state(before)
        flat = (result,) if isinstance(result, Tensor) else flat_outputs(result)
        self.recomputed_ops += 1
        self.recomputed_s += node.cost_s
        for at, made in makes:
            tensor = flat[at] if at >= 0 else private[id(node.reads[-1 - at])]
            if self.counting:
                self.count(tensor, gradient=False)
            if uses.get(id(made)):
                values[id(made)] = tensor
                self._busy.add(id(made))
            if made.wanted if self.ahead is None else made.index in self.ahead:
                self.keep(made, tensor, place_of(tensor))
            else:
                self._fresh.add(id(made))
        self.enforce_most()

    def _given(
        self, node: Node, values: dict[int, Tensor], uses: dict[int, int], private: dict[int, Tensor]
    ) -> tuple[Any, Any]:
        """Arguments for a call; what it writes to is its own, and noted in `private`."""
        written = {id(read) for read in written_reads(node)}

        def give(read: Read) -> Tensor:
            base = read.copy if read.copy is not None else values[id(read.content)]
            if id(read) in written:
                key = id(read.content)
                if read.copy is not None or key not in self._fresh or uses[key] != 1:
                    base = whole(base)
                private[id(read)] = base
            return at_place(base, read.place)

        if node.flat is None:
            tree = node.arguments, node.keywords
            args, kwargs = pytree.tree_map_only(Read, give, tree, is_leaf=is_read)
            return args, kwargs
        args = list(node.arguments)
        for at in node.flat:
            args[at] = give(args[at])
        return args, node.keywords
