"""Hash functions with their parameters: drawn once from a seed, the same ones for classes and queries."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from thrifty.core.seeds import derive_seed, generator
from thrifty.lsh.hashing import WTA_SIZE, Hashing, Sizes
from thrifty.ops.sim_hash import pack_signs, probe_codes, sparse_project
from thrifty.ops.wta_hash import ATTEMPTS, wta_hash

SPARSE_ENTRIES = 8  # of a sparse sign vector


class Family(Protocol):
    """Codes of rows (R, D): for classes one bucket a table, for queries one or more."""

    @property
    def macs(self) -> int:
        """Multiply-adds, additions or comparisons a row."""
        ...

    def class_codes(self, x_RD: Tensor) -> Tensor:
        """Codes int32 (R, T)."""
        ...

    def query_codes(self, x_RD: Tensor, probes: int) -> Tensor:
        """Codes int32 (R, T, P), the likeliest first."""
        ...


class SimHash:
    """Signs of projections on normal vectors, or on the differences of two rows of `fit`.

    A difference of two rows of equal length is normal to the plane half-way between them, so such planes part the
    data where they are dense.
    """

    def __init__(self, features: int, sizes: Sizes, seed: int, fit: Tensor | None = None) -> None:
        source = generator(seed, "sim")
        count = sizes.tables * sizes.bits
        if fit is None:
            planes = torch.randn(features, count, generator=source)
        else:
            pairs = torch.randint(len(fit), (2, count), generator=source)
            planes = (fit[pairs[0]] - fit[pairs[1]]).T.float()
            planes = planes + 1e-6 * torch.randn(planes.shape, generator=source)  # where both are one row
        self.planes_DP = planes / planes.norm(dim=0).clamp(min=1e-30)
        self.thresholds_TK = torch.zeros(sizes.tables, sizes.bits)

    @property
    def macs(self) -> int:
        """Multiply-adds a row."""
        return self.planes_DP.numel()

    def _projections(self, x_RD: Tensor) -> Tensor:
        return x_RD @ self.planes_DP

    def class_codes(self, x_RD: Tensor) -> Tensor:
        """Codes int32 (R, T)."""
        codes: Tensor = pack_signs(self._projections(x_RD), self.thresholds_TK)
        return codes

    def query_codes(self, x_RD: Tensor, probes: int) -> Tensor:
        """Codes int32 (R, T, P): the own bucket, then neighbours across the nearest planes."""
        return probe_codes(self._projections(x_RD), self.thresholds_TK, probes)


class SparseSimHash(SimHash):
    """Signs of projections on vectors with a few entries of +1 and -1: additions of a few coordinates."""

    def __init__(self, features: int, sizes: Sizes, seed: int) -> None:
        source = generator(seed, "sparse")
        shape = (sizes.tables * sizes.bits, min(SPARSE_ENTRIES, features))
        self.index_PE = torch.randint(features, shape, generator=source, dtype=torch.int32)
        self.signs_PE = torch.randint(2, shape, generator=source).float() * 2 - 1
        self.thresholds_TK = torch.zeros(sizes.tables, sizes.bits)

    @property
    def macs(self) -> int:
        """Additions a row."""
        return self.index_PE.numel()

    def _projections(self, x_RD: Tensor) -> Tensor:
        projections: Tensor = sparse_project(x_RD, self.index_PE, self.signs_PE)
        return projections


class WinnerTakeAll:
    """Winners of bins of eight features, densified."""

    def __init__(self, features: int, sizes: Sizes, seed: int) -> None:
        source = generator(seed, "wta")
        shape = (sizes.tables, sizes.bits, WTA_SIZE)
        keys = torch.rand(*shape[:2], features, generator=source) if features >= WTA_SIZE else None
        if keys is None:
            index = torch.randint(features, shape, generator=source)
        else:
            index = keys.topk(WTA_SIZE, dim=-1).indices  # without repetition
        self.index_TKM = index.to(torch.int32)

    @property
    def macs(self) -> int:
        """Comparisons a row."""
        return self.index_TKM.numel()

    def class_codes(self, x_RD: Tensor) -> Tensor:
        """Codes int32 (R, T)."""
        codes: Tensor = wta_hash(x_RD, self.index_TKM, ATTEMPTS)
        return codes

    def query_codes(self, x_RD: Tensor, probes: int) -> Tensor:
        """Codes int32 (R, T, 1)."""
        return self.class_codes(x_RD).unsqueeze(-1)


def draw_family(hashing: Hashing, features: int, sizes: Sizes, classes_RD: Tensor) -> Family:
    """The hash functions of a layer for (augmented) rows of `features`; `classes_RD` is a sample of its classes."""
    seed = derive_seed(hashing.seed, "family")
    if hashing.family == "wta":
        return WinnerTakeAll(features, sizes, seed)
    if hashing.family == "sparse":
        return SparseSimHash(features, sizes, seed)
    return SimHash(features, sizes, seed, classes_RD if hashing.family == "fitted" else None)


def draw_macs(hashing: Hashing, features: int, sizes: Sizes) -> int:
    """What `draw_family(...).macs` will be, without drawing."""
    planes = sizes.tables * sizes.bits
    if hashing.family == "wta":
        return planes * WTA_SIZE
    return planes * (min(SPARSE_ENTRIES, features) if hashing.family == "sparse" else features)
