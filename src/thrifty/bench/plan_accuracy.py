"""Predictions of `thrifty.plan` against real trainings: seconds a step, for everything that a plan tries on a network.

The plan sees one batch and the initial weights; the training then runs on real images with its schedule, and its
seconds a step are the mean over all its steps. In between, networks change: that is part of the error.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import ThriftyError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

# network/data -> size of the images, None as they are
CASES: dict[str, int | None] = {
    "cifarnet/cifar10": None,
    "alexnet/imagenette-128": None,
    "vgg19-bn/cifar10": None,
    "resnet50/imagenette-128": 64,
    "cifarnet/fashion-mnist-slice": None,
}
WHOLE = tuple(CASES)[:4]


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose: keys of `CASES`, steps of a training, images a step, seconds of a plan."""

    networks: tuple[str, ...] = ()
    steps: int = 40
    batch_size: int = 64
    budget_s: float = 20.0


@benchmark("plan-accuracy", "what thrifty.plan predicts of a training step, against trainings")
def run(quick: bool, console: Console, data_root: Path | None = None, options: Sequence[str] = ()) -> BenchResult:
    """Plan each network on one batch, train each arm for some steps, and compare."""
    choices, dotted = read_options(Choices, options)
    networks = choices.networks or (WHOLE[:1] if quick else WHOLE)
    for name in networks:
        if name not in CASES:
            raise UsageError(f"--set networks={name}: choose among {', '.join(CASES)}")
    if dotted or choices.steps < 1 or choices.batch_size < 1:
        raise UsageError(f"--set: steps={choices.steps} and batch_size={choices.batch_size} must be at least 1, "
                         "and there are no settings of methods")  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name in networks:
        console.print(name, markup=False)
        rows.extend(_rows(name, choices, data_root, console))
    errors = [row["error"] for row in rows]
    summary = {"median_error": statistics.median(errors), "largest_error": max(errors)}
    settings = {"networks": list(networks), "steps": choices.steps, "batch_size": choices.batch_size}
    return BenchResult(settings, rows, summary, ("what", "predicted", "measured", "error", "chosen", "fastest"))


def _rows(name: str, choices: Choices, data_root: Path | None, console: Console) -> list[dict[str, Any]]:
    import thrifty
    from thrifty.train import TrainConfig, run
    from thrifty.train.folder import read_record
    from thrifty.train.session import build_model
    from thrifty.train.trial import load_data, make_plan

    model, _, data = name.partition("/")
    config = TrainConfig(
        model=model, data=data, image_size=CASES[name], data_root=str(data_root) if data_root else None,
        limit_train=choices.steps * choices.batch_size, limit_test=10, batch_size=choices.batch_size,
        baseline="none", methods="dense", limit_steps=choices.steps, epochs=1,
    ).resolved()  # fmt: skip
    loaded = load_data(config)
    batch = next(iter(make_plan(config, [], loaded).train_batches(0, 0)))
    found = thrifty.plan(build_model(config, loaded), batch, budget_s=choices.budget_s)
    predicted = {option.name: option.step_s for option in found.options if option.step_s is not None}
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, methods=",".join(predicted), out=folder, overwrite=True)
        outcome = run(config, command="thrifty bench plan-accuracy", console=console)
        if outcome.exit_code:
            raise ThriftyError(f"{name}: a training stopped; see above")
        arms = {arm["name"]: arm for arm in read_record(Path(folder))["arms"]}
    measured = {arm: state["train_s"] / state["timed_steps"] for arm, state in arms.items()}
    fastest = min(measured, key=lambda arm: measured[arm])
    return [
        {
            "what": f"{name} {arm} step_s", "predicted": seconds, "measured": measured[arm],
            "error": abs(seconds / measured[arm] - 1.0), "chosen": found.best, "fastest": fastest,
        }
        for arm, seconds in predicted.items()
    ]  # fmt: skip
