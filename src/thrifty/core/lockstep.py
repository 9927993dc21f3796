"""Staying in step with the other processes that train the same model: collectives, many times in a training.

A collective is quick, and says of a lost rank only that something broke. Before a training, when it matters who is
missing or differs and in what, processes exchange texts through the group's store: see `distributed.agreement`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from thrifty.core.errors import DistributedError


def mean_over(group: Any, values: Sequence[float]) -> list[float]:
    """Element by element mean over the ranks of a process group, in float64; all of its ranks call it.

    Raises:
        DistributedError: a rank was lost.
    """
    tensor = torch.tensor(values, dtype=torch.float64)
    with lost("an agreement"):
        dist.all_reduce(tensor, group=group)
    return [float(value) for value in tensor / dist.get_world_size(group)]


def apart() -> bool:
    """Whether this process is one of several that torch knows of."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def lost(what: str) -> Iterator[None]:
    """Turn torch's errors of a collective into one line: some rank is gone, or does something else.

    Raises:
        DistributedError: in place of a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DistributedError(f"a worker was lost during {what} ({reason}): see what the other workers say") from error
