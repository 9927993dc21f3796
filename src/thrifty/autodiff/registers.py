"""Gives the tensors that a recorded run meets registers, for as long as they live."""

from __future__ import annotations

import heapq
import weakref
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.cells import Cell, Place, Sight, place_of
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.operations import operation, user_line
from thrifty.autodiff.program import Program
from thrifty.autodiff.snapshot import version_of
from thrifty.autodiff.templates import FIXED, INT, TENSOR, FixedList, Form, Template

_AS_STRIDED = torch.ops.aten.as_strided.default
FIRST_EXTERNAL = 1 << 24  # registers of externals are never used again: they hold from the first step on


class Registers:
    """Cells and their registers; a part of the Recorder.

    Attributes:
        program: the record, which is told when a register is free.
        externals: register -> (tensor, its version, the line that read it first).
        inputs: registers of the differentiated inputs.
        live_bytes, peak_live_bytes: of storages that the run made.
        made_bytes: of storages made since the step began.
    """

    def __init__(self) -> None:
        self.program = Program()
        self.externals: dict[int, tuple[Tensor, int, str]] = {}
        self.inputs: set[int] = set()
        self.live_bytes = self.peak_live_bytes = self.made_bytes = 0
        self._cells: dict[int, Cell] = {}
        self._live: dict[int, Cell] = {}  # made by the run, the newest last
        self._viewed: dict[int, Cell] = {}  # externals with views that the run made
        self._dead: list[Cell] = []
        self._suspects: list[Sight] = []
        self._limbo: set[int] = set()
        self._unset: set[int] = set()  # cells that nothing has been written to
        self._free: list[int] = []
        self._registers = self._externals_met = 0
        self._taken = 0  # marks so far
        self._by_call: dict[Any, Template] = {}

    def find(self, tensor: Tensor) -> tuple[Cell, int]:
        """The cell and the register of a tensor; one that the record has not met is external."""
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):
            raise ReplayError(
                f"a {tensor.layout} tensor has no plain storage to record: convert it with .to_dense() ({user_line()})"
            ) from None
        cell = self._cells.get(id(storage))
        if cell is None:
            return self._new_external(storage, tensor, active=False)
        if cell.seen() is tensor:
            return cell, cell.base
        if cell.sights:
            sight = cell.sights.get(id(tensor))
            if sight is not None and sight() is tensor:
                return cell, sight.register
        place = place_of(tensor)
        known = known_place(cell, place)
        if known is not None:
            self._see(cell, tensor, known)
            return cell, known
        return cell, self._new_external_view(cell, tensor) if cell.external else self._derive_view(cell, tensor, place)

    def add_input(self, tensor: Tensor) -> int:
        """Make a tensor, which must have a storage of its own, a differentiated input. Returns its register."""
        _, register = self._new_external(tensor.untyped_storage(), tensor, active=True)
        self.inputs.add(register)
        return register

    def _new_cell(self, storage: Any, tensor: Tensor, active: bool) -> int:
        """A cell for what the run has made. Returns its register."""
        register = self._take_register()
        nbytes = storage.nbytes()
        differentiable = tensor.is_floating_point() or tensor.is_complex()
        cell = self._make(storage, tensor, register, nbytes, active and differentiable, False)
        self._live[cell.key] = cell
        self.live_bytes += nbytes
        self.made_bytes += nbytes
        if self.live_bytes > self.peak_live_bytes:
            self.peak_live_bytes = self.live_bytes
        return register

    def _make(self, storage: Any, tensor: Tensor, register: int, nbytes: int, active: bool, external: bool) -> Cell:
        cell = Cell(storage, self._dead.append)
        cell.key = key = id(storage)
        cell.base, cell.place, cell.seen = register, place_of(tensor), weakref.ref(tensor)
        cell.nbytes, cell.active, cell.external = nbytes, active, external
        cell.since = -1 if external else self._taken
        cell.storage = cell.copy = cell.sights = cell.places = None
        self._cells[key] = cell
        return cell

    def _take_register(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._registers += 1
        return self._registers - 1

    def _new_view(self, cell: Cell, tensor: Tensor, place: Place) -> int:
        register = self._take_register()
        self._add_place(cell, tensor, place, register)
        if cell.external:
            self._viewed[cell.key] = cell
        return register

    def _add_place(self, cell: Cell, tensor: Tensor, place: Place, register: int) -> None:
        if cell.places is None:
            cell.places = {cell.place: (cell.base, -1)}
        cell.places[place] = register, self.program.steps
        self._see(cell, tensor, register)

    def _see(self, cell: Cell, tensor: Tensor, register: int) -> None:
        """From now on this tensor object is known by the register."""
        if cell.sights is None:
            cell.sights = {}
        sight = Sight(tensor, self._suspects.append)
        sight.key, sight.of, sight.register = cell.key, id(tensor), register
        cell.sights[sight.of] = sight

    def _new_external(self, storage: Any, tensor: Tensor, active: bool) -> tuple[Cell, int]:
        register = self._external_register(tensor)
        return self._make(storage, tensor, register, storage.nbytes(), active, True), register

    def _new_external_view(self, cell: Cell, tensor: Tensor) -> int:
        register = self._external_register(tensor)
        self._add_place(cell, tensor, place_of(tensor), register)
        return register

    def _external_register(self, tensor: Tensor) -> int:
        register = FIRST_EXTERNAL + self._externals_met
        self._externals_met += 1
        self.externals[register] = (tensor, version_of(tensor), user_line())
        return register

    def _derive_view(self, cell: Cell, tensor: Tensor, place: Place) -> int:
        if cell.place[3] != tensor.dtype:
            raise ReplayError(f"a view of another dtype was made outside of torch's dispatcher ({user_line()})")
        register = self._new_view(cell, tensor, place)
        size, stride = tuple(tensor.size()), tuple(tensor.stride())
        key = ("derived", size, stride, cell.active)
        template = self._by_call.get(key)
        if template is None:
            fixed = [(None, FIXED, FixedList(one, (int,) * tensor.dim())) for one in (size, stride)]
            form = Form(((None, TENSOR, None), *fixed, (None, INT, None)), 1, 1, (), (0,), (), cell.active, False)
            template = self._by_call[key] = self.program.template(operation(_AS_STRIDED), form, user_line())
        self.program.append(template, [cell.base], [register], [int(tensor.storage_offset())])
        return register

    def _move(self, cell: Cell, tensor: Tensor, register: int) -> None:
        """The tensor object of this register has changed its place, by `t_` or its like."""
        known = cell.places if cell.places is not None else {cell.place: (cell.base, -1)}
        places = {place: entry for place, entry in known.items() if entry[0] != register}
        steps = [step for one, step in known.values() if one == register]
        place = place_of(tensor)
        # Where another register has that place it keeps it; this one is then known by its object alone.
        places[place if place not in places else (*place, register)] = register, steps[0]
        cell.places = places
        if register == cell.base:
            cell.place = place

    # -- deaths --------------------------------------------------------------------------------------------------

    def _bury(self) -> None:
        """Free the registers of storages that have died, or that only snapshots hold."""
        dead, suspects, cells = self._dead, self._suspects, self._cells
        while dead:
            gone = dead.pop()
            if cells.get(gone.key) is gone:
                self._drop(gone)
        while suspects:
            sight = suspects.pop()
            cell = cells.get(sight.key)
            if cell is None:
                continue
            if cell.sights and cell.sights.get(sight.of) is sight:
                del cell.sights[sight.of]
            if cell.storage is not None:  # one that no snapshot holds tells of its death itself
                if cell.only_held():
                    self._drop(cell)
                elif not cell.tensors():
                    self._limbo.add(cell.key)
        if self._limbo:
            self._look_at_limbo()

    def _look_at_limbo(self) -> None:
        """Storages that something unknown shares, an alias made unseen for example: look again."""
        for key in list(self._limbo):
            cell = self._cells.get(key)
            if cell is None or cell.storage is None or cell.tensors():
                self._limbo.discard(key)
            elif cell.only_held():
                self._drop(cell)

    def _drop(self, cell: Cell) -> None:
        key = cell.key
        del self._cells[key]
        if self._limbo:
            self._limbo.discard(key)
        if self._unset:
            self._unset.discard(key)
        if self._live.pop(key, None) is not None:
            self.live_bytes -= cell.nbytes
        cell.sights = None
        stream = self.program.stream
        if cell.places is None:
            register = cell.base
            stream.append(-1 - register)
            if register < FIRST_EXTERNAL:
                heapq.heappush(self._free, register)
            return
        for register, _ in cell.places.values():
            stream.append(-1 - register)
            if register < FIRST_EXTERNAL:
                heapq.heappush(self._free, register)


def known_place(cell: Cell, place: Place) -> int | None:
    """The register of this place in a cell, if there is one."""
    if cell.places is None:
        return cell.base if place == cell.place else None
    found = cell.places.get(place)
    return found[0] if found is not None else None
