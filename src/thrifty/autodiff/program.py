"""The record of a run: a compact list of instructions on numbered registers, in steps that can be run again.

An instruction is a template (operator, fixed arguments, where its results go), the registers of its tensors, and the
numbers among its arguments. Registers are used again when their value has died, so the turns of a loop look alike, and
each block of about a thousand instructions is kept deflated: a loop folds into a few bytes an operation. The plain form
is about 20 bytes an operation; a block is made plain again only while it is being replayed.

A step ends where few bytes are alive (see `recorder`); steps are the unit of every schedule.
"""

from __future__ import annotations

import bisect
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from thrifty.autodiff.operations import Operation

BLOCK_OPS = 1024
_CUT = -(1 << 30)
_RANDOM = -(1 << 29)
_PLAIN_BLOCKS = 2

Registers = dict[int, Any]


class Template:
    """An instruction without its registers and numbers.

    Attributes:
        call: (registers, input registers, numbers) -> result.
        inputs, outputs: how many registers it reads and makes.
        picks: for several outputs, their places in the flat result; () when the result is the one output.
        aliases: per output, the position among the inputs whose storage it shares, or -1.
        writes: positions among the inputs that it writes to.
        active: its outputs depend on the differentiated inputs.
        stops: derivatives stop here: it ran under no_grad, or is a detach.
        line: the user's line that first ran it.
        plain: one new output with a storage of its own, no write, active: the common case.
    """

    __slots__ = (
        "active", "aliases", "call", "index", "inputs", "line", "numbers", "operation", "outputs", "picks", "plain",
        "stops", "writes",
    )  # fmt: skip

    def __init__(self, index: int, operation: Operation, form: Form, line: str) -> None:
        self.index, self.operation, self.line = index, operation, line
        self.call, self.numbers = _compile(operation.function, form.arguments)
        self.inputs, self.outputs = form.inputs, form.outputs
        self.picks, self.aliases, self.writes = form.picks, form.aliases, form.writes
        self.active, self.stops = form.active, form.stops
        simple = form.aliases == (-1,) and not form.picks and not form.writes
        self.plain = simple and form.active and not form.stops and not operation.checked


class Form(NamedTuple):
    """What tells templates of one operator apart. `arguments` holds (name or None, kind, value) of each argument."""

    arguments: tuple[Any, ...]
    inputs: int
    outputs: int
    picks: tuple[int, ...]
    aliases: tuple[int, ...]
    writes: tuple[int, ...]
    active: bool
    stops: bool


# kinds of argument
TENSOR, TENSORS, FLOAT, INT, FIXED = range(5)


def _compile(function: Any, arguments: Sequence[Any]) -> tuple[Callable[..., Any], int]:
    """Build `(r, i, c) -> function(...)` with the fixed arguments in place. Returns it and the count of numbers."""
    fixed: list[Any] = []
    parts: list[str] = []
    tensors = numbers = 0
    for name, kind, value in arguments:
        if kind == TENSOR:
            text = f"r[i[{tensors}]]"
            tensors += 1
        elif kind == TENSORS:
            items = []
            for present in value:
                items.append(f"r[i[{tensors}]]" if present else "None")
                tensors += present
            text = f"[{', '.join(items)}]"
        elif kind in (FLOAT, INT):
            text = f"c[{numbers}]" if kind == FLOAT else f"int(c[{numbers}])"
            numbers += 1
        else:
            text = f"o[{len(fixed)}]"
            fixed.append(list(value.items) if isinstance(value, FixedList) else value)
        parts.append(text if name is None else f"{name}={text}")
    source = f"lambda r, i, c: f({', '.join(parts)})"
    return eval(source, {"f": function, "o": fixed}), numbers


class FixedList(NamedTuple):
    """A list argument that holds no tensor, with the types that tell 1 from 1.0 and from True."""

    items: tuple[Any, ...]
    types: tuple[type, ...]


class Instruction(NamedTuple):
    """template None: free the registers `inputs`; or, with `numbers`, set a generator to the state of that index."""

    template: Template | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    numbers: Any


Step = list[Instruction]


class _Block(NamedTuple):
    first_step: int
    stream: bytes
    numbers: bytes


