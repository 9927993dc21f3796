"""What can go wrong with a derivative: each message is one line that says what to change."""

from __future__ import annotations

from thrifty.core.errors import ThriftyError, UsageError


class EscapedValueError(ThriftyError):
    """A value that depends on the input of a derivative call was used after that call had ended."""


class ReplayError(ThriftyError):
    """An operation that cannot be replayed faithfully, or a tensor that changed behind the record's back."""


class MemoryLimitError(UsageError):
    """A memory limit that is too small.

    Attributes:
        needed_bytes: the smallest limit that would do, as far as is known.
    """

    def __init__(self, message: str, needed_bytes: int | None = None) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
