"""The record of a run: a compact list of instructions on numbered registers, in steps that can be run again.

An instruction is a template (operator, fixed arguments, where its results go), the registers of its tensors, and the
numbers among its arguments. Registers are used again when their value has died, so the turns of a loop look alike, and
each block of about a thousand instructions is kept deflated: a loop folds into a few bytes an operation. The plain form
is about 20 bytes an operation; a block is made plain again only while it is being replayed, and equal steps are made
plain once.

A step ends where few bytes are alive (see `recorder`); steps are the unit of every schedule.
"""

from __future__ import annotations

import bisect
import zlib
from array import array
from collections import OrderedDict
from typing import Any, NamedTuple

from thrifty.autodiff.operations import Operation
from thrifty.autodiff.steps import CUT, RANDOM, StepCode, read_step
from thrifty.autodiff.templates import Form, Template

BLOCK_OPS = 1024
_PLAIN_BLOCKS = 2
_MOST_CODES = 512
_CUT_BYTES = array("i", [CUT]).tobytes()

Step = tuple[StepCode, tuple[float, ...]]  # and its numbers


class _Block(NamedTuple):
    first_step: int
    stream: bytes
    numbers: bytes


class Program:
    """A recorded run.

    Attributes:
        steps: how many there are.
        templates: the distinct instructions.
        random_states: (generator, state) pairs that instructions refer to.
        stream, numbers: what is written down and not yet sealed; the recorder writes here. A template's index begins an
            operation; -1 - r says that the value of register r is dead.
        block_ops: operations in it.
    """

    def __init__(self) -> None:
        self.templates: list[Template] = []
        self.random_states: list[tuple[Any, Any]] = []
        self.steps = 0
        self.stream: list[int] = []
        self.numbers: list[float] = []
        self.block_ops = 0
        self._sealed_ops = 0
        self._blocks: list[_Block] = []
        self._block_step = 0
        self._plain: OrderedDict[int, list[Step]] = OrderedDict()
        self._codes: OrderedDict[bytes, StepCode] = OrderedDict()

    @property
    def operations(self) -> int:
        """How many there are."""
        return self._sealed_ops + self.block_ops

    def template(self, operation: Operation, form: Form, line: str) -> Template:
        """Add a template, which the user's `line` asks for first."""
        made = Template(len(self.templates), operation, form, line)
        self.templates.append(made)
        return made

    def append(self, template: Template, inputs: list[int], outputs: list[int], numbers: list[float]) -> None:
        """Write one operation down."""
        stream = self.stream
        stream.append(template.index)
        stream += inputs
        stream += outputs
        if numbers:
            self.numbers += numbers
        self.block_ops += 1

    def set_random(self, generator: Any, state: Any) -> None:
        """Set the generator to this state before the next operation."""
        self.stream += (RANDOM, len(self.random_states))
        self.random_states.append((generator, state))

    def cut(self) -> None:
        """End the step."""
        self.steps += 1
        if self.block_ops >= BLOCK_OPS:
            self._seal()
        else:
            self.stream.append(CUT)

    def close(self) -> None:
        """End the last step and the record."""
        self.steps += 1
        self._seal()

    def _seal(self) -> None:
        packed = zlib.compress(array("i", self.stream).tobytes(), 1)
        numbers = zlib.compress(array("d", self.numbers).tobytes(), 1) if self.numbers else b""
        self._blocks.append(_Block(self._block_step, packed, numbers))
        self.stream, self.numbers = [], []
        self._sealed_ops += self.block_ops
        self._block_step, self.block_ops = self.steps, 0

    @property
    def record_bytes(self) -> int:
        """Bytes that the sealed record holds: blocks, templates (by estimate) and generator states."""
        blocks = sum(len(block.stream) + len(block.numbers) + 200 for block in self._blocks)
        states = sum(int(state.nelement()) for _, state in self.random_states)
        return blocks + 1500 * len(self.templates) + states

    def step(self, number: int) -> Step:
        """A step; counted from 0."""
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
        self._codes.clear()

    def _unpack(self, block: _Block) -> list[Step]:
        numbers = tuple(array("d", zlib.decompress(block.numbers))) if block.numbers else ()
        steps: list[Step] = []
        used = 0
        for part in _parts(zlib.decompress(block.stream)):
            code = self._codes.get(part)
            if code is None:
                code = self._codes[part] = read_step(array("i", part), self.templates)
                if len(self._codes) > _MOST_CODES:
                    self._codes.popitem(last=False)
            more = used + code.numbers
            steps.append((code, numbers[used:more]))
            used = more
        return steps


def _parts(stream: bytes) -> list[bytes]:
    """The stream cut into steps."""
    found: list[bytes] = []
    start = 0
    at = stream.find(_CUT_BYTES)
    while at >= 0:
        if at % 4:
            at = stream.find(_CUT_BYTES, at + 1)
            continue
        found.append(stream[start:at])
        start = at + 4
        at = stream.find(_CUT_BYTES, start)
    found.append(stream[start:])
    return found
