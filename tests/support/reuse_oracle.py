"""The slow, obvious meaning of deep reuse: replace every piece by its cluster's mean, then run the dense layer."""

import torch
import torch.nn.functional as F
from torch import Tensor


def quantise(x_PC: Tensor, ids_GP: Tensor, length: int) -> Tensor:
    """Rows whose pieces are replaced by the mean of all pieces with the same id; differentiable."""
    columns = []
    for group, ids_P in enumerate(ids_GP.long()):
        piece = x_PC[:, group * length : (group + 1) * length]
        same = (ids_P.unsqueeze(0) == ids_P.unsqueeze(1)).to(x_PC.dtype)
        columns.append(same @ piece / same.sum(1, keepdim=True))
    return torch.cat(columns, dim=1)


def conv2d(x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, ids_GP: Tensor, length: int, **shape) -> Tensor:
    n, c, h, w = x_NCHW.shape
    rows = quantise(x_NCHW.permute(0, 2, 3, 1).reshape(-1, c), ids_GP, length)
    return F.conv2d(rows.view(n, h, w, c).permute(0, 3, 1, 2), weight, bias, **shape)


def conv2d_patches(x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, ids_GP: Tensor, length: int, **shape) -> Tensor:
    columns = F.unfold(x_NCHW, weight.shape[2:], **shape)
    rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    y = F.linear(quantise(rows, ids_GP, length), weight.flatten(1), bias)
    like = F.conv2d(x_NCHW, weight, bias, **shape)
    return y.view(like.shape[0], *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)
