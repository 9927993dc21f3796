"""The cost model: its arithmetic against the operations themselves, its order, its calibration on tiny layers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from thrifty.core.errors import UsageError
from thrifty.reuse import calibration, cost
from thrifty.reuse.calibration import cost_model, forget, measure
from thrifty.reuse.cost import DENSE, OPERATIONS, CostModel, Operation, Sample
from thrifty.reuse.problem import LayerShape, problem
from thrifty.reuse.workload import CALLS, make_material

EDGE = (1, 1, 1, 1)
TINY = (
    (LayerShape(2, 8, 8, 6, 6, (3, 3), padding=EDGE), 4, 3),
    (LayerShape(2, 16, 8, 4, 4, (1, 1)), 8, 2),
)


def at_rates(rates: dict[str, float] | float) -> CostModel:
    """A machine on which every operation runs at one rate, whatever its size."""
    shape, length, bits = TINY[0]
    p = problem(shape, length=length, bits=bits)
    rate = rates if isinstance(rates, dict) else dict.fromkeys(OPERATIONS, rates)
    return CostModel([Sample(name, p, one.amount(p) / rate[name]) for name, one in OPERATIONS.items()])


shapes = st.builds(
    lambda n, c, m, side, k, stride: LayerShape(
        n, c, m, side, side, (k, k), (stride, stride), (k // 2, k // 2, k // 2, k // 2)
    ),
    st.integers(1, 8), st.integers(1, 70), st.integers(1, 40), st.integers(5, 20), st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
)  # fmt: skip


def test_every_operation_of_the_table_can_be_run_and_no_other() -> None:
    assert list(CALLS) == list(OPERATIONS)


def test_another_way_of_running_a_layer_is_its_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say, a dense layer whose gradient of the input skips what is zero."""
    skipping = Operation("gemm", lambda p: 10.0 * p.shape.pixels, lambda p: (1.0,), forward=False, ways=("skip",))
    rows = {
        **{name: replace(one, ways=(*one.ways, "skip")) if name in ("conv_forward", "conv_weight") else one
           for name, one in OPERATIONS.items()},
        "skip_input": skipping,
    }  # fmt: skip
    monkeypatch.setattr(cost, "OPERATIONS", rows)
    shape = TINY[0][0]
    p = problem(shape, length=4, bits=3)
    model = CostModel([Sample(name, p, one.amount(p) / 1e9) for name, one in rows.items()])
    assert model.way_s("skip", p) == pytest.approx(2e-9 * OPERATIONS["conv_forward"].amount(p) + 1e-8 * shape.pixels)
    assert model.dense_s(shape) == pytest.approx(3e-9 * OPERATIONS["conv_forward"].amount(p))


def test_amounts_by_hand() -> None:
    shape = LayerShape(2, 8, 10, 6, 4, (3, 3), padding=EDGE)
    p = problem(shape, length=4, bits=3, remaining_ratio=0.25)
    pixels = 2 * 6 * 4
    assert (shape.pixels, shape.places, shape.taps, p.groups, p.clusters) == (pixels, pixels, 9, 2, pixels * 2 / 4)
    amounts = {name: one.amount(p) for name, one in OPERATIONS.items()}
    assert amounts["conv_forward"] == pixels * 9 * 8 * 10
    assert amounts["assign"] == pixels * 8 * 8
    assert amounts["table"] == p.clusters * 4 * 9 * 10
    # of the 18 rows of taps over 6 rows of pixels two are padding, of 12 columns over 4 pixels two
    assert amounts["gather"] == amounts["pull"] == 2 * 16 * 10 * p.groups * 10


@given(shapes)
def test_visits_are_the_taps_that_see_a_pixel(shape: LayerShape) -> None:
    ones = torch.ones(1, 1, shape.height, shape.width)
    kernel = torch.ones(1, 1, *shape.kernel)
    padding = (shape.padding[0], shape.padding[2])
    seen = torch.conv2d(ones, kernel, stride=shape.stride, padding=padding)
    assert shape.visits == shape.images * int(seen.sum()) and shape.places == shape.images * seen.numel()


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(6, 5, 3, padding=1), (2, 6, 9, 7)),
        (nn.Conv2d(6, 5, (4, 3), padding="same", dilation=2), (2, 6, 9, 8)),
        (nn.Conv2d(6, 5, 5, stride=2, padding="valid"), (3, 6, 9, 7)),
        (nn.Linear(6, 5), (4, 3, 6)),
        (nn.Linear(6, 5), (6,)),
    ],
)
def test_shapes_of_stock_layers(layer: nn.Module, size: tuple[int, ...]) -> None:
    shape = LayerShape.of(layer, size)
    with torch.no_grad():
        output = layer(torch.zeros(size))
    assert shape.places * shape.outputs == output.numel()
    assert shape.pixels * shape.channels == math.prod(size)


