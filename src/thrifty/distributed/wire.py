"""The mean of a flat tensor over a group, with few bits on the wire and the sum in 32.

An all-reduce of 16-bit values rounds at every hop of its ring, so its error grows with the group. Here the two halves
of an all-reduce are made by hand: every rank sends each other rank its piece, rounded once; the owner of a piece sums
in fp32, divides, rounds once; the pieces are gathered. Traffic is that of a ring, 2 (N - 1) / N of the tensor. With
unit roundoff u (2^-8 for bf16, 2^-11 for fp16), for gradients g_i:

    | result - mean(g_i) |  <=  u mean |g_i|  +  u |mean(g_i)|  +  terms of u^2

The owner sends what it keeps, so all ranks hold the same bits. A value beyond the range of fp16 becomes an infinity on
all ranks, which is what a gradient scaler looks for.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from thrifty.core.errors import UsageError

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
WIRES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def wire_dtype(name: str) -> torch.dtype:
    """The format of this name. Raises UsageError for another."""
    if name not in WIRES:
        raise UsageError(f"unknown wire format {name!r}: choose one of {', '.join(WIRES)}")
    return WIRES[name]


def average(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup) -> None:
    """Replace `x_N` by its mean over `group`, on all of its ranks alike.

    Args:
        x_N: (N,), contiguous, of 32 bits or more.
        dtype: format on the wire; fp32 is torch's own all-reduce in the format of `x_N`.
        group: all of its ranks call this.
    """
    ranks = dist.get_world_size(group)
    if dtype is torch.float32:
        dist.all_reduce(x_N, group=group)
        x_N.mul_(1.0 / ranks)
        return
    sent = _pieces(x_N, dtype, ranks)
    received = torch.empty_like(sent)
    dist.all_to_all_single(_bits(received), _bits(sent), group=group)
    mean = received.sum(0, dtype=torch.float32).mul_(1.0 / ranks).to(dtype)
    _all_gather(_bits(sent).view(-1), _bits(mean), group=group)
    x_N.copy_(sent.view(-1)[: len(x_N)])


def sum_among(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup, members: Sequence[int]) -> None:
    """Replace `x_N` on some ranks of `group` by its sum over them; each of the two halves is one swap with every other.

    Args:
        x_N: (N,), contiguous, of 32 bits or more.
        dtype: format on the wire.
        group: which `members` are ranks of.
        members: who calls this, all of them in the same order.
    """
    me = list(members).index(dist.get_rank(group))
    sent = _pieces(x_N, dtype, len(members))
    received = torch.empty_like(sent)
    received[me] = sent[me]
    others = [(i, rank) for i, rank in enumerate(members) if i != me]
    _swap([(sent[i], rank) for i, rank in others], [(received[i], rank) for i, rank in others], group)
    own = received.sum(0, dtype=torch.promote_types(x_N.dtype, torch.float32)).to(dtype)
    sent[me] = own
    _swap([(own, rank) for _, rank in others], [(sent[i], rank) for i, rank in others], group)
    x_N.copy_(sent.view(-1)[: len(x_N)])


def sum_to_first(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup, members: Sequence[int]) -> None:
    """Replace `x_N` on the first of `members` by the sum over them, in fp32 of values rounded to `dtype`."""
    first, *others = members
    sent = x_N.to(dtype)
    if dist.get_rank(group) != first:
        _swap([(sent, first)], [], group)
        return
    received = [torch.empty_like(sent) for _ in others]
    _swap([], list(zip(received, others, strict=True)), group)
    x_N.copy_(sent)
    for part in received:
        x_N.add_(part)


def copy_from_first(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup, members: Sequence[int]) -> None:
    """Replace `x_N` on all `members` by that of the first one, rounded to `dtype`."""
    first, *others = members
    sent = x_N.to(dtype)
    leads = dist.get_rank(group) == first
    _swap([(sent, rank) for rank in others] if leads else [], [] if leads else [(sent, first)], group)
    x_N.copy_(sent)


def _pieces(x_N: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """(count, ceil(N / count)): the values rounded to `dtype`, with zeros behind them."""
    pieces = torch.zeros(count, -(-len(x_N) // count), dtype=dtype, device=x_N.device)
    pieces.view(-1)[: len(x_N)] = x_N
    return pieces


def _swap(
    sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]], group: dist.ProcessGroup
) -> None:
    """Send and receive tensors to and from ranks of `group`, all at once.

    Point to point on the one group: groups of some ranks only would have to be made by all, in the same order.
    """
    operations = [
        *(dist.P2POp(dist.isend, _bits(x), group=group, group_peer=rank) for x, rank in sends),
        *(dist.P2POp(dist.irecv, _bits(x), group=group, group_peer=rank) for x, rank in receives),
    ]
    for work in dist.batch_isend_irecv(operations) if operations else []:
        work.wait()


def _bits(x: Tensor) -> Tensor:
    """16-bit values as bytes: they are only moved, and not every backend moves every format."""
    return x.view(torch.uint8) if x.dtype in (torch.float16, torch.bfloat16) else x
