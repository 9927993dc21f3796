"""Telling a process that ran out of memory from one with a mistake: torch raises the same types for both."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from thrifty.core.errors import OutOfMemoryError

# What torch's CPU allocator, the C++ library, the operating system and the loader of libraries say.
_WORDS = (
    "can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory", "out of memory",
    "failed to map segment",
    "can't start new thread",
)  # fmt: skip
# oneDNN says no more than this; with "descriptor" behind it, it is something else.
_SENTENCES = ("could not create a primitive", "could not create a memory object")


def is_exhaustion(error: BaseException) -> bool:
    """Whether `error`, or what caused it, says that memory could not be had."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError | torch.OutOfMemoryError | OutOfMemoryError):
            return True
        if isinstance(found, RuntimeError | OSError | ImportError):
            said = str(found)
            if said.strip() in _SENTENCES or any(words in said for words in _WORDS):
                return True
        found = found.__cause__
    return False


@contextmanager
def told_as_exhaustion(advice: str) -> Iterator[None]:
    """Within `with`, running out of memory raises `OutOfMemoryError` with `advice`; other errors pass as they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_exhaustion(error):
            raise
        raise OutOfMemoryError(f"out of memory: {advice}") from error
