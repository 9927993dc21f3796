"""Which part of the library is at work in this thread, so that nested levels read its operations rightly.

A derivative level sees every operation below it, the user's and those of levels nested inside it. A user's `detach` or
`no_grad` stops derivatives; the same calls made by an inner level's replay do not. `library_code` marks the latter.
"""

from __future__ import annotations

import threading
from types import TracebackType

import torch


class _State(threading.local):
    stops: bool | None = None  # None: the user's code runs, and torch's own grad mode counts


current = _State()


class library_code:
    """While open in this thread, operations are the library's own; `stops` says whether derivatives stop at them."""

    __slots__ = ("_before", "_stops")

    def __init__(self, stops: bool = False) -> None:
        self._stops = stops

    def __enter__(self) -> None:
        self._before = current.stops
        current.stops = self._stops

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        current.stops = self._before


def in_library_code() -> bool:
    """True inside `library_code`."""
    return current.stops is not None


def derivatives_stop() -> bool:
    """True where an operation's result carries no derivative: under the user's `no_grad`, or a replay of it."""
    return not torch.is_grad_enabled() if current.stops is None else current.stops
