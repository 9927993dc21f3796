"""Adopt, swap, restore: the moves that apply_ and remove_ are made of."""

import pytest
import torch
from torch import nn

from thrifty.core.surgery import adopt, named_layers, restore, swap


class MyLinear(nn.Linear):
    pass


class OtherConv(nn.Conv2d):
    pass


def test_adopting_and_restoring_leave_their_source_alone():
    stock = nn.Linear(2, 3)
    before = dict(vars(stock))
    mine = adopt(stock, MyLinear, table=[1])
    mine.register_buffer("codes", torch.zeros(2), persistent=False)
    mine.add_module("child", nn.ReLU())
    mine.bias = None
    assert vars(stock) == before and list(stock.state_dict()) == ["weight", "bias"]
    assert type(mine) is MyLinear and mine.weight is stock.weight and mine.in_features == 2
    own = dict(vars(mine))
    back = restore(mine, nn.Linear, drop=("table", "codes", "child", "never there"))
    assert vars(mine) == own and mine.codes is not None
    assert type(back) is nn.Linear and set(vars(back)) == set(before)
    assert back.bias is None and back.weight is stock.weight
    assert not back._modules and not back._buffers and not back._non_persistent_buffers_set


def test_classes_have_to_fit():
    with pytest.raises(TypeError, match="OtherConv is not a subclass of Linear"):
        adopt(nn.Linear(1, 1), OtherConv)
    with pytest.raises(TypeError, match="Linear is not a subclass of Linear"):
        adopt(nn.Linear(1, 1), nn.Linear)
    with pytest.raises(TypeError, match="Linear is not a subclass of Conv2d"):
        restore(nn.Linear(1, 1), nn.Conv2d)


def test_every_place_and_name_of_a_module():
    shared = nn.Linear(1, 1)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": nn.ModuleList([shared])})
    model.register_module("empty", None)
    names = {module: names for names, module in named_layers(model)}
    assert names[shared] == ("a", "b.0", "c.0") and names[model] == ("",)
    new = adopt(shared, MyLinear)
    swap(model, {shared: new})
    assert model["a"] is model["b"][0] is model["c"][0] is new
    assert [name for name, _ in model.named_parameters()] == ["a.weight", "a.bias"]


def test_attributes_of_the_parents_stay():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer(x)

    parent = Parent()
    new = adopt(parent.layer, MyLinear)
    swap(parent, {parent.layer: new})
    assert parent.layer is new and "layer" not in vars(parent)
