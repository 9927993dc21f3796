"""skip_conv2d and its two adjoints: an exact convolution that multiplies only what is not zero, where that is faster.

Sources: exact skipping of zeros in training is SparseTrain's idea (Gong et al., PACT 2020): after a ReLU half of an
activation is zero or more, and the gradient that comes back through a max pool and a ReLU is nonzero at a twentieth to
a seventh of its places. Nothing is approximated: only the order of the sums differs from the dense convolution's.

    skip_conv2d:        y = bias + x * w            by the nonzeros of x
    skip_conv2d_input:  the adjoint in x of y       by the nonzeros of y
    skip_conv2d_weight: the adjoint in w of y       by the nonzeros of y

All three are bilinear, and each one's derivatives are the other two. x (N, C, H, W), w (M, C, kh, kw),
y (N, M, OH, OW), best in channels_last, as which results come. `limits` holds two shares, for the forward op and for
the adjoints: where the nonzeros are at most that share of the values they are multiplied alone, else the dense
convolution of torch runs. The choice depends on the data only, so the same inputs take the same route.
Cost: the share times the dense multiply-adds, at about half of the dense rate; one pass to pack the nonzeros.
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops import _stages
from thrifty.ops._backend import use_native
from thrifty.ops._define import Args, Op, product_rule
from thrifty.ops.geometry import Geometry

DIRECTIONS = ("forward", "backward")
"""What the entries of `limits` are for; also the names under which routes are reported."""

SAMPLED_ROWS = 4096  # pixels at least that the share of nonzeros is told from


def sampling_step(rows: Tensor) -> int:
    """Every how many rows the share of nonzeros is looked at."""
    return max(1, rows.shape[0] // SAMPLED_ROWS)


def share_of_nonzeros(x: Tensor) -> float:
    """The share of the values of x (N, C, H, W) that are not zero, told from some of the pixels. NaN is no zero."""
    rows = pixels_last(x).view(-1, x.shape[1])
    if rows.numel() == 0:
        return 0.0
    step = sampling_step(rows)
    seen = rows.shape[1] * -(-rows.shape[0] // step)
    if not use_native(rows):
        return float(rows[::step].count_nonzero()) / seen
    return float(native.count_nonzeros(rows, step)) / seen


def _routed(
    direction: str,
    limits: Sequence[float],
    macs: int,
    source: Tensor,
    others: Sequence[Tensor],
    skip: Callable[[float], Tensor],
    dense: Callable[[], Tensor],
) -> Tensor:
    """The way that the share of nonzeros in `source` decides; whoever listens is told, with the seconds it took."""
    start = time.perf_counter()
    possible = use_native(source, *others)
    share = share_of_nonzeros(source) if possible else 1.0
    skipped = possible and share <= limits[DIRECTIONS.index(direction)]
    result = skip(share) if skipped else dense()
    sink = _stages.current()
    if sink is not None:
        sink.went(direction, _stages.Route(share, skipped, time.perf_counter() - start), macs)
    return result


def run(x: Tensor, w: Tensor, bias: Tensor | None, geometry: list[int], limits: list[float]) -> Tensor:
    """`skip_conv2d` without derivatives; where dense, in the layout of torch, so that what follows has its bits."""
    shape = _check("skip_conv2d", geometry, limits, x=x, w=w, bias=bias)

    def skip(share: float) -> Tensor:
        y = empty_last(x, x.shape[0], w.shape[0], *shape.output)
        start = w.new_zeros(w.shape[0]) if bias is None else bias.contiguous()
        native.skip_conv(pixels_last(x), taps_last(w), start, geometry, share, pixels_last(y))
        return y

    others = [w] if bias is None else [w, bias]
    macs = dense_macs(shape, x.shape[0], x.shape[1], w.shape[0])
    return _routed("forward", limits, macs, x, others, skip, lambda: dense_conv2d(x, w, bias, shape))


def _promised(y: Tensor) -> Tensor:
    """In the layout that the fake implementations promise to the compiler, whichever route was taken."""
    return y.contiguous(memory_format=torch.channels_last)


def _run(x: Tensor, w: Tensor, bias: Tensor | None, geometry: list[int], limits: list[float]) -> Tensor:
    return _promised(run(x, w, bias, geometry, limits))


def _run_input(y: Tensor, w: Tensor, geometry: list[int], limits: list[float]) -> Tensor:
    shape = _check("skip_conv2d_input", geometry, limits, y=y, w=w)

    def skip(share: float) -> Tensor:
        x = empty_last(y, y.shape[0], w.shape[1], *shape.input)
        native.skip_conv_backward(
            pixels_last(y), None, None, [], pixels_last(x), taps_last(w), geometry, share, pixels_last(x), None, None
        )
        return x

    macs = dense_macs(shape, y.shape[0], w.shape[1], w.shape[0])
    return _promised(_routed("backward", limits, macs, y, [w], skip, lambda: dense_conv2d_input(y, w, shape)))


def _run_weight(y: Tensor, x: Tensor, geometry: list[int], limits: list[float]) -> Tensor:
    shape = _check("skip_conv2d_weight", geometry, limits, y=y, x=x)

    def skip(share: float) -> Tensor:
        w = empty_last(y, y.shape[1], x.shape[1], *shape.kernel)
        native.skip_conv_backward(
            pixels_last(y), None, None, [], pixels_last(x), taps_last(w), geometry, share, None, taps_last(w), None
        )
        return w

    macs = dense_macs(shape, y.shape[0], x.shape[1], y.shape[1])
    return _promised(_routed("backward", limits, macs, y, [x], skip, lambda: dense_conv2d_weight(y, x, shape)))


def dense_conv2d(x: Tensor, w: Tensor, bias: Tensor | None, shape: Geometry) -> Tensor:
    """The meaning of `skip_conv2d`: torch's convolution."""
    return F.conv2d(_padded(x, shape), w, bias, shape.stride, _padding(shape), shape.dilation)


