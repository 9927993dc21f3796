"""LazySGD: SGD with momentum, decay and nesterov that touches only rows with a gradient, equal to `torch.optim.SGD`."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.lsh.lazy import LazyOptimizer, grown, matrix_of
from thrifty.ops.sgd_rows import sgd_rows, sgd_skip


class LazySGD(LazyOptimizer):
    """SGD. Settings as `torch.optim.SGD`, without dampening.

    Raises:
        UsageError: for settings out of range, and nesterov without momentum.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and not momentum:
            raise UsageError("LazySGD: nesterov needs a momentum above 0")
        if momentum >= 1:
            raise UsageError(f"LazySGD: momentum must be below 1, got {momentum}")
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        )  # fmt: skip

    def settings(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What skipped steps depend on besides the history."""
        return group["momentum"], group["weight_decay"], group["nesterov"]

    def begin(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """An empty buffer."""
        state["momentum_buffer"] = torch.zeros_like(matrix_of(p))
        state["history"] = torch.zeros(1, 64, dtype=torch.float64)

    def skip(self, p_ND: Tensor, rows: Tensor, state: dict[str, Any], settings: Any) -> None:
        """Bring rows up to date."""
        momentum, decay, nesterov = settings
        buffer, last = state["momentum_buffer"], state["last"]
        sgd_skip(rows, state["step"], state["history"][0], momentum, decay, nesterov, p_ND, buffer, last)

    def move(self, p_ND: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Do one step, and write down its learning rate."""
        now, lr = state["step"], float(group["lr"])
        history = state["history"] = grown(state["history"], now)
        history[0, now] = lr
        momentum, decay, nesterov = self.settings(group)
        buffer, last = state["momentum_buffer"], state["last"]
        sgd_rows(rows, gradient, now, lr, momentum, decay, nesterov, p_ND, buffer, last)
