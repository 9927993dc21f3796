"""The record of a training run: `result.json` read into dataclasses, forgiving of runs that are unfinished or broken.

A field that is missing becomes None or empty; a field of the wrong type becomes None and is named in `problems`, so
that a report can show what is there and say what is not. Only a file of which nothing can be read is an error.
Every dataclass field carries the reader that turns plain JSON into its value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thrifty.core.counters import STAGES as STAGES
from thrifty.core.errors import DataError, UsageError
from thrifty.report.reading import MAPPING, NAMES, NUMBER, NUMBERS, TEXT, WHOLE, build, many, objects, one
from thrifty.report.salvage import salvage

RESULT_NAME = "result.json"
FORMAT = 1
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Epoch:
    """One row of the table by epoch; losses are means, accuracies fractions 0..1, seconds cumulative."""

    epoch: int | None = field(metadata=WHOLE)
    train_loss: float | None = field(metadata=NUMBER)
    train_accuracy: float | None = field(metadata=NUMBER)
    test_loss: float | None = field(metadata=NUMBER)
    test_accuracy: float | None = field(metadata=NUMBER)
    train_s: float | None = field(metadata=NUMBER)
    data_s: float | None = field(metadata=NUMBER)
    eval_s: float | None = field(metadata=NUMBER)
    learning_rate: float | None = field(metadata=NUMBER)


@dataclass(frozen=True)
class Layer:
    """What one layer did over the whole run: MACs, mean remaining ratio and error, seconds by stage."""

    name: str = field(metadata=TEXT)
    kind: str = field(metadata=TEXT)
    action: str = field(metadata=TEXT)
    reason: str = field(metadata=TEXT)
    macs: float | None = field(metadata=NUMBER)
    dense_macs: float | None = field(metadata=NUMBER)
    remaining_ratio: float | None = field(metadata=NUMBER)
    error: float | None = field(metadata=NUMBER)
    stages_s: dict[str, float] = field(metadata=NUMBERS)

    @property
    def total_s(self) -> float:
        """Seconds in all stages together."""
        return sum(self.stages_s.values())


@dataclass(frozen=True)
class TracePoint:
    """One layer at one sampled step."""

    step: int | None = field(metadata=WHOLE)
    layer: str = field(metadata=TEXT)
    stage: int | None = field(metadata=WHOLE)
    remaining_ratio: float | None = field(metadata=NUMBER)
    error: float | None = field(metadata=NUMBER)


@dataclass(frozen=True)
class Event:
    """A move that a controller made."""

    step: int | None = field(metadata=WHOLE)
    layer: str = field(metadata=TEXT)
    what: str = field(metadata=TEXT)
    reason: str = field(metadata=TEXT)


@dataclass(frozen=True)
class Limited:
    """What a limit of memory came to: most bytes that a step made, and operations that were called again for it."""

    step_peak_bytes: float | None = field(metadata=NUMBER)
    recomputed_ops: int | None = field(metadata=WHOLE)


@dataclass(frozen=True)
class Tried:
    """One combination of methods and precision that a plan tried."""

    name: str = field(metadata=TEXT)
    step_s: float | None = field(metadata=NUMBER)
    speedup: float | None = field(metadata=NUMBER)
    saved_bytes: float | None = field(metadata=NUMBER)
    gradient_error: float | None = field(metadata=NUMBER)
    reason: str = field(metadata=TEXT)


@dataclass(frozen=True)
class Planned:
    """What the run's arm `auto` was chosen by, measured before its first step."""

    best: str = field(metadata=TEXT)
    unrest: float | None = field(metadata=NUMBER)
    options: tuple[Tried, ...] = field(metadata={"read": many(Tried)})


