"""The IDX format of MNIST and its kin, plain or gzipped.

A file is: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then the
values, big-endian, last dimension fastest (format: Y. LeCun, the MNIST database page).
"""

import gzip
import math
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from thrifty.core.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(name).newbyteorder("="): code for code, name in _TYPES.items()}
_MAX_DIMS = 8
# Deflate cannot shrink data further than 1032 to 1, so a header that claims more is wrong before memory is taken.
_MAX_DEFLATE_RATIO = 1032
_CHUNK_BYTES = 1 << 20


def read_idx(path: str | Path) -> np.ndarray:
    """Return the array in an IDX file, in native byte order; gzip is known by its first bytes, not by the name.

    Raises DataError, naming the file and the byte offset, when the file is missing, no IDX, truncated, longer than its
    header says, empty, or damaged in its gzip layer.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            room = path.stat().st_size
            if not zipped:
                return _read(path, file, room)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read(path, cast(BinaryIO, unzipped), room * _MAX_DEFLATE_RATIO)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Write an array as gzipped IDX; the same array gives the same bytes (with one version of zlib).

    Raises DataError for a dtype that IDX does not have, or no dimension, or more than 8.
    """
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None or not 1 <= array.ndim <= _MAX_DIMS:
        raise DataError(f"{path}: IDX cannot hold {array.dtype} with {array.ndim} dimensions")
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    values = np.ascontiguousarray(array, dtype=_TYPES[code]).tobytes()
    with Path(path).open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
        zipped.write(header + values)


def _read(path: Path, stream: BinaryIO, room_bytes: int) -> np.ndarray:
    head = _take(path, stream, 4, 0)
    if head[:2] != b"\0\0" or head[2] not in _TYPES:
        raise DataError(f"{path}: not an IDX file: its first bytes at byte 0 are {head.hex(' ')}")
    if not 1 <= head[3] <= _MAX_DIMS:
        raise DataError(f"{path}: IDX header at byte 3 says {head[3]} dimensions: expected 1 to {_MAX_DIMS}")
    dtype = np.dtype(_TYPES[head[2]])
    shape = tuple(int(size) for size in np.frombuffer(_take(path, stream, 4 * head[3], 4), dtype=">u4"))
    start = 4 + 4 * head[3]
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes == 0:
        raise DataError(f"{path}: IDX header at byte 4 gives shape {shape}: the file holds nothing")
    if size_bytes > room_bytes:
        raise DataError(
            f"{path}: IDX header at byte 4 gives shape {shape}, {size_bytes} bytes, more than the file can hold: "
            "it is truncated or its header is damaged"
        )
    values = _take(path, stream, size_bytes, start)
    # Reading on to the end also makes gzip check its checksum.
    if _step(path, stream, 1, start + size_bytes):
        raise DataError(f"{path}: data goes on at byte {start + size_bytes}, where shape {shape} ends")
    return np.frombuffer(values, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _take(path: Path, stream: BinaryIO, size: int, offset: int) -> bytearray:
    """Read exactly `size` bytes; `offset` is where they start in the (unzipped) file."""
    got = bytearray()
    while len(got) < size:
        chunk = _step(path, stream, min(_CHUNK_BYTES, size - len(got)), offset + len(got))
        if not chunk:
            raise DataError(f"{path}: truncated: ends at byte {offset + len(got)} of {offset + size}; get it anew")
        got += chunk
    return got


def _step(path: Path, stream: BinaryIO, size: int, offset: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, OSError, zlib.error) as error:
        where = ""
        with suppress(AttributeError, OSError, ValueError):
            where = f" (byte {stream.fileobj.tell()} of the compressed file)"  # type: ignore[attr-defined]
        raise DataError(f"{path}: damaged gzip near byte {offset} of its content{where}: {error}") from error
