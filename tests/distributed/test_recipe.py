"""The large-batch recipe: who is exempt, where gammas start, and how the rate moves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from thrifty import models
from thrifty.distributed.lars import LARS
from thrifty.distributed.normalisation import split_parameters
from thrifty.distributed.recipe import parameter_groups, polynomial, zero_last_gamma_


def names_of(model, parameters):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in parameters}


def test_biases_and_normalisation_are_exempt_whatever_their_shape():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Flatten(), nn.LayerNorm((1, 3)), nn.Linear(3, 2))
    weights, exempt = split_parameters(model)
    assert names_of(model, weights) == {"0.weight", "4.weight"}
    assert names_of(model, exempt) == {"0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.bias"}
    model[4].requires_grad_(False)
    assert names_of(model, [p for part in split_parameters(model) for p in part]) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"
    }  # fmt: skip


def test_exempt_parameters_are_a_few_hundredths_of_a_percent_of_alexnet():
    model = models.build("alexnet-bn", num_classes=1000, image_size=224)
    weights, exempt = split_parameters(model)
    part = sum(p.numel() for p in exempt) / sum(p.numel() for p in (*weights, *exempt))
    assert part == pytest.approx(2e-4, abs=1e-4)


def test_groups_make_an_optimizer():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = LARS(parameter_groups(model, weight_decay=0.1, lr=8.0, exempt_lr=0.2), lr=8.0)
    told = [(len(g["params"]), g["weight_decay"], g["lr"], g["adapt"]) for g in optimizer.param_groups]
    assert told == [(1, 0.1, 8.0, True), (3, 0.0, 0.2, False)]
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), weight_decay=0.1, lr=1.0)) == 1


def test_alexnet_bn_has_a_norm_behind_its_last_pool():
    features = list(models.build("alexnet-bn", num_classes=10, image_size=64).features)
    last_pool = max(i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d))
    assert isinstance(features[last_pool + 1], nn.BatchNorm2d)


def test_residual_blocks_start_as_the_identity():
    model = models.build("resnet50", num_classes=10, image_size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    found = zero_last_gamma_(model)
    assert len(found) == 16 and found[0] == "layer1.0.bn3.weight"
    zero = {name for name, p in model.named_parameters() if not p.any() and name.endswith("bn3.weight")}
    assert zero == set(found)
    block = model.layer1[1].eval()
    x = torch.rand(1, 256, 4, 4)
    torch.testing.assert_close(block(x), x)
    assert zero_last_gamma_(nn.Linear(2, 2)) == []


@given(warm_up=st.floats(0.0, 0.9), power=st.floats(0.5, 4.0))
def test_rate_rises_straight_and_falls_by_its_power(warm_up, power):
    peak = polynomial(warm_up, warm_up, power)
    assert peak == 1.0 and polynomial(1.0, warm_up, power) == 0.0
    if warm_up > 1e-6:
        assert polynomial(warm_up / 2, warm_up, power) == pytest.approx(0.5)
    middle = warm_up + (1 - warm_up) / 2
    assert polynomial(middle, warm_up, power) == pytest.approx(0.5**power)