class Program:
    """A recorded run.

    Attributes:
        steps, operations: how many there are.
        templates: the distinct instructions.
        random_states: (generator, state) pairs that instructions refer to.
    """

    def __init__(self) -> None:
        self.templates: list[Template] = []
        self.random_states: list[tuple[Any, Any]] = []
        self.operations = 0
        self.steps = 0
        self._by_form: dict[Any, Template] = {}
        self._blocks: list[_Block] = []
        self._stream: list[int] = []
        self._numbers: list[float] = []
        self._block_step = 0
        self._block_ops = 0
        self._plain: OrderedDict[int, list[Step]] = OrderedDict()

    def template(self, operation: Operation, form: tuple[Any, ...], line: Callable[[], str]) -> Template:
        """The template of this operator and form, made on first use; `line` is asked only then."""
        key = (operation, form)
        found = self._by_form.get(key)
        if found is None:
            found = Template(len(self.templates), operation, Form(*form), line())
            self.templates.append(found)
            self._by_form[key] = found
        return found

    def append(self, template: Template, inputs: list[int], outputs: list[int], numbers: list[float]) -> None:
        """Write one operation down."""
        stream = self._stream
        stream.append(template.index)
        stream += inputs
        stream += outputs
        if numbers:
            self._numbers += numbers
        self.operations += 1
        self._block_ops += 1

    def free(self, register: int) -> None:
        """The value of this register is dead."""
        self._stream.append(-1 - register)

    def set_random(self, generator: Any, state: Any) -> None:
        """Set the generator to this state before the next operation."""
        self._stream += (_RANDOM, len(self.random_states))
        self.random_states.append((generator, state))

    def cut(self) -> None:
        """End the step."""
        self.steps += 1
        if self._block_ops >= BLOCK_OPS:
            self._seal()
        else:
            self._stream.append(_CUT)

    def close(self) -> None:
        """End the last step and the record."""
        self.steps += 1
        self._seal()

    def _seal(self) -> None:
        packed = zlib.compress(array("i", self._stream).tobytes(), 1)
        numbers = zlib.compress(array("d", self._numbers).tobytes(), 1) if self._numbers else b""
        self._blocks.append(_Block(self._block_step, packed, numbers))
        self._stream, self._numbers = [], []
        self._block_step, self._block_ops = self.steps, 0

    @property
    def record_bytes(self) -> int:
        """Bytes that the sealed record holds: blocks, templates (by estimate) and generator states."""
        blocks = sum(len(block.stream) + len(block.numbers) + 200 for block in self._blocks)
        states = sum(int(state.nelement()) for _, state in self.random_states)
        return blocks + 1500 * len(self.templates) + states

    def step(self, number: int) -> Step:
        """The instructions of a step; counted from 0."""
        at = bisect.bisect_right(self._blocks, number, key=lambda block: block.first_step) - 1
        steps = self._plain.get(at)
        if steps is None:
            steps = self._plain[at] = self._unpack(self._blocks[at])
            if len(self._plain) > _PLAIN_BLOCKS:
                self._plain.popitem(last=False)
        else:
            self._plain.move_to_end(at)
        return steps[number - self._blocks[at].first_step]

    def forget_plain(self) -> None:
        """Let go of the blocks that were made plain."""
        self._plain.clear()

    def _unpack(self, block: _Block) -> list[Step]:
        stream = array("i", zlib.decompress(block.stream)).tolist()
        numbers = array("d", zlib.decompress(block.numbers)).tolist() if block.numbers else []
        steps: list[Step] = [[]]
        at = used = 0
        templates = self.templates
        while at < len(stream):
            code = stream[at]
            at += 1
            if code >= 0:
                template = templates[code]
                middle = at + template.inputs
                end = middle + template.outputs
                more = used + template.numbers
                inputs, outputs = tuple(stream[at:middle]), tuple(stream[middle:end])
                steps[-1].append(Instruction(template, inputs, outputs, tuple(numbers[used:more])))
                at, used = end, more
            elif code == _CUT:
                steps.append([])
            elif code == _RANDOM:
                steps[-1].append(Instruction(None, (), (), stream[at]))
                at += 1
            else:
                freed = [-1 - code]
                while at < len(stream) and _RANDOM < stream[at] < 0:
                    freed.append(-1 - stream[at])
                    at += 1
                steps[-1].append(Instruction(None, tuple(freed), (), None))
        return steps