@given(shapes, st.integers(1, 64), st.integers(1, 10), st.floats(0.01, 0.5))
def test_more_work_takes_longer(shape: LayerShape, length: int, bits: int, ratio: float) -> None:
    model = at_rates(1e9)
    p = problem(shape, length=length, bits=bits, remaining_ratio=ratio)
    base = model.reuse_s(p)
    for more in (replace(shape, images=shape.images + 1), replace(shape, outputs=shape.outputs + 8)):
        assert model.dense_s(more) > model.dense_s(shape)
        assert model.reuse_s(problem(more, length=length, bits=bits, remaining_ratio=ratio)) > base * (1 - 1e-12)
    assert model.reuse_s(problem(shape, length=length, bits=bits, remaining_ratio=min(2 * ratio, 1.0))) >= base
    assert model.reuse_s(problem(shape, length=length, bits=bits + 1, remaining_ratio=ratio)) >= base
    # with the clusters that are left the same, longer pieces are fewer rows to gather
    if p.groups > 1:
        one = problem(shape, length=shape.channels, bits=bits, remaining_ratio=ratio)
        assert model.seconds("gather", one) < model.seconds("gather", p)
    assert 0 < model.reuse_s(p, backward=False) < base
    assert sum(model.stages_s(p).values()) == pytest.approx(base)
    assert model.speedup(p) == pytest.approx(model.dense_s(shape) / base)


@given(shapes)
def test_a_first_layer_does_without_its_inputs_gradient(shape: LayerShape) -> None:
    first = replace(shape, input_gradient=False)
    model = at_rates(1e9)
    assert model.dense_s(first) == pytest.approx(model.dense_s(shape) * 2 / 3)
    p, q = (problem(one, length=8, bits=4, remaining_ratio=0.1) for one in (shape, first))
    assert model.reuse_s(q) < model.reuse_s(p)
    assert model.reuse_s(q, backward=False) == pytest.approx(model.reuse_s(p, backward=False))


def test_a_rate_that_follows_a_law_is_found_between_the_samples() -> None:
    """Products run at a rate that grows with the root of the piece's length; the model has seen 4, 16 and 64."""
    shape = LayerShape(8, 64, 32, 8, 8, (3, 3), padding=EDGE)
    samples = []
    for length in (4, 16, 64):
        for bits in (4, 6, 8):
            p = problem(shape, length=length, bits=bits)
            samples += [
                Sample(name, p, one.amount(p) / (1e9 * math.sqrt(length) if name == "table" else 1e9))
                for name, one in OPERATIONS.items()
            ]
    model = CostModel(samples)
    for length in (4, 8, 16, 32, 64):
        p = problem(shape, length=length, bits=7)
        expected = OPERATIONS["table"].amount(p) / (1e9 * math.sqrt(length))
        assert model.seconds("table", p) == pytest.approx(expected, rel=0.1)
    beyond = problem(replace(shape, channels=1024), length=1024, bits=6)
    expected = OPERATIONS["table"].amount(beyond) / (1e9 * 8)
    assert model.seconds("table", beyond) == pytest.approx(expected, rel=0.15), "rates are not extrapolated"


def test_the_calibration_times_every_operation_of_every_layer() -> None:
    ticks = iter(range(10**6))
    samples = measure(TINY, repeats=1, clock=lambda: float(next(ticks)))
    assert [sample.operation for sample in samples] == list(OPERATIONS) * 2
    assert {sample.seconds for sample in samples} == {1.0}
    again = measure((TINY[0], TINY[0]), repeats=1)
    dense = [name for name, one in OPERATIONS.items() if one.ways == (DENSE,)]
    assert len(again) == 2 * len(OPERATIONS) - len(dense), "a dense layer knows no setting, so once is enough"
    model = CostModel(samples)
    p = samples[-1].problem
    assert model.seconds("table", p) > 0 and model.reuse_s(p) > 0 and model.dense_s(p.shape) > 0


