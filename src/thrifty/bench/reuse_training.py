"""Whole trainings of the papers' networks: seconds to the accuracy that the best dense arm ends with.

Every arm has the same network, images, seed, optimizer and family of schedules, and its own number of epochs, over
which its schedule is laid. The arm `auto` is `thrifty train --auto`; what it spends on trying counts as its time. Dense
arms: float32 in channels_last, bfloat16 autocast, and the quicker of these compiled
where that helps. Arms train an epoch at a time in turn, and go on after a kill: call it again. `gflops` counts the
stock network's multiply-adds twice. `epoch_spread` is the slowest epoch's seconds over the quickest's: for a dense arm
it is how much the machine drifted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import command_line, read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.bench.time_to_accuracy import MARGIN, fill_in
from thrifty.bench.training_turns import Training, forget, make_training, train_in_turn
from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.train import TrainConfig


@dataclass(frozen=True)
class Course:
    """A network on a data set: how long and how often it is trained where nothing else is chosen."""

    model: str
    data: str
    epochs: int
    seeds: int = 1
    image_size: int | None = None
    whole: bool = True  # among those that a benchmark without choices trains


# Epochs are such that the dense arm ends within about an hour on two cores of 100 GFLOP/s.
COURSES = {
    "cifarnet/cifar10": Course("cifarnet", "cifar10", epochs=24, seeds=3),
    "cifarnet/fashion-mnist": Course("cifarnet", "fashion-mnist", epochs=16, seeds=3),
    "alexnet/imagenette-128": Course("alexnet", "imagenette-128", epochs=30),
    "vgg19-bn/cifar10": Course("vgg19-bn", "cifar10", epochs=6),
    "vgg19-bn/imagenette-64": Course("vgg19-bn", "imagenette-128", epochs=8, image_size=64),
    "cifarnet/fashion-mnist-slice": Course("cifarnet", "fashion-mnist-slice", epochs=5, whole=False),
}
COMPILED = "compiled"
ARMS = ("dense", "dense@bf16", "reuse", "reuse@bf16", COMPILED)
QUICK: dict[str, Any] = {"networks": ("cifarnet/cifar10",), "epochs": 4, "seeds": 1}


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose; `epochs.ARM` is the number of one arm, `method.key` a setting of a method.

    Attributes:
        networks: keys of `COURSES`; all of them but the packaged slice where empty.
        arms: as `thrifty train --methods` names them; `compiled` is the dense arm that compiling helps most.
        seeds: how many, from 0; the course's own where None.
        epochs: of every arm; the course's own where None.
        batch_size: images a step.
        limit_train: use so many training images only.
        limit_test: use so many test images only.
        out: folder in which the runs are kept.
        fresh: train anew what was trained before with these choices.
    """

    networks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ARMS
    seeds: int | None = None
    epochs: int | None = None
    batch_size: int = 128
    limit_train: int | None = None
    limit_test: int | None = None
    out: str = "runs/bench/reuse-training"
    fresh: bool = False


