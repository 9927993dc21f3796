"""Writes down calls of every kind: several outputs, views, writes, random numbers, lists among the arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.cells import Cell, place_of
from thrifty.autodiff.context import derivatives_stop, in_library_code
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.operations import Operation, flat_outputs, operation, user_line, written_positions
from thrifty.autodiff.registers import FIRST_EXTERNAL, known_place
from thrifty.autodiff.stepping import Stepping
from thrifty.autodiff.templates import LARGE_INT, Form, Template, spec_of

_CLONE = torch.ops.aten.clone.default


class _Read:
    """The arguments of a call as the record sees them.

    Attributes:
        args, kwargs: as given.
        key: what tells its template from others, as far as the arguments do.
        inputs, cells: of its tensors. numbers: among its arguments.
    """

    __slots__ = ("args", "cells", "inputs", "key", "kwargs", "numbers")

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.key: list[Any] = [tuple(kwargs)]
        self.inputs: list[int] = []
        self.cells: list[Cell] = []
        self.numbers: list[float] = []


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
        read = self._read(args, kwargs)
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
        active = False
        if not stops and not op.fresh:
            for cell in cells:
                if cell.active:
                    active = True
                    break
            if active and op.underived is not None:
                raise ReplayError(f"{op.name} cannot be recorded: {op.underived} ({user_line()})")
        if op.is_detach:
            if cells[0].active:
                # A storage of its own, for derivatives are followed by storage.
                result = _CLONE(*args)
                self._write(operation(_CLONE), read, (), (result,), False, True)
                return result
            return op.call(*args)
        result = op.call(*args, **kwargs)
        if op.random:
            self._after_random()
        outputs = (result,) if isinstance(result, Tensor) else flat_outputs(result)
        self._write(op, read, writes, outputs, active, stops)
        return result

    def _read(self, args: Any, kwargs: dict[str, Any]) -> _Read:
        read = _Read(args, kwargs)
        for value in args:
            if isinstance(value, Tensor):  # the common case, for speed
                cell, register = self.find(value)
                read.cells.append(cell)
                read.inputs.append(register)
                read.key.append("tensor")
            else:
                self._argument(value, read)
        for value in kwargs.values():
            self._argument(value, read)
        return read

    def _argument(self, value: Any, read: _Read) -> None:
        """Take in an argument. What joins the key is told from what follows by its first entry."""
        kind = type(value)
        key = read.key
        if isinstance(value, Tensor):
            self._tensor(value, read)
            key.append("tensor")
        elif kind is float:
            read.numbers.append(value)
            key.append("float")
        elif kind is int and -LARGE_INT < value < LARGE_INT:
            read.numbers.append(value)
            key.append("int")
        elif kind in (list, tuple):
            if any(isinstance(item, Tensor) for item in value):
                for item in value:
                    if item is not None:
                        self._tensor(item, read)
                key += ("tensors", tuple(item is not None for item in value))
            else:
                # The text tells 0.0 from -0.0.
                key += (tuple(value), tuple(map(type, value)), str(value) if float in map(type, value) else None)
        else:
            key += (kind, value, str(value) if kind is complex else None)

    def _tensor(self, tensor: Tensor, read: _Read) -> None:
        cell, register = self.find(tensor)
        read.cells.append(cell)
        read.inputs.append(register)

    def _write(
        self, op: Operation, read: _Read, writes: tuple[int, ...], outputs: tuple[Any, ...], active: bool, stops: bool
    ) -> Template | None:
        """Give the new outputs registers and write the operation down. Returns its template, if it was written."""
        if self._dead:
            self._bury()
        if op.moves:
            tensors = [value for value in read.args if isinstance(value, Tensor)]
            for position in writes:
                self._move(read.cells[position], tensors[position], read.inputs[position])
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
                aliases.append(next(at for at, one in enumerate(read.cells) if one is cell))
            new.append(register)
            picks.append(at)
        if not new and not writes:
            return None
        if active:
            for position in writes:
                read.cells[position].active = True
        chosen = () if len(outputs) == 1 else tuple(picks)
        template = self._template(op, read, (len(new), chosen, tuple(aliases), writes, active, stops))
        self.program.append(template, read.inputs, new, read.numbers)
        self._step_ops += 1
        return template

    def _template(self, op: Operation, read: _Read, rest: tuple[Any, ...]) -> Template:
        key = (op, rest, *read.key)
        try:
            found = self._by_call.get(key)
        except TypeError:
            raise ReplayError(f"{op.name} has an argument that cannot be kept in the record ({user_line()})") from None
        if found is None:
            form = Form(spec_of(read.args, read.kwargs), len(read.inputs), *rest)
            found = self._by_call[key] = self.program.template(op, form, user_line())
        return found

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
        read = self._read(args, kwargs)
        stops = derivatives_stop()
        active = not stops and any(cell.active for cell in read.cells)
        self._write(op, read, (), outputs, active, stops)
