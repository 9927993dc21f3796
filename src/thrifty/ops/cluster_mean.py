"""cluster_mean and cluster_spread: pieces -> centroids, and back. Each is the other's adjoint.

centroid[k] = mean of the members of cluster k (ADR, forward step 3).
spread[p, piece g] = c[ids[g, p]] / members of that cluster (ADR, backward: every member receives the mean's gradient).
For fixed clusters both are linear, so they carry derivatives of any order and mode. Cost: P * C additions.
Both take the piece length L and the channels C, of which each reads one, so that their adjoints know the other.
"""

from collections.abc import Sequence

from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Args, Op
from thrifty.ops.clusters import cut, join, piece_count


def reference_mean(x_PC: Tensor, ids_GP: Tensor, starts: Tensor, length: int) -> Tensor:
    """Rows (P, C) -> centroids (K, L)."""
    counts_K = starts.diff()
    sums_KL = x_PC.new_zeros(counts_K.numel(), length)
    sums_KL.index_add_(0, ids_GP.reshape(-1), cut(x_PC, length).reshape(-1, length))
    return sums_KL / counts_K.unsqueeze(1).to(x_PC.dtype)


def reference_spread(c_KL: Tensor, ids_GP: Tensor, starts: Tensor, channels: int) -> Tensor:
    """What clusters hold (K, L) -> rows (P, C)."""
    shares_KL = c_KL / starts.diff().unsqueeze(1).to(c_KL.dtype)
    return join(shares_KL[ids_GP.long()], channels).contiguous()


def _check(x_shape: tuple[int, int], ids_GP: Tensor, length: int) -> None:
    pixels, channels = x_shape
    if ids_GP.shape != (piece_count(channels, length), pixels):
        raise ValueError(
            f"clusters of {tuple(ids_GP.shape)} (groups, pixels) do not fit {pixels} pixels of {channels} channels "
            f"in pieces of {length}"
        )


def _run_mean(
    x_PC: Tensor, ids_GP: Tensor, order_GP: Tensor, starts: Tensor, offsets: Tensor, length: int, channels: int
) -> Tensor:
    _check((x_PC.shape[0], x_PC.shape[1]), ids_GP, length)
    if not use_native(x_PC):
        return reference_mean(x_PC, ids_GP, starts, length)
    centroids_KL = x_PC.new_empty(starts.numel() - 1, length)
    native.cluster_mean(x_PC.contiguous(), order_GP, starts, offsets, centroids_KL)
    return centroids_KL


def _run_spread(
    c_KL: Tensor, ids_GP: Tensor, order_GP: Tensor, starts: Tensor, offsets: Tensor, length: int, channels: int
) -> Tensor:
    _check((ids_GP.shape[1], channels), ids_GP, c_KL.shape[1])
    if not use_native(c_KL):
        return reference_spread(c_KL, ids_GP, starts, channels)
    x_PC = c_KL.new_empty(ids_GP.shape[1], channels)
    native.cluster_spread(c_KL.contiguous(), ids_GP, starts, x_PC)
    return x_PC


def _fake_mean(
    x_PC: Tensor, ids_GP: Tensor, order_GP: Tensor, starts: Tensor, offsets: Tensor, length: int, channels: int
) -> Tensor:
    return x_PC.new_empty(starts.shape[0] - 1, length)


def _fake_spread(
    c_KL: Tensor, ids_GP: Tensor, order_GP: Tensor, starts: Tensor, offsets: Tensor, length: int, channels: int
) -> Tensor:
    return c_KL.new_empty(ids_GP.shape[1], channels)


def _mean_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    return (cluster_spread(gradient, *args[1:]),)


def _mean_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return cluster_mean(tangents[0], *args[1:])


def _spread_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    return (cluster_mean(gradient, *args[1:]),)


def _spread_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return cluster_spread(tangents[0], *args[1:])


_CLUSTERS = "Tensor ids, Tensor order, Tensor starts, Tensor offsets, int length, int channels"

cluster_mean = Op(
    "cluster_mean",
    f"(Tensor x, {_CLUSTERS}) -> Tensor",
    stage="centroid",
    implementation=_run_mean,
    fake=_fake_mean,
    linear=(0,),
    saves=(1, 2, 3, 4),
    backward=_mean_backward,
    jvp=_mean_jvp,
)
cluster_spread = Op(
    "cluster_spread",
    f"(Tensor c, {_CLUSTERS}) -> Tensor",
    stage="scatter",
    implementation=_run_spread,
    fake=_fake_spread,
    linear=(0,),
    saves=(1, 2, 3, 4),
    backward=_spread_backward,
    jvp=_spread_jvp,
)
