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
from thrifty.ops._define import Op
from thrifty.ops.geometry import Geometry, Pool
from thrifty.ops.skip_conv2d import (
    dense_conv2d,
    dense_conv2d_input,
    dense_conv2d_weight,
    dense_macs,
    empty_last,
    pixels_last,
    run,
    sampling_step,
    skip_conv2d_input,
    skip_conv2d_weight,
    taps_last,
)


class Block(NamedTuple):
    """What is done: `limits` as in `ops.skip_conv2d`, the pool only behind a ReLU.

    half: the forward products, the output and a dense backward are bfloat16; products of nonzeros are float32.
    """

    geometry: Geometry
    relu: bool
    pool: Pool | None
    limits: list[float]
    half: bool = False

    def flat(self) -> tuple[list[int], list[float], bool, list[int]]:
        """What `conv_block_forward` takes besides tensors."""
        return self.geometry.flat(), self.limits, self.relu, [] if self.pool is None else self.pool.flat()


Approximate = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def conv_block(
    x: Tensor, w: Tensor, bias: Tensor | None, block: Block, approximate: Approximate | None = None
) -> Tensor:
    """x (N, C, H, W), w (M, C, kh, kw), bias (M,) -> (N, M, OH, OW) of the pool, or of the convolution; on the CPU.

    w and bias are float32; so is x, or bfloat16 with `half`. All but `bias` in channels_last, or they are copied.
    `approximate(x, w, bias)` stands in for the convolution. Raises ValueError for a pool without a ReLU.
    """
    if block.pool is not None and not block.relu:
        raise ValueError("conv_block: a pool needs a ReLU before it")
    out: Tensor = _ConvBlock.apply(x, w, bias, block, approximate)
    return out