def test_what_is_timed_is_what_the_layer_does() -> None:
    """The operations of one problem agree with each other: clusters, table, output and their sizes."""
    shape, length, bits = TINY[0]
    material = make_material(shape, length, bits)
    p = material.problem
    assert material.clusters.ids.shape == (p.groups, shape.pixels)
    assert len(material.centroids_KL) == pytest.approx(p.clusters)
    with torch.no_grad():
        results = {name: CALLS[name](material)() for name in OPERATIONS}
    table = results["table"].view(-1, shape.taps, shape.outputs)
    assert table.shape == material.table_KRM.shape and table.numel() == pytest.approx(p.table)
    assert results["gather"].shape == (*material.y_NHWM.shape,) and results["pull"].shape == table.shape
    assert results["spread"].shape == material.x_PC.shape
    assert results["weight_gradient"].shape == material.weight_GLN.shape
    assert results["centroid_gradient"].shape == material.centroids_KL.shape
    assert results["conv_forward"].shape == (2, 8, 6, 6)
    assert [g is not None for g in results["conv_weight"]] == [False, True, True]
    assert results["conv_input"][0].shape == (2, 8, 6, 6) and results["conv_input"][1] is None
    assert results["assign"].shape == material.codes_GP.shape


@pytest.fixture
def tiny_calibration(monkeypatch: pytest.MonkeyPatch):
    """Calibrations of two tiny layers, counted."""
    calls = []
    monkeypatch.setattr(calibration, "LAYERS", TINY)
    monkeypatch.setattr(calibration, "measure", lambda: calls.append(1) or measure(TINY, repeats=1))
    forget()
    yield calls
    forget()


def test_a_calibration_is_kept_in_memory_and_in_a_folder(tiny_calibration: list[int], tmp_path: Path) -> None:
    first = cost_model(tmp_path)
    assert cost_model() is first and len(tiny_calibration) == 1
    forget()
    again = cost_model(tmp_path)
    assert len(tiny_calibration) == 1 and again.samples == first.samples
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    broken = [
        "{",
        "[]",
        json.dumps({**content, "fingerprint": "another"}),
        json.dumps({**content, "samples": content["samples"][1:][:3]}),
        json.dumps({**content, "samples": [{**content["samples"][0], "seconds": "long"}]}),
        json.dumps({**content, "samples": [{**row, "seconds": None} for row in content["samples"]]}),
    ]
    for number, text in enumerate(broken):
        path.write_text(text)
        forget()
        assert cost_model(tmp_path).samples and len(tiny_calibration) == 2 + number
        assert json.loads(path.read_text())["fingerprint"] == content["fingerprint"], "and it is mended"


def test_another_number_of_threads_is_another_calibration(tiny_calibration: list[int]) -> None:
    before = torch.get_num_threads()
    one = cost_model()
    try:
        torch.set_num_threads(before + 1)
        assert cost_model() is not one and len(tiny_calibration) == 2
    finally:
        torch.set_num_threads(before)
    assert cost_model() is one


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: LayerShape(0, 8, 8), "at least 1"),
        (lambda: LayerShape(1, 8, 8, 4, 4, (5, 5)), "larger than the padded input"),
        (lambda: LayerShape(1, 8, 8, 4, 4, padding=(-1, 0, 0, 0)), "padding at least 0"),
        (lambda: LayerShape.of(nn.Conv2d(8, 8, 3), (2, 4, 9, 9)), "does not fit"),
        (lambda: LayerShape.of(nn.Conv2d(8, 8, 3, groups=2), (2, 8, 9, 9)), "one group"),
        (lambda: LayerShape.of(nn.Linear(8, 8), (2, 4)), "does not fit"),
        (lambda: problem(TINY[0][0], length=0, bits=3), "at least 1 channel"),
        (lambda: problem(TINY[0][0], length=4, bits=0), "1 to 31 bits"),
        (lambda: problem(TINY[0][0], length=4, bits=3, remaining_ratio=0.0), "above 0"),
        (lambda: problem(TINY[0][0], length=4, bits=3, remaining_ratio=float("nan")), "above 0"),
        (lambda: measure((), repeats=1), "at least one layer"),
        (lambda: measure(TINY, repeats=0), "one repeat"),
        (lambda: CostModel([]), "calibrate anew"),
        (lambda: at_rates(-1.0), "no positive time"),
        (lambda: at_rates(float("nan")), "no positive time"),
    ],
)
def test_bad_input(call, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()
