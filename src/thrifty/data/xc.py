"""Extreme-classification text, as the XC repository has it, and libsvm: sparse features and several labels a row.

XC: a header `rows features labels`, then a line a row: `l1,l2 f:v f:v ...`, numbered from 0; a row without labels
begins with a space. libsvm: the same without the header. Files may be gzipped; they are read line by line.
"""

import gzip
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thrifty.core.errors import DataError


@dataclass
class SparseRows:
    """Rows in compressed form: features with values, and labels.

    indices int64, values float32, offsets int64 (rows + 1,): the features of a row, as `nn.EmbeddingBag` takes them
    (with `include_last_offset`). labels int64, label_offsets int64 (rows + 1,).
    """

    indices: Tensor
    values: Tensor
    offsets: Tensor
    labels: Tensor
    label_offsets: Tensor
    features: int
    classes: int

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def pick(self, rows: Tensor) -> "SparseRows":
        """These rows, in this order."""
        at, offsets = _spans(self.offsets, rows)
        labels_at, label_offsets = _spans(self.label_offsets, rows)
        return SparseRows(
            self.indices[at],
            self.values[at],
            offsets,
            self.labels[labels_at],
            label_offsets,
            self.features,
            self.classes,
        )

    def normalised(self) -> "SparseRows":
        """The same with every row at length one; empty rows stay empty."""
        rows = torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())
        squares = torch.zeros(len(self)).index_add_(0, rows, self.values.square())
        values = self.values / squares.sqrt().clamp(min=1e-30)[rows]
        return SparseRows(
            self.indices, values, self.offsets, self.labels, self.label_offsets, self.features, self.classes
        )


def read_xc(path: str | Path, *, features: int | None = None, classes: int | None = None) -> SparseRows:
    """Read a file of XC text; with `features` and `classes` given, one of libsvm lines without a header.

    Raises:
        DataError: naming the file and the line, for anything that is not such a file, a number out of range, a value
        that is
            not finite, and a file that ends before its header's rows do.
    """
    path = Path(path)
    lines = _lines(path)
    rows: int | None = None
    if features is None or classes is None:
        rows, features, classes = _header(path, next(lines, (1, b"")))
    indices, values, labels = array("q"), array("f"), array("q")
    ends, label_ends = array("q", [0]), array("q", [0])
    for number, line in lines:
        if not line.strip() and rows is None:
            continue
        try:
            _row(line, indices, values, labels)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected `l1,l2 f:v f:v ...` ({error})") from error
        ends.append(len(indices))
        label_ends.append(len(labels))
    found = len(ends) - 1
    if rows is not None and found != rows:
        raise DataError(f"{path}: its header promises {rows} rows, it holds {found}: the file is cut off or damaged")
    made = SparseRows(
        _tensor(indices, np.int64), _tensor(values, np.float32), _tensor(ends, np.int64), _tensor(labels, np.int64),
        _tensor(label_ends, np.int64), features, classes,
    )  # fmt: skip
    for what, numbers, below in (("feature", made.indices, features), ("label", made.labels, classes)):
        if numbers.numel() and not (int(numbers.min()) >= 0 and int(numbers.max()) < below):
            raise DataError(f"{path}: holds a {what} out of range: expected 0 to {below - 1}")
    if not bool(made.values.isfinite().all()):
        raise DataError(f"{path}: holds a value that is NaN or infinite")
    return made


def _row(line: bytes, indices: array, values: array, labels: array) -> None:
    head, _, rest = line.partition(b" ")
    if b":" in head:  # a row without labels, and without the space before
        head, rest = b"", line
    labels.extend(int(label) for label in head.split(b",") if label.strip())
    for pair in rest.split():
        index, _, value = pair.partition(b":")
        indices.append(int(index))
        values.append(float(value))


def _header(path: Path, first: tuple[int, bytes]) -> tuple[int, int, int]:
    try:
        rows, features, classes = (int(part) for part in first[1].split())
        if min(rows, features, classes) < 0:
            raise ValueError("a negative number")
    except ValueError as error:
        raise DataError(f"{path}, line 1: expected the header `rows features labels` ({error})") from error
    return rows, features, classes


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if zipped else nullcontext(raw) as file:
                for number, line in enumerate(file, 1):
                    yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _spans(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    counts = offsets.diff()[rows]
    ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    at = torch.arange(int(ends[-1])) + torch.repeat_interleave(offsets[:-1][rows] - ends[:-1], counts)
    return at, ends


def _tensor(values: array, dtype: type) -> Tensor:
    return (
        torch.from_numpy(np.frombuffer(values, dtype=dtype).copy())
        if len(values)
        else torch.zeros(0, dtype=torch.int64 if dtype is np.int64 else torch.float32)
    )
