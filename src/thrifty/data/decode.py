"""PNG, JPEG and WebP bytes to uint8 pixels, each image once, into one array.

Images come out as RGB, turned as their EXIF data says, alpha dropped. Decoding small images is bound by the
interpreter, so two threads are used from 96 x 96 pixels on, where they gain.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from thrifty.core.errors import DataError

from .progress import track
from .raw import ImageSize

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_MAX_PIXELS = 1 << 26
_MEMORY_SHARE = 0.8
_THREADS = 2
_THREADS_FROM_PIXELS = 96 * 96
_BLOCK_IMAGES = 64


def decode_all(
    count: int, read: Callable[[int], tuple[str, bytes]], image_size: ImageSize | None, what: str
) -> np.ndarray:
    """Return pixels (count, H, W, 3) uint8 of `read(0)`, ... `read(count - 1)`, each (a name for errors, the bytes).

    With `image_size` every image is scaled and cropped about its centre to it; without, all must be as large as the
    first. Raises DataError, naming the image, when one cannot be decoded or is of another size, or when the pixels
    would not fit in memory.
    """
    first = decode(*read(0), image_size)
    height, width = first.shape[:2]
    _check_memory(count * first.size, what)
    pixels = np.empty((count, height, width, 3), dtype=np.uint8)
    pixels[0] = first

    def block(start: int) -> tuple[int, None]:
        stop = min(start + _BLOCK_IMAGES, count)
        for index in range(start, stop):
            name, content = read(index)
            image = decode(name, content, image_size)
            if image.shape != first.shape:
                raise DataError(
                    f"{name}: is {image.shape[0]}x{image.shape[1]} where the first image is {height}x{width}: "
                    "pass image_size to make all alike"
                )
            pixels[index] = image
        return stop - start, None

    starts = range(1, count, _BLOCK_IMAGES)
    for _ in track(_run(block, starts, threaded=height * width >= _THREADS_FROM_PIXELS), what, count):
        pass
    return pixels


def decode(name: str, content: bytes, image_size: ImageSize | None) -> np.ndarray:
    """Return pixels (H, W, 3) uint8 of one image; `name` stands in errors. Raises DataError when it cannot be read."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(f"{name}: {image.width}x{image.height} pixels are more than {_MAX_PIXELS}")
            if image.mode not in _MODES:
                raise DataError(f"{name}: pixels of mode {image.mode} do not fit 8 bits a channel: convert it first")
            if image_size is not None:
                # JPEG can be decoded at half, a quarter or an eighth of its size when less is wanted.
                image.draft(None, (max(image_size), max(image_size)))
            upright = ImageOps.exif_transpose(image) if "exif" in image.info else image
            # A palette may hold transparency, which Pillow wants made explicit before it is dropped.
            opaque = upright.convert("RGBA") if upright.mode == "P" else upright
            return np.asarray(_fit(opaque.convert("RGB"), image_size))
    except DataError:
        raise
    # Pillow's decoders fail on damaged bytes with whatever their parser met: OSError, SyntaxError, struct.error ...
    except (Exception, Image.DecompressionBombWarning) as error:
        reason = "no PNG, JPEG or WebP image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(f"{name}: cannot be decoded: {reason}") from error


def resize(images: np.ndarray, image_size: ImageSize) -> np.ndarray:
    """Scale and crop images (N, H, W, C) uint8, C of 1 or 3, to `image_size`, as `decode_all` does."""
    _check_memory(len(images) * image_size[0] * image_size[1] * images.shape[3], "the resized images")
    out = np.empty((len(images), *image_size, images.shape[3]), dtype=np.uint8)
    for index, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        out[index] = np.asarray(_fit(picture, image_size)).reshape(out.shape[1:])
    return out


def _fit(image: Image.Image, image_size: ImageSize | None) -> Image.Image:
    if image_size is None or image.size == image_size[::-1]:
        return image
    # Pillow's bilinear filter widens with the scale, so shrinking averages and does not alias.
    return ImageOps.fit(image, image_size[::-1], method=Image.Resampling.BILINEAR)


def _run(block: Callable[[int], Any], starts: Sequence[int], *, threaded: bool) -> Iterator[Any]:
    if not threaded:
        yield from map(block, starts)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(block, starts)


def _check_memory(needed_bytes: int, what: str) -> None:
    if not hasattr(os, "sysconf"):
        return
    room_bytes = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _MEMORY_SHARE)
    if needed_bytes > room_bytes:
        raise DataError(
            f"{what}: {needed_bytes / 1e9:.1f} GB of pixels do not fit in memory: pass a smaller image_size, "
            "limit_train or limit_test"
        )
