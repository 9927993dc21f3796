"""Classes drawn by frequency: for the negatives of `SampledSoftmaxLoss` and the tail of the hashed losses.

Draws are with replacement from a distribution q. A class that stands for what was not drawn enters a sum with the
weight (times drawn) / (S q), which makes every sum over the classes unbiased for any q; the nearer q is to the terms of
the sum, the smaller the variance. Terms of a softmax over items follow their popularity, so q should.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from thrifty.core.errors import UsageError

DISTRIBUTIONS = ("uniform", "log-uniform")


class Draws(NamedTuple):
    """What classes are drawn by: `log_q` float32 (N,) and the cumulative sums of q, float64 (N,)."""

    log_q: Tensor
    cumulative: Tensor

    def draw(self, count: int, seed: int) -> Tensor:
        """So many classes, int64 (count,), independent of each other; the same ones from the same seed."""
        uniform = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = torch.searchsorted(self.cumulative, uniform * self.cumulative[-1], right=True)
        return found.clamp_(max=len(self.cumulative) - 1)

    def tail(self, head: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Classes drawn besides `head` (int64, ascending): ids (T,), ascending, and the logarithm of what each stands
        for, float32 (T,). Fewer than `count`, as some are drawn twice and some are in the head.
        """
        ids, times = self.draw(count, seed).unique(return_counts=True)
        if head.numel():
            outside = head[torch.searchsorted(head, ids).clamp_(max=len(head) - 1)] != ids
            ids, times = ids[outside], times[outside]
        return ids, times.float().log() - self.log_q[ids] - math.log(count)


def draws_by(distribution: str | Tensor, classes: int) -> Draws:
    """Uniform, log-uniform (classes sorted by falling frequency, Zipf's law) or by given frequencies (N,).

    Raises:
        UsageError: for an unknown name, and frequencies that are not N finite numbers from 0 on, not all 0.
    """
    if isinstance(distribution, Tensor):
        weights = distribution.double()
        total = float(weights.sum()) if weights.shape == (classes,) else math.nan
        if not (0 < total < math.inf) or not bool((weights >= 0).all()):
            raise UsageError(f"distribution must be {classes} numbers from 0 on, not all 0, got {tuple(weights.shape)}")
        weights = weights.clamp(min=1e-12 * total)  # every class can be drawn, so nothing is divided by 0
    elif distribution == "uniform":
        weights = torch.ones(classes, dtype=torch.float64)
    elif distribution == "log-uniform":
        weights = ((torch.arange(classes, dtype=torch.float64) + 2) / (torch.arange(classes) + 1).double()).log()
    else:
        raise UsageError(
            f"distribution is {distribution!r}: choose one of {', '.join(DISTRIBUTIONS)}, or give a tensor"
        )
    q = weights / weights.sum()
    return Draws(q.log().float(), q.cumsum(0))
