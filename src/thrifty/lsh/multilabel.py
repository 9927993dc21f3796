"""LSHMultiLabelLoss: several labels a row among very many classes, at the cost of a few thousand.

`softmax`: the mean, over a row's labels, of log Z - score (as SLIDE; each row counts alike).
`bce`: one logistic loss a class, summed over the classes: labels at log(1 + e^-s), all others at log(1 + e^s). The
tail's terms are weighted by what they stand for, which makes the sum unbiased.
In eval mode the loss is the exact one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.errors import UsageError
from thrifty.lsh.head import HashedHead
from thrifty.lsh.labels import check_labels

LOSSES = ("softmax", "bce")


class LSHMultiLabelLoss(HashedHead):
    """Loss over several labels a row. Settings: see `HashedHead`, and `loss`: `softmax` or `bce`."""

    def __init__(
        self, in_features: int, n_classes: int, bias: bool = True, *, loss: str = "softmax", **settings: Any
    ) -> None:
        if loss not in LOSSES:
            raise UsageError(f"loss is {loss!r}: choose one of {', '.join(LOSSES)}")
        super().__init__(in_features, n_classes, bias, **settings)
        self.loss = loss

    @torch.compiler.disable
    def forward(self, x: Tensor, labels: Tensor, offsets: Tensor) -> Tensor:
        """The mean over rows of the loss of queries (R, D).

        Args:
            x: queries.
            labels: int64, those of all rows joined; row r has labels[offsets[r] : offsets[r + 1]], each once.
            offsets: int64 (R + 1,), from 0 to the number of labels. A row without labels counts in `bce`; in `softmax`
                it has no loss and is left out of the mean.

        Raises:
            UsageError: for shapes that do not fit, labels out of range, and for `softmax` a batch without labels.
            NonFiniteError: for NaN or infinity in `x` in training.
        """
        if x.dim() != 2 or x.shape[1] != self.in_features or offsets.shape != (x.shape[0] + 1,) or labels.dim() != 1:
            raise UsageError(
                f"queries {tuple(x.shape)}, labels {tuple(labels.shape)} and offsets {tuple(offsets.shape)} do not "
                f"fit: expected (R, {self.in_features}), (labels,) and (R + 1,)"
            )
        counts = offsets.diff()
        if int(offsets[0]) != 0 or int(offsets[-1]) != labels.numel() or bool((counts < 0).any()):
            raise UsageError(f"offsets must rise from 0 to the {labels.numel()} labels")
        if self.loss == "softmax" and not labels.numel():
            raise UsageError("the batch has no label: leave such batches out")
        check_labels(labels, self.n_classes)
        rows = torch.repeat_interleave(torch.arange(len(counts), device=x.device), counts)
        if not self.training:
            return self._loss(self.scores(x), rows, labels, counts, None)
        chosen = self.choose(x, labels)
        places = labels if len(chosen.ids) == self.n_classes else torch.searchsorted(chosen.ids, labels)
        return self.clocked(self._loss(chosen.scores, rows, places, counts, self.log_weights))

    def _loss(
        self, scores_RA: Tensor, rows: Tensor, places: Tensor, counts: Tensor, log_weights: Tensor | None
    ) -> Tensor:
        with self.stages.timed("gemm"):
            if self.loss == "softmax":
                positive = scores_RA[rows, places]
                weights = 1.0 / counts.clamp(min=1).to(scores_RA.dtype)
                total = (torch.logsumexp(scores_RA, 1) * (counts > 0)).sum() - (positive * weights[rows]).sum()
                return total / (counts > 0).sum()
            if log_weights is None:
                wanted_RA = torch.zeros_like(scores_RA, requires_grad=False)
                wanted_RA[rows, places] = 1.0
                loss = nn.functional.binary_cross_entropy_with_logits(scores_RA, wanted_RA, reduction="sum")
                return loss / len(counts)
            # log(1 + e^-s) = log(1 + e^s) - s, so a label's term is that of another class, less its score
            # (for a softmax the tail's weight is in the scores, as a logarithm)
            every = nn.functional.softplus(scores_RA - log_weights) * log_weights.exp()
            return (every.sum() - scores_RA[rows, places].sum()) / len(counts)
