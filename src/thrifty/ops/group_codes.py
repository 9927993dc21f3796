"""group_codes: hash codes -> compact clusters with their members in order.

Pieces of one group share a cluster iff their codes are equal and they lie in the same scope: `scope` consecutive
pixels (an image, several images, or the whole batch). Clusters are numbered by group, then scope, then code, and
members ascend, so the result is the same for every implementation and number of threads.
Cost: a counting sort, O(G * P) moves, and no table of 2^H entries (at H = 20 it would be larger than the layer).
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op


def reference(codes_GP: Tensor, scope: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (G, P) -> the four tensors of `Clusters`."""
    groups, pixels = codes_GP.shape
    scopes_P = torch.arange(pixels, device=codes_GP.device) // scope
    group_G1 = torch.arange(groups, device=codes_GP.device).unsqueeze(1)
    keys_GP = ((group_G1 * (pixels // scope + 1) + scopes_P) << 31) + codes_GP
    _, inverse, counts = torch.unique(keys_GP, return_inverse=True, return_counts=True)
    order_GP = torch.argsort(inverse, dim=1, stable=True)
    zero = counts.new_zeros(1)
    last_G = inverse.max(dim=1).values + 1 if pixels else counts.new_zeros(groups)
    return (
        inverse.to(torch.int32),
        order_GP.to(torch.int32),
        torch.cat([zero, counts.cumsum(0)]),
        torch.cat([zero, last_G]),
    )


def _run(codes_GP: Tensor, scope: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if codes_GP.dim() != 2 or codes_GP.dtype != torch.int32:
        raise ValueError(f"group_codes: codes must be int32 (G, P), got {codes_GP.dtype} {tuple(codes_GP.shape)}")
    if scope < 1:
        raise ValueError(f"group_codes: scope must be at least one pixel, got {scope}")
    if codes_GP.numel() > torch.iinfo(torch.int32).max:
        raise ValueError(f"group_codes: {codes_GP.numel()} pieces cannot be numbered by int32; use smaller batches")
    if codes_GP.device.type != "cpu" or not use_native():
        return reference(codes_GP, scope)
    codes_GP = codes_GP.contiguous()
    groups, pixels = codes_GP.shape
    ids, order = torch.empty_like(codes_GP), torch.empty_like(codes_GP)
    starts = torch.empty(groups * pixels + 1, dtype=torch.int64)
    offsets = torch.empty(groups + 1, dtype=torch.int64)
    clusters = native.group_codes(codes_GP, scope, ids, order, starts, offsets)
    return ids, order, starts[: clusters + 1].clone(), offsets


def _fake(codes_GP: Tensor, scope: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    clusters = torch.library.get_ctx().new_dynamic_size()
    offsets = codes_GP.new_empty(codes_GP.shape[0] + 1, dtype=torch.int64)
    starts = codes_GP.new_empty(clusters, dtype=torch.int64)
    return torch.empty_like(codes_GP), torch.empty_like(codes_GP), starts, offsets


group_codes = Op(
    "group_codes",
    "(Tensor codes, int scope) -> (Tensor ids, Tensor order, Tensor starts, Tensor offsets)",
    stage="group",
    implementation=_run,
    fake=_fake,
)
