"""lstm_scan: an LSTM's recurrence over all steps, given the input's share of the gates.

Meaning: `recur` with `lstm_cell`. Forward and backward are loops over the steps that write into buffers made once, with
the activations' derivatives fused; the gradient of the recurrent weight is one product over all steps at the end. The
steps' own products, N * H * 4H multiply-adds forward and twice that backward, are dense: few rows meet at a step.
First derivatives only; under torch.func, in forward mode and with the backend `reference` the meaning itself runs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty.ops.recurrence import FIRST_ORDER_ONLY, lstm_cell, plain_needed, recur, steps_of

_sigmoid_into = torch.ops.aten.sigmoid_backward.grad_input
_tanh_into = torch.ops.aten.tanh_backward.grad_input


def lstm_scan(
    gates_NX: Tensor, weight: Tensor, h_BH: Tensor, c_BH: Tensor, sizes: Sequence[int], reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates (N, 4H) from the input and biases, weight_hh (4H, H), first state -> outputs (N, H), last h and c (B, H).

    sizes: rows of each step, falling, N together. reverse: from the last step to the first.
    """
    if plain_needed():
        outputs, h_BH, c_BH = recur(
            gates_NX, (h_BH, c_BH), sizes, reverse, lambda h: torch.nn.functional.linear(h, weight), lstm_cell
        )
        return outputs, h_BH, c_BH
    found: tuple[Tensor, Tensor, Tensor] = _LSTMScan.apply(gates_NX, weight, h_BH, c_BH, sizes, reverse)
    return found


class _LSTMScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates_NX: Tensor, weight: Tensor, h_BH: Tensor, c_BH: Tensor, sizes: Sequence[int], reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = weight.shape[1]
        act_NX = torch.empty_like(gates_NX)  # the gates behind their sigmoid or tanh
        out_NH, h_before_NH, c_before_NH, tanh_NH = (gates_NX.new_empty(len(gates_NX), width) for _ in range(4))
        h_BH, c_BH, turned = h_BH.clone(), c_BH.clone(), weight.t()
        for rows in steps_of(sizes, reverse):
            size = rows.stop - rows.start
            h, c, act = h_BH[:size], c_BH[:size], act_NX[rows]
            h_before_NH[rows].copy_(h)
            c_before_NH[rows].copy_(c)
            torch.addmm(gates_NX[rows], h, turned, out=act)
            act[:, : 2 * width].sigmoid_()
            i, f, g, o = act.chunk(4, 1)
            g.tanh_()
            o.sigmoid_()
            c.mul_(f).addcmul_(i, g)
            torch.tanh(c, out=tanh_NH[rows])
            torch.mul(o, tanh_NH[rows], out=h)
            out_NH[rows].copy_(h)
        ctx.save_for_backward(weight, act_NX, h_before_NH, c_before_NH, tanh_NH)
        ctx.sizes, ctx.reverse = sizes, reverse
        return out_NH, h_BH, c_BH

    @staticmethod
    def backward(ctx: Any, to_out: Tensor, to_h: Tensor, to_c: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ORDER_ONLY)
        weight, act_NX, h_before_NH, c_before_NH, tanh_NH = ctx.saved_tensors
        to_gates_NX = torch.empty_like(act_NX)
        h_BH, c_BH = to_h.clone(), to_c.clone()  # gradients of the state, step by step towards the first
        spare = torch.empty_like(h_BH)
        for rows in steps_of(ctx.sizes, not ctx.reverse):
            size = rows.stop - rows.start
            h, c, product, tanh = h_BH[:size], c_BH[:size], spare[:size], tanh_NH[rows]
            i, f, g, o = act_NX[rows].chunk(4, 1)
            to_step = to_gates_NX[rows]
            to_i, to_f, to_g, to_o = to_step.chunk(4, 1)
            h.add_(to_out[rows])
            _sigmoid_into(torch.mul(h, tanh, out=product), o, grad_input=to_o)
            h.mul_(o)
            c.add_(_tanh_into(h, tanh, grad_input=product))
            _sigmoid_into(torch.mul(c, g, out=product), i, grad_input=to_i)
            _sigmoid_into(torch.mul(c, c_before_NH[rows], out=product), f, grad_input=to_f)
            _tanh_into(torch.mul(c, i, out=product), g, grad_input=to_g)
            c.mul_(f)
            torch.mm(to_step, weight, out=h)
        to_weight = to_gates_NX.t() @ h_before_NH if ctx.needs_input_grad[1] else None
        return to_gates_NX, to_weight, h_BH, c_BH, None, None
