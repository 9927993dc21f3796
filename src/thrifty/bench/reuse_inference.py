"""Trained networks in inference, dense against frozen (`thrifty.reuse.freeze`), on this machine and on a small one.

The small one is imitated: kernels of the base instruction set and one thread, torch and oneDNN held to SSE 4.1 as well.
These are read when the libraries load, so every measurement is a process of its own; rivals take turns inside it.
Dense is fp32 in channels_last with BatchNorm folded; bf16 and compiled stand beside it, and frozen networks whose stock
layers are fp32 or bf16. `speedup` is the faster of these two over dense fp32. Networks are trained once, on a
part of the training images, into runs/reuse-inference, where a killed training goes on and other settings are another
training; the rest of the training images serve to calibrate; `accuracy_loss` is counted on the whole test set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.bench.training_turns import Training, make_training
from thrifty.core.errors import ThriftyError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

RUNS = Path("runs/reuse-inference")
MAX_LOSS = 0.0005
BUDGET_S = (5.0, 20.0)  # seconds that the timed calls of a row take, quick and not


@dataclass(frozen=True)
class Case:
    """A network, its training, and the batch it is timed with."""

    network: str
    data: str
    train_images: int
    epochs: int
    batch: int

    def training(self, data_root: Path | None) -> Training:
        """Its training, in a folder that its settings name."""
        from thrifty import train

        config = train.TrainConfig(
            model=self.network,
            data=self.data,
            data_root=None if data_root is None else str(data_root),
            methods="none",
            limit_train=self.train_images,
            epochs=self.epochs,
            amp="bf16",
        )
        return make_training(self.network, config, RUNS)


CASES = (
    Case("cifarnet", "cifar10", train_images=45_000, epochs=3, batch=128),
    Case("alexnet", "imagenette-128", train_images=8_500, epochs=6, batch=64),
    Case("vgg19", "cifar10", train_images=20_000, epochs=3, batch=128),
    Case("vgg19-bn", "cifar10", train_images=20_000, epochs=3, batch=128),
)
# name, environment, threads (None: all)
PLACES: tuple[tuple[str, dict[str, str], int | None], ...] = (
    ("best", {}, None),
    ("base", {"THRIFTY_ISA": "base", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}, 1),
)


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose.

    Attributes:
        networks: all of them, or the first when quick, where none is named.
        places: all of them where none is named.
    """

    networks: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


@benchmark("reuse-inference", "CifarNet, AlexNet and VGG-19 in inference, dense against frozen tables")
def run(
    quick: bool,
    console: Console,
    data_root: Path | None = None,
    options: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
    keep: Callable[[BenchResult], None] = lambda so_far: None,
) -> BenchResult:
    """Train what is not trained yet, then freeze and time every network in every place; other rows are kept."""
    choices, dotted = read_options(Choices, options)
    cases = {case.network: case for case in CASES}
    every_place = tuple(name for name, _, _ in PLACES)
    names = choices.networks or tuple(cases)[: 1 if quick else None]
    places = choices.places or every_place
    unknown = [*dotted, *(name for name in names if name not in cases)]
    unknown += [name for name in places if name not in every_place]
    if unknown:
        raise UsageError(
            f"--set: {unknown[0]} is unknown; networks are {', '.join(cases)}; places are {', '.join(every_place)}"
        )
    kept = (earlier or {}).get("rows", [])
    rows = [row for row in kept if row["network"] not in names or row["place"] not in places]
    for case in (cases[name] for name in names):
        folder = _train(case.training(data_root), console)
        for place, environment, threads in PLACES:
            if place in places:
                console.print(f"{case.network} on {case.data}, {place} instructions: freezing and timing")
                row = _measure(case, folder, environment, threads, quick, data_root)
                rows.append({"place": place, **row})
                keep(_result(rows, quick))
    return _result(rows, quick)


def _result(rows: list[dict[str, Any]], quick: bool) -> BenchResult:
    order = [case.network for case in CASES]
    rows = sorted(rows, key=lambda row: (order.index(row["network"]), row["place"] != PLACES[0][0]))
    settings = {
        "max_loss": MAX_LOSS, "quick": quick, "dtype": "float32", "memory_format": "channels_last",
        "cases": [asdict(case) for case in CASES],
    }  # fmt: skip
    columns = ("network", "isa", "threads", "dense_s", "bf16_s", "compiled_s", "reuse_s", "reuse_bf16_s", "speedup",
               "over_best_stock", "dense_accuracy", "accuracy_loss", "changed_answers")  # fmt: skip
    return BenchResult(settings, rows, {"min_speedup": min(row["speedup"] for row in rows)}, columns)


def _train(training: Training, console: Console) -> Path:
    """Train the network unless it is trained; go on where an earlier training was killed. The training's folder."""
    from thrifty import train

    if not training.over():
        config = replace(training.config, resume=training.record() is not None)
        outcome = train.run(config, command="thrifty bench reuse-inference", console=console)
        if outcome.exit_code:
            raise ThriftyError(f"the training in {training.folder} did not end: run the benchmark again to go on")
    return training.folder


def _measure(
    case: Case, folder: Path, environment: dict[str, str], threads: int | None, quick: bool, data_root: Path | None
) -> dict[str, Any]:
    """One row, from a process of its own."""
    request = {
        **asdict(case), "folder": str(folder), "max_loss": MAX_LOSS, "threads": threads, "quick": quick,
        "budget_s": BUDGET_S[0 if quick else 1],
        "data_root": None if data_root is None else str(data_root), "small": bool(environment),
    }  # fmt: skip
    more = environment if threads is None else {**environment, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "thrifty.bench.inference_case", json.dumps(request)],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ThriftyError(f"the measurement of {case.network} failed: {last}")
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row
