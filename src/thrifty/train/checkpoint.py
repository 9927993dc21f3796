"""Checkpoints that are whole or not there; the one before the newest is kept, and taken where the newest is damaged.

A checkpoint is a state of two parts, `{"shared": ..., "own": {rank: ...}, "workers": n}`: what all workers have alike,
and what each has of its own. One worker writes it into a file (`checkpoint_file`), several into a folder (`sharded`).
Either is read by any number of workers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from thrifty.core.errors import CheckpointError
from thrifty.train import checkpoint_file
from thrifty.train.checkpoint_file import save
from thrifty.train.checkpoint_places import LAST, PREVIOUS, both, thin

__all__ = ["find", "load", "read", "save", "thin"]

Found = tuple[str | None, list[str]]


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
    from thrifty.train import sharded  # what it stands on takes a second to import

    damaged: list[str] = []
    for name in (LAST, PREVIOUS):
        for path in both(folder, name):
            if not path.exists():
                continue
            check: Callable[[Path], dict[str, Any]] = sharded.check if path.is_dir() else checkpoint_file.read
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

    state: dict[str, Any] = sharded.read(path, rank) if path.is_dir() else checkpoint_file.read(path)["state"]
    return state


def load(folder: Path, *, identity: dict[str, Any] | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    """`find` and `read` of one worker: the state, or None, and the warnings."""
    name, warnings = find(folder, identity=identity)
    return (None if name is None else read(folder / name)), warnings


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [key for key in {**found, **wanted} if _differ(found.get(key), wanted.get(key))]
    if differing:
        told = ", ".join(f"{key} is {found.get(key)}, not {wanted.get(key)}" for key in differing[:3])
        told = " ".join(told.split())  # a stranger's text may be of many lines
        raise CheckpointError(f"{path} belongs to another run ({told}): use the same settings or another --out")


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except (RuntimeError, RecursionError):  # a stranger's tensor is compared number by number
        return True
