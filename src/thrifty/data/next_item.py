"""Next-item sequences: what each user chose, in order, and the leave-one-out protocol of recommenders.

A file is an npz with `items` (all users joined, ids from 1) and `offsets` (users + 1,). The last item of a user is for
the test, the one before for validation, all before are for training (as SASRec, BERT4Rec and their kin do).
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thrifty.core.errors import DataError

from .locate import find_set
from .sets import ITEMS

_MAX_BYTES = 1 << 33
LEAST = 3  # items of a user: one each for training, validation and test


@dataclass
class NextItems:
    """Sequences of item ids, from 1 to `count` - 1; 0 stands for none.

    items: int64, all users joined. offsets: int64 (users + 1,). Users of fewer than three items are left out.
    """

    name: str
    items: Tensor
    offsets: Tensor
    count: int
    source: str

    def training(self, history: int) -> tuple[Tensor, Tensor]:
        """Histories (pairs, history), latest item first and 0 behind the first, and the items that followed them."""
        users = torch.repeat_interleave(torch.arange(len(self.offsets) - 1), (self.offsets.diff() - 3).clamp(min=0))
        ends = self._ends(users, self.offsets.diff() - 3)
        return self._before(ends, self.offsets[:-1][users], history), self.items[ends]

    def held_out(self, split: str, history: int) -> tuple[Tensor, Tensor]:
        """Histories (users, history) and the item to find, for `valid` or `test`."""
        ends = self.offsets[1:] - (1 if split == "test" else 2)
        return self._before(ends, self.offsets[:-1], history), self.items[ends]

    def _ends(self, users: Tensor, counts: Tensor) -> Tensor:
        counts = counts.clamp(min=0)
        first = torch.nn.functional.pad(counts.cumsum(0), (1, 0))[:-1]
        return self.offsets[users] + 1 + torch.arange(len(users)) - first[users]

    def _before(self, ends: Tensor, starts: Tensor, history: int) -> Tensor:
        at = ends.unsqueeze(1) - 1 - torch.arange(history)
        return torch.where(at >= starts.unsqueeze(1), self.items[at.clamp(min=0)], 0)


def load_next_items(name_or_path: str | Path, *, root: str | Path | None = None, download: bool = True) -> NextItems:
    """Return next-item sequences by the name of a set ("beauty-54k") or from an npz file.

    Raises:
        UsageError: for a name that is neither a set nor a path.
        DataError: when the file is missing, no npz of these two arrays, or its numbers do not make sequences.
    """
    place = find_set(name_or_path, ITEMS, root=root, download=download)
    path = place.path
    try:
        _check_sizes(path)
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            items, offsets = file["items"], file["offsets"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: expected an npz with items and offsets ({error})") from error
    except Exception as error:  # a damaged zip raises errors of its own
        raise DataError(f"{path}: the npz is damaged ({error})") from error
    if items.ndim != 1 or offsets.ndim != 1 or items.dtype.kind not in "iu" or offsets.dtype.kind not in "iu":
        raise DataError(f"{path}: items and offsets must be vectors of whole numbers")
    if (
        not len(items)
        or len(offsets) < 2
        or offsets[0] != 0
        or offsets[-1] != len(items)
        or (np.diff(offsets) < 0).any()
    ):
        raise DataError(f"{path}: offsets must rise from 0 to the {len(items)} items")
    if int(items.min()) < 1:
        raise DataError(f"{path}: an item is {int(items.min())}: ids begin at 1")
    long_enough = np.diff(offsets) >= LEAST
    if not long_enough.any():
        raise DataError(f"{path}: no user has {LEAST} items")
    kept = np.repeat(long_enough, np.diff(offsets))
    lengths = np.diff(offsets)[long_enough]
    return NextItems(
        place.name,
        torch.from_numpy(items[kept].astype(np.int64)),
        torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int64)),
        int(items.max()) + 1,
        place.source(),
    )


def _check_sizes(path: Path) -> None:
    """Raise ValueError for an array that claims more than its entry has: numpy takes the memory before it reads."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > _MAX_BYTES:
                raise ValueError(f"{info.filename} claims {info.file_size} bytes")
            with archive.open(info) as stream:
                shape, _, dtype = headers[np.lib.format.read_magic(stream)](stream)
            if math.prod(shape) * dtype.itemsize > info.file_size:
                raise ValueError(f"{info.filename} claims shape {shape} in {info.file_size} bytes")
