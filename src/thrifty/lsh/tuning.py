"""tune_search: how many tables, bits and probes a search needs, measured on the weights and queries themselves.

What a setting finds depends on how classes and queries lie to each other, which no formula knows. So tables of a few
sizes are built, from small to large, and for each the probes are doubled until enough is found; the fastest setting
that finds enough wins.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.lsh.hashing import Hashing, sizes_for
from thrifty.lsh.index import ClassIndex

LOADS = (12, 48, 120)  # classes a bucket
TABLES = (8, 16, 24, 48)
PROBES = (1, 2, 4, 8, 16, 32, 64)
CANDIDATES = (500, 1000, 2000, 4000)
_TIMED = 32  # queries asked one by one


@dataclass(frozen=True)
class Tuned:
    """The chosen setting, for `HashedHead(hashing=...)` and `topk(probes=..., candidates=...)`.

    Attributes:
        hashing, probes, candidates: the setting.
        recall: the share of the k best classes that it found.
        latency_s: median seconds of one query.
        reached: whether the recall asked for was reached; if not, this is the setting that found most.
        tried: every setting measured: `tables, bits, probes, candidates, recall, latency_s`.
    """

    hashing: Hashing
    probes: int
    candidates: int
    recall: float
    latency_s: float
    reached: bool
    tried: tuple[dict[str, Any], ...]


@torch.no_grad()
def tune_search(
    weight: Tensor,
    bias: Tensor | None,
    queries: Tensor,
    *,
    k: int = 10,
    recall: float = 0.9,
    memory_share: float = 1.0,
    budget_s: float = 30.0,
    hashing: Hashing | None = None,
) -> Tuned:
    """Choose K, L, bucket size and probes for top-k search.

    Args:
        weight, bias: of the layer, (N, D) and (N,).
        queries: (R, D), like those to come; some dozens do.
        k: classes that are wanted.
        recall: the share of the true k best that has to be found, above 0 and at most 1.
        memory_share: what tables may take of the weights' memory.
        budget_s: seconds after which no further tables are built.
        hashing: family and seed.

    Raises:
        UsageError: for sizes that do not fit, no query, and settings out of range.
        NonFiniteError: for NaN or infinity.
    """
    classes, features = weight.shape
    if queries.dim() != 2 or queries.shape[1] != features or not len(queries):
        raise UsageError(f"tune_search: queries are {tuple(queries.shape)}, expected (R, {features}), one at least")
    if not 1 <= k <= classes or not 0 < recall <= 1 or not memory_share > 0 or not budget_s > 0:
        raise UsageError("tune_search: k must be from 1 to N, recall above 0 to 1, memory_share and budget_s above 0")
    base = hashing or Hashing()
    best = torch.nn.functional.linear(queries, weight, bias).topk(k, dim=1).indices
    tried: list[tuple[dict[str, Any], Hashing]] = []
    start = time.perf_counter()
    for setting in _settings(base, classes, features, memory_share):
        if tried and time.perf_counter() - start > budget_s:
            break
        index = ClassIndex(setting, classes, features)
        index.rebuild(weight, bias)
        for probes in PROBES[:1] if setting.family == "wta" else PROBES:
            measured = [_measure(index, weight, bias, queries, best, probes, limit) for limit in _limits(k, classes)]
            tried += [(row, setting) for row in measured]
            if max(row["recall"] for row in measured) >= recall or time.perf_counter() - start > 2 * budget_s:
                break
    good = [entry for entry in tried if entry[0]["recall"] >= recall]
    if good:
        row, setting = min(good, key=lambda entry: entry[0]["latency_s"])
    else:
        row, setting = max(tried, key=lambda entry: entry[0]["recall"])
    return Tuned(
        setting, row["probes"], row["candidates"], row["recall"], row["latency_s"], bool(good),
        tuple(row for row, _ in tried),
    )  # fmt: skip


def _settings(base: Hashing, classes: int, features: int, memory_share: float) -> Iterator[Hashing]:
    """Tables from small to large, as far as they fit the memory; one setting at least."""
    wta = base.family == "wta"
    found = []
    for load in LOADS:
        bits = max(1, int(math.log(max(classes / load, 2), 8 if wta else 2)))
        for tables in TABLES:
            setting = replace(base, bits=min(bits, 9 if wta else 20), tables=tables, capacity=None, probes=1)
            if sizes_for(setting, classes, features).bytes <= memory_share * 4 * classes * features:
                found.append(setting)
    smallest = replace(base, bits=None, tables=None, capacity=None, probes=1)
    yield from sorted(set(found), key=lambda setting: (setting.tables, setting.bits)) or [smallest]


def _limits(k: int, classes: int) -> list[int]:
    """Candidates to score, of which the least that can hold k."""
    return sorted({min(max(limit, k), classes) for limit in CANDIDATES})


def _measure(
    index: ClassIndex, weight: Tensor, bias: Tensor | None, queries: Tensor, best: Tensor, probes: int, limit: int
) -> dict[str, Any]:
    k = best.shape[1]
    found = index.topk(queries, weight, bias, k, probes, limit)[1]
    hits = sum(len(set(a) & set(b)) for a, b in zip(best.tolist(), found.tolist(), strict=True))
    seconds = []
    for query in queries[:_TIMED].split(1):
        start = time.perf_counter()
        index.topk(query, weight, bias, k, probes, limit)
        seconds.append(time.perf_counter() - start)
    return {
        "tables": index.size.tables, "bits": index.size.bits, "probes": probes, "candidates": limit,
        "recall": hits / best.numel(), "latency_s": statistics.median(seconds),
    }  # fmt: skip
