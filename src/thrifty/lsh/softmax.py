"""LSHSoftmaxLoss: cross entropy over very many classes at the cost of a few thousand.

    loss = log Z - score(label),   Z = sum over the head of e^s  +  (N - |head|) / |tail| * sum over the tail of e^s

Z is an unbiased estimate of the full sum for any head, because the tail is drawn uniformly from what is not in it; the
tables make it a good one by putting the large terms into the head. Sources: see `ops.active_set`.
In eval mode the loss is the exact one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thrifty.core.errors import UsageError
from thrifty.lsh.head import HashedHead, check_labels


class LSHSoftmaxLoss(HashedHead):
    """Cross entropy of a wide output layer, which it holds: `loss(hidden, labels)` instead of a layer and a loss.

    Settings: see `HashedHead`; `ignore_index` and the mean over the labels are as in `nn.CrossEntropyLoss`.
    """

    ignore_index = -100

    @torch.compiler.disable
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of queries (..., D) with labels (...) in [0, N) or `ignore_index`.

        Raises:
            UsageError: for shapes that do not fit, labels out of range, and no label at all.
            NonFiniteError: for NaN or infinity in `x` in training.
        """
        if x.shape[-1] != self.in_features or x.shape[:-1] != labels.shape:
            raise UsageError(
                f"queries {tuple(x.shape)} and labels {tuple(labels.shape)} do not fit: expected (..., "
                f"{self.in_features}) and (...)"
            )
        x_RD, labels_R = x.reshape(-1, self.in_features), labels.reshape(-1)
        counts = labels_R != self.ignore_index
        if not bool(counts.all()):
            x_RD, labels_R = x_RD[counts], labels_R[counts]
        if not labels_R.numel():
            raise UsageError("the batch has no label: leave such batches out")
        check_labels(labels_R, self.n_classes)
        if not self.training:
            return nn.functional.cross_entropy(self.scores(x_RD), labels_R)
        chosen = self.choose(x_RD, labels_R)
        places = torch.searchsorted(chosen.ids, labels_R)
        with self.stages.timed("gemm"):
            return nn.functional.cross_entropy(chosen.scores, places)
