"""Images in memory: a split (uint8 pixels and labels) and a data set of two splits.

Shape letters: N images, H rows, W columns, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thrifty.core.errors import DataError

from .augment import Augment

_CHUNK_IMAGES = 256


@dataclass
class ImageSplit:
    """Images (N, H, W, C) uint8 contiguous and their labels (N,) int64.

    Raises DataError when a shape or dtype is another one, the counts differ, the split is empty or a label is negative.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(f"images must be uint8 (N, H, W, C), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise DataError(f"labels must be int64 (N,), not {labels.dtype} {tuple(labels.shape)}")
        if len(images) != len(labels):
            raise DataError(f"{len(images)} images but {len(labels)} labels: they must be as many")
        if images.numel() == 0:
            raise DataError(f"a split of shape {tuple(images.shape)} is empty: give at least one image")
        if int(labels.min()) < 0:
            raise DataError(f"label {int(labels.min())} is negative: labels count from 0")
        self.images = images.contiguous()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class ImageData:
    """A training and a test split with the names of the classes.

    `mean` and `std` are float32 (C,), taken over the training pixels divided by 255; `source` says what the pixels
    are, for reports; `augment` is what suits this set and `ImageBatches` can be given.
    Raises DataError when the splits differ in H, W or C, a label has no class, or the statistics do not fit C.
    """

    name: str
    train: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    source: str
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise DataError(
                f"{self.name}: training images are {_describe(self.train)} and test images {_describe(self.test)}: "
                "they must be of one size"
            )
        for split_name, split in (("train", self.train), ("test", self.test)):
            if int(split.labels.max()) >= len(self.classes):
                raise DataError(
                    f"{self.name}: a {split_name} label is {int(split.labels.max())}, "
                    f"but there are {len(self.classes)} classes"
                )
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values.shape != (self.channels,):
                raise DataError(
                    f"{self.name}: {what} has shape {tuple(values.shape)}, the images {self.channels} channels"
                )

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return self.train.images.shape[3]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.train.images.shape[1], self.train.images.shape[2]


def make_image_data(
    name: str,
    train: ImageSplit,
    test: ImageSplit,
    classes: Sequence[str],
    *,
    source: str,
    augment: Augment | None = None,
) -> ImageData:
    """Return an `ImageData` whose mean and std are those of the training pixels."""
    mean, std = channel_statistics(train.images)
    augment = augment if augment is not None else Augment(crop_padding=suited_padding(train.images.shape[1]))
    return ImageData(name, train, test, tuple(classes), mean, std, source, augment)


def suited_padding(rows: int) -> int:
    """Return an eighth of the image, the custom of 4 pixels at 32."""
    return max(1, round(rows / 8))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C,) float32 of pixels / 255 for images (N, H, W, C) uint8.

    Exact: from counts of the 256 values, in float64. A channel without variation gets a std of 1, not 0,
    so that dividing by it is harmless.
    """
    channels = images.shape[3]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in images.split(_CHUNK_IMAGES):
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[..., channel].reshape(-1), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts[0].sum()
    mean = share @ values
    std = (share @ values.square() - mean.square()).clamp_min(0).sqrt()
    std[counts.amax(dim=1) == counts[0].sum()] = 1.0
    return mean.float(), std.float()


def _describe(split: ImageSplit) -> str:
    rows, columns, channels = split.images.shape[1:]
    return f"{rows}x{columns} with {channels} channels"
