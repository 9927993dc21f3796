"""Seconds of a training step against the number of classes: dense, sampled softmax and hashed, in turn on the same
batches.

Generated clusters of classes, 128 features, batches of 128. Dense is `nn.Linear`, cross entropy and torch's fused Adam;
the other two train with LazyAdam. `lsh_step_s` is the median step, `lsh_mean_s` the mean over all steps with refreshes
of the tables and rebuilds in it; building the tables at first is `build_s`. `extra_bytes` is tables and scratch.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console

FEATURES, BATCH = 128, 128
WIDTHS = (1_000, 10_000, 100_000, 1_000_000)
ACTIVE = TAIL = 1024


@benchmark(
    "lsh-width", "training step of an output layer of 1,000 to 1,000,000 classes: dense, sampled softmax, hashed"
)
def run(quick: bool, console: Console) -> BenchResult:
    """Time every width; dense runs few steps, as it takes seconds at the end."""
    rows = []
    for classes in WIDTHS[:3] if quick else WIDTHS:
        console.print(f"{classes:,} classes")
        rows.append(_row(classes, quick))
    far = [row for row in rows if row["n"] >= 10_000]
    exponent = _slope([(row["n"], row["lsh_step_s"]) for row in far])
    mean_exponent = _slope([(row["n"], row["lsh_mean_s"]) for row in far])
    settings = {
        "features": FEATURES,
        "batch": BATCH,
        "active": ACTIVE,
        "tail": TAIL,
        "quick": quick,
        "dtype": "float32",
    }
    summary = {"exponent": exponent, "mean_exponent": mean_exponent, "speedup_at_widest": rows[-1]["speedup"]}
    columns = ("n", "dense_step_s", "sampled_step_s", "lsh_step_s", "lsh_mean_s", "speedup", "build_s", "extra_share")
    return BenchResult(settings, rows, summary, columns)


def _row(classes: int, quick: bool) -> dict[str, Any]:
    import torch

    from thrifty.bench.wide import Clusters, dense_arm, hashed_arm, sampled_arm

    torch.manual_seed(0)
    data = Clusters.make(classes, FEATURES)
    hashed = hashed_arm(FEATURES, classes, active=ACTIVE, tail=TAIL)
    arms = {
        "dense": dense_arm(FEATURES, classes),
        "sampled": sampled_arm(FEATURES, classes, ACTIVE + TAIL),
        "lsh": hashed,
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    steps = 24 if quick else 64
    dense_steps = max(4, min(steps, 4_000_000 // classes))
    for step in range(steps + 3):
        for name, arm in arms.items():
            if name == "dense" and step >= dense_steps + 1:
                continue
            batch = data.batch(BATCH, torch.Generator().manual_seed(step))
            seconds[name].append(arm.step(*batch))
    build_s = hashed.module.stages.get("rebuild", 0.0)
    later = {name: values[1:] if name == "dense" else values[3:] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in later.items()}
    weights = hashed.module.weight
    return {
        "n": classes, "batch": BATCH,
        **{f"{name}_step_s": medians[name] for name in arms},
        **{f"{name}_min_s": min(later[name]) for name in arms},
        **{f"{name}_max_s": max(later[name]) for name in arms},
        "lsh_mean_s": statistics.fmean(later["lsh"]),
        "speedup": medians["dense"] / medians["lsh"],
        "speedup_over_sampled": medians["sampled"] / medians["lsh"],
        **{f"{name}_{part}_s": statistics.median(values) for name, arm in arms.items()
           for part, values in arm.parts_s.items()},
        "build_s": build_s,
        "stages_s": {stage: spent / len(seconds["lsh"]) for stage, spent in hashed.module.stages.items()},
        "chosen": "dense" if hashed.module.index is None else "hashed",
        "extra_bytes": hashed.module.extra_bytes,
        "extra_share": hashed.module.extra_bytes / (weights.numel() * weights.element_size()),
    }  # fmt: skip


def _slope(points: list[tuple[int, float]]) -> float | None:
    """The exponent e of the least-squares fit s ~ n^e."""
    if len(points) < 2:
        return None
    xs, ys = [math.log(n) for n, _ in points], [math.log(s) for _, s in points]
    mx, my = statistics.fmean(xs), statistics.fmean(ys)
    top = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return top / sum((x - mx) ** 2 for x in xs)
