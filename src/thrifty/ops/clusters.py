"""The clusters of one activation: which pieces share one product.

Legend of shape suffixes used by all reuse ops: P pixels (rows), C channels, L piece length, G pieces a pixel (groups),
H hash bits, K clusters of all groups together, M output channels, R taps of the kernel (kh * kw).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Clusters(NamedTuple):
    """Cluster ids of every piece, and the members of every cluster. All tensors are on the activation's device.

    ids: int32 (G, P), the cluster of piece g of pixel p, in [0, K). Clusters of a group are numbered in one run.
    order: int32 (G, P), the pixels of each group sorted by cluster, ascending within a cluster.
    starts: int64 (K + 1,), cluster k owns the entries starts[k] .. starts[k+1] of the flattened `order`.
    offsets: int64 (G + 1,), the clusters of group g are offsets[g] .. offsets[g+1].
    """

    ids: Tensor
    order: Tensor
    starts: Tensor
    offsets: Tensor

    @property
    def counts(self) -> Tensor:
        """int64 (K,): the members of each cluster."""
        return self.starts.diff()

    @property
    def remaining_ratio(self) -> float:
        """Clusters / pieces: the part of the products that is still computed."""
        return (self.starts.numel() - 1) / max(self.ids.numel(), 1)


def piece_count(channels: int, length: int) -> int:
    """Pieces of at most `length` channels that `channels` are cut into; the last one may be shorter."""
    if length < 1 or channels < 1:
        raise ValueError(f"piece length and channels must be positive, got {length} and {channels}")
    return -(-channels // length)


def cut(x_PC: Tensor, length: int) -> Tensor:
    """(P, C) -> (G, P, L): the pieces of every row, the last one filled up with zeros."""
    pixels, channels = x_PC.shape
    groups = piece_count(channels, length)
    padded = torch.nn.functional.pad(x_PC, (0, groups * length - channels))
    return padded.view(pixels, groups, length).permute(1, 0, 2)


def join(pieces_GPL: Tensor, channels: int) -> Tensor:
    """(G, P, L) -> (P, C): the inverse of `cut`."""
    groups, pixels, length = pieces_GPL.shape
    return pieces_GPL.permute(1, 0, 2).reshape(pixels, groups * length)[:, :channels]
