"""Bad input and faults: dense and told so, exact, or the stock layer's error; never a wrong answer."""

import math
import threading
import warnings

import pytest
import torch
from reuse_layers import ENCODERS, changed, check, expected, fixed
from torch import nn
from torch.testing import assert_close

import thrifty
from thrifty.reuse import Reuse

KINDS = {
    "pixels": (lambda: nn.Conv2d(8, 5, 3, padding=1), (4, 8, 6, 6), "pixels"),
    "patches": (lambda: nn.Conv2d(8, 5, 3), (4, 8, 6, 6), "patches"),
    "linear": (lambda: nn.Linear(8, 5), (4, 9, 8), "pixels"),
}


def make(kind, **settings):
    torch.manual_seed(0)
    build, shape, pieces = KINDS[kind]
    stock = build()
    return stock, changed(stock, pieces=pieces, **settings), torch.randn(shape)


either = pytest.mark.parametrize("encoder", ENCODERS)


@either
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_with_nan_or_infinity_runs_dense_and_says_so_once(kind, bad, encoder):
    stock, layer, good = make(kind, encoder=encoder)
    x = good.clone()
    x.view(-1)[17] = bad
    with pytest.warns(RuntimeWarning, match="layer '0': its input holds NaN or infinity, so this step runs dense"):
        y = layer(x)
    assert torch.allclose(y, stock(x), rtol=0, atol=0, equal_nan=True)
    assert layer.trace_row() is None
    assert layer.counters.steps == 1 and layer.counters.macs == layer.counters.dense_macs > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)  # once is enough
    assert_close(layer(good), expected(layer, good), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_dense_step_are_the_stock_ones(kind):
    stock, layer, x = make(kind)
    x.view(-1)[17] = math.inf
    with pytest.warns(RuntimeWarning):
        y = layer(x)
    ours = torch.autograd.grad(y.nan_to_num(0, 0, 0).sum(), layer.weight)[0]
    theirs = torch.autograd.grad(stock(x).nan_to_num(0, 0, 0).sum(), stock.weight)[0]
    assert torch.allclose(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30, 1e15])
@either
def test_constant_input_is_exact(kind, value, encoder):
    stock, layer, x = make(kind, bits=12, encoder=encoder)
    x = torch.full_like(x, value).requires_grad_()
    assert_close(layer(x), stock(x), rtol=1e-5, atol=1e-5 * abs(value) + 1e-6)
    assert layer.counters.error < 1e-5
    layer(x).sum().backward()
    assert x.grad.isfinite().all() and layer.weight.grad.isfinite().all()


@either
def test_constant_input_is_one_cluster_a_piece(encoder):
    _, layer, x = make("linear", length=4, encoder=encoder)
    layer(torch.ones_like(x))
    assert layer.counters.remaining_ratio == 1 / 36  # of 2 * 36 pieces, one a position


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero(kind):
    _, layer, x = make(kind)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    y = layer(x.requires_grad_())
    assert (y == 0).all()
    y.sum().backward()
    assert (x.grad == 0).all() and (layer.weight.grad != 0).any()


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 8, 6, 6), (5, 8, 1, 1), (8, 1, 1), (1, 8, 1, 7)])
@pytest.mark.parametrize("pieces", ["pixels", "patches"])
@either
def test_one_pixel_and_a_batch_of_one(shape, pieces, encoder):
    layer = changed(nn.Conv2d(8, 5, 3, padding=1, dtype=torch.float64), pieces=pieces, encoder=encoder)
    check(layer, torch.randn(shape, dtype=torch.float64, requires_grad=True), rtol=1e-9, atol=1e-9)


def test_one_pixel_is_exact():
    stock = nn.Conv2d(8, 5, 3, padding=1)
    x = torch.randn(1, 8, 1, 1)
    assert_close(changed(stock)(x), stock(x))


@pytest.mark.parametrize("scope", [0, 2])
@either
def test_batch_and_image_sizes_may_change_from_step_to_step(scope, encoder):
    layer = changed(nn.Conv2d(8, 5, 3, padding=1, stride=2, dtype=torch.float64), scope=scope, encoder=encoder)
    for n, h, w in [(4, 6, 6), (1, 6, 6), (3, 9, 4), (4, 6, 6), (2, 1, 1), (7, 3, 5)]:
        check(layer, torch.randn(n, 8, h, w, dtype=torch.float64, requires_grad=True), rtol=1e-9, atol=1e-9)
        layer.reuse.learn()
    assert layer.counters.steps == 6


