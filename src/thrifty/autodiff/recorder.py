"""Records the operations that really run, below torch.func and autograd, where plain tensors are seen.

A value is known by its storage and its place in it, so views, aliases and in-place operations need no special case: a
storage is a cell, every place in it that an operation read or made is a register. A cell dies with its storage, which a
weak reference tells; so the record holds nothing alive. What marks hold is counted out: a cell is also dead when they
are all that is left. Tensors that the run finds (parameters, data, closures) are external: held by reference, and
copied only if the run writes to them.

An operation without peculiarities goes the short way, through the one long function here: its arguments make a key,
and where that is known and the result is one new tensor, all else is a few table look-ups. Views, writes, random
numbers and keywords go the general way (`calls`).
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

from thrifty.autodiff.calls import Calls, Read
from thrifty.autodiff.cells import Cell, place_of
from thrifty.autodiff.context import current
from thrifty.autodiff.levels import mark_escaped
from thrifty.autodiff.operations import Operation, flat_outputs, known_operations, operation
from thrifty.autodiff.templates import Template


class Recorder(Calls, TorchDispatchMode):
    """Writes a Program down while it is the innermost dispatch mode."""

    def __init__(self, on_cut: Callable[[Any], None]) -> None:
        Calls.__init__(self, on_cut)
        TorchDispatchMode.__init__(self)
        self._short: dict[tuple[Any, ...], Template] = {}
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
        known = self._cells
        inputs: list[int] = []
        cells: list[Cell] = []
        numbers: list[float] = []
        fixed: list[Any] = []
        active = False
        code = op.number
        for value in args:
            kind = type(value)
            if kind is Tensor or kind is Parameter:
                try:
                    cell = known.get(id(value.untyped_storage()))
                except (RuntimeError, NotImplementedError):  # no plain storage, as `find` says
                    cell = None
                if cell is not None and cell.seen() is value:
                    inputs.append(cell.base)
                else:
                    cell, register = self.find(value)
                    inputs.append(register)
                cells.append(cell)
                code = code * 8 + 1
            elif kind is float:
                numbers.append(value)
                code = code * 8 + 2
            else:
                code = code * 8 + self._argument(value, inputs, cells, numbers, fixed)
        stops = current.stops
        if stops is None:
            stops = not torch.is_grad_enabled()
        if not stops:
            for cell in cells:
                if cell.active:
                    active = True
                    break
        result = op.call(*args)
        if self._dead:
            self._bury()
        short = code, active, stops, *fixed
        try:
            template = self._short.get(short)
        except TypeError:  # something that cannot be kept, as `_write` says
            template = None
        if template is None:
            return self._first(op, short, args, Read(code, inputs, cells, numbers, fixed), result)
        storage = result.untyped_storage()
        key = id(storage)
        if key in known:
            return self._first(op, short, args, Read(code, inputs, cells, numbers, fixed), result)
        # A new storage: a cell of its own, as in Registers._new_cell.
        if self._free:
            register = heapq.heappop(self._free)
        else:
            register = self._registers
            self._registers = register + 1
        known[key] = self._live[key] = cell = Cell(storage, self._tell)
        cell.key, cell.base, cell.seen = key, register, weakref.ref(result)
        dtype = result.dtype
        if dtype.is_complex:
            cell.place = place_of(result)
        else:  # a new real tensor has no lazy sign
            cell.place = result.size(), result.stride(), result.storage_offset(), dtype, False, False
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

    def _first(self, op: Operation, short: tuple[Any, ...], args: Any, read: Read, result: Any) -> Any:
        """Write down a call that the short way has no template for, or whose result is not a new storage."""
        _, active, stops, *_ = short
        outputs = (result,) if isinstance(result, Tensor) else flat_outputs(result)
        template = self._write(op, args, {}, read, (), outputs, active, stops)
        if template is not None and op.one_tensor and template.aliases == (-1,):
            self._short[short] = template
        return result

    def forget_objects(self, results: list[Tensor]) -> None:
        """Mark tensors of the run that depend on its inputs and that somebody still holds, its results excepted."""
        cells = [c for c in self._live.values() if c.active and c.base not in self.written]
        mark_escaped([tensor for cell in cells for tensor in cell.tensors()], results)
        self._cells.clear()
        self._live.clear()
        self._viewed.clear()
