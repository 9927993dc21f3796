"""Extreme-classification text, as the XC repository has it, and libsvm: sparse features and several labels a row.

XC: a header `rows features labels`, then a line a row: `l1,l2 f:v f:v ...`, numbered from 0; a row without labels
begins with a space. libsvm: the same without the header. Files may be gzipped; they are read line by line, as a whole
or, where they do not fit in memory, in batches.
"""

import gzip
import io
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thrifty.core.errors import DataError, UsageError

_MAX_LINE_BYTES = 1 << 26  # a packed file of a single line could else be of any size


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
    (made,) = _batches(Path(path), None, features, classes)
    return made


def stream_xc(
    path: str | Path, *, batch: int = 4096, features: int | None = None, classes: int | None = None
) -> Iterator[SparseRows]:
    """Read a file of XC text that need not fit in memory, some rows at a time and in its order.

        for rows in stream_xc("amazon-3m_train.txt.gz", batch=512):
            loss = head(body(rows.indices, rows.offsets), rows.labels, rows.label_offsets)

    Memory is that of one batch; a line may have 64 MB. Joined, the batches are what `read_xc` returns.

    Args:
        path: plain or gzipped.
        batch: rows at a time; the last may have fewer.
        features, classes: of libsvm lines without a header; both or none.

    Raises:
        UsageError: a batch of no rows.
        DataError: as `read_xc`, when the damage is come to: batches before it were whole. So was every row before a
            file's end that comes too early, but a training on them has seen a part of the set.
    """
    if batch < 1:
        raise UsageError(f"stream_xc: a batch has at least one row, got {batch}")
    return _batches(Path(path), batch, features, classes)


def _batches(path: Path, most: int | None, features: int | None, classes: int | None) -> Iterator[SparseRows]:
    """Batches of `most` rows, or one of all."""
    lines, promised, found = _lines(path), None, 0
    if features is None or classes is None:
        promised, features, classes = _header(path, next(lines, (1, b"")))
    rows = _Rows(path, features, classes)
    for number, line in lines:
        if not line.strip() and promised is None:
            continue
        rows.add(number, line)
        found += 1
        if most is not None and len(rows.numbers) == most:
            if promised is not None and found > promised:
                break
            yield rows.made()
            rows = _Rows(path, features, classes)
    if promised is not None and found != promised:
        raise DataError(
            f"{path}: its header promises {promised} rows, it holds {found}: the file is cut off or damaged"
        )
    if rows.numbers or most is None:
        yield rows.made()


class _Rows:
    """Rows as they are read, and the numbers of their lines."""

    def __init__(self, path: Path, features: int, classes: int) -> None:
        self._path, self._features, self._classes = path, features, classes
        self.indices, self.values, self.labels = array("q"), array("f"), array("q")
        self.ends, self.label_ends, self.numbers = array("q", [0]), array("q", [0]), array("q")

    def add(self, number: int, line: bytes) -> None:
        """Take the line of this number. Raises DataError where it is no row."""
        try:
            _row(line, self.indices, self.values, self.labels)
        except (ValueError, OverflowError) as error:
            told = str(error)[:200]  # it quotes the line
            raise DataError(f"{self._path}, line {number}: expected `l1,l2 f:v f:v ...` ({told})") from error
        self.ends.append(len(self.indices))
        self.label_ends.append(len(self.labels))
        self.numbers.append(number)

    def made(self) -> SparseRows:
        """The rows as tensors. Raises DataError for a number out of range, and for a value that is not finite."""
        found = SparseRows(
            _tensor(self.indices, np.int64), _tensor(self.values, np.float32), _tensor(self.ends, np.int64),
            _tensor(self.labels, np.int64), _tensor(self.label_ends, np.int64), self._features, self._classes,
        )  # fmt: skip
        indices, labels = found.indices, found.labels
        for wrong, ends, told in (
            ((indices < 0) | (indices >= self._features), found.offsets,
             f"a feature out of range: expected 0 to {self._features - 1}"),
            ((labels < 0) | (labels >= self._classes), found.label_offsets,
             f"a label out of range: expected 0 to {self._classes - 1}"),
            (~found.values.isfinite(), found.offsets, "a value that is NaN or infinite"),
        ):  # fmt: skip
            if bool(wrong.any()):
                row = int(torch.searchsorted(ends, wrong.nonzero()[0, 0], right=True)) - 1
                raise DataError(f"{self._path}, line {self.numbers[row]}: holds {told}")
        return found


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
        raise DataError(f"{path}, line 1: expected the header `rows features labels` ({str(error)[:200]})") from error
    return rows, features, classes


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if zipped else raw
            for number in count(1):
                line = file.readline(_MAX_LINE_BYTES + 1)
                if len(line) > _MAX_LINE_BYTES:
                    raise DataError(f"{path}, line {number}: is longer than {_MAX_LINE_BYTES:,} bytes")
                if not line:
                    return
                yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
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
