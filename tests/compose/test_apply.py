"""apply_: what it changes, what it keeps, what it reports."""

import copy
import pickle

import pytest
import torch
from torch import nn

from thrifty.compose import NoEffectWarning, apply_
from thrifty.core.errors import ModelError, UsageError

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def train(net, optimizer, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def types(model):
    return [type(module) for module in model.modules()]


def assert_same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_layers_are_exchanged_and_reported(net, counting):
    applied = apply_(net, [counting()])
    assert [type(net[0]).__name__, type(net[3]).__name__, type(net[4][1]).__name__] == [
        "CountingConv2d",
        "Conv2d",
        "CountingLinear",
    ]
    assert [(layer.name, layer.kind, layer.action, layer.reason) for layer in applied.layers] == [
        ("0", "Conv2d", "counting", ""),
        ("3", "Conv2d", "dense", "groups"),
        ("4.1", "Linear", "counting", ""),
    ]
    net(torch.zeros(2, 3, 6, 6))
    assert {name: layer.steps for name, layer in applied.counters().items()} == {"0": 1, "4.1": 1}
    assert "2 of 3 layers" in repr(applied)


def test_state_dict_is_the_stock_one(net, twin, counting):
    apply_(net, [counting()])
    assert_same_state(net, twin)
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in twin.named_parameters()]
    for value in net.state_dict().values():
        value.zero_() if value.is_floating_point() else None
    twin.load_state_dict(net.state_dict())
    net.load_state_dict(twin.state_dict())
    assert_same_state(net, twin)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_live_optimizer_goes_on_bit_for_bit(name, net, twin, counting):
    ours, stock = OPTIMIZERS[name](net.parameters()), OPTIMIZERS[name](twin.parameters())
    assert train(net, ours, 3) == train(twin, stock, 3)
    apply_(net, [counting()], optimizer=ours)
    assert train(net, ours, 4, first=3) == train(twin, stock, 4, first=3)
    assert_same_state(net, twin)


def test_parameters_flags_and_buffers_are_kept(net, counting):
    net.eval()
    net[0].train()
    net[0].bias.requires_grad_(False)
    net[0].register_buffer("mask", torch.ones(2))
    net[0].note = "mine"
    weight, mask, keys = net[0].weight, net[0].mask, list(net.state_dict())
    apply_(net, [counting()])
    assert net[0].weight is weight and net[0].mask is mask and net[0].note == "mine"
    assert not net[0].bias.requires_grad
    assert net[0].training and not net[4][1].training
    assert list(net.state_dict()) == keys


def test_hooks_are_kept_and_their_handles_remove_them(net, counting):
    calls = []
    handle = net[0].register_forward_hook(lambda module, args, out: calls.append(module))
    net[4][1].register_full_backward_hook(lambda module, inputs, outputs: calls.append("backward"))
    apply_(net, [counting()])
    net(torch.randn(2, 3, 6, 6)).sum().backward()
    assert calls == [net[0], "backward"]
    handle.remove()
    net(torch.randn(2, 3, 6, 6))
    assert len(calls) == 2


def test_load_hooks_see_the_layer_that_lives(net, counting):
    seen = []
    net[0].register_load_state_dict_pre_hook(lambda module, *rest: seen.append(module))
    apply_(net, [counting()])
    net.load_state_dict(net.state_dict())
    assert seen == [net[0]]


def test_a_shared_layer_is_exchanged_once_under_all_its_names(counting):
    linear = nn.Linear(4, 4)
    block = nn.ModuleDict({"a": linear, "b": linear})
    model = nn.ModuleDict({"first": block, "second": block, "last": linear})
    applied = apply_(model, [counting()])
    assert type(model["last"]).__name__ == "CountingLinear"
    assert model["first"]["a"] is model["first"]["b"] is model["second"]["a"] is model["last"]
    (report,) = applied.layers
    assert report.name == "first.a"
    assert report.aliases == ("first.b", "second.a", "second.b", "last")


def test_filter_fn_leaves_layers_dense(net, counting):
    asked = []

    def only_linear(name, module):
        asked.append(name)
        return isinstance(module, nn.Linear)

    applied = apply_(net, [counting()], filter_fn=only_linear)
    assert type(net[0]) is nn.Conv2d and type(net[4][1]) is not nn.Linear
    assert asked == ["0", "3", "4.1"]
    assert applied.layers[0].reason == "left out by filter_fn"


def test_layers_inside_a_candidate_are_exchanged_too(counting):
    outer = nn.Linear(2, 2)
    outer.add_module("inner", nn.Linear(2, 2))
    model = nn.Sequential(outer)
    apply_(model, [counting()])
    assert type(model[0]).__name__ == type(model[0].inner).__name__ == "CountingLinear"


def test_no_effect_is_said(counting):
    model = nn.Sequential(nn.ReLU())
    with pytest.warns(NoEffectWarning, match="no layer of the types Conv2d, Linear"):
        applied = apply_(model, [counting()])
    assert applied.layers == [] and applied.step(1.0) == []
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    with pytest.warns(NoEffectWarning, match=r"'0', because: groups") as caught:
        apply_(grouped, [counting()])
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "a list of method configs"),
        ("reuse", "a list of method configs"),
        (["reuse"], "str is not a registered method config"),
    ],
)
def test_wrong_methods(net, methods, message):
    with pytest.raises(UsageError, match=message):
        apply_(net, methods)


