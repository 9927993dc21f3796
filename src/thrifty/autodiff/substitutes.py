"""Operators whose derivative rules in torch rest on an output that carries no derivative itself.

`det`, `slogdet` and `solve` return their LU factors as a by-product, and their forward rules use these factors as if
they were constants, so that a second derivative through the rule silently loses a part (torch 2.13: forward over
forward of `logdet` and `solve` is wrong). Inside another level they are replaced by the same computation from
`lu_factor`, whose factors are differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _factor(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lu, pivots, info = torch.linalg.lu_factor_ex(a)
    return lu, pivots, info


def _parity(pivots: Tensor) -> Tensor:
    own = torch.arange(1, pivots.shape[-1] + 1, device=pivots.device, dtype=pivots.dtype)
    return 1 - 2 * ((pivots != own).sum(-1) % 2)


def _det(a: Tensor) -> tuple[Tensor, ...]:
    lu, pivots, _ = _factor(a)
    return _parity(pivots) * lu.diagonal(dim1=-2, dim2=-1).prod(-1), lu, pivots


def _slogdet(a: Tensor) -> tuple[Tensor, ...]:
    lu, pivots, _ = _factor(a)
    diagonal = lu.diagonal(dim1=-2, dim2=-1)
    sign = _parity(pivots) * diagonal.sgn().prod(-1)
    return sign, diagonal.abs().log().sum(-1), lu, pivots


def _solve(a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False) -> tuple[Tensor, ...]:
    lu, pivots, info = _factor(a)
    vector = b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1])
    solution = torch.linalg.lu_solve(lu, pivots, b.unsqueeze(-1) if vector else b, left=left)
    return solution.squeeze(-1) if vector else solution, lu, pivots, info


SUBSTITUTES: dict[str, Callable[..., Any]] = {
    "aten::_linalg_det": _det,
    "aten::_linalg_slogdet": _slogdet,
    "aten::_linalg_solve_ex": _solve,
}
