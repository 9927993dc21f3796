"""hash_report: what hashing finds in a layer, how its buckets are filled, and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.lsh.head import HashedHead
from thrifty.lsh.index import ClassIndex
from thrifty.lsh.linear import LSHLinear

# what a part of the time is called -> the stages that belong to it
PARTS = {
    "hashing": ("hash", "query", "group"),
    "rebuild": ("refresh", "rebuild"),
    "products": ("gather", "gemm", "backward"),
    "optimizer": ("optimizer",),
}
_ROWS = 256  # queries scored against all classes at once


@dataclass(frozen=True)
class HashReport:
    """A layer's tables on some queries, and its seconds since its stages were last cleared.

    Attributes:
        classes: N.
        k: how many of a query's best classes were looked for.
        recall: the share of them that are in the set which a training step computes.
        search_recall: the share of them that `topk` finds; None for a hidden layer, which has none.
        active_fraction: the share of the classes that a training step computes.
        bucket_mean, bucket_max: classes in a bucket that is not empty.
        bucket_empty, bucket_full: shares of the buckets.
        table_bytes, weight_bytes: memory of tables with their scratch, and of the weights.
        rebuilds: how often the tables were made anew.
        seconds: by stage, as the layer counts them.
    """

    classes: int
    k: int
    recall: float
    search_recall: float | None
    active_fraction: float
    bucket_mean: float
    bucket_max: int
    bucket_empty: float
    bucket_full: float
    table_bytes: int
    weight_bytes: int
    rebuilds: int
    seconds: Mapping[str, float]

    @property
    def time_shares(self) -> dict[str, float]:
        """The shares of hashing, rebuild, products and optimizer in the layer's time; empty before the first step."""
        spent = {part: sum(self.seconds.get(stage, 0.0) for stage in stages) for part, stages in PARTS.items()}
        total = sum(spent.values())
        return {part: seconds / total for part, seconds in spent.items()} if total else {}

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "seconds": dict(self.seconds), "time_shares": self.time_shares}

    def __str__(self) -> str:
        search = "" if self.search_recall is None else f", {self.search_recall:.1%} by a search"
        times = ", ".join(f"{part} {share:.0%}" for part, share in self.time_shares.items()) or "no step yet"
        return (
            f"{self.active_fraction:.2%} of {self.classes:,} classes active; of a query's {self.k} best "
            f"{self.recall:.1%} are among them{search}\n"
            f"buckets hold {self.bucket_mean:.1f} classes, {self.bucket_max} at most; {self.bucket_empty:.0%} are "
            f"empty, {self.bucket_full:.0%} full\n"
            f"tables take {self.table_bytes / self.weight_bytes:.0%} of the weights' memory; {self.rebuilds} built\n"
            f"time: {times}"
        )


@torch.no_grad()
def hash_report(layer: HashedHead | LSHLinear, x: Tensor, k: int = 10) -> HashReport:
    """Look a layer's tables over with queries like those it gets; nothing of it is changed, tables it lacks are built.

    Args:
        layer: a loss with a wide output, or a hidden layer that `thrifty.apply_` changed.
        x: its inputs (..., D): what a training step would take, so that the set is that of one step.
        k: the best classes to look for, from 1 to N.

    Raises:
        UsageError: for a layer without tables, no query, queries of another width, and a k out of range.
        NonFiniteError: for NaN or infinity in `x`.
    """
    if not isinstance(layer, HashedHead | LSHLinear) or getattr(layer, "when", "") == "dense":
        raise UsageError(f"hash_report takes a hashed layer, got {type(layer).__name__} without tables")
    index = _index(layer)
    if x.dim() < 1 or x.shape[-1] != index.features or not x.numel():
        raise UsageError(f"hash_report: queries are {tuple(x.shape)}, expected (..., {index.features}), one at least")
    if not 1 <= k <= index.classes:
        raise UsageError(f"hash_report: k must be from 1 to the {index.classes} classes, got {k}")
    x_RD = x.detach().reshape(-1, index.features).float()
    weight, bias = layer.weight.float(), None if layer.bias is None else layer.bias.float()
    best = torch.cat([torch.nn.functional.linear(part, weight, bias).topk(k).indices for part in x_RD.split(_ROWS)])
    recall, active = _of_a_step(layer, index, x_RD, best)
    searched = None
    if isinstance(layer, HashedHead):
        searched = _share_within(best, layer.topk(x_RD, k)[1])
    tables, size = index.built(), index.size
    load = tables.sizes.clamp(max=size.capacity)
    filled = load > 0
    return HashReport(
        index.classes, k, recall, searched, active, float(load[filled].float().mean()), int(load.max()),
        float((~filled).float().mean()), float((load == size.capacity).float().mean()), index.bytes,
        weight.numel() * layer.weight.element_size(), index.rebuilds, dict(_seconds(layer)),
    )  # fmt: skip


def _index(layer: HashedHead | LSHLinear) -> ClassIndex:
    if isinstance(layer, HashedHead):
        if layer.index is None:
            layer.rebuild()
        assert layer.index is not None
        return layer.index
    if layer.lsh.index.tables is None:
        layer.lsh.index.rebuild(layer.weight, layer.bias)
    return layer.lsh.index


def _seconds(layer: HashedHead | LSHLinear) -> Mapping[str, float]:
    return layer.stages if isinstance(layer, HashedHead) else layer.counters.stages_s


def _of_a_step(layer: HashedHead | LSHLinear, index: ClassIndex, x_RD: Tensor, best: Tensor) -> tuple[float, float]:
    """The share of the best classes in the set that a step on these queries computes, and that set's share of all."""
    codes = index.query_codes(x_RD)
    if isinstance(layer, LSHLinear) and layer.lsh.config.mode == "each":
        ids, found = index.candidates(codes, layer.lsh.limit)
        ids = ids.long().masked_fill(torch.arange(ids.shape[1]) >= found.unsqueeze(1), -1)
        return _share_within(best, ids), float(found.sum()) / (len(x_RD) * index.classes)
    limit, tail = (layer.active, layer.tail) if isinstance(layer, HashedHead) else (layer.lsh.limit, 0)
    limit, tail = min(limit, index.classes), min(tail, index.classes)
    chosen = index.active(codes, torch.zeros(0, dtype=torch.int64), limit, tail, 0)
    return float(torch.isin(best, chosen.ids).float().mean()), len(chosen.ids) / index.classes


def _share_within(best: Tensor, ids: Tensor) -> float:
    """The share of the entries of each row of `best` (R, k) that are in the same row of `ids` (R, any)."""
    hits = sum(len(set(a) & set(b)) for a, b in zip(best.tolist(), ids.tolist(), strict=True))
    return hits / best.numel()
