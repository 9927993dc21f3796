"""Rules by which gradients are merged into buckets: those in use and those published, all as counts of gradients.

Every rule takes the profile and the cost and answers with the number of gradients in each bucket, in ready order, so
that all are judged by the same recurrence (see `schedule`). The optimum is in `optimum`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thrifty.distributed.cost import TransferCost
from thrifty.distributed.profile import GradientProfile

MIB = 2**20
DDP_FIRST_BYTES, DDP_CAP_BYTES = 1 * MIB, 25 * MIB
"""DistributedDataParallel's defaults: a small first bucket, then 25 MiB."""
THRESHOLD_BYTES = 4 * MIB

Rule = Callable[[GradientProfile, TransferCost], list[int]]


def per_tensor(profile: GradientProfile, cost: TransferCost) -> list[int]:
    """One transfer a gradient (wait-free backpropagation, WFBP)."""
    return [1] * len(profile.names)


def single(profile: GradientProfile, cost: TransferCost) -> list[int]:
    """One transfer of everything after the backward pass (bulk-synchronous; SyncEASGD)."""
    return [len(profile.names)]


def ddp_default(profile: GradientProfile, cost: TransferCost) -> list[int]:
    """DistributedDataParallel without a cap of the user's: 1 MiB, then 25 MiB."""
    return capped(profile.sizes_bytes, [DDP_FIRST_BYTES, DDP_CAP_BYTES])


def threshold(profile: GradientProfile, cost: TransferCost) -> list[int]:
    """A fixed threshold, the same for every model and link: a bucket goes out when it has 4 MiB."""
    return capped(profile.sizes_bytes, [THRESHOLD_BYTES])


def capped(sizes_bytes: Sequence[int], caps_bytes: Sequence[int]) -> list[int]:
    """Bucket as DistributedDataParallel does: a bucket closes when it reaches its cap; the last cap goes on."""
    counts: list[int] = []
    held, count = 0, 0
    for size in sizes_bytes:
        held, count = held + size, count + 1
        if held >= caps_bytes[min(len(counts), len(caps_bytes) - 1)]:
            counts.append(count)
            held, count = 0, 0
    return [*counts, count] if count else counts


def mg_wfbp(profile: GradientProfile, cost: TransferCost) -> list[int]:
    """The greedy rule of MG-WFBP (Shi, Chu & Li, INFOCOM 2019), as its authors' code has it.

    On the straight line a + b m nearest to the cost and one transfer at a time: merge a gradient into the next one when
    that is ready before its transfer is over, and either the channel is busy until then or the wait is shorter than a.
    """
    startup, per_byte = cost.fitted()
    n = len(profile.names)
    held = [float(size) for size in profile.sizes_bytes]
    taken = [startup + per_byte * size for size in held]
    start = _starts(profile.ready_s, taken)
    counts, count = [], 0
    for k in range(n - 1):
        count += 1
        next_ready = profile.ready_s[k + 1]
        if next_ready < start[k] + taken[k] and (start[k] > next_ready or next_ready - start[k] < startup):
            held[k + 1] += held[k]
            taken[k], taken[k + 1] = 0.0, startup + per_byte * held[k + 1]
            start = _starts(profile.ready_s, taken)
        else:
            counts.append(count)
            count = 0
    return [*counts, count + 1]


def _starts(ready_s: Sequence[float], taken: Sequence[float]) -> list[float]:
    starts, over = [], 0.0
    for ready, seconds in zip(ready_s, taken, strict=True):
        starts.append(max(ready, over))
        over = starts[-1] + seconds
    return starts


RIVALS: dict[str, Rule] = {
    "per-tensor": per_tensor,
    "single": single,
    "ddp-default": ddp_default,
    "threshold": threshold,
    "mg-wfbp": mg_wfbp,
}
"""Rules that DistributedDataParallel can carry out, by the name that tables show."""
