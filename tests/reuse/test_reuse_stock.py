"""Off means identical: reuse leaves no trace where it does not work, and a model that travels as a stock one does."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from reuse_layers import ENCODERS, changed, fixed
from torch import nn

import thrifty
from thrifty.reuse import Reuse, ReuseConv2d, ReuseLinear, Stage


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 20, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 16, 5),
    )  # fmt: skip


def batches(count=4):
    source = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(6, 3, 8, 8, generator=source), torch.randint(5, (6,), generator=source)


def train(model, applied=None, steps=4):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for x, target in batches(steps):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if applied is not None:
            applied.step(loss)
    return losses


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def all_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_losses_are_bit_identical_when_every_stage_is_dense():
    stock, model = network(), network()
    stages = (Stage(8, 4), Stage(4, 4))
    config = Reuse(stages=stages, skip_zeros=False, linear=True, pieces="pixels", total_steps=100, dense_share=1.0)
    applied = thrifty.apply_(model, [config])
    applied.step(1.0)  # the controller has no time for any stage
    applied.step(1.0)
    assert all(layer.reuse.stage is None for layer in (model[0], model[4], model[7]))
    assert train(stock) == train(model, applied)
    assert all_equal(weights(stock), weights(model))


def test_losses_are_bit_identical_when_every_layer_is_left_out():
    stock, model = network(), network()
    with pytest.warns(thrifty.NoEffectWarning):
        thrifty.apply_(model, [Reuse()], filter_fn=lambda name, module: False)
    assert train(stock) == train(model)


def test_under_reuse_the_losses_differ_and_every_step_leaves_a_row():
    stock, model = network(), network()
    applied = thrifty.apply_(model, [fixed(length=16, bits=4)])
    dense, reuse = train(stock, steps=8), train(model, applied, steps=8)
    assert dense != reuse
    assert len(applied.trace()) == 3 * 8


@pytest.mark.parametrize(
    "stock, x",
    [
        (nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, 6, 5, 5)),
        (nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, 6, 5, 5).contiguous(memory_format=torch.channels_last)),
        (nn.Linear(6, 5), torch.randn(2, 7, 6)),
    ],
)
def test_eval_mode_is_the_stock_forward(stock, x):
    layer = changed(stock).eval()
    assert torch.equal(layer(x), stock(x)) and layer(x).stride() == stock(x).stride()
    assert layer.counters.steps == 0 and layer.trace_row() is None


def test_training_after_evaluation_reuses_again():
    layer, x = changed(nn.Conv2d(16, 5, 3), length=16, bits=1), torch.randn(2, 16, 5, 5)
    first = layer(x)
    layer.eval()(x)
    assert torch.equal(layer.train()(x), first)


def test_state_dict_is_a_stock_one():
    stock, model = network(), network()
    thrifty.apply_(model, [fixed()])
    assert list(model.state_dict()) == list(stock.state_dict())
    train(model)
    stock.load_state_dict(model.state_dict())
    assert all_equal(weights(stock), weights(model))
    model.load_state_dict(network().state_dict())
    assert all_equal(weights(network()), weights(model))


def test_removed_it_is_the_stock_model_again():
    model = network()
    parameters = list(model.parameters())
    thrifty.apply_(model, [fixed()])
    assert [type(model[i]) for i in (0, 4, 7)] == [ReuseConv2d, ReuseConv2d, ReuseLinear]
    assert thrifty.remove_(model) is model
    assert [type(model[i]) for i in (0, 4, 7)] == [nn.Conv2d, nn.Conv2d, nn.Linear]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not any("reuse" in vars(module) for module in model.modules())
    assert repr(model) == repr(network())
    assert train(model) == train(network())


def travelled(model, how):
    if how == "deepcopy":
        return copy.deepcopy(model)
    if how == "pickle":
        return pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_model_travels_with_its_setting(how, encoder):
    model = network()
    config = Reuse(stages=(Stage(16, 2), Stage(8, 9)), pieces="pixels", patience=1, encoder=encoder)
    applied = thrifty.apply_(model, [config])
    train(model, applied, steps=3)
    other = travelled(model, how)
    assert other[4].reuse is not model[4].reuse and other[4].weight is not model[4].weight
    assert other[4].reuse.stage_index == model[4].reuse.stage_index >= 1
    assert other[4].counters == model[4].counters
    other[4].reuse.stage_index = model[4].reuse.stage_index = 0
    x, _ = next(batches())
    assert torch.equal(other(x), model(x))  # the same planes or codebook
    assert train(other) == train(model)
    thrifty.remove_(other)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_layer_moves_to_another_dtype(encoder):
    layer = changed(nn.Conv2d(6, 5, 3, padding=1), encoder=encoder)
    x = torch.randn(2, 6, 5, 5)
    single = layer(x)
    double = layer.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)


def test_same_seed_same_planes_and_other_layers_other_planes():
    def planes(seed, name="0"):
        model = nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(2)])
        thrifty.apply_(model, [fixed(seed=seed)])
        return model.get_submodule(name).reuse.encoder(4, 3).planes(torch.empty(1, 8))[0]

    assert torch.equal(planes(3), planes(3))
    assert not torch.equal(planes(3), planes(4))
    assert not torch.equal(planes(3, "0"), planes(3, "1"))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_nothing_is_taken_from_the_global_generators(encoder):
    layer, x = changed(nn.Conv2d(6, 5, 3), encoder=encoder), torch.randn(2, 6, 5, 5)
    before = torch.get_rng_state()
    layer(x)
    layer.reuse.learn()
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_see_the_changed_layer():
    conv, seen = nn.Conv2d(6, 5, 3), []
    conv.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    changed(conv)(torch.randn(2, 6, 5, 5))
    assert seen == [ReuseConv2d]
