"""sgd_rows and sgd_skip: SGD on single rows, and what it would have done to a row while its gradient was zero.

For a step j with gradient g, as torch.optim.SGD does it:

    g += decay p;  buffer = momentum buffer + g;  p -= lr_j (nesterov ? g + momentum buffer : buffer)

With g = 0 that is linear in (p, buffer), so the skipped steps of a row are one 2x2 matrix.
p and buffer are (N, D), updated in place; `last` int32 (N,) is the step that a row has seen.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native


def _move(
    rows: Tensor, gradient: Tensor | float, rate: float, momentum: float, decay: float, nesterov: bool, p: Tensor,
    buffer: Tensor,
) -> None:  # fmt: skip
    g = gradient + decay * p[rows]
    buffer[rows] = momentum * buffer[rows] + g
    p[rows] -= rate * (g + momentum * buffer[rows] if nesterov else buffer[rows])


def skip_reference(
    rows: Tensor, now: int, rates: Tensor, momentum: float, decay: float, nesterov: bool, p: Tensor, buffer: Tensor,
    last: Tensor,
) -> None:  # fmt: skip
    """Step by step, every row from where it stands."""
    first = int(last[rows].min()) + 1 if rows.numel() else now + 1
    for j in range(first, now + 1):
        _move(rows[last[rows] < j], 0.0, float(rates[j]), momentum, decay, nesterov, p, buffer)
    last[rows] = torch.clamp(last[rows], min=now)


def sgd_skip(
    rows: Tensor, now: int, rates: Tensor, momentum: float, decay: float, nesterov: bool, p: Tensor, buffer: Tensor,
    last: Tensor,
) -> None:  # fmt: skip
    """Bring `rows` (int64, each once) up to step `now`, in place. rates: float64, the learning rate by step."""
    if use_native(p, buffer):
        native.sgd_skip(rows, now, rates, momentum, decay, nesterov, p, buffer, last)
    else:
        skip_reference(rows, now, rates, momentum, decay, nesterov, p, buffer, last)


def sgd_rows(
    rows: Tensor, gradient: Tensor, now: int, rate: float, momentum: float, decay: float, nesterov: bool, p: Tensor,
    buffer: Tensor, last: Tensor,
) -> None:  # fmt: skip
    """Do step `now` for `rows` (int64, each once) with their gradient (R, D), in place."""
    if use_native(p, buffer, gradient):
        native.sgd_rows(rows, gradient.contiguous(), now, rate, momentum, decay, nesterov, p, buffer, last)
    else:
        _move(rows, gradient, rate, momentum, decay, nesterov, p, buffer)
        last[rows] = now