@dataclass(frozen=True)
class Arm:
    """One training of the network: dense or with methods. Seconds of training, data and evaluation are apart."""

    name: str = field(metadata=TEXT)
    methods: tuple[str, ...] = field(metadata=NAMES)
    configs: tuple[dict[str, Any], ...] = field(metadata={"read": objects, "key": "methods"})
    amp: str = field(metadata=TEXT)
    status: str = field(metadata=TEXT)
    message: str = field(metadata=TEXT)
    test_accuracy: float | None = field(metadata=NUMBER)
    best_test_accuracy: float | None = field(metadata=NUMBER)
    train_s: float | None = field(metadata=NUMBER)
    data_s: float | None = field(metadata=NUMBER)
    eval_s: float | None = field(metadata=NUMBER)
    peak_bytes: float | None = field(metadata=NUMBER)
    peak_source: str = field(metadata=TEXT)
    macs: float | None = field(metadata=NUMBER)
    dense_macs: float | None = field(metadata=NUMBER)
    parameters: int | None = field(metadata=WHOLE)
    steps: int | None = field(metadata=WHOLE)
    timed_steps: int | None = field(metadata=WHOLE)
    workers: int | None = field(metadata=WHOLE)
    sent_bytes: float | None = field(metadata=NUMBER)
    buckets: dict[str, Any] = field(metadata=MAPPING)
    memory: Limited | None = field(metadata={"read": one(Limited)})
    epochs: tuple[Epoch, ...] = field(metadata={"read": many(Epoch)})
    layers: tuple[Layer, ...] = field(metadata={"read": many(Layer)})
    looks: dict[str, Any] = field(metadata=MAPPING)
    trace: tuple[TracePoint, ...] = field(metadata={"read": many(TracePoint)})
    events: tuple[Event, ...] = field(metadata={"read": many(Event)})

    @property
    def reached(self) -> float | None:
        """Final test accuracy, or that of the last epoch of an arm that has not come to its end."""
        if self.test_accuracy is None and self.epochs:
            return self.epochs[-1].test_accuracy
        return self.test_accuracy

    @property
    def step_s(self) -> float | None:
        """Mean seconds of a training step."""
        return self.train_s / self.timed_steps if self.train_s is not None and self.timed_steps else None


@dataclass(frozen=True)
class Record:
    """A whole run; `name` is its folder's, `problems` says what could not be read."""

    thrifty: str = field(metadata=TEXT)
    command: str = field(metadata=TEXT)
    started: str = field(metadata=TEXT)
    status: str = field(metadata=TEXT)
    machine: dict[str, Any] = field(metadata=MAPPING)
    settings: dict[str, Any] = field(metadata=MAPPING)
    arms: tuple[Arm, ...] = field(metadata={"read": many(Arm)})
    summary: dict[str, Any] = field(metadata=MAPPING)
    plan: Planned | None = field(metadata={"read": one(Planned)})
    name: str = ""
    problems: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run and every arm of it came to their end."""
        return self.status == "finished" and all(arm.status == "finished" for arm in self.arms)


def parse(raw: Any, name: str = "") -> Record:
    """Build a record from decoded JSON. Raises DataError when it is not an object or of a newer format."""
    if not isinstance(raw, dict):
        raise DataError(f"{name or RESULT_NAME}: holds {type(raw).__name__} where a JSON object is expected")
    form = raw.get("format")
    if isinstance(form, int) and form > FORMAT:
        raise DataError(f"{name or RESULT_NAME}: format {form} is newer than {FORMAT}; update thrifty to read it")
    problems: list[str] = []
    record = build(Record, raw, "run", problems)
    arms = tuple(
        arm if arm.name else replace(arm, name=f"arm {place}") for place, arm in enumerate(record.arms, start=1)
    )
    return replace(record, arms=arms, name=name, problems=tuple(problems))


def load(run_dir: str | Path) -> Record:
    """Read `run_dir`/result.json; of one that breaks off or is damaged, what stands before the break.

    Raises:
        UsageError: there is no such folder.
        DataError: the folder has no result.json, or nothing can be read of it, or it is of a newer format.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UsageError(f"no run folder {folder}: give the folder that 'thrifty train --out' wrote")
    path = folder / RESULT_NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes are more than the record of a run can have")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: missing; 'thrifty train --out {folder}' writes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    name = folder.resolve().name
    try:
        return parse(json.loads(text), name=name)
    except json.JSONDecodeError as error:
        broken = f"invalid JSON at line {error.lineno}, column {error.colno} ({error.msg})"
    except RecursionError:
        broken = "JSON nested too deeply"
    except ValueError as error:
        broken = f"invalid JSON ({error})"
    rest = salvage(text)
    if rest is None:
        raise DataError(f"{path}: {broken}")
    found = parse(rest, name=name)
    return replace(found, problems=(f"{RESULT_NAME}: {broken}; what stands before it is shown", *found.problems))
