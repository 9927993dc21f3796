"""A checkpoint of several workers: a folder that `torch.distributed.checkpoint` writes, each worker a part of it.

Tensors that all workers have alike are written once, by turns; any number of workers reads the whole back. What is not
a tensor travels inside one, as bytes of `torch.save`: torch's own reader would unpickle it without a question. A
manifest with the size and SHA-256 of every file is written last, so that a checkpoint is whole or no checkpoint, and a
flipped bit is told. Even the metadata is read by an unpickler that knows torch's own classes only.
The folder must be one that all workers see.
"""

import hashlib
import io
import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from thrifty.core.atomic import write_json
from thrifty.core.errors import CheckpointError
from thrifty.core.lockstep import lost
from thrifty.distributed.workers import Workers
from thrifty.train.checkpoint_places import FORMAT, put_in_place, sync_folder

_MANIFEST, _PART = "manifest.json", ".last.part"
_SHARED, _OWN = "shared", "own"
_TENSOR = "tensor of thrifty"


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
        manifest["identity"], manifest["workers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is truncated, damaged or no checkpoint ({error})") from error
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}, this thrifty reads {FORMAT}")
    for name, digest in files.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing")
        if _digest(path / name) != digest:
            raise CheckpointError(f"{path} is damaged in {name}")
    content: dict[str, Any] = manifest
    return content


def read(path: Path, rank: int) -> dict[str, Any]:
    """The state in the checkpoint `path`; `own` holds what worker `rank` had, if there was one.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        found = _Reader(path).read_metadata().state_dict_metadata
        sizes = {key: of_key.size for key, of_key in found.items() if isinstance(of_key, TensorStorageMetadata)}
        ranks = [rank] if f"{_OWN}.{rank}" in sizes else []
        parcels = {
            key: torch.empty(sizes[key], dtype=torch.uint8) for key in (_SHARED, *(f"{_OWN}.{r}" for r in ranks))
        }
        _load(parcels, path)
        skeleton = _from_bytes(parcels[_SHARED])
        tensors: dict[str, Tensor] = {}
        shared = _put_together(skeleton, tensors)
        _load(tensors, path)
        own = {r: _from_bytes(parcels[f"{_OWN}.{r}"]) for r in ranks}
        count = sum(key.startswith(f"{_OWN}.") for key in sizes)
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, AttributeError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint ({reason})") from error
    return {"shared": shared, "own": own, "workers": count}


def _empty(part: Path) -> None:
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)


def _load(tensors: dict[str, Tensor], path: Path) -> None:
    if not tensors:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a process reads by itself is what is meant
        dcp.load(tensors, storage_reader=_Reader(path), no_dist=True)


class _Metadata(pickle.Unpickler):
    """Knows the classes that torch's metadata is made of, and no function that could do harm."""

    def find_class(self, module: str, name: str) -> Any:
        of_checkpoints = module.startswith("torch.distributed.checkpoint.") and name.lstrip("_")[:1].isupper()
        known = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict")}
        paths = module in ("pathlib", "pathlib._local") and name in ("Path", "PosixPath", "WindowsPath")
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if of_checkpoints or paths or is_dtype or (module, name) in known:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its metadata names {module}.{name}, which no checkpoint does")


class _Reader(dcp.FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Metadata(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("its metadata is something else")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


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


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The way back; the tensors are made, laid out as they were, and put into `tensors` to be filled."""
    if isinstance(value, dict) and set(value) == {_TENSOR}:
        key, dtype, shape, stride = value[_TENSOR]
        tensors[key] = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype))
        return tensors[key]
    if isinstance(value, dict):
        return {name: _put_together(item, tensors) for name, item in value.items()}
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    return value


def _to_bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _from_bytes(parcel: Tensor) -> Any:
    return torch.load(io.BytesIO(parcel.numpy().tobytes()), map_location="cpu", weights_only=True)


def _digest(path: Path) -> list[Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [path.stat().st_size, digest]
