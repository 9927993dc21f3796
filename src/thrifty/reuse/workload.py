"""The operations of `cost.OPERATIONS` as calls that can be timed: the tensors of a layer, and what runs on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.surgery import adopt
from thrifty.ops.channel_moments import channel_moments
from thrifty.ops.cluster_mean import cluster_spread
from thrifty.ops.clusters import Clusters
from thrifty.ops.gather_add import gather_add, pull_sums
from thrifty.ops.group_codes import group_codes
from thrifty.ops.grouped_mm import grouped_mm, grouped_outer
from thrifty.ops.nearest_centroid import nearest_centroid
from thrifty.ops.reuse_conv2d import centroids_of, moments_of, quantisation_error, table_weight
from thrifty.reuse.config import Stage
from thrifty.reuse.encoder import CodebookEncoder
from thrifty.reuse.layers import ReuseConv2d
from thrifty.reuse.problem import LayerShape, Problem, problem
from thrifty.reuse.state import ReuseState


@dataclass(frozen=True)
class Material:
    """The tensors that the operations of one problem work on, shapes as in `thrifty.ops`."""

    problem: Problem
    x_PC: Tensor
    weight: Tensor
    codes_GP: Tensor
    clusters: Clusters
    centroids_KL: Tensor
    table_KRM: Tensor
    y_NHWM: Tensor
    encoder: CodebookEncoder

    @property
    def geometry(self) -> list[int]:
        """As the operations take it."""
        return self.problem.shape.geometry.flat()

    @property
    def weight_GLN(self) -> Tensor:
        """The weight that turns centroids into rows of the table."""
        return table_weight(self.weight, self.problem.length)

    @property
    def sums_KN(self) -> Tensor:
        """A table laid out as the products take it."""
        return self.table_KRM.view(self.table_KRM.shape[0], -1)

    @property
    def x_NCHW(self) -> Tensor:
        """The input as the dense layer takes it, in channels_last."""
        shape = self.problem.shape
        return self.x_PC.view(shape.images, shape.height, shape.width, -1).permute(0, 3, 1, 2)


def make_material(shape: LayerShape, length: int, bits: int, seed: int = 0) -> Material:
    """Build inputs, codes and clusters for `shape` under a setting."""
    random = torch.Generator().manual_seed(seed)
    given = problem(shape, length=length, bits=bits)
    x_PC = torch.randn(shape.pixels, shape.channels, generator=random)
    weight = torch.randn(shape.outputs, shape.channels, *shape.kernel, generator=random)
    weight = weight.to(memory_format=torch.channels_last)
    codes_GP = _codes(given, random)
    clusters = Clusters(*group_codes(codes_GP, shape.pixels))
    clustered = problem(shape, length=length, bits=bits, remaining_ratio=clusters.remaining_ratio)
    encoder = CodebookEncoder(clustered.length, bits, seed)
    encoder.codebook_GEL = torch.randn(given.groups, given.entries, clustered.length, generator=random)
    centroids_KL = centroids_of(x_PC, clusters, clustered.length)
    table_KRM = torch.randn(len(centroids_KL), shape.taps, shape.outputs, generator=random)
    y_NHWM = torch.randn(shape.images, *shape.geometry.output, shape.outputs, generator=random)
    return Material(clustered, x_PC, weight, codes_GP, clusters, centroids_KL, table_KRM, y_NHWM, encoder)


def _codes(given: Problem, random: torch.Generator) -> Tensor:
    """Codes (G, P): low ones more frequent, and every second pixel has that of the pixel before."""
    size = (given.groups, given.shape.pixels)
    codes_GP = (given.entries * torch.rand(size, generator=random) ** 2).int()
    again_GP = torch.rand(size, generator=random) < 0.5
    codes_GP[:, 1:] = torch.where(again_GP[:, 1:], codes_GP[:, :-1], codes_GP[:, 1:])
    return codes_GP.contiguous()


def _convolution(m: Material, wanted: tuple[bool, bool, bool]) -> Callable[[], Any]:
    shape = m.problem.shape
    gradient = m.y_NHWM.permute(0, 3, 1, 2)
    padding = (shape.padding[0], shape.padding[2])
    return lambda: torch.ops.aten.convolution_backward(
        gradient, m.x_NCHW, m.weight, [shape.outputs], shape.stride, padding, shape.dilation, False, [0, 0], 1, wanted
    )


def _convolve(m: Material) -> Callable[[], Any]:
    shape = m.problem.shape
    padding = (shape.padding[0], shape.padding[2])
    bias = torch.zeros(shape.outputs)
    return lambda: torch.conv2d(m.x_NCHW, m.weight, bias, shape.stride, padding, shape.dilation)


def _observe(m: Material) -> Callable[[], Any]:
    moments = moments_of(m.x_PC)

    def call() -> None:
        m.encoder.see(m.x_PC, m.codes_GP, m.clusters, m.centroids_KL)
        quantisation_error(m.centroids_KL, m.clusters, moments)

    return call


def _weights_back(m: Material) -> Callable[[], Any]:
    with torch.enable_grad():
        weight = m.weight.clone().requires_grad_()
        made = table_weight(weight, m.problem.length)
    gradient = torch.ones_like(made)
    return lambda: torch.autograd.grad(made, weight, gradient, retain_graph=True)


def _calls(m: Material) -> Callable[[], Any]:
    """A whole layer on one pixel."""
    conv = nn.Conv2d(4, 4, 1)
    layer = adopt(conv, ReuseConv2d, reuse=ReuseState("calibration", 0, (Stage(4, 1),)))
    x = torch.ones(1, 4, 1, 1, requires_grad=True)
    parameters = list(layer.parameters())

    def call() -> None:
        with torch.enable_grad():
            torch.autograd.grad(layer(x).sum(), (x, *parameters))

    return call


# How each operation of the cost table is run.
CALLS: dict[str, Callable[[Material], Callable[[], Any]]] = {
    "conv_forward": _convolve,
    "conv_weight": lambda m: _convolution(m, (False, True, True)),
    "conv_input": lambda m: _convolution(m, (True, False, False)),
    "moments": lambda m: lambda: channel_moments(m.x_PC),
    "assign": lambda m: lambda: nearest_centroid(m.x_PC, m.encoder.codebook_GEL),
    "group": lambda m: lambda: group_codes(m.codes_GP, m.problem.shape.pixels),
    "centroid": lambda m: lambda: centroids_of(m.x_PC, m.clusters, m.problem.length),
    "observe": _observe,
    "weights": lambda m: lambda: m.weight_GLN,
    "table": lambda m: _bound(grouped_mm, m.centroids_KL, m.weight_GLN, m.clusters.offsets),
    "gather": lambda m: lambda: gather_add(m.table_KRM, None, *m.clusters, m.geometry),
    "bias": lambda m: lambda: m.y_NHWM.sum((0, 1, 2)),
    "pull": lambda m: lambda: pull_sums(m.y_NHWM, *m.clusters, m.geometry),
    "weight_gradient": lambda m: lambda: grouped_outer(m.centroids_KL, m.sums_KN, m.clusters.offsets),
    "centroid_gradient": lambda m: _bound(grouped_mm, m.sums_KN, m.weight_GLN.transpose(1, 2), m.clusters.offsets),
    "spread": lambda m: _bound(cluster_spread, m.centroids_KL, *m.clusters, m.problem.length, m.problem.shape.channels),
    "weights_back": _weights_back,
    "calls": _calls,
}


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)
