"""Writes down calls of every kind: several outputs, views, writes, random numbers, lists among the arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from thrifty.autodiff.cells import Cell, place_of
from thrifty.autodiff.context import derivatives_stop, in_library_code
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.operations import Operation, flat_outputs, operation, user_line, written_positions
from thrifty.autodiff.registers import FIRST_EXTERNAL, known_place
from thrifty.autodiff.stepping import Stepping
from thrifty.autodiff.templates import LARGE_INT, Form, Template, spec_of

_CLONE = torch.ops.aten.clone.default
_CLONED = operation(_CLONE)


class Read:
    """The arguments of a call as the record sees them.

    Attributes:
        inputs, cells: of its tensors. numbers: among its arguments.
        code: the operator's number and the kinds of the arguments, an octal digit each.
        fixed: the other arguments, as they tell one call from another.
    """

    __slots__ = ("cells", "code", "fixed", "inputs", "numbers")

    def __init__(self, code: int, inputs: list[int], cells: list[Cell], numbers: list[float], fixed: list[Any]) -> None:
        self.code, self.inputs, self.cells, self.numbers, self.fixed = code, inputs, cells, numbers, fixed


class Calls(Stepping):
    """The general way to write a call down; a part of the Recorder."""

    def _other(self, op: Operation, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run and record a call that has a peculiarity."""
        if op.silent or (op.is_detach and in_library_code()):
            return op.call(*args, **kwargs)
        if op.refusal is not None:
            raise ReplayError(f"{op.name} cannot be recorded, because {op.refusal} ({user_line()})")
        if self._step_ops:
            self._watch_step()
        return self._general(op, args, kwargs)

    def _general(self, op: Operation, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run and record any call that can be recorded."""
        read = self._read(op, args, kwargs)
        cells = read.cells
        writes: tuple[int, ...] = ()
        if op.changes:
            writes = written_positions(op, args, kwargs)
            for position in writes:
                cell = cells[position]
                if cell.since < self._taken:
                    self.keep(cell)
                self._unset.discard(cell.key)
        elif self._unset:
            self._check_set(op, cells)
        if op.random:
            self._before_random(args, kwargs)
        stops = derivatives_stop()
        active = not stops and not op.fresh and any([cell.active for cell in cells])
        if active and op.underived is not None:
            raise ReplayError(f"{op.name} cannot be recorded: {op.underived} ({user_line()})")
        if op.is_detach:
            if cells[0].active:
                # A storage of its own, for derivatives are followed by storage.
                result = _CLONE(*args)
                self._write(_CLONED, args, kwargs, read, (), (result,), False, True)
                return result
            return op.call(*args)
        result = op.call(*args, **kwargs)
        if op.random:
            self._after_random()
        outputs = (result,) if isinstance(result, Tensor) else flat_outputs(result)
        self._write(op, args, kwargs, read, writes, outputs, active, stops)
        return result

    def _read(self, op: Operation, args: Any, kwargs: dict[str, Any]) -> Read:
        read = Read(op.number, [], [], [], [])
        for value in args:
            read.code = read.code * 8 + self._argument(value, read.inputs, read.cells, read.numbers, read.fixed)
        if kwargs:
            read.fixed.append(tuple(kwargs))
            for value in kwargs.values():
                read.code = read.code * 8 + self._argument(value, read.inputs, read.cells, read.numbers, read.fixed)
        return read

    def _argument(
        self, value: Any, inputs: list[int], cells: list[Cell], numbers: list[float], fixed: list[Any]
    ) -> int:
        """Take in an argument. Returns its kind, from 1 to 7."""
        kind = type(value)
        if isinstance(value, Tensor):
            cell, register = self.find(value)
            cells.append(cell)
            inputs.append(register)
            return 1
        if kind is float:
            numbers.append(value)
            return 2
        if kind is int and -LARGE_INT < value < LARGE_INT:
            numbers.append(value)
            return 3
        if kind is list or kind is tuple:
            types = tuple(map(type, value))
            if Tensor in types or Parameter in types or any(isinstance(item, Tensor) for item in value):
                for item in value:
                    if item is not None:
                        cell, register = self.find(item)
                        cells.append(cell)
                        inputs.append(register)
                fixed.append(tuple([item is not None for item in value]))
                return 4
            # The text tells 0.0 from -0.0.
            fixed += (tuple(value), types, str(value)) if float in types else (tuple(value), types)
            return 6 if float in types else 5
        fixed += (kind, value, str(value)) if kind is complex else (kind, value)
        return 7

    def _write(
        self, op: Operation, args: Any, kwargs: dict[str, Any], read: Read, writes: tuple[int, ...],
        outputs: tuple[Any, ...], active: bool, stops: bool,
    ) -> Template | None:  # fmt: skip
        """Give the new outputs registers and write the operation down. Returns its template, if it was written."""
        if self._dead:
            self._bury()
        cells = read.cells
        if op.moves:
            tensors = [value for value in args if isinstance(value, Tensor)]
            for position in writes:
                self._move(cells[position], tensors[position], read.inputs[position])
        new: list[int] = []
        picks: list[int] = []
        aliases: list[int] = []
        for at, tensor in enumerate(outputs):
            if not isinstance(tensor, Tensor):
                continue
            try:
                storage = tensor.untyped_storage()
            except (RuntimeError, NotImplementedError):
                raise ReplayError(
                    f"{op.name} makes a {tensor.layout} tensor, which has no plain storage to record ({user_line()})"
                ) from None
            cell = self._cells.get(id(storage))
            if cell is None:
                register = self._new_cell(storage, tensor, active)
                aliases.append(-1)
                if op.unset and tensor.numel():
                    self._unset.add(id(storage))
            else:
                place = place_of(tensor)
                known = known_place(cell, place)
                if known is None:
                    register = self._new_view(cell, tensor, place)
                elif writes or known == cell.base or known in read.inputs or known >= FIRST_EXTERNAL:
                    continue
                else:
                    # A view taken anew: its cotangent joins the base's where autograd would add it.
                    register = known
                    self._see(cell, tensor, register)
                alias = 0
                while cells[alias] is not cell:
                    alias += 1
                aliases.append(alias)
            new.append(register)
            picks.append(at)
        if not new and not writes:
            return None
        if active:
            for position in writes:
                cells[position].active = True
        chosen = () if len(outputs) == 1 else tuple(picks)
        rest = len(new), chosen, tuple(aliases), writes, active, stops
        key = (read.code, rest, *read.fixed)
        try:
            template = self._by_call.get(key)
        except TypeError:
            raise ReplayError(f"{op.name} has an argument that cannot be kept in the record ({user_line()})") from None
        if template is None:
            form = Form(spec_of(args, kwargs), len(read.inputs), *rest)
            template = self._by_call[key] = self.program.template(op, form, user_line())
        self.program.append(template, read.inputs, new, read.numbers)
        self._step_ops += 1
        return template

    def _check_set(self, op: Operation, cells: list[Cell]) -> None:
        if not op.views and any(cell.key in self._unset for cell in cells):
            raise ReplayError(
                f"{op.name} reads memory that no recorded operation wrote to ({user_line()}): what NumPy or compiled "
                "code writes into torch.empty cannot be replayed; put that into a torch.library.custom_op"
            )

    def note_call(self, op: Operation, args: Any, kwargs: Any, outputs: tuple[Any, ...]) -> None:
        """Write down a call that ran unseen, as one operation."""
        if self._dead or self._suspects or self._limbo:
            self._bury()
        if self._step_ops:
            self._watch_step()
        read = self._read(op, args, kwargs)
        stops = derivatives_stop()
        active = not stops and any(cell.active for cell in read.cells)
        self._write(op, args, kwargs, read, (), outputs, active, stops)
