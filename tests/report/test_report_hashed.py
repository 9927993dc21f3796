"""The part of the page on hashed layers: its figures, its absence, and records that are damaged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from page_outline import Outline

from thrifty.report.record import parse
from thrifty.report.writer import page

TOLD: dict[str, Any] = {
    "classes": 1000, "k": 10, "recall": 0.432, "search_recall": None, "active_fraction": 0.0475, "bucket_mean": 31.4,
    "bucket_max": 47, "bucket_empty": 0.03, "bucket_full": 0.125, "table_bytes": 300_000, "weight_bytes": 3_000_000,
    "rebuilds": 1, "seconds": {"hash": 1.0}, "time_shares": {"hashing": 0.25, "rebuild": 0.5, "products": 0.25},
    "text": "",
}  # fmt: skip


def shown(looks: Any) -> str:
    arm = {"name": "lsh", "methods": ["lsh"], "status": "finished", "epochs": [], "looks": looks}
    return page(parse({"format": 1, "arms": [arm]}), {})


def test_every_figure_is_in_the_table() -> None:
    text = shown({"fc1": TOLD, "fc2": {**TOLD, "recall": 0.1}})
    outline = Outline(text)
    assert outline.open == [] and "hashed" in outline.ids and "hashed-0" in outline.ids
    for figure in ("43.2%", "4.8%", "31.4", "47", "3.0%", "12.5%", "10.0%", "25.0%", "50.0%", "fc1", "fc2"):
        assert f">{figure}<" in text, figure


@pytest.mark.parametrize("looks", [None, {}, {"fc1": 3}, {"conv1": {"text": "another method's"}}])
def test_a_run_without_hashed_layers_has_no_such_part(looks: Any) -> None:
    assert "Hashed layers" not in shown(looks)


@pytest.mark.parametrize("key", [key for key in TOLD if key not in ("bucket_mean", "text")])
@pytest.mark.parametrize("value", [None, "many", []])
def test_a_damaged_figure_is_left_out(key: str, value: Any) -> None:
    told = copy.deepcopy(TOLD)
    told[key] = value
    text = shown({"fc1": told})
    assert "Hashed layers" in text and Outline(text).open == []
