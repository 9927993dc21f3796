"""ReuseConv2d and ReuseLinear against the oracle: answers and every gradient, for every shape that torch takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reuse_layers import ENCODERS, changed, check, clusters_of, expected, fixed, gradients
from torch import nn
from torch.testing import assert_close

import thrifty
from thrifty._load_native import native
from thrifty.ops._backend import backend
from thrifty.ops.group_codes import group_codes
from thrifty.reuse import Reuse, ReuseConv2d, ReuseLinear, Stage

EXACT = {"rtol": 1e-9, "atol": 1e-9}
SHAPES = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "no padding": {"kernel_size": 3},
    "no bias": {"kernel_size": 3, "bias": False},
    "stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "stride 3, kernel 2": {"kernel_size": 2, "stride": 3},
    "uneven": {"kernel_size": (1, 3), "padding": (2, 0), "stride": (1, 2), "dilation": (1, 2)},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "wide padding": {"kernel_size": 2, "padding": 3},
    "same": {"kernel_size": 3, "padding": "same"},
    "same, even": {"kernel_size": (2, 4), "padding": "same"},
    "same, dilated": {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    "same, even, dilated": {"kernel_size": 2, "padding": "same", "dilation": 3},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "circular": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular", "stride": 2},
    "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    "replicate, same": {"kernel_size": 2, "padding": "same", "padding_mode": "replicate"},
}


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("pieces", ["pixels", "patches"])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d_of_every_shape(shape, pieces, encoder):
    layer = changed(nn.Conv2d(6, 5, **SHAPES[shape], dtype=torch.float64), pieces=pieces, encoder=encoder)
    check(layer, normal(2, 6, 7, 8).requires_grad_(), **EXACT)


def every_piece_by_itself(codes, scope):
    groups, pixels = codes.shape
    return group_codes(torch.arange(pixels, dtype=torch.int32).repeat(groups, 1), pixels)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # by the stock layer
@pytest.mark.parametrize("pieces", ["pixels", "patches"])
@pytest.mark.parametrize("shape", SHAPES)
def test_where_no_pieces_are_shared_it_is_the_stock_layer(shape, pieces, monkeypatch):
    """Independent of the oracle: torch's own padding, strides and modes."""
    monkeypatch.setattr("thrifty.reuse.state.group_codes", every_piece_by_itself)
    stock = nn.Conv2d(6, 5, **SHAPES[shape], dtype=torch.float64)
    layer = changed(stock, pieces=pieces)
    x = normal(2, 6, 7, 8).requires_grad_()
    wanted, got = stock(x), layer(x)
    assert layer.counters.remaining_ratio == 1.0
    assert layer.counters.error < 1e-9
    assert_close(got, wanted, **EXACT)
    cotangent = torch.randn_like(wanted)
    assert_close(gradients(got, layer, x, cotangent), gradients(wanted, stock, x, cotangent), **EXACT)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), channels=st.integers(1, 9), outputs=st.integers(1, 6),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)), kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), padding=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    length=st.integers(1, 12), bits=st.integers(1, 6), scope=st.integers(0, 4), bias=st.booleans(),
    pieces=st.sampled_from(["pixels", "patches"]), encoder=st.sampled_from(ENCODERS),
)  # fmt: skip
def test_conv2d_of_any_shape(
    batch, channels, outputs, size, kernel, stride, padding, length, bits, scope, pieces, bias, encoder
):
    conv = nn.Conv2d(channels, outputs, kernel, stride, padding, bias=bias, dtype=torch.float64)
    layer = changed(conv, length=length, bits=bits, scope=scope, pieces=pieces, encoder=encoder)
    check(layer, normal(batch, channels, *size).requires_grad_(), **EXACT)


