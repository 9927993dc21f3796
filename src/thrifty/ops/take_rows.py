"""take_rows: some rows of a weight, whose gradient holds these rows alone.

    out[i] = weight[ids[i]],   gradient of weight: a sparse tensor of the rows `ids`, already coalesced

A dense gradient of a million rows costs more to clear, and to update with, than the layer itself. ids are ascending and
each occurs once. The gradient's values are the ordinary tensor that autograd handed over, so it can be differentiated
again.
"""

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    generate_vmap_rule = False

    @staticmethod
    def forward(weight: Tensor, ids: Tensor) -> Tensor:
        return weight.index_select(0, ids)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        weight, ids = inputs
        ctx.save_for_backward(ids)
        ctx.save_for_forward(ids)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        rows = torch.sparse_coo_tensor(
            ids.unsqueeze(0), gradients[0], ctx.shape, is_coalesced=True, check_invariants=False
        )
        return rows, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (ids,) = ctx.saved_tensors
        return tangents[0].index_select(0, ids)


def take_rows(weight: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    """Rows `ids` (int64, ascending, each once) of weight (N, ...); the gradient is sparse, or dense as
    `weight[ids]`'s.
    """
    if not sparse:
        return weight.index_select(0, ids)
    rows: Tensor = _TakeRows.apply(weight, ids)
    return rows
