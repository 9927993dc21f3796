"""Dtypes, autocast and memory formats: what comes out is what the stock layer would give, up to the approximation."""

import itertools

import pytest
import torch
from reuse_layers import changed, expected
from torch import nn
from torch.testing import assert_close

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def layer_and_input(kind, dtype=torch.float32):
    torch.manual_seed(0)
    if kind == "conv":
        return nn.Conv2d(16, 12, 3, padding=1).to(dtype), torch.randn(2, 16, 6, 6, dtype=dtype)
    return nn.Linear(16, 12).to(dtype), torch.randn(4, 9, 16, dtype=dtype)


def double_answer(layer, x):
    """The oracle in double precision, on the clusters of the same values in single."""
    single = x.float()
    wide = changed_as(layer)
    return expected(wide, single).double()


def changed_as(layer):
    kind = nn.Conv2d(16, 12, 3, padding=1) if isinstance(layer, nn.Conv2d) else nn.Linear(16, 12)
    kind.load_state_dict({name: value.float() for name, value in layer.state_dict().items()})
    return changed(kind)


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_models(kind, dtype):
    stock, x = layer_and_input(kind, dtype)
    layer = changed(stock)
    x.requires_grad_()
    y = layer(x)
    assert y.dtype == stock(x).dtype == dtype
    assert_close(y.double(), double_answer(layer, x), rtol=CLOSE[dtype], atol=CLOSE[dtype])
    y.sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == dtype
    wide, single = changed_as(layer), x.detach().float().requires_grad_()
    wide(single).sum().backward()
    assert_close(layer.weight.grad.float(), wide.weight.grad, rtol=CLOSE[dtype], atol=0.2)
    assert_close(x.grad.float(), single.grad, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def test_half_after_the_fact():
    layer = changed(layer_and_input("conv")[0]).half()
    assert layer(torch.randn(1, 16, 4, 4, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_autocast_answers_in_the_dtype_of_the_stock_layer(kind, wide, cast):
    stock, x = layer_and_input(kind)
    layer, x = changed(stock), x.to(wide).requires_grad_()
    with torch.autocast("cpu", dtype=cast):
        y, dense = layer(x), stock(x)
    assert y.dtype == dense.dtype == cast
    assert_close(y.double(), double_answer(layer, x), rtol=3e-2, atol=3e-2)
    y.float().sum().backward()
    assert x.grad.dtype == wide and layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_autocast_on_and_off_between_steps(kind):
    stock, x = layer_and_input(kind)
    layer = changed(stock)
    before = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(layer(x), before)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_autocast_leaves_double_precision_alone(kind):
    stock, x = layer_and_input(kind, torch.float64)
    layer = changed(stock)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stock(x).dtype == layer(x).dtype == torch.float64


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_mixed_dtypes_are_refused_as_by_the_stock_layer(kind):
    stock, x = layer_and_input(kind)
    layer = changed(stock)
    for wrong in (x.double(), x.half(), x.long()):
        with pytest.raises(RuntimeError) as by_stock:
            stock(wrong)
        with pytest.raises(RuntimeError) as by_reuse:
            layer(wrong)
        assert str(by_reuse.value) == str(by_stock.value)


FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("of_input, of_weight", list(itertools.product(FORMATS, FORMATS)))
@pytest.mark.parametrize("pieces", ["pixels", "patches"])
def test_the_memory_format_is_the_one_of_the_stock_layer(of_input, of_weight, pieces):
    sizes = itertools.product([1, 2], [1, 3], [1, 4], [1, 3], [1, (1, 3), 3], [1, 4])
    for batch, channels, height, width, kernel, outputs in sizes:
        stock = nn.Conv2d(channels, outputs, kernel, padding="same").to(memory_format=of_weight)
        x = torch.randn(batch, channels, height, width).to(memory_format=of_input)
        ours, wanted = changed(stock, pieces=pieces)(x), stock(x)
        for memory_format in FORMATS:  # strides of single rows and columns mean nothing
            asked = {"memory_format": memory_format}
            assert ours.is_contiguous(**asked) == wanted.is_contiguous(**asked), (x.shape, stock)


def test_contiguous_stays_contiguous_so_that_view_works():
    stock, x = layer_and_input("conv")
    y = changed(stock)(x)
    assert y.is_contiguous()
    assert y.view(2, -1).shape == (2, 12 * 36)
    assert changed(stock)(x[0]).view(-1).shape == (12 * 36,)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_memory_layout_does_not_change_the_answer(kind):
    stock, x = layer_and_input(kind)
    layer = changed(stock)
    wanted = layer(x)
    strided = torch.stack([x, x], -1)[..., 0]
    expanded = x[:1].expand_as(x)
    transposed = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert_close(layer(strided), wanted)
    assert_close(layer(transposed), wanted)
    assert_close(layer(expanded), layer(expanded.contiguous()))
    if kind == "conv":
        assert_close(layer(x.contiguous(memory_format=torch.channels_last)).contiguous(), wanted)


def test_a_weight_that_shares_memory_is_read_through_its_strides():
    layer = changed(nn.Linear(16, 12, bias=False))
    layer.weight = nn.Parameter(torch.randn(16, 12).t())
    x = torch.randn(5, 16)
    assert_close(layer(x), expected(layer, x), rtol=1e-4, atol=1e-5)
