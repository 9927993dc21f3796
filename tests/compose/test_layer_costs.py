"""layer_costs: every layer once, its seconds by a clock that ticks when looked at, its bytes counted by hand."""

import itertools

import pytest
import torch
from torch import nn

from thrifty.compose.layer_costs import layer_costs


def ticking():
    ticks = itertools.count()
    return lambda: float(next(ticks))


def costs(model, x):
    return {row.layer: row for row in layer_costs(model, lambda: model(x).square().sum(), clock=ticking())}


def test_each_layer_has_its_calls_its_nodes_and_its_bytes():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    rows = costs(model, torch.randn(5, 4))
    assert [(row.layer, row.kind) for row in rows.values()] == [("0", "Linear"), ("1", "ReLU"), ("2", "Linear")]
    assert [row.forward_s for row in rows.values()] == [1.0, 1.0, 1.0]
    # one node for a ReLU; a product and the transposition of its weight for a linear layer
    assert [row.backward_s for row in rows.values()] == [2.0, 1.0, 2.0]
    assert [row.parameter_bytes for row in rows.values()] == [4 * 8 * 4, 0, 8 * 2 * 4]
    # the first keeps its input, the ReLU its output, which the last layer's input is: no storage counts twice
    assert [row.saved_bytes for row in rows.values()] == [5 * 4 * 4, 5 * 8 * 4, 0]


def test_a_layer_that_works_in_place_has_its_node():
    rows = costs(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), torch.randn(5, 4))
    assert rows["1"].backward_s == 1.0


def test_a_layer_that_runs_twice_is_one_row():
    shared = nn.Linear(3, 3)
    rows = costs(nn.Sequential(shared, nn.Tanh(), shared), torch.randn(2, 3))
    assert list(rows) == ["0", "1"]
    assert rows["0"].forward_s == 2.0
    assert rows["0"].parameter_bytes == 4 * (9 + 3)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(1)), nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x) * self.scale


def test_a_module_with_parameters_of_its_own_does_not_count_the_layers_inside_it():
    rows = costs(Scaled(), torch.randn(2, 3))
    assert set(rows) == {"", "inner"}
    assert rows[""].forward_s == 3.0 - 1.0  # three ticks from its begin to its end, one of them the inner layer's
    assert rows[""].parameter_bytes == 4
    assert rows[""].backward_s == 1.0


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.MultiheadAttention(4, 2)])
def test_layers_of_several_tensors(layer):
    x = torch.randn(5, 2, 3 if isinstance(layer, nn.LSTM) else 4)
    arguments = (x,) if isinstance(layer, nn.LSTM) else (x, x, x)
    (row,) = [r for r in layer_costs(layer, lambda: layer(*arguments)[0].sum()) if r.layer == ""]
    assert row.forward_s > 0 and row.backward_s > 0 and row.saved_bytes > 0


def test_hooks_are_gone_afterwards_also_where_the_step_fails():
    model = nn.Sequential(nn.Linear(2, 2))
    costs(model, torch.randn(1, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        costs(model, torch.randn(1, 3))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