def dense_conv2d_input(y: Tensor, w: Tensor, shape: Geometry) -> Tensor:
    """The meaning of `skip_conv2d_input`: torch's gradient of the input."""
    x = _backward(y, _padded(empty_last(y, y.shape[0], w.shape[1], *shape.input), shape), w, shape, 0)
    if shape.symmetric:
        return x
    bottom, right = shape.far_padding
    x = F.pad(x, (0, max(-right, 0), 0, max(-bottom, 0)))
    (top, left), (height, width) = shape.padding, shape.input
    return x[..., top : top + height, left : left + width]


def dense_conv2d_weight(y: Tensor, x: Tensor, shape: Geometry) -> Tensor:
    """The meaning of `skip_conv2d_weight`: torch's gradient of the weight."""
    return _backward(y, _padded(x, shape), empty_last(y, y.shape[1], x.shape[1], *shape.kernel), shape, 1)


def _backward(y: Tensor, x: Tensor, w: Tensor, shape: Geometry, which: int) -> Tensor:
    answers = torch.ops.aten.convolution_backward(
        y, x, w, None, shape.stride, _padding(shape), shape.dilation, False, (0, 0), 1, (which == 0, which == 1, False)
    )
    answer: Tensor = answers[which]
    return answer


def _padding(shape: Geometry) -> tuple[int, int]:
    return shape.padding if shape.symmetric else (0, 0)


def _padded(x: Tensor, shape: Geometry) -> Tensor:
    """x with those zeros around it that the convolution cannot add itself."""
    if shape.symmetric:
        return x
    bottom, right = shape.far_padding
    x = F.pad(x, (shape.padding[1], max(right, 0), shape.padding[0], max(bottom, 0)))
    # Only then is what no stride reaches cut off: torch refuses to cut more than there was before.
    return x[..., : x.shape[-2] + min(bottom, 0), : x.shape[-1] + min(right, 0)]


def dense_macs(shape: Geometry, images: int, channels: int, outputs: int) -> int:
    """Multiply-adds of one of the three products, were nothing skipped."""
    return images * shape.output[0] * shape.output[1] * shape.taps * channels * outputs


