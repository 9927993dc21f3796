"""Run records that look like real ones: whole, unfinished, stopped, without reuse, with hostile names."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STAGES = ("hash", "group", "centroid", "gemm", "gather", "scatter")
LAYERS = (  # name, remaining ratio, seconds
    ("features.0", 0.09, 0.9),
    ("features.3", 0.05, 2.6),
    ("classifier.1", 0.31, 0.5),
    ("classifier.4", 0.42, 0.1),
)


NOT_YET = dict.fromkeys(("train_s", "data_s", "eval_s", "peak_bytes", "macs", "dense_macs", "steps"))


def make_epochs(count: int, pace: float, start: float, end: float) -> list[dict[str, Any]]:
    rows = []
    for number in range(1, count + 1):
        learned = 1 - math.exp(-0.55 * number)
        accuracy = start + (end - start) * learned
        rows.append(
            {
                "epoch": number,
                "train_loss": 2.3 * math.exp(-0.28 * number) + 0.1 + 0.4 * (0.75 - end),
                "train_accuracy": accuracy + 0.01,
                "test_loss": 2.3 * math.exp(-0.24 * number) + 0.16,
                "test_accuracy": accuracy,
                "train_s": pace * number,
                "data_s": 0.05 * number,
                "eval_s": 0.2 * number,
                "learning_rate": 0.1 * (1 - number / (count + 1)),
            }
        )
    return rows


def make_arm(name: str, methods: list[str], epochs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    last = epochs[-1] if epochs else {}
    arm = {
        "name": name, "methods": methods, "amp": None, "status": "finished", "message": None,
        "test_accuracy": last.get("test_accuracy"), "best_test_accuracy": last.get("test_accuracy"),
        "train_s": last.get("train_s", 0.0), "data_s": 0.25, "eval_s": 1.0, "peak_bytes": 398_000_000,
        "macs": 4_100_000_000_000, "dense_macs": 4_100_000_000_000, "parameters": 1_068_298, "steps": 940,
        "epochs": epochs, "layers": [], "trace": [], "events": [],
    }  # fmt: skip
    return {**arm, **more}


def make_layers() -> list[dict[str, Any]]:
    layers = []
    for place, (name, ratio, seconds) in enumerate(LAYERS):
        shares = (0.17, 0.13, 0.08, 0.34, 0.16, 0.12)
        layers.append(
            {
                "name": name, "kind": "Conv2d" if name.startswith("features") else "Linear", "action": "reuse",
                "reason": "", "macs": int(2e11 * (place + 1) * ratio * 2), "dense_macs": int(4e11 * (place + 1)),
                "remaining_ratio": ratio, "error": 0.12 + 0.07 * place,
                "stages_s": {stage: seconds * share for stage, share in zip(STAGES, shares, strict=True)},
            }
        )  # fmt: skip
    layers.append(
        {
            "name": "classifier.6", "kind": "Linear", "action": "dense", 
            "reason": "10 outputs: too few to share a product",
            "macs": 9e9, "dense_macs": 9e9, "remaining_ratio": None, "error": None, "stages_s": {},
        }
    )  # fmt: skip
    return layers


def make_trace(steps: int = 940) -> list[dict[str, Any]]:
    rows = []
    for step in range(0, steps, 20):
        stage = min(3, step // 260)
        for place, (name, ratio, _) in enumerate(LAYERS):
            wave = ratio * (1 + 1.6 * stage) * (1 + 0.08 * math.sin(step / 37 + place))
            grown = 1.0 if stage == 3 else min(1.0, wave)
            facts = {"stage": stage, "remaining_ratio": grown, "error": 0.3 / (1 + stage)}
            rows.append({"step": step, "layer": name, **facts})
    return rows


def make_events() -> list[dict[str, Any]]:
    return [
        {"step": 260 * k, "layer": None, "what": f"stage {k - 1} -> {k}", "reason": "smoothed loss stopped falling"}
        for k in (1, 2, 3)
    ]


def reuse_arm(name: str = "reuse", pace: float = 3.66, end: float = 0.712, **more: Any) -> dict[str, Any]:
    lists = {"layers": make_layers(), "trace": make_trace(), "events": make_events()}
    parts = {"macs": 1.6e12, "peak_bytes": 412e6, **lists, **more}
    return make_arm(name, ["reuse"], make_epochs(5, pace, 0.31, end), **parts)


def make_run(*arms: dict[str, Any], status: str = "finished", **settings: Any) -> dict[str, Any]:
    return {
        "format": 1, "thrifty": "0.1.0", "status": status, "started": "2026-11-20T09:12:44Z",
        "command": "thrifty train --model cifarnet --data cifar10 --methods reuse --epochs 5 --out runs/a",
        "machine": {"cpu": "AMD EPYC 9B14", "cores": 2, "threads": 2, "torch": "2.13.0", "isa": "avx512", "gpu": None},
        "settings": {
            "model": "cifarnet", "data": "cifar10", "source": "CIFAR-10 (JPEG q75)", "epochs": 5, "batch_size": 64,
            "seed": 0, "optimizer": "sgd", "schedule": "one-cycle", "learning_rate": 0.1, "amp": None, **settings,
        },
        "arms": list(arms),
        "summary": {"baseline": "dense", "arms": {"reuse": {"seconds_to_baseline_accuracy": None}}},
    }  # fmt: skip


def dense_arm(**more: Any) -> dict[str, Any]:
    return make_arm("dense", [], make_epochs(5, 2.42, 0.33, 0.724), **more)


def whole() -> dict[str, Any]:
    return make_run(dense_arm(), reuse_arm())


def several() -> dict[str, Any]:
    return make_run(
        dense_arm(),
        reuse_arm(),
        reuse_arm("reuse-fixed", 2.04, 0.655, events=[]),
        reuse_arm("reuse-bf16", 2.31, 0.709, amp="bf16"),
        make_arm("dense-bf16", [], make_epochs(5, 1.9, 0.32, 0.72), amp="bf16"),
    )


def unfinished() -> dict[str, Any]:
    arm = reuse_arm(status="running", test_accuracy=None)
    arm["epochs"], arm["trace"], arm["train_s"] = arm["epochs"][:2], arm["trace"][:76], 7.9
    pending = make_arm("reuse-fixed", ["reuse"], [], status="pending", **NOT_YET)
    run = make_run(dense_arm(), arm, pending, status="running")
    return {key: value for key, value in run.items() if key != "summary"}


def stopped() -> dict[str, Any]:
    arm = reuse_arm(status="stopped", message="loss is nan at step 233; last good checkpoint kept")
    arm["epochs"] = arm["epochs"][:2]
    arm["epochs"][1]["train_loss"] = math.nan
    arm["trace"][40]["remaining_ratio"] = math.nan
    return make_run(dense_arm(), arm, status="stopped")


def untouched() -> dict[str, Any]:
    layers = [
        {**layer, "action": "dense", "reason": "groups > 1", "stages_s": {}, "remaining_ratio": None, "error": None}
        for layer in make_layers()
    ]
    return make_run(dense_arm(), reuse_arm(layers=layers, trace=[], events=[], macs=4.1e12))


def hostile() -> dict[str, Any]:
    bad = '<script>alert("1")</script>&amp;[bold]$x$_{y}'
    arm = {**reuse_arm(bad, message=bad), "methods": [bad]}
    for part in (*arm["layers"], *arm["events"]):
        part.update(reason=bad)
    arm["layers"][0]["name"] = bad + "a.very.long.module.path." * 6
    for row in arm["trace"]:
        row["layer"] = row["layer"].replace("features.0", arm["layers"][0]["name"])
    run = make_run(dense_arm(), arm, model=bad, source=bad, note=bad)
    run["command"] = f"thrifty train --model '{bad}'"
    return run


def deep() -> dict[str, Any]:
    layers, trace = [], []
    for place in range(54):
        layer = copy.deepcopy(make_layers()[place % 4])
        layer["name"] = f"layer{place // 16 + 1}.{place % 16}.conv2"
        layers.append(layer)
        trace += [{**row, "layer": layer["name"]} for row in make_trace(300) if row["layer"] == LAYERS[place % 4][0]]
    return make_run(dense_arm(), reuse_arm(layers=layers, trace=trace), model="resnet50")


def planned() -> dict[str, Any]:
    """Of two workers, under a limit of memory, with an arm that a plan chose."""
    more = {"timed_steps": 940, "workers": 2, "sent_bytes": 940 * 2_136_596}
    arms = [
        dense_arm(memory={"step_peak_bytes": 61_000_000, "recomputed_ops": 18_800}, **more),
        reuse_arm("auto", 2.05, amp="bf16", memory={"step_peak_bytes": 58e6, "recomputed_ops": 0}, **more),
    ]
    tried = [
        ("dense", 0.0128, 1.0, 0.0, ""), ("reuse", 0.0119, 1.08, 0.02, ""),
        ("lsh", None, None, None, "changes no layer"),
        ("dense@bf16", 0.0121, 1.06, 0.004, ""), ("reuse@bf16", 0.0102, 1.25, 0.021, ""),
    ]  # fmt: skip
    options = [
        {"name": name, "methods": [], "amp": "none", "step_s": step_s, "speedup": speedup, "saved_bytes": 21e6,
         "gradient_error": error, "changed_layers": 1, "reason": reason}
        for name, step_s, speedup, error, reason in tried
    ]  # fmt: skip
    plan = {"best": "reuse@bf16", "max_error": 0.1, "steps": 50, "unrest": 1.7, "options": options, "layers": []}
    return {**make_run(*arms, memory="64MB", wire="bf16"), "plan": plan}


def empty() -> dict[str, Any]:
    return {"format": 1, "status": "running"}


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    make.__name__: make for make in (whole, several, unfinished, stopped, untouched, hostile, deep, planned, empty)
}


def write_run(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(RUNS[kind]()), encoding="utf-8")
    return folder


@pytest.fixture
def make_run_dir(tmp_path: Path) -> Callable[[str], Path]:
    """Write the named record as a run folder and return the folder."""
    return lambda kind: write_run(tmp_path / kind, kind)


@pytest.fixture(scope="session")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of the named record, written once a session."""
    from thrifty.report import write

    root = tmp_path_factory.mktemp("reports")
    pages: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in pages:
            pages[kind] = write(write_run(root / kind, kind))
        return pages[kind]

    return build


@pytest.fixture(params=sorted(RUNS))
def any_run_dir(request: pytest.FixtureRequest, make_run_dir: Callable[[str], Path]) -> Path:
    return make_run_dir(request.param)
