"""The ten best classes of one query: brute force, hash tables with exact re-ranking, and an HNSW or IVF index beside
them.

`clusters`: weights around centres and queries near them. Recall is against brute force; latency is the median of single
queries. hnswlib and faiss are timed where they are installed; both search the same inner products. Ours has 24 tables
of buckets of 48 classes: the tables of one family are built once, so only its first row has a build time.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from thrifty.lsh import LSHSoftmaxLoss

FEATURES, K = 128, 10
SETTINGS = ((8, 1000), (24, 1000), (48, 1000), (24, 4000))  # buckets a table, classes scored at most
TABLES, LOAD = 24, 48  # more tables, and fuller buckets, than training takes


@benchmark("lsh-inference", "ten best of 100,000 classes for one query: brute force, hash tables, hnswlib, faiss")
def run(quick: bool, console: Console) -> BenchResult:
    """Build every index once, then ask one query at a time."""
    import torch

    classes, queries = (20_000, 100) if quick else (100_000, 300)
    source = torch.Generator().manual_seed(0)
    centres = torch.randn(classes // 50, FEATURES, generator=source)
    weight = centres[torch.arange(classes) % len(centres)] + 0.5 * torch.randn(classes, FEATURES, generator=source)
    x = centres[torch.randint(len(centres), (queries,), generator=source)]
    x = x + 0.5 * torch.randn(x.shape, generator=source)
    wanted = (x @ weight.T).topk(K, dim=1).indices
    rows = []
    for name, build in _methods(weight).items():
        console.print(name)
        start = time.perf_counter()
        ask = build()
        built_s = time.perf_counter() - start
        rows.append(_row(classes, name, ask, x, wanted, built_s))
    good = [row["latency_s"] for row in rows if row["method"].startswith("lsh") and row["recall10"] >= 0.9]
    brute = rows[0]["latency_s"]
    summary = {"lsh_latency_at_recall_90_s": min(good, default=None), "brute_force_s": brute,
               "speedup": brute / min(good) if good else None}  # fmt: skip
    return BenchResult({"features": FEATURES, "queries": queries, "k": K, "quick": quick}, rows, summary)


def _methods(weight: Tensor) -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    methods: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {"brute force": lambda: _brute(weight)}
    for family in ("sim", "fitted"):
        for probes, candidates in SETTINGS:
            name = f"lsh {family}, {probes} probes, {candidates} scored"
            methods[name] = functools.partial(_hashed, weight, family, probes, candidates)
    if importlib.util.find_spec("hnswlib"):
        methods["hnswlib, ef 40"] = lambda: _hnsw(weight)
    if importlib.util.find_spec("faiss"):
        methods["faiss IVF, 8 of 316 cells"] = lambda: _ivf(weight)
    return methods


def _brute(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x @ weight.T).topk(K, dim=1).indices


@functools.cache
def _loss(weight: Tensor, family: str) -> LSHSoftmaxLoss:
    import torch

    from thrifty.lsh import Hashing, LSHSoftmaxLoss

    hashing = Hashing(family=family, tables=TABLES, bits=int(math.log2(len(weight) / LOAD)))
    loss = LSHSoftmaxLoss(FEATURES, len(weight), bias=False, when="hashed", hashing=hashing).eval()
    with torch.no_grad():
        loss.weight.copy_(weight)
    loss.rebuild()
    return loss


def _hashed(weight: Tensor, family: str, probes: int, candidates: int) -> Callable[[Tensor], Tensor]:
    loss = _loss(weight, family)
    return lambda x: loss.topk(x, K, probes=probes, candidates=candidates)[1]


def _hnsw(weight: Tensor) -> Callable[[Tensor], Tensor]:
    import hnswlib
    import torch

    index = hnswlib.Index(space="ip", dim=FEATURES)
    index.init_index(max_elements=len(weight), M=16, ef_construction=100, random_seed=0)
    index.add_items(weight.numpy(), num_threads=torch.get_num_threads())
    index.set_ef(40)
    return lambda x: torch.from_numpy(index.knn_query(x.numpy(), k=K, num_threads=1)[0].astype("int64"))


def _ivf(weight: Tensor) -> Callable[[Tensor], Tensor]:
    import faiss
    import torch

    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(FEATURES), FEATURES, 316, faiss.METRIC_INNER_PRODUCT)
    index.train(weight.numpy())
    index.add(weight.numpy())
    index.nprobe = 8
    return lambda x: torch.from_numpy(index.search(x.numpy(), K)[1])


def _row(
    classes: int, name: str, ask: Callable[[Tensor], Tensor], x: Tensor, wanted: Tensor, built_s: float
) -> dict[str, Any]:
    seconds, found = [], 0
    ask(x[:1])
    for query, best in zip(x.split(1), wanted.tolist(), strict=True):
        start = time.perf_counter()
        ids = ask(query)
        seconds.append(time.perf_counter() - start)
        found += len(set(ids[0].tolist()) & set(best))
    return {
        "n": classes, "method": name, "recall10": found / (K * len(x)), "latency_s": statistics.median(seconds),
        "latency_min_s": min(seconds), "latency_max_s": max(seconds), "build_s": built_s,
    }  # fmt: skip
