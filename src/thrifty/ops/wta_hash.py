"""wta_hash: which of a bin's features is the largest (winner takes all), densified for sparse rows.

Source: Yagnik et al., ICCV 2011; Chen & Shrivastava, UAI 2018 (densified). A table has K bins of m features each, drawn
without repetition within a bin; the winners are the digits of its code to the base m. A feature that is zero is
absent; a bin without features borrows the winner of another, picked by a hash of (bin, attempt) that is the same for
all rows. For two rows without zeros the collision probability of a bin is the share of the m-subsets of features whose
largest member is the same in both. Cost: R * T * K * m comparisons.
Deviation: digits to the base m, where predecessors packed floor(log(m)) bits with the natural logarithm, so that codes
overlapped.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op
from thrifty.ops._mix import draw_below, mix

ATTEMPTS = 100
MAX_CODES = 1 << 30


def reference(x_RD: Tensor, index_TKM: Tensor, attempts: int) -> Tensor:
    """Rows (R, D) -> codes (R, T)."""
    tables, bins, size = index_TKM.shape
    values = x_RD[:, index_TKM.reshape(-1, size).long()]
    there = (values != 0) & ~values.isnan()
    winners = torch.where(there, values, -torch.inf).argmax(-1)
    # argmax takes the first of equals, but -inf may be a present feature as well as an absent one
    first_there = there.to(torch.int8).argmax(-1)
    lowest = torch.where(there, values, -torch.inf).amax(-1) == -torch.inf
    winners = torch.where(lowest, first_there, winners)
    empty = ~there.any(-1)
    digits = winners.clone()
    for row, bin_ in empty.nonzero().tolist():
        digits[row, bin_] = 0
        for attempt in range(attempts):
            other = draw_below(mix(bin_ * attempts + attempt), tables * bins)
            if not empty[row, other]:
                digits[row, bin_] = winners[row, other]
                break
    powers_K = size ** torch.arange(bins - 1, -1, -1, dtype=torch.int64)
    return (digits.view(-1, tables, bins) * powers_K.to(digits.device)).sum(-1).to(torch.int32)


def _run(x_RD: Tensor, index_TKM: Tensor, attempts: int) -> Tensor:
    if x_RD.dim() != 2 or index_TKM.dim() != 3 or index_TKM.dtype != torch.int32:
        raise ValueError(
            f"wta_hash: x {tuple(x_RD.shape)} and index {tuple(index_TKM.shape)} {index_TKM.dtype} do not belong "
            "together: expected (R, D) and int32 (T, K, M)"
        )
    if index_TKM.shape[2] ** index_TKM.shape[1] > MAX_CODES:
        raise ValueError(f"wta_hash: {index_TKM.shape[2]} ** {index_TKM.shape[1]} codes are too many: at most 2^30")
    if not use_native(x_RD):
        return reference(x_RD, index_TKM, attempts)
    codes = torch.empty(x_RD.shape[0], index_TKM.shape[0], dtype=torch.int32)
    native.wta_hash(x_RD.contiguous(), index_TKM.contiguous(), attempts, codes)
    return codes


def _fake(x_RD: Tensor, index_TKM: Tensor, attempts: int) -> Tensor:
    return x_RD.new_empty(x_RD.shape[0], index_TKM.shape[0], dtype=torch.int32)


wta_hash = Op("wta_hash", "(Tensor x, Tensor index, int attempts) -> Tensor", stage="hash",
              implementation=_run, fake=_fake)  # fmt: skip
