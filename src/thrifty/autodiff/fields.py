"""Derivatives of functions of one number, and of scalar and vector fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.budget import Memory
from thrifty.autodiff.jacobians import basis, hvp, jacfwd
from thrifty.autodiff.operators import jvp
from thrifty.core.errors import UsageError


def derivative(f: Callable[[Tensor], Any], order: int = 1) -> Callable[[Tensor], Any]:
    """Make the derivative of a function of one number, of any order, by nested forward mode.

    Args:
        f: takes a floating-point tensor of shape () and returns a tree of tensors.
        order: 0 or more; the cost grows as 2^order.

    Raises:
        UsageError: a negative order, an argument that is not a single number.
    """
    if type(order) is not int or order < 0:
        raise UsageError(f"derivative: order={order!r} must be a whole number, 0 or more")
    if order == 0:
        return f
    inner = derivative(f, order - 1)

    def differentiated(x: Tensor) -> Any:
        if not isinstance(x, Tensor) or x.dim() != 0:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise UsageError(f"derivative: the argument must be a tensor of shape (), not {shape}: take jacfwd")
        return jvp(inner, (x,), (torch.ones_like(x),))[1]

    return differentiated


def laplacian(f: Callable[[Tensor], Tensor], *, memory: Memory = None) -> Callable[[Tensor], Tensor]:
    """Make the sum of the second derivatives of a scalar field f: R^n -> R; n Hessian-vector products."""

    def differentiated(x: Tensor) -> Tensor:
        _vector("laplacian", x)
        terms = [(hvp(f, x, unit, memory=memory) * unit).sum() for unit in basis(x)]
        return torch.stack(terms).sum()

    return differentiated


def divergence(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make the trace of the Jacobian of a vector field f: R^n -> R^n; n runs in forward mode."""

    def differentiated(x: Tensor) -> Tensor:
        _vector("divergence", x)
        terms = []
        for unit in basis(x):
            pushed = jvp(f, (x,), (unit,))[1]
            if not isinstance(pushed, Tensor) or pushed.shape != x.shape:
                raise UsageError("divergence: the function must return a vector like its argument")
            terms.append((pushed * unit).sum())
        return torch.stack(terms).sum()

    return differentiated


def curl(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make the curl of a vector field f: R^3 -> R^3."""

    def differentiated(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.shape != (3,):
            raise UsageError("curl: the argument must be a vector of 3 numbers")
        jacobian = jacfwd(f)(x)
        if not isinstance(jacobian, Tensor) or jacobian.shape != (3, 3):
            raise UsageError("curl: the function must return a vector of 3 numbers")
        pairs = ((2, 1), (0, 2), (1, 0))
        return torch.stack([jacobian[i, j] - jacobian[j, i] for i, j in pairs])

    return differentiated


def _vector(name: str, x: Any) -> None:
    if not isinstance(x, Tensor) or x.dim() != 1 or x.numel() == 0:
        raise UsageError(f"{name}: the argument must be a vector, a tensor of shape (n,)")
