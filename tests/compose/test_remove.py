"""remove_: the stock model comes back."""

import copy

import torch
from torch import nn

from thrifty.compose import apply_, remove_


def test_the_stock_model_comes_back(net, twin, counting):
    calls = []
    net[0].register_forward_hook(lambda module, args, out: calls.append(type(module)))
    net.eval()
    parameters, attributes = list(net.parameters()), set(vars(net[0]))
    apply_(net, [counting()])
    assert remove_(net) is net
    assert [type(module) for module in net.modules()] == [type(module) for module in twin.modules()]
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert set(vars(net[0])) == attributes
    assert not net[0]._buffers and not net[0]._non_persistent_buffers_set
    assert list(net.state_dict()) == list(twin.state_dict())
    assert not net[0].training
    net(torch.randn(2, 3, 6, 6))
    assert calls == [nn.Conv2d]
    assert repr(net) == repr(twin)


def test_removing_twice_or_from_a_stock_model_changes_nothing(net, counting):
    before = list(net.modules())
    assert remove_(net) is net
    assert list(net.modules()) == before
    apply_(net, [counting()])
    remove_(net)
    after = list(net.modules())
    remove_(net)
    assert list(net.modules()) == after


def test_apply_after_remove(net, counting):
    apply_(net, [counting()])
    remove_(net)
    applied = apply_(net, [counting()])
    net(torch.randn(2, 3, 6, 6))
    assert applied.counters()["0"].steps == 1


def test_what_was_set_on_the_changed_layer_stays(net, counting):
    apply_(net, [counting()])
    seen = []
    net[0].register_load_state_dict_pre_hook(lambda module, *rest: seen.append(module))
    net[0].weight = nn.Parameter(torch.zeros_like(net[0].weight))
    weight = net[0].weight
    remove_(net)
    assert net[0].weight is weight
    net.load_state_dict(net.state_dict())
    assert seen == [net[0]]


def test_a_copy_is_removed_from_without_touching_the_original(net, counting):
    apply_(net, [counting()])
    stock = remove_(copy.deepcopy(net))
    assert type(stock[0]) is nn.Conv2d
    assert type(net[0]) is not nn.Conv2d


def test_shared_layers_come_back_shared(counting):
    linear = nn.Linear(2, 2)
    model = nn.Sequential(linear, nn.Sequential(linear))
    apply_(model, [counting()])
    remove_(model)
    assert model[0] is model[1][0] and type(model[0]) is nn.Linear


def test_a_changed_layer_alone_gives_the_stock_layer(net, counting):
    apply_(net, [counting()])
    layer = remove_(net[0])
    assert type(layer) is nn.Conv2d and layer.weight is net[0].weight
