"""Fixtures that every room may use."""

import os
from pathlib import Path

import pytest
import torch

from thrifty.data import Augment, ImageData, ImageSplit

# One thread: sums come out in one order, and parallel test processes do not fight over the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets, or skip where there is none."""
    given = os.environ.get("THRIFTY_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder of real data sets at {folder}: set THRIFTY_DATA")
    return folder


@pytest.fixture
def tiny_images() -> ImageData:
    """Return 48 + 16 images 12x12 RGB of 4 classes; each class has its own mean colour, so they can be learnt."""
    noise = torch.Generator().manual_seed(5)

    def split(count: int) -> ImageSplit:
        labels = torch.arange(count) % 4
        base = (40 + 50 * labels)[:, None, None, None]
        pixels = base + torch.randint(0, 30, (count, 12, 12, 3), generator=noise)
        return ImageSplit(pixels.to(torch.uint8), labels)

    half = torch.full((3,), 0.5)
    return ImageData(
        "tiny", split(48), split(16), tuple("abcd"), half, half / 2, "made for tests", Augment(crop_padding=1)
    )
