"""Checkpoints that are whole or not there: written beside, synced, renamed; the one before is kept.

A checkpoint is a state of two parts, `{"shared": ..., "own": {rank: ...}, "workers": n}`: what all workers have alike,
and what each has of its own. One worker writes it into one file, by `torch.save`: a zip whose entries carry checksums.
`core.tensors_file` checks them, so a flipped bit is as loud as a missing half. Several write it into a folder
(`sharded`). Either is read by any number of workers. Loading never unpickles foreign code.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from thrifty.core import tensors_file
from thrifty.core.errors import CheckpointError

FORMAT = 2
_LAST, _PREVIOUS, _FILE = "last", "previous", ".pt"
_EVERY_S = 30.0
_SHARE = 0.05

Found = tuple[str | None, list[str]]


def save(folder: Path, state: dict[str, Any], *, identity: dict[str, Any]) -> None:
    """Write `state` as the newest checkpoint of `folder`, and keep the newest before it.

    Args:
        folder: made when it is missing.
        state: tensors and plain data.
        identity: plain data that names the run, compared when the checkpoint is loaded.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; the checkpoints that are there stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{_LAST}{_FILE}.part"
    try:
        with part.open("wb") as file:
            out = _Remembering(file)
            try:
                torch.save({"format": FORMAT, "identity": identity, "state": state}, out)  # type: ignore[arg-type]  # it only writes
            except RuntimeError:
                if out.failure is not None:
                    raise out.failure from None
                raise
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"{folder}: the checkpoint cannot be written ({error.strerror}): make room and go on with --resume; "
                "the one before is whole"
            ) from error
        raise
    put_in_place(folder, part)


def put_in_place(folder: Path, part: Path) -> None:
    """Make `part`, a file or a folder, the newest checkpoint of `folder`, and the newest that was there the one before.

    At any moment of it there is a whole checkpoint under one of the two names.
    """
    last = next((path for path in _both(folder, _LAST) if path.exists()), None)
    if last is not None:
        for path in _both(folder, _PREVIOUS):
            _remove(path)
        last.replace(folder / f"{_PREVIOUS}{last.suffix}")
    part.replace(folder / f"{_LAST}{'' if part.is_dir() else _FILE}")
    sync_folder(folder)


class _Remembering:
    """A file for torch.save, which tells a failed write as an error of its own that does not say why."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as the file does, and keep the error if it fails."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Flush as the file does, and keep the error if it fails."""
        try:
            self._file.flush()
        except OSError as error:
            self.failure = error
            raise


def thin(folder: Path) -> None:
    """Keep the newest checkpoint of `folder` alone: what a training that is over needs."""
    if any(path.exists() for path in _both(folder, _LAST)):
        for path in _both(folder, _PREVIOUS):
            _remove(path)


def find(folder: Path, *, identity: dict[str, Any] | None = None) -> Found:
    """Look for the newest good checkpoint of `folder`.

    Args:
        folder: where `save` wrote.
        identity: what the checkpoint must have been saved with; None takes any.

    Returns:
        Its name, or None when there is no checkpoint; and a warning for each newer one that was damaged.

    Raises:
        CheckpointError: every checkpoint is damaged, or the newest good one belongs to another run.
    """
    from thrifty.train import sharded

    damaged: list[str] = []
    for name in (_LAST, _PREVIOUS):
        for path in _both(folder, name):
            if not path.exists():
                continue
            check: Callable[[Path], dict[str, Any]] = sharded.check if path.is_dir() else _read
            try:
                content = check(path)
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            if identity is not None:
                _compare(path, content["identity"], identity)
            return path.name, [f"{message}: going on from {path.name}" for message in damaged]
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}: start anew with --overwrite or another --out")
    return None, []


def read(path: Path, rank: int = 0) -> dict[str, Any]:
    """The state of a checkpoint that `find` named, with what `rank` had of its own where there was such a worker.

    Raises:
        CheckpointError: it is damaged.
    """
    from thrifty.train import sharded

    state: dict[str, Any] = sharded.read(path, rank) if path.is_dir() else _read(path)["state"]
    return state


def load(folder: Path, *, identity: dict[str, Any] | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    """`find` and `read` of one worker: the state, or None, and the warnings."""
    name, warnings = find(folder, identity=identity)
    return (None if name is None else read(folder / name)), warnings


def _both(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}{_FILE}", folder / name


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tensors_file.read(path)
    except (tensors_file.DamagedFileError, OSError) as error:
        raise CheckpointError(f"{path} is truncated, damaged or no checkpoint ({error})") from error
    if not isinstance(content, dict) or not {"format", "identity", "state"} <= content.keys():
        raise CheckpointError(f"{path} is not a checkpoint of thrifty train")
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this thrifty reads {FORMAT}")
    return content


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if differing:
        told = ", ".join(f"{key} is {found.get(key)}, not {wanted.get(key)}" for key in differing[:3])
        raise CheckpointError(f"{path} belongs to another run ({told}): use the same settings or another --out")


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` written to the disk: without this a crash of the machine may undo renames."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Rhythm:
    """When the next checkpoint inside an epoch is due: every so many steps, or about every 30 s.

    By the clock, checkpoints wait until they have cost no more than a twentieth of the time, however large the model.
    """

    def __init__(self, every_steps: int | None) -> None:
        self._every_steps = every_steps
        self._wait_s = _EVERY_S
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after training step `step` (counted from 1)."""
        if self._every_steps is not None:
            return step % self._every_steps == 0
        return time.monotonic() - self._last >= self._wait_s

    def saved(self, seconds: float) -> None:
        """Take notice that a checkpoint was written in `seconds`."""
        self._wait_s = max(_EVERY_S, seconds / _SHARE)
        self._last = time.monotonic()
