"""Runs recorded steps again, from a snapshot or on the values at hand: operations are called, user code is not.

`advance` gives the state a few steps later. `pull_back` replays a segment with autograd on, which then takes cotangents
of its end to cotangents of its start: torch's own derivative rules, one segment at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.context import library_code
from thrifty.autodiff.levels import open_levels
from thrifty.autodiff.program import Program
from thrifty.autodiff.recorder import Recorder
from thrifty.autodiff.snapshot import Snapshot, changed_behind, same_place, version_of
from thrifty.autodiff.state import State, differentiable, run


class Segment:
    """Some consecutive steps.

    Attributes:
        reads: registers of its start that it reads.
        makes: registers that it gives a new value.
        writes: registers of its start whose storage it writes to.
    """

    def __init__(self, program: Program, start: int, stop: int, roots: dict[int, int]) -> None:
        self.steps = [program.step(number) for number in range(start, stop)]
        self.reads: set[int] = set()
        self.makes: set[int] = set()
        self.writes: set[int] = set()
        for code, _ in self.steps:
            self.reads |= code.reads - self.makes
            self.makes |= code.makes
        if any(code.writes for code, _ in self.steps):
            self._find_writes(dict(roots))

    def _find_writes(self, origin: dict[int, int]) -> None:
        made: set[int] = set()
        for code, _ in self.steps:
            for template, inputs, outputs, _ in code.instructions:
                if template is None:
                    continue
                for position in template.writes:
                    root = origin.get(inputs[position], inputs[position])
                    if root not in made:
                        self.writes.add(root)
                for register, alias in zip(outputs, template.aliases, strict=True):
                    made.add(register)
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
        state.own(segment.writes)
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
            found = _derivative(outputs, list(leaves.values()), given, create_graph=open_levels() > 0)
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
            if not active or (root in segment.writes and root != register) or not differentiable(tensor):
                continue
            leaf = tensor.detach().requires_grad_()
            leaves[register] = leaf
            # An operation may write to what is not a leaf only.
            registers[register] = leaf.clone() if register in segment.writes else leaf
        for view, root in roots.items():
            if root in segment.writes and root in leaves and view in registers:
                registers[view] = same_place(registers[view], registers[root])
        return leaves


def _derivative(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], given: Sequence[Tensor], create_graph: bool
) -> list[Tensor | None]:
    """`torch.autograd.grad` without its checks, whose symbolic shapes cost an import of 40 MB and time at each call."""
    engine: Any = torch.autograd.Variable._execution_engine
    return list(
        engine.run_backward(
            tuple(outputs), tuple(given), create_graph, create_graph, tuple(inputs), allow_unreachable=True,
            accumulate_grad=False,
        )
    )  # fmt: skip
