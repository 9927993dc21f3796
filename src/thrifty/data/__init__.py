"""Data sets in the formats people have, decoded once into memory as uint8, and batches of them.

`load_images` reads IDX, CIFAR batches and ImageFolders; `load_text` reads token text and `load_labelled_text` labelled
reviews; `known_sets` lists the sets that have a name and where they were found. Names are looked up when first used,
so that importing this package loads neither numpy nor Pillow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .augment import Augment
    from .batches import ImageBatches
    from .idx import read_idx, write_idx
    from .images import ImageData, ImageSplit
    from .labelled import LabelledSplit, LabelledText, load_labelled_text
    from .load import load_images
    from .locate import SetStatus, known_sets
    from .next_item import NextItems, load_next_items
    from .shapes import make_convex, make_rectangles
    from .text import TextData, load_text
    from .xc import SparseRows, read_xc, stream_xc

_HOME = {
    "Augment": "augment",
    "ImageBatches": "batches",
    "ImageData": "images",
    "ImageSplit": "images",
    "LabelledSplit": "labelled",
    "LabelledText": "labelled",
    "NextItems": "next_item",
    "SetStatus": "locate",
    "SparseRows": "xc",
    "TextData": "text",
    "known_sets": "locate",
    "load_images": "load",
    "load_labelled_text": "labelled",
    "load_next_items": "next_item",
    "load_text": "text",
    "make_convex": "shapes",
    "make_rectangles": "shapes",
    "read_idx": "idx",
    "read_xc": "xc",
    "stream_xc": "xc",
    "write_idx": "idx",
}

__all__ = [
    "Augment",
    "ImageBatches",
    "ImageData",
    "ImageSplit",
    "LabelledSplit",
    "LabelledText",
    "NextItems",
    "SetStatus",
    "SparseRows",
    "TextData",
    "known_sets",
    "load_images",
    "load_labelled_text",
    "load_next_items",
    "load_text",
    "make_convex",
    "make_rectangles",
    "read_idx",
    "read_xc",
    "stream_xc",
    "write_idx",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
