"""Flip, crop with padding and normalise, for a whole batch of uint8 images at once.

A crop of a padded, perhaps mirrored image is one gather of pixels; the normalised result is written in channels_last
memory, so no layer has to convert it. Cost per image: one read of the bytes, one write of the floats.
Shape letters: B images, H rows, W columns, C channels, P padding.
"""

from dataclasses import dataclass

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


def draw_moves(augment: Augment, count: int, *, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return row offsets, column offsets (int64, 0..2P) and mirrored (bool), each (count,), for one batch."""
    bits = torch.from_numpy(raw(seed, Purpose.AUGMENT, count, epoch=epoch, step=step).view("int64"))
    # Three separate fields of one 64-bit number; 20 bits each make the bias of the remainder negligible.
    places = 2 * augment.crop_padding + 1
    rows = (bits >> 1 & 0xFFFFF) % places
    columns = (bits >> 21 & 0xFFFFF) % places
    mirrored = (bits & 1).bool() if augment.flip else torch.zeros(count, dtype=torch.bool)
    return rows, columns, mirrored


def move(images: Tensor, padding: int, rows: Tensor, columns: Tensor, mirrored: Tensor) -> Tensor:
    """Crop the padded images (B, H, W, C) uint8, then mirror; offsets of `padding` leave an image where it was."""
    batch, height, width, channels = images.shape
    padded = images.new_zeros((batch, height + 2 * padding, width + 2 * padding, channels))
    padded[:, padding : padding + height, padding : padding + width] = images
    across = torch.arange(width)
    across = torch.where(mirrored[:, None], width - 1 - across, across) + columns[:, None]
    down = (torch.arange(batch) * padded.shape[1] + rows)[:, None] + torch.arange(height)
    pixels = (down[:, :, None] * padded.shape[2] + across[:, None, :]).reshape(-1)
    return padded.view(-1, channels).index_select(0, pixels).view(batch, height, width, channels)


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return pixels * scale + shift as float32 (B, C, H, W) in channels_last memory.

    `scale` and `shift` are those of one image row, (W * C,): the last dimension C alone is too short to vectorise.
    """
    batch, height, width, channels = images.shape
    lines = images.view(batch * height, width * channels)
    return torch.addcmul(shift, lines.float(), scale).view(batch, height, width, channels).permute(0, 3, 1, 2)
