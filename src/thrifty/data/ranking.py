"""How good the first k of a ranking are where a row has several right labels: P@k, PSP@k, nDCG@k, HR@k.

P@k is the share of right ones among the first k; HR@k whether there is one. nDCG@k discounts by place, over what a
perfect ranking reaches. PSP@k counts a label by the inverse of its propensity, so that rare labels weigh more (Jain,
Prabhu & Varma, KDD 2016), over the best that could be reached, as the extreme-classification repository reports it.
Rows without a label count in none of them. torchmetrics has no PSP@k, and takes the others a query at a time.
"""

import torch
from torch import Tensor

from thrifty.core.errors import UsageError

from .xc import SparseRows


def propensities(labels: Tensor, classes: int, rows: int, a: float = 0.55, b: float = 1.5) -> Tensor:
    """How likely a right label was noted down, float64 (classes,), from all labels of the training rows.

    `a` and `b` are 0.6 and 2.6 for the Amazon sets, 0.5 and 0.4 for WikiLSHTC.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    c = (torch.tensor(rows, dtype=torch.float64).log() - 1) * (b + 1) ** a
    return 1 / (1 + c * (counts + b) ** -a)


class Ranking:
    """The first K labels of every row against the right ones.

    Args:
        top: int64 (rows, K), best first; -1 for none.
        truth: the rows with their labels.

    Raises:
        UsageError: for another number of rows, and where no row has a label.
    """

    def __init__(self, top: Tensor, truth: SparseRows) -> None:
        if top.dim() != 2 or len(top) != len(truth):
            raise UsageError(f"a ranking of {tuple(top.shape)} does not fit {len(truth)} rows: expected (rows, K)")
        counts = truth.label_offsets.diff()
        if not bool((counts > 0).any()):
            raise UsageError("no row has a label, so there is nothing to be right about")
        rows = torch.repeat_interleave(torch.arange(len(truth)), counts)
        keys = rows * truth.classes + truth.labels
        asked = torch.arange(len(truth)).unsqueeze(1) * truth.classes + top
        self.hits = (torch.isin(asked, keys) & (top >= 0))[counts > 0]
        self.top, self.counts, self.truth = top[counts > 0], counts[counts > 0], truth
        self._rows = (counts > 0).cumsum(0)[rows] - 1

    def precision(self, k: int) -> float:
        """P@k."""
        return float(self.hits[:, :k].double().sum(1).mean() / k)

    def hit_rate(self, k: int) -> float:
        """HR@k."""
        return float(self.hits[:, :k].any(1).double().mean())

    def ndcg(self, k: int) -> float:
        """nDCG@k."""
        discount = 1 / (torch.arange(k, dtype=torch.float64) + 2).log2()
        gain = (self.hits[:, :k] * discount[: self.hits.shape[1]]).sum(1)
        return float((gain / discount.cumsum(0)[self.counts.clamp(max=k) - 1]).mean())

    def psp(self, k: int, propensity: Tensor) -> float:
        """PSP@k under propensities (classes,)."""
        weight = 1 / propensity
        gained = float((self.hits[:, :k] * weight[self.top[:, :k].clamp(min=0)]).sum())
        # every row's labels, heaviest first, and the place of each within its row
        mine = weight[self.truth.labels]
        order = mine.argsort(descending=True, stable=True)
        order = order[self._rows[order].argsort(stable=True)]
        firsts = torch.nn.functional.pad(self.counts.cumsum(0), (1, 0))[:-1]
        place = torch.arange(len(order)) - firsts[self._rows[order]]
        return gained / float(mine[order][place < k].sum())
