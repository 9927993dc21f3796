"""What the cost model of reuse predicts for the layers of `reuse-layers`, against what they take.

The model is calibrated first, on layers of its own, and told a layer's shape, its setting and the remaining ratio that
was measured. Errors are |predicted / measured - 1|. `chosen_rightly` tells whether the prediction and the measurement
agree on which of dense and reuse is faster.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.activations import ConvCase, Source, capture, load_or_slice
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.bench.reuse_layers import QUICK_SETTINGS, SETTINGS, SOURCES, layer_row

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.reuse.cost import CostModel


@benchmark("reuse-cost", "seconds of layers that the cost model of reuse predicts, against the measured ones")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Calibrate, then time every layer under every setting and compare."""
    from thrifty.reuse.calibration import measure
    from thrifty.reuse.cost import CostModel

    start = time.perf_counter()
    model = CostModel(measure())
    calibration_s = time.perf_counter() - start
    console.print(f"calibrated in {calibration_s:.1f} s")
    rows: list[dict[str, Any]] = []
    data_names = []
    for source in SOURCES[:2] if quick else SOURCES:
        data = load_or_slice(source.data, data_root, images=source.batch * 10)
        data_names.append(data.source)
        steps = 5 if quick else 20
        console.print(f"{source.network} on {data.source}: {steps} steps of {source.batch}, then one batch is taken")
        for case in capture(source, data, steps, before=3):
            for length, bits in QUICK_SETTINGS if quick else SETTINGS:
                rows.append(_row(model, source, case, length, bits, budget_s=0.7 if quick else 2.0))
    dense = [abs(row["predicted_dense_s"] / row["dense_s"] - 1) for row in rows]
    reuse = [abs(row["predicted_reuse_s"] / row["reuse_s"] - 1) for row in rows]
    summary = {
        "median_error": statistics.median(dense + reuse),
        "dense_median_error": statistics.median(dense),
        "reuse_median_error": statistics.median(reuse),
        "speedup_median_error": statistics.median(abs(row["predicted_speedup"] / row["speedup"] - 1) for row in rows),
        "chosen_rightly": sum(row["chosen_rightly"] for row in rows) / len(rows),
        "calibration_s": calibration_s,
    }
    settings = {"data": sorted(set(data_names)), "quick": quick, "memory_format": "channels_last", "dtype": "float32"}
    columns = ("layer", "setting", "dense_s", "predicted_dense_s", "reuse_s", "predicted_reuse_s", "speedup",
               "predicted_speedup")  # fmt: skip
    return BenchResult(settings, rows, summary, columns)


def _row(model: CostModel, source: Source, case: ConvCase, length: int, bits: int, budget_s: float) -> dict[str, Any]:
    from thrifty.reuse.problem import LayerShape, problem

    measured = layer_row(source, case, (length, bits), budget_s)
    shape = LayerShape.of(case.layer, case.input.shape)
    given = problem(shape, length=length, bits=bits, remaining_ratio=measured["remaining_ratio"])
    kept = ("layer", "batch", "setting", "remaining_ratio", "dense_s", "reuse_s", "speedup", "stages_s")
    predicted = model.speedup(given)
    return {
        **{key: measured[key] for key in kept},
        "predicted_dense_s": model.dense_s(shape),
        "predicted_reuse_s": model.reuse_s(given),
        "predicted_speedup": predicted,
        "predicted_stages_s": model.stages_s(given),
        "chosen_rightly": (predicted > 1) == (measured["speedup"] > 1),
    }
