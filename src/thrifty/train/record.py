"""`result.json`: what a run was, what each arm did and what came out of the comparison; plain JSON, SI units."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from thrifty.compose.planning import Plan as Tried
from thrifty.core.machine import machine, thrifty_version
from thrifty.train.arms import Arm
from thrifty.train.session import Session

FORMAT = 1


def new_record(
    arms: Sequence[Arm],
    settings: dict[str, Any],
    command: str,
    tried: Tried | None = None,
    tried_s: float = 0.0,
) -> dict[str, Any]:
    """Return the record of a run that is about to begin; `tried` is what the arm `auto` was chosen by, in `tried_s`."""
    return {
        "format": FORMAT,
        "thrifty": thrifty_version(),
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "status": "running",
        "machine": machine(),
        "settings": settings,
        "arms": [pending(arm) for arm in arms],
        "summary": {"baseline": None, "arms": {}},
        "plan": None if tried is None else tried.to_dict(),
        "plan_s": None if tried is None else tried_s,
    }


def pending(arm: Arm) -> dict[str, Any]:
    """Return the record of an arm that has not begun."""
    return {
        "name": arm.name,
        "methods": [config.to_dict() for config in arm.methods],
        "amp": None if arm.amp == "none" else arm.amp,
        "status": "pending",
        "message": None,
        "epochs": [],
        "layers": [],
        "trace": [],
        "events": [],
    }


def progress(arm: Arm, session: Session, *, macs_per_sample: int, peak_source: str) -> dict[str, Any]:
    """Return the record of an arm in training; `status` and `message` are the caller's to change."""
    tally = session.tally
    accuracies = [row["test_accuracy"] for row in tally.epochs]
    dense_macs = macs_per_sample * tally.samples
    layers = _layers(session)
    saved = sum(layer["dense_macs"] - layer["macs"] for layer in layers if layer["macs"] is not None)
    return {
        **pending(arm),
        "status": "running",
        "test_accuracy": accuracies[-1] if accuracies else None,
        "best_test_accuracy": max(accuracies, default=None),
        "train_s": tally.train_s,
        "compile_s": tally.compile_s,
        "timed_steps": tally.timed_steps,
        "data_s": tally.data_s,
        "eval_s": tally.eval_s,
        "peak_bytes": tally.peak_bytes,
        "peak_source": peak_source,
        "memory": None
        if session.memory is None
        else {"step_peak_bytes": tally.step_peak_bytes, "recomputed_ops": tally.recomputed_ops},
        "macs": dense_macs - saved,
        "workers": session.workers.size,
        "sent_bytes": tally.sent_bytes,
        "buckets": session.exchange.buckets() if session.exchange else None,
        "skipped_steps": session.precision.skipped,
        "dense_macs": dense_macs,
        "parameters": sum(parameter.numel() for parameter in session.model.parameters()),
        "steps": tally.step,
        "samples": tally.samples,
        "epochs": list(tally.epochs),
        "layers": layers,
        "looks": tally.looks,
        "trace": session.applied.trace() if session.applied else [],
        "events": [asdict(event) for event in session.applied.events] if session.applied else [],
    }


def _layers(session: Session) -> list[dict[str, Any]]:
    """Every candidate layer with what it counted; a layer that was left dense has no counts of its own."""
    if session.applied is None:
        return []
    counters = session.counters()
    rows = []
    for layer in session.applied.layers:
        found = counters.get(layer.name)
        rows.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "action": layer.action,
                "reason": layer.reason,
                "macs": found.macs if found else None,
                "dense_macs": found.dense_macs if found else None,
                "remaining_ratio": found.remaining_ratio if found else None,
                "error": found.error if found else None,
                "stages_s": dict(found.stages_s) if found else {},
            }
        )
    return rows


def summarise(arms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare every other arm that has been tested with the baseline, which is the first arm without methods.

    Ratios are baseline / arm. `seconds_to_baseline_accuracy` are the arm's own seconds of training up to the first
    epoch that tests as well as the baseline does in the end; None when no epoch does.
    """
    baseline = next((arm for arm in arms if not arm["methods"] and arm["epochs"]), None)
    if baseline is None:
        return {"baseline": None, "arms": {}}
    others = [arm for arm in arms if arm is not baseline and arm["epochs"]]
    return {"baseline": baseline["name"], "arms": {arm["name"]: _compare(baseline, arm) for arm in others}}


def _compare(baseline: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    target = baseline["test_accuracy"]
    reached = (row["train_s"] for row in arm["epochs"] if row["test_accuracy"] >= target)
    return {
        "train_s_ratio": _ratio(baseline["train_s"], arm["train_s"]),
        "accuracy_delta": arm["test_accuracy"] - target,
        "macs_ratio": _ratio(baseline["macs"], arm["macs"]),
        "seconds_to_baseline_accuracy": next(reached, None),
    }


def _ratio(baseline: float, arm: float) -> float | None:
    return baseline / arm if arm else None
