"""LazyAdagrad: Adagrad that touches only rows with a gradient, equal to `torch.optim.Adagrad`, or row-wise."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thrifty.lsh.lazy import LazyOptimizer, matrix_of
from thrifty.ops.adagrad_rows import adagrad_rows


class LazyAdagrad(LazyOptimizer):
    """Adagrad. Settings as `torch.optim.Adagrad`, without decay, which has no closed form for skipped rows.

    rowwise: one accumulator a row instead of one an entry: N numbers of state instead of N * D.

    Raises:
        UsageError: for settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        rowwise: bool = False,
    ) -> None:
        settings = {"lr": lr, "lr_decay": lr_decay, "initial": initial_accumulator_value, "eps": eps}
        super().__init__(params, {**settings, "rowwise": rowwise})

    def settings(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """Nothing: a skipped step changes nothing."""
        return ()

    def begin(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """The accumulators at their initial value."""
        rows = len(state["last"])
        columns = 1 if group["rowwise"] else matrix_of(p).shape[1]
        state["sum"] = torch.full((rows, columns), group["initial"], dtype=p.dtype, device=p.device)

    def skip(self, p_ND: Tensor, rows: Tensor, state: dict[str, Any], settings: tuple[Any, ...]) -> None:
        """Nothing to do: a zero gradient changes nothing."""

    def move(self, p_ND: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Do one step."""
        rate = group["lr"] / (1.0 + (state["step"] - 1) * group["lr_decay"])
        adagrad_rows(rows, gradient, rate, group["eps"], group["rowwise"], p_ND, state["sum"])
