"""The record of a training run: `result.json` read into dataclasses, forgiving of runs that are unfinished or broken.

A field that is missing becomes None or empty; a field of the wrong type becomes None and is named in `problems`, so
that a report can show what is there and say what is not. Only a file of which nothing can be read is an error.
Every dataclass field carries the reader that turns plain JSON into its value.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from thrifty.core.counters import STAGES as STAGES
from thrifty.core.errors import DataError, UsageError
from thrifty.report.salvage import salvage

RESULT_NAME = "result.json"
FORMAT = 1
MAX_BYTES = 1 << 28

_Reader = Callable[[Any, str, list[str]], Any]
_T = TypeVar("_T")


def _number(value: Any, where: str, problems: list[str]) -> float | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    # An integer of hundreds of digits is valid JSON, and no number that a run could mean.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return value
    problems.append(f"{where} is not a number")
    return None


def _whole(value: Any, where: str, problems: list[str]) -> int | None:
    number = _number(value, where, problems)
    return None if number is None else int(number)


def _text(value: Any, where: str, problems: list[str]) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        problems.append(f"{where} is not text")
    return str(value)


def _mapping(value: Any, where: str, problems: list[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    problems.append(f"{where} is not an object")
    return {}


def _numbers(value: Any, where: str, problems: list[str]) -> dict[str, float]:
    read = {key: _number(item, f"{where}.{key}", problems) for key, item in _mapping(value, where, problems).items()}
    return {key: item for key, item in read.items() if item is not None}


def _names(value: Any, where: str, problems: list[str]) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.append(f"{where} is not a list")
        return ()
    # A method may be written as its name or as its {"_type", "_version", "_data"} form.
    return tuple(str(item.get("_type", item)) if isinstance(item, dict) else str(item) for item in value)


def _objects(value: Any, where: str, problems: list[str]) -> tuple[dict[str, Any], ...]:
    # What is wrong with it has been told when the names were read.
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _many(cls: type[_T]) -> _Reader:
    def read(value: Any, where: str, problems: list[str]) -> tuple[_T, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            problems.append(f"{where} is not a list")
            return ()
        return tuple(_build(cls, item, f"{where}[{index}]", problems) for index, item in enumerate(value))

    return read


def _build(cls: type[_T], value: Any, where: str, problems: list[str]) -> _T:
    raw = _mapping(value, where, problems)
    return cls(
        **{
            item.name: item.metadata["read"](_under(raw, item), f"{where}.{item.name}", problems)
            for item in fields(cls)  # type: ignore[arg-type]
            if "read" in item.metadata
        }
    )


def _under(raw: dict[str, Any], item: Field[Any]) -> Any:
    return raw.get(item.metadata.get("key", item.name))


_NUMBER, _WHOLE, _TEXT, _NAMES, _MAPPING, _NUMBERS = (
    {"read": reader} for reader in (_number, _whole, _text, _names, _mapping, _numbers)
)


@dataclass(frozen=True)
class Epoch:
    """One row of the table by epoch; losses are means, accuracies fractions 0..1, seconds cumulative."""

    epoch: int | None = field(metadata=_WHOLE)
    train_loss: float | None = field(metadata=_NUMBER)
    train_accuracy: float | None = field(metadata=_NUMBER)
    test_loss: float | None = field(metadata=_NUMBER)
    test_accuracy: float | None = field(metadata=_NUMBER)
    train_s: float | None = field(metadata=_NUMBER)
    data_s: float | None = field(metadata=_NUMBER)
    eval_s: float | None = field(metadata=_NUMBER)
    learning_rate: float | None = field(metadata=_NUMBER)


@dataclass(frozen=True)
class Layer:
    """What one layer did over the whole run: MACs, mean remaining ratio and error, seconds by stage."""

    name: str = field(metadata=_TEXT)
    kind: str = field(metadata=_TEXT)
    action: str = field(metadata=_TEXT)
    reason: str = field(metadata=_TEXT)
    macs: float | None = field(metadata=_NUMBER)
    dense_macs: float | None = field(metadata=_NUMBER)
    remaining_ratio: float | None = field(metadata=_NUMBER)
    error: float | None = field(metadata=_NUMBER)
    stages_s: dict[str, float] = field(metadata=_NUMBERS)

    @property
    def total_s(self) -> float:
        """Seconds in all stages together."""
        return sum(self.stages_s.values())


@dataclass(frozen=True)
class TracePoint:
    """One layer at one sampled step."""

    step: int | None = field(metadata=_WHOLE)
    layer: str = field(metadata=_TEXT)
    stage: int | None = field(metadata=_WHOLE)
    remaining_ratio: float | None = field(metadata=_NUMBER)
    error: float | None = field(metadata=_NUMBER)


@dataclass(frozen=True)
class Event:
    """A move that a controller made."""

    step: int | None = field(metadata=_WHOLE)
    layer: str = field(metadata=_TEXT)
    what: str = field(metadata=_TEXT)
    reason: str = field(metadata=_TEXT)


@dataclass(frozen=True)
class Arm:
    """One training of the network: dense or with methods. Seconds of training, data and evaluation are apart."""

    name: str = field(metadata=_TEXT)
    methods: tuple[str, ...] = field(metadata=_NAMES)
    configs: tuple[dict[str, Any], ...] = field(metadata={"read": _objects, "key": "methods"})
    amp: str = field(metadata=_TEXT)
    status: str = field(metadata=_TEXT)
    message: str = field(metadata=_TEXT)
    test_accuracy: float | None = field(metadata=_NUMBER)
    best_test_accuracy: float | None = field(metadata=_NUMBER)
    train_s: float | None = field(metadata=_NUMBER)
    data_s: float | None = field(metadata=_NUMBER)
    eval_s: float | None = field(metadata=_NUMBER)
    peak_bytes: float | None = field(metadata=_NUMBER)
    peak_source: str = field(metadata=_TEXT)
    macs: float | None = field(metadata=_NUMBER)
    dense_macs: float | None = field(metadata=_NUMBER)
    parameters: int | None = field(metadata=_WHOLE)
    steps: int | None = field(metadata=_WHOLE)
    epochs: tuple[Epoch, ...] = field(metadata={"read": _many(Epoch)})
    layers: tuple[Layer, ...] = field(metadata={"read": _many(Layer)})
    looks: dict[str, Any] = field(metadata=_MAPPING)
    trace: tuple[TracePoint, ...] = field(metadata={"read": _many(TracePoint)})
    events: tuple[Event, ...] = field(metadata={"read": _many(Event)})

    @property
    def reached(self) -> float | None:
        """Final test accuracy, or that of the last epoch of an arm that has not come to its end."""
        if self.test_accuracy is None and self.epochs:
            return self.epochs[-1].test_accuracy
        return self.test_accuracy


@dataclass(frozen=True)
class Record:
    """A whole run; `name` is its folder's, `problems` says what could not be read."""

    thrifty: str = field(metadata=_TEXT)
    command: str = field(metadata=_TEXT)
    started: str = field(metadata=_TEXT)
    status: str = field(metadata=_TEXT)
    machine: dict[str, Any] = field(metadata=_MAPPING)
    settings: dict[str, Any] = field(metadata=_MAPPING)
    arms: tuple[Arm, ...] = field(metadata={"read": _many(Arm)})
    summary: dict[str, Any] = field(metadata=_MAPPING)
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
    record = _build(Record, raw, "run", problems)
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
