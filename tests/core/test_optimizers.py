"""An optimizer that is handed over has to be the optimizer of the model."""

import copy

import pytest
import torch
from torch import nn

from thrifty.core.errors import UsageError
from thrifty.core.optimizers import check_optimizer


def test_an_optimizer_of_a_part_of_the_model_is_fine():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_optimizer(torch.optim.SGD(model[1].parameters(), lr=0.1), model)
    check_optimizer(torch.optim.Adam([{"params": model[0].weight}, {"params": nn.Linear(1, 1).weight}]), model)


def test_an_optimizer_of_another_model_is_not():
    model = nn.Sequential(nn.Linear(2, 2))
    other = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"none of the model's parameters: build it from model\.parameters\(\)"):
        check_optimizer(other, model)


def test_a_model_without_parameters_has_nothing_to_check():
    check_optimizer(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), nn.ReLU())


@pytest.mark.parametrize("thing", [3, nn.Linear(1, 1), {"param_groups": []}])
def test_what_is_no_optimizer(thing):
    with pytest.raises(UsageError, match=type(thing).__name__):
        check_optimizer(thing, nn.Linear(1, 1))
