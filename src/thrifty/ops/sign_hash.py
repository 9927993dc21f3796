"""sign_hash: one bit per hyperplane, the sign of the centred projection (random-hyperplane LSH).

Source: Charikar, STOC 2002, as used by Ning, Guan & Shen (ICDE 2019). Bit b of a piece's code is 1 iff
x . v_b > threshold_b; with threshold_b = mean . v_b the data are centred without a pass over them.
Cost: P * C * H multiply-adds. Deviation: the predecessors drew non-negative hyperplanes and did not centre, so that
activations behind a ReLU all fell into one cluster.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op
from thrifty.ops.clusters import cut, piece_count

MAX_BITS = 30


def reference(x_PC: Tensor, planes_GLH: Tensor, thresholds_GH: Tensor) -> Tensor:
    """Rows (P, C) -> codes (G, P)."""
    pieces_GPL = cut(x_PC, planes_GLH.shape[1])
    bits_GPH = torch.bmm(pieces_GPL, planes_GLH) > thresholds_GH.unsqueeze(1)
    weights_H = 2 ** torch.arange(planes_GLH.shape[2], dtype=torch.int64, device=x_PC.device)
    return (bits_GPH * weights_H).sum(-1).to(torch.int32)


def _run(x_PC: Tensor, planes_GLH: Tensor, thresholds_GH: Tensor) -> Tensor:
    groups, length, bits = planes_GLH.shape
    if x_PC.dim() != 2 or groups != piece_count(x_PC.shape[1], length) or thresholds_GH.shape != (groups, bits):
        raise ValueError(
            f"sign_hash: x {tuple(x_PC.shape)}, planes {tuple(planes_GLH.shape)} and thresholds "
            f"{tuple(thresholds_GH.shape)} do not belong together: expected (P, C), (ceil(C / L), L, H), (G, H)"
        )
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"sign_hash: {bits} hash bits; choose 1 to {MAX_BITS}")
    if not use_native(x_PC, planes_GLH, thresholds_GH):
        return reference(x_PC, planes_GLH, thresholds_GH)
    codes = torch.empty(groups, x_PC.shape[0], dtype=torch.int32)
    native.sign_hash(x_PC.contiguous(), planes_GLH.contiguous(), thresholds_GH.contiguous(), codes)
    return codes


def _fake(x_PC: Tensor, planes_GLH: Tensor, thresholds_GH: Tensor) -> Tensor:
    return x_PC.new_empty(planes_GLH.shape[0], x_PC.shape[0], dtype=torch.int32)


sign_hash = Op(
    "sign_hash",
    "(Tensor x, Tensor planes, Tensor thresholds) -> Tensor",
    stage="hash",
    implementation=_run,
    fake=_fake,
)
