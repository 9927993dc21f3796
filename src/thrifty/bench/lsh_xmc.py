"""Multi-label classification of Delicious and Bibtex: a small network with LSHMultiLabelLoss, omikuji and napkinXC.

The standard splits, rows at length one. The network is features -> 500 -> 128 -> labels with a logistic loss,
LazyAdam. With so few labels the layer chooses to compute all of them by itself, so `dense` and `lsh` take the same
time; the third arm forces hashing and shows what that costs. omikuji (3 trees) and napkinXC (PLT and BR) run where
they are installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from thrifty.data import SparseRows

SETS = {"bibtex": 20, "delicious": 10}  # epochs
BATCH, LEARNING_RATE = 128, 2e-3


@benchmark("lsh-xmc", "P@1, 3, 5 and seconds to fit on Delicious and Bibtex, beside omikuji and napkinXC")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Fit every arm on both sets."""
    from thrifty.data import read_xc
    from thrifty.data.locate import data_roots

    rows: list[dict[str, Any]] = []
    for name, epochs in SETS.items():
        folder = next((root / "xmc-small" for root in data_roots(data_root) if (root / "xmc-small").is_dir()), None)
        if folder is None:
            from thrifty.core.errors import DataError

            raise DataError(
                "xmc-small is not below the data root: put NAME_train.txt.gz and NAME_test.txt.gz there, from the "
                "extreme classification repository, or name the root with --data-root"
            )
        paths = [folder / f"{name}_{split}.txt.gz" for split in ("train", "test")]
        train, test = (read_xc(path).normalised() for path in paths)
        console.print(f"{name}: {len(train):,} rows, {train.classes} labels")
        for arm in ("dense", "lsh", "lsh, forced"):
            rows.append({"data": name, "method": arm, **_network(arm, train, test, 2 if quick else epochs)})
        for method, fit in _peers(paths, test).items():
            rows.append({"data": name, "method": method, **_peer(fit, train, test)})
    summary = {
        name: {
            "p1_delta": _of(rows, name, "lsh")["p1"] - _of(rows, name, "dense")["p1"],
            "fit_speedup": _of(rows, name, "dense")["fit_s"] / _of(rows, name, "lsh")["fit_s"],
        }
        for name in SETS
    }
    return BenchResult({"batch": BATCH, "epochs": SETS, "quick": quick}, rows, summary)


def _of(rows: list[dict[str, Any]], data: str, method: str) -> dict[str, Any]:
    return next(row for row in rows if row["data"] == data and row["method"] == method)


def _network(arm: str, train: SparseRows, test: SparseRows, epochs: int) -> dict[str, Any]:
    import torch
    from torch import nn

    from thrifty.lsh import LazyAdam, LSHMultiLabelLoss, SlowerThanDenseWarning

    torch.manual_seed(0)
    bag = nn.EmbeddingBag(train.features, 500, mode="sum", include_last_offset=True, sparse=True)
    nn.init.normal_(bag.weight, std=0.1)
    body = nn.Sequential(nn.ReLU(), nn.Linear(500, 128), nn.ReLU())
    when = {"dense": "dense", "lsh": "auto", "lsh, forced": "hashed"}[arm]
    head = LSHMultiLabelLoss(128, train.classes, loss="bce", when=when, active=100, tail=100)
    model = nn.ModuleList([bag, body, head])
    optimizer = LazyAdam(model.parameters(), lr=LEARNING_RATE)
    optimizer.watch(model)
    source = torch.Generator().manual_seed(1)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanDenseWarning)
        for _ in range(epochs):
            for rows in torch.randperm(len(train), generator=source).split(BATCH):
                batch = train.pick(rows)
                optimizer.zero_grad()
                hidden = body(bag(batch.indices, batch.offsets, per_sample_weights=batch.values))
                head(hidden, batch.labels, batch.label_offsets).backward()
                optimizer.step()
    fit_s = time.perf_counter() - start
    optimizer.flush()
    with torch.no_grad():
        hidden = body(bag(test.indices, test.offsets, per_sample_weights=test.values))
        top = head.scores(hidden).topk(5, dim=1).indices
    return {**_quality(top, train, test), "fit_s": fit_s, "epochs": epochs}


def _quality(top: Tensor, train: SparseRows, test: SparseRows) -> dict[str, float]:
    """P@k, PSP@k and nDCG@k in percent of the rows that have labels."""
    from thrifty.data.ranking import Ranking, propensities

    ranking, propensity = Ranking(top, test), propensities(train.labels, train.classes, len(train))
    return {
        **{f"p{k}": 100 * ranking.precision(k) for k in (1, 3, 5)},
        **{f"psp{k}": 100 * ranking.psp(k, propensity) for k in (1, 3, 5)},
        "ndcg5": 100 * ranking.ndcg(5),
    }


def _peers(paths: list[Path], test: SparseRows) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if importlib.util.find_spec("napkinxc"):
        found["napkinXC PLT"] = lambda: _napkin(paths, "PLT")
        found["napkinXC BR"] = lambda: _napkin(paths, "BR")
    if importlib.util.find_spec("omikuji"):
        found["omikuji"] = lambda: _omikuji(paths, test)
    return found


def _peer(fit: Any, train: SparseRows, test: SparseRows) -> dict[str, Any]:
    import torch

    predicted, fit_s = fit()
    top = torch.full((len(test), 5), -1, dtype=torch.int64)
    for row, labels in enumerate(predicted):
        top[row, : len(labels[:5])] = torch.tensor(labels[:5], dtype=torch.int64)
    return {**_quality(top, train, test), "fit_s": fit_s, "epochs": None}


def _napkin(paths: list[Path], kind: str) -> tuple[list[list[int]], float]:
    import gzip
    import shutil

    from napkinxc.datasets import load_libsvm_file
    from napkinxc.models import BR, PLT

    with tempfile.TemporaryDirectory() as folder:
        plain = []
        for path in paths:
            plain.append(Path(folder) / path.stem)
            with gzip.open(path) as packed, plain[-1].open("wb") as file:
                shutil.copyfileobj(packed, file)
        (x, y), (x_test, _) = (load_libsvm_file(str(path), labels_format="list") for path in plain)
        model = {"PLT": PLT, "BR": BR}[kind](str(Path(folder) / "model"), seed=0)
        start = time.perf_counter()
        model.fit(x, y)
        fit_s = time.perf_counter() - start
        return [list(labels) for labels in model.predict(x_test, top_k=5)], fit_s


def _omikuji(paths: list[Path], test: SparseRows) -> tuple[list[list[int]], float]:
    import gzip
    import shutil

    import omikuji
    import torch

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / paths[0].stem
        with gzip.open(paths[0]) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        settings = omikuji.Model.default_hyper_param()
        start = time.perf_counter()
        model = omikuji.Model.train_on_data(str(plain), settings, torch.get_num_threads())
        fit_s = time.perf_counter() - start
        answers = []
        for row in range(len(test)):
            span = slice(int(test.offsets[row]), int(test.offsets[row + 1]))
            pairs = list(zip(test.indices[span].tolist(), test.values[span].tolist(), strict=True))
            answers.append([label for label, _ in model.predict(pairs, top_k=5)])
    return answers, fit_s
