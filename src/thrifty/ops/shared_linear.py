"""shared_linear: a linear layer on rows of which many are equal, with one product for each distinct row. Exact.

    y[p] = x[first row equal to p] @ weight^T + bias
    dW   = sum over distinct rows of (sum of dY over the equals)^T x        (the pulled sums of deep reuse)
    dX   = dY @ weight, row by row                                          (exact whatever the rows come from)

With `spread`, the input gradient is shared too: dX[p] = mean over the equals of (dY @ weight), one product a distinct
row. Where equal rows are copies of one embedding row, whose gradient is the sum over its copies, that changes nothing;
anywhere else it would, so the caller has to know. Cost: rc of the dense products for y and dW, and for dX 1 or rc.
The clusters must hold equal rows only (`equal_rows`); for others see `reuse_linear`. Derivatives of any order and mode.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thrifty.ops._define import Args, Op
from thrifty.ops.cluster_mean import cluster_spread
from thrifty.ops.gather_add import gather_add, pull_sums
from thrifty.ops.geometry import Geometry

_POINT = Geometry((1, 1), (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)).flat()


def reference(x_PC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (P, C), weight (M, C), bias (M,) -> (P, M): the dense layer."""
    return torch.nn.functional.linear(x_PC, weight, bias)


def _distinct(order_GP: Tensor, starts: Tensor) -> Tensor:
    return order_GP.view(-1)[starts[:-1]].long()


def _run(
    x_PC: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids_GP: Tensor,
    order_GP: Tensor,
    starts: Tensor,
    offsets: Tensor,
    spread: bool,
) -> Tensor:
    if ids_GP.shape != (1, x_PC.shape[0]) or weight.dim() != 2 or weight.shape[1] != x_PC.shape[1]:
        raise ValueError(
            f"shared_linear: x {tuple(x_PC.shape)}, weight {tuple(weight.shape)} and ids {tuple(ids_GP.shape)} do not "
            "belong together: expected (P, C), (M, C) and (1, P)"
        )
    table_KM = x_PC[_distinct(order_GP, starts)] @ weight.t()
    y = gather_add(table_KM.unsqueeze(1), bias, ids_GP, order_GP, starts, offsets, _POINT)
    return y.view(x_PC.shape[0], weight.shape[0])


def _fake(
    x_PC: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids_GP: Tensor,
    order_GP: Tensor,
    starts: Tensor,
    offsets: Tensor,
    spread: bool,
) -> Tensor:
    return x_PC.new_empty(x_PC.shape[0], weight.shape[0])


def _backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    x_PC, weight, _, *clusters, spread = args
    sums_KM = None
    if needed[1] or (needed[0] and spread):
        sums_KM = pull_sums(gradient.view(-1, 1, 1, gradient.shape[1]), *clusters, _POINT).squeeze(1)
    to_x = None
    if needed[0]:
        channels = x_PC.shape[1]
        to_x = cluster_spread(sums_KM @ weight, *clusters, channels, channels) if spread else gradient @ weight
    to_weight = sums_KM.t() @ x_PC[_distinct(clusters[1], clusters[2])] if needed[1] and sums_KM is not None else None
    return to_x, to_weight, gradient.sum(0) if needed[2] else None


def _jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    x_PC, weight, _, *clusters, _ = args
    x_t, weight_t, bias_t = tangents
    y_t = None if x_t is None else x_t @ weight.t()
    if weight_t is not None:
        of_weight = shared_linear(x_PC, weight_t, None, *clusters, False)
        y_t = of_weight if y_t is None else y_t + of_weight
    if bias_t is not None:
        y_t = bias_t.expand(x_PC.shape[0], -1).contiguous() if y_t is None else y_t + bias_t
    assert y_t is not None, "autograd asks for a tangent only when an input has one"
    return y_t


shared_linear = Op(
    "shared_linear",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor ids, Tensor order, Tensor starts, Tensor offsets, bool spread)"
    " -> Tensor",
    stage="gemm",
    implementation=_run,
    fake=_fake,
    linear=(0, 1, 2),
    saves=(0, 1, 3, 4, 5, 6),
    backward=_backward,
    jvp=_jvp,
)
