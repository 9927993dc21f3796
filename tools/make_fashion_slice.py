"""Make the slice of Fashion-MNIST that ships in the package: python tools/make_fashion_slice.py FOLDER

FOLDER holds the four Fashion-MNIST files and its LICENSE. The slice has the same number of images of every class,
chosen by a fixed seed and left in their order, so that making it again gives the same images (and, with one version of
zlib, the same bytes). More training images would take it past 6 MB.
"""

import argparse
import shutil
from pathlib import Path

from thrifty.data import read_idx, write_idx
from thrifty.data.subset import stratified

TARGET = Path(__file__).resolve().parent.parent / "src" / "thrifty" / "data" / "fashion_mnist_slice"
COUNTS = {"train": 11_500, "t10k": 2_000}
SEED = 0


def make_slice(source: Path, target: Path) -> None:
    """Write the slice of the set in `source` to `target`, with its licence."""
    target.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        names = [f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"]
        images, labels = (read_idx(source / name) for name in names)
        chosen = stratified(labels, count, seed=SEED)
        for name, array in zip(names, (images, labels), strict=True):
            write_idx(target / name, array[chosen])
    shutil.copyfile(source / "LICENSE", target / "LICENSE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the packaged slice of Fashion-MNIST.")
    parser.add_argument("source", type=Path, help="folder of the four Fashion-MNIST files and LICENSE")
    make_slice(parser.parse_args().source, TARGET)
