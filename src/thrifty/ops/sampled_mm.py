"""sampled_mm and sparse_mm: single entries of a product, and a sparse matrix times a dense one.

    sampled: y[i] = x[row of i] . w[columns[i]]            (the scores of a row's own active classes)
    sparse:  y[row] = sum over its entries of v[i] b[columns[i]]

Both are bilinear for a fixed pattern, and their derivatives are each other, so every order and mode of derivative comes
out of the two. A pattern is CSR: `offsets` int64 (R + 1,) and `columns` int32 (E,), with its transpose beside it.
Cost: E * D multiply-adds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Args, Op, product_rule


class Pattern(NamedTuple):
    """Which entries of an (R, N) matrix are there, by rows and by columns.

    offsets int64 (R + 1,), columns int32 (E,): the entries of a row. t_offsets int64 (N + 1,), t_rows int32 (E,): the
    rows of a column's entries; order int64 (E,): the place of the transpose's entries among the entries.
    """

    offsets: Tensor
    columns: Tensor
    t_offsets: Tensor
    t_rows: Tensor
    order: Tensor

    def transpose(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The pattern of the transposed matrix, for values that are put in the order of `order`."""
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(self.order.numel(), device=self.order.device)
        return self.t_offsets, self.t_rows, self.offsets, self.columns, back


def pattern_of(offsets: Tensor, columns: Tensor, classes: int) -> Pattern:
    """The pattern of a CSR matrix (R, classes). Raises ValueError for columns out of range."""
    if columns.numel() and (int(columns.min()) < 0 or int(columns.max()) >= classes):
        raise ValueError(f"columns: holds values out of range: expected 0 to {classes} - 1 (classes)")
    rows = torch.repeat_interleave(torch.arange(offsets.numel() - 1, device=offsets.device), offsets.diff())
    order = columns.long().argsort(stable=True)
    counts = torch.bincount(columns.long(), minlength=classes)
    t_offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Pattern(offsets, columns.to(torch.int32), t_offsets, rows[order].to(torch.int32), order)


def _rows_of(offsets: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(offsets.numel() - 1, device=offsets.device), offsets.diff())


def reference_sampled(x_RD: Tensor, w_ND: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
    """(R, D), (N, D) -> the entries (E,) of x @ w.T."""
    return (x_RD[_rows_of(offsets)] * w_ND[columns.long()]).sum(1)


def reference_sparse(v_E: Tensor, b_ND: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
    """Values (E,) and b (N, D) -> (R, D)."""
    out = b_ND.new_zeros(offsets.numel() - 1, b_ND.shape[1])
    return out.index_add_(0, _rows_of(offsets), v_E.unsqueeze(1) * b_ND[columns.long()])


def _run_sampled(
    x_RD: Tensor, w_ND: Tensor, offsets: Tensor, columns: Tensor, t_offsets: Tensor, t_rows: Tensor, order: Tensor
) -> Tensor:
    if not use_native(x_RD, w_ND):
        return reference_sampled(x_RD, w_ND, offsets, columns)
    y = torch.empty(columns.numel())
    native.sampled_mm(x_RD.contiguous(), w_ND.contiguous(), offsets, columns, y)
    return y


def _run_sparse(
    v_E: Tensor, b_ND: Tensor, offsets: Tensor, columns: Tensor, t_offsets: Tensor, t_rows: Tensor, order: Tensor
) -> Tensor:
    if not use_native(v_E, b_ND):
        return reference_sparse(v_E, b_ND, offsets, columns)
    y = torch.empty(offsets.numel() - 1, b_ND.shape[1])
    native.sparse_mm(offsets, columns, v_E.contiguous(), b_ND.contiguous(), y)
    return y


def _fake_sampled(x_RD: Tensor, w_ND: Tensor, offsets: Tensor, columns: Tensor, *_: Tensor) -> Tensor:
    return x_RD.new_empty(columns.shape[0])


def _fake_sparse(v_E: Tensor, b_ND: Tensor, offsets: Tensor, columns: Tensor, *_: Tensor) -> Tensor:
    return b_ND.new_empty(offsets.shape[0] - 1, b_ND.shape[1])


def _sampled_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    x_RD, w_ND, *rest = args
    pattern = Pattern(*rest)
    return (
        sparse_mm(gradient, w_ND, *pattern) if needed[0] else None,
        sparse_mm(gradient[pattern.order], x_RD, *pattern.transpose()) if needed[1] else None,
    )


def _sparse_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    v_E, b_ND, *rest = args
    pattern = Pattern(*rest)
    return (
        sampled_mm(gradient, b_ND, *pattern) if needed[0] else None,
        sparse_mm(v_E[pattern.order], gradient, *pattern.transpose()) if needed[1] else None,
    )


def _sampled_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return product_rule(sampled_mm, args, tangents)


def _sparse_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return product_rule(sparse_mm, args, tangents)


_PATTERN = "Tensor offsets, Tensor columns, Tensor t_offsets, Tensor t_rows, Tensor order"
_ALL = tuple(range(7))
sampled_mm = Op(
    "sampled_mm", f"(Tensor x, Tensor w, {_PATTERN}) -> Tensor", stage="gemm", implementation=_run_sampled,
    fake=_fake_sampled, linear=(0, 1), saves=_ALL, backward=_sampled_backward,
    jvp=_sampled_jvp,
)  # fmt: skip
sparse_mm = Op(
    "sparse_mm", f"(Tensor v, Tensor b, {_PATTERN}) -> Tensor", stage="gemm", implementation=_run_sparse,
    fake=_fake_sparse, linear=(0, 1), saves=_ALL, backward=_sparse_backward,
    jvp=_sparse_jvp,
)  # fmt: skip
