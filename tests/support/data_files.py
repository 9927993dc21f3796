"""Small data sets written in the formats of the large ones."""

import dataclasses
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from thrifty.data import cifar, write_idx

CLASSES = ("ant", "bee", "cat")
IMAGES_PER_CLASS = {"train": 3, "test": 2}
TRAIN_PER_FILE, TEST_PER_FILE = 4, 3


def shorten_cifar(monkeypatch) -> None:
    """Let a CIFAR batch hold a few images instead of ten thousand."""
    short = [
        dataclasses.replace(layout, images_per_train_file=TRAIN_PER_FILE, images_per_test_file=TEST_PER_FILE)
        for layout in cifar.FORMATS
    ]
    monkeypatch.setattr(cifar, "FORMATS", tuple(short))


def picture(index: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(index: int, form: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    stream = io.BytesIO()
    picture(index, size).save(stream, form)
    return stream.getvalue()


def folder_entries(form: str = "PNG", suffix: str = ".png") -> dict[str, bytes]:
    """Return path -> bytes of an ImageFolder whose file numbers run across the classes."""
    entries = {}
    for split, per_class in IMAGES_PER_CLASS.items():
        for index in range(per_class * len(CLASSES)):
            name = CLASSES[index % len(CLASSES)]
            entries[f"{split}/{name}/{index:03}{suffix}"] = encoded(index + 100 * (split == "test"), form)
    return entries


def write_tree(folder: Path, entries: dict[str, bytes]) -> Path:
    for name, content in entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_idx_set(folder: Path, train: int = 12, test: int = 6, classes: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", noise.integers(0, 256, (count, 6, 5)).astype(np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", (np.arange(count) % classes).astype(np.uint8))
    return folder


def cifar_records(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return planar pixels (count, 3072) uint8 and labels (count,)."""
    noise = np.random.default_rng(seed)
    return noise.integers(0, 256, (count, 3072), dtype=np.uint8), noise.integers(0, classes, count)


def cifar_entries(*, hundred: bool = False, binary: bool = False) -> dict[str, bytes]:
    """Return file name -> bytes of one of the four distributions, with a few images a batch."""
    names = ["train"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
    test = "test" if hundred else "test_batch"
    classes = 100 if hundred else 10
    entries = {}
    for seed, name in enumerate([*names, test]):
        pixels, labels = cifar_records(TEST_PER_FILE if name == test else TRAIN_PER_FILE, classes, seed)
        if binary:
            coarse = [labels[:, None] // 5] if hundred else []
            records = np.concatenate([*coarse, labels[:, None], pixels], axis=1).astype(np.uint8)
            entries[f"{name}.bin"] = records.tobytes()
        else:
            key = b"fine_labels" if hundred else b"labels"
            entries[name] = pickle.dumps({b"data": pixels, key: labels.tolist(), b"batch_label": b"x"}, protocol=2)
    words = [f"class{i}" for i in range(classes)]
    if binary:
        entries["fine_label_names.txt" if hundred else "batches.meta.txt"] = "\n".join([*words, ""]).encode()
    else:
        key = b"fine_label_names" if hundred else b"label_names"
        meta = {key: [word.encode() for word in words]}
        entries["meta" if hundred else "batches.meta"] = pickle.dumps(meta, protocol=2)
    return entries
