"""Tensors in a folder that `torch.distributed.checkpoint` wrote, read as what a stranger may have made.

torch's own reader runs whatever the metadata names, and unpickles without a question what the metadata calls bytes.
Here the metadata is gone through by an unpickler that makes nothing but tuples and records of plain values, and each
tensor is read as any file of tensors (`core.tensors_file`). No tensor is larger than what its file holds of it.
"""

import io
import math
import pickle
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thrifty.core import tensors_file
from thrifty.core.errors import CheckpointError

_METADATA = ".metadata"
_RECORDS = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "BytesStorageMetadata", "StorageMeta",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}  # fmt: skip
_IGNORED = {
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"), ("torch.serialization", "_get_layout"),
    ("builtins", "getattr"),  # by which some Pythons write an enumeration's member
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "WindowsPath")),
}  # fmt: skip
_INSTRUCTIONS = (  # noqa: SIM905
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL "
    "REDUCE NEWOBJ BUILD"
).split()


@dataclass(frozen=True)
class Place:
    """Where a tensor lies, `length_bytes` from `offset_bytes` on in the file `name`, and what it must be there."""

    name: str
    offset_bytes: int
    length_bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def places(path: Path) -> dict[str, Place]:
    """Where the tensors of the folder `path` lie, by their names in it.

    Raises:
        CheckpointError: the metadata is missing, damaged, or more than the description of whole tensors.
    """
    try:
        content = (path / _METADATA).read_bytes()
        found = _places(_Metadata(io.BytesIO(content)).load())
        for name in {place.name for place in found.values()}:
            held, size = sum(p.length_bytes for p in found.values() if p.name == name), (path / name).stat().st_size
            if held > size:  # else a few bytes could pass for any number of tensors
                raise ValueError(f"it finds {held} bytes in {name}, which has {size}")
    # A damaged program can fail in any way at all: by an index, a type, a missing key, recursion.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({_METADATA}: {reason(error)})") from error
    return found


def read(path: Path, place: Place) -> Tensor:
    """The tensor at this place of the folder `path`. Raises CheckpointError where it is damaged, or another one."""
    try:
        with (path / place.name).open("rb") as file:
            file.seek(place.offset_bytes)
            value = tensors_file.read_bytes(file.read(place.length_bytes))
    except (OSError, tensors_file.DamagedFileError) as error:
        raise CheckpointError(f"{path} is damaged in {place.name} ({reason(error)})") from error
    if type(value) is not Tensor or value.layout is not torch.strided or value.device.type != "cpu":
        raise CheckpointError(f"{path} is damaged in {place.name}: it holds something that is no tensor of numbers")
    if tuple(value.shape) != place.shape or value.dtype != place.dtype:
        raise CheckpointError(f"{path} is damaged in {place.name}: a tensor has not the shape that {_METADATA} says")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(f"{path} is damaged in {place.name}: a tensor claims more than it holds")
    return value


def reason(error: BaseException) -> str:
    """What an error of any kind says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Record:
    """Stands for an object of torch's metadata: keeps its fields."""

    def __init__(self, kind: str) -> None:
        self.kind, self.fields = kind, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass(frozen=True)
class _Kind:
    """Stands for a class of torch's metadata, of which records are made."""

    name: str


# The pure-Python unpickler: its table of instructions can be cut, and a damaged file cannot make it reserve memory.
class _Metadata(pickle._Unpickler):
    dispatch = {  # noqa: RUF012
        code: action
        for code, action in pickle._Unpickler.dispatch.items()
        if code in {getattr(pickle, name)[0] for name in _INSTRUCTIONS}
    }
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return _Kind(name)
        if (module, name) == ("torch", "Size"):
            return _size
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) in _IGNORED:
            return _nothing
        raise pickle.UnpicklingError(f"its metadata names {module}.{name}, which no checkpoint does")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, _Kind) or arguments != ():
            raise pickle.UnpicklingError("it makes an object that no metadata has")
        self.stack.append(_Record(kind.name))

    def load_reduce(self) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        if call is not _size and call is not _nothing:
            raise pickle.UnpicklingError("it calls something that no metadata calls")
        self.stack.append(call(*arguments))

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Record):
            raise pickle.UnpicklingError("it sets the state of something that has none")
        if isinstance(state, tuple):  # of TensorProperties
            state = {"dtype": state[0]}
        self.stack[-1].fields = dict(state)

    dispatch[pickle.NEWOBJ[0]] = load_newobj  # type: ignore[assignment]
    dispatch[pickle.REDUCE[0]] = load_reduce  # type: ignore[assignment]
    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


def _size(values: Any = ()) -> tuple[int, ...]:
    return tuple(_natural(value) for value in values)


def _nothing(*_: Any) -> None:
    return None


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{str(value)[:80]!r} is no size")
    return value


def _places(metadata: Any) -> dict[str, Place]:
    lying: dict[Hashable, _Record] = {}
    for index, info in metadata["storage_data"].items():
        if info.fields.get("transform_descriptors"):
            raise ValueError("a tensor is packed in a way that is not read here")
        lying[index["fqn"], index["offset"]] = info
    found = {}
    for key, about in metadata["state_dict_metadata"].items():
        shape, chunks = _size(about["size"]), about["chunks"]
        if about.kind != "TensorStorageMetadata" or not chunks or any(c["sizes"] != shape for c in chunks):
            raise ValueError("it describes something that is not a whole tensor")
        info = lying[key, (0,) * len(shape)]
        name, dtype = info["relative_path"], about["properties"]["dtype"]
        if type(name) is not str or not name.isprintable() or name in ("", ".", "..") or set(name) & set("/\\:"):
            raise ValueError(f"{str(name)[:80]!r} is no file of the folder")
        if type(key) is not str or not isinstance(dtype, torch.dtype):
            raise ValueError("it describes something that is not a tensor")
        held = Place(name, _natural(info["offset"]), _natural(info["length"]), shape, dtype)
        if math.prod(shape) * dtype.itemsize > held.length_bytes:
            raise ValueError(f"a tensor claims {math.prod(shape) * dtype.itemsize} of {held.length_bytes} bytes")
        found[key] = held
    return found
