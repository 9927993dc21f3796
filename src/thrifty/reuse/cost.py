"""What a training step of a layer will cost here, dense and under a setting of reuse, from the machine's own rates.

Every operation of a layer is a row in the table `OPERATIONS`: how much there is to do (multiply-adds, or numbers
moved), and what its rate depends on (the length of an inner loop, the size of a table). `calibration.measure` runs each
row on a few small layers; a prediction is the amount divided by the rate at the features of the layer in question. A
new operation is a row more, and a function in `workload.CALLS` that runs it.

Between the calibrated layers a rate is read off a plane through its logarithm, plus what the nearest of them depart
from that plane. Features are held within the calibrated range, so that nothing is extrapolated but the amount.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thrifty.core.errors import UsageError
from thrifty.reuse.problem import LayerShape, Problem

DENSE, REUSE = "dense", "reuse"  # the ways of running a layer


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    Attributes:
        stage: under which `stages_s` counts it.
        amount: multiply-adds, or numbers moved; seconds are this over the rate.
        features: what the rate depends on, positive; their logarithms span the space that is calibrated.
        forward: whether it belongs to the forward pass.
        spared: whether it is left out where no gradient of the input is wanted.
        ways: the ways of running a layer that it is a part of.
    """

    stage: str
    amount: Callable[[Problem], float]
    features: Callable[[Problem], tuple[float, ...]]
    forward: bool = True
    spared: bool = False
    ways: tuple[str, ...] = (REUSE,)


def _macs(p: Problem) -> float:
    return float(p.shape.places * p.shape.taps * p.shape.channels * p.shape.outputs)


def _dense(p: Problem) -> tuple[float, ...]:
    inner, map_side = p.shape.channels * p.shape.taps, math.sqrt(math.prod(p.shape.geometry.output))
    return inner, p.shape.outputs, map_side, p.shape.places


def _values(p: Problem) -> float:
    return float(p.shape.pixels * p.shape.channels)


def _pieces(p: Problem) -> tuple[float, ...]:
    return p.length, p.shape.pixels * p.shape.channels


def _products(p: Problem) -> float:
    return p.table * p.length


def _product(p: Problem) -> tuple[float, ...]:
    return p.length, p.clusters / p.groups, p.shape.taps * p.shape.outputs


def _rows(p: Problem) -> float:
    return float(p.shape.visits * p.groups * p.shape.outputs)


def _row(p: Problem) -> tuple[float, ...]:
    return p.shape.outputs, p.table, p.shape.places * p.shape.outputs


def _weights(p: Problem) -> float:
    return float(p.shape.channels * p.shape.taps * p.shape.outputs)


OPERATIONS: Mapping[str, Operation] = {
    "conv_forward": Operation("gemm", _macs, _dense, ways=(DENSE,)),
    "conv_weight": Operation("gemm", _macs, _dense, forward=False, ways=(DENSE,)),
    "conv_input": Operation("gemm", _macs, _dense, forward=False, spared=True, ways=(DENSE,)),
    "moments": Operation("hash", _values, _pieces),
    "assign": Operation("hash", lambda p: _values(p) * p.entries, lambda p: (p.length, p.entries, p.shape.pixels)),
    "group": Operation("group", lambda p: float(p.shape.pixels * p.groups), lambda p: (p.shape.pixels, p.entries)),
    "centroid": Operation("centroid", _values, _pieces),
    "observe": Operation("other", lambda p: p.clusters * p.length, lambda p: (p.clusters * p.length,)),
    "weights": Operation("other", _weights, lambda p: (_weights(p), p.shape.taps)),
    "table": Operation("gemm", _products, _product),
    "gather": Operation("gather", _rows, _row),
    "bias": Operation("other", lambda p: float(p.shape.places * p.shape.outputs), lambda p: (p.shape.outputs,), False),
    "pull": Operation("scatter", _rows, _row, forward=False),
    "weight_gradient": Operation("gemm", _products, _product, forward=False),
    "centroid_gradient": Operation("gemm", _products, _product, forward=False, spared=True),
    "spread": Operation("scatter", _values, _pieces, forward=False, spared=True),
    "weights_back": Operation("other", _weights, lambda p: (_weights(p), p.shape.taps), forward=False),
    # What a layer spends beside its operations, however small it is: Python, autograd, counters.
    "calls": Operation("other", lambda p: 1.0, lambda p: (1.0,)),
}


