"""Where the checkpoints of a run lie: the newest and the one before, each a file or a folder, and how they are renamed.

At any moment of a change there is a whole checkpoint under one of the two names.
"""

import os
import shutil
from pathlib import Path

FORMAT = 2
LAST, PREVIOUS, FILE = "last", "previous", ".pt"


def put_in_place(folder: Path, part: Path) -> None:
    """Make `part`, a file or a folder, the newest checkpoint of `folder`, and the newest that was there the one before.

    At any moment of it there is a whole checkpoint under one of the two names.
    """
    last = next((path for path in both(folder, LAST) if path.exists()), None)
    if last is not None:
        for path in both(folder, PREVIOUS):
            _remove(path)
        last.replace(folder / f"{PREVIOUS}{last.suffix}")
    part.replace(folder / f"{LAST}{'' if part.is_dir() else FILE}")
    sync_folder(folder)


def thin(folder: Path) -> None:
    """Keep the newest checkpoint of `folder` alone: what a training that is over needs."""
    if any(path.exists() for path in both(folder, LAST)):
        for path in both(folder, PREVIOUS):
            _remove(path)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` written to the disk: without this a crash of the machine may undo renames."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def both(folder: Path, name: str) -> tuple[Path, Path]:
    """The file and the folder that a checkpoint of this name may be."""
    return folder / f"{name}{FILE}", folder / name


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
