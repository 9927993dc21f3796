"""SampledSoftmaxLoss: cross entropy against random classes, the plain rival of the hashed loss.

Source: Jean et al., ACL 2015; Bengio & Senecal, 2008. Shared negatives are drawn with replacement from a distribution
q; a score enters with -log(S q) (the expected count), so that the sum of exponentials is unbiased, and negatives that
are a row's label are masked out. Missing from PyTorch since it was asked for in 2017.
In eval mode the loss is the exact one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.errors import UsageError
from thrifty.core.seeds import derive_seed
from thrifty.lsh.draws import draws_by
from thrifty.lsh.head import HashedHead
from thrifty.lsh.labels import one_label_a_row


class SampledSoftmaxLoss(HashedHead):
    """Cross entropy with `samples` negatives a batch. Other settings: see `HashedHead`; there are no tables.

    Args:
        in_features: D.
        n_classes: N.
        bias: whether there is one.
        samples: negatives a batch.
        distribution: what they are drawn by; see `HashedHead`.
        settings: `sparse`, `device`, `dtype`, `hashing` (its seed) of `HashedHead`.

    Raises:
        UsageError: for settings that cannot be meant.
    """

    def __init__(
        self, in_features: int, n_classes: int, bias: bool = True, *, samples: int = 1024,
        distribution: str | Tensor = "uniform", **settings: Any,
    ) -> None:  # fmt: skip
        if samples < 1:
            raise UsageError(f"samples must be at least 1, got {samples}")
        super().__init__(in_features, n_classes, bias, when="dense", **settings)
        self.samples = samples
        self._draw_by(draws_by(distribution, n_classes))

    def topk(self, x: Tensor, k: int, **_: Any) -> tuple[Tensor, Tensor]:
        """The k best classes, exactly: there are no tables."""
        return super().topk(x, k, exact=True)

    @torch.compiler.disable
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of queries (..., D) with labels (...) in [0, N), or -100 for none.

        Raises:
            UsageError: for shapes that do not fit, labels out of range, and no label at all.
        """
        x_RD, labels_R = one_label_a_row(x, labels, self.in_features, self.n_classes)
        if not self.training:
            return nn.functional.cross_entropy(self.scores(x_RD), labels_R)
        return self._sampled(x_RD, labels_R)

    def _sampled(self, x_RD: Tensor, labels_R: Tensor) -> Tensor:
        draws = self.draws
        assert draws is not None
        negatives = draws.draw(self.samples, derive_seed(self.hashing.seed, "samples", self._step))
        self._step += 1
        ids, places = torch.cat([labels_R, negatives]).unique(return_inverse=True)
        weight_AD, bias_A = self.rows(ids)
        with self.stages.timed("gemm"):
            every_RA = nn.functional.linear(x_RD, weight_AD, bias_A)
            positive_R1 = every_RA.gather(1, places[: len(labels_R)].unsqueeze(1))
            at = places[len(labels_R) :]
            expected = draws.log_q[ids[at]] + math.log(self.samples)
            negative_RS = every_RA[:, at] - expected
            negative_RS = negative_RS.masked_fill(labels_R.unsqueeze(1) == negatives, -torch.inf)
            target = torch.zeros(len(labels_R), dtype=torch.int64)
            return self.clocked(nn.functional.cross_entropy(torch.cat([positive_R1, negative_RS], 1), target))
