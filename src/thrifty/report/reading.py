"""Plain JSON into dataclasses whose fields carry their readers; what cannot be read is left out and named."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

Reader = Callable[[Any, str, list[str]], Any]
_T = TypeVar("_T")


def _number(value: Any, where: str, problems: list[str]) -> float | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    # An integer of hundreds of digits is valid JSON, and no number that a run could mean.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return value
    problems.append(f"{where} is not a number")
    return None


def _whole(value: Any, where: str, problems: list[str]) -> int | None:
    number = _number(value, where, problems)
    return None if number is None else int(number)


def _text(value: Any, where: str, problems: list[str]) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        problems.append(f"{where} is not text")
    return str(value)


def _mapping(value: Any, where: str, problems: list[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    problems.append(f"{where} is not an object")
    return {}


def _numbers(value: Any, where: str, problems: list[str]) -> dict[str, float]:
    read = {key: _number(item, f"{where}.{key}", problems) for key, item in _mapping(value, where, problems).items()}
    return {key: item for key, item in read.items() if item is not None}


def _names(value: Any, where: str, problems: list[str]) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.append(f"{where} is not a list")
        return ()
    # A method may be written as its name or as its {"_type", "_version", "_data"} form.
    return tuple(str(item.get("_type", item)) if isinstance(item, dict) else str(item) for item in value)


def objects(value: Any, where: str, problems: list[str]) -> tuple[dict[str, Any], ...]:
    """Those of a list that are objects."""
    # What is wrong with it has been told when the names were read.
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def many(cls: type[_T]) -> Reader:
    """Reads a list of such dataclasses."""

    def read(value: Any, where: str, problems: list[str]) -> tuple[_T, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            problems.append(f"{where} is not a list")
            return ()
        return tuple(build(cls, item, f"{where}[{index}]", problems) for index, item in enumerate(value))

    return read


def build(cls: type[_T], value: Any, where: str, problems: list[str]) -> _T:
    """The dataclass from a JSON object; what is wrong with it goes to `problems`, by its place."""
    raw = _mapping(value, where, problems)
    return cls(
        **{
            item.name: item.metadata["read"](_under(raw, item), f"{where}.{item.name}", problems)
            for item in fields(cls)  # type: ignore[arg-type]
            if "read" in item.metadata
        }
    )


def one(cls: type[_T]) -> Reader:
    """Reads such a dataclass, or None where there is none."""

    def read(value: Any, where: str, problems: list[str]) -> _T | None:
        return None if value is None else build(cls, value, where, problems)

    return read


def _under(raw: dict[str, Any], item: Field[Any]) -> Any:
    return raw.get(item.metadata.get("key", item.name))


NUMBER, WHOLE, TEXT, NAMES, MAPPING, NUMBERS = (
    {"read": reader} for reader in (_number, _whole, _text, _names, _mapping, _numbers)
)
