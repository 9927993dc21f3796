"""Flip, crop with padding and normalise, for a whole batch of uint8 images at once.

The result is written in channels_last memory, so no layer has to convert it. All of it is plain copying in one
thread, bit for bit the same on every machine, which leaves the cores to the model. Cost per image: one read of the
bytes, one copy of them, one write of the floats.
Shape letters: B images, H rows, W columns, C channels, P padding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thrifty.core.errors import UsageError

from .draws import Purpose, raw


@dataclass(frozen=True)
class Augment:
    """Mirror every second image left to right on average, and crop after padding with `crop_padding` black pixels.

    Raises UsageError when `crop_padding` is negative.
    """

    flip: bool = True
    crop_padding: int = 4

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UsageError(f"crop_padding is {self.crop_padding}: give 0 or more pixels")


def draw_moves(
    augment: Augment, count: int, *, seed: int, epoch: int, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row offsets, column offsets (int64, 0..2P) and mirrored (bool), each (count,), for one batch."""
    bits = raw(seed, Purpose.AUGMENT, count, epoch=epoch, step=step).view(np.int64)
    # Three separate fields of one 64-bit number; 20 bits each make the bias of the remainder negligible.
    places = 2 * augment.crop_padding + 1
    rows = (bits >> 1 & 0xFFFFF) % places
    columns = (bits >> 21 & 0xFFFFF) % places
    mirrored = (bits & 1).astype(bool) if augment.flip else np.zeros(count, dtype=bool)
    return rows, columns, mirrored


def move(images: np.ndarray, padding: int, rows: np.ndarray, columns: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Crop the padded images (B, H, W, C) uint8, then mirror; offsets of `padding` leave an image where it was."""
    batch, height, width, channels = images.shape
    padded = np.zeros((batch, height + 2 * padding, width + 2 * padding, channels), dtype=np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = images
    moved = np.empty_like(images)
    # A pixel is copied as one item of C bytes, which is twice as fast as C items of one.
    pixel = np.dtype((np.void, channels))
    source, target = padded.view(pixel)[..., 0], moved.view(pixel)[..., 0]
    for index, (top, left, mirror) in enumerate(zip(rows.tolist(), columns.tolist(), mirrored.tolist(), strict=True)):
        crop = source[index, top : top + height, left : left + width]
        target[index] = crop[:, ::-1] if mirror else crop
    return moved


def normalise(images: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    """Return pixels * scale + shift as float32 (B, C, H, W) in channels_last memory, from images (B, H, W, C) uint8.

    `scale` and `shift` are those of one image row, (W * C,): the last dimension C alone is too short to vectorise.
    """
    batch, height, width, channels = images.shape
    lines = images.reshape(batch * height, width * channels).astype(np.float32)
    lines *= scale
    lines += shift
    return torch.from_numpy(lines.reshape(batch, height, width, channels)).permute(0, 3, 1, 2)
