"""Steps in the form that is run: equal ones are one object, and one that runs often becomes a Python function.

The function keeps the step's own values in local variables, which takes the place of looking registers up; it is made
for steps without writes, and calls the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from thrifty.autodiff.operations import flat_outputs
from thrifty.autodiff.templates import Template

OFTEN = 4  # runs after which a function is made
CUT = -(1 << 30)
RANDOM = -(1 << 29)


class Instruction(NamedTuple):
    """template None: free the registers `inputs`; or, with `first` >= 0, set a generator to the state of that index.

    `first` is otherwise where the numbers begin among those of the step.
    """

    template: Template | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    first: int


class StepCode:
    """A step without its numbers.

    Attributes:
        instructions: in order. operations: how many of them are operations. numbers: how many it takes in all.
        reads: registers that it reads before it makes them. makes: registers that it makes.
        writes: it writes to something.
    """

    __slots__ = ("_function", "_runs", "instructions", "makes", "numbers", "operations", "reads", "writes")

    def __init__(self, instructions: list[Instruction], numbers: int) -> None:
        self.instructions, self.numbers = instructions, numbers
        self.reads: set[int] = set()
        self.makes: set[int] = set()
        self.operations = 0
        self.writes = False
        self._runs = 0
        self._function: Callable[[Any, Any], None] | None = None
        for template, inputs, outputs, _ in instructions:
            if template is not None:
                self.operations += 1
                self.writes = self.writes or bool(template.writes)
                self.reads.update(register for register in inputs if register not in self.makes)
                self.makes.update(outputs)
        if self.writes or not all(_simple(one) for one in instructions):
            self._runs = OFTEN + 1  # never

    def function(self) -> Callable[[Any, Any], None] | None:
        """(state, numbers) -> None, or None while the step has run a few times only or if it is not simple."""
        if self._function is None and self._runs <= OFTEN:
            self._runs += 1
            if self._runs == OFTEN:
                self._function = _compile(self.instructions)
        return self._function


def read_step(stream: Sequence[int], templates: list[Template]) -> StepCode:
    """The step that a part of a record's stream spells."""
    found: list[Instruction] = []
    at = numbers = 0
    while at < len(stream):
        code = stream[at]
        at += 1
        if code >= 0:
            template = templates[code]
            middle = at + template.inputs
            end = middle + template.outputs
            found.append(Instruction(template, tuple(stream[at:middle]), tuple(stream[middle:end]), numbers))
            numbers += template.numbers
            at = end
        elif code == RANDOM:
            found.append(Instruction(None, (), (), stream[at]))
            at += 1
        else:
            freed = [-1 - code]
            while at < len(stream) and RANDOM < stream[at] < 0:
                freed.append(-1 - stream[at])
                at += 1
            found.append(Instruction(None, tuple(freed), (), -1))
    return StepCode(found, numbers)


def _simple(instruction: Instruction) -> bool:
    template = instruction.template
    if template is None:
        return instruction.first < 0
    return not template.stops and not (template.operation.checked and template.active)


class _Value:
    """A value that the step makes or reads: its variable, its register, and the variable of its root's register."""

    def __init__(self, name: str, register: int, root: str | None, made: bool, active: bool) -> None:
        self.name, self.register, self.root, self.made, self.active = name, register, root, made, active


class _Writer:
    """Writes the function's source."""

    def __init__(self) -> None:
        self.lines = ["def step(s, c):", " r, ro, off = s.registers, s.roots, s.inactive"]
        self.names: dict[str, Any] = {"flat": flat_outputs, "Tensor": Tensor}
        self._at: dict[int, _Value] = {}
        self._before: set[int] = set()  # registers that may have a value from before the step
        self._count = 0

    def _read(self, register: int) -> _Value:
        known = self._at.get(register)
        if known is None:
            self._count += 1
            known = self._at[register] = _Value(f"v{self._count}", register, None, False, False)
            self._before.add(register)
            self.lines.append(f" {known.name} = r[{register}]")
        return known

    def _root(self, value: _Value) -> str:
        if value.root is None:
            value.root = f"q{value.name}"
            if value.made:
                self.lines.append(f" {value.root} = {value.register}")
            else:
                self.lines.append(f" {value.root} = ro.get({value.register}, {value.register})")
        return value.root

    def operation(self, at: int, instruction: Instruction) -> None:
        """Call it."""
        template, inputs, outputs, first = instruction
        assert template is not None
        given = [self._read(register) for register in inputs]
        source, fixed = template.source(f"f{at}", f"o{at}", [value.name for value in given], "c", first)
        self.names[f"f{at}"], self.names[f"o{at}"] = template.operation.call, fixed
        roots = [self._root(given[alias]) if alias >= 0 else None for alias in template.aliases]
        if not template.picks and template.operation.one_tensor:
            self._take(source, outputs[0], roots[0], template.active)
            return
        self.lines.append(f" t = {source}" if template.operation.flat else f" t = flat({source})")
        for register, root, pick in zip(outputs, roots, template.picks or (0,), strict=True):
            self._take(f"t[{pick}]", register, root, template.active)
        self.lines.append(" del t")

    def _take(self, source: str, register: int, root: str | None, active: bool) -> None:
        """Give a register its value; the old one is needed no more once the new one is there."""
        self._count += 1
        name = f"v{self._count}"
        self.lines.append(f" {name} = {source}")
        if register in self._at:
            self.lines.append(f" del {self._at[register].name}")
        if root is not None:
            self._before.add(register)  # a view that is taken anew has the register it had
        self._at[register] = _Value(name, register, root, True, active)

    def free(self, registers: Sequence[int]) -> None:
        """Let go of values."""
        before = []
        for register in registers:
            value = self._at.pop(register, None)
            if value is not None:
                self.lines.append(f" del {value.name}")
            if value is None or register in self._before:
                before.append(register)
            self._before.discard(register)
        if before:
            self.lines.append(f" s.free({before})")

    def finish(self) -> str:
        """Keep what is left in registers."""
        for register, value in self._at.items():
            if value.made:
                self.lines.append(f" r[{register}] = {value.name}")
                if value.root is not None and value.root != f"q{value.name}":
                    self.lines.append(f" ro[{register}] = {value.root}")
                self.lines.append(f" if off: off.discard({register})" if value.active else f" off.add({register})")
        return "\n".join(self.lines)


def _compile(instructions: list[Instruction]) -> Callable[[Any, Any], None]:
    writer = _Writer()
    for at, instruction in enumerate(instructions):
        if instruction.template is None:
            writer.free(instruction.inputs)
        else:
            writer.operation(at, instruction)
    names = writer.names
    exec(_code(writer.finish()), names)
    made: Callable[[Any, Any], None] = names["step"]
    return made


@lru_cache(maxsize=256)
def _code(source: str) -> Any:
    return compile(source, "<step>", "exec")
