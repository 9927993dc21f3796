"""Notes the operations of a training step: what each read and made, in `values`' terms. A part of `Checkpointing`."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from thrifty.autodiff.cells import Place, place_of, tensor_on
from thrifty.autodiff.course import Course
from thrifty.autodiff.operations import Operation, user_line
from thrifty.autodiff.places import disjoint, whole, written_reads, written_tensors
from thrifty.autodiff.snapshot import generator_of, version_of
from thrifty.autodiff.store import Store
from thrifty.autodiff.values import Content, Node, Read, Tie

SMALL_BYTES = 1 << 20  # up to here, what an operation overwrites is copied so that it can run again


class Handle:
    """A saved tensor of the autograd graph: a place in a content.

    Attributes:
        at: how many others were saved before it in its step; -1 for what the step found, or did not note.
    """

    __slots__ = ("__weakref__", "at", "content", "place", "store")

    def __init__(self, content: Content, place: Place, store: Store, at: int) -> None:
        self.place, self.store, self.at, self.content = place, store, at, content
        store.handles += 1
        content.wanted += 1
        if content.node is not None:
            content.handles.append(weakref.ref(self))
        elif content.places is not None:
            content.places.append(place)

    def move(self, content: Content) -> None:
        """Take the place from another content, which has the same there."""
        self._leave()
        self.content = content
        content.wanted += 1
        if content.node is not None:
            content.handles.append(weakref.ref(self))

    def _leave(self) -> None:
        content = self.content
        content.wanted -= 1
        if content.wanted == 0 and content.node is not None:
            self.store.release(content)

    def __del__(self) -> None:
        self.store.handles -= 1
        self._leave()


class Noting:
    """Makes nodes and contents of operations.

    Attributes:
        operations: noted so far; `forward_s` their time.
    """

    def __init__(self, store: Store, course: Course) -> None:
        self.operations = 0
        self.forward_s = 0.0
        self._store, self._course = store, course
        self._moving: dict[int, list[Handle]] = {}
        self._order = 0

    # -- before and after an operation ---------------------------------------------------------------------------

    def _node(self, op: Operation, args: Any, kwargs: Any) -> Node:
        self._order += 1
        overwrites = op.overwrites
        reads: list[Read] = []
        arguments = list(args)
        flat: list[int] = []
        plain = not kwargs
        for at, value in enumerate(args):
            if isinstance(value, Tensor):
                arguments[at] = read = self._read(value, overwrites)
                reads.append(read)
                flat.append(at)
            elif type(value) in (list, tuple) and any(isinstance(item, Tensor) for item in value):
                plain = False
                break
        if plain:
            return Node(op, self._order, arguments, {}, reads, flat)
        reads = []

        def deep(tensor: Tensor) -> Read:
            reads.append(self._read(tensor, overwrites))
            return reads[-1]

        arguments, keywords = pytree.tree_map_only(Tensor, deep, (list(args), dict(kwargs or {})))
        return Node(op, self._order, arguments, keywords, reads, None)

    def _note_before(self, op: Operation, args: Any, kwargs: Any) -> Node:
        """Note an operation that writes or draws random numbers, before it runs."""
        node = self._node(op, args, kwargs)
        node.line = user_line()
        node.replayable = op.refusal is None
        for one in written_reads(node):
            self._before_write(one, node)
        if op.random:
            values = [*args, *(kwargs or {}).values()]
            device = next((one.device for one in values if isinstance(one, Tensor)), None)
            given = next((one for one in values if isinstance(one, torch.Generator)), None)
            generator = generator_of(device or torch.device((kwargs or {}).get("device") or "cpu"), given)
            node.random = (generator, generator.get_state())
        return node

    def _before_write(self, read: Read, node: Node) -> None:
        """The content before the write can be had only from a copy, or by making it again."""
        content = read.content
        content.seen = None
        if content.places is not None and content.kept is not None:
            with _disable_current_modes():
                content.kept = whole(content.kept)
            content.version = version_of(content.kept)
            return
        if content.node is None:
            found = self._store.at_hand(content)
            if found is not None and content.nbytes <= SMALL_BYTES:
                with _disable_current_modes():
                    read.copy = found.detach().clone()
            else:
                node.replayable = False
            return
        self._course.overwritten(content)
        if content.wanted:
            # An operation in place on one part, a chunk say, leaves saved values in the other parts as they are.
            staying = [handle for reference in content.handles if (handle := reference()) is not None]
            storage = content.tie()
            nbytes = storage.nbytes() if storage is not None else 0
            moving = [handle for handle in staying if disjoint(handle.place, read.place, nbytes)]
            self._moving[id(read)] = moving
            if len(moving) == content.wanted:
                return
        if content.kept is not None:
            if content.node.replayable:
                self._store.drop(content)
            else:
                with _disable_current_modes():
                    content.kept = content.kept.clone()
                self._store.count(content.kept, gradient=False)

    def _note_results(self, node: Node, outputs: tuple[Any, ...]) -> None:
        self.operations += 1
        self.forward_s += node.cost_s
        made: list[Content] = []
        if node.operation.changes:
            self._note_written(node, made)
        store = self._store
        for at, tensor in enumerate(outputs):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in store.cells:
                    content = self._new_content(node, store.tie(storage, storage.nbytes()), place_of(tensor))
                    content.seen = weakref.ref(tensor)
                    made.append(content)
                    node.makes.append((at, weakref.ref(content)))
        course = self._course
        course.ran(node, made)
        if course.plan is not None:
            for content in made:
                if course.plan.forward[content.index] and content.kept is None:
                    seen = content.seen() if content.seen is not None else None
                    alias = tensor_on(content.tie(), content.place) if seen is None else seen.data
                    store.keep(content, alias, content.place)

    def _note_written(self, node: Node, made: list[Content]) -> None:
        for read in written_reads(node):
            storage = read.content.tie()
            moving = self._moving.pop(id(read), ())
            if storage is None:
                continue
            tie = self._store.cells[id(storage)]
            if not node.replayable:
                tie.content = None  # what cannot be made again counts as found
                for handle in moving:
                    handle.move(self._content(tensor_on(storage, read.content.place)))
                continue
            fresh = self._new_content(node, tie, read.content.place)
            made.append(fresh)
            node.makes.append((-1 - node.reads.index(read), weakref.ref(fresh)))
            for handle in moving:
                self._course.moved(handle.at, fresh)
                handle.move(fresh)
            if fresh.wanted and self._course.plan is None:
                self._store.keep(fresh, tensor_on(storage, fresh.place), fresh.place)

    # -- contents ------------------------------------------------------------------------------------------------

    def _new_content(self, node: Node, tie: Tie, place: Place) -> Content:
        contents = self._course.contents
        content = Content(node, self._course.next_index(), tie.nbytes, tie, place)
        tie.content = content
        contents.append(weakref.ref(content))
        return content

    def _read(self, tensor: Tensor, overwrites: bool) -> Read:
        tie = self._store.cells.get(id(tensor.untyped_storage()))
        content = tie.content if tie is not None else None
        if type(content) is not Content:
            content = self._content(tensor)
        elif content.node is not None and content.node.operation.unset and not overwrites:
            content = self._filled(content, tensor)
        seen = content.seen
        place = content.place if seen is not None and seen() is tensor else place_of(tensor)
        if content.places is not None:
            content.places.append(place)
        return Read(content, place)

    def _content(self, tensor: Tensor) -> Content:
        storage = tensor.untyped_storage()
        tie = self._store.cells.get(id(storage)) or self._store.tie(storage, 0)
        content = tie.content
        if isinstance(content, weakref.ref):
            content = content()
            if content is not None and content.places is None and content.version != version_of(tensor):
                content = None
        if content is None:
            # Found by the step; held by those who read it only, so that data may go when the step is over.
            content = Content(None, -1, storage.nbytes(), tie, place_of(tensor))
            content.seen = weakref.ref(tensor)
            if self._store.partly and not tensor.is_leaf:
                # Made by the step, unnoted; the tensor itself would hold the graph that holds the content.
                tensor = tensor.data
                content.places = []
            content.kept, content.version = tensor, version_of(tensor)
            tie.content = weakref.ref(content)
        return content

    def _followed(self, op: Operation, args: Any, kwargs: Any) -> bool:
        """True if the call writes over something that is held or noted."""
        for tensor in written_tensors(op, args, kwargs):
            tie = self._store.cells.get(id(tensor.untyped_storage()))
            content = tie.content if tie is not None else None
            if isinstance(content, weakref.ref):
                content = content()
            if content is None:
                continue
            if content.places is None:
                return True
            place = place_of(tensor)
            if not all(disjoint(place, other, content.nbytes) for other in content.places):
                return True
        return False

    def _filled(self, content: Content, tensor: Tensor) -> Content:
        """Empty memory that is read was written to by code that is not seen: it counts as found."""
        content.tie.content = None
        return self._content(tensor)
