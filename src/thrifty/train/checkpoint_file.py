"""A checkpoint of one worker: one file, whole or not there, written beside, synced, renamed.

By `torch.save`: a zip whose entries carry checksums. `core.tensors_file` checks them, so a flipped bit is as loud as a
missing half. Loading never unpickles foreign code.
"""

import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from thrifty.core import tensors_file
from thrifty.core.errors import CheckpointError
from thrifty.train.checkpoint_places import FILE, FORMAT, LAST, put_in_place


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
    part = folder / f".{LAST}{FILE}.part"
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


def read(path: Path) -> dict[str, Any]:
    """`format`, `identity` and `state` of the file. Raises CheckpointError where it is damaged or of another kind."""
    try:
        content = tensors_file.read(path)
    except (tensors_file.DamagedFileError, OSError) as error:
        raise CheckpointError(f"{path} is truncated, damaged or no checkpoint ({error})") from error
    parts = content.keys() if isinstance(content, dict) else ()
    if not {"format", "identity", "state"} <= set(parts) or not isinstance(content["identity"], dict):
        raise CheckpointError(f"{path} is not a checkpoint of thrifty train")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        found = " ".join(str(content["format"]).split())[:20]
        raise CheckpointError(f"{path} has format {found}, this thrifty reads {FORMAT}")
    return content


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