@pytest.mark.parametrize("channels, length", [(7, 4), (7, 3), (5, 8), (1, 4), (17, 16)])
@either
def test_channels_need_not_be_a_multiple_of_the_piece(channels, length, encoder):
    for layer, shape in [
        (nn.Conv2d(channels, 3, 2, dtype=torch.float64), (3, channels, 4, 4)),
        (nn.Linear(channels, 3, dtype=torch.float64), (3, 11, channels)),
    ]:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        check(changed(layer, length=length, encoder=encoder), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "kind, shape",
    [
        ("pixels", (2, 7, 6, 6)), ("pixels", (2, 16, 6, 6)), ("pixels", (8, 6)), ("pixels", (1, 2, 8, 6, 6)),
        ("patches", (2, 16, 6, 6)), ("linear", (4, 4)), ("linear", (2, 16)), ("linear", ()),
        ("pixels", (0, 7, 6, 6)), ("linear", (0, 4)),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_get_the_stock_error(kind, shape):
    stock, layer, _ = make(kind, length=32)
    with pytest.raises(RuntimeError) as by_stock:
        stock(torch.randn(shape))
    with pytest.raises(RuntimeError) as by_reuse:
        layer(torch.randn(shape))
    assert str(by_reuse.value) == str(by_stock.value)


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises((RuntimeError, ValueError), match=r"larger than the padded input|greater than actual input"):
        changed(nn.Conv2d(8, 5, 5))(torch.randn(2, 8, 3, 3))


@pytest.mark.parametrize("kind, shape", [("pixels", (0, 8, 6, 6)), ("linear", (0, 8)), ("linear", (3, 0, 8))])
def test_an_empty_batch_goes_through(kind, shape):
    stock, layer, _ = make(kind)
    x = torch.empty(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == stock(x).shape
    y.sum().backward()
    assert (layer.weight.grad == 0).all()


@either
def test_threads_changed_between_steps_give_equal_results(encoder):
    layer = changed(nn.Conv2d(24, 40, 3, padding=1), length=8, bits=6, encoder=encoder)
    x, before, answers = torch.randn(4, 24, 12, 12), torch.get_num_threads(), []
    try:
        for threads in (1, 3, 2, 1):
            torch.set_num_threads(threads)
            layer.zero_grad()
            y = layer(x)
            y.square().sum().backward()
            answers.append((y.detach(), layer.weight.grad.clone(), layer.counters.remaining_ratio))
    finally:
        torch.set_num_threads(before)
    for y, gradient, ratio in answers[1:]:
        assert ratio == pytest.approx(answers[0][2], rel=1e-12)
        assert_close(y, answers[0][0], rtol=1e-5, atol=1e-5)
        assert_close(gradient, answers[0][1], rtol=1e-5, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(answers[3][:2], answers[0][:2], strict=True))


@either
@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_call_one_layer_at_once(kind, encoder):
    _, layer, x = make(kind, encoder=encoder)
    inputs = [torch.randn_like(x) for _ in range(4)]
    wanted = [one(layer, x) for x in inputs]
    answers, failures = [[] for _ in inputs], []

    def work(i):
        try:
            for _ in range(15):
                answers[i].append(one(layer, inputs[i]))
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        layer.counters.copy()  # somebody looks on
        thread.join()
    assert not failures
    for per_thread, (y, gradient) in zip(answers, wanted, strict=True):
        assert len(per_thread) == 15
        assert all(torch.equal(a, y) and torch.equal(b, gradient) for a, b in per_thread)


def one(layer, x):
    y = layer(x)
    return y.detach(), torch.autograd.grad(y.square().sum(), layer.weight)[0]


@either
def test_two_places_that_share_one_layer(encoder):
    shared = nn.Conv2d(8, 8, 3, padding=1, dtype=torch.float64)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    applied = thrifty.apply_(model, [fixed(encoder=encoder)])
    assert model[0] is model[2]
    assert applied.layers[0].aliases == ("2",) and len(applied.layers) == 1
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    y = model(x)
    wanted = expected(model[0], expected(model[0], x).relu())
    assert_close(y, wanted, rtol=1e-9, atol=1e-9)
    gradient = torch.autograd.grad(wanted.sum(), shared.weight)[0]
    assert_close(torch.autograd.grad(model(x).sum(), shared.weight)[0], gradient, rtol=1e-9, atol=1e-9)
    assert applied.counters()["0"].steps == 4  # two calls a pass


def test_two_models_that_share_one_layer():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    first, second = nn.Sequential(shared), nn.Sequential(shared, nn.ReLU())
    thrifty.apply_(first, [Reuse(pieces="pixels", min_channels=1)])
    assert type(second[0]) is nn.Conv2d and second[0].weight is first[0].weight  # only the model that was given
    thrifty.remove_(first)
    assert first[0].weight is shared.weight
