"""Ways of a gradient through the machines: flat, hierarchical, or by its size whichever is faster.

Source: Jia et al. (arXiv 1807.11205): ranks of one machine reduce to a leader, the leaders all-reduce, each broadcasts:
4 (k - 1) + 2 (P / k - 1) steps of latency for P ranks in groups of k, against 2 (P - 1) of a flat ring. The ring moves
fewer bytes over the slowest link, so it wins for large tensors; their hybrid switches by size. Their switch point was
tuned by hand, `measure_switch` measures it on the live group.
Error, with 16 bits on the wire: hierarchical rounds three times (member, leader, mean), flat twice; see `wire`.
"""

import socket
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.distributed.wire import average, copy_from_first, sum_among, sum_to_first

Route = Callable[[Tensor], None]
"""Replaces a flat tensor by its mean over the ranks, in place."""
Groups = tuple[tuple[int, ...], ...]

PROBED_BYTES = tuple(4096 << 2 * power for power in range(6))  # 4 KiB to 4 MiB
_REPEATS = 5


def detect_groups(group: dist.ProcessGroup | None = None) -> Groups:
    """Ranks of `group` that run on one machine, by the name of its host; machines in the order of their first rank."""
    found: list[str] = [""] * dist.get_world_size(group)
    dist.all_gather_object(found, socket.gethostname(), group=group)
    return tuple(tuple(rank for rank, host in enumerate(found) if host == name) for name in dict.fromkeys(found))


def check_groups(groups: Sequence[Sequence[int]], ranks: int) -> Groups:
    """Return `groups` as tuples. Raises UsageError unless every one of `ranks` ranks is in exactly one of them."""
    listed = sorted(rank for members in groups for rank in members)
    if listed != list(range(ranks)) or not all(groups):
        raise UsageError(f"groups {groups} must hold each of the ranks 0 to {ranks - 1} once, and none may be empty")
    return tuple(tuple(members) for members in groups)


class Flat:
    """One exchange among all ranks of a group."""

    def __init__(self, dtype: torch.dtype, group: dist.ProcessGroup) -> None:
        self._dtype, self._group = dtype, group

    def __call__(self, x_N: Tensor) -> None:
        """Replace (N,) by its mean."""
        average(x_N, self._dtype, self._group)


class Hierarchical:
    """Sum to the leader of each group, mean among the leaders, copies to the others.

    Args:
        dtype: format on the wire.
        group: whose ranks take part.
        groups: its ranks, counted within it, by group; the first of each leads.
    """

    def __init__(self, dtype: torch.dtype, group: dist.ProcessGroup, groups: Groups) -> None:
        self._dtype, self._group = dtype, group
        rank = dist.get_rank(group)
        self._own = next(members for members in groups if rank in members)
        self._leaders = tuple(members[0] for members in groups)
        self._leads = rank in self._leaders
        self._scale = 1.0 / dist.get_world_size(group)

    def __call__(self, x_N: Tensor) -> None:
        """Replace (N,) by its mean."""
        if len(self._own) > 1:
            sum_to_first(x_N, self._dtype, self._group, self._own)
        if self._leads:
            x_N.mul_(self._scale)  # before the leaders round: a sum may be too large for fp16
            if len(self._leaders) > 1:
                sum_among(x_N, self._dtype, self._group, self._leaders)
        if len(self._own) > 1:
            copy_from_first(x_N, self._dtype, self._group, self._own)


class BySize:
    """The hierarchical route below `switch_bytes` of fp32 gradients, the flat one from there on."""

    def __init__(self, flat: Route, hierarchical: Route, switch_bytes: int) -> None:
        self._flat, self._hierarchical, self.switch_bytes = flat, hierarchical, switch_bytes

    def __call__(self, x_N: Tensor) -> None:
        """Replace (N,) by its mean."""
        (self._hierarchical if 4 * x_N.numel() < self.switch_bytes else self._flat)(x_N)


def measure_switch(
    flat: Route, hierarchical: Route, group: dist.ProcessGroup, device: torch.device | str = "cpu"
) -> int:
    """Bytes from which the flat route is the faster one on this group, the same answer on all ranks.

    Both routes take turns at each of `PROBED_BYTES`; the slowest rank's median counts. The switch lies behind the
    largest size at which hierarchical was faster: 0 where it never was.
    """
    medians = torch.zeros(len(PROBED_BYTES), 2, dtype=torch.float64)
    for i, size_bytes in enumerate(PROBED_BYTES):
        x_N = torch.ones(size_bytes // 4, device=device)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(2 * _REPEATS):
            dist.barrier(group=group)
            start = time.perf_counter()
            (flat, hierarchical)[turn % 2](x_N)
            if x_N.is_cuda:
                torch.cuda.synchronize()
            seconds[turn % 2].append(time.perf_counter() - start)
        medians[i] = torch.tensor([statistics.median(of_route) for of_route in seconds])
    medians = medians.to(device)
    dist.all_reduce(medians, op=dist.ReduceOp.MAX, group=group)
    better = [size for size, (f, h) in zip(PROBED_BYTES, medians.tolist(), strict=True) if h < f]
    return 4 * max(better) if better else 0
