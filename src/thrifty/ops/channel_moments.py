"""channel_moments: sum and sum of squares of every channel, in one pass and double precision.

The mean centres the hash; both together give the quantisation error without comparing pieces with centroids.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op


def reference(x_PC: Tensor) -> Tensor:
    """(P, C) -> float64 (2, C): sums and sums of squares."""
    wide = x_PC.double()
    return torch.stack([wide.sum(0), wide.square().sum(0)])


def _run(x_PC: Tensor) -> Tensor:
    if x_PC.dim() != 2:
        raise ValueError(f"channel_moments: expected (P, C), got {tuple(x_PC.shape)}")
    if not use_native(x_PC):
        return reference(x_PC)
    moments_2C = torch.empty(2, x_PC.shape[1], dtype=torch.float64)
    native.channel_moments(x_PC.contiguous(), moments_2C[0], moments_2C[1])
    return moments_2C


def _fake(x_PC: Tensor) -> Tensor:
    return x_PC.new_empty(2, x_PC.shape[1], dtype=torch.float64)


channel_moments = Op(
    "channel_moments",
    "(Tensor x) -> Tensor",
    stage="hash",
    implementation=_run,
    fake=_fake,
)
