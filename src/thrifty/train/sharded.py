"""A checkpoint of several workers: a folder that `torch.distributed.checkpoint` writes, each worker a part of it.

Tensors that all workers have alike are written once, by turns; any number of workers reads the whole back. What is not
a tensor travels inside one, as bytes of `torch.save`: torch's own reader would unpickle it without a question. A
manifest with the size and SHA-256 of every file is written last, so that a checkpoint is whole or no checkpoint, and a
flipped bit is told. It is read by `sharded_reader`, as what a stranger may have made.
The folder must be one that all workers see.
"""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from thrifty.core import tensors_file
from thrifty.core.atomic import write_json
from thrifty.core.errors import CheckpointError
from thrifty.core.lockstep import lost
from thrifty.distributed.workers import Workers
from thrifty.train import sharded_reader
from thrifty.train.checkpoint_places import FORMAT, put_in_place, sync_folder
from thrifty.train.sharded_reader import Place, reason

_MANIFEST, _PART = "manifest.json", ".last.part"
_SHARED, _OWN = "shared", "own"
_TENSOR = "tensor of thrifty"
_MAX_SPREAD_BYTES = 1 << 30


def save(folder: Path, shared: Any, own: Any, *, identity: dict[str, Any], workers: Workers) -> None:
    """Write the newest checkpoint of `folder`, and keep the newest before it; all workers call it.

    Args:
        folder: made when it is missing.
        shared: tensors and plain data, alike on all workers.
        own: those of this worker.
        identity: plain data that names the run.
        workers: who writes.

    Raises:
        CheckpointError: it could not be written; what was there stays.
        DistributedError: a worker was lost.
    """
    part = folder / _PART
    workers.only_first(lambda: _empty(part))
    tensors: dict[str, Tensor] = {}
    tensors[_SHARED] = _to_bytes(_taken_apart(shared, tensors, _SHARED))
    tensors[f"{_OWN}.{workers.rank}"] = _to_bytes(own)
    try:
        with lost("the writing of a checkpoint"):
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(part), process_group=workers.group)
    except (dcp.api.CheckpointException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{part} cannot be written ({reason}): look for a full disk") from error
    written = workers.gather({path.name: _digest(path) for path in sorted(part.glob(f"__{workers.rank}_*"))})

    def finish() -> None:
        files = {name: digest for of_worker in written for name, digest in of_worker.items()}
        files[".metadata"] = _digest(part / ".metadata")
        write_json(part / _MANIFEST, {"format": FORMAT, "identity": identity, "workers": workers.size, "files": files})
        sync_folder(part)
        put_in_place(folder, part)

    workers.only_first(finish)


def check(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint `path`, when every file is as it was written.

    Raises:
        CheckpointError: something is missing or changed; names it.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files, version = dict(manifest["files"]), manifest["format"]
        if not isinstance(manifest["identity"], dict) or type(manifest["workers"]) is not int:
            raise ValueError("its manifest names no run")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated, damaged or no checkpoint ({reason(error)})") from error
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(f"{path} has format {str(version)[:20]!r}, this thrifty reads {FORMAT}")
    for name, digest in files.items():
        if type(name) is not str or Path(name).name != name or not name.isprintable():
            raise CheckpointError(f"{path} is damaged: its manifest names {name!r}")
        try:
            if not (path / name).is_file():
                raise CheckpointError(f"{path} is damaged: {name} is missing")
            if _digest(path / name) != digest:
                raise CheckpointError(f"{path} is damaged in {name}")
        except OSError as error:
            raise CheckpointError(f"{path} is damaged: {name} cannot be read ({error.strerror})") from error
    content: dict[str, Any] = manifest
    return content


def read(path: Path, rank: int) -> dict[str, Any]:
    """The state in the checkpoint `path`; `own` holds what worker `rank` had, if there was one.

    Raises:
        CheckpointError: it is damaged.
    """
    places = sharded_reader.places(path)
    if _SHARED not in places:
        raise CheckpointError(f"{path} is damaged or no checkpoint (what all workers share is missing)")
    try:
        shared = _Tensors(path, places).put_together(_from_bytes(sharded_reader.read(path, places[_SHARED])))
        key = f"{_OWN}.{rank}"
        own = {rank: _from_bytes(sharded_reader.read(path, places[key]))} if key in places else {}
    # What a damaged note says of a tensor can be wrong in any way at all.
    except (RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({reason(error)})") from error
    return {"shared": shared, "own": own, "workers": sum(key.startswith(f"{_OWN}.") for key in places)}


def _empty(part: Path) -> None:
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)


def _taken_apart(value: Any, tensors: dict[str, Tensor], key: str) -> Any:
    """`value` with a note in place of each tensor, which goes to `tensors`."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach()
        return {_TENSOR: [key, str(value.dtype).removeprefix("torch."), list(value.shape), list(value.stride())]}
    if isinstance(value, dict):
        return {name: _taken_apart(item, tensors, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_taken_apart(item, tensors, f"{key}.{i}") for i, item in enumerate(value)]
    return value


class _Tensors:
    """The way back: the tensors of a folder, each taken once, where a value has notes of them."""

    def __init__(self, path: Path, places: dict[str, Place]) -> None:
        self._path, self._left, self._room_bytes = path, dict(places), _MAX_SPREAD_BYTES

    def put_together(self, value: Any) -> Any:
        """The value with tensors in place of notes, laid out as they were."""
        if isinstance(value, dict) and set(value) == {_TENSOR}:
            key, _, shape, stride = value[_TENSOR]
            found = sharded_reader.read(self._path, self._left.pop(key))
            if list(found.shape) != shape:
                raise ValueError(f"{key!r} is noted with another shape")
            return found if list(found.stride()) == stride or 0 in stride else self._spread(found, stride)
        if isinstance(value, dict):
            return {name: self.put_together(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.put_together(item) for item in value]
        return value

    def _spread(self, found: Tensor, stride: list[int]) -> Tensor:
        """The tensor with gaps between its numbers, as it was when it was part of a larger one."""
        if min(stride) < 0:
            raise ValueError("a tensor is noted with steps backwards")
        if found.numel():
            reach = sum((size - 1) * step for size, step in zip(found.shape, stride, strict=True))
            self._room_bytes -= (1 + reach) * found.element_size()
        if self._room_bytes < 0:
            raise ValueError("its tensors claim bytes that it does not hold")
        return torch.empty_strided(found.shape, stride, dtype=found.dtype).copy_(found)


def _to_bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _from_bytes(parcel: Tensor) -> Any:
    return tensors_file.read_bytes(parcel.numpy().tobytes())


def _digest(path: Path) -> list[Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [path.stat().st_size, digest]
