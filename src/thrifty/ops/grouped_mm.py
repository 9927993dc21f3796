"""grouped_mm and grouped_outer: one matrix product for each group of rows, without copies.

out[rows of g] = a[rows of g] @ b[g]        (ADR: centroids times weights; with b transposed, their gradient)
out[g] = a[rows of g]^T @ s[rows of g]      (ADR: the weight gradient from centroids and gradient sums)
Group g owns the rows offsets[g] .. offsets[g+1]. Both are bilinear and their derivatives are each other.
Cost: K * L * N multiply-adds, through torch.mm.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from thrifty.ops._define import Args, Op, product_rule


def _row_ranges(offsets: Tensor) -> Iterator[tuple[int, slice]]:
    bounds = offsets.tolist()
    for group, (first, last) in enumerate(pairwise(bounds)):
        yield group, slice(first, last)


def _run_mm(a_KL: Tensor, b_GLN: Tensor, offsets: Tensor) -> Tensor:
    if a_KL.shape[1] != b_GLN.shape[1] or offsets.numel() != b_GLN.shape[0] + 1:
        raise ValueError(
            f"grouped_mm: rows {tuple(a_KL.shape)}, matrices {tuple(b_GLN.shape)} and {offsets.numel()} offsets "
            "do not belong together: expected (K, L), (G, L, N) and G + 1"
        )
    out_KN = a_KL.new_empty(a_KL.shape[0], b_GLN.shape[2])
    for group, rows in _row_ranges(offsets):
        torch.mm(a_KL[rows], b_GLN[group], out=out_KN[rows])
    return out_KN


def _run_outer(a_KL: Tensor, s_KN: Tensor, offsets: Tensor) -> Tensor:
    if a_KL.shape[0] != s_KN.shape[0]:
        raise ValueError(f"grouped_outer: {a_KL.shape[0]} and {s_KN.shape[0]} rows do not belong together")
    out_GLN = a_KL.new_empty(offsets.numel() - 1, a_KL.shape[1], s_KN.shape[1])
    for group, rows in _row_ranges(offsets):
        torch.mm(a_KL[rows].t(), s_KN[rows], out=out_GLN[group])
    return out_GLN


def _fake_mm(a_KL: Tensor, b_GLN: Tensor, offsets: Tensor) -> Tensor:
    return a_KL.new_empty(a_KL.shape[0], b_GLN.shape[2])


def _fake_outer(a_KL: Tensor, s_KN: Tensor, offsets: Tensor) -> Tensor:
    return a_KL.new_empty(offsets.shape[0] - 1, a_KL.shape[1], s_KN.shape[1])


def _mm_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    a_KL, b_GLN, offsets = args
    return (
        grouped_mm(gradient, b_GLN.transpose(1, 2), offsets) if needed[0] else None,
        grouped_outer(a_KL, gradient, offsets) if needed[1] else None,
    )


def _outer_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    a_KL, s_KN, offsets = args
    return (
        grouped_mm(s_KN, gradient.transpose(1, 2), offsets) if needed[0] else None,
        grouped_mm(a_KL, gradient, offsets) if needed[1] else None,
    )


def _mm_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return product_rule(grouped_mm, args, tangents)


def _outer_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return product_rule(grouped_outer, args, tangents)


grouped_mm = Op(
    "grouped_mm",
    "(Tensor a, Tensor b, Tensor offsets) -> Tensor",
    stage="gemm",
    implementation=_run_mm,
    fake=_fake_mm,
    linear=(0, 1),
    saves=(0, 1, 2),
    backward=_mm_backward,
    jvp=_mm_jvp,
)
grouped_outer = Op(
    "grouped_outer",
    "(Tensor a, Tensor s, Tensor offsets) -> Tensor",
    stage="gemm",
    implementation=_run_outer,
    fake=_fake_outer,
    linear=(0, 1),
    saves=(0, 1, 2),
    backward=_outer_backward,
    jvp=_outer_jvp,
)
