"""Multi-label classification of Delicious and Bibtex: a small network with LSHMultiLabelLoss, omikuji and napkinXC.

The standard splits, rows at length one. The network is features -> 500 -> 128 -> labels with a logistic loss. `dense`
is stock torch with fused Adam, `lsh` has LazyAdam and `LSHMultiLabelLoss`: with so few labels that chooses to compute
all of them by itself, so both should take the same time; the third arm forces hashing and shows what that costs.
omikuji (3 trees) and napkinXC (PLT and BR) run where they are installed.
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
ARMS = ("dense", "lsh", "lsh, forced")
BATCH, LEARNING_RATE = 128, 2e-3


@benchmark("lsh-xmc", "P@1, 3, 5 and seconds to fit on Delicious and Bibtex, beside omikuji and napkinXC")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Fit every arm on both sets."""
    from thrifty.data import read_xc
    from thrifty.data.locate import data_roots

    rows: list[dict[str, Any]] = []
    missing = [name for name in ("omikuji", "napkinxc") if not importlib.util.find_spec(name)]
    if missing:
        console.print(f"not installed, so left out: {', '.join(missing)} (the extra `rivals` brings them)")
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
        rows += [{"data": name, **row} for row in _networks(train, test, 2 if quick else epochs)]
        for method, fit in _peers(paths, test).items():
            rows.append({"data": name, "method": method, **_peer(fit, train, test)})
    summary = {
        name: {
            "p1_delta": _of(rows, name, "lsh")["p1"] - _of(rows, name, "dense")["p1"],
            "fit_speedup": _of(rows, name, "dense")["fit_s"] / _of(rows, name, "lsh")["fit_s"],
        }
        for name in SETS
    }
    settings = {"batch": BATCH, "epochs": SETS, "quick": quick, "left_out": missing}
    return BenchResult(settings, rows, summary)


def _of(rows: list[dict[str, Any]], data: str, method: str) -> dict[str, Any]:
    return next(row for row in rows if row["data"] == data and row["method"] == method)


class Network:
    """One arm: features -> 500 -> 128 -> labels, logistic loss. `dense` is stock torch with fused Adam; in the others
    LazyAdam trains an `LSHMultiLabelLoss`.
    """

    def __init__(self, arm: str, train: SparseRows) -> None:
        import torch
        from torch import nn

        from thrifty.lsh import LazyAdam, LSHMultiLabelLoss

        torch.manual_seed(0)
        self.train, self.stock, self.fit_s = train, arm == "dense", 0.0
        # Gradients of rows pay where a batch has few of the features; of these sets it has nearly all.
        few = BATCH * len(train.indices) < 0.5 * train.features * len(train)
        sparse = few and not self.stock
        self.bag = nn.EmbeddingBag(train.features, 500, mode="sum", include_last_offset=True, sparse=sparse)
        nn.init.normal_(self.bag.weight, std=0.1)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(500, 128), nn.ReLU())
        when = "hashed" if arm == "lsh, forced" else "auto"
        head = LSHMultiLabelLoss(128, train.classes, loss="bce", when=when, active=100, tail=100)
        self.head: Any = head
        if self.stock:
            self.head = nn.Linear(128, train.classes)
            self.head.load_state_dict(head.state_dict())
        model = nn.ModuleList([self.bag, self.body, self.head])
        self.optimizer: Any
        if self.stock:
            self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        else:
            self.optimizer = LazyAdam(model.parameters(), lr=LEARNING_RATE)
            self.optimizer.watch(model)
        self.source = torch.Generator().manual_seed(1)

    def epoch(self) -> None:
        """Train on all rows in a random order."""
        import torch

        from thrifty.lsh import SlowerThanDenseWarning

        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowerThanDenseWarning)
            for rows in torch.randperm(len(self.train), generator=self.source).split(BATCH):
                batch = self.train.pick(rows)
                self.optimizer.zero_grad()
                self._loss(batch).backward()
                self.optimizer.step()
        self.fit_s += time.perf_counter() - start

    def _hidden(self, batch: SparseRows) -> Tensor:
        hidden: Tensor = self.body(self.bag(batch.indices, batch.offsets, per_sample_weights=batch.values))
        return hidden

    def _loss(self, batch: SparseRows) -> Tensor:
        import torch

        hidden = self._hidden(batch)
        if not self.stock:
            loss: Tensor = self.head(hidden, batch.labels, batch.label_offsets)
            return loss
        rows = torch.repeat_interleave(torch.arange(len(hidden)), batch.label_offsets.diff())
        wanted = torch.zeros(len(hidden), self.train.classes)
        wanted[rows, batch.labels] = 1.0
        scores = self.head(hidden)
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum") / len(hidden)

    def best(self, test: SparseRows) -> Tensor:
        """The five best labels of every row."""
        import torch

        if not self.stock:
            self.optimizer.flush()
        with torch.no_grad():
            hidden = self._hidden(test)
            scores = self.head(hidden) if self.stock else self.head.scores(hidden)
            top: Tensor = scores.topk(5, dim=1).indices
        return top


def _networks(train: SparseRows, test: SparseRows, epochs: int) -> list[dict[str, Any]]:
    """The arms' rows; they train an epoch each in turn, so that a machine whose speed drifts treats them alike."""
    arms = {name: Network(name, train) for name in ARMS}
    for _ in range(epochs):
        for arm in arms.values():
            arm.epoch()
    return [{"method": name, **_quality(arm.best(test), train, test), "fit_s": arm.fit_s, "epochs": epochs}
            for name, arm in arms.items()]  # fmt: skip


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
