"""Records the operations that really run, below torch.func and autograd, where plain tensors are seen.

A value is known by its storage and its place in it, so views, aliases and in-place operations need no special case: a
storage is a cell, every place in it that an operation read or made is a register. A cell dies with its storage, which a
weak reference tells; so the record holds nothing alive. What snapshots hold are aliases of their own, which are counted
out: a cell is also dead when they are all that is left. Tensors that the run finds (parameters, data, closures) are
external: held by reference, and copied only if the run writes to them.

A step ends before an operation at which no more bytes are alive than at any of the last `WINDOW` ones: at the turn of a
loop rather than in its middle. A long step ends where few are alive beside what it has made.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from thrifty.autodiff.cells import Cell, Death, Place, place_of, tensor_on
from thrifty.autodiff.context import derivatives_stop, in_library_code, library_code
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.levels import mark_escaped
from thrifty.autodiff.operations import Operation, flat_outputs, operation, user_line, written_positions
from thrifty.autodiff.program import FIXED, FLOAT, INT, TENSOR, TENSORS, FixedList
from thrifty.autodiff.registers import FIRST_EXTERNAL, Registers
from thrifty.autodiff.snapshot import Snapshot, generator_of, same_place, whole_copy

WINDOW = 64
LONG_STEP = 16
_CLONE = torch.ops.aten.clone.default
_LARGE_INT = 1 << 53
_A_TENSOR = (None, TENSOR, None)


class Recorder(Registers, TorchDispatchMode):
    """Writes a Program down while it is the innermost dispatch mode.

    Attributes:
        snapshots: those that are held; the placement rule changes the list.
        initial: the state at step 0.
        on_cut: called at the end of every step with this recorder; keeps snapshots.
        written: externals that the run wrote to, by the register they had.
        largest_step_bytes: most bytes made in a step.
    """

    def __init__(self, on_cut: Callable[[Recorder], None]) -> None:
        Registers.__init__(self)
        TorchDispatchMode.__init__(self)
        self.on_cut = on_cut
        self.initial = Snapshot(0, {}, {}, set(), {})
        self.snapshots: list[Snapshot] = [self.initial]
        self.largest_step_bytes = 0
        self.written: dict[int, Tensor] = {}
        self._random: dict[Any, Any] = {}
        self._generator: Any = None
        self._step_ops = 0
        self._floor = [1 << 62, 1 << 62]
        self._window = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the handler, at two microseconds a call

    # -- the mode ------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = operation(func)
        if op.silent or (op.is_detach and in_library_code()):
            return func(*args, **kwargs) if kwargs else func(*args)
        if op.refusal is not None:
            raise ReplayError(f"{op.name} cannot be recorded, because {op.refusal} ({user_line()})")
        if self._dead or self._suspects or self._limbo:
            self._bury()
        self._watch_step()
        inputs: list[int] = []
        numbers: list[float] = []
        cells: list[Cell] = []
        spec: list[Any] = []
        for value in args:
            if isinstance(value, Tensor):  # the common case, for speed
                cell, register = self.find(value)
                cells.append(cell)
                inputs.append(register)
                spec.append(_A_TENSOR)
            else:
                self._argument(None, value, spec, inputs, cells, numbers)
        if kwargs:
            for name, value in kwargs.items():
                self._argument(name, value, spec, inputs, cells, numbers)
        writes: tuple[int, ...] = ()
        if op.writes_by_name or op.writes:
            writes = written_positions(op, args, kwargs)
            for position in writes:
                if cells[position].held:
                    self._keep(cells[position])
                self._unset.discard(cells[position].death.key)
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
            cell = cells[0]
            if cell.active:
                # A storage of its own, for derivatives are followed by storage.
                result = _CLONE(*args)
                self._write(operation(_CLONE), spec, inputs, numbers, cells, (), (result,), False, True)
                return result
            return func(*args)
        result = func(*args, **kwargs) if kwargs else func(*args)
        if op.random:
            self._after_random()
        outputs = (result,) if isinstance(result, Tensor) else flat_outputs(result)
        self._write(op, spec, inputs, numbers, cells, writes, outputs, active, stops)
        return result

    def _argument(
        self, name: str | None, value: Any, spec: list[Any], inputs: list[int], cells: list[Cell], numbers: list[float]
    ) -> None:
        kind = type(value)
        if isinstance(value, Tensor):
            cell, register = self.find(value)
            cells.append(cell)
            inputs.append(register)
            spec.append((name, TENSOR, None))
        elif kind is float:
            numbers.append(value)
            spec.append((name, FLOAT, None))
        elif kind is int and -_LARGE_INT < value < _LARGE_INT:
            numbers.append(value)
            spec.append((name, INT, None))
        elif kind in (list, tuple):
            if any(isinstance(item, Tensor) for item in value):
                present = []
                for item in value:
                    present.append(item is not None)
                    if item is not None:
                        cell, register = self.find(item)
                        cells.append(cell)
                        inputs.append(register)
                spec.append((name, TENSORS, tuple(present)))
            else:
                spec.append((name, FIXED, FixedList(tuple(value), tuple(map(type, value)))))
        else:
            spec.append((name, FIXED, value))

    def _write(
        self, op: Operation, spec: list[Any], inputs: list[int], numbers: list[float], cells: list[Cell],
        writes: tuple[int, ...], outputs: tuple[Any, ...], active: bool, stops: bool,
    ) -> None:  # fmt: skip
        """Give the new outputs registers and write the operation down."""
        if self._dead:
            self._bury()
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
                known = cell.places.get(place_of(tensor))
                if known is None:
                    register = self._new_view(cell, tensor)
                elif writes or known == cell.base or known in inputs or known >= FIRST_EXTERNAL:
                    continue
                else:
                    # A view taken anew: its cotangent joins the base's where autograd would add it.
                    register = known
                    cell.tensors[register] = weakref.ref(tensor)
                aliases.append(cells.index(cell))
            new.append(register)
            picks.append(at)
        if not new and not writes:
            return
        if active:
            for position in writes:
                cells[position].active = True
        # A Form, as a plain tuple for speed.
        form = (
            tuple(spec), len(inputs), len(new), () if len(outputs) == 1 else tuple(picks), tuple(aliases), writes,
            active, stops,
        )  # fmt: skip
        try:
            template = self.program.template(op, form, user_line)
        except TypeError:
            raise ReplayError(f"{op.name} has an argument that cannot be kept in the record ({user_line()})") from None
        self.program.append(template, inputs, new, numbers)
        self._step_ops += 1

    def _check_set(self, op: Operation, cells: list[Cell]) -> None:
        if not op.views and any(cell.death.key in self._unset for cell in cells):
            raise ReplayError(
                f"{op.name} reads memory that no recorded operation wrote to ({user_line()}): what NumPy or compiled "
                "code writes into torch.empty cannot be replayed; put that into a torch.library.custom_op"
            )

    def note_call(self, op: Operation, args: Any, kwargs: Any, outputs: tuple[Any, ...]) -> None:
        """Write down a call that ran unseen, as one operation."""
        if self._dead or self._suspects or self._limbo:
            self._bury()
        self._watch_step()
        inputs: list[int] = []
        numbers: list[float] = []
        cells: list[Cell] = []
        spec: list[Any] = []
        for value in args:
            self._argument(None, value, spec, inputs, cells, numbers)
        for name, value in kwargs.items():
            self._argument(name, value, spec, inputs, cells, numbers)
        stops = derivatives_stop()
        active = not stops and any(cell.active for cell in cells)
        self._write(op, spec, inputs, numbers, cells, (), outputs, active, stops)

    # -- steps, snapshots, writes, random numbers ----------------------------------------------------------------

    def _watch_step(self) -> None:
        """End the step here if few bytes are alive."""
        if not self._step_ops:
            return
        live, floor = self.live_bytes, self._floor
        if live < floor[1]:
            floor[1] = live
        least = min(floor)
        if live <= least or (self._step_ops >= LONG_STEP and 3 * live <= self.made_bytes):
            self._step_ops = 0
            self.program.cut()
            self.largest_step_bytes = max(self.largest_step_bytes, self.made_bytes)
            self.made_bytes = 0
            self.on_cut(self)
        self._window += 1
        if self._window >= WINDOW:
            floor[0], floor[1], self._window = floor[1], live, 0

    def snapshot(self) -> Snapshot:
        """The present state, between two operations."""
        values: dict[int, Tensor] = {}
        roots: dict[int, int] = {}
        inactive: set[int] = set()
        for key, cell in (*self._live.items(), *self._viewed.items()):
            storage = cell.death()
            if storage is None:
                continue
            cell.held = True
            for place, register in cell.places.items():
                if cell.external and register >= FIRST_EXTERNAL:
                    continue
                values[register] = self._alias(key, cell, storage, place, register)
                if register != cell.base:
                    roots[register] = cell.base
                if not cell.active:
                    inactive.add(register)
        return Snapshot(self.program.steps, values, roots, inactive, dict(self._random))

    def _alias(self, key: int, cell: Cell, storage: Any, place: Place, register: int) -> Tensor:
        """A tensor object of our own at this place; the same one for all snapshots."""
        known = cell.kept.get(register)
        alias = known() if known is not None else None
        if alias is None:
            tensor = cell.tensors[register]()
            if tensor is None:
                alias = tensor_on(storage, place)
                self._limbo.add(key)
            else:
                # Unseen by the outer levels: they know values by their storage.
                with _disable_current_modes() if torch._C._len_torch_dispatch_stack() else library_code():
                    alias = tensor.detach()
                if cell.watch is None:
                    cell.watch = Death(tensor, self._suspects.append)
                    cell.watch.key = key
            cell.kept[register] = weakref.ref(alias)
        return alias

    def _keep(self, cell: Cell) -> None:
        """Before a write: give the snapshots that hold this content a copy of it."""
        storage = cell.death()
        assert storage is not None
        places = {register: place for place, register in cell.places.items()}
        base = cell.tensors[cell.base]()
        copy = whole_copy(tensor_on(storage, places[cell.base]) if base is None else base)
        for snapshot in self.snapshots:
            if cell.external:
                for register in places:
                    found = self.externals[register][0] if register >= FIRST_EXTERNAL else snapshot.values.get(register)
                    if found is not None:
                        snapshot.add(register, same_place(found, copy), cell.base, cell.active)
            elif cell.base in snapshot.values and snapshot.values[cell.base].untyped_storage() is storage:
                snapshot.keep_before_write(places, copy)
        if cell.external:
            for register in places:
                if register >= FIRST_EXTERNAL:
                    self.written[register] = self.externals.pop(register)[0]
            cell.external = False
            self._live[cell.death.key] = cell
            self._viewed.pop(cell.death.key, None)
        cell.held = False

    def _before_random(self, args: Any, kwargs: Any) -> None:
        values = [*args, *(kwargs or {}).values()]
        given = next((value for value in values if isinstance(value, torch.Generator)), None)
        tensors = [value for value in values if isinstance(value, Tensor)]
        device = tensors[0].device if tensors else torch.device((kwargs or {}).get("device") or "cpu")
        self._generator = generator_of(device, given)
        state = self._generator.get_state()
        last = self._random.get(self._generator)
        if last is None or not _same_state(last, state):
            self.program.set_random(self._generator, state)

    def _after_random(self) -> None:
        self._random[self._generator] = self._generator.get_state()

    def close(self) -> None:
        """End the record."""
        self._bury()
        self.program.close()
        self.largest_step_bytes = max(self.largest_step_bytes, self.made_bytes)

    def forget_objects(self, results: list[Tensor]) -> None:
        """Mark tensors of the run that depend on its inputs and that somebody still holds, its results excepted."""
        cells = [c for c in self._live.values() if c.active and c.base not in self.written]
        tensors = [reference() for cell in cells for reference in cell.tensors.values()]
        mark_escaped([tensor for tensor in tensors if tensor is not None], results)
        self._cells.clear()
        self._live.clear()
        self._viewed.clear()

    def generators(self) -> list[Any]:
        """Generators that the run drew from."""
        return list(self._random)

    def held_bytes(self) -> int:
        """Bytes of all that the run made and that is alive, the snapshots' among them; what both hold counts twice."""
        return self.live_bytes + sum(snapshot.extra_bytes for snapshot in self.snapshots)


def _same_state(one: Tensor, other: Tensor) -> bool:
    return bool(one.numpy().tobytes() == other.numpy().tobytes())
