"""CIFAR-10 and CIFAR-100 as distributed: python (pickled) or binary batches, in a folder or in the .tar.gz.

An image is 3072 bytes: 1024 red, 1024 green, 1024 blue, rows first (format: A. Krizhevsky, 2009, the CIFAR page).
"""

import gzip
import tarfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from thrifty.core.errors import DataError

from .in_memory import from_array
from .pickles import read_pickle
from .raw import RawImages, RawSplit, check_labels

_PIXELS_BYTES = 3 * 32 * 32
_MAX_MEMBER_BYTES = 1 << 28
_MAX_ARCHIVE_BYTES = 1 << 30
_MAX_ENTRIES = 1000
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class CifarFormat:
    """One of the four distributions: its files and where the label is.

    `label` is the key in a python batch; in a binary record the label is the last of `label_bytes` bytes.
    """

    title: str
    train: tuple[str, ...]
    test: str
    meta: str
    images_per_train_file: int
    images_per_test_file: int
    classes: int
    label: str
    names: str
    label_bytes: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that must be there."""
        return (*self.train, self.test, self.meta)


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))
FORMATS = (
    CifarFormat(
        "CIFAR-10 (python batches)", _FIVE, "test_batch", "batches.meta", 10_000, 10_000, 10, "labels", "label_names"
    ),
    CifarFormat(
        "CIFAR-10 (binary batches)",
        tuple(f"{name}.bin" for name in _FIVE),
        "test_batch.bin",
        "batches.meta.txt",
        10_000,
        10_000,
        10,
        "",
        "",
        1,
    ),
    CifarFormat(
        "CIFAR-100 (python batches)", ("train",), "test", "meta", 50_000, 10_000, 100, "fine_labels", "fine_label_names"
    ),
    CifarFormat(
        "CIFAR-100 (binary batches)",
        ("train.bin",),
        "test.bin",
        "fine_label_names.txt",
        50_000,
        10_000,
        100,
        "",
        "",
        2,
    ),
)


def cifar_format(names: Collection[str]) -> CifarFormat | None:
    """Return the distribution whose files these names show, or None."""
    for candidate in FORMATS:
        # A lone file called "train" or "meta" says nothing; the batch that every copy has, and one more, does.
        if sum(name in names for name in candidate.files) >= 2:
            return candidate
    return None


def read_cifar_folder(folder: Path) -> RawImages:
    """Return the images of a folder of batches.

    Raises DataError, naming file and byte offset, for a missing, truncated or damaged file or a label without a class.
    """
    layout = cifar_format([path.name for path in folder.iterdir() if path.is_file()])
    if layout is None:
        raise DataError(f"{folder}: no CIFAR batches: expected {', '.join(FORMATS[0].files)}")
    contents = {}
    for name in layout.files:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing: {layout.title} has the files {', '.join(layout.files)}")
        if path.stat().st_size > _MAX_MEMBER_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes are too many for a CIFAR batch")
        contents[name] = path.read_bytes()
    return _parse(layout, contents, f"{folder}/")


def read_cifar_archive(archive: Path) -> RawImages:
    """Return the images of a .tar.gz of batches; nothing is extracted to disk.

    Raises DataError as `read_cifar_folder` does, naming archive and entry.
    """
    wanted = {name for layout in FORMATS for name in layout.files}
    contents: dict[str, bytes] = {}
    entry = "its first entry"
    try:
        with gzip.open(archive) as zipped:
            unzipped = _Bounded(zipped, archive)
            with tarfile.open(fileobj=unzipped, mode="r:") as tar:  # type: ignore[call-overload]  # it only reads and seeks
                for count, member in enumerate(tar):
                    entry = f"entry {member.name}"
                    if count >= _MAX_ENTRIES:
                        raise DataError(f"{archive}: more than {_MAX_ENTRIES} entries: no archive of CIFAR batches")
                    name = Path(member.name).name
                    if not member.isfile() or name not in wanted:
                        continue
                    if member.size > _MAX_MEMBER_BYTES:
                        raise DataError(f"{archive}: {entry} claims {member.size} bytes, too many for a CIFAR batch")
                    stream = tar.extractfile(member)
                    contents[name] = stream.read() if stream is not None else b""
            # The checksum of the whole archive comes after the last entry.
            while unzipped.read(_CHUNK_BYTES):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{archive}: damaged or truncated at {entry}: {error}; get it anew") from error
    layout = cifar_format(contents)
    missing = [name for name in layout.files if name not in contents] if layout else []
    if layout is None or missing:
        what = f"no {missing[0]} in it" if layout else "no CIFAR batches in it"
        raise DataError(f"{archive}: {what}: expected {', '.join((layout or FORMATS[0]).files)}")
    return _parse(layout, contents, f"{archive}: ")


class _Bounded:
    """A stream that gives no more than `_MAX_ARCHIVE_BYTES`: a small archive may unpack to any size, headers too."""

    def __init__(self, stream: gzip.GzipFile, archive: Path) -> None:
        self._stream, self._archive = stream, archive
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes. Raises DataError where that is past the bound."""
        self._check(self._stream.tell() + (size if size >= 0 else _MAX_ARCHIVE_BYTES))
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as the stream does. Raises DataError where that is past the bound."""
        self._check(offset + (self._stream.tell() if whence == 1 else 0))
        return self._stream.seek(offset, whence)

    def _check(self, end: int) -> None:
        if end > _MAX_ARCHIVE_BYTES:
            raise DataError(f"{self._archive}: unpacks to more than {_MAX_ARCHIVE_BYTES} bytes: no CIFAR archive")


def _parse(layout: CifarFormat, contents: Mapping[str, bytes], prefix: str) -> RawImages:
    read = read_binary if layout.label_bytes else read_python
    classes = _class_names(layout, contents[layout.meta], prefix + layout.meta)
    parts = [read(layout, contents[name], layout.images_per_train_file, prefix + name) for name in layout.train]
    train = RawSplit(np.concatenate([labels for _, labels in parts]), from_array(np.concatenate([x for x, _ in parts])))
    images, labels = read(layout, contents[layout.test], layout.images_per_test_file, prefix + layout.test)
    return RawImages(train, RawSplit(labels, from_array(images)), classes, layout.title)


def read_binary(layout: CifarFormat, content: bytes, count: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (count, 32, 32, 3) uint8 and labels (count,) int64 of a binary batch."""
    record = layout.label_bytes + _PIXELS_BYTES
    if len(content) != count * record:
        raise DataError(
            f"{where}: ends at byte {len(content)}; {count} images of {record} bytes end at {count * record}: "
            "it is truncated or no such batch"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(count, record)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    check_labels(labels, layout.classes, where, offset=layout.label_bytes - 1, stride=record)
    return _pixels_last(records[:, layout.label_bytes :]), labels


def read_python(layout: CifarFormat, content: bytes, count: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (count, 32, 32, 3) uint8 and labels (count,) int64 of a python batch."""
    batch = read_pickle(content, where)
    pixels, labels = batch.get("data"), batch.get(layout.label)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (count, _PIXELS_BYTES):
        shape = getattr(pixels, "shape", type(pixels).__name__)
        raise DataError(f"{where}: 'data' is {shape}: expected uint8 of shape ({count}, {_PIXELS_BYTES})")
    if not _is_list(labels, int) or len(labels) != count:
        raise DataError(f"{where}: {layout.label!r} is no list of {count} whole numbers")
    array = np.array([min(max(label, -1), layout.classes) for label in labels], dtype=np.int64)
    check_labels(array, layout.classes, where)
    return _pixels_last(pixels), array


def _class_names(layout: CifarFormat, content: bytes, where: str) -> tuple[str, ...]:
    names: Any = content.split() if layout.label_bytes else read_pickle(content, where).get(layout.names)
    if layout.label_bytes and len(content) > _CHUNK_BYTES:
        names = None
    if not _is_list(names, bytes | str) or len(names) != layout.classes:
        raise DataError(f"{where}: does not hold the names of {layout.classes} classes")
    try:
        return tuple(name.decode("utf-8") if isinstance(name, bytes) else name for name in names)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: a class name is no UTF-8 text at byte {error.start} of {error.object!r}") from error


def _is_list(value: Any, kind: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _pixels_last(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
