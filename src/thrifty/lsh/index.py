"""ClassIndex: finds the classes whose scores x . w + b are large, in tables that follow the weights.

Classes and queries are augmented so that large scores are small angles, hashed, and looked up. Rows that changed are
moved from bucket to bucket; everything is made anew when that is asked for, or when codes have drifted.
A rebuild fills new tables beside the old ones and puts them in place with one assignment, so an interrupted one leaves
the old tables whole, and readers of other threads see one or the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thrifty.core.errors import NonFiniteError
from thrifty.core.seeds import derive_seed
from thrifty.lsh.family import Family, SimHash, draw_family
from thrifty.lsh.hashing import Hashing, Sizes, sizes_for
from thrifty.ops.active_set import ActiveSet, active_set
from thrifty.ops.inner_product import Centre, augment_classes, augment_queries, centre_of
from thrifty.ops.row_candidates import rank_top, row_candidates
from thrifty.ops.table_update import table_update

CHUNK = 8192  # classes hashed together
SAMPLE = 256  # classes looked at to measure drift
FIT = 4096  # classes that fitted planes are drawn from


class Tables(NamedTuple):
    """One build: hash functions, the centre they are used around, and the filled tables (see `ops.table_update`)."""

    family: Family
    centre: Centre
    slots: Tensor
    sizes: Tensor
    seen: Tensor
    codes: Tensor

    @property
    def bytes(self) -> int:
        """Memory of the tables."""
        return sum(t.numel() * t.element_size() for t in (self.slots, self.sizes, self.seen, self.codes))


class ClassIndex:
    """The hash tables of the classes of one layer."""

    def __init__(self, hashing: Hashing, classes: int, features: int) -> None:
        self.hashing, self.classes, self.features = hashing, classes, features
        self.size: Sizes = sizes_for(hashing, classes, features)
        self.tables: Tables | None = None
        self.rebuilds = 0
        self._seed = derive_seed(hashing.seed, "tables")
        self._votes: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory of the tables and of the scratch beside them."""
        votes = 0 if self._votes is None else self._votes.numel() * self._votes.element_size()
        return votes + (self.tables.bytes if self.tables is not None else 0)

    @torch.no_grad()
    def rebuild(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        """Fill new tables from the weights.

        Raises:
            NonFiniteError: when a weight or bias is NaN or infinite; the old tables stay.
        """
        weight, bias = weight_ND.detach().float(), None if bias_N is None else bias_N.detach().float()
        centre = centre_of(weight, bias)
        if not (bool(centre.mean_D.isfinite().all()) and centre.square == centre.square and centre.square < torch.inf):
            raise NonFiniteError(
                "a class has a weight that is NaN or infinite, which no table can hold: look for a diverging loss, "
                "or load another checkpoint"
            )
        size = self.size
        sample = weight[:: max(1, self.classes // FIT)]
        sample_bias = None if bias is None else bias[:: max(1, self.classes // FIT)]
        family = draw_family(self.hashing, self.features + 2, size, augment_classes(sample, sample_bias, centre))
        shape = (size.tables, size.buckets)
        tables = Tables(
            family, centre, torch.zeros(*shape, size.capacity, dtype=torch.int32), torch.zeros(shape,
            dtype=torch.int32), torch.zeros(shape, dtype=torch.int32), torch.full((size.tables, self.classes), -1,
            dtype=torch.int32),
        )  # fmt: skip
        for first in range(0, self.classes, CHUNK):
            rows = range(first, min(first + CHUNK, self.classes))
            codes = family.class_codes(self._rows(weight, bias, slice(rows.start, rows.stop), centre))
            table_update(rows, codes, self._fifo, self._seed, *tables[2:])
        self.tables = tables
        self.rebuilds += 1

    @torch.no_grad()
    def refresh(self, rows: Tensor | range, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        """Hash `rows` (int64, each once, or a range) again and move them where they now belong."""
        tables = self.built()
        some = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        codes = tables.family.class_codes(self._rows(weight_ND, bias_N, some, tables.centre))
        table_update(rows, codes, self._fifo, self._seed, *tables[2:])

    def refresh_all(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        """As `refresh` of every class, some of them at a time."""
        for first in range(0, self.classes, CHUNK):
            self.refresh(range(first, min(first + CHUNK, self.classes)), weight_ND, bias_N)

    @torch.no_grad()
    def drift(self, weight_ND: Tensor, bias_N: Tensor | None, step: int) -> float:
        """The share of codes, in a sample of classes, that are no longer those in the tables."""
        tables = self.built()
        source = torch.Generator().manual_seed(derive_seed(self.hashing.seed, "drift", step))
        rows = torch.randint(self.classes, (min(SAMPLE, self.classes),), generator=source)
        codes = tables.family.class_codes(self._rows(weight_ND, bias_N, rows, tables.centre))
        return float((tables.codes[:, rows] != codes.T).float().mean())

    @torch.no_grad()
    def query_codes(self, x_RD: Tensor, probes: int | None = None) -> Tensor:
        """Buckets (R, T, P) of queries (R, D). Raises NonFiniteError for NaN or infinity, which have no place in a
        table.
        """
        queries = augment_queries(x_RD.detach().float())
        if not bool(queries.isfinite().all()):
            raise NonFiniteError("a hash input holds NaN or infinity: look for a diverging loss or bad data")
        return self.built().family.query_codes(queries, probes or self.hashing.probes)

    def active(self, codes_RTP: Tensor, forced: Tensor, limit: int, tail: int, step: int) -> ActiveSet:
        """Head and tail for a batch; `step` is what the tail is drawn by."""
        tables = self.built()
        if self._votes is None:
            self._votes = torch.zeros(self.classes, dtype=torch.int32)
        seed = derive_seed(self.hashing.seed, "tail", step)
        # Taken while in use: a second thread makes its own.
        votes, self._votes = self._votes, None
        found = active_set(codes_RTP, tables.slots, tables.sizes, self.classes, forced, limit, tail, seed, votes)
        self._votes = votes
        return found

    def candidates(self, codes_RTP: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Each row's own most voted classes: ids (R, limit) and how many there are (R,)."""
        tables = self.built()
        return row_candidates(codes_RTP, tables.slots, tables.sizes, limit)

    @torch.no_grad()
    def topk(
        self, x_RD: Tensor, weight_ND: Tensor, bias_N: Tensor | None, k: int, probes: int, limit: int
    ) -> tuple[Tensor, Tensor]:
        """The k best of at most `limit` candidates a row, by exact score: values (R, k), ids (R, k) with -1 for
        none.
        """
        ids, found = self.candidates(self.query_codes(x_RD, probes), limit)
        best, scores = rank_top(x_RD, weight_ND.detach(), None if bias_N is None else bias_N.detach(), ids, found, k)
        return scores, best

    def state(self) -> dict[str, Any]:
        """The filled tables as plain data and tensors; hash functions are drawn again from the seed."""
        tables = self.built()
        return {
            "mean": tables.centre.mean_D.clone(), "bias": tables.centre.bias, "square": tables.centre.square,
            "planes": getattr(tables.family, "planes_DP", torch.zeros(0)).clone(), "rebuilds": self.rebuilds,
            **{name: getattr(tables, name).clone() for name in ("slots", "sizes", "seen", "codes")},
        }  # fmt: skip

    def load_state(self, state: Mapping[str, Any], copy: bool = True) -> None:
        """Take over such a state, or its very tensors where `copy` is False. Raises ValueError, KeyError, TypeError,
        AttributeError or OverflowError when it does not fit this index; then the tables stay.
        """
        size, features = self.size, self.features + 2
        shapes = {
            "slots": (size.tables, size.buckets, size.capacity), "sizes": (size.tables, size.buckets),
            "seen": (size.tables, size.buckets), "codes": (size.tables, self.classes),
        }  # fmt: skip
        for name, shape in shapes.items():
            if tuple(state[name].shape) != shape or state[name].dtype != torch.int32:
                raise ValueError(f"{name} is {state[name].dtype} {tuple(state[name].shape)}, expected int32 {shape}")
            if not _plain(state[name]):
                raise ValueError(f"{name} does not lie in memory as a table does")
        limits = {
            "slots": (0, self.classes), "sizes": (0, size.capacity + 1), "seen": (0, self.classes + 1),
            "codes": (-1, size.buckets),
        }  # fmt: skip
        for name, (least, below) in limits.items():
            if int(state[name].min()) < least or int(state[name].max()) >= below:
                raise ValueError(f"{name} holds values out of range: expected {least} to {below} - 1")
        if _overlap([state[name] for name in shapes]):
            raise ValueError("two of the tables lie in the same memory")
        numbers = [float(state[name]) for name in ("bias", "square") if isinstance(state[name], (int, float))]
        if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
            raise ValueError("the centre's bias and square are no finite numbers")
        centre = Centre(_floats("mean", state["mean"], (self.features,)), *numbers)
        family = draw_family(self.hashing, features, size, torch.zeros(1, features))
        if isinstance(family, SimHash) and state["planes"].numel():
            family.planes_DP = _floats("planes", state["planes"], (features, size.tables * size.bits))
        rebuilds = state["rebuilds"]
        if type(rebuilds) is not int:
            raise ValueError("it does not count its rebuilds")
        self.tables = Tables(family, centre, *(state[name].clone() if copy else state[name] for name in shapes))
        self.rebuilds = rebuilds

    def built(self) -> Tables:
        """The tables; RuntimeError before the first `rebuild`."""
        if self.tables is None:
            raise RuntimeError("the hash tables are not built: call rebuild(weight, bias) first")
        return self.tables

    @property
    def _fifo(self) -> bool:
        return self.hashing.replace == "fifo"

    @staticmethod
    def _rows(weight: Tensor, bias: Tensor | None, rows: Tensor | slice, centre: Centre) -> Tensor:
        return augment_classes(
            weight.detach()[rows].float(), None if bias is None else bias.detach()[rows].float(), centre
        )


def _plain(tensor: Tensor) -> bool:
    """Whether its numbers lie one after the other in memory of this machine, as kernels take them for granted."""
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_contiguous()


def _overlap(tensors: list[Tensor]) -> bool:
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + 4 * tensor.numel()) for tensor in tensors)
    return any(end > start for (_, end), (start, _) in itertools.pairwise(spans))


def _floats(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or tensor.layout is not torch.strided:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected float32 {shape}")
    if tensor.device.type == "meta" or not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} holds values that are no finite numbers")
    return tensor.clone()