@dataclass(frozen=True)
class Sample:
    """One measurement: an operation on a calibrated layer took `seconds`."""

    operation: str
    problem: Problem
    seconds: float


class CostModel:
    """Predicts seconds of a training step of one layer, at the threads and on the machine of its samples.

    Args:
        samples: at least one of each row of `OPERATIONS`; see `calibration`.

    Raises:
        UsageError: an operation without a sample, or a time that is not positive.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)
        self._rates: dict[str, _Rate] = {}
        for name, operation in OPERATIONS.items():
            own = [sample for sample in samples if sample.operation == name]
            if not own or any(not sample.seconds > 0 for sample in own):
                raise UsageError(f"the calibration has no positive time of {name}: calibrate anew")
            self._rates[name] = _Rate(
                np.array([operation.features(sample.problem) for sample in own], dtype=float),
                np.array([operation.amount(sample.problem) / sample.seconds for sample in own]),
            )

    def seconds(self, name: str, problem: Problem) -> float:
        """Seconds of one operation."""
        operation = OPERATIONS[name]
        return operation.amount(problem) / self._rates[name].at(operation.features(problem))

    def way_s(self, way: str, problem: Problem, *, backward: bool = True) -> float:
        """Seconds of a layer run in one of the ways, forward, and backward where asked."""
        return sum(self._parts(way, problem, backward).values())

    def dense_s(self, shape: LayerShape, *, backward: bool = True) -> float:
        """Seconds of the dense layer; see `way_s`."""
        nominal = Problem(shape, shape.channels, 1, 1.0)  # no dense operation looks at the setting
        return self.way_s(DENSE, nominal, backward=backward)

    def reuse_s(self, problem: Problem, *, backward: bool = True) -> float:
        """Seconds of the layer under reuse; see `way_s`."""
        return self.way_s(REUSE, problem, backward=backward)

    def stages_s(self, problem: Problem, *, backward: bool = True) -> dict[str, float]:
        """Seconds of the layer under reuse by stage; `other` is what no stage counts."""
        stages: dict[str, float] = {}
        for name, seconds in self._parts(REUSE, problem, backward).items():
            stage = OPERATIONS[name].stage
            stages[stage] = stages.get(stage, 0.0) + seconds
        return stages

    def speedup(self, problem: Problem) -> float:
        """Dense seconds over reuse seconds, forward and backward; above 1 reuse is faster."""
        return self.dense_s(problem.shape) / self.reuse_s(problem)

    def _parts(self, way: str, problem: Problem, backward: bool) -> dict[str, float]:
        return {
            name: self.seconds(name, problem)
            for name, operation in OPERATIONS.items()
            if way in operation.ways
            and (operation.forward or backward)
            and (problem.shape.input_gradient or not operation.spared)
        }


class _Rate:
    """A rate over the logarithms of its features."""

    def __init__(self, features: np.ndarray, rates: np.ndarray) -> None:
        logs = np.log2(features)
        self._low, self._high = logs.min(0), logs.max(0)
        self._points = logs
        self._centre = logs.mean(0)
        aim = np.log2(rates)
        self._level = aim.mean()
        shifted = logs - self._centre
        # A ridge of a tenth of an octave keeps the plane flat along features that hardly vary.
        ridge = 0.1 * len(logs) * np.eye(logs.shape[1])
        self._slope = np.linalg.solve(shifted.T @ shifted + ridge, shifted.T @ (aim - self._level))
        self._departures = aim - self._level - shifted @ self._slope

    def at(self, features: tuple[float, ...]) -> float:
        logs = np.clip(np.log2(np.asarray(features, dtype=float)), self._low, self._high)
        nearness = 1.0 / (((self._points - logs) ** 2).sum(1) + 0.05) ** 2
        departure = nearness @ self._departures / nearness.sum()
        return float(2.0 ** (self._level + (logs - self._centre) @ self._slope + departure))
