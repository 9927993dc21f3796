"""Seconds to equal accuracy: the one honest figure for a method that makes steps cheaper and worth less.

The target is what the most accurate dense arm ends with, less 0.3 points, as a mean over the seeds. Accuracy is known
at the ends of epochs; between them it is taken to grow evenly. The figures of an arm are those of its mean curve over
the seeds. Seconds are of training steps alone: testing, compiling and waiting for data are on clocks of their own.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

MARGIN = 0.003
_DENSE, _AUTO = "dense", "auto"
_BASELINE = "dense"

Curve = Sequence[Sequence[float]]  # (seconds, accuracy) at the ends of epochs


def seconds_to(curve: Curve, target: float) -> float | None:
    """Seconds until `curve` first is at `target`; None when it never is."""
    if curve and curve[0][1] >= target:
        return float(curve[0][0])
    for (start_s, start), (end_s, end) in itertools.pairwise(curve):
        if end >= target:
            return start_s + (end_s - start_s) * (target - start) / (end - start)
    return None


def accuracy_at(curve: Curve, seconds: float) -> float | None:
    """Accuracy of `curve` after `seconds`, its last one beyond its end; None before the end of its first epoch."""
    if not curve or seconds < curve[0][0]:
        return None
    for (start_s, start), (end_s, end) in itertools.pairwise(curve):
        if seconds <= end_s:
            return start + (end - start) * (seconds - start_s) / (end_s - start_s)
    return float(curve[-1][1])


def fill_in(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the arms of one network on one data set, and set `seconds_to_target` in their rows.

    Args:
        rows: of one network and data set: `arm`, `seed`, `curve`, `final_accuracy` (None for an arm that had to stop),
            `train_s`, `step_s`, `gflops`, `peak_bytes`, `data_s`, `epoch_spread`.

    Returns:
        `target_accuracy`; `saved_vs_fp32` and `saved_vs_best`, the parts of the seconds to the target of the arm
        `dense` and of the quickest dense arm that ours, the quickest arm with a method, did without; `accuracy_delta`
        of ours against the most accurate dense arm; `arms` with the means of each; `auto_vs_best_arm` and
        `auto_vs_dense`, the seconds after which the arm `auto` ended over those of the quickest other arm and of
        `dense`, trying included. None for what was not reached.
    """
    finished = [row for row in rows if row["final_accuracy"] is not None]
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in finished:
        by_arm.setdefault(row["arm"], []).append(row)
    arms = {name: _mean_arm(of_arm) for name, of_arm in by_arm.items()}
    dense = {name: arm for name, arm in arms.items() if _is_dense(name)}
    ours = {name: arm for name, arm in arms.items() if not _is_dense(name) and name != _AUTO}
    target = max((arm["final_accuracy"] for arm in dense.values()), default=None)
    target = None if target is None else target - MARGIN
    for row in rows:
        row["seconds_to_target"] = None if target is None else seconds_to(row["curve"], target)
    for arm in arms.values():
        arm["seconds_to_target"] = None if target is None else seconds_to(arm["curve"], target)
    best, quickest = _quickest(dense), _quickest(ours)
    chosen = ours.get(quickest or next(iter(ours), ""))
    fp32 = arms.get(_BASELINE)
    for name, arm in arms.items():
        arm["peak_ratio"] = arm["peak_bytes"] / fp32["peak_bytes"] if fp32 else None
        arm["saved_vs_fp32"] = _saved(fp32, arm) if name != _BASELINE else None
        arm["accuracy_at_equal_seconds"] = accuracy_at(arm["curve"], chosen["train_s"]) if chosen else None
    most = max((arm["final_accuracy"] for arm in dense.values()), default=None)
    return {
        "target_accuracy": target,
        "best_dense": best,
        "ours": quickest,
        "saved_vs_fp32": _saved(fp32, chosen),
        "saved_vs_best": _saved(dense.get(best or ""), chosen),
        "accuracy_delta": None if chosen is None or most is None else chosen["final_accuracy"] - most,
        "peak_ratio": chosen["peak_ratio"] if chosen else None,
        **_auto(arms, [row for row in finished if row["arm"] == _AUTO]),
        "arms": {name: {key: value for key, value in arm.items() if key != "curve"} for name, arm in arms.items()},
    }


def _auto(arms: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How long the whole training of the arm `auto` took beside the others."""
    ends = {name: arm["train_s"] for name, arm in arms.items() if name != _AUTO}
    best = min(ends, key=lambda name: ends[name], default=None)
    auto_s = arms[_AUTO]["train_s"] if rows else None
    return {
        "auto": ", ".join(sorted({str(row["choice"]) for row in rows})) or None,
        "auto_plan_s": statistics.fmean(row["plan_s"] for row in rows) if rows else None,
        "best_arm": best,
        "auto_vs_best_arm": None if auto_s is None or best is None else auto_s / ends[best],
        "auto_vs_dense": None if auto_s is None or _BASELINE not in ends else auto_s / ends[_BASELINE],
    }


def _is_dense(arm: str) -> bool:
    return arm.partition("@")[0].split()[0] == _DENSE


def _mean_arm(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; the curve point by point, as far as all seeds have got."""
    points = zip(*(row["curve"] for row in rows), strict=False)
    keys = ("final_accuracy", "train_s", "step_s", "gflops", "peak_bytes", "data_s", "epoch_spread")
    means = {key: statistics.fmean(row[key] for row in rows) for key in keys}
    curve = [[statistics.fmean(values) for values in zip(*point, strict=True)] for point in points]
    return {**means, "seeds": len(rows), "epochs": len(curve), "curve": curve}


def _quickest(arms: dict[str, dict[str, Any]]) -> str | None:
    reached = {name: arm["seconds_to_target"] for name, arm in arms.items() if arm["seconds_to_target"] is not None}
    return min(reached, key=lambda name: reached[name], default=None)


def _saved(rival: dict[str, Any] | None, ours: dict[str, Any] | None) -> float | None:
    if rival is None or ours is None or None in (rival["seconds_to_target"], ours["seconds_to_target"]):
        return None
    return 1.0 - float(ours["seconds_to_target"]) / float(rival["seconds_to_target"])
