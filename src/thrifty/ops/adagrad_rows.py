"""adagrad_rows: Adagrad on single rows, with an accumulator an entry or one a row.

Source: Duchi et al., 2011. sum += g^2;  p -= rate g / (sqrt(sum) + eps). Row-wise, sum is the mean square of the row's
gradients: N numbers of state instead of N * D. A zero gradient changes nothing, so there is nothing to catch up with.
"""

from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native


def adagrad_reference(rows: Tensor, gradient: Tensor, rate: float, eps: float, p: Tensor, sums: Tensor) -> None:
    """One step of the rows that have a gradient."""
    square = gradient.square()
    sums[rows] += square.mean(1, keepdim=True) if sums.shape[1] < p.shape[1] else square
    p[rows] -= rate * gradient / (sums[rows].sqrt() + eps)


def adagrad_rows(
    rows: Tensor, gradient: Tensor, rate: float, eps: float, rowwise: bool, p: Tensor, sums: Tensor
) -> None:
    """Do one step for `rows` (int64, each once) of p (N, D) with their gradient; sums is (N, D), or row-wise (N, 1)."""
    if use_native(p, sums, gradient):
        native.adagrad_rows(rows, gradient.contiguous(), rate, eps, rowwise, p, sums)
    else:
        adagrad_reference(rows, gradient, rate, eps, p, sums)
