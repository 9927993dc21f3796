"""fp32 against bfloat16 on this machine: seconds of a training step, and the accuracy that a short training ends with.

Steps of all precisions are timed in turn in one process, on the same images; trainings take turns by epochs. `bf16` is
autocast, `bf16-weights` keeps the weights in 16 bits too and fp32 masters beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import command_line, read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.train import TrainConfig

BASE = "none"
QUICK: dict[str, Any] = {"networks": ("vgg19",), "batch_size": 16, "repeats": 3, "epochs": 0}
_WARM_UP = 2


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose.

    Attributes:
        networks: whose steps are timed.
        trained: the network that is trained for its accuracy.
        data: a named image set.
        image_size: side in pixels; the set's own where None.
        precisions: as `thrifty train --amp` has them; `none` is fp32.
        batch_size: images a step.
        repeats: timed steps of each.
        epochs: of the training; 0 leaves it out.
        limit_train: training images.
        limit_test: test images.
        seed: of the training.
        out: folder in which the trainings are kept.
    """

    networks: tuple[str, ...] = ("vgg19", "vgg19-bn", "resnet50", "cifarnet")
    trained: str = "vgg19-bn"
    data: str = "cifar10"
    image_size: int | None = None
    precisions: tuple[str, ...] = (BASE, "bf16", "bf16-weights")
    batch_size: int = 64
    repeats: int = 7
    epochs: int = 4
    limit_train: int = 5000
    limit_test: int = 2000
    seed: int = 0
    out: str = "runs/bench/precision"


@benchmark("precision", "fp32 against bfloat16: seconds of a step of VGG-19 and others, and accuracy")
def run(quick: bool, console: Console, data_root: Path | None = None, options: Sequence[str] = ()) -> BenchResult:
    """Time steps of every network in every precision, then train one network in each."""
    from thrifty.distributed.precision import Precision
    from thrifty.train import TrainConfig
    from thrifty.train.precisions import AMPS

    choices, dotted = read_options(Choices, options, QUICK if quick else None)
    if dotted:
        raise UsageError(f"--set {next(iter(dotted))}: precision has no such setting")
    for name in choices.precisions:
        if name not in AMPS:
            raise UsageError(f"--set precisions={name}: choose among {', '.join(AMPS)}")
    if BASE not in choices.precisions or choices.repeats < 1 or choices.epochs < 0:
        raise UsageError(f"--set: precisions needs {BASE}, repeats 1 or more, epochs 0 or more")
    drawback = Precision("bf16").drawback()
    if drawback:
        console.print(f"warning: {drawback}", markup=False, soft_wrap=True)
    base = TrainConfig(
        model=choices.trained, data=choices.data, data_root=str(data_root) if data_root else None, methods="dense",
        baseline="none", image_size=choices.image_size, batch_size=choices.batch_size, epochs=max(choices.epochs, 1),
        limit_train=choices.limit_train, limit_test=choices.limit_test, seed=choices.seed,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for network in choices.networks:
        console.print(f"{network}: steps of {choices.batch_size} images", markup=False)
        found = _time_steps(replace(base, model=network), choices)
        rows += found
        summary[network] = _speedups(found)
    if choices.epochs:
        accuracies = _train(base, choices, console)
        for row in rows:
            if row["network"] == choices.trained:
                row.update(accuracies[row["dtype"]])
        summary["accuracy"] = {name: of_precision["accuracy"] for name, of_precision in accuracies.items()}
    settings = {
        "epochs": choices.epochs, "trained": choices.trained, "limit_train": choices.limit_train,
        "repeats": choices.repeats, "image_size": choices.image_size, "drawback": drawback or None,
        "command": command_line(),
    }  # fmt: skip
    columns = ("network", "data", "batch", "dtype", "step_s", "min_s", "max_s", "speedup", "accuracy")
    return BenchResult(settings, rows, summary, columns)


def _time_steps(config: TrainConfig, choices: Choices) -> list[dict[str, Any]]:
    """A row for each precision."""
    from itertools import cycle

    from thrifty.bench.timing import interleave, median_min_max
    from thrifty.train.arms import parse_arms
    from thrifty.train.loop import train_step
    from thrifty.train.session import Session
    from thrifty.train.trial import make_plan

    # The numbers stay finite at this rate, whatever the network.
    config = replace(config, limit_train=4 * config.batch_size, limit_test=10).resolved()
    config = replace(config, learning_rate=1e-9)
    calls: dict[str, Callable[[], Any]] = {}
    for name in choices.precisions:
        arms = parse_arms(replace(config, amp=name))
        plan = make_plan(config, arms)
        session, turn = Session(config, arms[0], plan.data, steps=1000), cycle(list(plan.train_batches(0, 0)))
        calls[name] = lambda session=session, turn=turn: train_step(  # type: ignore[misc]
            session, *next(turn), label_smoothing=0.0
        )
    timed = interleave(calls, choices.repeats, warmup=_WARM_UP)
    spreads = {name: median_min_max(seconds) for name, seconds in timed.items()}
    return [
        {
            "network": config.model,
            "data": config.data,
            "batch": config.batch_size,
            "dtype": name,
            "step_s": spread.median,
            "min_s": spread.min,
            "max_s": spread.max,
            "speedup": spreads[BASE].median / spread.median,
            "accuracy": None,
        }
        for name, spread in spreads.items()
    ]


def _speedups(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {f"{row['dtype']}_speedup": row["speedup"] for row in rows if row["dtype"] != BASE}


def _train(base: TrainConfig, choices: Choices, console: Console) -> dict[str, dict[str, Any]]:
    """By precision: the accuracy at the end, and the curve."""
    from thrifty.bench.training_turns import make_training, train_in_turn
    from thrifty.train.trial import load_data

    command = command_line()
    trainings = {
        name: make_training(name, replace(base, amp=name), Path(choices.out) / choices.trained)
        for name in choices.precisions
    }
    if not all(training.over() for training in trainings.values()):
        train_in_turn(list(trainings.values()), load_data(base), command=command, console=console)
    found = {}
    for name, training in trainings.items():
        state = training.state()
        found[name] = {
            "accuracy": state.get("test_accuracy") if state["status"] == "finished" else None,
            "train_s": state.get("train_s"),
            "curve": [[row["epoch"], row["test_accuracy"]] for row in state["epochs"]],
        }
    return found
