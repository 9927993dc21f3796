"""The slow, obvious meaning of deep reuse: replace every piece by its cluster's mean, then run the dense layer.

The dense layer runs in double precision, which torch computes by itself: oneDNN's convolution, as of torch 2.13, is no
oracle for images of a few pixels in channels_last. With outputs that see nothing but padding it crashes now and then,
and with one channel, one output column and a stride it answers with memory that nobody wrote.
"""

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


def conv2d(
    x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, ids_GP: Tensor, length: int, *, padding=0, **shape
) -> Tensor:
    n, c, h, w = x_NCHW.shape
    rows = quantise(x_NCHW.permute(0, 2, 3, 1).reshape(-1, c), ids_GP, length)
    image = framed(rows.view(n, h, w, c).permute(0, 3, 1, 2), padding)
    return dense(image, weight, bias, **shape)


def conv2d_patches(
    x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, ids_GP: Tensor, length: int, *, padding=0, **shape
) -> Tensor:
    image = framed(x_NCHW, padding)
    columns = F.unfold(image, weight.shape[2:], **shape)
    rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    y = F.linear(quantise(rows, ids_GP, length), weight.flatten(1), bias)
    like = dense(image, weight, bias, **shape)
    return y.view(like.shape[0], *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)


def dense(x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, **shape) -> Tensor:
    return F.conv2d(x_NCHW.double(), weight.double(), None if bias is None else bias.double(), **shape).to(x_NCHW.dtype)


def framed(x_NCHW: Tensor, padding: int | tuple[int, int] | tuple[int, int, int, int]) -> Tensor:
    """Zeros around: as many everywhere, (height, width), or (left, right, top, bottom)."""
    if isinstance(padding, int):
        padding = (padding, padding)
    sides = padding if len(padding) == 4 else (padding[1], padding[1], padding[0], padding[0])
    return F.pad(x_NCHW, sides)
