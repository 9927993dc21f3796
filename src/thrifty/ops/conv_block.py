"""conv_block: convolution, ReLU and max pool as one step, whose backward never forms the convolution's dense gradient.

    out = max pool of ReLU of (bias + x * w)         with or without the ReLU, with or without the pool

The maximum of ReLUs is the ReLU of the maximum, so the pool runs first and the ReLU on what is left. Values and
gradients are those of the three layers in turn. What comes back through pool and ReLU is nonzero at few places; they
are packed straight from the pool's gradient, and multiply alone (`ops.skip_conv2d`). Saved for backward: x, w, the
small output and one byte for each of its values, instead of the convolution's output twice.
With `approximate`, the output is that of another convolution (of clusters), while the gradients stay the exact
convolution's at that output: a straight-through estimate of the clusters' derivative.
Differentiable twice (the second time by the dense route); for `torch.func` and forward mode use the layers in turn.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops import _stages
from thrifty.ops.geometry import Geometry, Pool
from thrifty.ops.skip_conv2d import (
    SAMPLED_ROWS,
    _empty,
    _last,
    _taps,
    dense_conv2d_input,
    dense_conv2d_weight,
    run,
    skip_conv2d_input,
    skip_conv2d_weight,
)


class Block(NamedTuple):
    """What is done: `limits` as in `ops.skip_conv2d`, the pool only behind a ReLU."""

    geometry: Geometry
    relu: bool
    pool: Pool | None
    limits: list[float]


Approximate = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def conv_block(
    x: Tensor, w: Tensor, bias: Tensor | None, block: Block, approximate: Approximate | None = None
) -> Tensor:
    """x (N, C, H, W), w (M, C, kh, kw), bias (M,) -> (N, M, OH, OW) of the pool, or of the convolution; float32, CPU.

    All but `bias` in channels_last, or they are copied. `approximate(x, w, bias)` stands in for the convolution.
    """
    if block.pool is not None and not block.relu:
        raise ValueError("conv_block: a pool needs a ReLU before it")
    out: Tensor = _ConvBlock.apply(x, w, bias, block, approximate)
    return out


def relu_pool(y: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """y (N, M, H, W) -> the pool of its ReLU, and where in its window each maximum lies (uint8, r * kw + s)."""
    out = _empty(y, *y.shape[:2], *pool.output)
    index = torch.empty(out.shape, dtype=torch.uint8, device=y.device, memory_format=torch.channels_last)
    native.relu_pool(_last(y), pool.flat(), _last(out), _last(index))
    return out, index


def unpool(gradient: Tensor, index: Tensor, pool: Pool, size: tuple[int, int]) -> Tensor:
    """The adjoint of taking the values at `index`: (N, M, PH, PW) -> (N, M, *size); differentiable."""
    rows = torch.arange(pool.output[0], device=index.device).view(-1, 1) * pool.stride[0] - pool.padding[0]
    columns = torch.arange(pool.output[1], device=index.device) * pool.stride[1] - pool.padding[1]
    within = index.long()
    row, column = rows + within // pool.kernel[1], columns + within % pool.kernel[1]
    places = (row * size[1] + column).flatten(2)
    flat = gradient.new_zeros(*gradient.shape[:2], size[0] * size[1]).scatter_add(2, places, gradient.flatten(2))
    return flat.view(*gradient.shape[:2], *size).contiguous(memory_format=torch.channels_last)


def dense_gradient(gradient: Tensor, out: Tensor | None, index: Tensor | None, block: Block) -> Tensor:
    """The gradient of the convolution's output, from that of the block's: what the packing does without."""
    if out is not None:
        gradient = gradient.masked_fill(out <= 0, 0.0)  # NaN lets the gradient pass, as in torch
    if index is not None and block.pool is not None:
        gradient = unpool(gradient, index, block.pool, block.geometry.output)
    return gradient


class _ConvBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, block: Block, approximate: Approximate | None
    ) -> Tensor:
        if approximate is not None:
            y = approximate(x, w, bias)
        else:
            start = time.perf_counter()
            y = run(x, w, bias, block.geometry.flat(), block.limits)
            sink = _stages.current()
            if sink is not None:
                sink.add("conv", time.perf_counter() - start)
        index = None
        out = y
        if block.pool is not None:
            out, index = relu_pool(y, block.pool)
        elif block.relu:
            out = y.relu_()
        ctx.save_for_backward(x, w, out if block.relu else None, index)
        ctx.block, ctx.sink = block, _stages.current()
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w, out, index = ctx.saved_tensors
        needed, block, gradient = ctx.needs_input_grad[:3], ctx.block, gradients[0]
        with _stages.report_to(ctx.sink):
            if torch.is_grad_enabled():
                return *_twice(gradient, x, w, out, index, block, needed), None, None
            start = time.perf_counter()
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            share = _share(gradient, out, index, block)
            skipped = share <= block.limits[1]
            if skipped:
                answers = _skip(gradient, x, w, out, index, block, needed, share)
            else:
                answers = _dense(gradient, x, w, out, index, block, needed)
            if ctx.sink is not None:
                seconds = time.perf_counter() - start
                ctx.sink.routes["backward"] = _stages.Route(share, skipped, seconds)
                ctx.sink.add("conv", seconds)
        return *answers, None, None


def _share(gradient: Tensor, out: Tensor | None, index: Tensor | None, block: Block) -> float:
    """The share of nonzeros in the convolution's gradient, told from some of the pixels."""
    rows = _last(gradient).view(-1, gradient.shape[1])
    if rows.numel() == 0:
        return 0.0
    step = max(1, rows.shape[0] // SAMPLED_ROWS)
    some = rows[::step] != 0
    if out is not None:
        some &= ~(_last(out).view(-1, out.shape[1])[::step] <= 0)
    share = float(some.count_nonzero()) / some.numel()
    if index is not None and block.pool is not None:
        height, width = block.geometry.output
        share *= block.pool.output[0] * block.pool.output[1] / (height * width)
    return share


_Answers = tuple[Tensor | None, Tensor | None, Tensor | None]


def _skip(
    gradient: Tensor,
    x: Tensor,
    w: Tensor,
    out: Tensor | None,
    index: Tensor | None,
    block: Block,
    needed: Any,
    share: float,
) -> _Answers:
    dx = _empty(x, *x.shape) if needed[0] else None
    dw = _empty(w, *w.shape) if needed[1] else None
    db = w.new_empty(w.shape[0]) if needed[2] else None
    native.skip_conv_backward(
        _last(gradient),
        None if out is None else _last(out),
        None if index is None else _last(index),
        [] if block.pool is None else block.pool.flat(),
        _last(x),
        _taps(w),
        block.geometry.flat(),
        share,
        None if dx is None else _last(dx),
        None if dw is None else _taps(dw),
        db,
    )
    return dx, dw, db


def _dense(
    gradient: Tensor, x: Tensor, w: Tensor, out: Tensor | None, index: Tensor | None, block: Block, needed: Any
) -> _Answers:
    g = block.geometry
    y = dense_gradient(gradient, out, index, block)
    if not g.symmetric:
        return (
            dense_conv2d_input(y, w, g) if needed[0] else None,
            dense_conv2d_weight(y, x, g) if needed[1] else None,
            y.sum((0, 2, 3)) if needed[2] else None,
        )
    answers = torch.ops.aten.convolution_backward(
        y, x, w, [w.shape[0]], g.stride, g.padding, g.dilation, False, (0, 0), 1, needed
    )
    return tuple(answers)


def _twice(
    gradient: Tensor, x: Tensor, w: Tensor, out: Tensor | None, index: Tensor | None, block: Block, needed: Any
) -> _Answers:
    """The same in ops that can be differentiated again."""
    y = dense_gradient(gradient, out, index, block)
    rest = block.geometry.flat(), block.limits
    return (
        skip_conv2d_input(y, w, *rest) if needed[0] else None,
        skip_conv2d_weight(y, x, *rest) if needed[1] else None,
        y.sum((0, 2, 3)) if needed[2] else None,
    )
