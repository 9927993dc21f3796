"""Layers under reuse, and what they should answer."""

import copy

import torch
import torch.nn.functional as F
from reuse_oracle import conv2d, conv2d_patches, quantise
from torch import Tensor, nn

import thrifty
from thrifty.reuse import Reuse, Stage

ENCODERS = ("sign", "codebook")


def fixed(length: int = 4, bits: int = 3, scope: int = 0, *, pieces="pixels", encoder="sign", **settings) -> Reuse:
    stages = (Stage(length, bits, scope),)
    settings = {"skip_zeros": False, **settings}  # dense steps are then the stock ones, bit for bit
    return Reuse(stages=stages, fixed=True, pieces=pieces, linear=True, encoder=encoder, **settings)


def changed(layer: nn.Module, **settings) -> nn.Module:
    """The layer under one setting of reuse for good."""
    model = nn.Sequential(layer)
    applied = thrifty.apply_(model, [fixed(**settings)])
    assert [report.action for report in applied.layers] == ["reuse"]
    return model[0]


def clusters_of(layer: nn.Module, rows: Tensor, image_rows: int) -> tuple[Tensor, int]:
    """Ids (G, P) that the layer finds for rows (P, C), and the piece length; the layer does not notice."""
    stage = layer.reuse.stage
    found = copy.deepcopy(layer.reuse).quantise(rows.detach(), stage, image_rows)
    return found[1].ids, min(stage.length, rows.shape[1])


def sides_of(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Pixels that the convolution adds at the (left, right, top, bottom); with `same`, the odd one comes last."""
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2
    return conv.padding[1], conv.padding[1], conv.padding[0], conv.padding[0]


def expected(layer: nn.Module, x: Tensor) -> Tensor:
    """The answer by the oracle: cluster means in place of pieces, then the dense layer."""
    if isinstance(layer, nn.Linear):
        rows = x.reshape(-1, layer.in_features)
        images = x.shape[0] if x.dim() > 1 else 1
        ids, length = clusters_of(layer, rows, rows.shape[0] // images)
        return F.linear(quantise(rows, ids, length), layer.weight, layer.bias).view(*x.shape[:-1], -1)
    batch, sides = x if x.dim() == 4 else x.unsqueeze(0), sides_of(layer)
    shape = {"stride": layer.stride, "dilation": layer.dilation}
    if layer.padding_mode != "zeros":
        batch, sides = F.pad(batch, sides, mode=layer.padding_mode), (0, 0, 0, 0)
    if layer.reuse.patches:
        columns = F.unfold(F.pad(batch, sides), layer.kernel_size, **shape)
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        convolve = conv2d_patches
    else:
        rows = batch.permute(0, 2, 3, 1).reshape(-1, batch.shape[1])
        convolve = conv2d
    ids, length = clusters_of(layer, rows, rows.shape[0] // batch.shape[0])
    y = convolve(batch, layer.weight, layer.bias, ids, length, padding=sides, **shape)
    return y if x.dim() == 4 else y.squeeze(0)


def gradients(y: Tensor, layer: nn.Module, x: Tensor, cotangent: Tensor) -> list[Tensor]:
    leaves = [x, *layer.parameters()] if x.requires_grad else [*layer.parameters()]
    return list(torch.autograd.grad(y, leaves, cotangent))


def check(layer: nn.Module, x: Tensor, **tolerance) -> Tensor:
    """The layer's answer, after it and every gradient agreed with the oracle."""
    y, wanted = layer(x), expected(layer, x)
    torch.testing.assert_close(y, wanted, **tolerance)
    cotangent = torch.randn_like(wanted)
    torch.testing.assert_close(gradients(y, layer, x, cotangent), gradients(wanted, layer, x, cotangent), **tolerance)
    return y
