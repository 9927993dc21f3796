"""Token text: files of a sentence a line, tokens set apart by spaces, each line closed by <eos>.

The vocabulary is that of the training file, most frequent first (ties by spelling), so that a wide softmax has the
common words in front; words that only the other files have become <unk>.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thrifty.core.errors import DataError

from .locate import find_set
from .sets import TEXT

EOS = "<eos>"
UNKNOWN = "<unk>"
_SPLITS = ("train", "valid", "test")
_MAX_FILE_BYTES = 1 << 32


@dataclass
class TextData:
    """Token numbers of three splits, each (tokens,) int64, and the words they stand for."""

    name: str
    vocab: tuple[str, ...]
    train: Tensor
    valid: Tensor
    test: Tensor
    source: str


def load_text(name_or_path: str | Path, *, root: str | Path | None = None, download: bool = True) -> TextData:
    r"""Return a token text by the name of a set ("ptb", "brown") or from a folder.

    The folder holds `train.txt`, `valid.txt` and `test.txt`, or the same names with a prefix (`ptb.train.txt`).
    Case is kept; tokens are split at ASCII white space and lines at "\n" only.

    Raises:
        UsageError: for a name that is neither a set nor a path.
        DataError: when the set or a file is missing, empty or no UTF-8, with the file and the byte offset.
    """
    place = find_set(name_or_path, TEXT, root=root, download=download)
    lines = {split: _lines(_file_of(place.path, split)) for split in _SPLITS}
    counts = Counter(chain.from_iterable(lines["train"]))
    vocab = [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    number = {token: index for index, token in enumerate(vocab)}
    unknown = UNKNOWN.encode()
    if any(token not in number for split in ("valid", "test") for line in lines[split] for token in line):
        number.setdefault(unknown, len(vocab))
        vocab = list(number)
    tokens = {split: _encode(lines[split], number, unknown) for split in _SPLITS}
    words = tuple(token.decode("utf-8") for token in vocab)
    return TextData(place.name, words, tokens["train"], tokens["valid"], tokens["test"], place.source())


def _file_of(folder: Path, split: str) -> Path:
    found = sorted([*folder.glob(f"{split}.txt"), *folder.glob(f"*.{split}.txt")])
    if len(found) != 1:
        what = "no such file" if not found else f"{len(found)} such files, {found[0].name} and {found[1].name}"
        raise DataError(f"{folder}: {what} for {split}: expected {split}.txt or NAME.{split}.txt")
    return found[0]


def _lines(path: Path) -> list[list[bytes]]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes are more than the {_MAX_FILE_BYTES} read at once")
        content = path.read_bytes()
        content.decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 text at byte {error.start}") from error
    if not content.strip():
        raise DataError(f"{path}: holds no tokens")
    lines = content.split(b"\n")
    # The last newline ends a line and does not begin another.
    return [[*line.split(), EOS.encode()] for line in (lines if lines[-1] else lines[:-1])]


def _encode(lines: Sequence[Sequence[bytes]], number: dict[bytes, int], unknown: bytes) -> Tensor:
    instead = number.get(unknown, 0)
    flat = [number.get(token, instead) for line in lines for token in line]
    return torch.from_numpy(np.array(flat, dtype=np.int64))
