"""LazyAdam and LazyAdamW: Adam that touches only rows with a gradient, equal to `torch.optim.Adam` and `AdamW`."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from thrifty.core.errors import UsageError
from thrifty.lsh.lazy import LazyOptimizer, dense_gradient, grown, matrix_of
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
        (beta1, beta2), now = group["betas"], state["step"]
        keep, rate, root = self._write(state, group)
        adam_rows(
            rows, gradient, now, keep, rate, root, beta1, beta2, group["eps"], p_ND, state["exp_avg"],
            state["exp_avg_sq"], state["last"],
        )  # fmt: skip

    def move_whole(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One call of torch's fused AdamW, which is faster than one of ours for each of several small parameters."""
        device = params[0].device
        fused: list[Tensor] = []
        rest: list[Tensor] = []
        for p in params:
            able = p.device == device and device.type in ("cpu", "cuda") and p.numel()
            (fused if able else rest).append(p)
        super().move_whole(rest, group)
        if not fused:
            return
        states = [self.state[p] for p in fused]
        for state in states:
            self._write(state, group)
        steps = list(torch.tensor([state["step"] - 1.0 for state in states], device=device).unbind())
        adamw(
            [matrix_of(p) for p in fused], [dense_gradient(p) for p in fused], [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [],
            steps, fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=float(group["lr"]),
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip

    def _write(self, state: dict[str, Any], group: dict[str, Any]) -> tuple[float, float, float]:
        """Write down what this step is. Returns what it leaves of the weights, its rate, and 1 / sqrt(1 - beta2^t)."""
        now, lr, (beta1, beta2) = state["step"], float(group["lr"]), group["betas"]
        keep = 1.0 - lr * group["weight_decay"]
        if keep <= 0:
            raise UsageError(f"{type(self).__name__}: lr * weight_decay is {1 - keep:g}; it must be below 1")
        rate, root = lr / (1.0 - beta1**now), 1.0 / math.sqrt(1.0 - beta2**now)
        history = state["history"] = grown(state["history"], now)
        table = history.numpy()  # small assignments take a tenth of the time there
        table[:, now] = rate, root, table[2, now - 1] + math.log(keep)
        return keep, rate, root


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
