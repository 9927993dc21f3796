"""`load_images`: any image format, a subset if wanted, into memory once."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from thrifty.core.errors import DataError, UsageError

from .cifar import cifar_format, read_cifar_archive, read_cifar_folder
from .idx import read_idx
from .images import ImageData, ImageSplit, make_image_data
from .in_memory import from_array
from .locate import find_set
from .raw import ImageSize, RawImages, RawSplit, check_labels
from .sets import IMAGES
from .subset import stratified

_IDX_NAME = re.compile(r"(?:.*-)?(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(?:\.gz)?$")
_ZIP_START, _GZIP_START = b"PK", b"\x1f\x8b"
_IDX_LABELS_START = 8
_IMAGE_FOLDERS = ("train", "test", "val", "valid", "validation")


def load_images(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    download: bool = True,
) -> ImageData:
    """Return a set of images by its name, or from a folder or archive, as uint8 in memory.

    A path may be an ImageFolder (directory or zip), a folder of IDX files, CIFAR batches (a folder or .tar.gz), or a
    folder that holds one of these and nothing else that can be read.

    Args:
        name_or_path: a name in `known_sets` or a path; write ./NAME for a folder that is called as a set is.
        root: the folder of data sets that names are looked up in, before ~/.cache/thrifty; THRIFTY_DATA without it.
        limit_train: keep so many training images, each class in its share, chosen by `seed`; only these are decoded.
        limit_test: the same for the test images.
        image_size: pixels, S or (H, W): images are scaled and cropped about the centre to it.
        seed: for the choice of the subset.
        download: whether a named set that is missing may be fetched from its official address.

    Raises:
        UsageError: for a name that is neither a set nor a path, or a limit or size below 1.
        DataError: when the set is missing, or a file is truncated, damaged, empty or mislabelled, with the file and the
            byte offset or archive entry.
    """
    size = _checked_size(image_size)
    for what, limit in (("limit_train", limit_train), ("limit_test", limit_test)):
        if limit is not None and limit < 1:
            raise UsageError(f"{what} is {limit}: give 1 or more images, or no limit")
    found = find_set(name_or_path, IMAGES, root=root, download=download)
    try:
        raw = read_images(found.path, found.classes)
        train = _take(raw.train, limit_train, size, seed)
        test = _take(raw.test, limit_test, size, seed)
    except OSError as error:
        raise DataError(f"{error.filename or found.path}: cannot be read: {error.strerror or error}") from error
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{found.path}: training images are {tuple(train.images.shape[1:])} and test images "
            f"{tuple(test.images.shape[1:])} (H, W, C): pass image_size to make all alike"
        )
    source = found.source(raw.title)
    return make_image_data(found.name, train, test, raw.classes, source=source, augment=found.augment)


def read_images(path: Path, classes: tuple[str, ...] = ()) -> RawImages:
    """Return what lies at a path, whichever of the image formats it is. Raises DataError as `load_images` does.

    `classes` are the names where they are known; IDX files do not hold them.
    """
    if path.is_file():
        return _read_file(path)
    names = sorted(entry.name for entry in path.iterdir())
    if any(_IDX_NAME.match(name) for name in names):
        return _read_idx_folder(path, names, classes)
    if any((path / name).is_dir() for name in _IMAGE_FOLDERS):
        from .imagefolder import read_image_directory

        return read_image_directory(path)
    if cifar_format([name for name in names if (path / name).is_file()]):
        return read_cifar_folder(path)
    inner = [path / name for name in names if _may_hold(path / name)]
    if len(inner) == 1:
        return read_images(inner[0], classes)
    what = f"more than one archive ({inner[0].name}, {inner[1].name})" if inner else "no images that can be read"
    raise DataError(
        f"{path}: {what}: expected train/<class>/ and test/<class>/, IDX files, CIFAR batches, or one archive of them"
    )


def _read_file(path: Path) -> RawImages:
    with path.open("rb") as file:
        start = file.read(2)
    if start == _ZIP_START or path.suffix.lower() == ".zip":
        from .imagefolder import read_image_zip

        return read_image_zip(path)
    if start == _GZIP_START or path.name.endswith((".tar.gz", ".tgz")):
        return read_cifar_archive(path)
    raise DataError(f"{path}: neither a zip nor a .tar.gz: give a folder, a zip of an ImageFolder or a CIFAR archive")


def _may_hold(path: Path) -> bool:
    if path.is_file():
        return path.name.lower().endswith((".zip", ".tar.gz", ".tgz"))
    return cifar_format([entry.name for entry in path.iterdir()]) is not None


def _read_idx_folder(folder: Path, names: Iterable[str], classes: tuple[str, ...]) -> RawImages:
    files: dict[tuple[str, str], Path] = {}
    for name in names:
        match = _IDX_NAME.match(name)
        if match:
            key = ("train" if match[1] == "train" else "test", match[2])
            # "x" sorts before "x.gz": an unpacked copy beside its archive is the quicker of the same.
            if key in files and name != files[key].name + ".gz":
                raise DataError(
                    f"{folder}: {files[key].name} and {name} are both {' '.join(key)}: keep one set of files"
                )
            files.setdefault(key, folder / name)
    train, test = (_read_idx_split(folder, files, split) for split in ("train", "test"))
    classes = classes or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    for split, read in (("train", train), ("test", test)):
        check_labels(read.labels, len(classes), str(files[split, "labels"]), offset=_IDX_LABELS_START)
    return RawImages(train, test, classes, "IDX")


def _read_idx_split(folder: Path, files: dict[tuple[str, str], Path], split: str) -> RawSplit:
    for what in ("images", "labels"):
        if (split, what) not in files:
            expected = f"{'train' if split == 'train' else 't10k'}-{what}-idx{3 if what == 'images' else 1}-ubyte.gz"
            raise DataError(f"{folder}: no {split} {what}: expected {expected}")
    images_file, labels_file = files[split, "images"], files[split, "labels"]
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{images_file}: holds {images.dtype} {images.shape}: expected uint8 (N, H, W) or (N, H, W, C)")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        raise DataError(f"{images_file}: images have {images.shape[3]} channels: expected 1 or 3 in the last dimension")
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{labels_file}: holds {labels.dtype} {labels.shape}: expected uint8 (N,)")
    if len(images) != len(labels):
        raise DataError(f"{labels_file}: {len(labels)} labels for the {len(images)} images of {images_file.name}")
    return RawSplit(labels.astype(np.int64), from_array(images if images.ndim == 4 else images[..., None]))


def _take(split: RawSplit, limit: int | None, image_size: ImageSize | None, seed: int) -> ImageSplit:
    indexes = stratified(split.labels, limit, seed=seed)
    pixels = np.require(split.pixels(indexes, image_size), requirements=["C", "W"])
    return ImageSplit(torch.from_numpy(pixels), torch.from_numpy(split.labels[indexes]))


def _checked_size(image_size: int | tuple[int, int] | None) -> ImageSize | None:
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1 or max(size) > 1 << 14:
        raise UsageError(f"image_size is {image_size}: give S or (H, W), from 1 to {1 << 14} pixels")
    return size[0], size[1]
