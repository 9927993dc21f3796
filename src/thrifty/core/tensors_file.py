"""Files of tensors and plain data, as `torch.save` writes them, read as what a stranger may have made.

Such a file is a zip. Before torch looks at it: entries are stored as they are, as torch writes them, so none can
swell; they lie within the file, and their checksums agree, which torch does not look at; no tensor claims more bytes
than its entry has, which would be read from memory that belongs to others. torch then reads it by its restricted
unpickler, which knows tensors and plain data. Afterwards tensors that are larger than their memory (by strides of 0 a
few bytes pass for terabytes) may be so by a gigabyte together, and what is nested may not be of a size that only shared
parts make possible. What makes memory of a size that the pickle names, as `bytearray(n)` does, is refused.

Cost: the file is read twice, and its pickle, some kilobytes, is gone through twice.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_ITEM_BYTES = {
    "BFloat16Storage": 2, "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8, "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "IntStorage": 4,
    "LongStorage": 8, "QInt32Storage": 4, "QInt8Storage": 1, "QUInt8Storage": 1, "ShortStorage": 2, "UntypedStorage": 1,
}  # fmt: skip
_MAX_PICKLE_BYTES = 1 << 28
_MAX_VALUES = 50_000_000
_MAX_SPREAD_BYTES = 1 << 30


class DamagedFileError(ValueError):
    """The file is cut off, damaged, or nothing that `torch.save` writes; the message is a reason without the path."""


def read(path: Path, *, mapped: bool = False) -> Any:
    """Return what `torch.save` wrote to `path`, on the CPU: tensors and plain data.

    Args:
        path: the file.
        mapped: leave the tensors' numbers in the file until they are used; it must then stay as it is.

    Raises:
        DamagedFileError: whatever is wrong with the file's content.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        return _read(file, path.stat().st_size, path, mapped)


def read_bytes(content: bytes) -> Any:
    """As `read`, for what `torch.save` wrote into memory. Raises DamagedFileError."""
    stream = io.BytesIO(content)
    return _read(stream, len(content), stream, mapped=False)


def _read(file: BinaryIO, size_bytes: int, source: Any, mapped: bool) -> Any:
    try:
        _check_zip(file, size_bytes)
        file.seek(0)
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
        _check_values(content)
    except DamagedFileError:
        raise
    # A damaged program can fail in any way at all: by an index, a type, a missing key, recursion.
    except Exception as error:
        raise DamagedFileError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return content


def _check_zip(file: BinaryIO, size_bytes: int) -> None:
    if file.read(4) != b"PK\x03\x04":
        raise DamagedFileError("it does not begin as a zip does")
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if archive.comment or sum(info.file_size for info in infos) > size_bytes:
            raise DamagedFileError("its entries do not fit in the file")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED:
                raise DamagedFileError(f"its entry {info.filename} is compressed")
        broken = archive.testzip()
        if broken is not None:
            raise DamagedFileError(f"damaged at its entry {broken}")
        sizes = {info.filename.partition("/")[2]: info.file_size for info in infos}
        pickled = next((info for info in infos if info.filename.partition("/")[2] == "data.pkl"), None)
        if pickled is None or len(sizes) != len(infos) or pickled.file_size > _MAX_PICKLE_BYTES:
            raise DamagedFileError("it has not the entries that torch writes")
        with archive.open(pickled) as stream:
            claims = _Claims(stream)
            claims.load()
    for key, claimed_bytes in claims.found:
        if not 0 <= claimed_bytes <= sizes.get(f"data/{key}", -1):
            raise DamagedFileError(f"a tensor claims {claimed_bytes} bytes of its entry data/{key}")


class _Inert:
    """Stands for everything that the pickle names: takes any arguments and state, does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Hungry(_Inert):
    """Stands for what takes as much memory as a number in the file says; `torch.save` names such, and calls none."""

    def __new__(cls, *_: Any) -> "_Hungry":
        raise DamagedFileError(f"it makes a {cls.__name__} of a size that it names")


# The pure-Python unpickler, as a damaged file cannot make it reserve a memo of 2^32 entries; without the instruction
# that reserves what it is told to.
class _Claims(pickle._Unpickler):
    """Goes through a pickle without running anything, and keeps which bytes of which entry its tensors claim."""

    dispatch = {  # noqa: RUF012
        code: action for code, action in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.found: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        hungry = name == "bytearray" or name.endswith(("Tensor", "Storage"))
        return type(name, (_Hungry if hungry else _Inert,), {"_storage": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and type(pid[4]) is int):
            raise DamagedFileError("it refers to something that is no tensor's memory")
        kind = getattr(pid[1], "_storage", "")
        if kind.rpartition(".")[2] not in _ITEM_BYTES:
            raise DamagedFileError(f"it holds numbers of a kind that is not read here ({kind})")
        self.found.append((str(pid[2]), pid[4] * _ITEM_BYTES[kind.rpartition(".")[2]]))
        return _Inert()


def _check_values(content: Any) -> None:
    """Look at every value once; shared parts count as often as they are named, since whoever walks sees them so."""
    sizes: dict[int, int] = {}
    spread_bytes = 0

    def size(value: Any) -> int:
        nonlocal spread_bytes
        if isinstance(value, Tensor) and value.layout is torch.strided:
            claimed = value.numel() * value.element_size()
            spread_bytes += claimed if claimed > value.untyped_storage().nbytes() else 0
        if not isinstance(value, dict | list | tuple | set):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = _MAX_VALUES  # a value that holds itself never ends
            inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, inner))
        return sizes[id(value)]

    if size(content) > _MAX_VALUES:
        raise DamagedFileError("it holds more values than a training can have")
    if spread_bytes > _MAX_SPREAD_BYTES:
        raise DamagedFileError(f"its tensors claim {spread_bytes} bytes that it does not hold")
