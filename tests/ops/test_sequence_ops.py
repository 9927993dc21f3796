"""Equal rows, shared products and recurrences against their plain meaning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from thrifty.ops import equal_rows as equal
from thrifty.ops import recurrence
from thrifty.ops._backend import backend
from thrifty.ops.clusters import Clusters
from thrifty.ops.equal_rows import equal_rows
from thrifty.ops.group_codes import group_codes
from thrifty.ops.gru_scan import gru_scan
from thrifty.ops.lstm_scan import lstm_scan
from thrifty.ops.shared_linear import reference, shared_linear

DOUBLE = torch.float64
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def rows_with_equals(rows=7, channels=5, distinct=3, dtype=DOUBLE):
    return torch.randn(distinct, channels, dtype=dtype)[torch.arange(rows) % distinct]


def clusters_of(x):
    return Clusters(*group_codes(equal_rows(x.detach()), max(len(x), 1)))


@given(
    st.integers(1, 60), st.integers(1, 40), st.integers(1, 9),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]), st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_equal_rows_are_found_and_no_others(rows, channels, values, dtype, seed):
    source = torch.Generator().manual_seed(seed)
    x = torch.randint(0, values, (rows, channels), generator=source).to(dtype)
    assert torch.equal(equal_rows(x), equal.reference(x))


def test_the_bits_decide_what_is_equal():
    nan, zero = float("nan"), 0.0
    x = torch.tensor([[nan, 1.0], [zero, 1.0], [-zero, 1.0], [nan, 1.0], [zero, 1.0]])
    assert equal_rows(x).tolist() == equal.reference(x).tolist() == [[0, 1, 2, 0, 1]]


def test_rows_with_the_same_key_do_not_share(monkeypatch):
    class Zeros:
        def standard_normal(self, size):
            return torch.zeros(size).numpy()

    monkeypatch.setattr(equal.numpy.random, "default_rng", lambda seed: Zeros())
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [3.0, 4.0]])
    assert equal_rows(x).tolist() == [[0, 1, 0, 3]]


def test_equal_rows_of_nothing():
    assert equal_rows(torch.zeros(0, 4)).shape == (1, 0)
    assert equal_rows(torch.zeros(3, 0)).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="expected floating-point rows"):
        equal_rows(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected floating-point rows"):
        equal_rows(torch.zeros(3))


@pytest.mark.parametrize("bias", [True, False])
def test_shared_linear_is_the_dense_layer(bias):
    torch.manual_seed(0)
    x, w = rows_with_equals().requires_grad_(), torch.randn(4, 5, dtype=DOUBLE, requires_grad=True)
    b = torch.randn(4, dtype=DOUBLE, requires_grad=True) if bias else None
    clusters, leaves = clusters_of(x), [x, w, *([b] if bias else [])]
    assert clusters.remaining_ratio == pytest.approx(3 / 7)
    y, wanted = shared_linear(x, w, b, *clusters, False), reference(x, w, b)
    cotangent = torch.randn_like(y)
    assert_close(y, wanted, **EXACT)
    assert_close(torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(wanted, leaves, cotangent), **EXACT)


@pytest.mark.parametrize("spread", [True, False])
def test_shared_linear_has_every_derivative_in_the_weight(spread):
    torch.manual_seed(0)
    x, w, b = rows_with_equals(), torch.randn(4, 5, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    clusters = clusters_of(x)
    leaves = (w.requires_grad_(), b.requires_grad_())

    def layer(w, b):
        return shared_linear(x, w, b, *clusters, spread).sin()

    assert gradcheck(layer, leaves, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(layer, leaves)


def test_a_shared_gradient_is_the_mean_over_the_equals():
    torch.manual_seed(0)
    x, w = rows_with_equals(6, 5, 2).requires_grad_(), torch.randn(4, 5, dtype=DOUBLE)
    cotangent = torch.randn(6, 4, dtype=DOUBLE)
    (shared,) = torch.autograd.grad(shared_linear(x, w, None, *clusters_of(x), True), x, cotangent)
    by_row = cotangent @ w
    for first in (0, 1):
        assert_close(shared[first::2], by_row[first::2].mean(0).expand(3, -1), **EXACT)


def test_shared_linear_refuses_what_does_not_belong_together():
    x = rows_with_equals()
    with pytest.raises(ValueError, match="do not belong together"):
        shared_linear(x, torch.randn(4, 6, dtype=DOUBLE), None, *clusters_of(x), False)
    with pytest.raises(ValueError, match="do not belong together"):
        shared_linear(x[:3], torch.randn(4, 5, dtype=DOUBLE), None, *clusters_of(x), False)


def test_opcheck():
    x = rows_with_equals(dtype=torch.float32).requires_grad_()
    torch.library.opcheck(torch.ops.thrifty.equal_rows.default, (x.detach(),))
    for bias in (None, torch.randn(4, requires_grad=True)):
        for spread in (True, False):
            args = (x, torch.randn(4, 5, requires_grad=True), bias, *clusters_of(x), spread)
            torch.library.opcheck(torch.ops.thrifty.shared_linear.default, args)


SIZES = [[3, 3, 3], [4, 3, 3, 1], [1], [2, 1, 1, 1, 1]]


def lstm_inputs(sizes, width=3):
    torch.manual_seed(0)
    shapes = [(sum(sizes), 4 * width), (4 * width, width), (sizes[0], width), (sizes[0], width)]
    return [torch.randn(shape, dtype=DOUBLE, requires_grad=True) for shape in shapes]


def gru_inputs(sizes, width=3):
    torch.manual_seed(0)
    shapes = [(sum(sizes), 3 * width), (3 * width, width), (3 * width,), (sizes[0], width)]
    return [torch.randn(shape, dtype=DOUBLE, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("scan", "inputs"), [(lstm_scan, lstm_inputs), (gru_scan, gru_inputs)])
def test_scans_are_their_plain_recurrences(scan, inputs, sizes, reverse):
    leaves = inputs(sizes)
    with backend("reference"):
        wanted = scan(*leaves, sizes, reverse)
    found = scan(*leaves, sizes, reverse)
    assert_close(found, wanted, **EXACT)
    cotangents = [torch.randn_like(part) for part in found]
    assert_close(
        torch.autograd.grad(found, leaves, cotangents), torch.autograd.grad(wanted, leaves, cotangents), **EXACT
    )


@pytest.mark.parametrize(("scan", "inputs"), [(lstm_scan, lstm_inputs), (gru_scan, gru_inputs)])
def test_scans_have_first_derivatives_in_both_modes(scan, inputs):
    sizes = [3, 2, 1]
    assert gradcheck(lambda *x: scan(*x, sizes), inputs(sizes), check_forward_ad=True)
    with backend("reference"):
        assert gradgradcheck(lambda *x: scan(*x, sizes), inputs(sizes))


@pytest.mark.parametrize(("scan", "inputs"), [(lstm_scan, lstm_inputs), (gru_scan, gru_inputs)])
def test_a_second_derivative_is_refused_and_torch_func_has_it(scan, inputs):
    sizes = [2, 2]
    leaves = inputs(sizes)
    (first,) = torch.autograd.grad(scan(*leaves, sizes)[0].sum(), leaves[1], retain_graph=True)
    assert first.abs().max() > 0
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(scan(*leaves, sizes)[0].sum(), leaves[1], create_graph=True)
    fixed = [leaf.detach() for leaf in leaves]
    hessian = torch.func.hessian(lambda w: scan(fixed[0], w, *fixed[2:], sizes)[0].sum())(fixed[1])
    assert hessian.abs().max() > 0


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_meaning_is_torchs(kind):
    """`recur` against the stock layer, with the products made densely."""
    torch.manual_seed(0)
    rnn = getattr(nn, kind)(5, 3, dtype=DOUBLE)
    x = torch.randn(4, 2, 5, dtype=DOUBLE)
    cell = getattr(recurrence, f"{kind.lower()}_cell")
    state = tuple(torch.zeros(2, 3, dtype=DOUBLE) for _ in range(2 if kind == "LSTM" else 1))
    gates = nn.functional.linear(x.flatten(0, 1), rnn.weight_ih_l0, rnn.bias_ih_l0)

    def product(h):
        return nn.functional.linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0)

    out, *last = recurrence.recur(gates, state, [2] * 4, False, product, cell)
    wanted, ended = rnn(x)
    assert_close(out.view(4, 2, 3), wanted, **EXACT)
    assert_close(last, [part[0] for part in (ended if kind == "LSTM" else (ended,))], **EXACT)
