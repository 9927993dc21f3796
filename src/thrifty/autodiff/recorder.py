"""Records the operations that really run, below torch.func and autograd, where plain tensors are seen.

A value is known by its storage and its place in it, so views, aliases and in-place operations need no special case: a
storage is a cell, every place in it that an operation read or made is a register. A cell dies with its storage, which a
weak reference tells; so the record holds nothing alive. What marks hold is counted out: a cell is also dead when they
are all that is left. Tensors that the run finds (parameters, data, closures) are external: held by reference, and
copied only if the run writes to them.

An operation that takes tensors and numbers and yields one new tensor goes the short way, through the one long function
here: its template is found by a number, made of the operator's and of the kinds of its arguments. All others go the
general way (`calls`), which is two to three times as long.
"""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from thrifty.autodiff.calls import Calls
from thrifty.autodiff.cells import Cell
from thrifty.autodiff.context import current
from thrifty.autodiff.levels import mark_escaped
from thrifty.autodiff.operations import Operation, known_operations, operation
from thrifty.autodiff.templates import LARGE_INT, Template


class Recorder(Calls, TorchDispatchMode):
    """Writes a Program down while it is the innermost dispatch mode."""

    def __init__(self, on_cut: Callable[[Any], None]) -> None:
        Calls.__init__(self, on_cut)
        TorchDispatchMode.__init__(self)
        self._short: dict[int, Template] = {}
        self._tell = self._dead.append

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the handler, at two microseconds a call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = known_operations.get(id(func)) or operation(func)
        if self._dead or self._suspects or self._limbo:
            self._bury()
        if kwargs or self._unset or not op.simple:
            return self._other(op, args, kwargs or {})
        if self._step_ops:
            self._watch_step()
        cells = self._cells
        inputs: list[int] = []
        numbers: list[float] = []
        active = False
        code = op.number
        for value in args:
            kind = type(value)
            if kind is Tensor or kind is Parameter:
                try:
                    cell = cells.get(id(value.untyped_storage()))
                except (RuntimeError, NotImplementedError):  # no plain storage, as the general way says
                    return self._general(op, args, {})
                if cell is not None and cell.seen() is value:
                    inputs.append(cell.base)
                else:
                    cell, register = self.find(value)
                    inputs.append(register)
                if cell.active:
                    active = True
                code = code * 4 + 1
            elif kind is float:
                numbers.append(value)
                code = code * 4 + 2
            elif kind is int and -LARGE_INT < value < LARGE_INT:
                numbers.append(value)
                code = code * 4 + 3
            else:
                return self._general(op, args, {})
        stops = current.stops
        if stops is None:
            stops = not torch.is_grad_enabled()
        if stops:
            active = False
            code = code * 4 + 2
        else:
            code = code * 4 + active
        result = op.call(*args)
        if self._dead:
            self._bury()
        template = self._short.get(code)
        if template is None:
            return self._first(op, code, args, result, active, stops)
        try:
            storage = result.untyped_storage()
        except (RuntimeError, NotImplementedError):
            return self._first(op, code, args, result, active, stops)
        key = id(storage)
        if key in cells:
            return self._first(op, code, args, result, active, stops)
        # A new storage: a cell of its own, as in Registers._new_cell.
        if self._free:
            register = heapq.heappop(self._free)
        else:
            register = self._registers
            self._registers = register + 1
        cells[key] = self._live[key] = cell = Cell(storage, self._tell)
        cell.key, cell.base, cell.seen = key, register, weakref.ref(result)
        dtype = result.dtype
        cell.place = result.size(), result.stride(), result.storage_offset(), dtype, result.is_conj(), result.is_neg()
        cell.active = active and (dtype.is_floating_point or dtype.is_complex)
        cell.nbytes = nbytes = storage.nbytes()
        cell.external, cell.since = False, self._taken
        cell.storage = cell.copy = cell.sights = cell.places = None
        live = self.live_bytes + nbytes
        self.live_bytes = live
        if live > self.peak_live_bytes:
            self.peak_live_bytes = live
        self.made_bytes += nbytes
        self._step_ops += 1
        program = self.program
        stream = program.stream
        stream.append(template.index)
        stream += inputs
        stream.append(register)
        if numbers:
            program.numbers += numbers
        program.block_ops += 1
        return result

    def _first(self, op: Operation, code: int, args: Any, result: Any, active: bool, stops: bool) -> Any:
        """Write down a call that the short way has no template for, or whose result is not a new storage."""
        template = self._write(op, self._read(args, {}), (), (result,), active, stops)
        if template is not None and template.aliases == (-1,):
            self._short[code] = template
        return result

    def forget_objects(self, results: list[Tensor]) -> None:
        """Mark tensors of the run that depend on its inputs and that somebody still holds, its results excepted."""
        cells = [c for c in self._live.values() if c.active and c.base not in self.written]
        mark_escaped([tensor for cell in cells for tensor in cell.tensors()], results)
        self._cells.clear()
        self._live.clear()
        self._viewed.clear()
