"""The registers while recorded steps run, and the run itself: operations are called, user code is not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.context import library_code
from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.operations import flat_outputs
from thrifty.autodiff.program import Program, Step
from thrifty.autodiff.snapshot import Snapshot, same_place, whole_copy
from thrifty.autodiff.steps import Instruction
from thrifty.autodiff.templates import Template


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

    def free(self, registers: Iterable[int]) -> None:
        """Let go of the values of these registers."""
        for register in registers:
            self.registers.pop(register, None)
            self.shared.discard(register)
            self.roots.pop(register, None)
            self.inactive.discard(register)

    def own(self, written: Iterable[int]) -> None:
        """Copy storages that are about to be written to, for snapshots and the user hold them."""
        for root in written:
            if root not in self.registers:
                continue
            copy = whole_copy(self.registers[root])
            group = [root, *(view for view, of in self.roots.items() if of == root)]
            for register in group:
                self.registers[register] = same_place(self.registers[register], copy)


def run(program: Program, state: State, steps: Iterable[Step]) -> int:
    """Run the steps on `state`. Returns how many operations ran."""
    count = 0
    for code, numbers in steps:
        count += code.operations
        function = code.function()
        if function is not None:
            function(state, numbers)
        else:
            _run_one_by_one(program, state, code.instructions, numbers)
    return count


def _run_one_by_one(
    program: Program, state: State, instructions: list[Instruction], numbers: tuple[float, ...]
) -> None:  # fmt: skip
    registers, inactive = state.registers, state.inactive
    for template, inputs, outputs, first in instructions:
        if template is None:
            if first >= 0:
                generator, value = program.random_states[first]
                generator.set_state(value)
                state.random[generator] = value
            else:
                state.free(inputs)
            continue
        own = numbers[first : first + template.numbers] if template.numbers else ()
        if template.plain:
            registers[outputs[0]] = template.call(registers, inputs, own)
            if inactive:
                inactive.discard(outputs[0])
        else:
            _run_other(template, state, inputs, outputs, own)


def _run_other(
    template: Template, state: State, inputs: tuple[int, ...], outputs: tuple[int, ...], numbers: Any
) -> None:
    """Run one that is not plain: several outputs, views, writes, no derivative."""
    registers, roots = state.registers, state.roots
    if template.writes:
        shared = {roots.get(inputs[at], inputs[at]) for at in template.writes} & state.shared
        state.own(shared)
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
    made = [one for one in flat_outputs(result) if isinstance(one, Tensor) and differentiable(one)]
    if made and not any(tensor.requires_grad for tensor in made):
        raise ReplayError(
            f"{template.operation.name} ({template.line}) has no derivative: give it one with "
            "torch.library.register_autograd, or call it on x.detach()"
        )


def differentiable(tensor: Tensor) -> bool:
    """True for real and complex floating point."""
    return tensor.is_floating_point() or tensor.is_complex()
