"""The cost of an all-reduce over n workers from the properties of a link, by algorithm.

alpha is the latency of a message, beta the seconds a byte takes on the link, gamma those that adding it up takes:

    ring               2 (n-1) alpha            + m (2 beta + gamma) (n-1)/n
    halving-doubling   2 log2(n) alpha          + m (2 beta + gamma) (n-1)/n     (*)
    hierarchical       4 (k-1) alpha_in + 2 (n/k-1) alpha + m (4 beta_in + gamma) (k-1)/k + m (2 beta + gamma) (1 - k/n)

(*) and 2 alpha + 2 m beta where n is no power of two. Hierarchical, as in Jia et al. (arXiv 1807.11205): reduce in
groups of k to a leader, ring among the leaders, broadcast in the groups. The first two: Thakur, Rabenseifner & Gropp
(IJHPCA 2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from thrifty.core.errors import UsageError
from thrifty.distributed.cost import TransferCost


@dataclass(frozen=True)
class Link:
    """A network.

    Attributes:
        latency_s: of a message between two workers.
        bytes_per_s: between two workers, in each direction.
        local_latency_s: between two workers of a group; that of the network where None.
        local_bytes_per_s: within a group; that of the network where None.
        add_bytes_per_s: at which a worker adds up what it receives.
    """

    latency_s: float
    bytes_per_s: float
    local_latency_s: float | None = None
    local_bytes_per_s: float | None = None
    add_bytes_per_s: float = 100e9

    def __post_init__(self) -> None:
        speeds = (self.bytes_per_s, self.add_bytes_per_s, self.local_bytes_per_s or 1.0)
        latencies = (self.latency_s, self.local_latency_s or 0.0)
        if not all(speed > 0 for speed in speeds) or not all(0 <= value < math.inf for value in latencies):
            raise UsageError("a link has a positive bandwidth and a latency that is not negative")


def ring(workers: int, link: Link) -> TransferCost:
    """A flat ring over all workers."""
    return TransferCost.linear(2 * (workers - 1) * link.latency_s, _ring_byte_s(workers, link))


def halving_doubling(workers: int, link: Link) -> TransferCost:
    """Recursive halving, then doubling; workers beyond a power of two hand theirs over first."""
    powers = 2 ** int(math.log2(workers))
    startup = 2 * math.log2(powers) * link.latency_s
    byte_s = _ring_byte_s(powers, link)
    if workers > powers:
        startup += 2 * link.latency_s
        byte_s += 2 / link.bytes_per_s
    return TransferCost.linear(startup, byte_s)


def hierarchical(workers: int, link: Link, group: int) -> TransferCost:
    """Reduce in groups, a ring of the leaders, broadcast in groups."""
    if workers % group:
        raise UsageError(f"groups of {group} do not part {workers} workers")
    local_latency = link.latency_s if link.local_latency_s is None else link.local_latency_s
    local_byte = 1 / (link.local_bytes_per_s or link.bytes_per_s)
    leaders = workers // group
    startup = 4 * (group - 1) * local_latency + 2 * (leaders - 1) * link.latency_s
    byte_s = (4 * local_byte + 1 / link.add_bytes_per_s) * (group - 1) / group + _ring_byte_s(leaders, link)
    return TransferCost.linear(startup, byte_s)


def _ring_byte_s(workers: int, link: Link) -> float:
    return (2 / link.bytes_per_s + 1 / link.add_bytes_per_s) * (workers - 1) / workers


def group_sizes(workers: int) -> list[int]:
    """Sizes of groups that part the workers into two levels: divisors but one and all."""
    return [k for k in range(2, workers) if workers % k == 0]


FLAT: dict[str, Callable[[int, Link], TransferCost]] = {"ring": ring, "halving-doubling": halving_doubling}
HIERARCHICAL = "hierarchical"
ALGORITHMS = (*FLAT, HIERARCHICAL)
