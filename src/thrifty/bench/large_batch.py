"""One network at batch 128 and at 64 times that, for the same epochs: the recipe, and what each part of it does.

SGD at 128 sets the mark. SGD at 8192 has 64 times the rate (Goyal et al., arXiv 1706.02677) and the same warm-up. LARS
at 8192 is the recipe, then one ingredient is taken out at a time. All arms share images, seeds, initial weights, epochs
and precision, and train in turn; a killed run goes on. Source: Jia et al., arXiv 1807.11205.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import command_line, read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.bench.training_turns import Training, forget, make_training, train_in_turn
from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.data import ImageData

NETWORK, PLAIN_GAMMA = "thrifty.bench.small_residual:network", "thrifty.bench.small_residual:plain"
SMALL, LARGE = "sgd 128", "lars"
_RECIPE: dict[str, Any] = {"optimizer": "lars", "schedule": "poly", "warm_up": 0.2}
# arm -> what it has of its own; the batch is the large one where nothing is said
ARMS: dict[str, dict[str, Any]] = {
    SMALL: {"optimizer": "sgd", "schedule": "poly", "warm_up": 0.1, "batch_size": 128},
    "sgd": {"optimizer": "sgd", "schedule": "poly", "warm_up": 0.2},
    LARGE: _RECIPE,
    "lars, no warm-up": {**_RECIPE, "warm_up": 0.0},
    "lars, no polynomial decay": {**_RECIPE, "schedule": "step"},
    "lars, decay on all": {**_RECIPE, "exempt": "rate"},
    "lars, ratio on all": {**_RECIPE, "exempt": "decay"},
    "lars, scales at 1": {**_RECIPE, "model": PLAIN_GAMMA},
    "lamb": {**_RECIPE, "optimizer": "lamb"},
}
QUICK: dict[str, Any] = {
    "data": ("fashion-mnist-slice",), "arms": (SMALL, "sgd", LARGE), "batch_size": 1024, "epochs": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose.

    Attributes:
        data: named image sets.
        arms: among `ARMS`, without the small batch, which is always there; all where empty.
        batch_size: the large one.
        epochs: of every arm.
        sgd_rate: peak rate of SGD at 128; at the large batch it is scaled by the batch.
        lars_rate: peak rate of LARS at the large batch.
        lamb_rate: of LAMB.
        weight_decay: of all arms.
        precision: of all arms, as `thrifty train --amp` has it.
        seeds: how many, from 0.
        limit_train: use so many training images only.
        image_size: side in pixels; the set's own where None.
        augment: flip and crop the training images.
        held_out: test on the last so many training images, which are not trained on, instead of the test images: for
            choosing rates.
        out: folder in which the runs are kept.
        fresh: train anew what was trained before with these choices.
    """

    data: tuple[str, ...] = ("cifar10", "fashion-mnist")
    arms: tuple[str, ...] = ()
    batch_size: int = 8192
    epochs: int = 40
    sgd_rate: float = 0.1
    lars_rate: float = 40.0
    lamb_rate: float = 0.02
    weight_decay: float = 5e-4
    precision: str = "bf16"
    seeds: int = 1
    limit_train: int | None = None
    image_size: int | None = None
    augment: bool = True
    held_out: int = 0
    out: str = "runs/bench/large-batch"
    fresh: bool = False


