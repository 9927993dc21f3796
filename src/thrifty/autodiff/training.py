"""`with thrifty.checkpointing(memory=...)`: an ordinary training step whose saved activations stay within a limit.

The step runs as it stands, with its own autograd graph, `backward()` and optimizer. Below autograd every operation is
noted; what autograd saves is held here, in a handle. When the limit is reached, the contents that are cheapest to make
again per byte are let go; when backward asks for one, its operations are called again (`rematerialise`). Operations are
called, user code is not, so nothing is printed or counted twice; each gets the generator state it had and copies of
what it overwrote.
"""

from __future__ import annotations

import time
import weakref
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from thrifty.autodiff.budget import Memory, parse_memory
from thrifty.autodiff.cells import Place, place_of, tensor_on
from thrifty.autodiff.levels import inside_functorch, open_levels
from thrifty.autodiff.operations import Operation, flat_outputs, operation, user_line
from thrifty.autodiff.rematerialise import Store, at_place, disjoint, written_reads
from thrifty.autodiff.snapshot import generator_of, version_of
from thrifty.autodiff.values import Content, Node, Read
from thrifty.core.errors import UsageError

SMALL_BYTES = 1 << 20  # up to here, what an operation overwrites is copied so that it can run again
_LOG_CONTENTS = 16

_least_s: dict[Any, float] = {}  # (operator, shapes) -> least time seen


class Handle:
    """A saved tensor of the autograd graph: a place in a content."""

    __slots__ = ("__weakref__", "content", "place", "store")

    def __init__(self, content: Content, place: Place, store: Store) -> None:
        self.place, self.store = place, store
        self._bind(content)

    def _bind(self, content: Content) -> None:
        self.content = content
        content.wanted += 1
        if content.node is not None:
            content.handles.append(weakref.ref(self))

    def _leave(self) -> None:
        self.content.wanted -= 1
        if self.content.wanted == 0 and self.content.node is not None:
            self.store.drop(self.content)

    def move(self, content: Content) -> None:
        """Take the place from another content, which has the same there."""
        self._leave()
        self._bind(content)

    def __del__(self) -> None:
        self._leave()


