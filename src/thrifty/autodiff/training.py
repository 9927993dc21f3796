"""`with thrifty.checkpointing(memory=...)`: an ordinary training step whose saved activations stay within a limit.

The step runs as it stands, with its own autograd graph, `backward()` and optimizer. Below autograd every operation is
noted; what autograd saves is held here, in a handle. When the limit is reached, the contents that are cheapest to make
again per byte are let go; when backward asks for one, its operations are called again (`rematerialise`). Operations are
called, user code is not, so nothing is printed or counted twice; each gets the generator state it had and copies of
what it overwrote. Steps that repeat follow a plan (`planner`).
"""

from __future__ import annotations

import sys
from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from thrifty.autodiff.budget import Memory, parse_memory
from thrifty.autodiff.cells import place_of
from thrifty.autodiff.course import Course
from thrifty.autodiff.levels import inside_functorch, open_levels
from thrifty.autodiff.noting import Handle, Noting
from thrifty.autodiff.operations import flat_outputs, operation, user_line
from thrifty.autodiff.places import at_place
from thrifty.autodiff.planner import planner_for
from thrifty.autodiff.rematerialise import Rematerialiser
from thrifty.autodiff.reversal import BackwardAside
from thrifty.autodiff.sizes import result_bytes
from thrifty.core.errors import UsageError

_LOG_CONTENTS = 16


class Checkpointing(Noting, TorchDispatchMode):
    """See `checkpointing`."""

    def __init__(self, limit_bytes: int | None, most: int | None, line: str) -> None:
        TorchDispatchMode.__init__(self)
        store = Rematerialiser(limit_bytes, most)
        self._planner = planner_for(limit_bytes, line) if limit_bytes is not None else None
        Noting.__init__(self, store, Course(store, self._planner))
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._backward = BackwardAside(self, self._course.unseen)
        self._uncompiled: Any = None

    limit_bytes = property(lambda self: self._store.limit_bytes, doc="The limit in bytes, or None.")
    peak_bytes = property(lambda self: self._store.peak_bytes, doc="Most bytes of storages made by the steps.")
    recomputed_ops = property(lambda self: self._store.recomputed_ops, doc="Operations called again.")
    recomputed_s = property(lambda self: self._store.recomputed_s, doc="Their time, by estimate.")
    evicted = property(lambda self: self._store.evicted, doc="Contents let go.")
    plan = property(lambda self: self._planner.plan if self._planner else None, doc="The plan for the next step.")

    proven = property(lambda self: bool(self._planner and self._planner.proven), doc="The plan was seen to hold.")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the handler, at two microseconds a call

    def __enter__(self) -> Checkpointing:
        if inside_functorch() or open_levels():
            raise UsageError("checkpointing() is for ordinary training steps: give the derivative call memory= instead")
        if not self._store.handles:
            self._course.begin()
        if "torch._dynamo" in sys.modules:
            # Compiled code overwrites buffers of its own unseen, so that what was made from them could be made wrong.
            self._uncompiled = torch.compiler.set_stance("force_eager")
            self._uncompiled.__enter__()
        super().__enter__()
        self._backward.__enter__()
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._backward.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)
        if self._uncompiled is not None:
            self._uncompiled.__exit__(kind, error, trace)
            self._uncompiled = None
        if kind is None and self._course.over():
            self._course.end()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = operation(func)
        if op.silent or op.views:
            return func(*args, **kwargs) if kwargs else func(*args)
        store, course = self._store, self._course
        if store.near():
            store.make_room(result_bytes(op, args, kwargs))
        if torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled():
            # First-order backward: nothing will be made again from its results.
            result = func(*args, **kwargs) if kwargs else func(*args)
            for tensor in (result,) if isinstance(result, Tensor) else flat_outputs(result):
                if isinstance(tensor, Tensor):
                    store.count(tensor, gradient=True)
            course.counted_backward()
        else:
            if course.backward and not store.handles:
                course.end()
            if (
                course.script is not None
                and course.unnoted(op)
                and not (op.changes and self._followed(op, args, kwargs))
            ):
                result = func(*args, **kwargs) if kwargs else func(*args)
                self.operations += 1
                course.passed(result)
                return result
            node = self._note_before(op, args, kwargs) if op.changes or op.random else None
            start = perf_counter()
            result = func(*args, **kwargs) if kwargs else func(*args)
            seconds = perf_counter() - start
            outputs = (result,) if isinstance(result, Tensor) else flat_outputs(result)
            if node is None:
                # Noted after the call, for then views are known: they make nothing.
                cells = store.cells
                given = [id(one.untyped_storage()) for one in args if isinstance(one, Tensor)] if store.partly else ()
                for tensor in outputs:
                    if isinstance(tensor, Tensor):
                        key = id(tensor.untyped_storage())
                        if key not in cells and key not in given:
                            break
                else:
                    return result
                node = self._node(op, args, kwargs)
            node.cost_s = seconds
            self._note_results(node, outputs)
        if store.limit_bytes is not None and store.live_bytes > store.limit_bytes:
            store.make_room(0)
        return result

    # -- what autograd saves -------------------------------------------------------------------------------------

    def _pack(self, tensor: Tensor) -> Handle:
        content = self._content(tensor)
        if content.node is not None and content.node.operation.unset:
            content = self._filled(content, tensor)
        seen = content.seen
        place = content.place if seen is not None and seen() is tensor else place_of(tensor)
        handle = Handle(content, place, self._store, self._course.saves if content.node is not None else -1)
        if content.node is not None:
            keeps = self._course.keeps(content)
            if content.kept is None:
                if keeps:
                    self._store.keep(content, tensor.data, place)
                    self._store.enforce_most()
                else:
                    self._store.evicted += 1
        return handle

    def _unpack(self, handle: Handle) -> Tensor:
        content = handle.content
        self._course.reach(handle.at)
        kept = content.kept
        if kept is not None and content.node is not None:
            if content.kept_place == handle.place:
                return kept
            if not torch.is_grad_enabled():
                return at_place(kept, handle.place)
        elif kept is not None and content.places is not None and content.kept_place == handle.place:
            return kept
        with torch.no_grad(), torch._C._DisableAutocast(), _disable_current_modes():
            found = self._store.at_hand(content)
            return at_place(self._course.make(content) if found is None else found, handle.place)


def checkpointing(memory: Memory) -> Checkpointing:
    """Run training steps in little memory: `with thrifty.checkpointing("512MiB"): loss = ...; loss.backward()`.

    Args:
        memory: bytes ("512MiB") for all that a step makes below autograd, activations and gradients; a whole number
            keeps so many saved activations; "log" keeps 16.

    Returns:
        A context manager for one step or many; its attributes tell `peak_bytes`, `recomputed_ops` and so on. Gradients
        are those of the plain step, bit for bit. What torch.compile compiled runs uncompiled inside. Under a limit in
        bytes, the third of equal steps follows a plan; a loop that makes the context anew at each turn goes on with
        the plan. `peak_bytes` of a step that follows a proven plan is that of the step that proved it.

    Raises:
        UsageError: None, or inside a derivative call.
        MemoryLimitError: while running, when the limit is too small.
        ReplayError: in backward, when a parameter or data changed since.
    """
    budget = parse_memory(memory)
    if budget is None:
        raise UsageError("checkpointing(None) would do nothing: give bytes as '512MiB', 'log' or a number")
    return Checkpointing(budget.limit_bytes, _LOG_CONTENTS if budget.logarithmic else budget.snapshots, user_line())