def empty_last(x: Tensor, *size: int) -> Tensor:
    """Memory for (N, C, H, W) in channels_last, of the dtype and device of `x`."""
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def pixels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), dense: a view for channels_last tensors, else a copy."""
    return x.permute(0, 2, 3, 1).contiguous()


def taps_last(w: Tensor) -> Tensor:
    """(M, C, kh, kw) -> (M, kh * kw, C), dense: a view for channels_last tensors, else a copy."""
    return pixels_last(w).view(w.shape[0], -1, w.shape[1])


def _check(
    name: str,
    geometry: list[int],
    limits: list[float],
    *,
    x: Tensor | None = None,
    w: Tensor | None = None,
    y: Tensor | None = None,
    bias: Tensor | None = None,
) -> Geometry:
    """The geometry, if all sizes fit it. Raises ValueError."""
    shape = Geometry.unflat(geometry)
    if len(limits) != len(DIRECTIONS):
        raise ValueError(f"{name}: expected {len(DIRECTIONS)} limits, got {len(limits)}")
    for what, tensor, size in (("x", x, shape.input), ("w", w, shape.kernel), ("y", y, shape.output)):
        if tensor is not None and (tensor.dim() != 4 or tensor.shape[2:] != size):
            raise ValueError(f"{name}: {what} of {tuple(tensor.shape)} does not fit {shape}")
    if x is not None and w is not None and x.shape[1] != w.shape[1]:
        raise ValueError(f"{name}: x has {x.shape[1]} channels, w expects {w.shape[1]}")
    if y is not None and w is not None and y.shape[1] != w.shape[0]:
        raise ValueError(f"{name}: y has {y.shape[1]} channels, w makes {w.shape[0]}")
    if y is not None and x is not None and y.shape[0] != x.shape[0]:
        raise ValueError(f"{name}: y has {y.shape[0]} images, x has {x.shape[0]}")
    if bias is not None and w is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"{name}: bias of {tuple(bias.shape)} for {w.shape[0]} outputs")
    return shape


def _fake(x: Tensor, w: Tensor, bias: Tensor | None, geometry: list[int], limits: list[float]) -> Tensor:
    return empty_last(x, x.shape[0], w.shape[0], *Geometry.unflat(geometry).output)


def _fake_input(y: Tensor, w: Tensor, geometry: list[int], limits: list[float]) -> Tensor:
    return empty_last(y, y.shape[0], w.shape[1], *Geometry.unflat(geometry).input)


def _fake_weight(y: Tensor, x: Tensor, geometry: list[int], limits: list[float]) -> Tensor:
    return empty_last(y, y.shape[1], x.shape[1], *Geometry.unflat(geometry).kernel)


def _conv_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    x, w, _, *rest = args
    return (
        skip_conv2d_input(gradient, w, *rest) if needed[0] else None,
        skip_conv2d_weight(gradient, x, *rest) if needed[1] else None,
        gradient.sum((0, 2, 3)) if needed[2] else None,
    )


def _input_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    y, w, *rest = args
    return (
        skip_conv2d(gradient, w, None, *rest) if needed[0] else None,
        skip_conv2d_weight(y, gradient, *rest) if needed[1] else None,
    )


def _weight_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    y, x, *rest = args
    return (
        skip_conv2d(x, gradient, None, *rest) if needed[0] else None,
        skip_conv2d_input(y, gradient, *rest) if needed[1] else None,
    )


def _conv_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    x, w, _, *rest = args
    x_t, w_t, bias_t = tangents
    y_t = None if x_t is None else skip_conv2d(x_t, w, bias_t, *rest)
    if w_t is not None:
        by_weight = skip_conv2d(x, w_t, bias_t if y_t is None else None, *rest)
        y_t = by_weight if y_t is None else y_t + by_weight
    if y_t is None:
        shape = Geometry.unflat(rest[0])
        y_t = bias_t.view(-1, 1, 1).expand(x.shape[0], -1, *shape.output)  # type: ignore[union-attr]  # one is there
    return y_t


def _input_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return product_rule(skip_conv2d_input, args, tangents)


def _weight_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return product_rule(skip_conv2d_weight, args, tangents)


skip_conv2d = Op(
    "skip_conv2d",
    "(Tensor x, Tensor w, Tensor? bias, int[] geometry, float[] limits) -> Tensor",
    stage="conv",
    implementation=_run,
    fake=_fake,
    linear=(0, 1, 2),
    saves=(0, 1),
    backward=_conv_backward,
    jvp=_conv_jvp,
)
skip_conv2d_input = Op(
    "skip_conv2d_input",
    "(Tensor y, Tensor w, int[] geometry, float[] limits) -> Tensor",
    stage="conv",
    implementation=_run_input,
    fake=_fake_input,
    linear=(0, 1),
    saves=(0, 1),
    backward=_input_backward,
    jvp=_input_jvp,
)
skip_conv2d_weight = Op(
    "skip_conv2d_weight",
    "(Tensor y, Tensor x, int[] geometry, float[] limits) -> Tensor",
    stage="conv",
    implementation=_run_weight,
    fake=_fake_weight,
    linear=(0, 1),
    saves=(0, 1),
    backward=_weight_backward,
    jvp=_weight_jvp,
)
