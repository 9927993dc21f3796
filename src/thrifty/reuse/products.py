"""The products of rows with a weight, under reuse: by equal rows, without error, or by clusters of similar pieces."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty.ops.clusters import Clusters
from thrifty.ops.equal_rows import equal_rows
from thrifty.ops.group_codes import group_codes
from thrifty.ops.reuse_conv2d import multiply_clusters, rows_geometry
from thrifty.ops.shared_linear import shared_linear
from thrifty.reuse.encoder import transformed
from thrifty.reuse.parts import REST_STEPS, PartsState
from thrifty.reuse.state import ReuseState

_SHAPE_ONLY = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Clone", "Squeeze", "Unsqueeze",
               "PackPaddedSequence", "Select", "Slice", "Contiguous")  # fmt: skip
_FARTHEST = 8  # autograd nodes between the rows and the embedding that they were taken from


class Shared(NamedTuple):
    """Equal rows, and whether they may share their gradient too (`shared_linear`)."""

    clusters: Clusters
    spread: bool


def find_equal(
    state: PartsState, product: str, x_PC: Tensor, given: Tensor, limit: Callable[[bool], float]
) -> Shared | None:
    """The equal rows of `x_PC`, or None where more than the part `limit` of the rows is distinct.

    given: the layer's input, whose rows these are. limit: is given whether a gradient is wanted that the rows do not
    share. After a vain search the product rests for some steps, so that searching costs next to nothing where it never
    pays.
    """
    if product in state.rest:
        state.rest[product] -= 1
        if not state.rest[product]:
            del state.rest[product]
        return None
    clusters = Clusters(*group_codes(equal_rows(x_PC.detach()), max(x_PC.shape[0], 1)))
    spread = x_PC.requires_grad and not _watched(given) and is_embedding(x_PC, clusters)
    if clusters.remaining_ratio > limit(x_PC.requires_grad and not spread):
        state.rest[product] = REST_STEPS
        return None
    state.observe_exact(clusters.remaining_ratio)
    return Shared(clusters, spread)


def count_dense(state: PartsState, x_PC: Tensor, weight: Tensor) -> None:
    """Book the multiply-adds of a product that was made for every row."""
    dense = x_PC.shape[0] * weight.numel() * (1 + sum(_gradients(x_PC, weight)))
    state.counters.add(macs=dense, dense_macs=dense)


def equal_linear(state: PartsState, x_PC: Tensor, weight: Tensor, bias: Tensor | None, shared: Shared) -> Tensor:
    """The dense layer's answer, from one product for each distinct row."""
    dense = x_PC.shape[0] * weight.numel()
    to_weight, to_x = _gradients(x_PC, weight)
    by_cluster, by_row = (1 + to_weight + to_x, 0) if shared.spread else (1 + to_weight, to_x)
    done = int(dense * shared.clusters.remaining_ratio * by_cluster) + dense * by_row
    state.counters.add(macs=done, dense_macs=dense * (by_cluster + by_row))
    y: Tensor = shared_linear(x_PC, weight, bias, *shared.clusters, shared.spread)
    return y


def clustered_linear(
    state: PartsState, part: ReuseState, x_PC: Tensor, weight: Tensor, bias: Tensor | None, image_rows: int
) -> Tensor:
    """The answer on cluster means; the dense one where a value is not finite."""
    stage = part.stage
    found = None if stage is None or x_PC.shape[0] == 0 else part.quantise(x_PC, stage, image_rows)
    if found is None or stage is None:
        count_dense(state, x_PC, weight)
        return F.linear(x_PC, weight, bias)
    passes = 1 + sum(_gradients(x_PC, weight))
    encoder = part.encoder(min(stage.length, x_PC.shape[1]), stage.bits)
    dense = x_PC.shape[0] * weight.numel() * passes
    search = x_PC.numel() * encoder.macs_per_value
    state.counters.add(macs=int(dense * found[1].remaining_ratio) + search, dense_macs=dense)
    return multiply_clusters(*found, weight, bias, rows_geometry()).view(x_PC.shape[0], weight.shape[0])


def _gradients(x: Tensor, weight: Tensor) -> tuple[int, int]:
    """Further products that the backward pass makes: for the weight and for the rows."""
    if not torch.is_grad_enabled():
        return 0, 0
    return int(weight.requires_grad), int(x.requires_grad)


def is_embedding(x_PC: Tensor, clusters: Clusters) -> bool:
    """Whether the rows are copies of one embedding's rows, with nothing but changes of shape between.

    Then the embedding sums the gradients of all copies of a row, and equal rows may share theirs. Not so where two of
    its rows are equal (a fresh embedding made of zeros): their gradients differ. clusters: of the equal rows.
    """
    node, steps = x_PC.grad_fn, 0
    if transformed():
        return False
    while node is not None and steps < _FARTHEST:
        name = node.name().rstrip("0123456789").removesuffix("Backward")
        if name == "Embedding":
            weight = getattr(node.next_functions[0][0], "variable", None)
            indices = getattr(node, "_saved_indices", None)
            return weight is not None and indices is not None and _match(x_PC, clusters, weight.detach(), indices)
        if name not in _SHAPE_ONLY:
            return False
        node, steps = node.next_functions[0][0], steps + 1
    return False


def _watched(x: Tensor) -> bool:
    """Whether somebody looks at this tensor's gradient, by a hook or `retain_grad`: he is shown it row by row."""
    return bool(x._backward_hooks) or (not x.is_leaf and x.retains_grad)


def _match(x_PC: Tensor, clusters: Clusters, weight: Tensor, indices: Tensor) -> bool:
    """Whether the rows of `weight` at `indices` all differ, and every distinct row of `x_PC` is one of them."""
    if weight.shape[1] != x_PC.shape[1] or weight.dtype != x_PC.dtype:
        return False
    used = weight[indices.unique()]
    distinct = x_PC.detach()[clusters.order.view(-1)[clusters.starts[:-1]].long()]
    codes = equal_rows(torch.cat([used, distinct]))[0]
    order = torch.arange(len(used), device=codes.device)
    return torch.equal(codes[: len(used)].long(), order) and bool((codes[len(used) :] < len(used)).all())
