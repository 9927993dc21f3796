r"""Labelled reviews for sequence classifiers: TSV, plain, gzipped or xz, to padded token numbers.

A line is: label, any further columns, text last; columns are set apart by tabs and lines by "\n" only.
Words are runs of letters and digits, lower case, with inner apostrophes; markup such as <br /> is dropped.
"""

import gzip
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from thrifty.core.errors import DataError, UsageError

from .locate import find_set
from .sets import LABELLED

PAD, UNKNOWN = "<pad>", "<unk>"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_MARKUP = re.compile(r"<[^<>]{0,40}>")
_MAX_LINE_BYTES = 1 << 24
_MAX_TEXT_BYTES = 1 << 32


@dataclass
class LabelledSplit:
    """Tokens (N, T) int64, 0 beyond each text's length; lengths (N,) int64, 1..T; labels (N,) int64."""

    tokens: Tensor
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class LabelledText:
    """Two splits of labelled texts; vocab[0] is <pad>, vocab[1] <unk>, then words by falling frequency."""

    name: str
    vocab: tuple[str, ...]
    train: LabelledSplit
    test: LabelledSplit
    classes: tuple[str, ...]
    source: str


def load_labelled_text(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    vocab_size: int = 20_000,
    max_length: int = 256,
    download: bool = True,
) -> LabelledText:
    """Return labelled texts by the name of a set ("imdb-reviews") or from a folder.

    The folder holds `train.tsv` and `test.tsv`, or either with `.xz` or `.gz`. Labels are whole numbers from 0.
    Texts are cut after `max_length` words, and a text without any word is one <unk>. The vocabulary is the most
    frequent words of the training texts, `vocab_size` entries with <pad> and <unk>.

    Raises:
        UsageError: for a size below 3 or a length below 1, or a name that is neither a set nor a path.
        DataError: when the set or a file is missing, damaged or mislabelled, with the file, line and byte offset.
    """
    if vocab_size < 3 or max_length < 1:
        raise UsageError(f"vocab_size is {vocab_size} and max_length {max_length}: give at least 3 and 1")
    place = find_set(name_or_path, LABELLED, root=root, download=download)
    labels, words = _read(_file_of(place.path, "train"), max_length)
    test_labels, test_words = _read(_file_of(place.path, "test"), max_length)
    counts = Counter(word for text in words for word in text)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: vocab_size - 2]
    vocab = (PAD, UNKNOWN, *(word for word, _ in common))
    number = {word: index for index, word in enumerate(vocab)}
    classes = place.classes or tuple(str(label) for label in range(max(labels) + 1))
    for split, found in (("train", labels), ("test", test_labels)):
        if max(found) >= len(classes):
            raise DataError(f"{place.path}: a {split} label is {max(found)}, but there are {len(classes)} classes")
    train = _pad(words, labels, number)
    test = _pad(test_words, test_labels, number)
    return LabelledText(place.name, vocab, train, test, classes, place.source())


def _file_of(folder: Path, split: str) -> Path:
    names = [f"{split}.tsv{suffix}" for suffix in ("", ".xz", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: none of {', '.join(names)} is there")


def _read(path: Path, max_length: int) -> tuple[list[int], list[list[str]]]:
    labels, texts = [], []
    columns = 0
    for line_number, offset, line in _lines(path):
        where = f"{path}: line {line_number} (byte {offset})"
        try:
            fields = line.decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: line {line_number}: no UTF-8 text at byte {offset + error.start}") from error
        columns = columns or len(fields)
        if len(fields) != columns or columns < 2:
            raise DataError(f"{where} has {len(fields)} columns, not {max(columns, 2)}: label first, text last")
        if not (fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < 7):
            raise DataError(f"{where}: label {fields[0][:20]!r} is no whole number from 0")
        labels.append(int(fields[0]))
        words = _WORD.findall(_MARKUP.sub(" ", fields[-1].lower()))
        texts.append(words[:max_length])
    if not labels:
        raise DataError(f"{path}: holds no lines")
    return labels, texts


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield line number from 1, byte offset in the unpacked text, and the line without its end."""
    offset = number = 0
    try:
        with _open(path) as file:
            while line := file.readline(_MAX_LINE_BYTES):
                number += 1
                if len(line) == _MAX_LINE_BYTES or offset > _MAX_TEXT_BYTES:
                    raise DataError(f"{path}: line {number} (byte {offset}) is past the size read at once")
                yield number, offset, line.removesuffix(b"\n")
                offset += len(line)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: damaged or truncated near byte {offset} of its text: {error}; get it anew") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _pad(texts: list[list[str]], labels: list[int], number: dict[str, int]) -> LabelledSplit:
    unknown = number[UNKNOWN]
    flat = [number.get(word, unknown) for text in texts for word in text or [UNKNOWN]]
    lengths = torch.tensor([max(1, len(text)) for text in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    tokens[torch.arange(tokens.shape[1]) < lengths[:, None]] = torch.tensor(flat)
    return LabelledSplit(tokens, lengths, torch.tensor(labels))
