"""Levels for the channels of an activation, and the table of products that they make. See README.md here.

Every channel gets 2^B levels by Lloyd's rounds on a sample (Lloyd 1982, Max 1960), vectorised over the channels. Behind
a ReLU level 0 is exactly zero. A level's value is the mean of the sample's members: the least-squares choice
for the products too as long as channels are independent; what they share is not corrected.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 12


@dataclass(frozen=True)
class Levels:
    """Thresholds (2^B - 1, C), rising along the first axis, and values (2^B, C); `zero`: level 0 is exactly zero."""

    thresholds: Tensor
    values: Tensor
    zero: bool

    @property
    def bits(self) -> int:
        """B."""
        return int(self.values.shape[0]).bit_length() - 1


def fit_levels(sample_PC: Tensor, bits: int) -> Levels:
    """Levels of B bits for rows (P, C) of finite float32 numbers, P at least 1."""
    zero = bool((sample_PC >= 0).all())
    count = 2**bits
    sorted_CP = sample_PC.T.contiguous().sort(dim=1).values
    # Double sums: a level's total is the difference of two of them.
    sums_CP = torch.nn.functional.pad(sorted_CP.double().cumsum(1), (1, 0))
    values_CQ = _start(sorted_CP, count, zero)
    for _ in range(ROUNDS):
        cuts_CT = (values_CQ[:, 1:] + values_CQ[:, :-1]) / 2
        means_CQ = _means(sorted_CP, sums_CP, cuts_CT.contiguous(), values_CQ)
        if zero:
            means_CQ[:, 0] = 0
        values_CQ = means_CQ.cummax(dim=1).values
    cuts_CT = (values_CQ[:, 1:] + values_CQ[:, :-1]) / 2
    return Levels(cuts_CT.T.contiguous(), values_CQ.T.contiguous(), zero)


def quantised(rows_PC: Tensor, levels: Levels) -> Tensor:
    """The rows with every value replaced by its level's."""
    index = torch.searchsorted(levels.thresholds.T.contiguous(), rows_PC.T.contiguous())
    return levels.values.T.contiguous().gather(1, index).T


def _start(sorted_CP: Tensor, count: int, zero: bool) -> Tensor:
    """Half-way between even quantiles, which would waste levels on a crowd, and an even grid, which would on a tail."""
    low, high = sorted_CP[:, :1], sorted_CP[:, -1:]
    steps_Q = torch.linspace(0, 1, count)
    if zero:
        low = torch.zeros_like(low)
        positive = (sorted_CP > 0).sum(1, keepdim=True)
        first = sorted_CP.shape[1] - positive
        at = first + (steps_Q * (positive - 1).clamp_min(0)).long()
    else:
        at = (steps_Q * (sorted_CP.shape[1] - 1)).long().expand(sorted_CP.shape[0], -1)
    quantiles_CQ = sorted_CP.gather(1, at.clamp(0, sorted_CP.shape[1] - 1))
    values_CQ = (quantiles_CQ + low + (high - low) * steps_Q) / 2
    if zero:
        values_CQ[:, 0] = 0
    return values_CQ.cummax(dim=1).values


def _means(sorted_CP: Tensor, sums_CP: Tensor, cuts_CT: Tensor, old_CQ: Tensor) -> Tensor:
    """Mean of every level's members, from running sums; a level without members keeps its value."""
    ends_CT = torch.searchsorted(sorted_CP, cuts_CT)
    bounds = torch.nn.functional.pad(ends_CT, (1, 0))
    bounds = torch.nn.functional.pad(bounds, (0, 1), value=sorted_CP.shape[1])
    sizes_CQ = bounds[:, 1:] - bounds[:, :-1]
    totals_CQ = sums_CP.gather(1, bounds[:, 1:]) - sums_CP.gather(1, bounds[:, :-1])
    return torch.where(sizes_CQ > 0, totals_CQ / sizes_CQ.clamp_min(1), old_CQ.double()).float()


def table_of(weight_MCR: Tensor, values_QC: Tensor, length: int) -> Tensor:
    """Products of every code with the weights (M, C, taps), summed over the piece: (taps, G, 2^(B L), M) float32."""
    outputs, channels, taps = weight_MCR.shape
    count = values_QC.shape[0]
    groups = -(-channels // length)
    spare = groups * length - channels
    weight = torch.nn.functional.pad(weight_MCR, (0, 0, 0, spare)).view(outputs, groups, length, taps)
    values = torch.nn.functional.pad(values_QC, (0, spare)).view(count, groups, length)
    entries = count**length
    table = torch.zeros(taps, groups, entries, outputs)
    codes_E = torch.arange(entries)
    for i in range(length):
        level_E = codes_E // count**i % count
        table += torch.einsum("mgr,eg->rgem", weight[:, :, i], values[level_E, :, i])
    return table
