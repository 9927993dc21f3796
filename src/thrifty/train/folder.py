"""The folder of a run: may it be used, who is using it, and what lies where in it."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from thrifty.core.errors import CheckpointError, UsageError
from thrifty.train import checkpoint

RESULT = "result.json"
_OURS = (RESULT, "report.html", "plots", "checkpoints", "losses", "tensorboard")
MAX_BYTES = 1 << 28
_LOCK = ".lock"


def check_new(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a new run may be written to `folder`; nothing is changed.

    Raises:
        UsageError: the folder holds something and `overwrite` is false, or it is not a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: name a folder")
    if not overwrite and folder.is_dir() and any(item.name != _LOCK for item in folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty: go on with --resume, replace it with --overwrite, or name another --out"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of the run in `folder`, to go on with it.

    Raises:
        UsageError: there is no run in `folder`.
        CheckpointError: the record cannot be read.
    """
    path = folder / RESULT
    if not path.is_file():
        raise UsageError(f"nothing to resume: {path} does not exist; leave out --resume to begin a run there")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes are more than the record of a run can have")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): start anew with --overwrite") from error
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or "arms" not in record:
        raise CheckpointError(f"{path} is not the record of a training run: start anew with --overwrite")
    return record


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote to `folder`, and nothing else."""
    for name in _OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made when it is missing, for this process; a process that dies lets go of it.

    Raises:
        UsageError: another process is training into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is training into {folder}: wait for it, or name another --out") from None
        yield


def checkpoints(folder: Path, arm: str) -> Path:
    """Where the checkpoints of an arm lie."""
    return folder / "checkpoints" / arm


def load_weights(folder: str | Path, arm: str = "dense") -> dict[str, Tensor]:
    """Return the newest weights of an arm, with the keys of the stock model.

    Raises:
        UsageError: no such arm in `folder`.
        CheckpointError: its checkpoints are damaged.
    """
    state, _ = checkpoint.load(checkpoints(Path(folder), arm))
    if state is None:
        raise UsageError(f"{folder} has no checkpoint of an arm '{arm}'")
    weights: dict[str, Tensor] = state["shared"]["model"]
    return weights
