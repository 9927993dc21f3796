"""LSHSoftmaxLoss: cross entropy over very many classes at the cost of a few thousand.

    loss = log Z - score(label),   Z = sum over the head of e^s  +  (N - |head|) / |tail| * sum over the tail of e^s

Z is an unbiased estimate of the full sum for any head, because the tail is drawn uniformly from what is not in it; the
tables make it a good one by putting the large terms into the head. Sources: see `ops.active_set`.
In eval mode the loss is the exact one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thrifty.lsh.head import HashedHead
from thrifty.lsh.labels import one_label_a_row


class LSHSoftmaxLoss(HashedHead):
    """Cross entropy of a wide output layer, which it holds: `loss(hidden, labels)` instead of a layer and a loss.

    Settings: see `HashedHead`; the label -100 and the mean over the labels are as in `nn.CrossEntropyLoss`.
    """

    @torch.compiler.disable
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of queries (..., D) with labels (...) in [0, N), or -100 for none.

        Raises:
            UsageError: for shapes that do not fit, labels out of range, and no label at all.
            NonFiniteError: for NaN or infinity in `x` in training.
        """
        x_RD, labels_R = one_label_a_row(x, labels, self.in_features, self.n_classes)
        if not self.training:
            return nn.functional.cross_entropy(self.scores(x_RD), labels_R)
        chosen = self.choose(x_RD, labels_R)
        places = torch.searchsorted(chosen.ids, labels_R)
        with self.stages.timed("gemm"):
            return self.clocked(nn.functional.cross_entropy(chosen.scores, places))