def relu_pool(y: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """y (N, M, H, W) -> the pool of its ReLU, and where in its window each maximum lies (uint8, r * kw + s)."""
    out = empty_last(y, *y.shape[:2], *pool.output)
    index = torch.empty(out.shape, dtype=torch.uint8, device=y.device, memory_format=torch.channels_last)
    if y.dtype == torch.bfloat16:
        native.relu_pool_bf16(_bits(y), pool.flat(), _bits(out), pixels_last(index))
    else:
        native.relu_pool(pixels_last(y), pool.flat(), pixels_last(out), pixels_last(index))
    return out, index


def _bits(x: Tensor) -> Tensor:
    return pixels_last(x).view(torch.uint16)


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
    """The gradient of the convolution's output, from the block's; differentiable: the meaning of `relu_unpool`."""
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
        ctx.block, ctx.sink, ctx.dtype = block, _stages.current(), x.dtype
        if block.half:
            x = x.bfloat16()
        if approximate is None:
            out, index = _forward(x, w, bias, *block.flat())
        else:
            y = approximate(x.float(), w, bias)
            with _stages.timed("conv"):
                out, index = _behind(y.bfloat16() if block.half else y, block.relu, block.pool)
        ctx.save_for_backward(x, w, out if block.relu else None, None if block.pool is None else index)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w, out, index = ctx.saved_tensors
        needed, block, gradient = ctx.needs_input_grad[:3], ctx.block, gradients[0]
        with _stages.report_to(ctx.sink):
            if torch.is_grad_enabled():
                dx, dw, db = _twice(gradient, x, w, out, index, block, needed)
                return None if dx is None else dx.to(ctx.dtype), dw, db, None, None
            start = time.perf_counter()
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            share = _share(gradient, out, index, block)
            skipped = share <= block.limits[1]
            if skipped:
                dx, dw, db = _skip(gradient, x, w, out, index, block, needed, share)
            else:
                dx, dw, db = _dense(gradient, x, w, out, index, block, needed)
            dx = None if dx is None else dx.to(ctx.dtype)
            if ctx.sink is not None:
                seconds = time.perf_counter() - start
                macs = dense_macs(block.geometry, x.shape[0], x.shape[1], w.shape[0]) * (needed[0] + needed[1])
                ctx.sink.went("backward", _stages.Route(share, skipped, seconds), macs)
                ctx.sink.add("conv", seconds)
        return dx, dw, db, None, None


def _run_forward(
    x: Tensor, w: Tensor, bias: Tensor | None, geometry: list[int], limits: list[float], relu: bool, pool: list[int]
) -> tuple[Tensor, Tensor]:
    """The block's output and its pool's index, which is empty without a pool; bfloat16 for such an x."""
    g = Geometry.unflat(geometry)
    if x.dtype != torch.bfloat16:
        y = run(x, w, bias, geometry, limits)
    else:
        start = time.perf_counter()
        y = dense_conv2d(x, w.bfloat16(), None if bias is None else bias.bfloat16(), g)
        y = y.contiguous(memory_format=torch.channels_last)
        sink = _stages.current()
        if sink is not None:
            route = _stages.Route(1.0, False, time.perf_counter() - start)
            sink.went("forward", route, dense_macs(g, x.shape[0], x.shape[1], w.shape[0]))
    return _behind(y, relu, Pool.unflat(pool) if pool else None)


def _behind(y: Tensor, relu: bool, pool: Pool | None) -> tuple[Tensor, Tensor]:
    """What follows the convolution, in place where there is no pool."""
    if pool is not None:
        return relu_pool(y, pool)
    return y.relu_() if relu else y, y.new_empty(0, dtype=torch.uint8)


def _fake_forward(
    x: Tensor, w: Tensor, bias: Tensor | None, geometry: list[int], limits: list[float], relu: bool, pool: list[int]
) -> tuple[Tensor, Tensor]:
    size = Pool.unflat(pool).output if pool else Geometry.unflat(geometry).output
    out = empty_last(x, x.shape[0], w.shape[0], *size)
    index = torch.empty_like(out, dtype=torch.uint8) if pool else x.new_empty(0, dtype=torch.uint8)
    return out, index


_forward = Op(
    "conv_block_forward",
    "(Tensor x, Tensor w, Tensor? bias, int[] geometry, float[] limits, bool relu, int[] pool) -> (Tensor, Tensor)",
    stage="conv",
    implementation=_run_forward,
    fake=_fake_forward,
)
"""One op, so that whoever follows a training step op by op (checkpointing) sees what was computed, and can do so again.
Without a pool a dense route answers in torch's layout, which the fake does not know: no compiler gets here."""


def _share(gradient: Tensor, out: Tensor | None, index: Tensor | None, block: Block) -> float:
    """The share of nonzeros in the convolution's gradient, told from some of the pixels."""
    rows = pixels_last(gradient).view(-1, gradient.shape[1])
    if rows.numel() == 0:
        return 0.0
    step = sampling_step(rows)
    some = rows[::step] != 0
    if out is not None:
        some &= ~(pixels_last(out).view(-1, out.shape[1])[::step] <= 0)
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
    gradient, x, out = gradient.float(), x.float(), None if out is None else out.float()
    dx = empty_last(x, *x.shape) if needed[0] else None
    dw = empty_last(w, *w.shape) if needed[1] else None
    db = w.new_empty(w.shape[0]) if needed[2] else None
    native.skip_conv_backward(
        pixels_last(gradient),
        None if out is None else pixels_last(out),
        None if index is None else pixels_last(index),
        [] if block.pool is None else block.pool.flat(),
        pixels_last(x),
        taps_last(w),
        block.geometry.flat(),
        share,
        None if dx is None else pixels_last(dx),
        None if dw is None else taps_last(dw),
        db,
    )
    return dx, dw, db


def _dense(
    gradient: Tensor, x: Tensor, w: Tensor, out: Tensor | None, index: Tensor | None, block: Block, needed: Any
) -> _Answers:
    g = block.geometry
    y = gradient.to(x.dtype)
    if out is not None:
        y = empty_last(x, x.shape[0], w.shape[0], *g.output)
        write = native.relu_unpool_bf16 if block.half else native.relu_unpool
        write(
            pixels_last(gradient.float()),
            pixels_last(out.float()),
            None if index is None else pixels_last(index),
            [] if block.pool is None else block.pool.flat(),
            _bits(y) if block.half else pixels_last(y),
        )
    if not g.symmetric:
        return (
            dense_conv2d_input(y, w.to(x.dtype), g) if needed[0] else None,
            dense_conv2d_weight(y, x, g).to(w.dtype) if needed[1] else None,
            y.sum((0, 2, 3), dtype=w.dtype) if needed[2] else None,
        )
    dx, dw, db = torch.ops.aten.convolution_backward(
        y, x, w.to(x.dtype), [w.shape[0]], g.stride, g.padding, g.dilation, False, (0, 0), 1, needed
    )
    return dx, None if dw is None else dw.to(w.dtype), None if db is None else db.to(w.dtype)


def _twice(
    gradient: Tensor, x: Tensor, w: Tensor, out: Tensor | None, index: Tensor | None, block: Block, needed: Any
) -> _Answers:
    """The same in ops that can be differentiated again."""
    y, x = dense_gradient(gradient, out, index, block).float(), x.float()
    rest = block.geometry.flat(), block.limits
    return (
        skip_conv2d_input(y, w, *rest) if needed[0] else None,
        skip_conv2d_weight(y, x, *rest) if needed[1] else None,
        y.sum((0, 2, 3)) if needed[2] else None,
    )
