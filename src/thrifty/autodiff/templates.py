"""Instructions without their registers and numbers, which a record writes down once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from thrifty.autodiff.operations import Operation

# kinds of argument
TENSOR, TENSORS, FLOAT, INT, FIXED = range(5)
LARGE_INT = 1 << 53  # integers from here on have no float64 of their own


class FixedList(NamedTuple):
    """A list argument that holds no tensor, with the types that tell 1 from 1.0 and from True."""

    items: tuple[Any, ...]
    types: tuple[type, ...]


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


class Template:
    """An instruction without its registers and numbers.

    Attributes:
        call: (registers, input registers, numbers) -> result.
        form: what tells it from others.
        inputs, outputs, numbers: how many registers it reads and makes, and how many numbers it takes.
        picks: for several outputs, their places in the flat result; () when the result is the one output.
        aliases: per output, the position among the inputs whose storage it shares, or -1.
        writes: positions among the inputs that it writes to.
        active: its outputs depend on the differentiated inputs.
        stops: derivatives stop here: it ran under no_grad, or is a detach.
        line: the user's line that first ran it.
        plain: one new output with a storage of its own, no write, active: the common case.
    """

    __slots__ = (
        "active", "aliases", "call", "form", "index", "inputs", "line", "numbers", "operation", "outputs", "picks",
        "plain", "stops", "writes",
    )  # fmt: skip

    def __init__(self, index: int, operation: Operation, form: Form, line: str) -> None:
        self.index, self.operation, self.form, self.line = index, operation, form, line
        self.inputs, self.outputs = form.inputs, form.outputs
        self.picks, self.aliases, self.writes = form.picks, form.aliases, form.writes
        self.active, self.stops = form.active, form.stops
        source, fixed = self.source("f", "o", [f"r[i[{at}]]" for at in range(form.inputs)], "c", 0)
        self.numbers = sum(kind in (FLOAT, INT) for _, kind, _ in form.arguments)
        self.call: Callable[..., Any] = eval(f"lambda r, i, c: {source}", {"f": operation.call, "o": fixed})
        simple = form.aliases == (-1,) and not form.picks and not form.writes
        self.plain = simple and form.active and not form.stops and not operation.checked

    def source(
        self, function: str, fixed: str, tensors: Sequence[str], numbers: str, first: int
    ) -> tuple[str, list[Any]]:
        """The call as Python source.

        Args:
            function, fixed, numbers: names of the operator, of the list of fixed arguments, of the sequence of numbers.
            tensors: expressions of the inputs. first: index of the first number.

        Returns:
            (source, the fixed arguments).
        """
        parts: list[str] = []
        values: list[Any] = []
        given = iter(tensors)
        for name, kind, value in self.form.arguments:
            if kind == TENSOR:
                text = next(given)
            elif kind == TENSORS:
                text = f"[{', '.join(next(given) if present else 'None' for present in value)}]"
            elif kind == FIXED:
                text = f"{fixed}[{len(values)}]"
                values.append(list(value.items) if isinstance(value, FixedList) else value)
            else:
                text = f"{numbers}[{first}]" if kind == FLOAT else f"int({numbers}[{first}])"
                first += 1
            parts.append(text if name is None else f"{name}={text}")
        return f"{function}({', '.join(parts)})", values


def spec_of(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """(name or None, kind, value) of each argument of a call."""
    positional = [(None, *_kind_of(value)) for value in args]
    return (*positional, *((name, *_kind_of(value)) for name, value in kwargs.items()))


def _kind_of(value: Any) -> tuple[int, Any]:
    kind = type(value)
    if isinstance(value, Tensor):
        return TENSOR, None
    if kind is float:
        return FLOAT, None
    if kind is int and -LARGE_INT < value < LARGE_INT:
        return INT, None
    if kind in (list, tuple):
        if any(isinstance(item, Tensor) for item in value):
            return TENSORS, tuple(item is not None for item in value)
        return FIXED, FixedList(tuple(value), tuple(map(type, value)))
    return FIXED, value
