import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thrifty.train import TrainConfig

Thrifty = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of 8 x 8 grey images in 3 classes that differ in which rows are bright; 60 train, 18 test."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (8, 8), dtype=np.uint8)
                pixels[label * 2 : label * 2 + 3] += 80
                Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return root


@pytest.fixture
def thrifty() -> Thrifty:
    """Run the command line in a process of its own: `thrifty("train", "--epochs", "1", KILL_AT="3")`."""
    support = Path(__file__).parents[1] / "support"

    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        paths = [str(support), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.run(
            [sys.executable, "-m", "thrifty", *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return call


@pytest.fixture
def config(image_folder: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """`config("name", **settings)`: three epochs of 7 steps, a checkpoint every second one, written below tmp_path."""

    def make(name: str, **settings: Any) -> TrainConfig:
        small = {
            "model": "tiny_nets:net",
            "data": str(image_folder),
            "out": str(tmp_path / name),
            "epochs": 3,
            "batch_size": 8,
            "checkpoint_every": 2,
            "threads": 1,
            "methods": "none",
        }
        return TrainConfig(**{**small, **settings})

    return make
