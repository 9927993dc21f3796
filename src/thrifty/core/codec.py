"""Frozen dataclasses to plain dictionaries and back, checked against the annotations of their fields.

Plain means None, bool, int, float, str, list and dict with text keys: what JSON holds and what
`torch.load(weights_only=True)` accepts. Tuples travel as lists, nested dataclasses as dictionaries of their fields.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from thrifty.core.errors import UsageError


def encode(value: Any) -> Any:
    """Return `value` as plain data.

    Raises:
        UsageError: for a value that is neither plain, nor a sequence, nor a mapping, nor a dataclass.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    raise UsageError(f"a config cannot hold {type(value).__name__}: use numbers, text, tuples or dataclasses of them")


def decode_fields(cls: type, data: Any, where: str) -> dict[str, Any]:
    """Return the keyword arguments that build the dataclass `cls` from plain `data`.

    Args:
        cls: a dataclass.
        data: a mapping of field name to plain value; fields with a default may be absent.
        where: how a message names the place, for example "Reuse".

    Raises:
        UsageError: for unknown or missing fields (the message lists the fields) and for values of another type.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: expected a dictionary of its fields, got {type(data).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    listing = ", ".join(fields) or "none"
    for name in data:
        if name not in fields:
            raise UsageError(f"{where} has no field {name!r}; its fields are: {listing}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in data and not optional:
            raise UsageError(f"{where} lacks the field {name!r}; its fields are: {listing}")
    hints = typing.get_type_hints(cls)
    return {name: _decode(hints[name], value, f"{where}.{name}") for name, value in data.items()}


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is typing.Literal and value in arguments:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint(**decode_fields(hint, value, where))
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        return _decode_sequence(origin, arguments, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {key: _decode(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if hint in (None, types.NoneType) and value is None:
        return None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and _fits(value):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    raise UsageError(f"{where}: expected {_spell(hint)}, got {value!r}")


def _fits(value: float) -> bool:
    """Whether a number, which may be an integer of any length, is a float."""
    return isinstance(value, float) or abs(value) < 1 << 1000


def _decode_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    for member in members:
        try:
            return _decode(member, value, where)
        except UsageError:
            continue
    raise UsageError(f"{where}: expected {' or '.join(map(_spell, members))}, got {value!r}")


def _decode_sequence(kind: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if kind is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        hints = (arguments[0],) * len(value)
    else:
        hints = arguments
    if len(hints) != len(value):
        raise UsageError(f"{where}: expected {len(hints)} values, got {len(value)}")
    return kind(_decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is None and isinstance(hint, type):
        return hint.__name__
    return str(hint).replace("typing.", "")
