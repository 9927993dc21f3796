"""The loader's benchmark runs on the packaged images and gives its keys; how fast it is, is not for a test to say."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from thrifty.bench import data_throughput
from thrifty.bench.registry import load
from thrifty.core.errors import DataError


def test_it_runs_on_the_packaged_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path))
    monkeypatch.setattr(data_throughput, "QUICK_IMAGES", 500)
    console = Console(file=io.StringIO())
    result = load("data-throughput").run(quick=True, console=console)
    assert result.settings["data"] == "fashion-mnist-slice" and result.settings["images"] == 500
    assert [(row["batch"], row["augmented"]) for row in result.rows] == [
        (64, False), (64, True), (256, False), (256, True),
    ]  # fmt: skip
    assert all(row["epoch_min_s"] <= row["epoch_s"] <= row["epoch_max_s"] for row in result.rows)
    assert result.summary["min_augmented_images_per_s"] > 0


def test_a_named_folder_without_the_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load("data-throughput").run(quick=True, console=Console(file=io.StringIO()), data_root=tmp_path)