@pytest.mark.parametrize("shape", [(9,), (11, 9), (3, 5, 9), (2, 2, 3, 9), (1, 9)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_linear_of_every_shape(shape, bias, encoder):
    layer = changed(nn.Linear(9, 5, bias=bias, dtype=torch.float64), encoder=encoder)
    assert isinstance(layer, ReuseLinear)
    check(layer, normal(*shape).requires_grad_(), **EXACT)


def test_unbatched_image():
    layer = changed(nn.Conv2d(6, 5, 3, padding=1, dtype=torch.float64))
    x = normal(6, 7, 8).requires_grad_()
    assert check(layer, x, **EXACT).shape == (5, 7, 8)
    assert_close(layer(x), layer(x.unsqueeze(0)).squeeze(0), **EXACT)


def test_scope_keeps_images_apart():
    layer = changed(nn.Conv2d(4, 3, 1, dtype=torch.float64), scope=2, bits=1)
    x = normal(5, 4, 3, 3)
    ids, _ = clusters_of(layer, x.permute(0, 2, 3, 1).reshape(-1, 4), 9)
    found = [set(part.tolist()) for part in ids[0].split(18)]
    assert not found[0] & found[1] and not found[1] & found[2]
    check(layer, x.requires_grad_(), **EXACT)


def test_a_scope_beyond_the_batch_is_the_batch():
    wide, whole = (changed(nn.Conv2d(4, 3, 1), scope=scope) for scope in (10**20, 0))
    wide.load_state_dict(whole.state_dict())
    x = torch.randn(3, 4, 3, 3)
    assert torch.equal(wide(x), whole(x))


def test_first_layer_without_input_gradient():
    layer = changed(nn.Conv2d(6, 5, 3, padding=1, dtype=torch.float64))
    check(layer, normal(2, 6, 5, 5), **EXACT)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_gets_no_gradient(frozen):
    layer = changed(nn.Conv2d(6, 5, 3, padding=1, dtype=torch.float64))
    getattr(layer, frozen).requires_grad_(False)
    x = normal(2, 6, 5, 5).requires_grad_()
    wanted = torch.autograd.grad(expected(layer, x).sum(), x)[0]
    layer(x).sum().backward()
    assert getattr(layer, frozen).grad is None
    assert_close(x.grad, wanted, **EXACT)


def test_padding_changed_afterwards_counts():
    """Networks are rebuilt for dense prediction by setting attributes; the stock forward reads them at every call."""
    layer = changed(nn.Conv2d(6, 5, 3, padding=1, dtype=torch.float64))
    layer.padding, layer.dilation = (2, 2), (2, 2)
    assert check(layer, normal(2, 6, 5, 5).requires_grad_(), **EXACT).shape[2:] == (5, 5)


@pytest.mark.skipif(native is None, reason="the native kernels are not built here")
@pytest.mark.parametrize("pieces", ["pixels", "patches"])
@pytest.mark.parametrize("shape", ["3x3", "stride 2", "same, dilated", "wide padding", "reflect"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_native_and_reference_agree_through_the_layer(shape, pieces, encoder):
    layer = changed(nn.Conv2d(20, 35, **SHAPES[shape]), length=8, bits=6, pieces=pieces, encoder=encoder)
    x = normal(3, 20, 9, 8, dtype=torch.float32).requires_grad_()
    layer(x)  # makes the codebook, where there is one
    cotangent, answers = None, {}
    for name in ("native", "reference"):
        with backend(name):
            y = layer(x)
            cotangent = torch.randn_like(y) if cotangent is None else cotangent
            answers[name] = [y, *torch.autograd.grad(y, [x, *layer.parameters()], cotangent)]
    assert_close(answers["native"], answers["reference"], rtol=1e-4, atol=1e-4)


def test_what_stays_dense_says_why():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 8, 3), nn.Linear(8, 2))
    reports = thrifty.apply_(model, [Reuse(stages=(Stage(8, 4),), skip_zeros=False)]).layers
    assert [report.action for report in reports] == ["dense", "dense", "reuse", "dense"]
    assert "3 input channels" in reports[0].reason
    assert "groups=4" in reports[1].reason
    assert "Reuse(linear=True)" in reports[3].reason
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.Conv2d, ReuseConv2d, nn.Linear]


def test_few_channels_are_changed_where_asked():
    for config in (fixed(pieces="patches"), fixed(pieces="pixels"), Reuse(min_channels=3), Reuse()):
        model = nn.Sequential(nn.Conv2d(3, 16, 3))
        assert thrifty.apply_(model, [config]).layers[0].action == "reuse"


def test_grouped_convolutions_stay_dense_in_every_way_of_cutting():
    for pieces in ("pixels", "patches"):
        model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))
        assert thrifty.apply_(model, [fixed(pieces=pieces)]).layers[0].reason.startswith("groups=8")
