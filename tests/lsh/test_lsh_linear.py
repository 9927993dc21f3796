"""Hidden layers on hashed neurons: through the registry, right gradients, and honest about what they cost."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import thrifty
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.lsh import LSH, Hashing, LSHLinear, SlowerThanDenseWarning, calibrate
from thrifty.lsh.cost import Rates, predict_head, predict_hidden, rates, use
from thrifty.lsh.hashing import sizes_for


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 5))


def apply(model, **more):
    with pytest.warns(SlowerThanDenseWarning, match="layer '0': hashing would take"):
        return thrifty.apply_(model, [LSH(layers=("0",), force=True, **more)])


@pytest.mark.parametrize("mode", ["each", "shared"])
def test_computed_neurons_are_the_dense_ones_and_the_others_are_zero(mode):
    model, stock = net(), net()
    apply(model, mode=mode, active=0.2)
    x = torch.randn(6, 20)
    mine, theirs = model[0](x), stock[0](x)
    there = mine != 0
    assert_close(mine[there], theirs[there])
    most = 60 if mode == "each" else 6 * 60
    assert (there.sum(1) <= 60).all() and 0 < there.sum() <= most * 6
    if mode == "shared":
        assert (there.any(0) == there.all(0)).all()


@pytest.mark.parametrize("mode", ["each", "shared"])
def test_gradients_are_those_of_the_computed_neurons(mode):
    model = net()
    apply(model, mode=mode, active=0.2)
    layer = model[0]
    x = torch.randn(6, 20, requires_grad=True)
    y = layer(x)
    weights = torch.randn_like(y)
    mine = torch.autograd.grad(y, [x, layer.weight, layer.bias], weights)
    masked = (nn.functional.linear(x, layer.weight, layer.bias) * (y != 0)).mul(weights).sum()
    theirs = torch.autograd.grad(masked, [x, layer.weight, layer.bias])
    for a, b in zip(mine, theirs, strict=True):
        assert_close(a, b)


def test_what_is_found_scores_higher_than_what_is_not():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(30, 800), nn.ReLU())
    with pytest.warns(SlowerThanDenseWarning):
        thrifty.apply_(model, [LSH(layers=("0",), force=True, hashing=Hashing(tables=24, bits=5))])
    x = torch.randn(40, 30)
    dense = nn.functional.linear(x, model[0].weight, model[0].bias)
    there = model[0](x) != 0
    assert dense[there].mean() > dense[~there].mean() + 0.5 * dense.std()


def test_layers_stay_dense_with_a_reason():
    model = net()
    with pytest.warns(thrifty.NoEffectWarning):
        applied = thrifty.apply_(model, [LSH(layers=("0",), batch=1)])
    reasons = {report.name: report.reason for report in applied.layers}
    assert "LSH(force=True) changes it all the same" in reasons["0"]
    assert "not named in LSH.layers; a wide output layer takes LSHSoftmaxLoss" in reasons["2"]
    with pytest.warns(thrifty.NoEffectWarning):
        applied = thrifty.apply_(net(), [LSH(layers=("0",), active=1.0)])
    assert "nothing to leave out" in applied.layers[0].reason


def test_stock_keys_removal_counters_and_copies():
    model = net()
    keys = list(model.state_dict())
    applied = apply(model)
    assert isinstance(model[0], LSHLinear) and list(model.state_dict()) == keys
    x = torch.randn(6, 20)
    model(x).sum().backward()
    applied.step(1.0)
    counters = applied.counters()["0"]
    assert counters.steps == 1 and 0 < counters.macs < counters.dense_macs == 6 * 300 * 20 * 2
    assert 0 < counters.remaining_ratio <= 0.05 and applied.trace()[0]["remaining_ratio"] == counters.remaining_ratio
    assert {"hash", "group"} <= set(counters.stages_s)
    copied = copy.deepcopy(model)
    assert_close(copied(x), model(x))
    thrifty.remove_(model)
    assert type(model[0]) is nn.Linear


def test_training_by_fives_of_a_hundred_learns():
    torch.manual_seed(0)
    centres = torch.randn(5, 20)
    model = net()
    applied = apply(model, active=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        y = torch.randint(5, (32,))
        x = centres[y] + 0.5 * torch.randn(32, 20)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        applied.step(loss.detach())
    y = torch.randint(5, (200,))
    model.eval()
    assert (model(centres[y] + 0.5 * torch.randn(200, 20)).argmax(1) == y).float().mean() > 0.9


def test_a_resumed_layer_goes_on_with_its_tables():
    model = net()
    applied = apply(model)
    x = torch.randn(6, 20)
    for _ in range(5):
        model(x)
    state = applied.state_dict()
    with torch.no_grad():
        model[0].weight.mul_(torch.randn(300, 1))  # tables are those of before
    other = net()
    other.load_state_dict(model.state_dict())
    again = apply(other)
    again.load_state_dict(state)
    assert_close(other(x), model(x))
    broken = copy.deepcopy(state)
    broken["controllers"]["lsh"]["0"]["tables"]["codes"] = torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(CheckpointError, match="damaged"):
        again.load_state_dict(broken)


def test_inputs_it_cannot_use_run_dense():
    model, stock = net(), net()
    apply(model)
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        model[0](torch.full((1, 20), float("nan")))
    empty = torch.zeros(0, 20)
    assert torch.equal(model[0](empty), stock[0](empty))
    with pytest.raises(RuntimeError):
        model[0](torch.randn(3, 19))


@pytest.mark.parametrize("field", [{"active": 0.0}, {"active": 1.5}, {"mode": "all"}, {"batch": 0}])
def test_settings_out_of_range_are_refused(field):
    with pytest.raises(UsageError, match=r"LSH\."):
        LSH(**field)


def test_the_config_travels_as_plain_data():
    config = LSH(layers=("a", "b"), hashing=Hashing(tables=3))
    assert LSH.from_dict(config.to_dict()) == config


def test_the_cost_model_knows_when_to_stay_dense():
    wide, narrow = (sizes_for(Hashing(), n, 128) for n in (1_000_000, 500))
    found = predict_head(128, 128, 1_000_000, 2176, wide)
    assert found.pays and found.dense_s > 10 * found.hashed_s
    assert not predict_head(128, 128, 500, 500, narrow).pays
    assert not predict_hidden(64, 784, 1000, 50, sizes_for(Hashing(), 1000, 784), False, 10**6).pays


def test_calibration_measures_and_can_be_undone():
    before = rates()
    try:
        measured = calibrate(0.2)
        assert rates() is measured and all(0 < seconds < 1e-2 for seconds in vars(measured).values())
        with pytest.raises(ValueError, match="gemm_s must be seconds"):
            use(Rates(gemm_s=0.0))
    finally:
        use(before)