class Checkpointing(TorchDispatchMode):
    """See `checkpointing`.

    Attributes:
        operations: called by the step's forward pass; `forward_s` their time by estimate.
    """

    def __init__(self, limit_bytes: int | None, most: int | None) -> None:
        super().__init__()
        self.operations = 0
        self.forward_s = 0.0
        self._store = Store(limit_bytes, most)
        self._order = 0
        self._moving: dict[int, list[Handle]] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    limit_bytes = property(lambda self: self._store.limit_bytes, doc="The limit in bytes, or None.")
    peak_bytes = property(lambda self: self._store.peak_bytes, doc="Most bytes of storages made by the step.")
    recomputed_ops = property(lambda self: self._store.recomputed_ops, doc="Operations called again.")
    recomputed_s = property(lambda self: self._store.recomputed_s, doc="Their time, by estimate.")
    evicted = property(lambda self: self._store.evicted, doc="Contents let go.")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the handler, at two microseconds a call

    def __enter__(self) -> Checkpointing:
        if inside_functorch() or open_levels():
            raise UsageError("checkpointing() is for ordinary training steps: give the derivative call memory= instead")
        super().__enter__()
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    # -- noting what runs ----------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = operation(func)
        if op.silent:
            return func(*args, **kwargs)
        store = self._store
        if torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled():
            # First-order backward: nothing will be made again from its results.
            result = func(*args, **kwargs)
            for tensor in flat_outputs(result):
                if isinstance(tensor, Tensor):
                    store.count(tensor.untyped_storage())
        else:
            node = self._note(op, args, kwargs)
            start = time.perf_counter()
            result = func(*args, **kwargs)
            self._note_results(node, result, time.perf_counter() - start)
        store.make_room(0)
        return result

    def _note(self, op: Operation, args: Any, kwargs: Any) -> Node:
        reads: list[Read] = []

        def read(tensor: Tensor) -> Read:
            one = Read(self._content(tensor), place_of(tensor))
            reads.append(one)
            return one

        arguments, keywords = pytree.tree_map_only(Tensor, read, (args, kwargs))
        node = Node(op, arguments, keywords, reads, user_line() if op.random or op.writes else "")
        node.replayable = op.refusal is None
        for one in written_reads(op, arguments, keywords) if op.writes or op.writes_by_name else ():
            self._before_write(one, node)
        if op.random:
            tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            device = tensors[0].device if tensors else None
            given = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)), None)
            generator = generator_of(device or torch.device(kwargs.get("device") or "cpu"), given)
            node.random = (generator, generator.get_state())
        return node

    def _before_write(self, read: Read, node: Node) -> None:
        """The content before the write can be had only from a copy, or by making it again."""
        content = read.content
        if content.node is None:
            found = self._store.at_hand(content)
            if found is not None and content.nbytes <= SMALL_BYTES:
                with _disable_current_modes():
                    read.copy = found.detach().clone()
            else:
                node.replayable = False
            return
        # An operation in place on one part, a chunk say, leaves saved values in the other parts as they are.
        staying = [handle for reference in content.handles if (handle := reference()) is not None]
        moving = [handle for handle in staying if disjoint(handle.place, read.place, content.nbytes)]
        self._moving[id(read)] = moving
        if len(moving) < content.wanted and content.kept is not None:
            if content.node.replayable:
                self._store.drop(content)
            else:
                with _disable_current_modes():
                    content.kept = content.kept.clone()
                self._store.count(content.kept.untyped_storage())

    def _note_results(self, node: Node, result: Any, seconds: float) -> None:
        op = node.operation
        key = (op.name, tuple(read.place[0] for read in node.reads[:4]))
        node.cost_s = _least_s[key] = min(seconds, _least_s.get(key, seconds))
        self.operations += 1
        self.forward_s += node.cost_s
        for read in written_reads(op, node.arguments, node.keywords) if op.writes or op.writes_by_name else ():
            storage = read.content.storage() if read.content.storage is not None else None
            if storage is not None:
                fresh = self._new_content(node, read.content.place, storage)
                node.makes.append((-1 - node.reads.index(read), weakref.ref(fresh)))
                for handle in self._moving.pop(id(read), ()):
                    handle.move(fresh)
                if fresh.wanted:
                    self._store.keep(fresh, tensor_on(storage, fresh.place))
        for at, tensor in enumerate(flat_outputs(result)):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                found = self._store.cells.get(id(storage))
                if found is None or found[0]() is not storage:
                    self._store.count(storage)
                    content = self._new_content(node, place_of(tensor), storage)
                    node.makes.append((at, weakref.ref(content)))

    def _new_content(self, node: Node | None, place: Place, storage: Any) -> Content:
        self._order += 1
        content = Content(node, place, storage.nbytes(), self._order)
        content.storage = weakref.ref(storage)
        key, cells = id(storage), self._store.cells

        def forget(dead: weakref.ref[Any]) -> None:
            if key in cells and cells[key][0] is dead:
                del cells[key]

        cells[key] = (weakref.ref(storage, forget), content)
        return content

    def _content(self, tensor: Tensor) -> Content:
        storage = tensor.untyped_storage()
        found = self._store.cells.get(id(storage))
        if found is not None and found[0]() is storage:
            return found[1]
        content = self._new_content(None, place_of(tensor), storage)
        content.kept, content.version = tensor, version_of(tensor)
        return content

    # -- what autograd saves -------------------------------------------------------------------------------------

    def _pack(self, tensor: Tensor) -> Handle:
        with _disable_current_modes():
            content = self._content(tensor)
            handle = Handle(content, place_of(tensor), self._store)
            if content.node is not None and content.kept is None:
                self._store.keep(content, tensor.detach())
                self._store.enforce_most()
        return handle

    def _unpack(self, handle: Handle) -> Tensor:
        with torch.no_grad(), torch._C._DisableAutocast(), _disable_current_modes():
            return at_place(self._store.get(handle.content), handle.place)


def checkpointing(memory: Memory) -> Checkpointing:
    """Run training steps in little memory: `with thrifty.checkpointing("512MiB"): loss = ...; loss.backward()`.

    Args:
        memory: bytes ("512MiB") for all that the step makes below autograd, activations and gradients; a whole number
            keeps so many saved activations; "log" keeps 16.

    Returns:
        A context manager for one step or many; its attributes tell `peak_bytes`, `recomputed_ops` and so on. Gradients
        are those of the plain step, bit for bit.

    Raises:
        UsageError: None, or inside a derivative call.
        MemoryLimitError: while running, when the limit is too small.
        ReplayError: in backward, when a parameter or data changed since.
    """
    budget = parse_memory(memory)
    if budget is None:
        raise UsageError("checkpointing(None) would do nothing: give bytes as '512MiB', 'log' or a number")
    return Checkpointing(budget.limit_bytes, _LOG_CONTENTS if budget.logarithmic else budget.snapshots)
