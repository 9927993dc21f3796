"""Looks: what methods tell of their layers on the inputs of one pass, and what a plan makes of it."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

import thrifty
from thrifty import Plan, plan
from thrifty.compose.looks import Looks
from thrifty.lsh import LSH, hash_report
from thrifty.report.plan_table import plan_table

pytestmark = pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning")
HASHED = LSH(layers=("0",), active=0.2, force=True)


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 300), nn.ReLU(), nn.Linear(300, 4))


@pytest.fixture
def batch():
    source = torch.Generator().manual_seed(1)
    return torch.randn(20, 12, generator=source), torch.randint(4, (20,), generator=source)


def test_the_report_is_that_of_the_inputs_of_the_first_pass(batch):
    model = build()
    applied = thrifty.apply_(model, [HASHED])
    with Looks(model, applied) as looks:
        model(batch[0])
        model(torch.zeros(3, 12))
    found = looks.found()
    mine = hash_report(model[0], batch[0], k=10)
    assert list(found) == ["0"]
    assert found["0"]["recall"] == mine.recall and found["0"]["active_fraction"] == mine.active_fraction
    assert "of 300 classes active" in found["0"]["text"]
    assert not model[0]._forward_pre_hooks


def test_nothing_is_told_without_a_pass_without_methods_or_of_inputs_that_are_no_numbers(batch):
    model = build()
    applied = thrifty.apply_(model, [HASHED])
    with Looks(model, applied) as looks:
        pass
    assert looks.any() and looks.found() == {}
    with Looks(build(), None) as looks:
        assert not looks.any()
    with Looks(model, applied) as looks, pytest.warns(RuntimeWarning, match="NaN"):
        model(torch.full((2, 12), torch.nan))
    assert looks.found() == {}


def test_a_plan_tells_what_hashing_finds(batch):
    found = plan(build(), batch, methods=[HASHED], precisions=["none"], budget_s=0.01)
    layer = next(layer for layer in found.layers if layer.cost.layer == "0")
    told = layer.looks["lsh"]
    assert 0 < told["recall"] <= 1 and set(told["time_shares"]) == {"hashing", "rebuild", "products", "optimizer"}
    assert not next(layer for layer in found.layers if layer.cost.layer == "2").looks
    again = Plan.from_dict(found.to_dict())
    assert again == found
    console = Console(file=io.StringIO(), width=400)
    console.print(plan_table(found))
    assert "lsh in 0: " in console.file.getvalue() and "of 300 classes active" in console.file.getvalue()