def test_wrong_calls(net, counting):
    with pytest.raises(UsageError, match="a list of method configs"):
        apply_(net, counting())
    with pytest.raises(UsageError, match=r"is a class: pass an instance, Counting\(\)"):
        apply_(net, [counting])
    with pytest.raises(UsageError, match="listed twice"):
        apply_(net, [counting(), counting(move_every=3)])
    with pytest.raises(UsageError, match=r"torch\.nn\.Module, got list"):
        apply_([net], [counting()])


def test_again_needs_remove_first(net, counting, tagging):
    apply_(net, [counting()])
    with pytest.raises(ModelError, match=r"already applied to this model: call thrifty\.remove_"):
        apply_(net, [counting()])
    with pytest.warns(NoEffectWarning, match="already changed by counting"):
        apply_(net, [tagging()])


def test_a_bare_layer_cannot_be_exchanged(counting):
    with pytest.raises(ModelError, match=r"bare Linear.*nn\.Sequential\(layer\)"):
        apply_(nn.Linear(2, 2), [counting()])


def test_a_model_that_subclasses_a_layer_is_only_a_dense_layer(counting):
    class Model(nn.Linear):
        pass

    model = Model(2, 2)
    model.add_module("inner", nn.Linear(2, 2))
    applied = apply_(model, [counting()])
    assert [(layer.name, layer.action) for layer in applied.layers] == [("", "dense"), ("inner", "counting")]


def unchanged_after(error, match, net, *arguments, **keywords):
    before = types(net), [dict(vars(module)) for module in net.modules()], [id(p) for p in net.parameters()]
    with pytest.raises(error, match=match):
        apply_(net, *arguments, **keywords)
    assert before == (types(net), [dict(vars(module)) for module in net.modules()], [id(p) for p in net.parameters()])


def test_nothing_is_changed_by_a_call_that_raises(net, counting, tagging):
    unchanged_after(RuntimeError, "broken on purpose", net, [counting(broken="4.1")])
    unchanged_after(RuntimeError, "no controller", net, [counting(broken_controller=True)])
    unchanged_after(UsageError, "counting and tagging would both change layer '4.1'", net, [counting(), tagging()])
    unchanged_after(TypeError, "same parameters", net, [tagging(promise="parameters")])
    unchanged_after(TypeError, "same parameters and buffers", net, [tagging(promise="keys")])
    unchanged_after(TypeError, "no ChangedLayer", net, [tagging(promise="class")])
    foreign = torch.optim.SGD(copy.deepcopy(net).parameters(), lr=0.1)
    unchanged_after(UsageError, "none of the model's parameters", net, [counting()], optimizer=foreign)
    unchanged_after(UsageError, "got int", net, [counting()], optimizer=3)
    unchanged_after(RuntimeError, "filter", net, [counting()], filter_fn=raise_filter)


def raise_filter(name, module):
    raise RuntimeError("filter")


def test_two_methods_share_a_model_by_layer(net, counting, tagging):
    def convs(name, module):
        return isinstance(module, nn.Conv2d)

    apply_(net, [counting()], filter_fn=convs)
    applied = apply_(net, [tagging()])
    assert [layer.action for layer in applied.layers] == ["tagging"]
    assert [net[0].method, net[4][1].method] == ["counting", "tagging"]


def test_reasons_of_several_methods_are_named(counting, tagging):
    model = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(2, 2, 1))
    applied = apply_(model, [tagging(), counting()])
    assert [layer.reason for layer in applied.layers] == ["counting: groups", ""]


def test_copies_work_and_are_their_own(net, counting):
    applied = apply_(net, [counting()])
    x = torch.randn(2, 3, 6, 6)
    for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_state(clone, net)
        assert types(clone) == types(net)
        assert clone[0].weight is not net[0].weight
        assert torch.equal(clone.eval()(x), net.eval()(x))
        clone(x)
        assert clone[0].counters.steps == applied.counters(reset=True)["0"].steps + 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_dtype(dtype, net, twin, counting):
    apply_(net, [counting()])
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    assert torch.equal(net.to(dtype)(x), twin.to(dtype)(x))
    assert net[0].seen.dtype == dtype


def test_functional_call_and_grad(net, twin, counting):
    net.eval(), twin.eval()
    apply_(net, [counting()])
    x = torch.randn(2, 3, 6, 6)
    weights = {name: 2 * value.detach() for name, value in twin.named_parameters()}

    def loss(model, weights):
        return torch.func.functional_call(model, weights, (x,)).square().sum()

    assert torch.equal(loss(net, weights), loss(twin, weights))
    ours = torch.func.grad(lambda w: loss(net, w))(weights)
    stock = torch.func.grad(lambda w: loss(twin, w))(weights)
    assert all(torch.equal(ours[name], stock[name]) for name in stock)
    assert_same_state(net, twin)
