"""The mean of a flat tensor over a group, with few bits on the wire and the sum in 32.

An all-reduce of 16-bit values rounds at every hop of its ring, so its error grows with the group. Here the two halves
of an all-reduce are made by hand: every rank sends each other rank its piece, rounded once; the owner of a piece sums
in fp32, divides, rounds once; the pieces are gathered. Traffic is that of a ring, 2 (N - 1) / N of the tensor. With
unit roundoff u (2^-8 for bf16, 2^-11 for fp16), for gradients g_i:

    | result - mean(g_i) |  <=  u mean |g_i|  +  u |mean(g_i)|  +  terms of u^2

The owner sends what it keeps, so all ranks hold the same bits. A value beyond the range of fp16 becomes an infinity on
all ranks, which is what a gradient scaler looks for.
"""

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


def average(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup | None, *, scale: float | None = None) -> None:
    """Replace `x_N` by its mean over `group`, on all of its ranks alike.

    Args:
        x_N: (N,), contiguous, fp32 or of the wire's format.
        dtype: format on the wire; fp32 is torch's own all-reduce in the format of `x_N`.
        group: all ranks where None.
        scale: what the sum is multiplied with; 1 / ranks where None.
    """
    ranks = dist.get_world_size(group)
    scale = 1.0 / ranks if scale is None else scale
    if dtype is torch.float32:
        dist.all_reduce(x_N, group=group)
        x_N.mul_(scale)
        return
    piece = -(-len(x_N) // ranks)
    sent = torch.zeros(ranks, piece, dtype=dtype, device=x_N.device)
    sent.view(-1)[: len(x_N)] = x_N
    received = torch.empty_like(sent)
    dist.all_to_all_single(_bits(received), _bits(sent), group=group)
    mean = received.sum(0, dtype=torch.float32).mul_(scale).to(dtype)
    _all_gather(_bits(sent).view(-1), _bits(mean), group=group)
    x_N.copy_(sent.view(-1)[: len(x_N)])


def sum_to_first(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup | None) -> None:
    """Replace `x_N` on the first rank of `group` by the sum over its ranks, in fp32 of values rounded to `dtype`."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if dtype is torch.float32:
        dist.reduce(x_N, group_dst=0, group=group)
        return
    sent = x_N.to(dtype)
    received = [torch.empty_like(sent) for _ in range(ranks)] if rank == 0 else None
    dist.gather(_bits(sent), [_bits(part) for part in received] if received else None, group_dst=0, group=group)
    if received:
        x_N.zero_()
        for part in received:
            x_N.add_(part)


def copy_from_first(x_N: Tensor, dtype: torch.dtype, group: dist.ProcessGroup | None) -> None:
    """Replace `x_N` on all ranks of `group` by that of its first one, rounded to `dtype`."""
    sent = x_N.to(dtype)
    dist.broadcast(_bits(sent), group_src=0, group=group)
    if sent is not x_N:
        x_N.copy_(sent)


def _bits(x: Tensor) -> Tensor:
    """16-bit values as bytes: they are only moved, and not every backend moves every format."""
    return x.view(torch.uint8) if x.dtype in (torch.float16, torch.bfloat16) else x
