"""LazyAdam and LazyAdamW: Adam that touches only rows with a gradient, equal to `torch.optim.Adam` and `AdamW`."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.lsh.lazy import LazyOptimizer, grown, matrix_of
from thrifty.ops.adam_rows import AdamHistory, adam_rows, adam_skip


class LazyAdamW(LazyOptimizer):
    """AdamW with decay apart from the gradient. Settings as `torch.optim.AdamW`.

    Raises:
        UsageError: for settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise UsageError(f"{type(self).__name__}: betas must be from 0 to below 1, got {betas}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def settings(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What skipped steps depend on besides the history."""
        return (*group["betas"], group["eps"])

    def begin(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Zero moments, and a history that holds the moment before the first step."""
        state["exp_avg"] = torch.zeros_like(matrix_of(p))
        state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
        state["history"] = torch.zeros(3, 64, dtype=torch.float64)

    def skip(self, p_ND: Tensor, rows: Tensor, state: dict[str, Any], settings: Any) -> None:
        """Bring rows up to date."""
        beta1, beta2, eps = settings
        first, second, last = state["exp_avg"], state["exp_avg_sq"], state["last"]
        adam_skip(rows, state["step"], AdamHistory(*state["history"]), beta1, beta2, eps, p_ND, first, second, last)

    def move(self, p_ND: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Do one step, and write down what it was."""
        now, lr, (beta1, beta2) = state["step"], float(group["lr"]), group["betas"]
        keep = 1.0 - lr * group["weight_decay"]
        if keep <= 0:
            raise UsageError(f"{type(self).__name__}: lr * weight_decay is {1 - keep:g}; it must be below 1")
        rate, root = lr / (1.0 - beta1**now), 1.0 / math.sqrt(1.0 - beta2**now)
        history = state["history"] = grown(state["history"], now)
        history[:, now] = torch.tensor([rate, root, float(history[2, now - 1]) + math.log(keep)], dtype=torch.float64)
        adam_rows(
            rows, gradient, now, keep, rate, root, beta1, beta2, group["eps"], p_ND, state["exp_avg"],
            state["exp_avg_sq"], state["last"],
        )  # fmt: skip


class LazyAdam(LazyAdamW):
    """Adam, without decay: mixed into the gradient it has no closed form for skipped rows; `LazyAdamW` decays.

    Raises:
        UsageError: for settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay=0.0)
