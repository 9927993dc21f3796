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
from thrifty.core.errors import UsageError

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
    assert row["speedup"] == pytest.approx(row["dense_s"] / min(row["reuse_s"], row["reuse_bf16_s"] or 1))
    assert 0 <= row["dense_accuracy"] <= 1 and abs(row["accuracy_loss"]) <= row["changed_answers"]
    assert result.summary["min_speedup"] == row["speedup"]
    assert "1/1" in said.getvalue()
    training = CASE.training(None)
    assert training.over()
    assert not replace(CASE, epochs=2).training(None).over()
    assert reuse_inference._train(training, Console(file=said)) == training.folder
    assert said.getvalue().count("1/1") == 1, "it is not trained again"


def test_each_row_is_kept_as_it_comes_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(case, folder, environment, *rest):
        if environment:
            raise KeyboardInterrupt
        return {"network": case.network, "speedup": 2.0}

    monkeypatch.setattr(reuse_inference, "_train", lambda training, console: training.folder)
    monkeypatch.setattr(reuse_inference, "_measure", measure)
    earlier = {"rows": [{"place": place, "network": "vgg19", "speedup": 1.0} for place in ("base", "best")]}
    kept = []
    bench, quiet = load("reuse-inference"), Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        bench.run(quick=True, console=quiet, options=["networks=alexnet,vgg19"], earlier=earlier, keep=kept.append)
    (so_far,) = kept
    assert [(row["place"], row["network"]) for row in so_far.rows] == [("best", "alexnet")]
    result = bench.run(quick=True, console=quiet, options=["networks=vgg19", "places=best"], earlier=earlier)
    assert [(row["place"], row["speedup"]) for row in result.rows] == [("best", 2.0), ("base", 1.0)]
    with pytest.raises(UsageError, match="places are best, base"):
        bench.run(quick=True, console=quiet, options=["places=moon"])
