"""adam_rows and adam_skip: Adam on single rows, and what it would have done to a row while its gradient was zero.

Source: Kingma & Ba, 2015; Loshchilov & Hutter, 2019 (decay apart from the gradient). For a step j with gradient g

    p *= 1 - lr_j decay;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
    p -= rate_j m / (root_j sqrt(v) + eps),   rate_j = lr_j / (1 - b1^j),  root_j = 1 / sqrt(1 - b2^j)

and with g = 0 momentum still moves p. `adam_skip` does such steps for rows that were left out, all at once, so that a
row is where the dense optimizer would have put it. Predecessors either updated every row, which costs more than the
layer itself, or let skipped rows stand still, which is another optimizer.
All of p, m, v are (N, D), updated in place; `last` int32 (N,) is the step that a row has seen.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native


class AdamHistory(NamedTuple):
    """What each step did, float64 by step; index 0 is before the first. shrink: sum of log(1 - lr decay) so far."""

    rate: Tensor
    root: Tensor
    shrink: Tensor


def skip_reference(
    rows: Tensor, now: int, history: AdamHistory, beta1: float, beta2: float, eps: float,
    p: Tensor, m: Tensor, v: Tensor, last: Tensor,
) -> None:  # fmt: skip
    """Step by step, every row from where it stands."""
    first = int(last[rows].min()) + 1 if rows.numel() else now + 1
    for j in range(first, now + 1):
        late = rows[last[rows] < j]
        m[late] *= beta1
        v[late] *= beta2
        keep = float((history.shrink[j] - history.shrink[j - 1]).exp())
        by = float(history.rate[j]) * m[late] / (float(history.root[j]) * v[late].sqrt() + eps)
        p[late] = p[late] * keep - torch.where(m[late] == 0, 0.0, by)
    last[rows] = torch.clamp(last[rows], min=now)


def adam_skip(
    rows: Tensor, now: int, history: AdamHistory, beta1: float, beta2: float, eps: float,
    p: Tensor, m: Tensor, v: Tensor, last: Tensor,
) -> None:  # fmt: skip
    """Bring `rows` (int64, each once) up to step `now`, in place."""
    if use_native(p, m, v):
        native.adam_skip(rows, now, *history, beta1, beta2, eps, p, m, v, last)
    else:
        skip_reference(rows, now, history, beta1, beta2, eps, p, m, v, last)


def rows_reference(
    rows: Tensor, gradient: Tensor, now: int, keep: float, rate: float, root: float, beta1: float, beta2: float,
    eps: float, p: Tensor, m: Tensor, v: Tensor, last: Tensor,
) -> None:  # fmt: skip
    """One step of the rows that have a gradient."""
    m[rows] = beta1 * m[rows] + (1 - beta1) * gradient
    v[rows] = beta2 * v[rows] + (1 - beta2) * gradient.square()
    p[rows] = p[rows] * keep - rate * m[rows] / (root * v[rows].sqrt() + eps)
    last[rows] = now


def adam_rows(
    rows: Tensor, gradient: Tensor, now: int, keep: float, rate: float, root: float, beta1: float, beta2: float,
    eps: float, p: Tensor, m: Tensor, v: Tensor, last: Tensor,
) -> None:  # fmt: skip
    """Do step `now` for `rows` (int64, each once) with their gradient (R, D), in place."""
    if use_native(p, m, v, gradient):
        native.adam_rows(
            rows, gradient.contiguous(), now, keep, rate, root, beta1, beta2, eps, p, m, v, last
        )  # fmt: skip
    else:
        rows_reference(rows, gradient, now, keep, rate, root, beta1, beta2, eps, p, m, v, last)
