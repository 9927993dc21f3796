"""What a layer under reuse counts: multiply-adds by formula, ratio and error by their definitions, seconds by stage."""

import pytest
import torch
from reuse_layers import ENCODERS, changed, clusters_of, fixed
from reuse_oracle import quantise
from torch import nn

import thrifty
from thrifty.core.counters import STAGES, LayerCounters
from thrifty.reuse import Reuse, Stage

OF_CLUSTERS = [stage for stage in STAGES if stage != "conv"]


def rows_of(x):
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def clusters_in(ids_GP):
    return sum(len(ids.unique()) for ids in ids_GP)


@pytest.mark.parametrize("encoder, per_value", [("sign", 3), ("codebook", 2**3)])
@pytest.mark.parametrize("to_input", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_multiply_adds_of_a_convolution(to_input, stride, encoder, per_value):
    n, c, h, w, m, k, length, bits = 3, 8, 6, 7, 5, 3, 4, 3
    layer = changed(nn.Conv2d(c, m, k, stride, padding=1), length=length, bits=bits, encoder=encoder)
    x = torch.randn(n, c, h, w, requires_grad=to_input)
    y = layer(x)
    passes = 2 + to_input  # forward, weight gradient, input gradient
    clusters = clusters_in(clusters_of(layer, rows_of(x), h * w)[0])
    counters = layer.counters
    assert counters.steps == 1
    assert counters.dense_macs == passes * y.numel() * c * k * k
    assert counters.macs == pytest.approx(passes * clusters * length * k * k * m + n * h * w * c * per_value, abs=1)
    assert counters.remaining_ratio == pytest.approx(clusters / (n * h * w * c / length))


def test_multiply_adds_of_patches():
    layer = changed(nn.Conv2d(4, 5, 3), length=6, bits=2, pieces="patches")
    x = torch.randn(2, 4, 6, 6)
    layer(x)
    pieces = 2 * 16 * 6
    clusters = round(layer.counters.remaining_ratio * pieces)
    assert 1 < clusters < pieces
    assert layer.counters.dense_macs == 2 * (2 * 16) * 36 * 5
    assert layer.counters.macs == pytest.approx(2 * clusters * 6 * 5 + 2 * 16 * 36 * 2, abs=1)


def test_multiply_adds_of_a_linear_layer():
    layer = changed(nn.Linear(8, 5), length=4, bits=2)
    x = torch.randn(3, 7, 8, requires_grad=True)
    layer(x)
    clusters = clusters_in(clusters_of(layer, x.reshape(-1, 8), 7)[0])
    assert layer.counters.dense_macs == 3 * 21 * 8 * 5
    assert layer.counters.macs == pytest.approx(3 * clusters * 4 * 5 + 21 * 8 * 2, abs=1)


def test_without_gradients_only_the_forward_pass_counts():
    layer = changed(nn.Linear(8, 5))
    with torch.no_grad():
        layer(torch.randn(6, 8))
    assert layer.counters.dense_macs == 6 * 8 * 5
    layer.counters.reset()
    layer.requires_grad_(False)
    layer(torch.randn(6, 8))
    assert layer.counters.dense_macs == 6 * 8 * 5


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 5, 3), nn.Linear(8, 5)])
def test_the_dense_stage_counts_as_dense(layer):
    layer = changed(layer)
    layer.reuse.stage_index = 1
    layer(torch.randn(2, 8, 6, 8) if isinstance(layer, nn.Linear) else torch.randn(2, 8, 6, 6))
    assert layer.counters.steps == 1
    assert layer.counters.macs == layer.counters.dense_macs > 0
    assert layer.counters.remaining_ratio is None and layer.counters.error is None
    assert layer.trace_row() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_is_the_relative_squared_distance(dtype):
    layer = changed(nn.Conv2d(7, 5, 3, dtype=dtype))
    x = torch.randn(3, 7, 6, 6, dtype=dtype) + 2
    layer(x)
    rows = rows_of(x).double()
    ids, length = clusters_of(layer, rows_of(x), 36)
    direct = (rows - quantise(rows, ids, length)).square().sum() / (rows - rows.mean(0)).square().sum()
    assert 0.05 < float(direct) < 1
    assert layer.counters.error == pytest.approx(float(direct), rel=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_more_bits_mean_less_error_and_more_work(encoder):
    x = torch.randn(4, 8, 12, 12)
    seen = []
    for bits in (1, 4, 8, 12):
        layer = changed(nn.Conv2d(8, 5, 3), length=8, bits=bits, encoder=encoder)
        layer(x)
        seen.append((layer.counters.error, layer.counters.remaining_ratio, layer.counters.macs))
    errors, ratios, macs = zip(*seen, strict=True)
    assert list(errors) == sorted(errors, reverse=True)
    assert list(ratios) == sorted(ratios) and list(macs) == sorted(macs)


@pytest.mark.parametrize("kind", ["conv", "patches", "linear"])
def test_every_stage_is_timed(kind):
    layer = nn.Linear(8, 5) if kind == "linear" else nn.Conv2d(8, 5, 3)
    layer = changed(layer, pieces="patches" if kind == "patches" else "pixels")
    x = torch.randn((2, 9, 8) if kind == "linear" else (2, 8, 6, 6), requires_grad=True)
    y = layer(x)
    assert set(layer.counters.stages_s) == set(OF_CLUSTERS) - {"scatter"}
    y.sum().backward()
    assert set(layer.counters.stages_s) == set(OF_CLUSTERS)
    assert all(0 < seconds < 10 for seconds in layer.counters.stages_s.values())


def test_seconds_go_to_the_layer_that_spent_them():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    applied = thrifty.apply_(model, [fixed()])
    y = model[0](torch.randn(2, 8, 6, 6))
    assert applied.counters()["0"].stages_s and not applied.counters()["1"].stages_s
    with torch.no_grad():
        model[1](y)
    y.sum().backward()
    counters = applied.counters()
    assert "scatter" in counters["0"].stages_s and "scatter" not in counters["1"].stages_s


def test_counters_add_up_and_start_again():
    model = nn.Sequential(nn.Conv2d(8, 5, 3))
    applied = thrifty.apply_(model, [fixed()])
    x = torch.randn(2, 8, 6, 6)
    model(x).sum().backward()
    once = applied.counters()["0"]
    model(x).sum().backward()
    twice = applied.counters(reset=True)["0"]
    assert (twice.steps, twice.macs, twice.dense_macs) == (2, 2 * once.macs, 2 * once.dense_macs)
    assert twice.remaining_ratio == pytest.approx(once.remaining_ratio)
    assert all(twice.stages_s[stage] > once.stages_s[stage] for stage in OF_CLUSTERS)
    assert applied.counters()["0"] == LayerCounters()


def test_the_trace_holds_a_row_for_every_layer_and_step():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    config = Reuse(stages=(Stage(8, 2), Stage(4, 2)), pieces="pixels", patience=2, min_decrease=1.0, measure=False)
    applied = thrifty.apply_(model, [config])
    for _ in range(6):
        model(torch.randn(2, 8, 5, 5)).sum().backward()
        applied.step(1.0)
    rows = applied.trace()
    assert [(row["step"], row["layer"], row["stage"]) for row in rows] == [
        (1, "0", 0), (1, "2", 0), (2, "0", 0), (2, "2", 0), (3, "0", 0), (3, "2", 0), (4, "0", 1), (4, "2", 1),
        (5, "0", 1), (5, "2", 1), (6, "0", 1), (6, "2", 1),
    ]  # fmt: skip
    assert all(0 < row["remaining_ratio"] <= 1 and 0 <= row["error"] <= 1 for row in rows)
    assert [event.step for event in applied.events] == [3, 6]


def test_a_row_is_told_once():
    layer = changed(nn.Linear(8, 5))
    layer(torch.randn(6, 8))
    assert layer.trace_row() is not None and layer.trace_row() is None
