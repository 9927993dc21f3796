"""Trained networks in inference, dense against frozen (`thrifty.reuse.freeze`), on this machine and on a small one.

The small one is imitated: kernels of the base instruction set and one thread, torch and oneDNN held to SSE 4.1 as well.
These are read when the libraries load, so every measurement is a process of its own; rivals take turns inside it.
Dense is fp32 in channels_last with BatchNorm folded; bf16 and compiled stand beside it. Networks are trained once, on a
part of the training images, into runs/reuse-inference, where a killed training goes on; the rest of the training images
serve to calibrate; `accuracy_loss` is counted on the whole test set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import ThriftyError

if TYPE_CHECKING:
    from rich.console import Console

RUNS = Path("runs/reuse-inference")
MAX_LOSS = 0.0005


@dataclass(frozen=True)
class Case:
    """A network, its training, and the batch it is timed with."""

    network: str
    data: str
    train_images: int
    epochs: int
    batch: int

    @property
    def folder(self) -> Path:
        """Of its training."""
        return RUNS / self.network


CASES = (
    Case("cifarnet", "cifar10", train_images=45_000, epochs=3, batch=128),
    Case("alexnet", "imagenette-128", train_images=8_500, epochs=6, batch=64),
    Case("vgg19", "cifar10", train_images=45_000, epochs=2, batch=128),
    Case("vgg19-bn", "cifar10", train_images=45_000, epochs=2, batch=128),
)
# name, environment, threads (None: all)
PLACES: tuple[tuple[str, dict[str, str], int | None], ...] = (
    ("best", {}, None),
    ("base", {"THRIFTY_ISA": "base", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}, 1),
)


@benchmark("reuse-inference", "CifarNet, AlexNet and VGG-19 in inference, dense against frozen tables")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Train what is not trained yet, then freeze and time every network in every place."""
    rows: list[dict[str, Any]] = []
    for case in CASES[:1] if quick else CASES:
        _train(case, data_root, console)
        for place, environment, threads in PLACES:
            console.print(f"{case.network} on {case.data}, {place} instructions: freezing and timing")
            rows.append(_measure(case, environment, threads, quick, data_root))
    settings = {
        "max_loss": MAX_LOSS, "quick": quick, "dtype": "float32", "memory_format": "channels_last",
        "cases": [asdict(case) for case in CASES],
    }  # fmt: skip
    columns = ("network", "isa", "threads", "dense_s", "bf16_s", "compiled_s", "reuse_s", "speedup", "dense_accuracy",
               "accuracy_loss", "changed_answers")  # fmt: skip
    return BenchResult(settings, rows, {"min_speedup": min(row["speedup"] for row in rows)}, columns)


def _train(case: Case, data_root: Path | None, console: Console) -> None:
    """Train the case's network unless it is trained; go on where an earlier training was killed."""
    from thrifty import train

    result = case.folder / "result.json"
    begun = result.exists()
    if begun and json.loads(result.read_text(encoding="utf-8"))["status"] == "finished":
        return
    config = train.TrainConfig(
        model=case.network,
        data=case.data,
        data_root=None if data_root is None else str(data_root),
        methods="none",
        limit_train=case.train_images,
        epochs=case.epochs,
        amp="bf16",
        out=str(case.folder),
        resume=begun,
    )
    outcome = train.run(config, command="thrifty bench reuse-inference", console=console)
    if outcome.exit_code:
        raise ThriftyError(f"the training in {case.folder} did not come to its end: run the benchmark again to go on")


def _measure(
    case: Case, environment: dict[str, str], threads: int | None, quick: bool, data_root: Path | None
) -> dict[str, Any]:
    """One row, from a process of its own."""
    request = {
        **asdict(case), "folder": str(case.folder), "max_loss": MAX_LOSS, "threads": threads, "quick": quick,
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
