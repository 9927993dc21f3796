"""Hidden layers of 1,000 neurons of which few are computed: hashing against dropout, adaptive dropout, winner-take-all.

Source of the experiment: Spring & Shrivastava, KDD 2017. Fashion-MNIST; one, two and three hidden layers; the share of
active neurons is the same in training and test.

dense: all neurons. dropout: random ones (scaled; the test is dense). adaptive: a neuron is kept with the probability
sigmoid(a z + b), b set so that the share comes out (Ba & Frey, 2013). wta: the largest. lsh: those in the input's
buckets (`LSH(mode="each")`). `macs` are multiply-adds a training row in the hidden layers, hashing and its upkeep
counted. Adaptive dropout and winner-take-all compute every neuron before they choose, so they save nothing. Deeper
hashed networks lose more, and the wall clock loses to dense at this width: shown, not hidden.
"""

from __future__ import annotations

import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from thrifty.data import ImageData

WIDTH, BATCH = 1000, 64
SHARES = (0.05, 0.1, 0.25, 0.5)
METHODS = ("dropout", "adaptive", "wta", "lsh")


@benchmark("lsh-kdd17", "1 to 3 hidden layers of 1,000 neurons, 5 to 50 % active: hashing, dropout, winner-take-all")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Train every network from the same start on the same batches."""
    data = _load(data_root, quick)
    depths, shares, epochs = ((1,), SHARES[:1], 1) if quick else ((1, 2, 3), SHARES, 5)
    rows = []
    for layers in depths:
        dense = _train(data, layers, "dense", 1.0, epochs)
        rows.append(dense)
        for share in shares:
            for method in METHODS:
                row = _train(data, layers, method, share, epochs)
                rows.append(row)
                console.print(
                    f"{layers} layers, {method} {share:.0%}: {row['accuracy']:.4f} (dense {dense['accuracy']:.4f})"
                )
    summary = {}
    for layers in depths:
        of = {(row["method"], row["active"]): row for row in rows if row["layers"] == layers}
        ours, dense = of["lsh", shares[0]], of["dense", 1.0]
        summary[f"{layers} hidden"] = {
            "accuracy_delta": ours["accuracy"] - dense["accuracy"], "macs_saved": 1 - ours["macs"] / dense["macs"],
            "train_speedup": dense["train_s"] / ours["train_s"],
        }  # fmt: skip
    settings = {"width": WIDTH, "batch": BATCH, "epochs": epochs, "quick": quick, "data": data.source}
    return BenchResult(settings, rows, summary)


def _load(data_root: Path | None, quick: bool) -> ImageData:
    """Fashion-MNIST where it is found, else the slice of it that comes with the package."""
    from thrifty.core.errors import DataError
    from thrifty.data import load_images

    limits: dict[str, Any] = {"limit_train": 4000, "limit_test": 1000} if quick else {}
    try:
        return load_images("fashion-mnist", root=data_root, download=False, **limits)
    except DataError:
        if data_root is not None:
            raise  # whoever names a folder wants what is in it
        return load_images("fashion-mnist-slice", **limits)


def _train(data: ImageData, layers: int, method: str, share: float, epochs: int) -> dict[str, Any]:
    import torch
    from torch import nn

    import thrifty
    from thrifty.lsh import LSH, SlowerThanDenseWarning

    torch.manual_seed(0)
    sizes = [data.train.images[0].numel()] + [WIDTH] * layers
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out), _choice(method, share)]
    model = nn.Sequential(*parts, nn.Linear(WIDTH, len(data.classes)))
    applied = None
    if method == "lsh":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowerThanDenseWarning)
            names = tuple(str(2 * i) for i in range(layers))
            applied = thrifty.apply_(model, [LSH(layers=names, active=share * 0.95, batch=BATCH, force=True)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = _flat(data.train.images), data.train.labels
    source = torch.Generator().manual_seed(1)
    start = time.perf_counter()
    steps = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=source).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            steps += len(rows)
    train_s = time.perf_counter() - start
    dense_macs = sum(a * b * (2 if i == 0 else 3) for i, (a, b) in enumerate(pairwise(sizes)))
    saves = {"dense": 1.0, "dropout": share, "adaptive": 1.0, "wta": 1.0, "lsh": share}[method]
    macs = dense_macs * saves
    if applied is not None:
        macs = sum(counters.macs for counters in applied.counters().values()) / steps
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in _flat(data.test.images).split(500)])
    accuracy = float((answers == data.test.labels).float().mean())
    return {"data": data.name, "layers": layers, "method": method, "active": share, "accuracy": accuracy, "macs": macs,
            "dense_macs": dense_macs, "train_s": train_s}  # fmt: skip


def _flat(images: Tensor) -> Tensor:
    return images.reshape(len(images), -1).float().div_(255)


def _choice(method: str, share: float) -> nn.Module:
    import torch
    from torch import nn

    class Adaptive(nn.Module):
        """ReLU, and a neuron kept by the sigmoid of its score."""

        def forward(self, z: Tensor) -> Tensor:
            keep = torch.sigmoid(z.detach())
            keep = (keep * share / keep.mean().clamp(min=1e-6)).clamp(max=1)
            if self.training:
                return torch.relu(z) * (torch.rand_like(z) < keep)
            return torch.relu(z) * keep

    class Winners(nn.Module):
        """ReLU of the largest scores of a row."""

        def forward(self, z: Tensor) -> Tensor:
            least = z.topk(max(1, int(share * z.shape[1])), dim=1).values[:, -1:]
            return torch.relu(z) * (z >= least)

    if method == "dropout":
        return nn.Sequential(nn.ReLU(), nn.Dropout(1 - share))
    return {"adaptive": Adaptive, "wta": Winners}.get(method, nn.ReLU)()
