"""`--set key=value` of `thrifty bench`: words to the frozen dataclass in which a benchmark lists what may be chosen.

A value is JSON where it is JSON, else text; where the field is a tuple, texts separated by commas. Keys with a dot are
not fields: they are handed back as they are.
"""

from __future__ import annotations

import json
import shlex
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from thrifty.core.codec import decode_fields
from thrifty.core.errors import UsageError

Choices = TypeVar("Choices")


def read_options(
    kind: type[Choices], words: Sequence[str], quick: Mapping[str, Any] | None = None
) -> tuple[Choices, dict[str, Any]]:
    """Return the choices that `words` make, and the values of the keys with a dot; `quick` fills in what is not named.

    Raises:
        UsageError: a word of another form, a key given twice or unknown, a value of another type.
    """
    plain: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and key):
            raise UsageError(f"--set {word}: write it as key=value, for example seeds=1")
        found = dotted if "." in key else plain
        if key in found:
            raise UsageError(f"--set {key} is given twice")
        if typing.get_origin(hints.get(key)) is tuple:
            found[key] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            found[key] = _value(text)
    return kind(**{**(quick or {}), **decode_fields(kind, plain, "--set")}), dotted


def command_line() -> str:
    """The command that is running, as it can be typed again."""
    return shlex.join(["thrifty", *sys.argv[1:]])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
