"""Single entries of products: against dense algebra, to second order, in every mode."""

import pytest
import torch
from torch.testing import assert_close

from thrifty.ops._backend import backend
from thrifty.ops.sampled_mm import pattern_of, sampled_mm, sparse_mm


def some_pattern(rows=5, classes=7):
    counts = torch.tensor([0, 3, 1, 7, 2])[:rows]
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    columns = torch.cat([torch.randperm(classes)[:n] for n in counts.tolist()])
    return pattern_of(offsets, columns, classes)


@pytest.mark.parametrize("name", ["auto", "reference"])
@pytest.mark.parametrize("features", [1, 3, 16, 37, 200])
def test_entries_are_those_of_the_dense_product(name, features):
    torch.manual_seed(features)
    pattern = some_pattern()
    x, w = torch.randn(5, features), torch.randn(7, features)
    rows = torch.repeat_interleave(torch.arange(5), pattern.offsets.diff())
    values = torch.randn(len(rows))
    dense = torch.zeros(5, 7).index_put((rows, pattern.columns.long()), values)
    with backend(name):
        assert_close(sampled_mm(x, w, *pattern), (x @ w.T)[rows, pattern.columns.long()])
        assert_close(sparse_mm(values, w, *pattern), dense @ w)
        assert_close(sparse_mm(values[pattern.order], x, *pattern.transpose()), dense.T @ x)


def test_derivatives_of_every_order_and_mode():
    torch.manual_seed(0)
    pattern = some_pattern()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(13, dtype=torch.float64, requires_grad=True)
    for call, inputs in (
        (lambda a, b: sampled_mm(a, b, *pattern), (x, w)),
        (lambda a, b: sparse_mm(a, b, *pattern), (v, w)),
    ):
        assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(call, inputs)


def test_ops_are_well_registered():
    pattern = some_pattern()
    x, w = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    torch.library.opcheck(sampled_mm.raw, (x, w, *pattern))
    torch.library.opcheck(sparse_mm.raw, (torch.randn(13, requires_grad=True), w, *pattern))


def test_columns_out_of_range_are_refused():
    with pytest.raises(ValueError, match="columns: holds values out of range"):
        pattern_of(torch.tensor([0, 1]), torch.tensor([7]), 7)
