"""What `memory=` may be: bytes, a number of snapshots, "log", or None."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thrifty.core.errors import UsageError

_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")

Memory = int | str | None


@dataclass(frozen=True)
class Budget:
    """A parsed `memory=`: exactly one of the three is set.

    Attributes:
        snapshots: how many states to keep, the start among them.
        logarithmic: as many as the logarithm of the length.
        limit_bytes: bytes of tensors that the run makes.
    """

    snapshots: int | None = None
    logarithmic: bool = False
    limit_bytes: int | None = None


def parse_memory(memory: Memory) -> Budget | None:
    """Read `memory`; None is plain, without checkpoints.

    Args:
        memory: `"512MiB"` and the like are bytes, `"log"` grows with the logarithm of the length, a whole number is a
            number of snapshots.

    Raises:
        UsageError: anything else, or a number below 1.
    """
    if memory is None:
        return None
    if memory == "log":
        return Budget(logarithmic=True)
    if type(memory) is int:
        if memory < 1:
            raise UsageError(f"memory={memory}: a number of snapshots must be at least 1")
        return Budget(snapshots=memory)
    if isinstance(memory, str):
        found = _SIZE.fullmatch(memory)
        if found is not None and found[2] and found[2].lower() in _UNITS:
            size = int(float(found[1]) * _UNITS[found[2].lower()])
            if size > 0:
                return Budget(limit_bytes=size)
    raise UsageError(
        f"memory={memory!r}: give bytes with their unit as '512MiB' or '2GB', 'log', a number of snapshots, or None"
    )
