"""What is kept of the run while it is being recorded: marks, from which snapshots are made when it is over.

A mark holds cells, whose storages it keeps alive; taking one costs a copy of a small dictionary. Before the program
writes to a storage that marks hold, they are given a copy of its content (`Keeping.keep`), so a copy is made only where
it is needed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from thrifty.autodiff.cells import Cell, Place, tensor_on
from thrifty.autodiff.context import library_code
from thrifty.autodiff.registers import FIRST_EXTERNAL, Registers
from thrifty.autodiff.snapshot import Snapshot, whole_copy


class Mark:
    """The cells that are alive at the start of a step.

    Attributes:
        step: the step that starts here.
        cells: key -> cell.
        random: generator -> its state, for those that were drawn from.
        level: for the online rule; see `placement`.
        extra_bytes: of storages that the mark before it does not hold.
    """

    __slots__ = ("cells", "extra_bytes", "level", "random", "step")

    def __init__(self, step: int, cells: dict[int, Cell], random: dict[Any, Any]) -> None:
        self.step, self.cells, self.random = step, cells, random
        self.level = self.extra_bytes = 0

    def follow(self, before: Mark) -> int:
        """Count the bytes that this one holds beyond the one before it."""
        known = before.cells
        self.extra_bytes = sum([cell.nbytes for key, cell in self.cells.items() if known.get(key) is not cell])
        return self.extra_bytes


class Keeping(Registers):
    """Takes marks; a part of the Recorder.

    Attributes:
        snapshots: the marks that are held; the placement rule changes the list.
        initial: the mark at step 0.
        written: externals that the run wrote to, by the register they had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.initial = Mark(0, {}, {})
        self.snapshots: list[Mark] = [self.initial]
        self.written: dict[int, Tensor] = {}
        self._random: dict[Any, Any] = {}

    def snapshot(self) -> Mark:
        """The present state, between two operations."""
        taken = self._taken
        for cell in reversed(self._live.values()):
            if cell.since < taken:
                break
            cell.storage = cell()
            tensor = cell.seen()
            if tensor is not None:
                self._see(cell, tensor, cell.base)
            elif not cell.tensors():
                self._limbo.add(cell.key)
        self._taken = taken + 1
        cells = self._live.copy()
        if self._viewed:
            cells |= self._viewed
        return Mark(self.program.steps, cells, dict(self._random) if self._random else {})

    def keep(self, cell: Cell) -> None:
        """Before a write: give the marks that hold this content a copy of it."""
        base = cell.tensor(cell.base)
        copy = whole_copy(tensor_on(cell(), cell.place) if base is None else base)
        own = Cell(copy.untyped_storage())
        own.key, own.base, own.place, own.nbytes, own.active = cell.key, cell.base, cell.place, cell.nbytes, cell.active
        own.places = None if cell.places is None else dict(cell.places)
        own.external, own.since, own.storage, own.copy = False, -1, copy.untyped_storage(), copy
        own.seen, own.sights = weakref.ref(copy), None
        for mark in self.snapshots:
            if cell.external or mark.cells.get(cell.key) is cell:
                mark.cells[cell.key] = own
        if cell.external:
            for _, register, _ in cell.registers():
                if register >= FIRST_EXTERNAL:
                    self.written[register] = self.externals.pop(register)[0]
            cell.external = False
            self._live[cell.key] = cell
            self._viewed.pop(cell.key, None)
        cell.since = self._taken


def snapshots_of(marks: Sequence[Mark]) -> list[Snapshot]:
    """The marks as snapshots that can be replayed from."""
    known: dict[tuple[int, int], Tensor] = {}
    found = []
    for mark in marks:
        values: dict[int, Tensor] = {}
        roots: dict[int, int] = {}
        inactive: set[int] = set()
        for cell in mark.cells.values():
            for place, register, step in cell.registers():
                if register >= FIRST_EXTERNAL:
                    if cell.external:
                        continue
                elif step >= mark.step:
                    continue
                tensor = known.get((id(cell), register))
                if tensor is None:
                    tensor = known[id(cell), register] = _alias(cell, place, register)
                values[register] = tensor
                if register != cell.base:
                    roots[register] = cell.base
                if not cell.active:
                    inactive.add(register)
        found.append(Snapshot(mark.step, values, roots, inactive, mark.random))
    return found


def _alias(cell: Cell, place: Place, register: int) -> Tensor:
    """A tensor object of our own at this place. It shares its count of writes with a living tensor object."""
    tensor = cell.tensor(register)
    if tensor is None:
        return tensor_on(cell.storage if cell.storage is not None else cell(), place)
    # Unseen by the outer levels: they know values by their storage.
    with _disable_current_modes() if torch._C._len_torch_dispatch_stack() else library_code():
        return tensor.detach()
