"""reuse_conv2d and reuse_linear: a convolution, or a linear layer, on cluster means instead of every piece.

Source: Ning, Guan & Shen, Adaptive Deep Reuse (ICDE 2019), forward and backward:

    centroids = mean of the pieces of each cluster
    table     = centroids @ weight, for every tap of the kernel
    output    = sum over taps and pieces of the table rows that the clusters name

Written with differentiable ops, so for given clusters every derivative is exact: this is plain autograd through
"replace every piece by its cluster's mean, then the dense layer", at the cost of the clusters. The choice of clusters
itself is piecewise constant and carries no derivative.

Deviations from the paper: pieces are cut from pixels rather than from im2col rows, so a piece is hashed once, not once
per tap; `patches_of` gives the im2col rows for inputs whose pixels have too few channels. Layout: channels_last inside.
Cost in multiply-adds: P*C*H to hash, then rc times the dense layer, forward and backward alike.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty.ops.channel_moments import channel_moments
from thrifty.ops.cluster_mean import cluster_mean
from thrifty.ops.clusters import Clusters, piece_count
from thrifty.ops.gather_add import gather_add
from thrifty.ops.geometry import Geometry, Pair
from thrifty.ops.group_codes import group_codes
from thrifty.ops.grouped_mm import grouped_mm
from thrifty.ops.sign_hash import sign_hash


class Moments(NamedTuple):
    """What one pass over the activation tells.

    mean: float64 (C,). total: the sum of squared distances from the mean, or NaN if any value is not finite.
    square: the sum of squares.
    """

    mean: Tensor
    total: float
    square: float


def moments_of(x_PC: Tensor) -> Moments:
    """Mean and spread of the rows of `x_PC` (P, C), without derivative."""
    sum_C, square_C = channel_moments(x_PC.detach())
    mean_C = sum_C / max(x_PC.shape[0], 1)
    square = float(square_C.sum())
    return Moments(mean_C, square - float((sum_C * mean_C).sum()), square)


def sign_codes(x_PC: Tensor, planes_GLH: Tensor, mean_C: Tensor) -> Tensor:
    """Codes (G, P) of the pieces of the rows of `x_PC` by sign-LSH on centred data.

    x_PC: (P, C). planes_GLH: zero-mean hyperplanes, (ceil(C / L), L, H). mean_C: the centre, (C,).
    """
    groups, length, _ = planes_GLH.shape
    with torch.no_grad():
        centre_GL = F.pad(mean_C.to(planes_GLH.dtype), (0, groups * length - mean_C.numel())).view(groups, length)
        thresholds_GH = torch.bmm(centre_GL.unsqueeze(1), planes_GLH).squeeze(1)
        codes: Tensor = sign_hash(x_PC, planes_GLH, thresholds_GH)
        return codes


def find_clusters(x_PC: Tensor, planes_GLH: Tensor, mean_C: Tensor, scope: int) -> Clusters:
    """Clusters of equal `sign_codes` among `scope` consecutive rows, e.g. the pixels of an image; `P` for the batch."""
    return Clusters(*group_codes(sign_codes(x_PC, planes_GLH, mean_C), scope))


def quantisation_error(centroids_KL: Tensor, clusters: Clusters, moments: Moments) -> float:
    """|x - x_q|^2 / |x - mean|^2: 0 is exact, 1 is no better than the mean. 0 for a constant activation."""
    kept = float((centroids_KL.detach().double().square().sum(1) * clusters.counts).sum())
    lost = max(moments.square - kept, 0.0)
    return lost / moments.total if moments.total > 1e-12 * moments.square else 0.0


def pixels_of(x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) -> (P, C): a view for channels_last tensors, else one copy."""
    return x_NCHW.permute(0, 2, 3, 1).reshape(-1, x_NCHW.shape[1])


def patches_of(x_NCHW: Tensor, geometry: Geometry) -> Tensor:
    """im2col: (N, C, H, W) -> (N * OH * OW, C * kh * kw), ordered as `weight.flatten(1)`; padding gives zeros."""
    bottom, right = geometry.far_padding
    padded = F.pad(x_NCHW, (geometry.padding[1], right, geometry.padding[0], bottom))
    columns = F.unfold(padded, geometry.kernel, dilation=geometry.dilation, stride=geometry.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def table_weight(weight: Tensor, length: int) -> Tensor:
    """(M, C, kh, kw) or (M, C) -> (G, L, R * M): the weight that turns a centroid into its row of the table."""
    outputs, channels = weight.shape[:2]
    groups = piece_count(channels, length)
    by_channel = weight.reshape(outputs, channels, -1).permute(1, 2, 0).reshape(channels, -1)
    return F.pad(by_channel, (0, 0, 0, groups * length - channels)).view(groups, length, -1)


def multiply_clusters(
    centroids_KL: Tensor, clusters: Clusters, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Centroids -> outputs (N, OH, OW, M), for `weight` (M, C, kh, kw) whose taps `geometry` describes."""
    table = grouped_mm(centroids_KL, table_weight(weight, centroids_KL.shape[1]), clusters.offsets)
    table_KRM = table.view(table.shape[0], geometry.taps, weight.shape[0])
    return gather_add(table_KRM, bias, *clusters, geometry.flat())


def centroids_of(x_PC: Tensor, clusters: Clusters, length: int) -> Tensor:
    """Rows (P, C) -> cluster means (K, L)."""
    return cluster_mean(x_PC, *clusters, length, x_PC.shape[1])


def rows_geometry() -> Geometry:
    """The geometry of a linear layer on rows, each an image of one pixel."""
    one: Pair = (1, 1)
    return Geometry(one, one, one, one, (0, 0), one)


def reuse_linear(x_PC: Tensor, weight: Tensor, bias: Tensor | None, clusters: Clusters, length: int) -> Tensor:
    """x (P, C) times weight (M, C) plus bias (M,) on cluster means: (P, M)."""
    centroids_KL = centroids_of(x_PC, clusters, length)
    y = multiply_clusters(centroids_KL, clusters, weight, bias, rows_geometry())
    return y.view(x_PC.shape[0], weight.shape[0])


def reuse_conv2d(
    x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, clusters: Clusters, length: int, geometry: Geometry
) -> Tensor:
    """x (N, C, H, W) convolved with weight (M, C, kh, kw) on cluster means: (N, M, OH, OW), channels_last."""
    centroids_KL = centroids_of(pixels_of(x_NCHW), clusters, length)
    return multiply_clusters(centroids_KL, clusters, weight, bias, geometry).permute(0, 3, 1, 2)
