"""Who wants to know which rows of a layer are about to be read: lazy optimizers, which first bring them up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Readers(list[Callable[..., None]]):
    """Called with (parameter, rows or None for all, unique=True). A copy of a layer has none: its optimizer is
    another.
    """

    def __deepcopy__(self, memo: Any) -> Readers:
        return Readers()

    def __reduce__(self) -> tuple[Any, ...]:
        return Readers, ()
