"""reuse-inference end to end on a small network; what was trained under other settings is not taken for it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from thrifty.bench import reuse_inference
from thrifty.bench.registry import load
from thrifty.bench.reuse_inference import Case

CASE = Case("cifarnet", "fashion-mnist-slice", train_images=96, epochs=1, batch=32)


def test_a_network_is_trained_once_frozen_and_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reuse_inference, "RUNS", tmp_path)
    monkeypatch.setattr(reuse_inference, "CASES", (CASE,))
    monkeypatch.setattr(reuse_inference, "PLACES", (("here", {}, 1),))
    monkeypatch.setattr(reuse_inference, "BUDGET_S", (0.1, 0.1))
    said = io.StringIO()
    result = load("reuse-inference").run(quick=True, console=Console(file=said))
    (row,) = result.rows
    assert (row["network"], row["threads"], row["batch"]) == ("cifarnet", 1, 32)
    assert row["speedup"] == pytest.approx(row["dense_s"] / row["reuse_s"])
    assert 0 <= row["dense_accuracy"] <= 1 and abs(row["accuracy_loss"]) <= row["changed_answers"]
    assert result.summary["min_speedup"] == row["speedup"]
    assert "1/1" in said.getvalue()
    training = CASE.training(None)
    assert training.over()
    assert not replace(CASE, epochs=2).training(None).over()
    assert reuse_inference._train(training, Console(file=said)) == training.folder
    assert said.getvalue().count("1/1") == 1, "it is not trained again"
