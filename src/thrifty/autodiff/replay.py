"""Runs recorded steps again, from a snapshot or on the values at hand: operations are called, user code is not.

`advance` gives the state a few steps later. `pull_back` replays a segment with autograd on, which then takes cotangents
of its end to cotangents of its start: torch's own derivative rules, one segment at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.context import library_code
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.levels import open_levels
from thrifty.autodiff.operations import flat_outputs
from thrifty.autodiff.program import Instruction, Program, Step, Template
from thrifty.autodiff.recorder import Recorder
from thrifty.autodiff.snapshot import Snapshot, changed_behind, same_place, version_of, whole_copy


class State:
    """The registers while steps run.

    Attributes:
        registers: register -> tensor.
        roots, inactive, random: as in Snapshot.
        shared: registers whose storage a snapshot or the user may hold: copied before a write.
    """

    __slots__ = ("inactive", "random", "registers", "roots", "shared")

    def __init__(self, snapshot: Snapshot) -> None:
        snapshot.check()
        self.registers: dict[int, Any] = dict(snapshot.values)
        self.roots = dict(snapshot.roots)
        self.inactive = set(snapshot.inactive)
        self.random = dict(snapshot.random)
        self.shared = set(self.registers)
        for generator, state in self.random.items():
            generator.set_state(state)

    def snapshot(self, step: int, externals: Iterable[int]) -> Snapshot:
        """The present state as a snapshot at `step`, without the externals."""
        values = dict(self.registers)
        for register in externals:
            values.pop(register, None)
        random = {generator: generator.get_state() for generator in self.random}
        return Snapshot(step, values, self.roots, self.inactive, random)


def run(program: Program, state: State, steps: Iterable[Step]) -> int:
    """Run the steps on `state`. Returns how many operations ran."""
    registers, inactive = state.registers, state.inactive
    count = 0
    for step in steps:
        for template, inputs, outputs, numbers in step:
            if template is None:
                _administer(program, state, inputs, numbers)
                continue
            count += 1
            if template.plain:
                registers[outputs[0]] = template.call(registers, inputs, numbers)
                if inactive:
                    inactive.discard(outputs[0])
            else:
                _run_other(template, state, inputs, outputs, numbers)
    return count


def _run_other(
    template: Template, state: State, inputs: tuple[int, ...], outputs: tuple[int, ...], numbers: Any
) -> None:
    """Run one that is not plain: several outputs, views, writes, no derivative."""
    registers, roots = state.registers, state.roots
    if template.writes:
        shared = {roots.get(inputs[at], inputs[at]) for at in template.writes} & state.shared
        _own_written(state, shared)
        state.shared -= shared
    if template.stops:
        with torch.no_grad(), library_code(stops=True):
            result = template.call(registers, inputs, numbers)
    else:
        result = template.call(registers, inputs, numbers)
    if template.operation.checked and template.active and not template.stops:
        _check_derivative(template, [registers[register] for register in inputs], result)
    if template.picks:
        flat = flat_outputs(result)
        for register, at in zip(outputs, template.picks, strict=True):
            registers[register] = flat[at]
    elif outputs:
        registers[outputs[0]] = result if isinstance(result, Tensor) else flat_outputs(result)[0]
    if not template.active:
        state.inactive.update(outputs)
    elif state.inactive:
        state.inactive.difference_update(outputs)
        for at in template.writes:
            root = roots.get(inputs[at], inputs[at])
            state.inactive.difference_update([root, *(view for view, of in roots.items() if of == root)])
    for register, alias in zip(outputs, template.aliases, strict=True):
        if alias >= 0:
            roots[register] = roots.get(inputs[alias], inputs[alias])


def _check_derivative(template: Template, given: list[Any], result: Any) -> None:
    """Raise ReplayError if somebody's own operator lets derivatives in and none out."""
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in given):
        return
    made = [one for one in flat_outputs(result) if isinstance(one, Tensor) and _differentiable(one)]
    if made and not any(tensor.requires_grad for tensor in made):
        raise ReplayError(
            f"{template.operation.name} ({template.line}) has no derivative: give it one with "
            "torch.library.register_autograd, or call it on x.detach()"
        )


def _administer(program: Program, state: State, freed: tuple[int, ...], random: int | None) -> None:
    if random is not None:
        generator, value = program.random_states[random]
        generator.set_state(value)
        state.random[generator] = value
    for register in freed:
        state.registers.pop(register, None)
        state.shared.discard(register)
        state.roots.pop(register, None)
        state.inactive.discard(register)


