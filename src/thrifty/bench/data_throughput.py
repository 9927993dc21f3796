"""Images per second that `thrifty.data.ImageBatches` delivers: the data must never be what limits training.

Each arm runs through one epoch of the training images with and without augmentation, in float32 and channels_last as
the training loop gets them. CIFAR-10 where it is found, else the slice of Fashion-MNIST that comes with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.data import ImageData

BATCHES = (64, 256)
QUICK_IMAGES = 4000


@benchmark("data-throughput", "images per second that the image loader delivers, with and without augmentation")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Time whole epochs of every batch size, plain and augmented, in turn."""
    from thrifty.bench.timing import calibrate, interleave, median_min_max

    data = _load(data_root, QUICK_IMAGES if quick else None)
    budget_s = 2.0 if quick else 20.0
    console.print(f"{data.source}: {len(data.train)} images of {_shape(data)}")
    arms = {
        f"{batch}{' augmented' if augmented else ''}": _epoch(data, batch, augmented)
        for batch in BATCHES
        for augmented in (False, True)
    }
    repeats = calibrate(arms, budget_s, most=20)
    timed = interleave(arms, repeats, warmup=0)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        for augmented in (False, True):
            spread = median_min_max(timed[f"{batch}{' augmented' if augmented else ''}"])
            rows.append(
                {
                    "data": data.name,
                    "batch": batch,
                    "augmented": augmented,
                    "images_per_s": len(data.train) / spread.median,
                    "epoch_s": spread.median,
                    "epoch_min_s": spread.min,
                    "epoch_max_s": spread.max,
                }
            )
    slowest = min(row["images_per_s"] for row in rows if row["augmented"])
    settings = {
        "data": data.name, "source": data.source, "images": len(data.train), "image": _shape(data),
        "repeats": repeats, "quick": quick,
    }  # fmt: skip
    return BenchResult(settings, rows, {"min_augmented_images_per_s": slowest})


def _load(data_root: Path | None, limit: int | None) -> ImageData:
    from thrifty.core.errors import DataError
    from thrifty.data import load_images

    try:
        return load_images("cifar10", root=data_root, limit_train=limit, limit_test=10, download=False)
    except DataError:
        if data_root is not None:
            raise  # whoever names a folder wants what is in it
        return load_images("fashion-mnist-slice", limit_train=limit, limit_test=10)


def _shape(data: ImageData) -> str:
    return "x".join(str(size) for size in data.train.images.shape[1:])


def _epoch(data: ImageData, batch: int, augmented: bool) -> Callable[[], Any]:
    from thrifty.data import Augment, ImageBatches

    augment = Augment() if augmented else None
    batches = ImageBatches(data.train, batch, mean=data.mean, std=data.std, augment=augment, shuffle=True, seed=0)

    def through() -> None:
        for images, _ in batches:
            del images

    return through