@benchmark("reuse-training", "whole trainings, dense against reuse: seconds to the accuracy of the best dense arm")
def run(
    quick: bool,
    console: Console,
    data_root: Path | None = None,
    options: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Train every arm of every chosen network, and compare; rows of other networks in `earlier` are kept."""
    choices, dotted = read_options(Choices, options, QUICK if quick else None)
    networks = choices.networks or tuple(name for name, course in COURSES.items() if course.whole)
    for name in networks:
        if name not in COURSES:
            raise UsageError(f"--set networks={name}: choose among {', '.join(COURSES)}")
    if choices.seeds is not None and choices.seeds < 1:
        raise UsageError(f"--set seeds={choices.seeds}: train with 1 seed or more")
    own_epochs, method_settings = _sort(dotted, choices.arms)
    rows = [row for row in (earlier or {}).get("rows", []) if f"{row['network']}/{row['data']}" not in networks]
    settings = dict((earlier or {}).get("settings", {}).get("networks", {}))
    for name in networks:
        found, of_network = _network(name, choices, own_epochs, method_settings, data_root, console)
        rows.extend(found)
        settings[name] = of_network
    summary = {}
    for name in dict.fromkeys(f"{row['network']}/{row['data']}" for row in rows):
        summary[name] = fill_in([row for row in rows if f"{row['network']}/{row['data']}" == name])
        if summary[name]["auto_vs_dense"] is not None:
            console.print(_kept(name, summary[name]), markup=False, soft_wrap=True)
    columns = ("network", "data", "arm", "seed", "train_s", "seconds_to_target", "final_accuracy", "step_s",
               "peak_bytes")  # fmt: skip
    return BenchResult({"margin": MARGIN, "networks": settings}, rows, summary, columns)


def _kept(name: str, found: Mapping[str, Any]) -> str:
    """How the arm `auto` did beside those that were chosen by hand, in words."""
    return (
        f"{name}: auto chose {found['auto']} in {found['auto_plan_s']:.1f} s and ended after "
        f"{found['auto_vs_best_arm']:.3f} times the seconds of the best other arm ({found['best_arm']}; wanted: 1.10) "
        f"and {found['auto_vs_dense']:.3f} times those of dense (wanted: 1.03)"
    )


def _sort(dotted: Mapping[str, Any], arms: Sequence[str]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Epochs by arm, and the settings of methods by the arms that use them, as `thrifty train --set` takes them."""
    import json

    epochs: dict[str, int] = {}
    settings: dict[str, list[str]] = {arm: [] for arm in arms}
    for key, value in dotted.items():
        method, _, rest = key.partition(".")
        if method == "epochs":
            if rest not in arms or type(value) is not int:
                raise UsageError(f"--set {key}={value}: name one of {', '.join(arms)} and a whole number")
            epochs[rest] = value
            continue
        users = [arm for arm in arms if method in arm.partition("@")[0].split("+")]
        if not users:
            raise UsageError(f"--set {key}: no arm uses {method}; the arms are {', '.join(arms)}")
        for arm in users:
            settings[arm].append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return epochs, settings


def _network(
    name: str,
    choices: Choices,
    own_epochs: Mapping[str, int],
    method_settings: Mapping[str, Sequence[str]],
    data_root: Path | None,
    console: Console,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train all arms of a network; return their rows and what was held fixed."""
    from thrifty.train import TrainConfig
    from thrifty.train.trial import load_data

    course = COURSES[name]
    epochs = course.epochs if choices.epochs is None else choices.epochs
    parent = Path(choices.out) / name.replace("/", "-")
    base = TrainConfig(
        model=course.model, data=course.data, image_size=course.image_size, baseline="none", methods="dense",
        data_root=str(data_root) if data_root else None, batch_size=choices.batch_size, epochs=epochs,
        limit_train=choices.limit_train, limit_test=choices.limit_test,
    )  # fmt: skip
    compiled = _compiled_arm(base, parent, choices, console) if COMPILED in choices.arms else None
    trainings: list[Training] = []
    for seed in range(choices.seeds or course.seeds):
        for arm in choices.arms:
            config = replace(
                base, seed=seed, epochs=own_epochs.get(arm, epochs), settings=tuple(method_settings[arm]), methods=arm
            )
            if arm != COMPILED:
                trainings.append(make_training(arm, config, parent))
            elif compiled:
                config = replace(config, methods=compiled, compile=True)
                trainings.append(make_training(f"{compiled} compiled", config, parent))
    if choices.fresh:
        forget(trainings)
    before = [training for training in trainings if training.over()]
    if before:
        began = max((training.record() or {}).get("started", "") for training in before)
        console.print(f"{name}: {len(before)} of {len(trainings)} trainings are done already, the last begun {began}; "
                      "--set fresh=true does them anew", markup=False, soft_wrap=True)  # fmt: skip
    if len(before) < len(trainings):
        data = load_data(base)
        for seed in dict.fromkeys(training.config.seed for training in trainings):
            console.print(f"{name}, seed {seed}: {data.source}, {len(data.train)} images", markup=False, soft_wrap=True)
            of_seed = [training for training in trainings if training.config.seed == seed]
            train_in_turn(of_seed, data, command=command_line(), console=console)
    rows = [_row(name, training) for training in trainings]
    return rows, {"epochs": epochs, "batch_size": choices.batch_size, "limit_train": choices.limit_train,
                  "memory_format": "channels_last", "optimizer": "sgd, fused", "schedule": base.schedule,
                  "command": command_line()}  # fmt: skip


def _compiled_arm(base: TrainConfig, parent: Path, choices: Choices, console: Console) -> str | None:
    """The dense arm to compile, or None; measured once, and kept in `parent`."""
    import json

    from thrifty.bench.compile_probe import probe
    from thrifty.core.atomic import write_json

    path = parent / f"compile-batch{base.batch_size}.json"
    if choices.fresh or not path.is_file():
        console.print(f"{base.model}: does torch.compile help?", markup=False)
        write_json(path, probe(base))
    found = json.loads(path.read_text(encoding="utf-8"))
    verdict = f"{found['arm']} compiled is trained too" if found["arm"] else "no compiled arm: it does not help here"
    console.print(f"{base.model}: {verdict} ({found['reason']})", markup=False, soft_wrap=True)
    arm: str | None = found["arm"]
    return arm


def _row(name: str, training: Training) -> dict[str, Any]:
    network, _, data = name.partition("/")
    record, state = training.record() or {}, training.state()
    timed = state.get("timed_steps") or 1
    scale = state.get("steps", 0) / timed  # the steps that compiled are counted as the others
    train_s = state.get("train_s", 0.0) * scale
    curve = [[row["train_s"] * scale, row["test_accuracy"]] for row in state["epochs"]]
    ends = [0.0, *(seconds for seconds, _ in curve)]
    lasted = [end - start for start, end in itertools.pairwise(ends)]
    finished = state["status"] == "finished"
    plan_s = record.get("plan_s") or 0.0
    return {
        "network": network,
        "data": data,
        "arm": training.arm,
        "seed": training.config.seed,
        "epochs": training.config.epochs,
        "train_s": plan_s + train_s,
        "plan_s": plan_s,
        "choice": (record.get("plan") or {}).get("best"),
        "seconds_to_target": None,
        "final_accuracy": state["test_accuracy"] if finished else None,
        "step_s": train_s / max(state.get("steps", 0), 1),
        "gflops": 2e-9 * state.get("dense_macs", 0) / train_s if train_s else None,
        "macs_ratio": state["dense_macs"] / state["macs"] if state.get("macs") else None,
        "data_s": state.get("data_s"),
        "eval_s": state.get("eval_s"),
        "compile_s": state.get("compile_s"),
        "peak_bytes": state.get("peak_bytes"),
        "peak_source": state.get("peak_source"),
        "epoch_spread": max(lasted) / min(lasted) if lasted else None,
        "curve": [[plan_s + seconds, accuracy] for seconds, accuracy in curve],
        "events": state.get("events", []),
        "layers": state.get("layers", []),
        "message": state.get("message"),
        "settings": list(training.config.settings),
        "started": record.get("started"),
        "machine": record.get("machine"),
        "folder": training.folder.name,
    }
