"""The part of the report page on hashed layers: what their tables find, how full these are, where the time goes.

Nothing for a run without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thrifty.report import numbers, sections
from thrifty.report.markup import Html, join
from thrifty.report.record import Arm, Record

SHARES = {"hashing": "Hashing", "rebuild": "Rebuild", "products": "Products", "optimizer": "Optimizer"}
HEADS = ("Layer", "Neurons", "Active", "Best found", "Load", "Fullest", "Empty", "Full", "Tables")


def section(record: Record) -> Html | None:
    """A table for every arm with hashed layers; None where no arm has one."""
    parts = []
    for place, arm in enumerate(record.arms):
        rows = [
            _row(name, told) for name, told in arm.looks.items() if isinstance(told, dict) and "bucket_mean" in told
        ]
        if rows:
            heads = (*HEADS, *SHARES.values())
            parts.append(sections.table(f"hashed-{place}", _caption(arm), heads, rows, (0,), "wide"))
    return sections.section("hashed", "Hashed layers", *parts) if parts else None


def _caption(arm: Arm) -> str:
    return (
        f"Hash tables of {arm.name} after its last test, on test images. Active: share of the neurons that are "
        "computed; best found: share of the neurons with the largest outputs among these. Load: neurons in a bucket "
        "that is not empty. Tables: their memory as a share of the weights'. The last four are shares of the layer's "
        "time."
    )


def _row(name: str, told: Mapping[str, Any]) -> list[str]:
    tables, weights = _number(told, "table_bytes"), _number(told, "weight_bytes")
    shares = told.get("time_shares")
    shares = shares if isinstance(shares, dict) else {}
    return [
        join(name),
        numbers.count(_number(told, "classes")),
        numbers.percent(_number(told, "active_fraction")),
        numbers.percent(_number(told, "recall")),
        numbers.plain(_number(told, "bucket_mean")),
        numbers.count(_number(told, "bucket_max")),
        numbers.percent(_number(told, "bucket_empty")),
        numbers.percent(_number(told, "bucket_full")),
        numbers.percent(tables / weights if tables is not None and weights else None),
        *(numbers.percent(_number(shares, part)) for part in SHARES),
    ]


def _number(told: Mapping[str, Any], key: str) -> float | None:
    value = told.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
