"""Whole training steps of recurrent networks and a Transformer on real sequences, stock against reuse.

Every arm of a network starts from the same weights, sees the same batches with Adam at a constant rate, and the arms
take each step in turn, so that their times compare. `loss` is the mean over the last quarter of the training steps,
`quality` the perplexity or accuracy on held-out data in eval mode, which computes as the stock network does. `error` is
|x - x_q|^2 / variance of what was clustered: 0 where only equal rows are shared. Steps spent looking in vain for equal
rows are in the time; `macs_ratio` is the multiply-adds of the changed layers over those of the stock ones. The row
`nothing shared` runs a recurrent network through thrifty's recurrence with dense products: the part of a gain over the
stock network that is not reuse's.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark
from thrifty.bench.sequence_cases import CASES, CONTROL, CONTROL_NAME, EXACT, Batch, Case, Loaded, reuse
from thrifty.core.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

RATE = 1e-3
WARM_STEPS = 3  # not timed: caches, codebooks, lazy set-up
QUICK_TESTS = 8  # batches
# A speedup within this of 1 is noise; a loss, or an error rate, above the stock network's by this part is worse.
EVEN, WORSE = 0.03, 0.02


@benchmark("reuse-sequences", "LSTM, GRU and Transformer on PTB, IMDB and Fashion-MNIST, stock against reuse")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Train every network with every arm in turn; data that are not found are left out, unless a folder was named."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        try:
            data = case.load(data_root)
        except DataError as error:
            if data_root is not None:
                raise
            console.print(f"left out: {case.network} on {case.data}: {error}", markup=False)
            continue
        steps = case.steps[quick]
        console.print(f"{case.network} on {case.data}: {steps} steps of {1 + len(case.settings)} arms")
        made = _compare(case, data, steps, data.test[:QUICK_TESTS] if quick else data.test)
        for row in made:
            console.print(f"  {row['changed']}: {row['speedup']:.2f} times as fast, {row['verdict']}", markup=False)
        rows += made
    of_reuse = [row for row in rows if row["changed"] != CONTROL_NAME]
    speedups = [row["speedup"] for row in of_reuse]
    summary = {
        "min_speedup": min(speedups, default=None),
        "median_speedup": statistics.median(speedups) if speedups else None,
        "wins": sum(row["verdict"] == "wins" for row in of_reuse),
        "rows": len(of_reuse),
    }
    columns = ("network", "data", "changed", "remaining_ratio", "error", "dense_step_s", "reuse_step_s", "speedup",
               "loss", "dense_loss", "quality", "dense_quality", "verdict")  # fmt: skip
    return BenchResult({"quick": quick, "optimizer": "Adam", "rate": RATE, "dtype": "float32"}, rows, summary, columns)


class _Arm:
    """One copy of the network in training."""

    def __init__(self, model: nn.Module, settings: Any) -> None:
        import torch

        import thrifty
        from thrifty.reuse import ReuseGRU, ReuseLSTM

        self.model = model
        self.applied = None if settings is None else thrifty.apply_(model, [reuse(settings or EXACT)])
        if settings == CONTROL:
            for layer in model.modules():
                if isinstance(layer, ReuseLSTM | ReuseGRU):
                    layer.sequences = "off"
        self.optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, inputs: Any, targets: Tensor) -> None:
        from torch.nn.functional import cross_entropy

        start = time.perf_counter()
        loss = cross_entropy(self.model(inputs), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.applied is not None:
            self.applied.step(loss)
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - start)

    @property
    def step_s(self) -> float:
        return statistics.median(self.seconds[WARM_STEPS:])

    @property
    def loss(self) -> float:
        return statistics.fmean(self.losses[-max(1, len(self.losses) // 4) :])


def _compare(case: Case, data: Loaded, steps: int, tests: list[Batch]) -> list[dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    model = case.build(data)
    arms = {"": _Arm(copy.deepcopy(model), None)}
    arms |= {name: _Arm(copy.deepcopy(model), settings) for name, settings in case.settings.items()}
    names = list(arms)
    for step, (inputs, targets) in zip(range(steps), data.train(), strict=False):
        first = step % len(names)
        for name in names[first:] + names[:first]:
            arms[name].step(inputs, targets)
    quality = {name: _quality(arm.model, tests, case.metric) for name, arm in arms.items()}
    return [_row(case, data, name, arms[""], arms[name], quality[""], quality[name]) for name in case.settings]


def _row(
    case: Case, data: Loaded, name: str, dense: _Arm, arm: _Arm, dense_quality: float, quality: float
) -> dict[str, Any]:
    assert arm.applied is not None
    counters = list(arm.applied.counters().values())
    ratios = [c.remaining_ratio for c in counters if c.remaining_ratio is not None]
    errors = [c.error for c in counters if c.error is not None]
    dense_macs = sum(c.dense_macs for c in counters)
    speedup = dense.step_s / arm.step_s
    return {
        "network": case.network,
        "data": case.data,
        "source": data.source,
        "changed": name,
        "steps": len(arm.losses),
        "remaining_ratio": statistics.fmean(ratios) if ratios else 1.0,
        "error": statistics.fmean(errors) if errors else 0.0,
        "macs_ratio": sum(c.macs for c in counters) / dense_macs if dense_macs else 1.0,
        "dense_step_s": dense.step_s,
        "reuse_step_s": arm.step_s,
        "speedup": speedup,
        "loss": arm.loss,
        "dense_loss": dense.loss,
        "metric": case.metric,
        "quality": quality,
        "dense_quality": dense_quality,
        "verdict": verdict(speedup, arm.loss, dense.loss) if ratios or not case.settings[name] else "stays dense",
    }


def verdict(speedup: float, loss: float, dense_loss: float) -> str:
    """What a row comes down to: `wins`, `even`, `slower`, or `worse` where it is faster and learns less."""
    if speedup < 1 - EVEN:
        return "slower"
    if not loss <= dense_loss * (1 + WORSE):
        return "worse"
    return "wins" if speedup > 1 + EVEN else "even"


def _quality(model: nn.Module, tests: list[Batch], metric: str) -> float:
    """Perplexity or accuracy over the test batches."""
    import torch
    from torch.nn.functional import cross_entropy

    model.eval()
    total = right = count = 0.0
    with torch.no_grad():
        for inputs, targets in tests:
            logits = model(inputs)
            total += cross_entropy(logits, targets, reduction="sum").item()
            right += (logits.argmax(1) == targets).sum().item()
            count += len(targets)
    return math.exp(total / count) if metric == "perplexity" else right / count
