"""When the buckets of a plan are over: the recurrence that plans and simulations are judged by.

Buckets 1..n go out in order; bucket k is ready when its last gradient is, at r_k, and has m_k bytes. A channel carries
one transfer at a time, or two of which the wire carries one (see `cost`):

    one in flight    F_k = max(r_k, F_{k-1}) + T(m_k)
    two in flight    F_k = max(max(r_k, F_{k-2}) + startup(m_k), F_{k-1}) + wire(m_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thrifty.core.errors import UsageError
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.profile import GradientProfile


@dataclass(frozen=True)
class Timeline:
    """Seconds from the start of the backward pass, one number a bucket."""

    ready_s: tuple[float, ...]
    start_s: tuple[float, ...]
    end_s: tuple[float, ...]

    @property
    def over_s(self) -> float:
        """When the last bucket is over."""
        return max(self.end_s)


def timeline(profile: GradientProfile, counts: Sequence[int], cost: TransferCost, in_flight: int = 1) -> Timeline:
    """Run the recurrence over buckets of `counts` gradients each, in the order of the profile.

    Args:
        profile: the gradients.
        counts: gradients in each bucket, all at least 1; they add up to those of the profile.
        cost: of one transfer.
        in_flight: transfers at a time, 1 or 2.

    Raises:
        UsageError: counts that do not add up, or another number in flight.
    """
    check_in_flight(in_flight)
    if min(counts, default=0) < 1 or sum(counts) != len(profile.names):
        raise UsageError(f"buckets of {list(counts)} gradients do not part {len(profile.names)} gradients")
    ends = np.cumsum(counts)
    ready = np.asarray(profile.ready_s)[ends - 1]
    total = np.concatenate([[0], np.cumsum(profile.sizes_bytes, dtype=float)])
    size = total[ends] - total[ends - np.asarray(counts)]
    startup, wire = (cost.startup(size), cost.wire(size)) if in_flight == 2 else (0 * size, cost.alone(size))
    starts: list[float] = []
    over: list[float] = []
    before, last = 0.0, 0.0  # F_{k-2} and F_{k-1}
    for k in range(len(counts)):
        free = before if in_flight == 2 else last
        starts.append(max(float(ready[k]), free))
        before, last = last, max(starts[k] + float(startup[k]), last) + float(wire[k])
        over.append(last)
    return Timeline(tuple(map(float, ready)), tuple(starts), tuple(over))


def check_in_flight(in_flight: int) -> None:
    """Raise UsageError unless `in_flight` is 1 or 2."""
    if in_flight not in (1, 2):
        raise UsageError(f"transfers in flight are 1 or 2, got {in_flight!r}")
