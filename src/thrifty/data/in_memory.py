"""Images that a reader has in memory already, as the pixel function that `RawSplit` wants."""

import numpy as np

from .raw import ImageSize, Pixels


def from_array(images: np.ndarray) -> Pixels:
    """Return the pixel function of images (N, H, W, C) that are in memory already."""

    def pixels(indexes: np.ndarray, image_size: ImageSize | None) -> np.ndarray:
        chosen = images if len(indexes) == len(images) else images[indexes]
        if image_size is None or image_size == chosen.shape[1:3]:
            return chosen
        from .decode import resize  # Pillow is loaded where it is needed

        return resize(chosen, image_size)

    return pixels
