"""Turns the search for large inner products (bias included) into a search for small angles.

Source: Neyshabur & Srebro, ICML 2015 (Simple-LSH). A class's weights w and bias b become [w - c, b - c_b, rest], where
rest fills the square up to one common norm; a query x becomes [x, 1, 0]. Then all classes are equally long, and
    [x, 1, 0] . [w - c, b - c_b, rest] = (x . w + b) - (x . c + c_b),
so the angle orders the classes as their scores do. Deviation: the mean class c is taken out. That moves all scores of a
query alike, and what is left spreads over the buckets instead of crowding into a few.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Centre(NamedTuple):
    """The mean class (D,), its bias (a number), and the square of the common norm."""

    mean_D: Tensor
    bias: float
    square: float


def centre_of(weight_ND: Tensor, bias_N: Tensor | None) -> Centre:
    """The centre of classes (N, D); all finite or the result is not."""
    weight = weight_ND.detach()
    mean_D = weight.mean(0)
    offset = float(bias_N.detach().mean()) if bias_N is not None else 0.0
    # |w - c|^2 = |w|^2 - 2 w.c + |c|^2, so that no second matrix is made
    squares = weight.square().sum(1) if weight.numel() <= 1 << 22 else torch.linalg.vector_norm(weight, dim=1).square()
    squares = squares - 2 * (weight @ mean_D) + mean_D.square().sum()
    if bias_N is not None:
        squares = squares + (bias_N.detach() - offset).square()
    return Centre(mean_D, offset, float(squares.max()))


def augment_classes(weight_RD: Tensor, bias_R: Tensor | None, centre: Centre) -> Tensor:
    """Rows (R, D) of the weight -> (R, D + 2). A row longer than the common norm gets rest 0."""
    rows, features = weight_RD.shape
    out = weight_RD.new_empty(rows, features + 2)
    torch.sub(weight_RD.detach(), centre.mean_D, out=out[:, :features])
    out[:, features] = 0.0 if bias_R is None else bias_R.detach() - centre.bias
    squares = out[:, : features + 1].square().sum(1)
    out[:, features + 1] = (centre.square - squares).clamp_(min=0).sqrt_()
    return out


def augment_queries(x_RD: Tensor) -> Tensor:
    """Queries (R, D) -> (R, D + 2)."""
    out = x_RD.new_zeros(x_RD.shape[0], x_RD.shape[1] + 2)
    out[:, :-2] = x_RD.detach()
    out[:, -2] = 1.0
    return out