@benchmark("large-batch", "batch 128 against 8192 with SGD, LARS and LAMB, and LARS without each ingredient")
def run(
    quick: bool,
    console: Console,
    data_root: Path | None = None,
    options: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Train every arm on every chosen data set, and compare; rows of other sets in `earlier` are kept."""
    choices, dotted = read_options(Choices, options, QUICK if quick else None)
    if dotted:
        raise UsageError(f"--set {next(iter(dotted))}: large-batch has no such setting")
    arms = (SMALL, *(arm for arm in choices.arms or ARMS if arm != SMALL))
    for arm in arms:
        if arm not in ARMS:
            raise UsageError(f"--set arms={arm}: choose among {', '.join(name for name in ARMS if name != SMALL)}")
    if choices.seeds < 1 or choices.batch_size < 1 or choices.held_out < 0:
        raise UsageError("--set seeds and batch_size: give 1 or more; held_out: 0 or more")
    rows = [row for row in (earlier or {}).get("rows", []) if row["data"] not in choices.data]
    settings = dict((earlier or {}).get("settings", {}).get("data", {}))
    command = command_line()
    for data in choices.data:
        trainings = _trainings(data, arms, choices, data_root)
        _train(data, trainings, choices, command, console)
        rows += [_row(data, training) for training in trainings]
        settings[data] = {
            "epochs": choices.epochs, "batch_size": choices.batch_size, "weight_decay": choices.weight_decay,
            "precision": choices.precision, "sgd_rate": choices.sgd_rate, "lars_rate": choices.lars_rate,
            "lamb_rate": choices.lamb_rate, "momentum": 0.9, "image_size": choices.image_size,
            "augment": choices.augment, "held_out": choices.held_out, "command": command,
        }  # fmt: skip
    summary = {data: _summary([row for row in rows if row["data"] == data]) for data in settings}
    columns = ("data", "arm", "seed", "batch", "optimizer", "accuracy", "best_accuracy", "steps", "step_s", "train_s")
    return BenchResult({"network": "small residual network", "data": settings}, rows, summary, columns)


def _trainings(data: str, arms: Sequence[str], choices: Choices, data_root: Path | None) -> list[Training]:
    from thrifty.train import TrainConfig

    rates = {
        "sgd": choices.sgd_rate * choices.batch_size / 128, "lars": choices.lars_rate, "lamb": choices.lamb_rate,
    }  # fmt: skip
    base = TrainConfig(
        model=NETWORK, data=data, data_root=str(data_root) if data_root else None, baseline="none", methods="dense",
        epochs=choices.epochs, batch_size=choices.batch_size, weight_decay=choices.weight_decay, amp=choices.precision,
        limit_train=choices.limit_train, image_size=choices.image_size,
        augment=choices.augment,
    )  # fmt: skip
    parent = Path(choices.out) / (f"{data}-held-out-{choices.held_out}" if choices.held_out else data)
    found = []
    for seed in range(choices.seeds):
        for arm in arms:
            own = {"learning_rate": choices.sgd_rate if arm == SMALL else rates[ARMS[arm]["optimizer"]], **ARMS[arm]}
            config = replace(base, seed=seed, **own)
            found.append(make_training(arm.replace(",", ""), config, parent))
    return [replace(training, arm=arms[i % len(arms)]) for i, training in enumerate(found)]


def _train(data: str, trainings: list[Training], choices: Choices, command: str, console: Console) -> None:
    from thrifty.train.trial import load_data

    if choices.fresh:
        forget(trainings)
    waiting = [training for training in trainings if not training.over()]
    if len(waiting) < len(trainings):
        console.print(f"{data}: {len(trainings) - len(waiting)} of {len(trainings)} trainings are done already; "
                      "--set fresh=true does them anew", markup=False, soft_wrap=True)  # fmt: skip
    if waiting:
        images = held_out(load_data(waiting[0].config), choices.held_out)
        console.print(f"{data}: {images.source}, {len(images.train)} images", markup=False, soft_wrap=True)
        train_in_turn(waiting, images, command=command, console=console)


def held_out(data: ImageData, count: int) -> ImageData:
    """`data` with its last `count` training images as test images, so that rates are chosen without the real ones.

    Raises:
        UsageError: there are not that many.
    """
    from thrifty.data import ImageSplit

    if not count:
        return data
    kept = len(data.train.labels) - count
    if kept < 1:
        raise UsageError(f"--set held_out={count}: there are {len(data.train.labels)} training images")
    train = ImageSplit(data.train.images[:kept], data.train.labels[:kept])
    test = ImageSplit(data.train.images[kept:], data.train.labels[kept:])
    return replace(data, train=train, test=test, source=f"{data.source}, {count} training images held out as the test")


def _row(data: str, training: Training) -> dict[str, Any]:
    config, state = training.config, training.state()
    steps = state.get("steps", 0)
    return {
        "network": "small-residual",
        "data": data,
        "arm": training.arm,
        "seed": config.seed,
        "batch": config.batch_size,
        "optimizer": config.optimizer,
        "accuracy": state.get("test_accuracy") if state["status"] == "finished" else None,
        "best_accuracy": state.get("best_test_accuracy"),
        "steps": steps,
        "step_s": state.get("train_s", 0.0) / steps if steps else None,
        "train_s": state.get("train_s"),
        "learning_rate": config.learning_rate,
        "curve": [[row["epoch"], row["test_accuracy"], row["train_loss"]] for row in state["epochs"]],
        "message": state.get("message"),
        "folder": training.folder.name,
    }


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracies, and for each arm the points by which it is ahead of SGD at 128; None where it did not finish."""
    accuracies: dict[str, float | None] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = [row["accuracy"] for row in rows if row["arm"] == arm]
        accuracies[arm] = None if None in found else statistics.fmean(found)
    mark = accuracies.get(SMALL)
    points = {
        arm: None if mark is None or accuracy is None else 100.0 * (accuracy - mark)
        for arm, accuracy in accuracies.items()
        if arm != SMALL
    }
    return {"small_batch_accuracy": mark, "points_against_small_batch": points}
