"""Batches of a split that can be entered at any step."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from thrifty.core.errors import UsageError

from .augment import Augment, draw_moves, move, normalise
from .draws import Purpose, permutation
from .images import ImageSplit


class ImageBatches:
    """One epoch of a split as (x, y): x float32 (B, C, H, W) in channels_last memory, y int64 (B,).

    Pixels become (value / 255 - mean) / std. The order of the epoch is a function of (seed, epoch), the augmentation
    of batch k one of (seed, epoch, k): iterating from `start_step` gives bit for bit the batches that a full epoch
    has from there on. `len()` counts the steps of the whole epoch. The last batch is shorter when the batch size does
    not divide the split, and left out with `drop_last`. With a `share`, each of several workers gets its part of every
    batch: no image twice, and together, augmentation included, the batches that one worker would have had.

    Args:
        split: the images.
        batch_size: images a batch, B.
        mean: per channel, of pixels / 255.
        std: per channel, of pixels / 255, positive.
        augment: how to move the images; None leaves them in place.
        shuffle: whether to visit the images in random order.
        seed: any integer.
        epoch: 0 or more.
        start_step: the first batch to give, 0 to `len()`.
        drop_last: leave out a last batch that is not full.
        share: (worker, workers): this one's number, from 0, and how many there are.

    Raises:
        UsageError: for a batch size, epoch, step, share or mean and std that cannot be meant.
    """

    def __init__(
        self,
        split: ImageSplit,
        batch_size: int,
        *,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        augment: Augment | None,
        shuffle: bool,
        seed: int,
        epoch: int = 0,
        start_step: int = 0,
        drop_last: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}: give 1 or more")
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}: give 0 or more")
        self.split, self.batch_size, self.augment = split, batch_size, augment
        self.shuffle, self.seed, self.epoch, self.drop_last = shuffle, seed, epoch, drop_last
        if len(self) == 0:
            raise UsageError(f"{len(split)} images give no batch of {batch_size}: take a smaller batch_size")
        if not 0 <= start_step <= len(self):
            raise UsageError(f"start_step is {start_step}: the epoch has steps 0 to {len(self)}")
        if not 0 <= share[0] < share[1]:
            raise UsageError(f"share is {share}: give this worker's number, from 0, and how many there are")
        self.start_step, self.share = start_step, share
        self._scale, self._shift = _row_factors(split, mean, std)
        self._images = split.images.numpy()

    def __len__(self) -> int:
        full, rest = divmod(len(self.split), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.split)
        order = np.arange(count)
        if self.shuffle:
            order = permutation(self.seed, Purpose.ORDER, count, epoch=self.epoch)
        for step in range(self.start_step, len(self)):
            yield self._batch(step, order[step * self.batch_size : (step + 1) * self.batch_size])

    def _batch(self, step: int, indexes: np.ndarray) -> tuple[Tensor, Tensor]:
        mine = slice(self.share[0], None, self.share[1])
        count, indexes = len(indexes), indexes[mine]
        images = self._images.take(indexes, axis=0)
        if self.augment is not None:
            moves = draw_moves(self.augment, count, seed=self.seed, epoch=self.epoch, step=step)
            images = move(images, self.augment.crop_padding, *(of_all[mine] for of_all in moves))
        return normalise(images, self._scale, self._shift), self.split.labels[torch.from_numpy(indexes)]


def _row_factors(
    split: ImageSplit, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift of one image row, (W * C,) float32 each."""
    width, channels = split.images.shape[2:]
    mean, std = (torch.as_tensor(values, dtype=torch.float64).cpu() for values in (mean, std))
    if mean.shape != (channels,) or std.shape != (channels,):
        raise UsageError(
            f"mean has {tuple(mean.shape)} and std {tuple(std.shape)} values, the images {channels} channels: "
            "give one of each per channel"
        )
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise UsageError(f"mean {mean.tolist()} and std {std.tolist()} must be finite, std above 0")
    scale, shift = 1 / (255 * std), -mean / std
    return scale.float().repeat(width).numpy(), shift.float().repeat(width).numpy()