class Segment:
    """Some consecutive steps.

    Attributes:
        reads: registers of its start that it reads.
        makes: registers that it gives a new value.
        writes: registers of its start whose storage it writes to.
    """

    def __init__(self, program: Program, start: int, stop: int, roots: dict[int, int]) -> None:
        self.start, self.stop = start, stop
        self.steps = [program.step(number) for number in range(start, stop)]
        self.reads: set[int] = set()
        self.makes: set[int] = set()
        self.writes: set[int] = set()
        origin = dict(roots)
        for step in self.steps:
            for instruction in step:
                self._look(instruction, origin)

    def _look(self, instruction: Instruction, origin: dict[int, int]) -> None:
        template, inputs, outputs, _ = instruction
        if template is None:
            return
        for register in inputs:
            if register not in self.makes:
                self.reads.add(register)
        for position in template.writes:
            register = inputs[position]
            root = origin.get(register, register)
            if root not in self.makes:
                self.writes.add(root)
        for register, alias in zip(outputs, template.aliases, strict=True):
            self.makes.add(register)
            origin[register] = origin.get(inputs[alias], inputs[alias]) if alias >= 0 else register


class Replayer:
    """Replays the steps of a recorder's program.

    Attributes:
        replayed_ops, taped_ops: operations run again without and with autograd.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.program = recorder.program
        self.inputs = recorder.inputs
        with library_code():
            self.externals = {
                register: (tensor.detach(), version, line)
                for register, (tensor, version, line) in recorder.externals.items()
            }
        self.replayed_ops = self.taped_ops = 0

    def check_externals(self) -> None:
        """Raise ReplayError if data, parameters or inputs have changed since the run read them."""
        for tensor, version, line in self.externals.values():
            if version_of(tensor) != version:
                raise changed_behind(tensor, line)

    def advance(self, snapshot: Snapshot, stop: int) -> Snapshot:
        """The state at step `stop`, from a snapshot before it."""
        state = State(snapshot)
        for register, (tensor, _, _) in self.externals.items():
            state.registers[register] = tensor
            state.shared.add(register)
        steps = (self.program.step(number) for number in range(snapshot.step, stop))
        self.replayed_ops += run(self.program, state, steps)
        return state.snapshot(stop, self.externals)

    def pull_back(self, snapshot: Snapshot, stop: int, cotangents: dict[int, Tensor]) -> dict[int, Tensor]:
        """Cotangents of the registers at `snapshot`, from those at step `stop`."""
        state = State(snapshot)
        segment = Segment(self.program, snapshot.step, stop, snapshot.roots)
        registers = state.registers
        for register in segment.reads:
            external = self.externals.get(register)
            if external is not None:
                registers[register] = external[0]
        _own_written(state, segment.writes)
        state.shared.clear()
        leaves = self._leaves(state, segment)
        self.taped_ops += run(self.program, state, segment.steps)
        before = {}
        outputs, given = [], []
        for register, cotangent in cotangents.items():
            root = snapshot.roots.get(register, register)
            if register in segment.makes or register in leaves or root in segment.writes:
                tensor = registers[register]
                if tensor.requires_grad:
                    outputs.append(tensor)
                    given.append(cotangent)
            else:
                before[register] = cotangent
        state.registers = registers = {}
        if outputs and leaves:
            # Some of torch's rules take short cuts that are not differentiable unless they are told to be.
            found: list[Tensor | None] = list(
                torch.autograd.grad(
                    outputs, list(leaves.values()), given, allow_unused=True, create_graph=open_levels() > 0
                )
            )
            if open_levels():
                found = [None if g is None else g.detach() for g in found]
            before.update({r: g for r, g in zip(leaves, found, strict=True) if g is not None})
        return before

    def _leaves(self, state: State, segment: Segment) -> dict[int, Tensor]:
        """Make the active registers that the segment reads leaves of a graph; views of written storages stay views."""
        leaves: dict[int, Tensor] = {}
        registers, roots = state.registers, state.roots
        needed = segment.reads | segment.writes
        for register in sorted(needed):
            tensor = registers[register]
            external = register in self.externals
            active = register in self.inputs if external else register not in state.inactive
            root = roots.get(register, register)
            if not active or (root in segment.writes and root != register) or not _differentiable(tensor):
                continue
            leaf = tensor.detach().requires_grad_()
            leaves[register] = leaf
            # An operation may write to what is not a leaf only.
            registers[register] = leaf.clone() if register in segment.writes else leaf
        for view, root in roots.items():
            if root in segment.writes and root in leaves and view in registers:
                registers[view] = same_place(registers[view], registers[root])
        return leaves


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _own_written(state: State, written: Iterable[int]) -> None:
    """Copy the storages that a segment writes to, for snapshots and the user hold them."""
    for root in written:
        if root not in state.registers:
            continue
        copy = whole_copy(state.registers[root])
        group = [root, *(view for view, of in state.roots.items() if of == root)]
        for register in group:
            state.registers[register] = same_place(state.registers[register], copy)
