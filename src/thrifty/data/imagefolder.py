"""ImageFolder: one folder a class, `train/<class>/...` and `test/<class>/...`, as a directory or inside a zip.

The test split is the first of test, val, valid, validation that holds class folders. One folder around it all
(`name/train/...`) is allowed. Without a training and a test folder there is an error, not a split of our own: which
images a model is judged on is for its user to say. Classes are the sorted names under train; images are ordered by
file name, then class, so numbered files keep their order and a directory and a zip of it give the same data.
A zip is read in place; nothing is extracted.
"""

import lzma
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from thrifty.core.errors import DataError

from .decode import SUFFIXES, decode_all
from .raw import ImageSize, RawImages, RawSplit

_TEST_NAMES = ("test", "val", "valid", "validation")
_SIDE_SUFFIXES = frozenset({".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".db", ".ini"})
_MAX_IMAGE_BYTES = 1 << 28
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
)


@dataclass(frozen=True)
class _Entry:
    split: str
    label: str
    path: PurePosixPath | Path
    handle: Any


def read_image_directory(folder: Path) -> RawImages:
    """Return the images of an ImageFolder directory.

    Raises DataError, naming the folder or file, when a split or class is missing or empty, or a file is no image.
    """
    entries, empty = [], []
    for split in ("train", *_TEST_NAMES):
        for class_folder in sorted(path for path in _listed(folder / split) if path.is_dir()):
            files = [Path(at) / name for at, _, names in os.walk(class_folder) for name in names]
            chosen = [_Entry(split, class_folder.name, path, path) for path in files if _is_image(path, folder)]
            entries += chosen
            if not chosen:
                empty.append(f"{split}/{class_folder.name}")

    def read(path: Path) -> tuple[str, bytes]:
        try:
            if path.stat().st_size > _MAX_IMAGE_BYTES:
                raise DataError(f"{path}: {path.stat().st_size} bytes are too many for an image")
            return str(path), path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error

    return _assemble(folder, entries, empty, read, "ImageFolder")


def read_image_zip(archive: Path) -> RawImages:
    """Return the images of an ImageFolder in a zip.

    Raises DataError, naming the archive and the entry, as `read_image_directory` does and when the zip is truncated or
    damaged. Entries are counted and their own headers compared with the table of contents, so none is lost silently.
    """
    try:
        source = zipfile.ZipFile(archive)
    except (*_ZIP_ERRORS, UnicodeDecodeError) as error:
        raise DataError(f"{archive}: no zip file or a truncated one: {error}; get it anew") from error
    lock = threading.Lock()

    def read(info: zipfile.ZipInfo) -> tuple[str, bytes]:
        name = f"{archive}: entry {info.filename}"
        if info.file_size > _MAX_IMAGE_BYTES:
            raise DataError(f"{name} claims {info.file_size} bytes, too many for an image")
        try:
            with lock:
                return name, source.read(info)
        except _ZIP_ERRORS as error:
            raise DataError(f"{name} is damaged: {error}") from error

    infos = source.infolist()
    claimed = _claimed_entries(archive, source.comment)
    if claimed != len(infos):
        raise DataError(
            f"{archive}: holds {len(infos)} entries where its end says {claimed}: it is damaged; get it anew"
        )
    for info in infos:
        try:
            source.open(info).close()
        except _ZIP_ERRORS as error:
            raise DataError(f"{archive}: entry {info.filename} is damaged: {error}") from error
    names = [PurePosixPath(info.filename) for info in infos]
    depth = _depth_of_splits(names)
    entries = []
    for info, path in zip(infos, names, strict=True):
        parts = path.parts[depth:]
        if not info.is_dir() and len(parts) >= 3 and "__MACOSX" not in path.parts and _is_image(path, archive):
            entries.append(_Entry(parts[0], parts[1], path, info))
    return _assemble(archive, entries, _empty_classes(infos, depth, entries), read, "ImageFolder zip")


def _listed(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _is_image(path: Path | PurePosixPath, place: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and not path.name.startswith("."):
        return True
    if suffix in _SIDE_SUFFIXES or path.name.startswith("."):
        return False
    raise DataError(f"{place}: {path} is among the images but is no {', '.join(sorted(SUFFIXES))} file: remove it")


def _claimed_entries(archive: Path, comment: bytes) -> int:
    """Return the number of entries that the end record gives, which zipfile does not compare with what it found."""
    end_bytes, locator_bytes, large_end_bytes = 22, 20, 56
    with archive.open("rb") as file:
        file.seek(-end_bytes - len(comment), os.SEEK_END)
        claimed = int.from_bytes(file.read(end_bytes)[10:12], "little")
        if claimed < 0xFFFF:
            return claimed
        file.seek(-end_bytes - len(comment) - locator_bytes - large_end_bytes, os.SEEK_END)
        record = file.read(large_end_bytes)
        return int.from_bytes(record[32:40], "little") if record[:4] == b"PK\x06\x06" else claimed


def _depth_of_splits(names: list[PurePosixPath]) -> int:
    """Return 1 when everything lies in one outer folder that holds train, 0 otherwise."""
    outer = {name.parts[0] for name in names if name.parts and name.parts[0] != "__MACOSX"}
    wrapped = len(outer) == 1 and any(name.parts[1:2] == ("train",) for name in names)
    return 1 if wrapped and "train" not in outer else 0


def _empty_classes(infos: list[zipfile.ZipInfo], depth: int, entries: list[_Entry]) -> list[str]:
    full = {(entry.split, entry.label) for entry in entries}
    folders = [PurePosixPath(info.filename).parts[depth:] for info in infos if info.is_dir()]
    return ["/".join(parts) for parts in folders if len(parts) == 2 and parts not in full]


def _assemble(
    place: Path,
    entries: list[_Entry],
    empty: list[str],
    read: Callable[[Any], tuple[str, bytes]],
    title: str,
) -> RawImages:
    splits = {entry.split for entry in entries}
    test = next((name for name in _TEST_NAMES if name in splits), None)
    if "train" not in splits or test is None:
        lacking = "train" if "train" not in splits else "test"
        raise DataError(
            f"{place}: no images under {lacking}/<class>/: arrange them as train/<class>/ and test/<class>/ (or val/)"
        )
    for name in empty:
        if name.split("/")[0] in ("train", test):
            raise DataError(f"{place}: class folder {name} has no images: fill it or remove it")
    classes = sorted({entry.label for entry in entries if entry.split == "train"})
    strangers = sorted({entry.label for entry in entries if entry.split == test} - set(classes))
    if strangers:
        raise DataError(f"{place}: class {test}/{strangers[0]} is not among the {len(classes)} classes under train")
    number = {label: index for index, label in enumerate(classes)}

    def split(name: str) -> RawSplit:
        chosen = sorted((e for e in entries if e.split == name), key=lambda e: (e.path.name, e.path.as_posix()))

        def pixels(indexes: np.ndarray, image_size: ImageSize | None) -> np.ndarray:
            what = f"Decoding {place.name} {name}"
            return decode_all(len(indexes), lambda i: read(chosen[indexes[i]].handle), image_size, what)

        return RawSplit(np.array([number[entry.label] for entry in chosen], dtype=np.int64), pixels)

    return RawImages(split("train"), split(test), tuple(classes), title)
