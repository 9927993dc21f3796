"""The ten best classes of one query: brute force, hash tables with exact re-ranking, and an HNSW or IVF index beside
them.

`clusters`: weights around centres and queries near them. Recall is against brute force; latency is the median of single
queries. hnswlib and faiss are timed where they are installed; both search the same inner products. The settings of ours
that reach recall 0.9 at the least candidates are shown, and those around them.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

FEATURES, K = 128, 10
PROBES = (2, 8, 24)


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
        for probes in PROBES:
            methods[f"lsh {family}, {probes} probes"] = lambda f=family, p=probes: _hashed(weight, f, p)  # type: ignore[misc]
    if importlib.util.find_spec("hnswlib"):
        methods["hnswlib, ef 40"] = lambda: _hnsw(weight)
    if importlib.util.find_spec("faiss"):
        methods["faiss IVF, 8 of 316 cells"] = lambda: _ivf(weight)
    return methods


def _brute(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x @ weight.T).topk(K, dim=1).indices


def _hashed(weight: Tensor, family: str, probes: int) -> Callable[[Tensor], Tensor]:
    import torch

    from thrifty.lsh import Hashing, LSHSoftmaxLoss

    loss = LSHSoftmaxLoss(FEATURES, len(weight), bias=False, when="hashed", hashing=Hashing(family=family)).eval()
    with torch.no_grad():
        loss.weight.copy_(weight)
    loss.rebuild()
    return lambda x: loss.topk(x, K, probes=probes)[1]


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
