"""sim_hash: the signs of random projections, K bits a code, one code a table (SimHash).

Source: Charikar, STOC 2002. Two vectors at the angle t agree in a bit with probability 1 - t / pi, in a code of K bits
with its K-th power, and in at least one of L tables with 1 - (1 - p^K)^L.
Projections are normal (a matrix product: R * D * L * K multiply-adds), or on sparse sign vectors (Achlioptas, PODS
2001; additions only). Multi-probe (Lv et al., VLDB 2007): further codes by flipping the bits whose projections are
nearest to their thresholds, least likely loss first.

Legend of the shape suffixes of the hashing ops: R rows, D features, T tables (L in the papers), K bits or bins a code,
P probes, N classes (neurons), B buckets, C slots a bucket.
"""

import functools
import itertools
import math

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op

MAX_CODE_BITS = 30


def reference(projections: Tensor, thresholds_TK: Tensor) -> Tensor:
    """Projections (R, T * K) -> codes (R, T)."""
    bits_RTK = projections.view(-1, *thresholds_TK.shape) > thresholds_TK
    weights_K = 2 ** torch.arange(thresholds_TK.shape[1], dtype=torch.int64, device=projections.device)
    return (bits_RTK * weights_K).sum(-1).to(torch.int32)


def _run(projections: Tensor, thresholds_TK: Tensor) -> Tensor:
    tables, bits = thresholds_TK.shape
    if projections.dim() != 2 or projections.shape[1] != tables * bits:
        raise ValueError(
            f"pack_signs: projections {tuple(projections.shape)} and thresholds {tuple(thresholds_TK.shape)} do not "
            "belong together: expected (R, T * K) and (T, K)"
        )
    if not 1 <= bits <= MAX_CODE_BITS:
        raise ValueError(f"pack_signs: {bits} bits a code; choose 1 to {MAX_CODE_BITS}")
    if not use_native(projections, thresholds_TK):
        return reference(projections, thresholds_TK)
    codes = torch.empty(projections.shape[0], tables, dtype=torch.int32)
    native.pack_signs(projections.contiguous(), thresholds_TK.contiguous(), codes)
    return codes


def _fake(projections: Tensor, thresholds_TK: Tensor) -> Tensor:
    return projections.new_empty(projections.shape[0], thresholds_TK.shape[0], dtype=torch.int32)


pack_signs = Op("pack_signs", "(Tensor projections, Tensor thresholds) -> Tensor", stage="hash",
                implementation=_run, fake=_fake)  # fmt: skip


def sim_hash(x_RD: Tensor, planes: Tensor, thresholds_TK: Tensor) -> Tensor:
    """Codes (R, T) int32 of rows (R, D) by planes (D, T * K); bit b is set iff its projection exceeds its threshold."""
    codes: Tensor = pack_signs(x_RD.detach() @ planes, thresholds_TK)
    return codes


def sparse_reference(x_RD: Tensor, index_PE: Tensor, signs_PE: Tensor) -> Tensor:
    """Rows (R, D) -> projections (R, P) on vectors with entries `signs_PE` at `index_PE` and zeros elsewhere."""
    return (x_RD[:, index_PE.long()] * signs_PE.to(x_RD.dtype)).sum(-1)


def _run_sparse(x_RD: Tensor, index_PE: Tensor, signs_PE: Tensor) -> Tensor:
    if x_RD.dim() != 2 or index_PE.shape != signs_PE.shape or index_PE.dtype != torch.int32:
        raise ValueError(
            f"sparse_project: x {tuple(x_RD.shape)}, index {tuple(index_PE.shape)} {index_PE.dtype} and signs "
            f"{tuple(signs_PE.shape)} do not belong together: expected (R, D), int32 (P, E) and (P, E)"
        )
    if not use_native(x_RD, signs_PE):
        return sparse_reference(x_RD, index_PE, signs_PE)
    y = torch.empty(x_RD.shape[0], index_PE.shape[0])
    native.sparse_project(x_RD.contiguous(), index_PE.contiguous(), signs_PE.contiguous(), y)
    return y


def _fake_sparse(x_RD: Tensor, index_PE: Tensor, signs_PE: Tensor) -> Tensor:
    return x_RD.new_empty(x_RD.shape[0], index_PE.shape[0])


sparse_project = Op("sparse_project", "(Tensor x, Tensor index, Tensor signs) -> Tensor", stage="hash",
                    implementation=_run_sparse, fake=_fake_sparse)  # fmt: skip


def bit_collision(cosine: float) -> float:
    """The probability that two vectors with this cosine agree in one bit."""
    return 1.0 - math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def table_collision(bit: float, bits: int, tables: int) -> float:
    """The probability to meet in at least one table, from that of agreeing in one bit: 1 - (1 - p^K)^L."""
    return float(1.0 - (1.0 - bit**bits) ** tables)


@functools.lru_cache(maxsize=64)
def probe_order(bits: int, probes: int) -> list[tuple[int, ...]]:
    """The sets of bits to flip, by rank of margin (0 is the smallest), the most promising set first.

    The i-th smallest of `bits` margins has an expected square in proportion to (i + 1) (i + 2), and a set is as
    unlikely as the sum of its squares is large.
    """
    few = range(min(bits, max(1, probes)))
    sets = [s for size in range(min(bits, 4) + 1) for s in itertools.combinations(few, size)]
    sets.sort(key=lambda s: (sum((i + 1) * (i + 2) for i in s), s))
    return sets[:probes]


def probe_reference(projections: Tensor, thresholds_TK: Tensor, sets: list[tuple[int, ...]]) -> Tensor:
    """Codes (R, T, P): each row's own code, with the bits of every set flipped."""
    codes_RT = reference(projections, thresholds_TK)
    margins_RTK = (projections.view(-1, *thresholds_TK.shape) - thresholds_TK).abs()
    ranked = margins_RTK.argsort(dim=-1, stable=True)
    masks = torch.bitwise_left_shift(torch.ones_like(ranked), ranked).to(torch.int32)
    return torch.stack([codes_RT ^ masks[..., list(s)].sum(-1).to(torch.int32) for s in sets], -1)


def probe_codes(projections: Tensor, thresholds_TK: Tensor, probes: int) -> Tensor:
    """Codes int32 (R, T, P) from projections (R, T * K): each row's own code first, then its likeliest neighbours.

    P is `probes`, or all 2^K codes where there are no more.
    """
    sets = probe_order(thresholds_TK.shape[1], probes)
    if not use_native(projections, thresholds_TK):
        return probe_reference(projections, thresholds_TK, sets)
    codes = torch.empty(projections.shape[0], thresholds_TK.shape[0], len(sets), dtype=torch.int32)
    native.probe_signs(
        projections.contiguous(), thresholds_TK.contiguous(), _flips(thresholds_TK.shape[1], probes), codes
    )
    return codes


@functools.lru_cache(maxsize=64)
def _flips(bits: int, probes: int) -> Tensor:
    """`probe_order` as int32 (P, 4), filled up with -1."""
    return torch.tensor([[*s, *[-1] * (4 - len(s))] for s in probe_order(bits, probes)], dtype=torch.int32)
