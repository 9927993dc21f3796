"""What every reader of an image format returns, before a subset is taken: labels, and pixels on demand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thrifty.core.errors import DataError

ImageSize = tuple[int, int]
Pixels = Callable[[np.ndarray, ImageSize | None], np.ndarray]


@dataclass(frozen=True)
class RawSplit:
    """Labels (N,) int64 and a function from indexes (K,) and an image size to pixels (K, H, W, C) uint8."""

    labels: np.ndarray
    pixels: Pixels


@dataclass(frozen=True)
class RawImages:
    """Both splits, the class names, and a title that says what format they came from."""

    train: RawSplit
    test: RawSplit
    classes: tuple[str, ...]
    title: str


def check_labels(labels: np.ndarray, classes: int, where: str, *, offset: int | None = None, stride: int = 1) -> None:
    """Raise DataError, naming the first label outside 0..classes-1 and its byte where `offset` and `stride` tell it."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        place = f"image {first}" if offset is None else f"image {first} (byte {offset + stride * first})"
        raise DataError(f"{where}: label {int(labels[first])} of {place} is none of the {classes} classes")
