"""The benchmark of the cost model end to end on the packaged images: keys and sums, never the seconds themselves."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from thrifty.bench import reuse_cost
from thrifty.bench.activations import Source
from thrifty.bench.registry import load
from thrifty.reuse import calibration
from thrifty.reuse.problem import LayerShape


def test_predictions_beside_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    small = (LayerShape(2, 64, 64, 8, 8, (5, 5), padding=(2, 2, 2, 2)), 32, 6)
    measure = calibration.measure
    monkeypatch.setattr(calibration, "measure", lambda: measure((small,), repeats=1))
    monkeypatch.setattr(reuse_cost, "SOURCES", (Source("cifarnet", "fashion-mnist-slice", 8, (1,)),))
    monkeypatch.setattr(reuse_cost, "QUICK_SETTINGS", ((64, 4), (16, 4)))
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path))
    result = load("reuse-cost").run(quick=True, console=Console(file=io.StringIO()))
    assert [row["setting"] for row in result.rows] == ["L=64 H=4", "L=16 H=4"]
    for row in result.rows:
        assert row["predicted_dense_s"] > 0 and row["predicted_speedup"] == pytest.approx(
            row["predicted_dense_s"] / row["predicted_reuse_s"]
        )
        assert sum(row["predicted_stages_s"].values()) == pytest.approx(row["predicted_reuse_s"])
        assert row["chosen_rightly"] == ((row["predicted_speedup"] > 1) == (row["speedup"] > 1))
    errors = sorted(
        abs(row[f"predicted_{key}"] / row[key] - 1) for row in result.rows for key in ("dense_s", "reuse_s")
    )
    assert result.summary["median_error"] == pytest.approx((errors[1] + errors[2]) / 2)
    assert result.summary["calibration_s"] > 0
