"""RECTANGLES and CONVEX: two sets of 28x28 images defined by how they are drawn, so that anybody can make them.

Source: Larochelle, Erhan, Courville, Bergstra & Bengio, ICML 2007, and the pages of the data sets.

Convex: a set of pixels that is the intersection of half-planes, of uniform place and direction, their number geometric
with parameter 0.195 and at least 19 pixels left; against the union of 2 to 4 such sets (parameter 0.07, at least 10
pixels each) that is not convex; is it convex? These numbers are those of the set's own page. What it leaves open is
assumed: half-planes go through a uniform point of the image at a uniform angle, there is at least one, and a union is
not convex when the pixel half-way between two of its own is not in it; both classes are equally likely.

Rectangles: the border of one rectangle; is it wider than tall? The recipe of this set was not at hand, so all of it but
28x28 and the question is assumed: height and width uniform from 1 to 28, drawn again where they differ by less than 3
pixels, the place uniform among those where it fits, a border of one pixel at 255. Errors on it compare between
methods here, not with published ones.
"""

import torch
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.core.seeds import generator

from .images import ImageData, ImageSplit, make_image_data

SIZE = 28
LEAST_DIFFERENCE = 3
CONVEX = (0.195, 19)  # parameter of the number of half-planes, and pixels at least
PART = (0.07, 10)  # of the parts of a union
MOST_PARTS = 4
_AT_ONCE = 4096
_ON = 255


def make_rectangles(train: int = 12_000, test: int = 50_000, *, seed: int = 0) -> ImageData:
    """Borders of rectangles; classes `tall` and `wide`. Raises UsageError for fewer than one image."""
    return _data("rectangles", ("tall", "wide"), _rectangles, train, test, seed)


def make_convex(train: int = 8_000, test: int = 50_000, *, seed: int = 0) -> ImageData:
    """Sets of pixels; classes `not convex` and `convex`. Raises UsageError for fewer than one image."""
    return _data("convex", ("not convex", "convex"), _convex, train, test, seed)


def _data(name: str, classes: tuple[str, ...], draw: object, train: int, test: int, seed: int) -> ImageData:
    if train < 1 or test < 1:
        raise UsageError(f"{name}: give at least one image for training and one for the test, got {train} and {test}")
    splits = []
    for split, count in (("train", train), ("test", test)):
        images, labels = draw(count, generator(seed, name, split))  # type: ignore[operator]
        splits.append(ImageSplit(images.unsqueeze(-1), labels))
    return make_image_data(name, splits[0], splits[1], classes, source=f"{name.upper()}, generated (seed {seed})")


def _rectangles(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images uint8 (count, 28, 28) and whether each is wider than tall, int64."""
    sizes = torch.zeros(0, 2, dtype=torch.int64)
    while len(sizes) < count:
        drawn = torch.randint(1, SIZE + 1, (2 * count, 2), generator=source)
        sizes = torch.cat([sizes, drawn[(drawn[:, 0] - drawn[:, 1]).abs() >= LEAST_DIFFERENCE]])
    height, width = sizes[:count].T.unsqueeze(-1)
    top, left = ((torch.rand(count, 1, generator=source) * (SIZE + 1 - side)).long() for side in (height, width))
    at = torch.arange(SIZE)
    rows, columns = ((at >= start) & (at < start + side) for start, side in ((top, height), (left, width)))
    inner_rows, inner_columns = (
        (at > start) & (at < start + side - 1) for start, side in ((top, height), (left, width))
    )
    border = rows[:, :, None] & columns[:, None] & ~(inner_rows[:, :, None] & inner_columns[:, None])
    return border.to(torch.uint8) * _ON, (width > height).squeeze(1).long()


def _convex(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images uint8 (count, 28, 28) and whether each is convex, int64."""
    labels = torch.randint(2, (count,), generator=source)
    images = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    images[labels == 1] = _convex_sets(int(labels.sum()), *CONVEX, source)
    unions = torch.zeros(0, SIZE, SIZE, dtype=torch.bool)
    wanted = count - int(labels.sum())
    while len(unions) < wanted:
        parts = _convex_sets(MOST_PARTS * _AT_ONCE, *PART, source).view(_AT_ONCE, MOST_PARTS, SIZE, SIZE)
        numbers = torch.randint(2, MOST_PARTS + 1, (_AT_ONCE, 1, 1, 1), generator=source)
        joined = (parts & (torch.arange(MOST_PARTS).view(1, -1, 1, 1) < numbers)).any(1)
        unions = torch.cat([unions, joined[~is_convex(joined)]])
    images[labels == 0] = unions[:wanted]
    return images.to(torch.uint8) * _ON, labels


def _convex_sets(count: int, parameter: float, least: int, source: torch.Generator) -> Tensor:
    """Intersections of half-planes, bool (count, 28, 28), of at least so many pixels."""
    found = torch.zeros(0, SIZE, SIZE, dtype=torch.bool)
    while len(found) < count:
        planes = torch.zeros(_AT_ONCE, dtype=torch.int64).double().geometric_(parameter, generator=source).long()
        sets = torch.ones(_AT_ONCE, SIZE, SIZE, dtype=torch.bool)
        for i in range(int(planes.max())):
            there = (planes > i).nonzero()[:, 0]
            # A set that is too small already stays so.
            there = there[sets[there].sum((1, 2)) >= least]
            angle = 2 * torch.pi * torch.rand(len(there), 1, 1, generator=source)
            y, x = (torch.arange(SIZE) - SIZE * torch.rand(len(there), 1, generator=source) + 0.5 for _ in range(2))
            sets[there] &= angle.sin() * y[:, :, None] + angle.cos() * x[:, None] > 0
        found = torch.cat([found, sets[sets.sum((1, 2)) >= least]])
    return found[:count]


def is_convex(images: Tensor) -> Tensor:
    """Whether, for each two pixels of a set bool (N, H, W), the pixel half-way between them, if there is one, is in it.

    The pairs are counted all at once, as the convolution of each set with itself.
    """
    height, width = images.shape[1:]
    spectrum = torch.fft.rfft2(images.float(), s=(2 * height, 2 * width))
    pairs = torch.fft.irfft2(spectrum * spectrum, s=(2 * height, 2 * width))[:, ::2, ::2]
    return ~((pairs > 0.5) & ~images).flatten(1).any(1)
