"""nearest_centroid: the code of a piece is its nearest entry in a codebook (the assignment step of k-means).

Source: vector quantisation as in Jegou et al., Product Quantization (TPAMI 2011).
nearest = argmax x . c - |c|^2 / 2, the first of equals.
Cost: P * C * E multiply-adds for E entries, so E / (3 * M * taps) of a dense layer's training step: a few percent where
the kernel is large, for about 0.6 of the error of sign_hash at the same number of clusters.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op
from thrifty.ops.clusters import cut, piece_count


def reference(x_PC: Tensor, codebook_GEL: Tensor) -> Tensor:
    """Rows (P, C) and codebook (G, E, L) -> codes (G, P)."""
    halves_GE = codebook_GEL.square().sum(-1) / 2
    scores_GPE = torch.baddbmm(-halves_GE.unsqueeze(1), cut(x_PC, codebook_GEL.shape[2]), codebook_GEL.mT)
    return scores_GPE.argmax(-1).to(torch.int32)


def _run(x_PC: Tensor, codebook_GEL: Tensor) -> Tensor:
    groups, entries, length = codebook_GEL.shape
    if x_PC.dim() != 2 or entries < 1 or groups != piece_count(x_PC.shape[1], length):
        raise ValueError(
            f"nearest_centroid: x {tuple(x_PC.shape)} and codebook {tuple(codebook_GEL.shape)} do not belong together: "
            "expected (P, C) and (ceil(C / L), E, L)"
        )
    if not use_native(x_PC, codebook_GEL):
        return reference(x_PC, codebook_GEL)
    codes = torch.empty(groups, x_PC.shape[0], dtype=torch.int32)
    native.nearest_centroid(x_PC.contiguous(), codebook_GEL.contiguous(), codes)
    return codes


def _fake(x_PC: Tensor, codebook_GEL: Tensor) -> Tensor:
    return x_PC.new_empty(codebook_GEL.shape[0], x_PC.shape[0], dtype=torch.int32)


nearest_centroid = Op(
    "nearest_centroid",
    "(Tensor x, Tensor codebook) -> Tensor",
    stage="hash",
    implementation=_run,
    fake=_fake,
)
