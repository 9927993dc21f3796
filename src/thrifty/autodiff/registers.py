"""Gives the tensors that a recorded run meets registers, for as long as they live."""

from __future__ import annotations

import heapq
import weakref
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.cells import Cell, Death, only_snapshots, place_of
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.operations import operation, user_line
from thrifty.autodiff.program import FIXED, INT, TENSOR, FixedList, Form, Program
from thrifty.autodiff.snapshot import version_of

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
        self._live: dict[int, Cell] = {}
        self._viewed: dict[int, Cell] = {}  # externals with views that the run made
        self._dead: list[Death] = []
        self._suspects: list[Death] = []
        self._limbo: set[int] = set()
        self._unset: set[int] = set()  # cells that nothing has been written to
        self._free: list[int] = []
        self._registers = self._externals_met = 0

    def _take_register(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._registers += 1
        return self._registers - 1

    def _new_cell(self, storage: Any, tensor: Tensor, active: bool) -> int:
        register = self._take_register()
        key = id(storage)
        death = Death(storage, self._dead.append)
        death.key = key
        nbytes = storage.nbytes()
        differentiable = tensor.is_floating_point() or tensor.is_complex()
        cell = Cell(death, register, tensor, nbytes, active and differentiable, False)
        self._cells[key] = self._live[key] = cell
        self.live_bytes += nbytes
        self.made_bytes += nbytes
        if self.live_bytes > self.peak_live_bytes:
            self.peak_live_bytes = self.live_bytes
        return register

    def _new_view(self, cell: Cell, tensor: Tensor) -> int:
        register = self._take_register()
        cell.places[place_of(tensor)] = register
        cell.tensors[register] = weakref.ref(tensor)
        if cell.external:
            self._viewed[cell.death.key] = cell
        return register

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
        register = cell.places.get(place_of(tensor))
        if register is None:
            register = self._new_external_view(cell, tensor) if cell.external else self._derive_view(cell, tensor)
        return cell, register

    def add_input(self, tensor: Tensor) -> int:
        """Make a tensor, which must have a storage of its own, a differentiated input. Returns its register."""
        _, register = self._new_external(tensor.untyped_storage(), tensor, active=True)
        self.inputs.add(register)
        return register

    def _new_external(self, storage: Any, tensor: Tensor, active: bool) -> tuple[Cell, int]:
        register = self._external_register(tensor)
        key = id(storage)
        death = Death(storage, self._dead.append)
        death.key = key
        cell = Cell(death, register, tensor, storage.nbytes(), active, True)
        self._cells[key] = cell
        return cell, register

    def _new_external_view(self, cell: Cell, tensor: Tensor) -> int:
        register = self._external_register(tensor)
        cell.places[place_of(tensor)] = register
        cell.tensors[register] = weakref.ref(tensor)
        return register

    def _external_register(self, tensor: Tensor) -> int:
        register = FIRST_EXTERNAL + self._externals_met
        self._externals_met += 1
        self.externals[register] = (tensor, version_of(tensor), user_line())
        return register

    def _derive_view(self, cell: Cell, tensor: Tensor) -> int:
        register = self._new_view(cell, tensor)
        base = cell.tensors[cell.base]()
        if base is not None and base.dtype != tensor.dtype:
            raise ReplayError(f"a view of another dtype was made outside of torch's dispatcher ({user_line()})")
        fixed = [(None, FIXED, FixedList(tuple(v), (int,) * tensor.dim())) for v in (tensor.size(), tensor.stride())]
        spec = ((None, TENSOR, None), *fixed, (None, INT, None))
        form = Form(spec, 1, 1, (), (0,), (), cell.active, False)
        template = self.program.template(operation(_AS_STRIDED), form, user_line)
        self.program.append(template, [cell.base], [register], [int(tensor.storage_offset())])
        return register

    def _bury(self) -> None:
        """Free the registers of storages that have died, or that only snapshots hold."""
        while self._dead:
            death = self._dead.pop()
            cell = self._cells.get(death.key)
            if cell is not None and cell.death is death:
                self._drop(death.key, cell)
        while self._suspects:
            death = self._suspects.pop()
            cell = self._cells.get(death.key)
            if cell is not None and cell.watch is death:
                self._limbo.add(death.key)
        for key in list(self._limbo):
            cell = self._cells.get(key)
            if cell is None:
                self._limbo.discard(key)
            elif only_snapshots(cell):
                self._drop(key, cell)

    def _drop(self, key: int, cell: Cell) -> None:
        del self._cells[key]
        self._limbo.discard(key)
        self._unset.discard(key)
        if self._live.pop(key, None) is not None:
            self.live_bytes -= cell.nbytes
        for register in cell.tensors:
            self.program.free(register)
            if register < FIRST_EXTERNAL:
                heapq.heappush(self._free, register)
