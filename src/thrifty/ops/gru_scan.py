"""gru_scan: a GRU's recurrence over all steps, given the input's share of the gates.

Meaning: `recur` with `gru_cell`. Made as `lstm_scan` is, with the same limits: first derivatives only, and the meaning
itself under torch.func, in forward mode and with the backend `reference`. The state's bias cannot be added beforehand:
the reset gate multiplies its part.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty.ops.recurrence import FIRST_ORDER_ONLY, gru_cell, plain_needed, recur, steps_of

_sigmoid_into = torch.ops.aten.sigmoid_backward.grad_input
_tanh_into = torch.ops.aten.tanh_backward.grad_input


def gru_scan(
    gates_NX: Tensor, weight: Tensor, bias: Tensor | None, h_BH: Tensor, sizes: Sequence[int], reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Gates (N, 3H) from the input, weight_hh (3H, H), bias_hh (3H,), first state -> outputs (N, H), last h (B, H).

    sizes: rows of each step, falling, N together. reverse: from the last step to the first.
    """
    if plain_needed():
        outputs, h_BH = recur(
            gates_NX, (h_BH,), sizes, reverse, lambda h: torch.nn.functional.linear(h, weight, bias), gru_cell
        )
        return outputs, h_BH
    found: tuple[Tensor, Tensor] = _GRUScan.apply(gates_NX, weight, bias, h_BH, sizes, reverse)
    return found


class _GRUScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates_NX: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        h_BH: Tensor,
        sizes: Sequence[int],
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        width = weight.shape[1]
        act_NX = torch.empty_like(gates_NX)  # the gates behind their sigmoid or tanh
        out_NH, before_NH, inner_NH = (gates_NX.new_empty(len(gates_NX), width) for _ in range(3))
        h_BH, turned = h_BH.clone(), weight.t()
        start = gates_NX.new_zeros(len(weight)) if bias is None else bias
        of_state_BX = gates_NX.new_empty(len(h_BH), len(weight))
        for rows in steps_of(sizes, reverse):
            size = rows.stop - rows.start
            h, act, of_state = h_BH[:size], act_NX[rows], of_state_BX[:size]
            before_NH[rows].copy_(h)
            torch.addmm(start, h, turned, out=of_state)
            inner = inner_NH[rows].copy_(of_state[:, 2 * width :])
            torch.add(gates_NX[rows, : 2 * width], of_state[:, : 2 * width], out=act[:, : 2 * width]).sigmoid_()
            r, z, n = act.chunk(3, 1)
            torch.addcmul(gates_NX[rows, 2 * width :], r, inner, out=n).tanh_()
            h.sub_(n).mul_(z).add_(n)
            out_NH[rows].copy_(h)
        ctx.save_for_backward(weight, act_NX, before_NH, inner_NH)
        ctx.sizes, ctx.reverse = sizes, reverse
        return out_NH, h_BH

    @staticmethod
    def backward(ctx: Any, to_out: Tensor, to_h: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ORDER_ONLY)
        weight, act_NX, before_NH, inner_NH = ctx.saved_tensors
        width = weight.shape[1]
        to_input_NX, to_state_NX = torch.empty_like(act_NX), torch.empty_like(act_NX)
        h_BH = to_h.clone()  # gradient of the state, step by step towards the first
        spare = torch.empty_like(h_BH)
        for rows in steps_of(ctx.sizes, not ctx.reverse):
            size = rows.stop - rows.start
            h, product = h_BH[:size], spare[:size]
            r, z, n = act_NX[rows].chunk(3, 1)
            to_step, to_state = to_input_NX[rows], to_state_NX[rows]
            to_r, to_z, to_n = to_step.chunk(3, 1)
            h.add_(to_out[rows])
            torch.sub(before_NH[rows], n, out=product)
            _sigmoid_into(product.mul_(h), z, grad_input=to_z)
            torch.mul(h, z, out=product)
            h.sub_(product)
            _tanh_into(h, n, grad_input=to_n)
            _sigmoid_into(torch.mul(to_n, inner_NH[rows], out=h), r, grad_input=to_r)
            to_state[:, : 2 * width].copy_(to_step[:, : 2 * width])
            torch.mul(to_n, r, out=to_state[:, 2 * width :])
            torch.addmm(product, to_state, weight, out=h)
        needed = ctx.needs_input_grad
        to_weight = to_state_NX.t() @ before_NH if needed[1] else None
        return to_input_NX, to_weight, to_state_NX.sum(0) if needed[2] else None, h_BH, None, None
